"""Which objects are sent at all: pure conditions on a row, as polars expressions.

Filters never touch the diff: an index holds the whole delivery, and remembers of each row whether it was admitted.
"""

import json
import re
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import polars as pl

from inventory_enqueue.fingerprints import Versions

# Objects of these classes and tiers must be restored before they can be read, so a worker could do nothing with them.
# GLACIER_IR and ARCHIVE_INSTANT_ACCESS can be read at once.
# https://docs.aws.amazon.com/AmazonS3/latest/userguide/archived-objects.html
_ARCHIVE_CLASSES = ("GLACIER", "DEEP_ARCHIVE")
_ARCHIVE_TIERS = ("ARCHIVE", "ARCHIVE_ACCESS", "DEEP_ARCHIVE", "DEEP_ARCHIVE_ACCESS")

_AGE: Final = re.compile(r"(\d+(?:\.\d+)?)(s|m|h|d|w)")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


@dataclass(frozen=True)
class Pattern:
    """A glob on the whole key: `*` matches any characters, `/` too, `?` one, `[a-z]` one of a set, `[!a-z]` another."""

    glob: str
    include: bool

    def matches(self) -> pl.Expr:
        """Whether the key matches."""
        return pl.col("key").str.contains(_regex(self.glob))


@dataclass(frozen=True)
class Moment:
    """A moment as the user wrote it: a date, a time, or an age such as 36h, counted back from the start of the run."""

    text: str

    def __post_init__(self) -> None:
        """Checks the text.

        Raises:
            ValueError: It is none of these.
        """
        self.at(datetime.now(tz=UTC))

    def at(self, now: datetime) -> datetime:
        """The moment, in UTC where the text names no zone."""
        age = _AGE.fullmatch(self.text)
        if age is not None:
            return now - timedelta(seconds=float(age[1]) * _SECONDS[age[2]])
        try:
            moment = datetime.fromisoformat(self.text)
        except ValueError:
            raise ValueError(f"{self.text!r}: a date, a time (ISO 8601) or an age such as 36h was expected") from None
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


@dataclass(frozen=True)
class Filters:
    """The conditions of a run. All must hold."""

    prefix: str = ""
    suffix: str = ""
    patterns: tuple[Pattern, ...] = ()
    """Includes and excludes in the user's order; the last one that matches a key decides. A key that none matches is
    admitted, unless the first pattern is an include."""
    min_size: int | None = None
    """Bytes."""
    max_size: int | None = None
    """Bytes."""
    modified_after: Moment | None = None
    modified_before: Moment | None = None
    storage_classes: tuple[str, ...] = ()
    """Only these; all, where there is none."""
    exclude_storage_classes: tuple[str, ...] = ()
    include_archived: bool = False

    def conditions(self, now: datetime) -> dict[str, pl.Expr]:
        """What a row must fulfil, by the name of its count: booleans without nulls.

        Args:
            now: What ages are counted back from: the start of the run, so that a resume decides as before.
        """
        return {name: condition.fill_null(value=False) for name, condition in self._conditions(now)}

    def columns(self) -> tuple[str, ...]:
        """The columns of schema.OBJECT_SCHEMA that the conditions look at."""
        names = (
            name for _, condition in self._conditions(datetime.now(tz=UTC)) for name in condition.meta.root_names()
        )
        return tuple(dict.fromkeys(names))

    def _conditions(self, now: datetime) -> Iterator[tuple[str, pl.Expr]]:
        yield from self._of_key()
        yield from self._of_object()
        if self.modified_after is not None:
            yield "modified_after", pl.col("last_modified_date") > self.modified_after.at(now)
        if self.modified_before is not None:
            yield "modified_before", pl.col("last_modified_date") < self.modified_before.at(now)

    def _of_key(self) -> Iterator[tuple[str, pl.Expr]]:
        if self.prefix:
            yield "prefix", pl.col("key").str.starts_with(self.prefix)
        if self.suffix:
            yield "suffix", pl.col("key").str.ends_with(self.suffix)
        if self.patterns:
            yield "pattern", self._patterns()

    def _of_object(self) -> Iterator[tuple[str, pl.Expr]]:
        if not self.include_archived:
            yield "archived", ~_archived()
        if self.min_size is not None:
            yield "min_size", pl.col("size") >= self.min_size
        if self.max_size is not None:
            yield "max_size", pl.col("size") <= self.max_size
        if self.storage_classes:
            yield "storage_class", _storage_class().is_in(self.storage_classes)
        if self.exclude_storage_classes:
            yield "exclude_storage_class", ~_storage_class().is_in(self.exclude_storage_classes)

    def _patterns(self) -> pl.Expr:
        verdict = pl.lit(not self.patterns[0].include)
        for pattern in self.patterns:
            verdict = pl.when(pattern.matches()).then(pl.lit(pattern.include)).otherwise(verdict)
        return verdict

    def to_json(self) -> dict[str, Any]:
        """As run.json and baseline.json hold it: the same filter has the same document, ages as they were written."""
        document: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return document

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> "Filters":
        """Reads what to_json wrote."""
        moments = {name: document[name] and Moment(**document[name]) for name in ("modified_after", "modified_before")}
        lists = {name: tuple(document[name]) for name in ("storage_classes", "exclude_storage_classes")}
        patterns = tuple(Pattern(**pattern) for pattern in document["patterns"])
        return cls(**{**document, **moments, **lists, "patterns": patterns})


