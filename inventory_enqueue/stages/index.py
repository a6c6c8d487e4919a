"""The index task: the fingerprint of every live row of a batch of data files, spilled by partition.

Task numbers past the current delivery's batches are those of the previous delivery, where that is read and no index.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pyarrow as pa

from inventory_enqueue.delivery.landing import LandedFile
from inventory_enqueue.delivery.reading import columns_of, read_rows
from inventory_enqueue.errors import IntegrityError
from inventory_enqueue.filters import LIVE_COLUMNS, live
from inventory_enqueue.fingerprints import ADMITTED_BIT, HASHED_COLUMNS, MAX_ROWS_PER_FILE, row_base
from inventory_enqueue.report import Output, Stage, TaskReport
from inventory_enqueue.run import Delivery, Run
from inventory_enqueue.stages.spills import SpillWriter
from inventory_enqueue.stages.worker import Worker


def run(worker: Worker, number: int) -> TaskReport:
    """Fingerprints the rows of one batch.

    Raises:
        IntegrityError: A file or a row isn't what it must be.
        PreflightError, StoppedError: A file can't be fetched.
    """
    run = worker.run
    delivery, files = batch_of(run, number)
    counts: Counter[str] = Counter()
    spill = spill_path(run, number)
    spill.parent.mkdir(parents=True, exist_ok=True)
    temporary = spill.with_suffix(".part")
    writer = SpillWriter(
        temporary, partition_bits=run.plan.partition_bits, rows_per_round=run.runtime.sizes.rows_per_spill
    )
    side = "" if delivery is run.current else "previous_"
    for file in files:
        landed = worker.landing.land(delivery, file)
        present = columns_of(landed)
        counts.update({f"{side}files_with_{name}": int(name in present) for name in ("e_tag", "size")})
        for batch, base in _rows(run, landed, present, row_base(file)):
            worker.check()
            fingerprints, archived = fingerprint(run, batch, base)
            writer.add(fingerprints)
            counts[f"{side}listed"] += batch.num_rows
            counts[f"{side}not_live"] += batch.num_rows - fingerprints.height
            counts[f"{side}not_admitted"] += archived
        counts[f"{side}bytes"] += delivery.manifest.files[file].size
    writer.close()
    temporary.replace(spill)
    return TaskReport(Stage.INDEX, number, counts, (Output(spill.name, spill.stat().st_size, writer.rows),))


def batch_of(run: Run, number: int) -> tuple[Delivery, tuple[int, ...]]:
    """The delivery and the file numbers of an index task."""
    if number < len(run.plan.batches):
        return run.current, run.plan.batches[number]
    if run.previous is None:
        raise IntegrityError(f"the run has no index task {number}", where=run.id)
    return run.previous, run.plan.previous_batches[number - len(run.plan.batches)]


def spill_path(run: Run, number: int) -> Path:
    """Where an index task leaves its fingerprints."""
    return run.scratch / "spills" / f"{number:05d}.arrow"


def done(run: Run, report: TaskReport) -> bool:
    """Whether an earlier attempt's spill is still there, whole."""
    path = spill_path(run, report.number)
    return path.is_file() and path.stat().st_size == report.outputs[0].size


def fingerprint(run: Run, batch: pa.RecordBatch, base: int) -> tuple[pl.DataFrame, int]:
    """The fingerprints of a batch's live rows, and how many of these the filters don't admit.

    Args:
        run: Its scheme and filters are used.
        batch: Rows with HASHED_COLUMNS, the filters' columns and LIVE_COLUMNS where versions are listed.
        base: The row value of the batch's first row.
    """
    frame = pl.from_arrow(batch)
    assert isinstance(frame, pl.DataFrame)  # noqa: S101 - from_arrow's type also covers a single column
    position = pl.int_range(pl.len(), dtype=pl.UInt64) + base
    admitted = run.filters.admitted()
    bit = pl.when(admitted).then(pl.lit(ADMITTED_BIT, pl.UInt64)).otherwise(pl.lit(0, pl.UInt64))
    fingerprints = (
        frame.with_columns(position.alias("row"))
        .filter(live(frame.columns))
        .select(*run.plan.scheme.expressions(), (pl.col("row") + bit).alias("row"))
    )
    return fingerprints, fingerprints.select((pl.col("row") < ADMITTED_BIT).sum()).item()


def _rows(run: Run, landed: LandedFile, present: frozenset[str], base: int) -> Iterator[tuple[pa.RecordBatch, int]]:
    """A file's rows with the columns that fingerprint() needs, and the row value of each batch's first."""
    wanted = [*HASHED_COLUMNS, *(name for name in LIVE_COLUMNS if name in present), *run.filters.columns()]
    offset = 0
    for batch in read_rows(landed, wanted):
        if offset + batch.num_rows > MAX_ROWS_PER_FILE:
            raise IntegrityError("it has more rows than a fingerprint can number", where=landed.where)
        yield batch, base + offset
        offset += batch.num_rows
