"""Proves that a run stays within its budget plus 256 MB, on the files that make it hardest.

    python scripts/bench/memory.py

These are a Parquet file that is one row group of 2 M rows, and a CSV file that is one gzip member of more than 2 GB.
Each is read by the command line itself: as a first run that only records the delivery, as the next day's run against
that baseline, and as a run that reads both days (--previous). Exits with 1 where a run took more, or counted wrongly.
"""

import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Final

import click
from deliveries import Listing, data_files
from measuring import in_process, load_note, scratch_folder

from inventory_enqueue.manifest import FileFormat

BUDGETS: Final = {"256M": 256 * 1024**2, "1GiB": 1024**3}
ALLOWANCE: Final = 256 * 1024**2
"""What the interpreter and its libraries may take beside the budget."""

_MB: Final = 1_000_000
_ISIZE_BYTES: Final = 4


@click.command()
@click.option("--parquet-rows", default=2_000_000, show_default=True, help="Rows of the row group.")
@click.option("--csv-rows", default=10_000_000, show_default=True, help="Rows of the gzip member, of 215 bytes each.")
@click.option("--scratch", type=click.Path(path_type=Path), default=tempfile.gettempdir(), help="Where files are made.")
@click.option("--keep", is_flag=True, help="Leave the files there, for the next time.")
def main(parquet_rows: int, csv_rows: int, scratch: Path, *, keep: bool) -> None:
    """Measure the peak memory of runs."""
    kept = True
    with scratch_folder(scratch, keep=keep) as folder:
        print(f"Peak RSS against the budget plus {ALLOWANCE / _MB:.0f} MB; {load_note()}")
        print("| file | run | --memory | peak MB | allowed MB | share |")
        print("|---|---|---|---|---|---|")
        for listing in (
            # Day two has more rows than day one: twice as many are sure to fit one file and one row group.
            Listing(FileFormat.PARQUET, parquet_rows, 2 * parquet_rows, 2 * parquet_rows),
            Listing(FileFormat.CSV, csv_rows, 2 * csv_rows),
        ):
            # Written in processes of their own: a child's peak is never told lower than its parent's memory.
            with ThreadPoolExecutor() as pool:
                days = [pool.submit(in_process, replace(listing, day=day).manifest, folder) for day in (1, 2)]
                manifests = [day.result() for day in days]
            for memory, budget in BUDGETS.items():
                kept &= _runs(folder, listing, manifests, memory, budget + ALLOWANCE)
    sys.exit(not kept)


def _runs(folder: Path, listing: Listing, manifests: list[Path], memory: str, allowed: int) -> bool:
    """Runs the command line over two days, prints what it took, and returns whether that was allowed and right."""
    first, second = (str(manifest) for manifest in manifests)
    bucket = listing.bucket
    changes = {"new": len(bucket.new(2)), "changed": len(bucket.changed(2)), "deleted": len(bucket.deleted(2))}
    kept = True
    with tempfile.TemporaryDirectory(dir=folder) as place:
        for name, state, arguments, counts in (
            ("first run", "a", ["--manifest", first, "--first-run", "seed"], {"listed": bucket.rows(1)}),
            ("next day", "a", ["--manifest", second], changes),
            ("--previous", "b", ["--manifest", second, "--previous", first], changes),
        ):
            peak, counted = _run(Path(place), state, memory, arguments)
            right = {kind: counted[kind] for kind in counts} == counts
            kept &= peak <= allowed and right
            print(
                f"| {_described(data_files(manifests[0])[0])} | {name} | {memory} | {peak / _MB:.0f} | "
                f"{allowed / _MB:.0f} | {peak / allowed:.2f}{'' if right else ': WRONG COUNTS'} |",
                flush=True,
            )
    return kept


def _run(place: Path, state: str, memory: str, arguments: list[str]) -> tuple[int, dict[str, int]]:
    """Runs the command line. Returns its peak RSS in bytes, and the counts of its report."""
    common = [
        "--state",
        str(place / state),
        "--work-dir",
        str(place / "work"),
        "--output",
        str(place / "messages.jsonl"),
    ]
    command = [sys.executable, "-m", "inventory_enqueue", *arguments, *common, "--memory", memory, "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:  # noqa: S603 - our own command line
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        report = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(process.returncode)
    return usage.ru_maxrss * 1024, json.loads(report)["counts"]


def _described(path: Path) -> str:
    """A data file, by its size; a gzip member ends with its uncompressed size."""
    size = f"{path.stat().st_size / _MB:,.0f} MB"
    if path.suffix != ".gz":
        return f"Parquet, one row group, {size}"
    with path.open("rb") as file:
        file.seek(-_ISIZE_BYTES, os.SEEK_END)
        return f"CSV, one member, {size} ({int.from_bytes(file.read(), 'little') / _MB:,.0f} MB uncompressed)"


if __name__ == "__main__":
    main()
