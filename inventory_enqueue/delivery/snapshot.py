"""A delivery that is written while a bucket is listed: the inventory's own form, for whoever reads S3 Inventory."""

import hashlib
import uuid
from collections.abc import Iterable
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import polars as pl

from inventory_enqueue.delivery.formats.writing import file_schema, parquet_writer
from inventory_enqueue.delivery.writing import DataFile, InventoryConfig, delivered_schema, manifest_json
from inventory_enqueue.errors import RefusedError
from inventory_enqueue.manifest import FileFormat
from inventory_enqueue.store import Store

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow.parquet as pq

COLUMNS: Final = ("bucket", "key", "size", "last_modified_date", "e_tag", "storage_class")
"""What a listing tells, by the inventory's names."""
_ROWS_PER_GROUP: Final = 100_000
"""Rows that are held in memory: about 20 MB."""
_ROWS_PER_FILE: Final = 2_000_000
_SCHEMA: Final = delivered_schema(COLUMNS)


class SnapshotWriter:
    """Writes one delivery; readers find it once finish() has returned."""

    def __init__(self, destination: Store, config: InventoryConfig, began: datetime) -> None:
        """Begins a delivery.

        Args:
            destination: What stands for an inventory's destination: the prefix of config lies above it.
            config: Names the bucket that is listed, and the delivery's folder.
            began: When the listing began: the delivery's creation time, since what comes later is news.

        Raises:
            RefusedError: A delivery of this minute is there.
        """
        self._store = destination
        self._config = config
        self._began = began.astimezone(UTC)
        self._pending: list[pl.DataFrame] = []
        self._file: _File | None = None
        self._files: list[DataFile] = []
        base = f"{config.source_bucket}/{config.config_id}"
        self._data = f"{base}/data"
        self._folder = f"{base}/{self._began:%Y-%m-%dT%H-%MZ}"
        if destination.size(f"{self._folder}/manifest.json") is not None:
            raise RefusedError("a delivery of this minute is there already: wait a minute", where=self.manifest)

    @property
    def manifest(self) -> str:
        """Where manifest.json is, once it is there."""
        return self._store.where(f"{self._folder}/manifest.json")

    def add(self, rows: pl.DataFrame) -> None:
        """Writes rows of COLUMNS, but for the bucket.

        Raises:
            OSError, StoppedError, PreflightError: They can't be written.
        """
        self._pending.append(rows)
        if sum(frame.height for frame in self._pending) >= _ROWS_PER_GROUP:
            self._write_group()

    def finish(self) -> None:
        """Writes what is left, the manifest, and last of all its checksum, which says that the rest is there.

        Raises:
            OSError, StoppedError, PreflightError: It can't be written.
        """
        if self._pending or not self._files:
            self._write_group()
        self._end_file()
        schema = file_schema(FileFormat.PARQUET, _SCHEMA)
        manifest = manifest_json(self._config, self._began, FileFormat.PARQUET, schema, self._files)
        checksum = hashlib.md5(manifest, usedforsecurity=False).hexdigest()
        self._store.put(f"{self._folder}/manifest.json", manifest)
        self._store.put(f"{self._folder}/manifest.checksum", f"{checksum}\n".encode())

    def abort(self) -> None:
        """Ends it without a delivery: what is half written is removed."""
        if self._file is not None:
            self._file.abort()

    def _write_group(self) -> None:
        frames = self._pending or [pl.DataFrame(schema=dict.fromkeys(COLUMNS[1:], pl.Null))]
        self._pending = []
        rows = pl.concat(frames).with_columns(bucket=pl.lit(self._config.source_bucket)).select(COLUMNS)
        if self._file is None:
            self._file = _File(self._store, f"{self._data}/{uuid.uuid4()}.parquet")
        self._file.write(rows)
        if self._file.rows >= _ROWS_PER_FILE:
            self._end_file()

    def _end_file(self) -> None:
        if self._file is not None:
            ended, self._file = self._file, None
            size, md5 = ended.finish()
            prefix = f"{self._config.destination_prefix}/" if self._config.destination_prefix else ""
            self._files.append(DataFile(f"{prefix}{ended.name}", size, md5, ended.rows))


class _File:
    """A data file that is being written."""

    def __init__(self, store: Store, name: str) -> None:
        self.name = name
        self.rows = 0
        self._block = ExitStack()
        self._path: Path = self._block.enter_context(store.write_file(name))
        self._writer: pq.ParquetWriter = self._block.enter_context(parquet_writer(self._path, _SCHEMA))

    def write(self, rows: pl.DataFrame) -> None:
        """Writes a row group."""
        self._writer.write_table(rows.to_arrow().cast(_SCHEMA), row_group_size=max(1, rows.height))
        self.rows += rows.height

    def finish(self) -> tuple[int, str]:
        """Puts it in its place, and returns its size and MD5."""
        with self._block:
            self._writer.close()
            with self._path.open("rb") as file:
                md5 = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
            return self._path.stat().st_size, md5

    def abort(self) -> None:
        """Leaves nothing of it."""
        self._block.__exit__(_Aborted, _Aborted(), None)


class _Aborted(Exception):  # noqa: N818 - it is nobody's error
    """Says to what writes a file that it isn't whole."""


def write_snapshot(writer: SnapshotWriter, frames: Iterable[pl.DataFrame]) -> None:
    """Writes a whole listing.

    Raises:
        InventoryEnqueueError, OSError: It can't be listed or written; then no delivery is there.
    """
    try:
        for rows in frames:
            writer.add(rows)
        writer.finish()
    except BaseException:
        writer.abort()
        raise
