"""Which objects are sent at all: pure conditions on a row, as one polars expression.

Filters never touch the diff: an index holds the whole delivery, and remembers of each row whether it was admitted.
"""

from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any

import polars as pl

from inventory_enqueue.fingerprints import Versions

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
