"""The index task: the fingerprint of every live row of a batch of data files, spilled by partition.

Task numbers past the current delivery's batches are those of the previous delivery, where that is read and no index.
"""

import base64
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

import polars as pl

from inventory_enqueue import documents
from inventory_enqueue.delivery.landing import LandedFile
from inventory_enqueue.delivery.reading import columns_of, read_rows
from inventory_enqueue.errors import DataFileGoneError, IntegrityError, InventoryUnavailableError
from inventory_enqueue.filters import VERSION_COLUMNS, Filters, listed
from inventory_enqueue.fingerprints import (
    ADMITTED_BIT,
    CONTENT_COLUMNS,
    MAX_ROWS_PER_FILE,
    row_base,
)
from inventory_enqueue.index import INDEX_GONE, START_ANEW
from inventory_enqueue.manifest import Manifest
from inventory_enqueue.messages import MESSAGE_COLUMNS
from inventory_enqueue.report import Stage, TaskReport
from inventory_enqueue.run import Delivery, Run
from inventory_enqueue.schema import Rows
from inventory_enqueue.stages import known
from inventory_enqueue.stages.recent import RecentRows
from inventory_enqueue.stages.spills import SpillWriter, spill_path
from inventory_enqueue.stages.worker import Worker

MAX_NAMED: Final = 10_000
"""Quarantined rows that one task names; the others are only counted."""


def run(worker: Worker, number: int) -> TaskReport:
    """Fingerprints the rows of one batch.

    Raises:
        IntegrityError: A file or a row isn't what it must be.
        PreflightError, StoppedError: A file can't be fetched.
    """
    run = worker.run
    if number >= run.delivery_tasks:
        return known.run(worker, number)
    delivery, files = run.batch(number)
    worker.fetch_ahead(number)
    side = _side(run, delivery)
    counts: Counter[str] = Counter()
    quarantine: list[dict[str, Any]] = []
    with SpillWriter(run, number) as writer, RecentRows(run, number) as recent:
        for file in files:
            landed = _land(worker, delivery, file)
            present = columns_of(landed)
            _check_schema(delivery.manifest, present, landed)
            told = (*CONTENT_COLUMNS, *VERSION_COLUMNS)
            counts.update({f"{side}files_with_{name}": int(name in present) for name in told})
            for rows, offset in _rows(worker, landed, present):
                worker.watch.check()
                counted = counted_rows(run, delivery, rows.frame, row_base(file) + offset, counts)
                writer.add(fingerprints(run, counted))
                recent.add(counted)
                quarantine += _quarantine(landed, rows, offset, room=MAX_NAMED - len(quarantine))
            if not worker.keeps_downloads:
                worker.landing.release(delivery, file)
    if quarantine:
        lines = b"".join(documents.encode_line(record) for record in quarantine)
        run.store.put(quarantine_name(number), lines)
    return TaskReport(Stage.INDEX, number, counts, (writer.output,))


def _side(run: Run, delivery: Delivery) -> str:
    """Prefix of the names of a delivery's counts."""
    if delivery is run.current:
        return ""
    return "previous_" if delivery is run.previous else "known_"


def _land(worker: Worker, delivery: Delivery, file: int) -> LandedFile:
    """As Landing.land; but what a lost index could have been made from again is no damage when it is gone, too."""
    try:
        return worker.landing.land(delivery, file)
    except DataFileGoneError as error:
        if delivery is not worker.run.previous or worker.run.baseline is None:
            raise
        raise InventoryUnavailableError(
            f"{INDEX_GONE}, and so is the delivery it was made from ({error.where}): {START_ANEW}",
            where=str(delivery.location),
        ) from error


def quarantine_name(number: int) -> str:
    """The name of an index task's quarantined rows in the run's folder."""
    return f"quarantine/{number:05d}.jsonl"


def done(run: Run, report: TaskReport) -> bool:
    """Whether an earlier attempt's spill is still there, whole."""
    path = spill_path(run, report.number)
    return path.is_file() and path.stat().st_size == report.outputs[0].size


