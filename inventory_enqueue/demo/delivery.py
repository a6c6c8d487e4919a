"""Writes a delivery as S3 Inventory does, byte for byte where its documentation or real deliveries say how.

Below the root folder, paths are the keys in the destination bucket: the folder can be uploaded as it stands, or read in
place. https://docs.aws.amazon.com/AmazonS3/latest/userguide/storage-inventory-location.html
"""

import hashlib
import itertools
import json
import uuid
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

Frame = pl.DataFrame | pa.Table

_STRING = pa.string()
_TIMESTAMP = pa.timestamp("ms", tz="UTC")

# In S3's order, whatever order the configuration or the caller names.
COLUMNS: dict[str, pa.DataType] = {
    "bucket": _STRING,
    "key": _STRING,
    "version_id": _STRING,
    "is_latest": pa.bool_(),
    "is_delete_marker": pa.bool_(),
    "size": pa.int64(),
    "last_modified_date": _TIMESTAMP,
    "e_tag": _STRING,
    "storage_class": _STRING,
    "is_multipart_uploaded": pa.bool_(),
    "replication_status": _STRING,
    "encryption_status": _STRING,
    "object_lock_retain_until_date": _TIMESTAMP,
    "object_lock_mode": _STRING,
    "object_lock_legal_hold_status": _STRING,
    "intelligent_tiering_access_tier": _STRING,
    "bucket_key_status": _STRING,
    "checksum_algorithm": _STRING,
    "object_access_control_list": _STRING,
    "object_owner": _STRING,
    "lifecycle_expiration_date": _TIMESTAMP,
}
REQUIRED = ("bucket", "key")

_PARQUET_TYPES = {
    _STRING: "binary {} (STRING)",
    _TIMESTAMP: "int64 {} (TIMESTAMP(MILLIS,true))",
    pa.int64(): "int64 {}",
    pa.bool_(): "boolean {}",
}
_UNREPEATED = ("key", "e_tag", "version_id")  # a dictionary would only cost time before it overflows
_WORKERS = 2


@dataclass(frozen=True)
class InventoryConfig:
    """An inventory configuration: which bucket is listed, and where its deliveries land.

    Args:
        source_bucket: The bucket that is listed.
        destination_bucket: The bucket that receives the deliveries.
        destination_prefix: The prefix in the destination bucket, without a slash at its end; may be empty.
        config_id: The configuration's id.
    """

    source_bucket: str
    destination_bucket: str
    destination_prefix: str = ""
    config_id: str = "daily"

    @property
    def key(self) -> str:
        """The key that all deliveries of this configuration begin with, without a slash at its end."""
        return "/".join(filter(None, (self.destination_prefix, self.source_bucket, self.config_id)))


@dataclass(frozen=True)
class DataFile:
    """One data file of a delivery: its key in the destination bucket, its size in bytes, its MD5 in hex, its rows."""

    key: str
    size: int
    md5: str
    rows: int


@dataclass(frozen=True)
class Delivery:
    """A delivery that was written.

    Args:
        root: The local folder that stands for the destination bucket.
        bucket: The destination bucket's name.
        manifest_key: The key of manifest.json.
        symlink_key: The key of the hive symlink.txt.
        files: The data files, in the manifest's order.
    """

    root: Path
    bucket: str
    manifest_key: str
    symlink_key: str
    files: tuple[DataFile, ...]

    @property
    def manifest(self) -> Path:
        """The local path of manifest.json."""
        return self.root / self.manifest_key

    @property
    def manifest_uri(self) -> str:
        """The s3:// URI of manifest.json, once uploaded."""
        return f"s3://{self.bucket}/{self.manifest_key}"

    @property
    def checksum_key(self) -> str:
        """The key of manifest.checksum."""
        return self.manifest_key.removesuffix(".json") + ".checksum"

    @property
    def keys(self) -> tuple[str, ...]:
        """All keys in the order of their arrival: manifest.checksum is last, since it says that the rest is there."""
        return (*(file.key for file in self.files), self.symlink_key, self.manifest_key, self.checksum_key)

    @property
    def rows(self) -> int:
        """The rows of all data files."""
        return sum(file.rows for file in self.files)


