"""Rows of a landed data file, as record batches in our schema."""

from collections.abc import Iterator, Sequence
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from inventory_enqueue.delivery.landing import LandedFile
from inventory_enqueue.errors import IntegrityError
from inventory_enqueue.manifest import FileFormat
from inventory_enqueue.schema import check_columns, normalise

BATCH_ROWS: Final = 131_072
"""Rows a batch: about 20 MB of the columns that the stages read."""

_BUFFER: Final = 1024 * 1024
"""Bytes read ahead of each column: column chunks are streamed, never held whole."""


def columns_of(landed: LandedFile) -> frozenset[str]:
    """The columns of schema.OBJECT_SCHEMA that a data file has.

    Raises:
        IntegrityError: The file can't be read, or a needed column is missing.
    """
    with _open(landed) as file:
        return check_columns(file.schema_arrow.names, where=landed.where)


def read_rows(landed: LandedFile, columns: Sequence[str], *, threads: bool = False) -> Iterator[pa.RecordBatch]:
    """Streams a file's rows, in file order.

    Args:
        landed: A verified data file.
        columns: Names of schema.OBJECT_SCHEMA, in the order wanted; those that the file lacks are null.
        threads: Decode columns in parallel, for a caller that reads one file at a time.

    Raises:
        IntegrityError: The file can't be decoded, or a row isn't what it must be.
    """
    with _open(landed) as file:
        present = check_columns(file.schema_arrow.names, where=landed.where)
        wanted = sorted({"bucket", *columns} & present)
        rows = 0
        try:
            for batch in file.iter_batches(BATCH_ROWS, columns=wanted, use_threads=threads):
                where = f"{landed.where}, rows from {rows}"
                yield normalise(batch, columns, source_bucket=landed.source_bucket, where=where)
                rows += batch.num_rows
        except (pa.ArrowException, OSError) as error:
            raise _unreadable(error, f"{landed.where}, rows from {rows}") from error
        if rows != file.metadata.num_rows:
            raise IntegrityError(f"{rows} rows were read, its footer says {file.metadata.num_rows}", where=landed.where)


def _open(landed: LandedFile) -> pq.ParquetFile:
    if landed.file_format is not FileFormat.PARQUET:
        raise IntegrityError(
            f"deliveries in {landed.file_format} can't be read yet, only in Parquet", where=landed.where
        )
    try:
        return pq.ParquetFile(landed.path, read_dictionary=["bucket"], buffer_size=_BUFFER, pre_buffer=False)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(error, landed.where) from error


def _unreadable(error: Exception, where: str) -> IntegrityError:
    return IntegrityError(f"the file can't be decoded: {str(error).splitlines()[0][:200]}", where=where)
