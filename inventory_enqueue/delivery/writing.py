"""Writes a delivery as S3 Inventory does, byte for byte where its documentation or real deliveries say how.

Below the root folder, paths are the keys in the destination bucket: the folder can be uploaded as it stands, or read in
place. https://docs.aws.amazon.com/AmazonS3/latest/userguide/storage-inventory-location.html
"""

import hashlib
import itertools
import json
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import polars as pl
import pyarrow as pa

from inventory_enqueue.delivery.formats.writing import STRING, SUFFIXES, TIMESTAMP, file_schema, write_data_file
from inventory_enqueue.manifest import FileFormat

Frame = pl.DataFrame | pa.Table

# In S3's order, whatever order the configuration or the caller names.
COLUMNS: dict[str, pa.DataType] = {
    "bucket": STRING,
    "key": STRING,
    "version_id": STRING,
    "is_latest": pa.bool_(),
    "is_delete_marker": pa.bool_(),
    "size": pa.int64(),
    "last_modified_date": TIMESTAMP,
    "e_tag": STRING,
    "storage_class": STRING,
    "is_multipart_uploaded": pa.bool_(),
    "replication_status": STRING,
    "encryption_status": STRING,
    "object_lock_retain_until_date": TIMESTAMP,
    "object_lock_mode": STRING,
    "object_lock_legal_hold_status": STRING,
    "intelligent_tiering_access_tier": STRING,
    "bucket_key_status": STRING,
    "checksum_algorithm": STRING,
    "object_access_control_list": STRING,
    "object_owner": STRING,
    "lifecycle_expiration_date": TIMESTAMP,
}
REQUIRED = ("bucket", "key")

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


def write_delivery(  # noqa: PLR0913 - the last three have defaults that most callers want
    root: Path,
    config: InventoryConfig,
    created: datetime,
    files: Iterable[Iterable[Frame]],
    seed: int = 1,
    *,
    file_format: FileFormat = FileFormat.PARQUET,
    gzip_members: bool = False,
) -> Delivery:
    """Write a delivery: data files, hive symlink, manifest.json, manifest.checksum.

    Args:
        root: The local folder that stands for the destination bucket.
        config: The inventory configuration.
        created: When the listing began; to the minute it is the folder's label and the manifest's creationTimestamp.
        files: For each data file its frames; in Parquet each frame becomes a row group. Give generators, and at any
            time only one frame for each of 2 threads is in memory. All frames have the same columns, those of
            `COLUMNS` or some.
        seed: The data files' names come from it and from their contents' place.
        file_format: The format of the data files.
        gzip_members: In CSV each frame becomes a gzip member; else a file is one.

    Returns:
        What was written.
    """
    created = created.astimezone(UTC).replace(second=0, microsecond=0)
    label = f"{created:%Y-%m-%dT%H-%MZ}"
    with ThreadPoolExecutor(_WORKERS) as pool:
        salt = f"{seed}/{config.key}/{label}"
        write = partial(_write_data_file, root, config, salt, file_format, gzip_members)
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
    manifest = manifest_json(config, created, file_format, file_schema(file_format, written[0][1]), data_files)
    delivery.manifest.parent.mkdir(parents=True, exist_ok=True)
    delivery.manifest.write_bytes(manifest)
    _write_lines(root / delivery.checksum_key, [_md5(manifest)])
    return delivery


def _write_data_file(  # noqa: PLR0913, PLR0917 - the first five are bound once
    root: Path,
    config: InventoryConfig,
    salt: str,
    file_format: FileFormat,
    gzip_members: bool,  # noqa: FBT001 - bound by partial
    number: int,
    frames: Iterable[Frame],
) -> tuple[DataFile, pa.Schema]:
    name = uuid.UUID(hex=_md5(f"{salt}/{number}".encode()), version=4)
    key = f"{config.key}/data/{name}.{SUFFIXES[file_format]}"
    path = root / key
    path.parent.mkdir(parents=True, exist_ok=True)
    schema, tables = _delivered(frames)
    rows = write_data_file(path, file_format, schema, tables, gzip_members=gzip_members)
    with path.open("rb") as file:
        md5 = hashlib.file_digest(file, "md5").hexdigest()
    return DataFile(key, path.stat().st_size, md5, rows), schema


def _delivered(frames: Iterable[Frame]) -> tuple[pa.Schema, Iterator[pa.Table]]:
    """The frames as tables in S3's types and order of columns."""
    tables = (frame.to_arrow() if isinstance(frame, pl.DataFrame) else frame for frame in frames)
    first = next(tables, None)
    if first is None:
        raise ValueError("frames: a data file has at least one frame, be it without rows")
    schema = delivered_schema(first.column_names)
    return schema, (table.select(schema.names).cast(schema) for table in itertools.chain([first], tables))


def delivered_schema(names: Iterable[str]) -> pa.Schema:
    """Some of S3's columns, in S3's types and order.

    Raises:
        ValueError: One of the names is none of S3's, or a required one is missing.
    """
    names = set(names)
    unknown, missing = names - COLUMNS.keys(), set(REQUIRED) - names
    if unknown or missing:
        raise ValueError(f"columns: not in S3 Inventory: {sorted(unknown)}, missing: {sorted(missing)}")
    return pa.schema(
        pa.field(name, kind, nullable=name not in REQUIRED) for name, kind in COLUMNS.items() if name in names
    )


def manifest_json(
    config: InventoryConfig, created: datetime, file_format: FileFormat, schema: str, files: Iterable[DataFile]
) -> bytes:
    """manifest.json.

    https://docs.aws.amazon.com/AmazonS3/latest/userguide/storage-inventory-location.html#storage-inventory-location-manifest
    """
    content = {
        "sourceBucket": config.source_bucket,
        "destinationBucket": f"arn:aws:s3:::{config.destination_bucket}",
        "version": "2016-11-30",
        "creationTimestamp": str(int(created.timestamp() * 1000)),
        "fileFormat": file_format,
        "fileSchema": schema,
        "files": [{"key": file.key, "size": file.size, "MD5checksum": file.md5} for file in files],
    }
    return f"{json.dumps(content, indent=2)}\n".encode()


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(f"{line}\n" for line in lines).encode())