def write_delivery(
    root: Path, config: InventoryConfig, created: datetime, files: Iterable[Iterable[Frame]], seed: int = 1
) -> Delivery:
    """Write a delivery in Parquet: data files, hive symlink, manifest.json, manifest.checksum.

    Args:
        root: The local folder that stands for the destination bucket.
        config: The inventory configuration.
        created: When the listing began; to the minute it is the folder's label and the manifest's creationTimestamp.
        files: For each data file its frames; each frame becomes a row group. Give generators, and at any time only one
            frame for each of 2 threads is in memory. All frames have the same columns, those of `COLUMNS` or some.
        seed: The data files' names come from it and from their contents' place.

    Returns:
        What was written.
    """
    created = created.astimezone(UTC).replace(second=0, microsecond=0)
    label = f"{created:%Y-%m-%dT%H-%MZ}"
    with ThreadPoolExecutor(_WORKERS) as pool:
        write = partial(_write_data_file, root, config, f"{seed}/{config.key}/{label}")
        written = list(pool.map(write, *zip(*enumerate(files), strict=True)))
    if not written:
        raise ValueError("files: a delivery has at least one data file")
    data_files = tuple(file for file, _ in written)
    delivery = Delivery(
        root=root,
        bucket=config.destination_bucket,
        manifest_key=f"{config.key}/{label}/manifest.json",
        symlink_key=f"{config.key}/hive/dt={created:%Y-%m-%d-%H-%M}/symlink.txt",
        files=data_files,
    )
    _write_lines(root / delivery.symlink_key, [f"s3://{config.destination_bucket}/{file.key}" for file in data_files])
    manifest = _manifest(config, created, _parquet_file_schema(written[0][1]), data_files)
    delivery.manifest.parent.mkdir(parents=True, exist_ok=True)
    delivery.manifest.write_bytes(manifest)
    _write_lines(root / delivery.checksum_key, [_md5(manifest)])
    return delivery


def _write_data_file(
    root: Path, config: InventoryConfig, salt: str, number: int, frames: Iterable[Frame]
) -> tuple[DataFile, pa.Schema]:
    name = uuid.UUID(hex=_md5(f"{salt}/{number}".encode()), version=4)
    key = f"{config.key}/data/{name}.parquet"
    path = root / key
    path.parent.mkdir(parents=True, exist_ok=True)
    rows, schema = _write_parquet(path, frames)
    with path.open("rb") as file:
        md5 = hashlib.file_digest(file, "md5").hexdigest()
    return DataFile(key, path.stat().st_size, md5, rows), schema


def _write_parquet(path: Path, frames: Iterable[Frame]) -> tuple[int, pa.Schema]:
    """Write Parquet as S3 does: Snappy, format version 1.0, statistics and page indexes, no Arrow schema."""
    tables = (frame.to_arrow() if isinstance(frame, pl.DataFrame) else frame for frame in frames)
    first = next(tables, None)
    if first is None:
        raise ValueError("frames: a data file has at least one frame, be it without rows")
    schema = _delivered_schema(first.column_names)
    rows = 0
    with pq.ParquetWriter(
        path,
        schema,
        compression="snappy",
        version="1.0",
        use_dictionary=[name for name in schema.names if name not in _UNREPEATED],  # type: ignore[arg-type]  # the stubs know only bool
        write_page_index=True,
        store_schema=False,
    ) as writer:
        for table in itertools.chain([first], tables):
            writer.write_table(table.select(schema.names).cast(schema), row_group_size=max(1, table.num_rows))
            rows += table.num_rows
    return rows, schema


def _delivered_schema(names: Iterable[str]) -> pa.Schema:
    names = set(names)
    unknown, missing = names - COLUMNS.keys(), set(REQUIRED) - names
    if unknown or missing:
        raise ValueError(f"columns: not in S3 Inventory: {sorted(unknown)}, missing: {sorted(missing)}")
    return pa.schema(
        pa.field(name, kind, nullable=name not in REQUIRED) for name, kind in COLUMNS.items() if name in names
    )


def _parquet_file_schema(schema: pa.Schema) -> str:
    """The manifest's fileSchema, as real manifests print it (the documentation's own example differs)."""
    fields = (
        f"  {'optional' if field.nullable else 'required'} {_PARQUET_TYPES[field.type].format(field.name)};"
        for field in schema
    )
    return f"message s3.inventory {{{''.join(fields)}}}"


def _manifest(config: InventoryConfig, created: datetime, file_schema: str, files: Iterable[DataFile]) -> bytes:
    content = {
        "sourceBucket": config.source_bucket,
        "destinationBucket": f"arn:aws:s3:::{config.destination_bucket}",
        "version": "2016-11-30",
        "creationTimestamp": str(int(created.timestamp() * 1000)),
        "fileFormat": "Parquet",
        "fileSchema": file_schema,
        "files": [{"key": file.key, "size": file.size, "MD5checksum": file.md5} for file in files],
    }
    return f"{json.dumps(content, indent=2)}\n".encode()


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(f"{line}\n" for line in lines).encode())
