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
        self.rows = metadata.num_rows
        self.columns = unique(metadata.schema.to_arrow_schema().names)
        self._file = pq.ParquetFile(
            path,
            metadata=metadata,
            read_dictionary=[name for name in _REPEATED if name in self.columns],
            buffer_size=_BUFFER,
            pre_buffer=False,
        )

    def batches(self, columns: Collection[str], *, threads: bool) -> Iterator[pa.RecordBatch]:
        """Streams these columns, whatever the size of the row groups."""
        return self._file.iter_batches(BATCH_ROWS, columns=list(columns), use_threads=threads)

    def __enter__(self) -> Self:
        """The file, open."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Closes the file."""
        self._file.close()
