"""What a chain of runs must send and count, in plain Python: the definitions, with none of the program's code."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

CONTENT: Final = ("e_tag", "size")
VERSIONS: Final = ("version_id", "is_latest", "is_delete_marker")
OPTIONAL: Final = ("size", "last_modified_date", "e_tag", "storage_class", "intelligent_tiering_access_tier")

_HOURS: Final = {"h": 1, "d": 24}


@dataclass(frozen=True)
class Entry:
    """A row of an inventory."""

    key: str
    version_id: str | None
    is_latest: bool | None
    is_delete_marker: bool | None
    size: int | None
    last_modified_date: datetime | None
    e_tag: str | None
    storage_class: str | None
    intelligent_tiering_access_tier: str | None


@dataclass(frozen=True)
class Listing:
    """A delivery."""

    created: datetime
    columns: tuple[str, ...]
    """Beside bucket and key."""
    files: tuple[tuple[tuple[Entry, ...], ...], ...]
    """Rows by file and by group."""
    folder: str | None = None
    """The prefix of its own files, if they lie in the bucket that is listed: these are no news."""

    @property
    def lists_versions(self) -> bool:
        return "is_latest" in self.columns

    def rows(self) -> list[tuple[tuple[int, int], Entry]]:
        """Each row as its file tells it, after the number of the file and its own in that."""
        return [
            ((number, position), self._told(entry))
            for number, groups in enumerate(self.files)
            for position, entry in enumerate(entry for group in groups for entry in group)
        ]

    def _told(self, entry: Entry) -> Entry:
        told = Entry(**{**vars(entry), **{name: None for name in (*VERSIONS, *OPTIONAL) if name not in self.columns}})
        return replace(told, version_id=None) if told.version_id in {"", "null"} else told


@dataclass(frozen=True)
class Rules:
    """A user's filters."""

    prefix: str = ""
    suffix: str = ""
    patterns: tuple[tuple[bool, str], ...] = ()
    """Whether a glob includes, and the glob."""
    min_size: int | None = None
    max_size: int | None = None
    modified_after: str | None = None
    modified_before: str | None = None
    storage_classes: tuple[str, ...] = ()
    exclude_storage_classes: tuple[str, ...] = ()
    include_archived: bool = False

    def admit(self, entry: Entry, now: datetime) -> bool:
        return (
            self._admit_key(entry.key)
            and self._admit_size(entry.size)
            and self._admit_class(entry)
            and self._admit_date(entry.last_modified_date, now)
        )

    def _admit_key(self, key: str) -> bool:
        verdict = not (self.patterns and self.patterns[0][0])
        for include, glob in self.patterns:
            if fnmatchcase(key, glob):
                verdict = include
        return verdict and key.startswith(self.prefix) and key.endswith(self.suffix)

    def _admit_size(self, size: int | None) -> bool:
        if self.min_size is not None and (size is None or size < self.min_size):
            return False
        return not (self.max_size is not None and (size is None or size > self.max_size))

    def _admit_class(self, entry: Entry) -> bool:
        storage_class = "STANDARD" if entry.storage_class is None else entry.storage_class
        tier = entry.intelligent_tiering_access_tier or ""
        archived = storage_class in {"GLACIER", "DEEP_ARCHIVE"} or tier.removesuffix("_ACCESS") in {
            "ARCHIVE",
            "DEEP_ARCHIVE",
        }
        if archived and not self.include_archived:
            return False
        if self.storage_classes and storage_class not in self.storage_classes:
            return False
        return storage_class not in self.exclude_storage_classes

    def _admit_date(self, modified: datetime | None, now: datetime) -> bool:
        if self.modified_after is not None and (modified is None or modified <= _moment(self.modified_after, now)):
            return False
        return not (
            self.modified_before is not None and (modified is None or modified >= _moment(self.modified_before, now))
        )


def _moment(text: str, now: datetime) -> datetime:
    if text[-1] in _HOURS:
        return now - timedelta(hours=int(text[:-1]) * _HOURS[text[-1]])
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@dataclass(frozen=True)
class Seen:
    """A row that counts."""

    identity: tuple[str, str | None]
    content: tuple[str, int | None]
    admitted: bool
    position: tuple[int, int]
    entry: Entry


@dataclass(frozen=True)
class Scope:
    """How rows are looked at."""

    all_versions: bool
    content: tuple[str, ...] = CONTENT

    def live(self, listing: Listing) -> list[tuple[tuple[int, int], Entry]]:
        return [(position, entry) for position, entry in listing.rows() if self._is_live(listing, entry)]

    def _is_live(self, listing: Listing, entry: Entry) -> bool:
        if not listing.lists_versions:
            return True
        return not entry.is_delete_marker and (self.all_versions or bool(entry.is_latest))

    def see(self, listing: Listing, rules: Rules, now: datetime) -> list[Seen]:
        return [
            Seen(
                identity=(entry.key, entry.version_id if self.all_versions else None),
                content=(
                    (entry.e_tag or "") if "e_tag" in self.content else "",
                    entry.size if "size" in self.content else None,
                ),
                admitted=rules.admit(entry, now),
                position=position,
                entry=entry,
            )
            for position, entry in self.live(listing)
            if listing.folder is None or not entry.key.startswith(listing.folder)
        ]


