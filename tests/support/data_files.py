"""Data files in the three formats from rows of any kind, right or wrong, and deliveries made of such files.

Nothing here is the program's own code: what it reads was written by another hand.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import quote_plus

import pyarrow as pa
import pyarrow.orc
import pyarrow.parquet as pq

from inventory_enqueue.delivery.writing import COLUMNS
from inventory_enqueue.manifest import FileFormat
from tests.support.deliveries import DAY_1, SOURCE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

Row = dict[str, Any]
"""Values by S3's column names. A text may be given as bytes, be they UTF-8 or not."""
Groups = list[list[Row]]
"""A file's rows by row group, stripe or gzip member."""

UNKNOWN: Final[dict[str, pa.DataType]] = {
    "object_lock_event_hold_status": pa.string(),
    "object_lock_event_hold_duration": pa.int64(),
    "intelligent_tiering_reference_date": pa.timestamp("ms", tz="UTC"),
}
"""Columns of 2026, which the program doesn't know."""
TYPES: Final = COLUMNS | UNKNOWN

SUFFIX: Final = {FileFormat.PARQUET: "parquet", FileFormat.ORC: "orc", FileFormat.CSV: "csv.gz"}
_ORC_TYPE: Final = {pa.string(): "string", pa.int64(): "bigint", pa.bool_(): "boolean"}
_PADDING: Final = b"\0" * 66_000  # more than a block: the library ends no stripe before it has compressed one

OrcCompression = Literal["ZLIB", "UNCOMPRESSED", "SNAPPY"]


def write(file_format: FileFormat, columns: Sequence[str], groups: Groups) -> bytes:
    """Write a file as AWS does, but for the size of its groups."""
    match file_format:
        case FileFormat.PARQUET:
            return write_parquet([table(columns, group) for group in groups])
        case FileFormat.ORC:
            return write_orc(columns, groups)
        case FileFormat.CSV:
            return write_csv(columns, groups)


def file_schema(file_format: FileFormat, columns: Iterable[str]) -> str:
    """Name columns as the manifest does."""
    match file_format:
        case FileFormat.PARQUET:
            return f"message s3.inventory {{{''.join(f'  optional binary {name} (UTF8);' for name in columns)}}}"
        case FileFormat.ORC:
            types = {name: _ORC_TYPE.get(TYPES[name], "timestamp") for name in columns}
            return f"struct<{','.join(f'{name}:{kind}' for name, kind in types.items())}>"
        case FileFormat.CSV:
            return ", ".join(name.title().replace("_", "") for name in columns)


def table(columns: Iterable[str], rows: Sequence[Row], types: Mapping[str, pa.DataType] | None = None) -> pa.Table:
    """Make a table of these columns, in S3's types or others that hold the same values."""
    types = types or {}
    return pa.table({name: _array(name, rows, types.get(name, TYPES[name])) for name in columns})


def _array(name: str, rows: Sequence[Row], kind: pa.DataType) -> pa.Array[Any]:
    values = [row.get(name) for row in rows]
    if TYPES[name] != pa.string():
        return pa.array(values, kind)
    texts = [value.encode() if isinstance(value, str) else value for value in values]
    # A view, since a cast would look whether it is UTF-8.
    text: pa.Array[Any] = pa.array(texts, pa.binary()).view(pa.string())
    return text.dictionary_encode() if pa.types.is_dictionary(kind) else text.cast(kind)


def write_parquet(tables: Sequence[pa.Table], **options: Any) -> bytes:  # noqa: ANN401 - whatever the writer takes
    """Write a row group a table."""
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, tables[0].schema, **options) as writer:
        for part in tables:
            writer.write_table(part)
    return sink.getvalue().to_pybytes()


def write_orc(columns: Sequence[str], groups: Groups, compression: OrcCompression = "ZLIB") -> bytes:
    """Write a stripe a group, unless that has no rows."""
    tables = [table(columns, group) for group in groups]
    if compression != "UNCOMPRESSED":
        tables = [
            part.append_column("padding", pa.array([_PADDING, *[None] * part.num_rows][: part.num_rows], pa.binary()))
            for part in tables
        ]
    return write_orc_tables(tables, compression)


