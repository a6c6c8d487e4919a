"""A delivery that is written while a bucket is listed is one that everybody reads, or none at all."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from inventory_enqueue import pipeline
from inventory_enqueue.config import AwsSettings, FirstRun, JsonLinesFile, LatestDelivery, MessageFormat, RunConfig
from inventory_enqueue.delivery import snapshot
from inventory_enqueue.delivery.snapshot import SnapshotWriter, write_snapshot
from inventory_enqueue.delivery.writing import InventoryConfig
from inventory_enqueue.demo.odd_keys import ODD_KEYS
from inventory_enqueue.errors import RefusedError
from inventory_enqueue.stores import open_store
from inventory_enqueue.uris import Location, S3Url

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from inventory_enqueue.demo.roto import RotoServer

BEGAN = datetime(2026, 3, 2, 1, 5, 30, 250_000, tzinfo=UTC)
ROWS = 5_000


def frame(keys: list[str]) -> pl.DataFrame:
    """Rows as a listing gives them."""
    return pl.DataFrame(
        {
            "key": keys,
            "size": range(len(keys)),
            "last_modified_date": [BEGAN - timedelta(days=number) for number in range(len(keys))],
            "e_tag": [f"{number:032x}" for number in range(len(keys))],
            "storage_class": ["STANDARD" if number % 3 else "GLACIER" for number in range(len(keys))],
        },
        schema_overrides={"size": pl.Int64, "last_modified_date": pl.Datetime("ms", "UTC")},
    )


def frames() -> Iterator[pl.DataFrame]:
    yield frame([*ODD_KEYS])
    for start in range(0, ROWS, 1_000):
        yield frame([f"k/{number:05}" for number in range(start, start + 1_000)])


@pytest.fixture(params=["folder", "s3"])
def target(request: pytest.FixtureRequest, tmp_path: Path, bucket: str) -> Location:
    return tmp_path / "to" if request.param == "folder" else S3Url(bucket, "some/prefix/")


def writer(target: Location, roto: RotoServer, tmp_path: Path) -> SnapshotWriter:
    settings = AwsSettings(s3_endpoint_url=roto.endpoint_url)
    prefix = target.key.rstrip("/") if isinstance(target, S3Url) else ""
    destination = target.bucket if isinstance(target, S3Url) else "local"
    config = InventoryConfig("a-bucket", destination, prefix, "live")
    return SnapshotWriter(open_store(target, settings, tmp_path / "scratch"), config, BEGAN)


def test_a_snapshot_is_a_delivery_like_any_other(
    target: Location, roto: RotoServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than one file, and more than one row group in each."""
    monkeypatch.setattr(snapshot, "_ROWS_PER_GROUP", 700)
    monkeypatch.setattr(snapshot, "_ROWS_PER_FILE", 2_000)
    write_snapshot(writer(target, roto, tmp_path), frames())
    folder = (
        S3Url(target.bucket, "some/prefix/a-bucket/live/") if isinstance(target, S3Url) else target / "a-bucket/live"
    )
    out = tmp_path / "out.jsonl"
    config = RunConfig(
        manifest=LatestDelivery(folder),
        sink=JsonLinesFile(out),
        state=tmp_path / "state",
        first_run=FirstRun.ALL,
        message_format=MessageFormat.JSON,
        work_dir=tmp_path / "work",
        aws=AwsSettings(s3_endpoint_url=roto.endpoint_url),
    )
    report = pipeline.run(config)
    expected = pl.concat(frames())
    assert report.source is not None
    assert (report.source["files"], report.counts["listed"]) == (3, expected.height)
    assert report.source["created"] == "2026-03-02T01:05:30.250Z"
    assert report.counts["filtered"] == {"archived": (expected["storage_class"] == "GLACIER").sum()}
    sent = {record["key"] for record in map(json.loads, out.read_text(encoding="ascii").splitlines())}
    assert sent == set(expected.filter(pl.col("storage_class") == "STANDARD")["key"])


def test_polars_reads_its_files(roto: RotoServer, tmp_path: Path) -> None:
    write_snapshot(writer(tmp_path / "to", roto, tmp_path), frames())
    read = pl.read_parquet(tmp_path / "to/a-bucket/live/data/*.parquet")
    assert read["bucket"].unique().to_list() == ["a-bucket"]
    assert_frame_equal(read.drop("bucket"), pl.concat(frames()).select(read.columns[1:]))


def test_nothing_listed_is_a_delivery_without_rows(target: Location, roto: RotoServer, tmp_path: Path) -> None:
    made = writer(target, roto, tmp_path)
    write_snapshot(made, [])
    assert made.manifest.endswith("a-bucket/live/2026-03-02T01-05Z/manifest.json")


def test_a_listing_that_breaks_leaves_no_delivery(target: Location, roto: RotoServer, tmp_path: Path) -> None:
    def breaking() -> Iterator[pl.DataFrame]:
        yield from frames()
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_snapshot(writer(target, roto, tmp_path), breaking())
    store = open_store(target, AwsSettings(s3_endpoint_url=roto.endpoint_url), tmp_path / "scratch")
    assert store.names("a-bucket/live/2026-03-02T01-05Z") == []
    assert store.names("a-bucket/live/data") == []
    assert [path for path in tmp_path.rglob("*") if path.suffix in {".tmp", ".parquet"}] == []


def test_a_second_snapshot_of_the_same_minute_is_refused(target: Location, roto: RotoServer, tmp_path: Path) -> None:
    write_snapshot(writer(target, roto, tmp_path), frames())
    with pytest.raises(RefusedError, match="wait a minute"):
        writer(target, roto, tmp_path)
