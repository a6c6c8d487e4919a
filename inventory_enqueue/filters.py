"""Which objects are sent at all: pure conditions on a row, as one polars expression.

Filters never touch the diff: an index holds the whole delivery, and remembers of each row whether it was admitted.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import polars as pl

# Objects of these classes and tiers must be restored before they can be read, so a worker could do nothing with them.
# GLACIER_IR and ARCHIVE_INSTANT_ACCESS can be read at once.
# https://docs.aws.amazon.com/AmazonS3/latest/userguide/archived-objects.html
_ARCHIVE_CLASSES = ("GLACIER", "DEEP_ARCHIVE")
_ARCHIVE_TIERS = ("ARCHIVE", "ARCHIVE_ACCESS", "DEEP_ARCHIVE", "DEEP_ARCHIVE_ACCESS")


@dataclass(frozen=True)
class Filters:
    """The conditions of a run."""

    include_archived: bool = False

    def columns(self) -> tuple[str, ...]:
        """The columns of schema.OBJECT_SCHEMA that admitted() looks at."""
        return () if self.include_archived else ("storage_class", "intelligent_tiering_access_tier")

    def admitted(self) -> pl.Expr:
        """A boolean expression without nulls: whether a row is admitted."""
        return pl.lit(value=True) if self.include_archived else ~_archived()

    def to_json(self) -> dict[str, Any]:
        """As run.json and baseline.json hold it; equal documents admit the same rows."""
        return asdict(self)


def _archived() -> pl.Expr:
    archived = pl.col("storage_class").is_in(_ARCHIVE_CLASSES)
    tiered = pl.col("intelligent_tiering_access_tier").is_in(_ARCHIVE_TIERS)
    return archived.fill_null(value=False) | tiered.fill_null(value=False)


LIVE_COLUMNS = ("is_latest", "is_delete_marker")


def live(present: Iterable[str]) -> pl.Expr:
    """Whether a row is a live object: the latest version and no delete marker; any row if versions aren't listed."""
    if "is_latest" not in frozenset(present):
        return pl.lit(value=True)
    return pl.col("is_latest").fill_null(value=False) & ~pl.col("is_delete_marker").fill_null(value=False)
