"""The enqueue task: a batch's candidates, read back in full, are sent as messages; every row is accounted for."""

from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from typing import Final

import polars as pl

from inventory_enqueue import messages
from inventory_enqueue.batching import Message, batches
from inventory_enqueue.delivery.reading import read_selected
from inventory_enqueue.errors import IntegrityError
from inventory_enqueue.fingerprints import MAX_ROWS_PER_FILE, Versions, row_base
from inventory_enqueue.ledger import TaskLedger
from inventory_enqueue.messages import MESSAGE_COLUMNS, MessageContext
from inventory_enqueue.report import Stage, TaskReport
from inventory_enqueue.run import Run
from inventory_enqueue.sending import Sender
from inventory_enqueue.stages.diff import CHANGED, NEW, read_candidates
from inventory_enqueue.stages.worker import Worker

LATE: Final = timedelta(days=7)
"""A key that is new but was last modified longer than this before the baseline's creation has reappeared: a multipart
upload can carry the date of its start, and an upload lasts at most so long in practice."""


def run(worker: Worker, number: int) -> TaskReport:
    """Sends what is left of one batch's candidates.

    Raises:
        IntegrityError: A file changed, or the counts don't agree.
        PreflightError: The sink refuses everything.
        StoppedError: The sink can't be reached any more; what it took is recorded.
    """
    run = worker.run
    candidates = read_candidates(run, number)
    ledger = TaskLedger(run, number)
    left = candidates.join(_accounted(ledger), on="row", how="anti")
    counts: Counter[str] = Counter()
    sender = Sender(worker.sink, ledger, concurrency=run.runtime.concurrency)
    try:
        sender.send_all(batches(_messages(worker, number, left, counts), worker.sink.limits))
    finally:
        ledger.close()
    counts += sender.counts
    counts += _account(ledger, candidates, where=f"{run.id}, enqueue task {number}")
    return TaskReport(Stage.ENQUEUE, number, counts)


def read_back(worker: Worker, number: int, candidates: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """The full rows of candidates: MESSAGE_COLUMNS, row and change.

    Args:
        worker: Its run's current delivery is read.
        number: The batch.
        candidates: row and change, sorted by row.
    """
    run = worker.run
    for file in run.plan.batches[number]:
        start = row_base(file)
        ours = candidates.filter(pl.col("row").is_between(start, start + MAX_ROWS_PER_FILE - 1))
        if ours.is_empty():
            continue
        landed = worker.landing.land(run.current, file)
        for rows, positions in read_selected(landed, MESSAGE_COLUMNS, worker.room, ours["row"] - start):
            yield rows.frame.with_columns(row=positions + start).join(ours, on="row", how="left", maintain_order="left")
        if not worker.keeps_downloads:
            worker.landing.release(run.current, file)


def build_messages(run: Run, rows: pl.DataFrame) -> Iterator[Message]:
    """The messages of rows that read_back gave."""
    manifest = run.current.manifest
    context = MessageContext(manifest.source_bucket, run.source_region, run.id, manifest.creation_timestamp)
    change = pl.when(pl.col("change") == CHANGED).then(pl.lit("changed")).otherwise(pl.lit("new"))
    rows = rows.with_columns(change.alias("change"))
    if run.versions is Versions.ALL:
        # The S3 API names the null version so; the inventory leaves it empty.
        rows = rows.with_columns(pl.col("version_id").fill_null("null"))
    bodies = messages.bodies(rows, run.message_format, context)
    for row, key, body in zip(rows["row"], rows["key"], bodies, strict=True):
        yield Message(row, key, body)


def _messages(worker: Worker, number: int, left: pl.DataFrame, counts: Counter[str]) -> Iterator[Message]:
    baseline = worker.run.baseline
    for rows in read_back(worker, number, left):
        if baseline is not None:
            late = pl.col("last_modified_date") < baseline.creation_timestamp - LATE
            counts["reappeared"] += rows.filter((pl.col("change") == NEW) & late).height
        for message in build_messages(worker.run, rows):
            worker.check()
            yield message


def _accounted(ledger: TaskLedger) -> pl.DataFrame:
    """The rows that earlier attempts settled."""
    return pl.concat([_acknowledged(ledger), pl.DataFrame({"row": ledger.failed()}, schema={"row": pl.UInt64})])


def _acknowledged(ledger: TaskLedger) -> pl.DataFrame:
    ranges = pl.DataFrame(list(ledger.acknowledged()), schema={"first": pl.Int64, "last": pl.Int64}, orient="row")
    rows = ranges.select(row=pl.int_ranges("first", pl.col("last") + 1)).explode("row", empty_as_null=False)
    return rows.select(pl.col("row").cast(pl.UInt64)).unique()


def _account(ledger: TaskLedger, candidates: pl.DataFrame, *, where: str) -> Counter[str]:
    """Compares the candidates with what the ledger's files say, as they are on the disk.

    Raises:
        IntegrityError: A row is in none of them.
    """
    acknowledged = candidates.join(_acknowledged(ledger), on="row", how="semi")
    failed = pl.DataFrame({"row": ledger.failed()}, schema={"row": pl.UInt64}).join(acknowledged, on="row", how="anti")
    missing = candidates.height - acknowledged.height - failed.height
    if missing:
        raise IntegrityError(
            f"{missing} of {candidates.height} selected keys were neither acknowledged nor refused; run it again",
            where=where,
        )
    return Counter(sent=acknowledged.height, failed=failed.height)
