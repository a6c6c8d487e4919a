"""Small deliveries of a bucket over days, and the ways to rewrite one that tests need."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from inventory_enqueue.delivery.writing import COLUMNS, Delivery, InventoryConfig, write_delivery

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from types_boto3_s3 import S3Client

SOURCE = "source-bucket"
DAY_1 = datetime(2026, 3, 2, 1, 0, tzinfo=UTC)

_COLUMNS = ("bucket", "key", "size", "last_modified_date", "e_tag", "storage_class")
_SCHEMA = pa.schema([(name, COLUMNS[name]) for name in _COLUMNS])


def rows(keys: Iterable[str], *, bucket: str = SOURCE) -> pa.Table:
    """Make the inventory rows of these keys; the same key has the same content each time."""
    written = DAY_1 - timedelta(hours=1)
    listed = [(bucket, key, len(key), written, _md5(key.encode()), "STANDARD") for key in keys]
    return pa.Table.from_pylist([dict(zip(_COLUMNS, row, strict=True)) for row in listed], schema=_SCHEMA)


def deliver(root: Path, day: int, *files: Iterable[str], bucket: str = SOURCE, destination: str = "inventory") -> Path:
    """Write the delivery of a day, each argument a data file's keys, and return the path of its manifest.json.

    Paths below the root are keys in the destination bucket.
    """
    return delivery(root, day, *files, bucket=bucket, destination=destination).manifest


def delivery(
    root: Path, day: int, *files: Iterable[str], bucket: str = SOURCE, destination: str = "inventory"
) -> Delivery:
    """Write the delivery of a day as `deliver` does, and return all that is to know of it."""
    config = InventoryConfig(bucket, destination)
    created = DAY_1 + timedelta(days=day - 1)
    return write_delivery(root, config, created, [[rows(keys, bucket=bucket)] for keys in files], seed=day)


def upload(root: Path, client: S3Client, bucket: str) -> None:
    """Put every file below the root into a bucket, under its relative path as the key."""
    for path in sorted(root.rglob("*")):
        if path.is_file():
            client.upload_file(str(path), bucket, path.relative_to(root).as_posix())


def data_file(manifest: Path, number: int = 0) -> Path:
    """Find a data file of a delivery that `deliver` wrote."""
    key = json.loads(manifest.read_bytes())["files"][number]["key"]
    return manifest.parent.parent / "data" / Path(key).name


def checksum_file(manifest: Path) -> Path:
    """Name manifest.checksum beside manifest.json."""
    return manifest.with_suffix(".checksum")


def write_manifest(manifest: Path, data: bytes) -> None:
    """Write manifest.json with the checksum that belongs to it."""
    manifest.write_bytes(data)
    checksum_file(manifest).write_text(_md5(data) + "\n", encoding="ascii")


def edit_manifest(manifest: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the content of manifest.json, and the checksum with it."""
    content = json.loads(manifest.read_bytes())
    change(content)
    write_manifest(manifest, json.dumps(content).encode())


def replace_data_file(manifest: Path, content: pa.Table | bytes, number: int = 0) -> None:
    """Give a delivery another data file, whose size and MD5 the manifest then says truly."""
    path = data_file(manifest, number)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        pq.write_table(content, path)
    data = path.read_bytes()
    edit_manifest(manifest, lambda document: document["files"][number].update(size=len(data), MD5checksum=_md5(data)))


def flip(path: Path, position: int) -> None:
    """Flip one bit of a file; negative positions count from its end."""
    data = bytearray(path.read_bytes())
    data[position] ^= 0x10
    path.write_bytes(data)


def tree(folder: Path) -> dict[str, bytes | None]:
    """Take down everything under a folder: each file's bytes, None for a folder; empty if it isn't there."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")
    }


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()
