"""The recall task: rows of the previous delivery, read back: what is deleted, and what was there before a change.

It writes one scratch file for each batch of the previous delivery. Its first record batch holds the deleted rows; then
there is one for each batch of the current delivery, with what the rows that changed there were before.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import polars as pl
import pyarrow as pa

from inventory_enqueue.arrow import cut, one_batch
from inventory_enqueue.config import Change, MessageFormat
from inventory_enqueue.delivery.reading import read_selected
from inventory_enqueue.errors import DataFileGoneError, IntegrityError
from inventory_enqueue.fingerprints import MAX_ROWS_PER_FILE, identity_columns, row_base
from inventory_enqueue.messages import MESSAGE_COLUMNS
from inventory_enqueue.report import Output, Stage, TaskReport
from inventory_enqueue.run import Delivery, Run
from inventory_enqueue.stages.diff import CANDIDATE_SCHEMA, DELETED, read_candidates
from inventory_enqueue.stages.recent import ROWS_SCHEMA, read_rows_file
from inventory_enqueue.stages.worker import Worker

_log = logging.getLogger(__name__)

_RECALLED: Final = pa.schema([*ROWS_SCHEMA, pa.field("other_row", pa.uint64())])


def run(worker: Worker, number: int) -> TaskReport:
    """Reads back what one batch of the previous delivery is asked for.

    Where its files are gone, the changes stand, but nobody can name the deleted keys any more: they are counted.

    Raises:
        IntegrityError: A file isn't the one that was indexed.
    """
    run = worker.run
    assert run.previous is not None  # noqa: S101 - a run without one has no such task
    candidates = read_candidates(run, len(run.plan.batches) + number)
    empty = pl.DataFrame(schema={**pl.Schema(ROWS_SCHEMA), **CANDIDATE_SCHEMA})
    counts: Counter[str] = Counter()
    frames = [empty]
    for file in run.plan.previous_batches[number]:
        try:
            frames += read_back(worker, run.previous, [file], candidates, columns=_columns(run), verified=False)
        except DataFileGoneError as error:
            gone = _of_file(candidates, file).filter(pl.col("change") == DELETED).height
            _log.warning("%d deleted keys can't be named: %s", gone, error)
            counts["deleted_gone"] += gone
    rows = pl.concat(frames, how="diagonal")
    path = recalled_path(run, number)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    with pa.ipc.new_file(str(part), _RECALLED) as writer:
        changed = rows.filter(pl.col("change") != DELETED).sort("other_row")
        starts = [row_base(batch[0]) for batch in run.plan.batches]
        deleted = rows.filter(pl.col("change") == DELETED).select(_RECALLED.names)
        writer.write_batch(one_batch(deleted, _RECALLED))
        for piece in cut(changed.select(_RECALLED.names), "other_row", starts, _RECALLED):
            writer.write_batch(piece)
    part.replace(path)
    return TaskReport(Stage.RECALL, number, counts, (Output(path.name, path.stat().st_size, rows.height),))


def _columns(run: Run) -> Sequence[str]:
    """What is needed of a row: of a deleted object, an event says no more than its identity."""
    full = Change.CHANGED in run.plan.recalls or run.message_format is MessageFormat.JSON
    return MESSAGE_COLUMNS if full else identity_columns(run.versions)


def done(run: Run, report: TaskReport) -> bool:
    """Whether an earlier attempt's file is still there, whole."""
    path = recalled_path(run, report.number)
    return path.is_file() and path.stat().st_size == report.outputs[0].size


def recalled_path(run: Run, number: int) -> Path:
    """Where a recall task leaves its rows."""
    return run.scratch / "recalled" / f"{number:05d}.arrow"


def deleted_rows(run: Run, number: int) -> pl.DataFrame:
    """The deleted rows of a previous batch, in ROWS_SCHEMA, by position."""
    return next(read_rows_file(recalled_path(run, number))).drop("other_row")


def replaced_rows(run: Run, batch: int) -> pl.DataFrame:
    """What the changed rows of a current batch were before: ROWS_SCHEMA, where `row` is that of the change."""
    frames = [
        next(read_rows_file(recalled_path(run, number), first=1 + batch))
        for number in range(run.plan.tasks(Stage.RECALL))
    ]
    return pl.concat([pl.DataFrame(schema=pl.Schema(_RECALLED)), *frames]).drop("row").rename({"other_row": "row"})


def read_back(  # noqa: PLR0913 - the last two have defaults
    worker: Worker,
    delivery: Delivery,
    files: Sequence[int],
    candidates: pl.DataFrame,
    *,
    columns: Sequence[str] = MESSAGE_COLUMNS,
    verified: bool = True,
) -> Iterator[pl.DataFrame]:
    """The rows of candidates, by position: the columns, and the candidates' own ones.

    Args:
        worker: Its run's scheme tells whether a row is still the one that was indexed.
        delivery: Whose rows are read.
        files: Of the delivery.
        candidates: Of diff.CANDIDATE_SCHEMA, sorted by row.
        columns: Of schema.OBJECT_SCHEMA.
        verified: As for Landing.land.

    Raises:
        IntegrityError: A row isn't the one that was indexed.
    """
    run = worker.run
    h = run.plan.scheme.expressions(run.versions)[0].alias("h_now")
    for file in files:
        start = row_base(file)
        ours = _of_file(candidates, file)
        if ours.is_empty():
            continue
        landed = worker.landing.land(delivery, file, verified=verified)
        found = 0
        for rows, positions in read_selected(landed, columns, worker.room, ours["row"] - start):
            chosen = rows.frame.with_columns(h, row=positions + start)
            frame = chosen.join(ours, on="row", how="left", maintain_order="left")
            if not frame.select(pl.col("h").eq_missing(pl.col("h_now")).all()).item():
                break
            found += frame.height
            yield frame.drop("h_now")
        if found != ours.height:
            raise IntegrityError("it isn't the file any more that was indexed: it was replaced", where=landed.where)
        if not worker.keeps_downloads:
            worker.landing.release(delivery, file)


def _of_file(candidates: pl.DataFrame, file: int) -> pl.DataFrame:
    start = row_base(file)
    return candidates.filter(pl.col("row").is_between(start, start + MAX_ROWS_PER_FILE - 1))
