"""Writes two days of deliveries of a large synthetic bucket into a folder, for benchmarks: flat memory, any size.

    python scripts/make_pair.py OUT --objects 20000000 --rows-per-file 2000000

OUT gets the destination bucket's content, pair.json with the manifests' paths and the counts, and
expected-new.parquet, expected-changed.parquet, expected-deleted.parquet with the keys.
"""

import json
import time
from pathlib import Path

import click
import polars as pl
import pyarrow.parquet as pq

from inventory_enqueue.delivery.writing import Delivery, InventoryConfig, write_delivery
from inventory_enqueue.demo.bucket import Bucket

CHUNK = 1_000_000


@click.command()
@click.argument("out", type=click.Path(path_type=Path, file_okay=False))
@click.option("--objects", default=20_000_000, show_default=True, help="Objects on day one.")
@click.option("--rows-per-file", default=2_000_000, show_default=True, help="Rows of a data file.")
@click.option("--seed", default=1, show_default=True, help="Another seed gives another bucket.")
def main(out: Path, objects: int, rows_per_file: int, seed: int) -> None:
    """Write a pair of deliveries to OUT."""
    bucket = Bucket("bench-source", objects, seed)
    config = InventoryConfig(bucket.name, "bench-inventory", "inventory")
    manifests = {f"day_{day}": _write_day(out, bucket, config, day, rows_per_file) for day in (1, 2)}
    changes = {"new": bucket.new(2), "changed": bucket.changed(2), "deleted": bucket.deleted(2)}
    for kind, numbers in changes.items():
        _write_keys(out / f"expected-{kind}.parquet", bucket, numbers)
    counts = {kind: len(numbers) for kind, numbers in changes.items()}
    (out / "pair.json").write_text(f"{json.dumps({**manifests, **counts}, indent=2)}\n")


def _write_day(out: Path, bucket: Bucket, config: InventoryConfig, day: int, rows_per_file: int) -> str:
    start = time.perf_counter()
    delivery: Delivery = write_delivery(
        out, config, bucket.created(day), bucket.files(day, rows_per_file), seed=bucket.seed
    )
    seconds = time.perf_counter() - start
    size = sum(file.size for file in delivery.files)
    print(
        f"day {day}: {delivery.rows:,} rows in {len(delivery.files)} files, {size / 1e6:,.0f} MB, "
        f"{seconds:.1f} s ({delivery.rows / seconds / 1e6:.2f} M rows/s): {delivery.manifest}"
    )
    return delivery.manifest_key


def _write_keys(path: Path, bucket: Bucket, numbers: range) -> None:
    parts = (numbers[start : start + CHUNK] for start in range(0, max(1, len(numbers)), CHUNK))
    tables = (pl.DataFrame({"key": bucket.keys(part)}).to_arrow() for part in parts)
    first = next(tables)
    with pq.ParquetWriter(path, first.schema) as writer:
        writer.write_table(first)
        for table in tables:
            writer.write_table(table)


if __name__ == "__main__":
    main()
