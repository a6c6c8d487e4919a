"""Writes fixtures/: small pairs of deliveries with what a diff of their live sets must find. Same bytes each time.

    python scripts/make_fixtures.py [OUT]

Each folder stands for a destination bucket. Its expected.json names the two manifests and, sorted and each once, the
keys that day two's live objects bring new, changed or deleted.
"""

import hashlib
import json
import shutil
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import click
import polars as pl

from inventory_enqueue.delivery.writing import InventoryConfig, write_delivery
from inventory_enqueue.demo.bucket import FIRST_DELIVERY, Bucket
from inventory_enqueue.demo.odd_keys import ODD_KEYS

FIXTURES = Path(__file__).parent.parent / "fixtures"

ROW_SCHEMA = pl.Schema(
    {
        "bucket": pl.String(),
        "key": pl.String(),
        "version_id": pl.String(),
        "is_latest": pl.Boolean(),
        "is_delete_marker": pl.Boolean(),
        "size": pl.Int64(),
        "last_modified_date": pl.Datetime("ms", "UTC"),
        "e_tag": pl.String(),
        "storage_class": pl.String(),
        "is_multipart_uploaded": pl.Boolean(),
        "replication_status": pl.String(),
        "encryption_status": pl.String(),
    }
)
VERSION_COLUMNS = ("version_id", "is_latest", "is_delete_marker")

Row = dict[str, Any]


@dataclass(frozen=True)
class Expected:
    """What day two brings: keys, each once, sorted."""

    new: list[str]
    changed: list[str]
    deleted: list[str]


@click.command()
@click.argument("out", type=click.Path(path_type=Path, file_okay=False), default=FIXTURES)
def main(out: Path) -> None:
    """Write the fixtures to OUT (default: fixtures/ of this repository)."""
    for name, make in {
        "odd-keys": odd_keys,
        "plain-40": plain_40,
        "duplicates": duplicates,
        "versions": versions,
    }.items():
        folder = out / name
        shutil.rmtree(folder, ignore_errors=True)
        make(folder)
        print(folder)


def odd_keys(folder: Path) -> None:
    """Day two adds every odd key, and a few plain keys come, change and go."""
    plain = [f"plain/{number:04}.json" for number in range(12)]
    day_1 = [row(key) for key in plain]
    kept = [row(key, content="2" if key in plain[:3] else "1") for key in plain[:-2]]
    day_2 = [*kept, *(row(key, content="2") for key in ("plain/new.json", *ODD_KEYS))]
    write_pair(
        folder,
        "odd-source",
        [[day_1], [day_2[0::2], day_2[1::2]]],
        Expected(["plain/new.json", *ODD_KEYS], plain[:3], plain[-2:]),
    )


def plain_40(folder: Path) -> None:
    """A bucket of 40 objects from the generator of the demo and the benchmarks."""
    bucket = Bucket("plain-source", 40, seed=40, new_ratio=0.1, changed_ratio=0.075, deleted_ratio=0.05)
    config = InventoryConfig(bucket.name, "fixture-inventory")
    manifests = [
        write_delivery(folder, config, bucket.created(day), bucket.files(day, 20, 10), seed=bucket.seed).manifest_key
        for day in (1, 2)
    ]
    changes = (bucket.new_keys(2), bucket.changed_keys(2), bucket.deleted_keys(2))
    write_expected(folder, manifests, Expected(*(keys.to_list() for keys in changes)))


def duplicates(folder: Path) -> None:
    """A rolling listing can name a key twice: unchanged duplicates are no news, and a key is news at most once."""
    day_1 = [
        *[row("same-twice")] * 2,
        row("differs", content="1"),
        row("differs", content="2"),
        row("settles", content="1"),
        row("settles", content="2"),
        row("one-of-two-changes", content="1"),
        row("one-of-two-changes", content="2"),
        row("becomes-two", content="1"),
        *[row("changes-twice", content="1")] * 2,
        *[row("deleted-twice")] * 2,
        row("alone"),
    ]
    day_2 = [
        *[row("same-twice")] * 2,
        row("differs", content="2"),
        row("differs", content="1"),
        row("settles", content="2"),
        row("one-of-two-changes", content="1"),
        row("one-of-two-changes", content="3"),
        *[row("becomes-two", content="1")] * 2,
        *[row("changes-twice", content="2")] * 2,
        *[row("new-twice", content="2")] * 2,
        row("new-and-differs", content="2"),
        row("new-and-differs", content="3"),
        row("alone"),
    ]
    write_pair(
        folder,
        "duplicates-source",
        [[day_1[0::2], day_1[1::2]], [day_2[0::2], day_2[1::2]]],
        Expected(["new-and-differs", "new-twice"], ["changes-twice", "one-of-two-changes"], ["deleted-twice"]),
    )


