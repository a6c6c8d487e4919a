"""Rows of a landed data file, as record batches in our schema."""

from collections.abc import Iterator, Sequence
from typing import Final

import pyarrow as pa

from inventory_enqueue.delivery.formats import RowSource
from inventory_enqueue.delivery.formats.csv import CsvSource
from inventory_enqueue.delivery.formats.orc import OrcSource
from inventory_enqueue.delivery.formats.parquet import ParquetSource
from inventory_enqueue.delivery.landing import LandedFile
from inventory_enqueue.errors import IntegrityError
from inventory_enqueue.manifest import FileFormat
from inventory_enqueue.schema import Rows, check_columns, normalise

_UNDECODABLE: Final = (pa.ArrowException, OSError, UnicodeDecodeError)
"""What decoding damaged bytes raises: the last one where a column's name is no UTF-8."""


def columns_of(landed: LandedFile) -> frozenset[str]:
    """The columns of schema.OBJECT_SCHEMA that a data file has.

    Raises:
        IntegrityError: The file can't be read, or a needed column is missing.
    """
    with _open(landed) as source:
        return check_columns(source.columns, where=landed.where)


def read_rows(landed: LandedFile, columns: Sequence[str], *, threads: bool = False) -> Iterator[Rows]:
    """Streams a file's rows, in file order.

    Args:
        landed: A verified data file.
        columns: Names of schema.OBJECT_SCHEMA, in the order wanted; those that the file lacks are null.
        threads: Decode in parallel, for a caller that reads one file at a time.

    Raises:
        IntegrityError: The file can't be decoded, or a value can't be read as what it must be.
    """
    with _open(landed) as source:
        present = check_columns(source.columns, where=landed.where)
        rows = 0
        try:
            for batch in source.batches(sorted({"bucket", *columns} & present), threads=threads):
                yield normalise(
                    batch,
                    columns,
                    source_bucket=landed.source_bucket,
                    keys_are_encoded=source.keys_are_encoded,
                    where=f"{landed.where}, rows from {rows}",
                )
                rows += batch.num_rows
        except _UNDECODABLE as error:
            raise _unreadable(error, f"{landed.where}, rows from {rows}") from error
        if source.rows is not None and rows != source.rows:
            raise IntegrityError(f"{rows} rows were read, its footer says {source.rows}", where=landed.where)


def _open(landed: LandedFile) -> RowSource:
    try:
        match landed.file_format:
            case FileFormat.PARQUET:
                return ParquetSource(landed.path)
            case FileFormat.ORC:
                return OrcSource(landed.path)
            case FileFormat.CSV:
                return CsvSource(landed.path, landed.file_schema)
    except _UNDECODABLE as error:
        raise _unreadable(error, landed.where) from error


def _unreadable(error: Exception, where: str) -> IntegrityError:
    reason = next(iter(str(error).splitlines()), type(error).__name__)
    return IntegrityError(f"the file can't be decoded: {reason[:200]}", where=where)
