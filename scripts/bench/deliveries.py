"""Deliveries of one synthetic bucket, for the benchmarks."""

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from inventory_enqueue.delivery.writing import InventoryConfig, write_delivery
from inventory_enqueue.demo.bucket import Bucket
from inventory_enqueue.manifest import FileFormat

SOURCE = "bench-source"
DESTINATION = "bench-inventory"
_CONFIG = InventoryConfig(SOURCE, DESTINATION)


@dataclass(frozen=True)
class Listing:
    """What a delivery holds.

    Args:
        file_format: The format of the data files.
        rows: Objects in the bucket on day one.
        rows_per_file: Rows of a data file.
        rows_per_group: Rows of a row group in Parquet, and of what is held in memory when any format is written.
        day: The day that is listed.
        versions: With the columns of an inventory that lists all versions.
    """

    file_format: FileFormat
    rows: int
    rows_per_file: int
    rows_per_group: int = 250_000
    day: int = 1
    versions: bool = False

    @property
    def name(self) -> str:
        """Names a folder: other parameters, another name."""
        kind = "versions" if self.versions else "current"
        return f"{self.file_format.lower()}-{kind}-{self.rows}-{self.rows_per_file}-{self.rows_per_group}-day{self.day}"

    @property
    def bucket(self) -> Bucket:
        """What is listed."""
        return Bucket(SOURCE, self.rows)

    def manifest(self, scratch: Path) -> Path:
        """The path of the delivery's manifest.json; the delivery is written where the folder doesn't have it yet."""
        bucket = self.bucket
        root, begun = scratch / self.name, scratch / f"{self.name}.part"
        if not root.exists():
            files = bucket.files(self.day, self.rows_per_file, self.rows_per_group)
            shutil.rmtree(begun, ignore_errors=True)
            write_delivery(
                begun,
                _CONFIG,
                bucket.created(self.day),
                (map(_with_versions, frames) for frames in files) if self.versions else files,
                file_format=self.file_format,
            )
            begun.rename(root)
        return root / _CONFIG.key / f"{bucket.created(self.day):%Y-%m-%dT%H-%MZ}" / "manifest.json"


def _with_versions(frame: pl.DataFrame) -> pl.DataFrame:
    """A listing of all versions: one row in eight is a null version, one in four isn't the latest."""
    return frame.with_columns(
        version_id=pl.when(pl.col("size") % 8 != 0).then(pl.col("e_tag").str.reverse()),
        is_latest=pl.col("size") % 4 != 1,
        is_delete_marker=pl.lit(value=False),
    )


def data_files(manifest: Path) -> list[Path]:
    """The data files of a delivery, in the manifest's order."""
    folder = manifest.parent.parent / "data"
    return [folder / Path(file["key"]).name for file in json.loads(manifest.read_bytes())["files"]]


def repeated(manifest: Path, folder: Path, count: int) -> Path:
    """Makes a delivery of `count` data files: those of another, as often as it takes, each under a name of its own."""
    document = json.loads(manifest.read_bytes())
    originals = list(zip(document["files"], data_files(manifest), strict=True))
    (folder / "data").mkdir(parents=True)
    files = []
    for number in range(count):
        entry, original = originals[number % len(originals)]
        key = f"data/{number}-{original.name}"
        (folder / key).hardlink_to(original)
        files.append({**entry, "key": key})
    content = json.dumps({**document, "files": files}).encode()
    checksum = hashlib.md5(content, usedforsecurity=False).hexdigest()
    (folder / "manifest.json").write_bytes(content)
    (folder / "manifest.checksum").write_text(f"{checksum}\n", encoding="ascii")
    return folder / "manifest.json"
