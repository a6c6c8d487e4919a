"""Parquet data files: by row group where these are of a size that can be held, else streamed page by page."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from inventory_enqueue.delivery.formats import BATCH_ROWS, pages, unique
from inventory_enqueue.delivery.formats.footer import BYTE_ARRAY, ColumnChunk, read_metadata

_BUFFER: Final = 1024 * 1024
"""Bytes read ahead of each column: column chunks are streamed, never held whole."""

_REPEATED: Final = ["bucket", "storage_class", "intelligent_tiering_access_tier"]
"""Columns of few values, kept as dictionaries: a value is looked at once a batch."""


_VIEW: Final = 16
"""Bytes that polars holds for a text beside its characters."""


@dataclass(frozen=True)
class RowGroup:
    """A part of a file."""

    number: int
    first: int
    """Its first row's position in the file."""
    rows: int
    decoded: int
    """Bytes that the columns asked for take in memory."""
    chunks: tuple[ColumnChunk, ...]
    """Of the columns asked for."""


class ParquetSource:
    """An open Parquet file."""

    keys_are_encoded = False

    def __init__(self, path: Path) -> None:
        """Opens the file and reads its footer.

        Raises:
            pa.ArrowException, OSError, UnicodeDecodeError: It can't be read.
        """
        self._path = path
        self._footer = read_metadata(path)  # before pyarrow does
        self.rows = self._footer.num_rows
        metadata = pq.read_metadata(path)
        self.columns = unique(metadata.schema.to_arrow_schema().names, source="its footer")
        flat = {leaf.column for leaf in self._footer.leaves if len(leaf.path) == 1}
        self._file = pq.ParquetFile(
            path,
            metadata=metadata,
            read_dictionary=[name for name in _REPEATED if name in flat],
            buffer_size=_BUFFER,
            pre_buffer=False,
        )

    def batches(self, columns: Collection[str], group: RowGroup | None = None) -> Iterator[pa.RecordBatch]:
        """Streams these columns of a row group, or of all of them, whatever their size."""
        groups = range(len(self._footer.row_groups)) if group is None else [group.number]
        batches = self._file.iter_batches(BATCH_ROWS, columns=list(columns), row_groups=list(groups), use_threads=False)
        return map(_without_views, batches)

    def row_groups(self, columns: Collection[str]) -> Iterator[RowGroup]:
        """The parts of the file, in order."""
        first = 0
        for number, group in enumerate(self._footer.row_groups):
            chunks = tuple(chunk for chunk in group.columns if chunk.leaf.column in columns)
            views = sum(chunk.leaf.physical_type == BYTE_ARRAY for chunk in chunks) * _VIEW * group.num_rows
            decoded = sum(chunk.total_uncompressed_size for chunk in chunks) + views
            yield RowGroup(number, first, group.num_rows, decoded, chunks)
            first += group.num_rows

    def read(self, columns: Collection[str], group: RowGroup) -> pl.DataFrame | None:
        """A row group, by polars: in half the time that pyarrow takes, as it doesn't copy texts.

        Returns:
            The columns in the file's types; None where polars can't tell what they hold (text that is no UTF-8, say),
            or would trust page headers that contradict the footer.
        """
        if not pages.are_sound(self._path, group.chunks, group.rows):
            return None
        file = pl.scan_parquet(self._path, glob=False, hive_partitioning=False, use_statistics=False, cache=False)
        try:
            return file.slice(group.first, group.rows).select(columns).collect(engine="in-memory")
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException):
            return None

    def __enter__(self) -> Self:
        """The file, open."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Closes the file."""
        self._file.close()


def _without_views(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Some writers note that their texts were views, of which pyarrow can't take single ones."""
    for number, field in enumerate(batch.schema):
        if pa.types.is_string_view(field.type) or pa.types.is_binary_view(field.type):
            batch = batch.set_column(number, field.name, batch.column(number).cast(pa.binary()))
    return batch
