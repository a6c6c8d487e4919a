"""Rows of a landed data file, as record batches in our schema."""

from collections.abc import Iterator, Sequence
from typing import Final

import polars as pl
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


def read_rows(landed: LandedFile, columns: Sequence[str]) -> Iterator[Rows]:
    """Streams a file's rows, in file order.

    Args:
        landed: A verified data file.
        columns: Names of schema.OBJECT_SCHEMA, in the order wanted; those that the file lacks are null.

    Raises:
        IntegrityError: The file can't be decoded, or a value can't be read as what it must be.
    """
    for batch, start, encoded in _batches(landed, columns, threads=False):
        yield _normalised(landed, batch, columns, keys_are_encoded=encoded, start=start)


def read_selected(landed: LandedFile, columns: Sequence[str], positions: pl.Series) -> Iterator[tuple[Rows, pl.Series]]:
    """Streams chosen rows of a file, in file order: all are decoded, in parallel, but only these are normalised.

    Args:
        landed: A verified data file.
        columns: As for read_rows.
        positions: Of the rows in the file, sorted, as uint64.

    Yields:
        Rows, and their positions.

    Raises:
        IntegrityError: As read_rows.
    """
    for batch, start, encoded in _batches(landed, columns, threads=True):
        ours = positions.filter(positions.is_between(start, start + batch.num_rows - 1))
        if not ours.is_empty():
            chosen = batch.take((ours - start).to_arrow())
            yield _normalised(landed, chosen, columns, keys_are_encoded=encoded, start=start), ours


def _batches(
    landed: LandedFile, columns: Sequence[str], *, threads: bool
) -> Iterator[tuple[pa.RecordBatch, int, bool]]:
    """A file's rows as it holds them, with the position of each batch's first, and whether its keys are encoded."""
    with _open(landed) as source:
        present = check_columns(source.columns, where=landed.where)
        rows = 0
        try:
            for batch in source.batches(sorted({"bucket", *columns} & present), threads=threads):
                yield batch, rows, source.keys_are_encoded
                rows += batch.num_rows
        except _UNDECODABLE as error:
            raise _unreadable(error, f"{landed.where}, rows from {rows}") from error
        if source.rows is not None and rows != source.rows:
            raise IntegrityError(f"{rows} rows were read, its footer says {source.rows}", where=landed.where)


def _normalised(
    landed: LandedFile, batch: pa.RecordBatch, columns: Sequence[str], *, keys_are_encoded: bool, start: int
) -> Rows:
    where = f"{landed.where}, rows from {start}"
    try:
        return normalise(
            batch, columns, source_bucket=landed.source_bucket, keys_are_encoded=keys_are_encoded, where=where
        )
    except _UNDECODABLE as error:
        raise _unreadable(error, where) from error


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
