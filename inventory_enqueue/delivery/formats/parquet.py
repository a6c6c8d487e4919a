"""Parquet data files, streamed by row group and page."""

from collections.abc import Collection, Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import pyarrow as pa
import pyarrow.parquet as pq

from inventory_enqueue.delivery.formats import BATCH_ROWS, unique

_BUFFER: Final = 1024 * 1024
"""Bytes read ahead of each column: column chunks are streamed, never held whole."""

_REPEATED: Final = ["bucket", "storage_class", "intelligent_tiering_access_tier"]
"""Columns of few values, kept as dictionaries: a value is looked at once a batch."""


class ParquetSource:
    """An open Parquet file."""

    keys_are_encoded = False

    def __init__(self, path: Path) -> None:
        """Opens the file and reads its footer."""
        metadata = pq.read_metadata(path)
        schema = metadata.schema.to_arrow_schema()
        self.rows = metadata.num_rows
        self.columns = unique(schema.names, source="its footer")
        flat = {field.name for field in schema if not pa.types.is_nested(field.type)}
        self._file = pq.ParquetFile(
            path,
            metadata=metadata,
            read_dictionary=[name for name in _REPEATED if name in flat],
            buffer_size=_BUFFER,
            pre_buffer=False,
        )

    def batches(self, columns: Collection[str], *, threads: bool) -> Iterator[pa.RecordBatch]:
        """Streams these columns, whatever the size of the row groups."""
        return map(_without_views, self._file.iter_batches(BATCH_ROWS, columns=list(columns), use_threads=threads))

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
