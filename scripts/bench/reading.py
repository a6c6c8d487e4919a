"""How fast data files become fingerprints, in how much memory, and how well downloads hide behind that.

    python scripts/bench/reading.py

Rates: rows per CPU-second (user and system, of all threads and processes) of reading and fingerprinting, against a peer
that reads the same columns of the same files and does nothing with them; MD5 is counted on neither side. Memory: the
peak of the index stage over 1, 10 and 100 files. Overlap: how busy the index stage keeps the cores when S3 takes its
time.

Each measurement has a process of its own; what it imports, and a file that is read to warm up, aren't counted. The two
sides of a ratio take turns, and the median of the rounds' ratios is printed: what else the machine does hits both.
"""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, cast

import click
import polars as pl
import pyarrow as pa
import pyarrow.csv
import pyarrow.orc
from deliveries import DESTINATION, Listing, data_files, repeated
from measuring import cpu_seconds, in_process, load_note, peak_rss, scratch_folder
from slow_s3 import slow_s3

from inventory_enqueue.config import AwsSettings, FirstRun, RunConfig, Sizes, StandardOutput
from inventory_enqueue.delivery.formats.orc import Decoder
from inventory_enqueue.delivery.landing import LandedFile, Landing
from inventory_enqueue.delivery.reading import Room, read_rows
from inventory_enqueue.engines.local import run_stage
from inventory_enqueue.fingerprints import CONTENT_COLUMNS, Scheme, Versions, identity_columns
from inventory_enqueue.manifest import FileFormat, Manifest, csv_columns
from inventory_enqueue.planning import Job, plan_run
from inventory_enqueue.report import Stage
from inventory_enqueue.run import Runtime
from inventory_enqueue.stages.worker import Worker
from inventory_enqueue.stores.local import LocalStore
from inventory_enqueue.uris import Location, S3Url
from inventory_enqueue.watch import Watch

PEERS: Final = {
    FileFormat.PARQUET: "polars.read_parquet",
    FileFormat.CSV: "pyarrow.csv",
    FileFormat.ORC: "pyarrow.orc",
}
GOALS: Final = {FileFormat.PARQUET: (0.35, 0.6), FileFormat.CSV: (0.5, 0.8), FileFormat.ORC: (0.5, 0.8)}
"""The ratio that is needed at least, and the one that is aimed at."""

FILES: Final = 4
MEMORY_FILES: Final = (1, 10, 100)
OVERLAP_FILES: Final = 100
LATENCY: Final = 0.020
"""Seconds that S3 takes to answer."""

ROOM: Final = Room(Sizes().bytes_decoded)
CORES: Final = os.cpu_count() or 1
_MB: Final = 1_000_000


@click.command()
@click.option("--rows", default=4_000_000, show_default=True, help="Objects in the bucket.")
@click.option("--rounds", default=5, show_default=True, help="Turns of each two sides of a ratio.")
@click.option("--part", "parts", multiple=True, type=click.Choice(["rates", "memory", "overlap"]), help="Only these.")
@click.option(
    "--scratch",
    type=click.Path(path_type=Path),
    default=tempfile.gettempdir(),
    show_default=True,
    help="For the files.",
)
@click.option("--keep", is_flag=True, help="Leave the files there, for the next time.")
def main(rows: int, rounds: int, parts: tuple[str, ...], scratch: Path, *, keep: bool) -> None:
    """Measure the reading of deliveries."""
    missed = False
    with scratch_folder(scratch, keep=keep) as folder:
        if not parts or "rates" in parts:
            missed = not rates(folder, rows, rounds)
        if not parts or "memory" in parts:
            memory(folder, rows)
        if not parts or "overlap" in parts:
            overlap(folder, rows, rounds)
    sys.exit(missed)


# Rates


