"""The index task: the fingerprint of every live row of a batch of data files, spilled by partition.

Task numbers past the current delivery's batches are those of the previous delivery, where that is read and no index.
"""

import base64
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import polars as pl

from inventory_enqueue import documents
from inventory_enqueue.delivery.landing import LandedFile
from inventory_enqueue.delivery.reading import columns_of, read_rows
from inventory_enqueue.errors import IntegrityError
from inventory_enqueue.filters import VERSION_COLUMNS, listed
from inventory_enqueue.fingerprints import (
    ADMITTED_BIT,
    CONTENT_COLUMNS,
    MAX_ROWS_PER_FILE,
    row_base,
)
from inventory_enqueue.manifest import Manifest
from inventory_enqueue.messages import MESSAGE_COLUMNS
from inventory_enqueue.report import Output, Stage, TaskReport
from inventory_enqueue.run import Run
from inventory_enqueue.schema import Rows
from inventory_enqueue.stages.spills import SpillWriter
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
    delivery, files = run.batch(number)
    worker.fetch_ahead(number)
    side = "" if delivery is run.current else "previous_"
    counts: Counter[str] = Counter()
    quarantine: list[dict[str, Any]] = []
    spill = spill_path(run, number)
    spill.parent.mkdir(parents=True, exist_ok=True)
    temporary = spill.with_suffix(".part")
    with SpillWriter(
        temporary, partition_bits=run.plan.partition_bits, rows_per_round=run.runtime.sizes.rows_per_spill
    ) as writer:
        for file in files:
            landed = worker.landing.land(delivery, file)
            present = columns_of(landed)
            _check_schema(delivery.manifest, present, landed)
            told = (*CONTENT_COLUMNS, *VERSION_COLUMNS)
            counts.update({f"{side}files_with_{name}": int(name in present) for name in told})
            for rows, offset in _rows(worker, landed, present):
                worker.check()
                writer.add(fingerprint(run, rows.frame, row_base(file) + offset, counts, side=side))
                quarantine += _quarantine(landed, rows, offset, room=MAX_NAMED - len(quarantine))
            if not worker.keeps_downloads:
                worker.landing.release(delivery, file)
    temporary.replace(spill)
    if quarantine:
        lines = b"".join(documents.encode_line(record) for record in quarantine)
        run.store.put(quarantine_name(number), lines)
    return TaskReport(Stage.INDEX, number, counts, (Output(spill.name, spill.stat().st_size, writer.rows),))


def quarantine_name(number: int) -> str:
    """The name of an index task's quarantined rows in the run's folder."""
    return f"quarantine/{number:05d}.jsonl"


def spill_path(run: Run, number: int) -> Path:
    """Where an index task leaves its fingerprints."""
    return run.scratch / "spills" / f"{number:05d}.arrow"


def done(run: Run, report: TaskReport) -> bool:
    """Whether an earlier attempt's spill is still there, whole."""
    path = spill_path(run, report.number)
    return path.is_file() and path.stat().st_size == report.outputs[0].size


def fingerprint(run: Run, frame: pl.DataFrame, base: int, counts: Counter[str], *, side: str = "") -> pl.DataFrame:
    """The fingerprints of those rows that count, in FINGERPRINT_SCHEMA.

    Args:
        run: Its scheme, filters and scope are used.
        frame: Rows of schema.OBJECT_SCHEMA with the columns of _rows().
        base: The row value of the first row.
        counts: Gets how many rows were listed, and why those that have no fingerprint have none.
        side: Prefix of the counts' names.
    """
    frame = frame.with_columns(row=pl.int_range(pl.len(), dtype=pl.UInt64) + base)
    counts[f"{side}listed"] += frame.height
    for reason, kept in _conditions(run, frame):
        before = frame.height
        frame = frame.filter(kept)
        counts[f"{side}{reason}"] += before - frame.height
    conditions = run.filters.conditions(run.created)
    counts.update({f"{side}filtered_{name}": number for name, number in _first_failed(frame, conditions).items()})
    admitted = pl.all_horizontal(pl.lit(value=True), *conditions.values())
    bit = pl.when(admitted).then(pl.lit(ADMITTED_BIT, pl.UInt64)).otherwise(pl.lit(0, pl.UInt64))
    expressions = run.plan.scheme.expressions(run.versions, run.plan.content_columns)
    return frame.select(*expressions, pl.col("row") + bit)


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


def _conditions(run: Run, frame: pl.DataFrame) -> Iterator[tuple[str, pl.Expr]]:
    """What a row must fulfil to count, in this order, each with the name of its count."""
    if frame["key"].null_count():
        yield "quarantined", pl.col("key").is_not_null()
    if "is_delete_marker" in frame.columns:
        yield "not_live", listed(run.versions, frame.columns)
    for prefix in run.plan.excluded_prefixes:
        yield "excluded", ~pl.col("key").str.starts_with(prefix)


def _rows(worker: Worker, landed: LandedFile, present: frozenset[str]) -> Iterator[tuple[Rows, int]]:
    """A file's rows, and the position in the file of each batch's first.

    Their columns are those that fingerprint() needs and those of the messages: what can't be read is so found before
    anything is sent.
    """
    wanted = dict.fromkeys(
        (
            *MESSAGE_COLUMNS,
            *(name for name in VERSION_COLUMNS if name in present),
            *worker.run.filters.columns(),
        )
    )
    offset = 0
    for rows in read_rows(landed, list(wanted), worker.room):
        if offset + rows.frame.height > MAX_ROWS_PER_FILE:
            raise IntegrityError("it has more rows than a fingerprint can number", where=landed.where)
        yield rows, offset
        offset += rows.frame.height


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
