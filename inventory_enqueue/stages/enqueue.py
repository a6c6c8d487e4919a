"""The enqueue task: a batch's candidates, read back in full, are sent as messages; every row is settled for."""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Final

import polars as pl
import polars_hash  # noqa: F401 - gives expressions the namespaces chash and nchash

from inventory_enqueue import messages
from inventory_enqueue.batching import MessageForm, Messages
from inventory_enqueue.config import EventTime, OnLate
from inventory_enqueue.errors import IntegrityError
from inventory_enqueue.fingerprints import Versions
from inventory_enqueue.ledger import Failure, TaskLedger
from inventory_enqueue.messages import MESSAGE_COLUMNS, MessageContext, Template, template
from inventory_enqueue.report import Stage, TaskReport
from inventory_enqueue.run import Run
from inventory_enqueue.sending import Sender
from inventory_enqueue.stages.diff import CHANGES, NEW, read_candidates
from inventory_enqueue.stages.recall import deleted_rows, read_back
from inventory_enqueue.stages.recent import LATE, read_recent
from inventory_enqueue.stages.worker import Worker

_ROWS_AT_ONCE: Final = 10_000
"""Messages are made of so many rows at a time: about 20 MB, and the sender holds three such chunks."""


def run(worker: Worker, number: int) -> TaskReport:
    """Sends what is left of one batch's candidates.

    Raises:
        IntegrityError: A file changed, or the counts don't agree.
        PreflightError: The sink refuses everything.
        StoppedError: The sink can't be reached any more; what it took is recorded.
    """
    run = worker.run
    ledger = TaskLedger(run, number)
    settled = _settled(ledger)
    selected = read_candidates(run, number)
    candidates = _nameable(run, number, selected, settled)
    counts = Counter(deleted_gone=selected.height - candidates.height)
    sender = Sender(worker.sink, ledger, worker.pace, watch=worker.watch)
    try:
        rows = _left(worker, ledger, settled, full_rows(worker, number, candidates), counts)
        sender.send_all(chunks(worker, ledger, rows))
    finally:
        ledger.close()
    counts += sender.counts
    counts += _account(ledger, candidates, where=f"{run.id}, enqueue task {number}")
    return TaskReport(Stage.ENQUEUE, number, counts)


def _nameable(run: Run, number: int, selected: pl.DataFrame, settled: pl.DataFrame) -> pl.DataFrame:
    """A task's candidates; of the deleted ones, those that can be named, or were by an earlier attempt."""
    if number < len(run.plan.batches):
        return selected
    named = deleted_rows(run, number - len(run.plan.batches)).select("row")
    return selected.join(pl.concat([named, settled]), on="row", how="semi")


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


def template_of(run: Run) -> Template:
    """How the run's records are made."""
    manifest = run.current.manifest
    now = run.created if run.event_time is EventTime.NOW else None
    context = MessageContext(manifest.source_bucket, run.source_region, run.id, manifest.creation_timestamp, now)
    return template(run.message_format, context)


def message_rows(run: Run, rows: pl.DataFrame) -> pl.DataFrame:
    """Rows that full_rows gave, as batching.Messages takes them."""
    rows = rows.with_columns(change=pl.col("change").replace_strict(CHANGES, return_dtype=pl.String))
    if run.versions is Versions.ALL:
        # The S3 API names the null version so; the inventory leaves it empty.
        rows = rows.with_columns(pl.col("version_id").fill_null("null"))
    made = rows.select("row", "key", *_grouped(run)).hstack(template_of(run).values(rows))
    return made.sort("group", maintain_order=True) if "group" in made.columns else made


def _grouped(run: Run) -> list[pl.Expr]:
    """The group of each row's message, and for a FIFO queue what it is known by, if messages have groups."""
    groups = run.message_groups
    if groups is None:
        return []
    if groups.name is not None:
        group = pl.lit(groups.name)
    else:
        group = pl.format("{}", pl.col("key").nchash.xxh3_64() % groups.count)  # type: ignore[attr-defined]
    if not run.is_fifo:
        return [group.alias("group")]
    content = "version_id" if run.versions is Versions.ALL else "e_tag"
    known_by = pl.concat_str(
        # With the run: what a later one tells of the same object within the queue's five minutes is another message.
        pl.lit(f"{run.id}\0{run.pipeline}\0{run.current.manifest.source_bucket}\0"),
        "change",
        pl.lit("\0"),
        pl.col(content).fill_null(""),
        pl.lit("\0"),
        # The last, since a key may hold the separator.
        "key",
    )
    return [group.alias("group"), known_by.chash.sha2_256().alias("identity")]  # type: ignore[attr-defined]


