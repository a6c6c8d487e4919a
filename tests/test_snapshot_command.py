"""`snapshot`: what lies under a prefix now, as a delivery that the daily run takes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import polars as pl
import pytest

from inventory_enqueue.demo.odd_keys import ODD_KEYS
from tests.support.cli import Result, run_cli

if TYPE_CHECKING:
    from pathlib import Path

    from types_boto3_s3 import S3Client

    from inventory_enqueue.demo.roto import RotoServer

MANY = [f"logs/{number // 100:02}/{number:04}" for number in range(1_200)]
# A server of the tests takes one for the other.
ODD = sorted(key for key in ODD_KEYS if "\\" not in key and not key.startswith("/") and "//" not in key)


@pytest.fixture
def filled(s3_client: S3Client, bucket: str) -> str:
    for key in [*MANY, *(f"odd/{key}" for key in ODD)]:
        s3_client.put_object(Bucket=bucket, Key=key, Body=key.encode()[:5])
    return bucket


def snapshot(roto: RotoServer, url: str, target: Path | str, *more: str) -> Result:
    return run_cli("snapshot", url, "--to", str(target), "--endpoint-url", roto.endpoint_url, *more)


def rows(folder: Path) -> pl.DataFrame:
    return pl.read_parquet(folder / "data/*.parquet")


@pytest.mark.parametrize("more", [(), ("--page-by-page",), ("--concurrency", "1")])
def test_every_object_under_the_prefix_is_in_it_as_the_bucket_tells(
    more: tuple[str, ...], filled: str, roto: RotoServer, s3_client: S3Client, tmp_path: Path
) -> None:
    done = snapshot(roto, f"s3://{filled}/", tmp_path / "to", *more)
    assert done.exit_code == 0, done
    listed = rows(tmp_path / "to" / filled / "live").sort("key")
    assert listed["key"].to_list() == sorted([*MANY, *(f"odd/{key}" for key in ODD)])
    told = s3_client.head_object(Bucket=filled, Key=MANY[7])
    row = listed.row(by_predicate=pl.col("key") == MANY[7], named=True)
    assert (row["size"], row["e_tag"], row["bucket"]) == (5, told["ETag"].strip('"'), filled)
    assert row["last_modified_date"].replace(microsecond=0) == told["LastModified"]
    assert f"{listed.height:,} keys in " in done.stderr


def test_only_the_prefix_is_listed_and_the_delivery_can_lie_in_s3(
    filled: str, roto: RotoServer, s3_client: S3Client, tmp_path: Path
) -> None:
    target = f"s3://{filled}/snapshots/"
    done = snapshot(roto, f"s3://{filled}/logs/03/", target, "--id", "logs-3")
    assert done.exit_code == 0, done
    out = tmp_path / "out.jsonl"
    taken = run_cli(
        *("--inventory", f"{target}{filled}/logs-3/", "--output", str(out), "--first-run", "all", "--json"),
        *("--message-format", "json", "--endpoint-url", roto.endpoint_url, "--state", str(tmp_path / "state")),
    )
    assert taken.exit_code == 0, taken
    sent = [json.loads(line)["key"] for line in out.read_text(encoding="ascii").splitlines()]
    assert sorted(sent) == [key for key in MANY if key.startswith("logs/03/")]
    assert s3_client.list_objects_v2(Bucket=filled, Prefix=f"snapshots/{filled}/logs-3/data/")["KeyCount"] == 1


def test_what_came_changed_and_went_between_two_snapshots_is_what_diff_tells(
    filled: str, roto: RotoServer, s3_client: S3Client, tmp_path: Path
) -> None:
    for name in ("old", "same"):
        assert snapshot(roto, f"s3://{filled}/logs/", tmp_path / name).exit_code == 0
    for key in ("logs/a", "logs/b b", "logs/é"):
        s3_client.put_object(Bucket=filled, Key=key, Body=b"new")
    s3_client.put_object(Bucket=filled, Key=MANY[5], Body=b"another")
    s3_client.delete_object(Bucket=filled, Key=MANY[9])
    assert snapshot(roto, f"s3://{filled}/logs/", tmp_path / "new").exit_code == 0

    def manifest(name: str) -> str:
        (found,) = (tmp_path / name).glob("*/live/*Z/manifest.json")
        return str(found)

    def changes(old: str, new: str) -> list[tuple[str, str]]:
        printed = run_cli("diff", manifest(old), manifest(new)).stdout.splitlines()
        return sorted((change["change"], change["key"]) for change in map(json.loads, printed))

    assert changes("old", "same") == []
    assert changes("old", "new") == [
        ("changed", MANY[5]),
        ("deleted", MANY[9]),
        *(("new", key) for key in ("logs/a", "logs/b b", "logs/é")),
    ]


@pytest.mark.parametrize(
    ("url", "more", "code", "says"),
    [
        ("s3://no-such-bucket-here/", (), 3, "the bucket isn't there"),
        ("folder", (), 2, "s3://BUCKET/PREFIX"),
        ("s3://bucket/", ("--id", "../x"), 2, "--id"),
    ],
)
def test_what_cannot_be_listed_is_told(  # noqa: PLR0913, PLR0917 - fixtures
    url: str, more: tuple[str, ...], code: int, says: str, roto: RotoServer, tmp_path: Path
) -> None:
    done = snapshot(roto, url, tmp_path / "to", *more)
    assert (done.exit_code, says in done.stderr) == (code, True), done
    assert not list((tmp_path).rglob("manifest*"))
