"""What a comparison finds, without state and queue: a dry run, and the changes between two deliveries."""

import logging
from collections import Counter
from collections.abc import Iterator

import polars as pl

from inventory_enqueue import describe, guards
from inventory_enqueue.baseline import Baseline
from inventory_enqueue.config import Change
from inventory_enqueue.errors import RefusedError
from inventory_enqueue.execution import compare, described, remove_scratch
from inventory_enqueue.ledger import read_baseline
from inventory_enqueue.messages import MESSAGE_COLUMNS
from inventory_enqueue.planning import Job, plan_run
from inventory_enqueue.report import RunReport, Status
from inventory_enqueue.sinks.sqs import estimated_cost_usd
from inventory_enqueue.stages.diff import CHANGES, read_candidates
from inventory_enqueue.stages.enqueue import full_rows, message_rows, template_of
from inventory_enqueue.stages.recall import deleted_rows, replaced_rows
from inventory_enqueue.stages.worker import Worker

_log = logging.getLogger(__name__)

PREVIOUS = ("size", "e_tag", "last_modified_date")
"""What changes() tells of a changed object's state before, each as previous_<name>."""


def dry_run(job: Job, report: RunReport) -> None:
    """Index and diff in scratch space: neither the queue nor the state is touched."""
    baseline = read_baseline(job.store)
    report.baseline = described(baseline, job.store)
    if nothing_to_do(job, baseline, report):
        report.status = Status.DRY_RUN
        return
    report.status, report.exit_code, report.sent = Status.DRY_RUN, 0, describe.sent(Counter())
    guards.check_delivery(job, baseline)
    run = plan_run(job, baseline)
    guards.check_run(run)
    report.run_id = run.id
    worker = Worker(run, job.watch)
    try:
        run.save()
        counts, _ = compare(worker, report)
        try:
            guards.check_selected(run, counts)
        except RefusedError as refused:
            _log.warning("a run would be refused: %s", refused)
        report.sample_message = _sample(worker)
        report.cost_estimate_usd = estimated_cost_usd(-(-counts["selected"] // 10))
    finally:
        worker.close()
        remove_scratch(run)


def nothing_to_do(job: Job, baseline: Baseline | None, report: RunReport) -> bool:
    """Whether the delivery needs no run; then the report says so."""
    reason = guards.nothing_to_do(job, baseline)
    if reason is None:
        return False
    _log.info("%s", reason)
    report.status, report.exit_code = Status.NOTHING_NEW, 0
    nothing = describe.counts(Counter())
    report.counts, report.sent = {name: nothing[name] for name in nothing if name != "listed"}, describe.sent(Counter())
    return True


def _sample(worker: Worker) -> str | None:
    """The first message that would be sent."""
    for number in range(len(worker.run.plan.batches)):
        candidates = read_candidates(worker.run, number).head(1)
        for rows in full_rows(worker, number, candidates):
            made = message_rows(worker.run, rows.head(1))
            return worker.form.body(template_of(worker.run).texts(made))
    return None


def changes(job: Job, report: RunReport) -> Iterator[pl.DataFrame]:
    """Streams what is new, changed and deleted in a delivery against the previous one that the job names.

    Everything happens in scratch space, of a size that doesn't grow with the changes.

    Args:
        job: Its configuration selects the changes, and asks for what was before.
        report: Gets the counts.

    Yields:
        Frames of change (new, changed or deleted), MESSAGE_COLUMNS, and PREVIOUS (null where nothing changed).

    Raises:
        InventoryEnqueueError: As a run.
    """
    guards.check_delivery(job, None)
    run = plan_run(job, None)
    guards.check_run(run)
    worker = Worker(run, job.watch)
    try:
        run.save()
        counts, _ = compare(worker, report)
        if not counts["selected"]:
            return
        for number in range(len(run.plan.batches)):
            yield from _current_changes(worker, number)
        for number in range(len(run.plan.previous_batches) if Change.DELETED in run.plan.recalls else 0):
            yield _tidy(deleted_rows(run, number).with_columns(change=pl.lit(Change.DELETED.value)))
    finally:
        worker.close()
        remove_scratch(run)


def _current_changes(worker: Worker, number: int) -> Iterator[pl.DataFrame]:
    run = worker.run
    before = replaced_rows(run, number).select("row", pl.col(PREVIOUS).name.prefix("previous_"))
    for rows in full_rows(worker, number, read_candidates(run, number)):
        named = rows.with_columns(change=pl.col("change").replace_strict(CHANGES, return_dtype=pl.String))
        yield _tidy(named.join(before, on="row", how="left", maintain_order="left"))


def _tidy(rows: pl.DataFrame) -> pl.DataFrame:
    absent = [
        pl.lit(None, rows.schema[name]).alias(f"previous_{name}")
        for name in PREVIOUS
        if f"previous_{name}" not in rows.columns
    ]
    return rows.with_columns(absent).select("change", *MESSAGE_COLUMNS, *(f"previous_{name}" for name in PREVIOUS))