def chunks(worker: Worker, ledger: TaskLedger, frames: Iterable[pl.DataFrame]) -> Iterator[Messages]:
    """Chunks of messages; what no message can carry is written down as failed."""
    run, form, limits = worker.run, worker.form, worker.sink.limits
    template = template_of(run)
    for rows in in_chunks(frames, _ROWS_AT_ONCE):
        worker.watch.check()
        made = message_rows(run, rows)
        refusals = _refusals(worker, template, made)
        if refusals is not None:
            is_refused = refusals["code"].is_not_null()
            refused = made.select("row", "key", record=template.texts(made)).hstack(refusals).filter(is_refused)
            ledger.record_failures([_failure(form, **record) for record in refused.iter_rows(named=True)])
            made = made.filter(~is_refused)
        if not made.is_empty():
            yield Messages(made, template, form, limits)


def _refusals(worker: Worker, template: Template, made: pl.DataFrame) -> pl.DataFrame | None:
    """Why rows can't be sent: code and message, null where they can; None where all can."""
    limits = worker.sink.limits
    carriable = messages.carriable(made, worker.run.message_format, one_line=limits.one_line)
    most = limits.max_message_bytes - worker.form.body_bytes(0)
    size = made.select(template.most_bytes(made)).to_series()
    if (size > most).any():
        size = template.texts(made).str.len_bytes()
    if carriable.all() and (size <= most).all():
        return None
    too_large = f"the message has more bytes than the {limits.max_message_bytes} that the queue takes"
    return pl.select(
        code=pl.when(~carriable)
        .then(pl.lit("InvalidMessageContents"))
        .when(size > most)
        .then(pl.lit("MessageTooLong")),
        message=pl.when(~carriable)
        .then(pl.lit("the queue takes no empty message, and not every character"))
        .otherwise(pl.lit(too_large)),
    )


def in_chunks(frames: Iterable[pl.DataFrame], size: int) -> Iterator[pl.DataFrame]:
    """Frames cut and joined to chunks of the same number of rows, but for the last."""
    columns = ("row", "change", *MESSAGE_COLUMNS)
    kept: list[pl.DataFrame] = []
    height = 0
    for rows in frames:
        kept.append(rows.select(columns))
        height += rows.height
        if height >= size:
            joined = pl.concat(kept)
            whole = height // size * size
            yield from joined.head(whole).iter_slices(size)
            kept, height = [joined.tail(height - whole)], height - whole
    if height:
        yield pl.concat(kept)


def _left(
    worker: Worker, ledger: TaskLedger, settled: pl.DataFrame, frames: Iterator[pl.DataFrame], counts: Counter[str]
) -> Iterator[pl.DataFrame]:
    """The rows that no earlier attempt settled. Those that reappear are counted and, unless sent, written down."""
    run, form = worker.run, worker.form
    if run.previous is None:
        for rows in frames:
            yield rows.join(settled, on="row", how="anti", maintain_order="left")
        return
    border = run.previous.manifest.creation_timestamp - LATE
    is_late = (pl.col("change") == NEW) & (pl.col("last_modified_date") < border).fill_null(value=False)
    for rows in frames:
        counts["reappeared"] += rows.filter(is_late).height
        left = rows.join(settled, on="row", how="anti", maintain_order="left")
        if run.on_late is not OnLate.SEND:
            kept_back = message_rows(run, left.filter(is_late))
            kept_back = kept_back.select("row", "key", record=template_of(run).texts(kept_back))
            ledger.record_late(
                [
                    _failure(form, code="Late", message=_KEPT_BACK, sender_fault=False, **record)
                    for record in kept_back.iter_rows(named=True)
                ]
            )
            left = left.filter(~is_late)
        yield left


_KEPT_BACK: Final = "it reappeared, and --on-late keeps it back"


def _failure(  # noqa: PLR0913 - a record's columns
    form: MessageForm, *, row: int, key: str, record: str, code: str, message: str, sender_fault: bool = True, **_: str
) -> Failure:
    return Failure(row, key, code, message, sender_fault, body=form.body([record]))


def _settled(ledger: TaskLedger) -> pl.DataFrame:
    """The rows that earlier attempts settled."""
    return pl.concat([_acknowledged(ledger), _rows(ledger.failed()), _rows(ledger.late())])


def _rows(numbers: list[int]) -> pl.DataFrame:
    return pl.DataFrame({"row": numbers}, schema={"row": pl.UInt64})


def _acknowledged(ledger: TaskLedger) -> pl.DataFrame:
    return ledger.acknowledged().unique().to_frame()


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