def rates(folder: Path, rows: int, rounds: int) -> bool:
    """Prints the rates, and returns whether each is as high as it has to be."""
    print(f"\nRates: {rows:,} rows in {FILES} files, {rounds} rounds; {load_note()}")
    print("| files | peer | peer, M rows per CPU-s | ours | ratio | from, to | at least | aim |")
    print("|---|---|---|---|---|---|---|---|")
    enough = True
    for versions in Versions:
        for file_format, (at_least, aim) in GOALS.items():
            with_versions = versions is Versions.ALL
            manifest = Listing(file_format, rows, rows // FILES, versions=with_versions).manifest(folder)
            pairs = [
                (in_process(rows_per_cpu_second, peer, manifest), in_process(rows_per_cpu_second, ours, manifest))
                for _ in range(rounds)
            ]
            ratios = sorted(ours / peer for peer, ours in pairs)
            peer_rate, our_rate = (statistics.median(rates) / _MB for rates in zip(*pairs, strict=True))
            ratio = statistics.median(ratios)
            enough &= ratio >= at_least
            name = f"{file_format}, all versions" if with_versions else str(file_format)
            print(
                f"| {name} | {PEERS[file_format]} | {peer_rate:.2f} | {our_rate:.2f} | {ratio:.2f} | "
                f"{ratios[0]:.2f}, {ratios[-1]:.2f} | {at_least} | {aim} |"
            )
    return enough


def rows_per_cpu_second(read: Callable[[Manifest, Path], int], manifest_path: Path) -> float:
    """The rate of a function that reads one file and returns its number of rows."""
    manifest = Manifest.parse(manifest_path.read_bytes(), where=str(manifest_path))
    files = data_files(manifest_path)
    read(manifest, files[0])
    started = _cpu_seconds()
    rows = sum(read(manifest, path) for path in files)
    return rows / (_cpu_seconds() - started)


def _cpu_seconds() -> float:
    """Of this process, and of those that decode ORC files for it."""
    return time.process_time() + sum(map(cpu_seconds, Decoder.pids()))


def columns(manifest: Manifest) -> tuple[str, ...]:
    """What of a delivery is read."""
    versions = Versions.ALL if "version_id" in manifest.columns else Versions.CURRENT
    return (*identity_columns(versions), *CONTENT_COLUMNS)


def ours(manifest: Manifest, path: Path) -> int:
    """Reads a file into our schema, its bucket checked, and computes the fingerprints."""
    wanted = columns(manifest)
    expressions = Scheme().expressions(Versions.ALL if "version_id" in wanted else Versions.CURRENT)
    landed = LandedFile(path, manifest.file_format, manifest.file_schema, manifest.source_bucket, str(path))
    return sum(rows.frame.select(expressions).height for rows in read_rows(landed, wanted, ROOM))


def peer(manifest: Manifest, path: Path) -> int:
    """Reads a file's columns with the library that is known for it."""
    wanted = list(columns(manifest))
    match manifest.file_format:
        case FileFormat.PARQUET:
            return pl.read_parquet(path, columns=wanted).height
        case FileFormat.ORC:
            return pyarrow.orc.ORCFile(path).read(wanted).num_rows
        case FileFormat.CSV:
            return _csv_rows(path, csv_columns(manifest.file_schema), wanted)


def _csv_rows(path: Path, names: list[str], wanted: list[str]) -> int:
    with pa.OSFile(str(path), "rb") as file:
        reader = pyarrow.csv.open_csv(
            cast("IO[bytes]", pa.CompressedInputStream(file, "gzip")),  # the stubs don't know that it is one
            read_options=pyarrow.csv.ReadOptions(column_names=names),
            convert_options=pyarrow.csv.ConvertOptions(
                include_columns=wanted,
                column_types={name: pa.int64() if name == "size" else pa.string() for name in wanted},
            ),
        )
        return sum(batch.num_rows for batch in reader)


# The index stage


@dataclass(frozen=True)
class Usage:
    """What the index stage took."""

    rows: int
    wall: float
    cpu: float
    peak: int
    """Bytes of the process, and of those that decode ORC files for it, as they once were in memory."""


def index_stage(manifest: Location, folder: Path, aws: AwsSettings) -> Usage:
    """Runs the index stage of a first run, alone."""
    config = RunConfig(
        manifest, StandardOutput(), folder / "state", first_run=FirstRun.SEED, source_region="us-east-1", aws=aws
    )
    runtime = Runtime(folder / "work", config.sending, aws, config.sizes)
    landing = Landing(aws, runtime.work_dir)
    store, watch = LocalStore(folder / "state" / "bench"), Watch()
    worker = Worker(plan_run(Job(config, runtime, landing, landing.open(manifest), "bench", store, watch), None), watch)
    wall, cpu = time.monotonic(), _cpu_seconds()
    rows = sum(report.counts["listed"] for report in run_stage(worker, Stage.INDEX))
    wall, cpu = time.monotonic() - wall, _cpu_seconds() - cpu
    peak = peak_rss() + sum(peak_rss(decoder) for decoder in Decoder.pids())
    landing.close()
    worker.close()
    return Usage(rows, wall, cpu, peak)


@contextmanager
def _empty(folder: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=folder) as name:
        yield Path(name)


# Memory


def memory(folder: Path, rows: int) -> None:
    """Prints the peak memory of the index stage over a growing number of equal files."""
    print(f"\nMemory of the index stage: peak RSS over files of {rows // FILES:,} rows; {load_note()}")
    print(f"| files | {' | '.join(f'{count} files, MB' for count in MEMORY_FILES)} | last / first |")
    print(f"|---|{'---|' * (len(MEMORY_FILES) + 1)}")
    for file_format in GOALS:
        original = Listing(file_format, rows, rows // FILES).manifest(folder)
        peaks = []
        for count in MEMORY_FILES:
            with _empty(folder) as place:
                manifest = repeated(original, place / "delivery", count)
                peaks.append(in_process(index_stage, manifest, place, AwsSettings()).peak)
        columns = " | ".join(f"{peak / _MB:.0f}" for peak in peaks)
        print(f"| {file_format} | {columns} | {peaks[-1] / peaks[0]:.2f} |")


# Overlap


def overlap(folder: Path, rows: int, rounds: int) -> None:
    """Prints how busy the cores are while the files come from S3, when it answers at once and when it doesn't."""
    manifest = Listing(FileFormat.PARQUET, rows, rows // OVERLAP_FILES).manifest(folder)
    root = next(above for above in manifest.parents if above.parent == folder)
    url = S3Url(DESTINATION, manifest.relative_to(root).as_posix())
    latencies = (0.0, LATENCY)
    usages: dict[float, list[Usage]] = {latency: [] for latency in latencies}
    print(f"\nOverlap: {rows:,} rows in {OVERLAP_FILES} Parquet files from S3, {rounds} rounds; {load_note()}")
    for _ in range(rounds):
        for latency in latencies:
            with slow_s3(root, latency) as endpoint, _empty(folder) as place:
                aws = AwsSettings(region="us-east-1", s3_endpoint_url=endpoint, no_sign_request=True)
                usages[latency].append(in_process(index_stage, url, place, aws))
    print("| S3 takes, ms a request | wall s | CPU s | cores busy |")
    print("|---|---|---|---|")
    for latency in latencies:
        wall, cpu, busy = (
            statistics.median(values)
            for values in zip(*((u.wall, u.cpu, u.cpu / u.wall / CORES) for u in usages[latency]), strict=True)
        )
        print(f"| {latency * 1000:.0f} | {wall:.2f} | {cpu:.2f} | {busy:.0%} |")
    slower = statistics.median(
        late.wall / prompt.wall for prompt, late in zip(*(usages[latency] for latency in latencies), strict=True)
    )
    waiting = OVERLAP_FILES * LATENCY
    print(f"With latency it takes {slower:.2f} x as long; the requests' waiting adds up to {waiting:.1f} s.")


if __name__ == "__main__":
    main()
