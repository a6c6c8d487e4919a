"""The enqueue task: a batch's candidates, read back in full, are sent as messages; every row is accounted for."""

from collections import Counter
from collections.abc import Iterator
from typing import Final

import polars as pl

from inventory_enqueue import messages
from inventory_enqueue.batching import Message, batches
from inventory_enqueue.config import OnLate
from inventory_enqueue.errors import IntegrityError
from inventory_enqueue.fingerprints import Versions
from inventory_enqueue.ledger import Failure, TaskLedger
from inventory_enqueue.messages import MessageContext
from inventory_enqueue.report import Stage, TaskReport
from inventory_enqueue.run import Run
from inventory_enqueue.sending import Sender
from inventory_enqueue.stages.diff import CHANGES, NEW, read_candidates
from inventory_enqueue.stages.recall import deleted_rows, read_back
from inventory_enqueue.stages.recent import LATE, read_recent
from inventory_enqueue.stages.worker import Worker

_MESSAGES_AT_ONCE: Final = 10_000
"""Bodies that are made at a time: about 7 MB."""


def run(worker: Worker, number: int) -> TaskReport:
    """Sends what is left of one batch's candidates.

    Raises:
        IntegrityError: A file changed, or the counts don't agree.
        PreflightError: The sink refuses everything.
        StoppedError: The sink can't be reached any more; what it took is recorded.
    """
    run = worker.run
    ledger = TaskLedger(run, number)
    accounted = _accounted(ledger)
    candidates = _candidates(run, number, accounted)
    counts = Counter(deleted_gone=read_candidates(run, number).height - candidates.height)
    sender = Sender(worker.sink, ledger, concurrency=run.runtime.concurrency)
    try:
        rows = _left(run, ledger, accounted, full_rows(worker, number, candidates), counts)
        sender.send_all(batches(_messages(worker, rows), worker.sink.limits))
    finally:
        ledger.close()
    counts += sender.counts
    counts += _account(ledger, candidates, where=f"{run.id}, enqueue task {number}")
    return TaskReport(Stage.ENQUEUE, number, counts)


def _candidates(run: Run, number: int, accounted: pl.DataFrame) -> pl.DataFrame:
    """A task's candidates; of the deleted ones, those that can be named, or were by an earlier attempt."""
    candidates = read_candidates(run, number)
    if number < len(run.plan.batches):
        return candidates
    named = deleted_rows(run, number - len(run.plan.batches)).select("row")
    return candidates.join(pl.concat([named, accounted]), on="row", how="semi")


def full_rows(worker: Worker, number: int, candidates: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """The full rows of an enqueue task's candidates: MESSAGE_COLUMNS, row and change.

    From where they are to be had at least cost: what the recall stage read back, the recent rows that the index stage
    kept, and the data files.
    """
    run = worker.run
    if number >= len(run.plan.batches):
        deleted = deleted_rows(run, number - len(run.plan.batches))
        yield deleted.join(candidates, on="row", how="inner", maintain_order="left")
        return
    found = []
    for rows in read_recent(run, number):
        recent = rows.join(candidates, on="row", how="inner", maintain_order="left")
        if not recent.is_empty():
            found.append(recent.select("row"))
            yield recent
    rest = candidates.join(pl.concat(found), on="row", how="anti", maintain_order="left") if found else candidates
    yield from read_back(worker, run.current, run.plan.batches[number], rest)


def build_messages(run: Run, rows: pl.DataFrame) -> Iterator[Message]:
    """The messages of rows that full_rows gave."""
    manifest = run.current.manifest
    context = MessageContext(manifest.source_bucket, run.source_region, run.id, manifest.creation_timestamp)
    rows = rows.with_columns(change=pl.col("change").replace_strict(CHANGES, return_dtype=pl.String))
    if run.versions is Versions.ALL:
        # The S3 API names the null version so; the inventory leaves it empty.
        rows = rows.with_columns(pl.col("version_id").fill_null("null"))
    bodies = messages.bodies(rows, run.message_format, context)
    yield from map(Message, rows["row"].to_list(), rows["key"].to_list(), bodies.to_list())


def _messages(worker: Worker, frames: Iterator[pl.DataFrame]) -> Iterator[Message]:
    for rows in frames:
        for piece in rows.iter_slices(_MESSAGES_AT_ONCE):
            worker.check()
            yield from build_messages(worker.run, piece)


def _left(
    run: Run, ledger: TaskLedger, accounted: pl.DataFrame, frames: Iterator[pl.DataFrame], counts: Counter[str]
) -> Iterator[pl.DataFrame]:
    """The rows that no earlier attempt settled. Those that reappear are counted and, unless sent, written down."""
    if run.previous is None:
        for rows in frames:
            yield rows.join(accounted, on="row", how="anti", maintain_order="left")
        return
    border = run.previous.manifest.creation_timestamp - LATE
    is_late = (pl.col("change") == NEW) & (pl.col("last_modified_date") < border).fill_null(value=False)
    for rows in frames:
        counts["reappeared"] += rows.filter(is_late).height
        left = rows.join(accounted, on="row", how="anti", maintain_order="left")
        if run.on_late is not OnLate.SEND:
            ledger.record_late([_kept_back(message) for message in build_messages(run, left.filter(is_late))])
            left = left.filter(~is_late)
        yield left


def _kept_back(message: Message) -> Failure:
    return Failure(
        row=message.row,
        key=message.key,
        code="Late",
        message="it reappeared, and --on-late keeps it back",
        sender_fault=False,
        body=message.body,
    )


def _accounted(ledger: TaskLedger) -> pl.DataFrame:
    """The rows that earlier attempts settled."""
    return pl.concat([_acknowledged(ledger), _rows(ledger.failed()), _rows(ledger.late())])


def _rows(numbers: list[int]) -> pl.DataFrame:
    return pl.DataFrame({"row": numbers}, schema={"row": pl.UInt64})


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
    failed = _rows(ledger.failed()).join(acknowledged, on="row", how="anti")
    late = _rows(ledger.late()).join(acknowledged, on="row", how="anti").unique()
    missing = candidates.height - acknowledged.height - failed.height - late.height
    if missing:
        raise IntegrityError(
            f"{missing} of {candidates.height} selected keys were neither acknowledged nor refused; run it again",
            where=where,
        )
    return Counter(sent=acknowledged.height, failed=failed.height, late=late.height)