NEW, CHANGED, NEWLY_ADMITTED, DELETED = "new", "changed", "newly_admitted", "deleted"


@dataclass(frozen=True)
class Comparison:
    """What became of each identity."""

    found: list[tuple[str, Seen]]
    """One an identity that isn't unchanged: what happened, and the row that tells of it."""
    counts: Counter[str]


def compare(today: Iterable[Seen], before: Iterable[Seen]) -> Comparison:
    now, then = _by_identity(today), _by_identity(before)
    found = [(DELETED, _last(rows)) for identity, rows in then.items() if identity not in now]
    unchanged = 0
    for identity, rows in now.items():
        known = then.get(identity)
        unknown = [row for row in rows if row.content not in {old.content for old in known or ()}]
        if known is None:
            found.append((NEW, _last(rows)))
        elif any(row.admitted for row in rows) and not any(row.admitted for row in known):
            found.append((NEWLY_ADMITTED, _last(rows)))
        elif unknown:
            found.append((CHANGED, _last(unknown)))
        else:
            unchanged += 1
    counts = Counter(change for change, _ in found)
    counts.update(unchanged=unchanged, duplicates=sum(map(len, now.values())) - len(now))
    return Comparison(found, counts)


def _by_identity(rows: Iterable[Seen]) -> dict[tuple[str, str | None], list[Seen]]:
    groups: dict[tuple[str, str | None], list[Seen]] = defaultdict(list)
    for row in rows:
        groups[row.identity].append(row)
    return dict(groups)


def _last(rows: Iterable[Seen]) -> Seen:
    return max(rows, key=lambda row: (row.admitted, row.position))


@dataclass(frozen=True)
class Order:
    """A day's command."""

    now: datetime
    rules: Rules
    changes: frozenset[str]
    send_admitted: bool
    seeds: bool
    """As long as there is nothing to compare with."""


Message = tuple[str, str, str | None, int | None, str, datetime | None]
"""change, key, version, size, e_tag and date."""


@dataclass(frozen=True)
class Expected:
    """What a run must do."""

    found: list[tuple[str, Seen]]
    messages: Counter[Message]
    counts: dict[str, int]


@dataclass(frozen=True)
class _Baseline:
    listing: Listing
    order: Order
    index: list[Seen] | None
    """None, if it was lost."""
    content: tuple[str, ...]


class Oracle:
    """A pipeline's state, and what its runs must do."""

    def __init__(self, *, all_versions: bool) -> None:
        self._all_versions = all_versions
        self._baseline: _Baseline | None = None

    @property
    def has_baseline(self) -> bool:
        return self._baseline is not None

    def lose_index(self) -> None:
        if self._baseline is not None:
            self._baseline = replace(self._baseline, index=None)

    def run(self, order: Order, today: Listing, previous: Listing | None = None) -> Expected | None:
        """Carry a run out; None, if it must be refused."""
        baseline = None if previous is not None else self._baseline
        scope = Scope(self._all_versions)
        known_content: tuple[str, ...] | None = None
        before: list[Seen] = []
        if previous is not None:
            scope = replace(scope, content=_both(today, previous))
            before = scope.see(previous, order.rules, order.now - (today.created - previous.created))
        elif baseline is not None and baseline.index is not None:
            before, known_content = baseline.index, baseline.content
        elif baseline is not None:
            scope = replace(scope, content=_both(today, baseline.listing))
            before = scope.see(baseline.listing, baseline.order.rules, baseline.order.now)
        content = _told(scope.content, today.columns)
        if not today.files and known_content is not None:
            content = known_content
        seeds = order.seeds and previous is None and baseline is None
        changes = frozenset[str]() if seeds else order.changes
        if known_content is not None and known_content != content and CHANGED in changes:
            return None
        ours = scope.see(today, order.rules, order.now)
        comparison = compare(ours, before)
        sends = set(changes)
        if NEW in changes and (baseline is None or baseline.order.rules == order.rules or order.send_admitted):
            sends.add(NEWLY_ADMITTED)
        messages = Counter(
            self._message(change, row.entry) for change, row in comparison.found if row.admitted and change in sends
        )
        self._baseline = _Baseline(today, order, ours, content)
        listed, live = len(today.rows()), len(scope.live(today))
        names = (NEW, CHANGED, NEWLY_ADMITTED, DELETED, "unchanged", "duplicates")
        return Expected(
            comparison.found,
            messages,
            {
                **{name: comparison.counts[name] for name in names},
                "listed": listed,
                "not_live": listed - live,
                "excluded": live - len(ours),
                "selected": messages.total(),
            },
        )

    def _message(self, change: str, entry: Entry) -> Message:
        version = entry.version_id
        if self._all_versions and version is None:
            version = "null"
        told = NEW if change == NEWLY_ADMITTED else change
        return told, entry.key, version, entry.size, entry.e_tag or "", entry.last_modified_date


def _both(one: Listing, other: Listing) -> tuple[str, ...]:
    return _told(_told(CONTENT, one.columns), other.columns)


def _told(names: Iterable[str], columns: Collection[str]) -> tuple[str, ...]:
    return tuple(name for name in names if name in columns)