def _regex(glob: str) -> str:
    """A glob, read as Python's fnmatch reads it, as a regular expression of Rust's syntax."""
    parts = []
    position = 0
    while position < len(glob):
        character = glob[position]
        end = _end_of_set(glob, position) if character == "[" else -1
        if end >= 0:
            parts.append(_set(glob[position + 1 : end]))
            position = end
        else:
            parts.append({"*": ".*", "?": "."}.get(character) or _literal(character))
        position += 1
    return f"(?s)^{''.join(parts)}$"


def _end_of_set(glob: str, start: int) -> int:
    """Where the set that begins here ends, or -1: then its bracket is a bracket. A set's first character may be one."""
    first = start + 1 + glob.startswith("!", start + 1)
    return glob.find("]", first + 1)


def _set(content: str) -> str:
    negated = content.startswith("!")
    characters = content[1:] if negated else content
    items = []
    position = 0
    while position < len(characters):
        low = high = characters[position]
        if characters[position + 1 : position + 2] == "-" and position + 2 < len(characters):
            high = characters[position + 2]
            position += 2
        if low <= high:
            items.append(f"{_literal(low)}-{_literal(high)}")
        position += 1
    if not items:
        return "." if negated else "[a&&b]"
    return f"[{'^' if negated else ''}{''.join(items)}]"


def _literal(character: str) -> str:
    return f"\\x{{{ord(character):X}}}"


def _storage_class() -> pl.Expr:
    """An inventory that leaves the class of STANDARD objects empty means STANDARD."""
    return pl.col("storage_class").fill_null("STANDARD")


def _archived() -> pl.Expr:
    archived = pl.col("storage_class").is_in(_ARCHIVE_CLASSES)
    tiered = pl.col("intelligent_tiering_access_tier").is_in(_ARCHIVE_TIERS)
    return archived.fill_null(value=False) | tiered.fill_null(value=False)


VERSION_COLUMNS = ("is_latest", "is_delete_marker")


def listed(versions: Versions, present: Collection[str]) -> pl.Expr:
    """Whether a row counts at all: a live object, or with all versions any that is no delete marker.

    Args:
        versions: What an identity is.
        present: The file's columns: where versions aren't listed, every row is a live object.
    """
    if "is_delete_marker" not in present:
        return pl.lit(value=True)
    object_ = ~pl.col("is_delete_marker").fill_null(value=False)
    return object_ & pl.col("is_latest").fill_null(value=False) if versions is Versions.CURRENT else object_