def counted_rows(run: Run, delivery: Delivery, frame: pl.DataFrame, base: int, counts: Counter[str]) -> pl.DataFrame:
    """The rows that count, with their `row`, whose top bit says whether the filters admit them.

    Args:
        run: Its filters and scope are used.
        delivery: Of the run: whose rows these are.
        frame: Rows of schema.OBJECT_SCHEMA with the columns of _rows().
        base: The row value of the first row.
        counts: Gets how many rows were listed, and why others don't count.
    """
    side = _side(run, delivery)
    frame = frame.with_columns(row=pl.int_range(pl.len(), dtype=pl.UInt64) + base)
    counts[f"{side}listed"] += frame.height
    for reason, kept in _conditions(run, delivery, frame):
        before = frame.height
        frame = frame.filter(kept)
        counts[f"{side}{reason}"] += before - frame.height
    filters, now = run.filters_of(delivery)
    conditions = filters.conditions(now)
    counts.update({f"{side}filtered_{name}": number for name, number in _first_failed(frame, conditions).items()})
    admitted = pl.all_horizontal(pl.lit(value=True), *conditions.values())
    bit = pl.when(admitted).then(pl.lit(ADMITTED_BIT, pl.UInt64)).otherwise(pl.lit(0, pl.UInt64))
    return frame.with_columns(row=pl.col("row") + bit)


def fingerprints(run: Run, rows: pl.DataFrame) -> pl.DataFrame:
    """The fingerprints of rows that count, in FINGERPRINT_SCHEMA."""
    return rows.select(*run.plan.scheme.expressions(run.versions, run.plan.content_columns), "row")


def _first_failed(frame: pl.DataFrame, conditions: dict[str, pl.Expr]) -> dict[str, int]:
    """How many rows are not admitted, each counted under the first condition that it fails."""
    sums = {}
    passed: pl.Expr = pl.lit(value=True)
    for name, condition in conditions.items():
        sums[name] = (passed & ~condition).sum()
        passed &= condition
    return frame.select(**sums).row(0, named=True) if sums else {}


def _check_schema(manifest: Manifest, present: frozenset[str], landed: LandedFile) -> None:
    """The manifest's word on what tells changes and versions was relied on before any file was opened."""
    missing = (manifest.columns & {*CONTENT_COLUMNS, *VERSION_COLUMNS}) - present
    if missing:
        raise IntegrityError(
            f"the manifest's fileSchema names the column {min(missing)!r}, this file doesn't have it",
            where=landed.where,
        )


def _conditions(run: Run, delivery: Delivery, frame: pl.DataFrame) -> Iterator[tuple[str, pl.Expr]]:
    """What a row must fulfil to count, in this order, each with the name of its count."""
    if frame["key"].null_count():
        yield "quarantined", pl.col("key").is_not_null()
    if "is_delete_marker" in frame.columns:
        yield "not_live", listed(run.versions, frame.columns)
    # The inventory's own files, and those of our state, are no news.
    for own_prefix in (delivery.manifest.own_prefix, run.state_prefix):
        if own_prefix is not None:
            yield "excluded", ~pl.col("key").str.starts_with(own_prefix)


def _rows(worker: Worker, landed: LandedFile, present: frozenset[str]) -> Iterator[tuple[Rows, int]]:
    """A file's rows, and the position in the file of each batch's first.

    Their columns are those that fingerprint() needs and those of the messages: what can't be read is so found before
    anything is sent.
    """
    wanted = dict.fromkeys(
        (
            *MESSAGE_COLUMNS,
            *(name for name in VERSION_COLUMNS if name in present),
            *(name for filters in _all_filters(worker.run) for name in filters.columns()),
        )
    )
    offset = 0
    for rows in read_rows(landed, list(wanted), worker.room):
        if offset + rows.frame.height > MAX_ROWS_PER_FILE:
            raise IntegrityError("it has more rows than a fingerprint can number", where=landed.where)
        yield rows, offset
        offset += rows.frame.height


def _all_filters(run: Run) -> list[Filters]:
    deliveries = [run.current] if run.previous is None else [run.current, run.previous]
    return [run.filters_of(delivery)[0] for delivery in deliveries]


def _quarantine(landed: LandedFile, rows: Rows, offset: int, *, room: int) -> list[dict[str, Any]]:
    return [
        {
            "file": landed.where,
            "position": offset + row.position,
            "reason": row.reason,
            "column": row.column,
            "raw_base64": None if row.raw is None else base64.b64encode(row.raw).decode(),
        }
        for row in rows.quarantined[:room]
    ]
