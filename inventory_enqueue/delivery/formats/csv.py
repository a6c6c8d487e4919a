"""CSV data files: gzip of one or more members, no header, every field quoted, keys URL-encoded in form style."""

from collections.abc import Collection, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import pyarrow as pa
import pyarrow.csv

from inventory_enqueue.delivery.formats import unique
from inventory_enqueue.manifest import csv_columns

_BLOCK: Final = 4 * 1024 * 1024
"""Bytes parsed at a time; about four times as much is held."""

_GZIP_MAGIC: Final = b"\x1f\x8b"


class CsvSource:
    """An open CSV file."""

    keys_are_encoded = True
    rows = None

    def __init__(self, path: Path, file_schema: str) -> None:
        """Opens the file.

        Raises:
            pa.ArrowInvalid: fileSchema names a column twice.
        """
        self._names = csv_columns(file_schema)
        self.columns = unique(self._names, source="the manifest's fileSchema")
        self._file = pa.OSFile(str(path), "rb")
        self._compressed = self._file.read(2) == _GZIP_MAGIC
        self._file.seek(0)

    def batches(self, columns: Collection[str]) -> Iterator[pa.RecordBatch]:
        """Streams these columns as binary values, empty ones as null. No type is guessed: keys look like anything."""
        stream: Any = pa.CompressedInputStream(self._file, "gzip") if self._compressed else self._file
        try:
            reader = pyarrow.csv.open_csv(
                stream,
                read_options=pyarrow.csv.ReadOptions(column_names=self._names, block_size=_BLOCK, use_threads=False),
                # S3 encodes them, other stores may not; where blocks are cut at any of them it is an error.
                parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
                convert_options=pyarrow.csv.ConvertOptions(
                    column_types={name: pa.binary() for name in self._names},
                    include_columns=list(columns),
                    null_values=[""],
                    strings_can_be_null=True,
                    check_utf8=False,
                ),
            )
        except pa.ArrowInvalid as error:
            if "Empty CSV file" in str(error):
                return
            raise
        yield from reader

    def __enter__(self) -> Self:
        """The file, open."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Closes the file."""
        self._file.close()