def write_orc_tables(tables: Sequence[pa.Table], compression: OrcCompression = "ZLIB") -> bytes:
    """Write tables, whose timestamps lose their zone, as AWS's have none."""
    sink = pa.BufferOutputStream()
    with pyarrow.orc.ORCWriter(sink, compression=compression, stripe_size=1) as writer:
        for part in tables:
            writer.write(part.cast(_without_zones(part.schema)))
    return sink.getvalue().to_pybytes()


def _without_zones(schema: pa.Schema) -> pa.Schema:
    return pa.schema(
        field.with_type(pa.timestamp("ms")) if pa.types.is_timestamp(field.type) else field for field in schema
    )


def write_csv(columns: Sequence[str], groups: Groups, *, encode_keys: bool = True) -> bytes:
    """Write a gzip member a group."""
    return b"".join(gzip_member(csv_text(columns, group, encode_keys=encode_keys)) for group in groups)


def gzip_member(data: bytes) -> bytes:
    """Compress in no time."""
    return gzip.compress(data, compresslevel=1, mtime=0)


def csv_text(columns: Sequence[str], rows: Sequence[Row], *, encode_keys: bool = True) -> bytes:
    """Write rows, with their keys URL-encoded unless they are so already."""
    lines = []
    for row in rows:
        fields = [_csv_field(row.get(name)) for name in columns]
        if encode_keys:
            fields = [
                quote_plus(field, safe="/").encode() if name == "key" else field
                for name, field in zip(columns, fields, strict=True)
            ]
        lines.append(b",".join(b'"' + field.replace(b'"', b'""') + b'"' for field in fields) + b"\n")
    return b"".join(lines)


def _csv_field(value: Any) -> bytes:  # noqa: ANN401 - a value of any column
    match value:
        case None:
            return b""
        case bytes():
            return value
        case bool():
            return b"true" if value else b"false"
        case datetime():
            return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z").encode()
        case _:
            return str(value).encode()


def deliver(  # noqa: PLR0913 - each has a default that most tests want
    root: Path,
    day: int,
    file_format: FileFormat,
    schema: str,
    files: Sequence[bytes],
    *,
    bucket: str = SOURCE,
    destination: str = "inventory",
    config_id: str = "daily",
) -> Path:
    """Write a delivery of such files below the folder that stands for the destination, and return its manifest.json."""
    created = DAY_1 + timedelta(days=day - 1)
    folder = root / bucket / config_id
    (folder / "data").mkdir(parents=True, exist_ok=True)
    entries = []
    for number, data in enumerate(files):
        path = folder / "data" / f"{day}-{number}.{SUFFIX[file_format]}"
        path.write_bytes(data)
        key = path.relative_to(root).as_posix()
        entries.append({"key": key, "size": len(data), "MD5checksum": md5(data)})
    document = {
        "sourceBucket": bucket,
        "destinationBucket": f"arn:aws:s3:::{destination}",
        "version": "2016-11-30",
        "creationTimestamp": str(int(created.timestamp() * 1000)),
        "fileFormat": file_format,
        "fileSchema": schema,
        "files": entries,
    }
    manifest = folder / f"{created:%Y-%m-%dT%H-%MZ}" / "manifest.json"
    manifest.parent.mkdir(parents=True, exist_ok=True)
    manifest.write_text(json.dumps(document), encoding="utf-8")
    manifest.with_suffix(".checksum").write_text(md5(manifest.read_bytes()) + "\n", encoding="ascii")
    return manifest


def deliver_rows(
    root: Path, day: int, file_format: FileFormat, columns: Sequence[str], files: Sequence[Groups]
) -> Path:
    """Write a delivery of these rows, by file and by group."""
    contents = [write(file_format, columns, groups) for groups in files]
    return deliver(root, day, file_format, file_schema(file_format, columns), contents)


def md5(data: bytes) -> str:
    """Sum up data as manifests do."""
    return hashlib.md5(data, usedforsecurity=False).hexdigest()