def versions(folder: Path) -> None:
    """A bucket with versioning, all versions listed: only the latest one of a key counts, and no delete marker."""
    day_1 = [
        version("unchanged", "1"),
        version("unchanged-with-history", "1", latest=False),
        version("unchanged-with-history", "2"),
        version("history-expires", "1", latest=False),
        version("history-expires", "2"),
        version("overwritten", "1"),
        version("rewritten-alike", "1"),
        version("null-version", None),
        version("null-version-overwritten", None),
        version("deleted", "1"),
        version("restored", "1", latest=False),
        marker("restored", "2"),
        version("still-deleted", "1", latest=False),
        marker("still-deleted", "2"),
        version("purged", "1"),
        version("rolled-back", "1", latest=False),
        version("rolled-back", "2"),
    ]
    day_2 = [
        version("unchanged", "1"),
        version("unchanged-with-history", "1", latest=False),
        version("unchanged-with-history", "2"),
        version("history-expires", "2"),
        version("overwritten", "1", latest=False),
        version("overwritten", "2"),
        version("rewritten-alike", "1", latest=False),
        version("rewritten-alike", "2", content="1"),
        version("null-version", None),
        version("null-version-overwritten", None, latest=False),
        version("null-version-overwritten", "2"),
        version("deleted", "1", latest=False),
        marker("deleted", "2"),
        version("restored", "1"),
        version("still-deleted", "1", latest=False),
        marker("still-deleted", "2"),
        version("rolled-back", "1"),
        version("new", "2"),
        version("new-with-history", "2", latest=False),
        version("new-with-history", "3"),
        version("new-null-version", None, content="2"),
        version("new-but-deleted", "2", latest=False),
        marker("new-but-deleted", "3"),
    ]
    write_pair(
        folder,
        "versions-source",
        # A key's versions straddle two files: nothing says that they can't.
        [[day_1[0::2], day_1[1::2]], [day_2[0::2], day_2[1::2]]],
        Expected(
            ["new", "new-null-version", "new-with-history", "restored"],
            ["null-version-overwritten", "overwritten", "rolled-back"],
            ["deleted", "purged"],
        ),
    )


def row(key: str, *, content: str = "1") -> Row:
    """One object; other content gives another e_tag and size, and all but "0" and "1" were written after day one."""
    digest = md5(f"{key}\n{content}")
    written = FIRST_DELIVERY + timedelta(days=0 if int(content) > 1 else -2, seconds=int(digest[:3], 16))
    return {
        "key": key,
        "size": len(key) * 10 + int(content),
        "last_modified_date": written,
        "e_tag": digest,
        "storage_class": "STANDARD",
        "is_multipart_uploaded": False,
        "encryption_status": "SSE-S3",
    }


def version(key: str, number: str | None, *, latest: bool = True, content: str | None = None) -> Row:
    """One version of an object; number None is the null version, written before versioning was on."""
    return {
        **row(key, content=content or number or "0"),
        "version_id": number and version_id(key, number),
        "is_latest": latest,
        "is_delete_marker": False,
    }


def marker(key: str, number: str) -> Row:
    """A delete marker, as the latest version."""
    return {
        "key": key,
        "version_id": version_id(key, number),
        "is_latest": True,
        "is_delete_marker": True,
        "last_modified_date": row(key, content=number)["last_modified_date"],
    }


def version_id(key: str, number: str) -> str:
    """32 characters, as S3's are."""
    return md5(f"version {number} of {key}")


def md5(text: str) -> str:
    """The MD5 of a text, in hex."""
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def write_pair(folder: Path, source: str, days: list[list[list[Row]]], expected: Expected) -> None:
    """Write two deliveries, given as days of data files of rows."""
    config = InventoryConfig(source, "fixture-inventory", "inventories/all")
    manifests = []
    for day, files in enumerate(days):
        frames = [[frame(source, rows)] for rows in files]
        created = FIRST_DELIVERY + timedelta(days=day)
        manifests.append(write_delivery(folder, config, created, frames).manifest_key)
    write_expected(folder, manifests, expected)


def frame(source: str, rows: list[Row]) -> pl.DataFrame:
    """Rows in the columns of S3 Inventory; without version columns where no row has one."""
    table = pl.DataFrame([{"bucket": source, **listed} for listed in rows], schema=ROW_SCHEMA)
    return table if "version_id" in rows[0] else table.drop(VERSION_COLUMNS)


def write_expected(folder: Path, manifests: list[str], expected: Expected) -> None:
    """Write expected.json."""
    content = {
        "manifests": manifests,
        "new": sorted(expected.new),
        "changed": sorted(expected.changed),
        "deleted": sorted(expected.deleted),
    }
    (folder / "expected.json").write_text(f"{json.dumps(content, indent=1)}\n")


if __name__ == "__main__":
    main()
