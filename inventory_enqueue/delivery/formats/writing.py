"""Writes a delivery's data files in the three formats, and its fileSchema, as S3 Inventory does.

https://docs.aws.amazon.com/AmazonS3/latest/userguide/storage-inventory.html#storage-inventory-contents
"""

import gzip
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote_plus

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.orc
import pyarrow.parquet as pq

from inventory_enqueue.manifest import FileFormat

STRING: Final = pa.string()
TIMESTAMP: Final = pa.timestamp("ms", tz="UTC")

SUFFIXES: Final = {FileFormat.PARQUET: "parquet", FileFormat.ORC: "orc", FileFormat.CSV: "csv.gz"}

_PARQUET_TYPES = {
    STRING: "binary {} (STRING)",
    TIMESTAMP: "int64 {} (TIMESTAMP(MILLIS,true))",
    pa.int64(): "int64 {}",
    pa.bool_(): "boolean {}",
}
_ORC_TYPES = {STRING: "string", TIMESTAMP: "timestamp", pa.int64(): "bigint", pa.bool_(): "boolean"}
_UNREPEATED = ("key", "e_tag", "version_id")  # a dictionary would only cost time before it overflows

_PLAIN_TIMESTAMP = pa.timestamp("ms")
_BYTES = pa.large_binary()  # keys need not be UTF-8 where a test wants it so, and a column may pass 2 GiB
# The stubs don't know that arrays and scalars mix.
_join: Any = pc.binary_join_element_wise
_COMMA, _FIRST, _LAST, _NOTHING = (pa.scalar(text, _BYTES) for text in (b'","', b'"', b'"\n', b""))


def file_schema(file_format: FileFormat, schema: pa.Schema) -> str:
    """The manifest's fileSchema, as real manifests print it (for Parquet the documentation's own example differs)."""
    match file_format:
        case FileFormat.PARQUET:
            fields = (
                f"  {'optional' if field.nullable else 'required'} {_PARQUET_TYPES[field.type].format(field.name)};"
                for field in schema
            )
            return f"message s3.inventory {{{''.join(fields)}}}"
        case FileFormat.ORC:
            return f"struct<{','.join(f'{field.name}:{_ORC_TYPES[field.type]}' for field in schema)}>"
        case FileFormat.CSV:
            return ", ".join("".join(part.capitalize() for part in name.split("_")) for name in schema.names)


def write_data_file(
    path: Path, file_format: FileFormat, schema: pa.Schema, tables: Iterable[pa.Table], *, gzip_members: bool
) -> int:
    """Writes a data file.

    Args:
        path: Where.
        file_format: How.
        schema: Of all tables: some of S3's columns, in S3's types and order.
        tables: The rows.
        gzip_members: In CSV begin another gzip member with each table.

    Returns:
        The number of rows.
    """
    match file_format:
        case FileFormat.PARQUET:
            return _write_parquet(path, schema, tables)
        case FileFormat.ORC:
            return _write_orc(path, schema, tables)
        case FileFormat.CSV:
            return _write_csv(path, tables, gzip_members=gzip_members)


def _write_parquet(path: Path, schema: pa.Schema, tables: Iterable[pa.Table]) -> int:
    """Each table becomes a row group."""
    rows = 0
    with parquet_writer(path, schema) as writer:
        for table in tables:
            writer.write_table(table, row_group_size=max(1, table.num_rows))
            rows += table.num_rows
    return rows


def parquet_writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """Writes as S3 Inventory: Snappy, format version 1.0, statistics and page indexes, no Arrow schema."""
    return pq.ParquetWriter(
        path,
        schema,
        compression="snappy",
        version="1.0",
        use_dictionary=[name for name in schema.names if name not in _UNREPEATED],  # type: ignore[arg-type]  # the stubs know only bool
        write_page_index=True,
        store_schema=False,
    )


def _write_orc(path: Path, schema: pa.Schema, tables: Iterable[pa.Table]) -> int:
    """Zlib, stripes of 64 MB whatever the tables' sizes; a timestamp is one without a zone, in UTC."""
    plain = pa.schema(
        field.with_type(_PLAIN_TIMESTAMP) if pa.types.is_timestamp(field.type) else field for field in schema
    )
    rows = 0
    with pyarrow.orc.ORCWriter(str(path), compression="ZLIB") as writer:
        for table in tables:
            writer.write(table.cast(plain))
            rows += table.num_rows
    return rows


def _write_csv(path: Path, tables: Iterable[pa.Table], *, gzip_members: bool) -> int:
    """Gzip, no header, every field quoted, an empty one for null, LF, keys URL-encoded in form style."""
    rows = 0
    members = ([table] for table in tables) if gzip_members else [tables]
    with path.open("wb") as file:
        for member in members:
            # Without name and time the same rows give the same bytes.
            with gzip.GzipFile(filename="", fileobj=file, mode="wb", mtime=0) as stream:
                for table in member:
                    stream.write(_csv_lines(table))
                    rows += table.num_rows
    return rows


def _csv_lines(table: pa.Table) -> bytes:
    fields = [_csv_field(name, table[name].combine_chunks()) for name in table.column_names]
    return b"".join(_join(_FIRST, _join(*fields, _COMMA), _LAST, _NOTHING).to_pylist())


def _csv_field(name: str, column: Any) -> Any:  # noqa: ANN401 - an array, of whatever type
    """The column as bytes between the quotes."""
    if pa.types.is_timestamp(column.type):
        column = pc.strftime(column.cast(_PLAIN_TIMESTAMP), format="%Y-%m-%dT%H:%M:%SZ")  # %S with its milliseconds
    elif not pa.types.is_string(column.type):
        column = column.cast(STRING)
    values = column.cast(_BYTES).fill_null(b"")
    if name == "key":
        return pa.array([quote_plus(key, safe="/").encode() for key in values.to_pylist()], _BYTES)
    return pc.replace_substring(values, '"', '""')
