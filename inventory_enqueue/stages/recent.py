"""Rows that were modified of late, kept in scratch space by the index stage: nearly all candidates are among them.

What is new or changed since the previous delivery was nearly always modified since then. These rows are written down
in full while the delivery is read anyway, so that its files needn't be read, or downloaded, a second time. It is a
guess that costs nothing when it is wrong: a candidate that isn't here is read back from its file.
"""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import polars as pl
import pyarrow as pa

from inventory_enqueue.arrow import one_batch
from inventory_enqueue.fingerprints import admitted, position
from inventory_enqueue.messages import MESSAGE_COLUMNS
from inventory_enqueue.run import Run
from inventory_enqueue.schema import OBJECT_SCHEMA

LATE: Final = timedelta(days=7)
"""A key that is new but was last modified longer than this before the previous delivery has reappeared: a multipart
upload can carry the date of its start, and an upload lasts at most so long in practice."""

ROWS_SCHEMA: Final = pa.schema([*(OBJECT_SCHEMA.field(name) for name in MESSAGE_COLUMNS), pa.field("row", pa.uint64())])
"""Rows in full, with their position in the delivery."""

_ALWAYS_KEPT: Final = 100_000
_LARGEST_SHARE: Final = 0.125
"""Of a batch's rows. Where more of them are recent, the bucket is young: to write them all costs more than to read."""


class RecentRows:
    """Takes the rows of one index task."""

    def __init__(self, run: Run, number: int) -> None:
        """Makes the file, where rows can be recent: the run sends, and has something to compare with."""
        self._since = None
        self._seen = self._kept = 0
        if run.previous is not None and run.selected_changes and number < len(run.plan.batches):
            self._since = run.previous.manifest.creation_timestamp - LATE
            self._target = recent_path(run, number)
            self._target.parent.mkdir(parents=True, exist_ok=True)
            self._part = self._target.with_suffix(".part")
            self._writer = pa.ipc.new_file(str(self._part), ROWS_SCHEMA)

    def add(self, rows: pl.DataFrame) -> None:
        """Keeps those of some rows that are admitted and recent.

        Args:
            rows: MESSAGE_COLUMNS, and row with its admitted bit.
        """
        if self._since is None:
            return
        recent = rows.filter(admitted() & (pl.col("last_modified_date") >= self._since))
        self._seen += rows.height
        self._kept += recent.height
        if self._kept > max(_ALWAYS_KEPT, _LARGEST_SHARE * self._seen):
            self._give_up()
        elif recent.height:
            self._writer.write_batch(one_batch(recent.select(*MESSAGE_COLUMNS, position().alias("row")), ROWS_SCHEMA))

    def _give_up(self) -> None:
        self._since = None
        self._writer.close()
        self._part.unlink()

    def __enter__(self) -> Self:
        """The file, open."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Completes the file."""
        if self._since is not None:
            self._writer.close()
            self._part.replace(self._target)


def recent_path(run: Run, number: int) -> Path:
    """Where an index task leaves its recent rows."""
    return run.scratch / "recent" / f"{number:05d}.arrow"


def read_recent(run: Run, number: int) -> Iterator[pl.DataFrame]:
    """Streams the recent rows of a batch, by position: ROWS_SCHEMA. None, where there is no such file."""
    path = recent_path(run, number)
    if path.is_file():
        yield from read_rows_file(path)


def read_rows_file(path: Path, first: int = 0) -> Iterator[pl.DataFrame]:
    """Streams the record batches of a scratch file, from a number on."""
    with pa.memory_map(str(path)) as file, pa.ipc.open_file(file) as reader:
        for number in range(first, reader.num_record_batches):
            frame = pl.from_arrow(reader.get_batch(number))
            assert isinstance(frame, pl.DataFrame)  # noqa: S101 - from_arrow's type also covers a single column
            yield frame
