"""A planned run, carried out: the stages in their order, then the counts, then the commit."""

import logging
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Final

from inventory_enqueue import describe, guards
from inventory_enqueue.baseline import Baseline
from inventory_enqueue.config import OnLate
from inventory_enqueue.delivery.reading import release_memory
from inventory_enqueue.engines import local
from inventory_enqueue.errors import IntegrityError, RefusedError
from inventory_enqueue.index import IndexMeta, read_manifest, write_meta
from inventory_enqueue.ledger import Ledger, TaskLedger
from inventory_enqueue.reconcile import check_listed, check_sent, content_columns
from inventory_enqueue.report import RunReport, Stage, Status, TaskReport, total
from inventory_enqueue.run import Run
from inventory_enqueue.sinks.sqs import estimated_cost_usd
from inventory_enqueue.stages.worker import Worker
from inventory_enqueue.store import Store

_log = logging.getLogger(__name__)

_FAILURES: Final = "failures.jsonl"
_LATE: Final = "late.jsonl"
UNDELIVERABLE: Final = 4
"""The exit code of a run that committed with messages in the failures file."""


def carry_out(worker: Worker, ledger: Ledger, report: RunReport) -> None:
    """Index, diff, recall, enqueue, commit."""
    run = worker.run
    report.run_id = run.id
    report.baseline = describe.baseline(run.baseline, None if run.previous is None else run.previous.manifest)
    try:
        counts, diff = _compare_or_end(worker, ledger, report)
        enqueue = _stage(worker, Stage.ENQUEUE, report) if counts["selected"] else []
        sent = total(enqueue)
        report.sent = describe.sent(sent)
        check_sent(run, counts, sent)
        tasks = sorted(task.number for task in enqueue)
        if sent["failed"]:
            _write_lines(run, _FAILURES, tasks, TaskLedger.failure_lines)
        if sent["late"]:
            _write_lines(run, _LATE, tasks, TaskLedger.late_lines)
        if not run.replay:
            _commit(run, ledger, counts, diff)
    finally:
        worker.close()
    conclude(run, ledger, sent, report)


def _compare_or_end(worker: Worker, ledger: Ledger, report: RunReport) -> tuple[Counter[str], list[TaskReport]]:
    """As compare; but a run that a guard refuses has ended: it must not stand in the way of the next one."""
    try:
        counts, diff = compare(worker, report)
        guards.check_selected(worker.run, counts)
    except RefusedError:
        end(worker.run, ledger, Status.REFUSED)
        raise
    return counts, diff


def compare(worker: Worker, report: RunReport) -> tuple[Counter[str], list[TaskReport]]:
    """Index, diff and recall, checked: their counts, and the diff tasks' reports.

    Raises:
        RefusedError: A guard refuses what was found.
        IntegrityError: The counts don't reconcile.
    """
    run = worker.run
    counts = total(_stage(worker, Stage.INDEX, report))
    report.counts = describe.counts(counts)
    guards.check_index(run, counts, content_columns(run, counts))
    diff = _stage(worker, Stage.DIFF, report)
    counts.update(total(diff))
    report.counts = describe.counts(counts)
    check_listed(run, counts)
    if run.plan.recalls and counts["selected"]:
        counts.update(total(_stage(worker, Stage.RECALL, report)))
        report.counts = describe.counts(counts)
    return counts, diff


def _commit(run: Run, ledger: Ledger, counts: Counter[str], diff: list[TaskReport]) -> None:
    """Completes the new index, then moves the baseline to it: forward only, unless it is set by hand."""
    parts = tuple(report.outputs[1] for report in sorted(diff, key=lambda report: report.number))
    meta = IndexMeta(
        scheme=run.plan.scheme,
        partition_bits=run.plan.partition_bits,
        versions=run.versions,
        lists_versions=counts["files_with_is_latest"] > 0,
        content_columns=content_columns(run, counts),
        rows=sum(part.rows for part in parts),
        identities=counts["unchanged"] + counts["new"] + counts["changed"] + counts["newly_admitted"],
        parts=parts,
    )
    write_meta(ledger.store, run, meta)
    manifest = run.current.manifest
    committed = ledger.baseline()
    is_older = committed is not None and committed.creation_timestamp > manifest.creation_timestamp
    if committed is not None and is_older and not run.seeding:
        _log.info("the baseline stays at %s, which is newer", committed.manifest_uri)
        return
    ledger.commit(
        Baseline(
            run_id=run.id,
            committed=datetime.now(tz=UTC),
            manifest_uri=str(run.current.location),
            manifest_md5=manifest.md5,
            creation_timestamp=manifest.creation_timestamp,
            source_bucket=manifest.source_bucket,
            scope=run.scope,
            kind=run.kind,
            filters=run.filters.to_json(),
            filtered_at=run.created,
            identities=meta.identities,
        )
    )


def conclude(run: Run, ledger: Ledger, sent: Counter[str], report: RunReport) -> None:
    """Ends a run that did all it was to do."""
    report.counts.update(reappeared=sent["reappeared"], deleted_gone=sent["deleted_gone"])
    report.sent = describe.sent(sent)
    if sent["failed"]:
        report.sent["failures_file"] = run.store.where(_FAILURES)
    if sent["late"]:
        report.sent["late_file"] = late_file = run.store.where(_LATE)
        level = logging.WARNING if run.on_late is OnLate.REPORT else logging.INFO
        _log.log(level, "%d keys that reappeared weren't sent; they are in %s", sent["late"], late_file)
    report.status = Status.SEEDED if run.seeding else Status.COMMITTED
    report.exit_code = UNDELIVERABLE if sent["failed"] else 0
    report.cost_estimate_usd = estimated_cost_usd(sent["billed"])
    remove_scratch(run)
    ledger.end(run, report.to_json())


def end(run: Run, ledger: Ledger, status: Status) -> None:
    """Ends a run that won't be gone on with."""
    remove_scratch(run)
    ledger.end(run, {"run_id": run.id, "status": status})


def remove_scratch(run: Run) -> None:
    """Removes what a run left in the scratch space."""
    shutil.rmtree(run.runtime.work_dir / run.id, ignore_errors=True)


def described(baseline: Baseline | None, store: Store) -> dict[str, object] | None:
    """The baseline as the report shows it, with what the copy of its manifest says."""
    if baseline is None:
        return None
    try:
        manifest = read_manifest(store, baseline.index)
    except IntegrityError:
        manifest = None
    return describe.baseline(baseline, manifest)


def _write_lines(run: Run, name: str, tasks: list[int], lines: Callable[[TaskLedger], bytes]) -> None:
    """What all tasks wrote down in one file, for people and for resend."""
    with run.store.write_file(name) as path, path.open("wb") as file:
        for number in tasks:
            file.write(lines(TaskLedger(run, number)))


def _stage(worker: Worker, stage: Stage, report: RunReport) -> list[TaskReport]:
    """Runs a stage and notes its time."""
    tasks = worker.run.plan.tasks(stage)
    with _timed(stage, report):
        reports = []
        for task in local.run_stage(worker, stage):
            reports.append(task)
            _log.debug("%s: %d of %d tasks", stage, len(reports), tasks)
    release_memory()  # the next stage has threads of its own, and other needs
    _log.info("%s: %d tasks in %.1f s", stage, tasks, report.seconds[stage])
    return reports


@contextmanager
def _timed(stage: Stage, report: RunReport) -> Iterator[None]:
    started = time.monotonic()
    try:
        yield
    finally:
        report.seconds[stage] = round(time.monotonic() - started, 3)
