"""The story of a run, top to bottom: a delivery is indexed, diffed and enqueued, and only then becomes the baseline."""

import logging
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from inventory_enqueue import describe, guards
from inventory_enqueue.config import LatestDelivery, RunConfig, StandardOutput
from inventory_enqueue.delivery.finding import check_age, find_latest, manifest_location, wait_for
from inventory_enqueue.delivery.landing import Landing
from inventory_enqueue.engines import local
from inventory_enqueue.errors import InventoryEnqueueError, PreflightError, RefusedError, StoppedError
from inventory_enqueue.index import IndexMeta, read_manifest, write_meta
from inventory_enqueue.ledger import Ledger, TaskLedger, read_baseline
from inventory_enqueue.planning import Job, plan_run
from inventory_enqueue.reconcile import check_listed, check_sent, content_columns
from inventory_enqueue.report import RunReport, Stage, Status, TaskReport, total
from inventory_enqueue.run import Baseline, Delivery, Run, Runtime, differences
from inventory_enqueue.sinks.sqs import estimated_cost_usd
from inventory_enqueue.stages.diff import read_candidates
from inventory_enqueue.stages.enqueue import build_messages, read_back
from inventory_enqueue.stages.worker import Worker
from inventory_enqueue.store import LocalStore

_log = logging.getLogger(__name__)

_FAILURES: Final = "failures.jsonl"
_UNDELIVERABLE: Final = 4
"""The exit code of a run that committed with messages in the failures file."""


def run(config: RunConfig, report: RunReport | None = None) -> RunReport:
    """Does what was asked for.

    Args:
        config: The task.
        report: Is filled in as the run goes on, so that a caller has it after an error, too.

    Returns:
        The report.

    Raises:
        InventoryEnqueueError: The run was refused, stopped or failed.
    """
    report = RunReport() if report is None else report
    runtime = Runtime(_work_dir(config), config.concurrency, config.aws, config.sizes)
    landing = Landing(config.aws, runtime.work_dir)
    try:
        _make_work_dir(runtime.work_dir)
        delivery = _find_delivery(config, landing)
        job = Job(config, runtime, landing, delivery, config.pipeline_name(delivery.manifest.source_bucket))
        report.pipeline, report.source = job.pipeline, describe.source(delivery, config.kind)
        if config.dry_run:
            _dry_run(job, report)
        else:
            with Ledger.opened(job.state, job.pipeline) as ledger:
                if not _finish_unfinished(job, ledger, report):
                    _begin(job, ledger, report)
                if report.exit_code == 0 and any(
                    first["exit_code"] == _UNDELIVERABLE for first in report.finished_first
                ):
                    report.exit_code = _UNDELIVERABLE
    except OSError as error:
        raise StoppedError(
            f"{error.strerror or error}; mend that and run the same command again",
            where=str(error.filename or runtime.work_dir),
        ) from error
    finally:
        landing.close()
    return report


def _find_delivery(config: RunConfig, landing: Landing) -> Delivery:
    """The delivery that is asked for, as soon as it is complete.

    Raises:
        InventoryUnavailableError: It isn't, or it is too old, and the wait is over.
    """

    def find() -> Delivery:
        if isinstance(config.manifest, LatestDelivery):
            delivery = find_latest(landing, config.manifest.inventory, day=config.manifest.day)
        else:
            delivery = landing.open(manifest_location(config.manifest))
        check_age(delivery, config.max_inventory_age, datetime.now(tz=UTC))
        return delivery

    return wait_for(find, config.wait)


def _begin(job: Job, ledger: Ledger, report: RunReport) -> None:
    baseline = ledger.baseline()
    report.baseline = _described(baseline, ledger.store)
    if _nothing_to_do(job, baseline, report):
        return
    guards.check_state(job, baseline, ledger)
    guards.check_delivery(job, baseline)
    run = plan_run(job, baseline)
    guards.check_run(run)
    worker = Worker(run)
    if run.selected_changes:
        worker.open_sink()
    run.save()
    _carry_out(worker, ledger, report)


def _nothing_to_do(job: Job, baseline: Baseline | None, report: RunReport) -> bool:
    reason = guards.nothing_to_do(job, baseline)
    if reason is None:
        return False
    _log.info("%s", reason)
    report.status, report.exit_code = Status.NOTHING_NEW, 0
    nothing = describe.counts(Counter())
    report.counts, report.sent = {name: nothing[name] for name in nothing if name != "listed"}, describe.sent(Counter())
    return True


def _finish_unfinished(job: Job, ledger: Ledger, report: RunReport) -> bool:
    """Goes on with a run that was begun and not ended. Returns whether it was the very run that is asked for.

    Raises:
        RefusedError: It was begun with other flags, and sent something.
    """
    unfinished = ledger.unfinished()
    if unfinished is None:
        return False
    other = differences(unfinished.config, job.config.to_json())
    same = unfinished.current.manifest.md5 == job.delivery.manifest.md5
    baseline = ledger.baseline()
    if baseline is not None and baseline.run_id == unfinished.id:
        first = _first_report(unfinished, report)
        _end_committed(unfinished, ledger, report if same and not other else first)
        if same and not other:
            return True
        report.finished_first.append(first.to_json())
        return False
    if isinstance(unfinished.sink, StandardOutput) or (other and not unfinished.has_sent()):
        # Nothing that counts was sent (whoever read that standard output is gone): there is nothing to finish.
        _log.info("giving up the unfinished run %s, which sent nothing", unfinished.id)
        _end(unfinished, ledger, Status.FAILED)
        return False
    if other:
        raise RefusedError(
            f"the unfinished run {unfinished.id} was begun with another value of {', '.join(other)}; finish it with "
            "the same flags as then, or use another --pipeline",
            where=str(unfinished.folder),
        )
    _log.info("going on with the unfinished run %s (%s)", unfinished.id, unfinished.current.location)
    unfinished = unfinished.with_runtime(job.runtime)
    unfinished.save()
    if same:
        _carry_out(Worker(unfinished), ledger, report)
    else:
        _finish_first(unfinished, ledger, report)
    return same


def _finish_first(unfinished: Run, ledger: Ledger, report: RunReport) -> None:
    """Carries out the run of another delivery, with a report of its own inside this command's.

    A run that can't be finished, for its delivery is damaged or refused, and that sent nothing, is given up: it doesn't
    stand in the way of a better one.
    """
    first = _first_report(unfinished, report)
    try:
        _carry_out(Worker(unfinished), ledger, first)
    except StoppedError as error:
        first.fail(error)
        raise
    except InventoryEnqueueError as error:
        first.fail(error)
        if unfinished.has_sent():
            raise
        _log.warning("giving up the unfinished run %s, which sent nothing: %s", unfinished.id, error)
        _end(unfinished, ledger, first.status)
    finally:
        report.finished_first.append(first.to_json())


def _first_report(unfinished: Run, report: RunReport) -> RunReport:
    return RunReport(pipeline=report.pipeline, source=describe.source(unfinished.current, unfinished.kind))


def _end_committed(run: Run, ledger: Ledger, report: RunReport) -> None:
    """Says the last word of a run that died before it, after its commit: what it did stands in its tasks' reports."""
    done = {
        stage: [run.task_report(stage, number) for number in range(run.plan.tasks(stage))]
        for stage in (Stage.INDEX, Stage.DIFF, Stage.ENQUEUE)
    }
    counts, sent = (
        total(task for stage in stages for task in done[stage] if task is not None)
        for stages in ((Stage.INDEX, Stage.DIFF), (Stage.ENQUEUE,))
    )
    report.run_id, report.baseline = run.id, _described(run.baseline, run.pipeline_store)
    report.counts = describe.counts(counts)
    _conclude(run, ledger, sent, report)


def _conclude(run: Run, ledger: Ledger, sent: Counter[str], report: RunReport) -> None:
    """Ends a committed run."""
    report.counts["reappeared"] = sent["reappeared"]
    report.sent = describe.sent(sent)
    if sent["failed"]:
        report.sent["failures_file"] = str(run.store.path(_FAILURES))
    report.status = Status.SEEDED if run.seeding else Status.COMMITTED
    report.exit_code = _UNDELIVERABLE if sent["failed"] else 0
    report.cost_estimate_usd = estimated_cost_usd(sent["requests"])
    _remove_scratch(run)
    ledger.end(run, report.to_json())


def _end(run: Run, ledger: Ledger, status: Status) -> None:
    _remove_scratch(run)
    ledger.end(run, {"run_id": run.id, "status": status})


def _carry_out(worker: Worker, ledger: Ledger, report: RunReport) -> None:
    """Index, diff, enqueue, commit."""
    run = worker.run
    report.run_id = run.id
    report.baseline = _described(run.baseline, run.pipeline_store)
    try:
        counts, diff = _compare_or_end(worker, ledger, report)
        enqueue = _stage(worker, Stage.ENQUEUE, report) if counts["selected"] else []
        sent = total(enqueue)
        report.sent = describe.sent(sent)
        check_sent(run, counts, sent)
        if sent["failed"]:
            _write_failures(run, [task.number for task in enqueue])
        _commit(run, ledger, counts, diff)
    finally:
        worker.close()
    _conclude(run, ledger, sent, report)


def _compare_or_end(worker: Worker, ledger: Ledger, report: RunReport) -> tuple[Counter[str], list[TaskReport]]:
    """As _compare; but a run that a guard refuses has ended: it must not stand in the way of the next one."""
    try:
        return _compare(worker, report)
    except RefusedError:
        _end(worker.run, ledger, Status.REFUSED)
        raise


def _compare(worker: Worker, report: RunReport) -> tuple[Counter[str], list[TaskReport]]:
    """Index and diff, checked: their counts, and the diff tasks' reports.

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
    return counts, diff


def _commit(run: Run, ledger: Ledger, counts: Counter[str], diff: list[TaskReport]) -> None:
    """Completes the new index, then moves the baseline to it, forward only."""
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
    if committed is not None and committed.creation_timestamp > manifest.creation_timestamp:
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
            identities=meta.identities,
        )
    )


def _dry_run(job: Job, report: RunReport) -> None:
    """Index and diff in scratch space: neither the queue nor the state is touched."""
    store = LocalStore(job.state)
    baseline = read_baseline(store)
    report.baseline = _described(baseline, store)
    if _nothing_to_do(job, baseline, report):
        report.status = Status.DRY_RUN
        return
    report.status, report.exit_code, report.sent = Status.DRY_RUN, 0, describe.sent(Counter())
    guards.check_delivery(job, baseline)
    run = plan_run(job, baseline)
    guards.check_run(run)
    report.run_id = run.id
    worker = Worker(run)
    try:
        run.save()
        counts, _ = _compare(worker, report)
        report.sample_message = _sample(worker)
        report.cost_estimate_usd = estimated_cost_usd(-(-counts["selected"] // 10))
    finally:
        worker.close()
        _remove_scratch(run)


def _sample(worker: Worker) -> str | None:
    """The first message that would be sent."""
    for number in range(len(worker.run.plan.batches)):
        candidates = read_candidates(worker.run, number).head(1)
        for rows in read_back(worker, number, candidates):
            for message in build_messages(worker.run, rows):
                return message.body
    return None


def _stage(worker: Worker, stage: Stage, report: RunReport) -> list[TaskReport]:
    """Runs a stage and notes its time."""
    tasks = worker.run.plan.tasks(stage)
    with _timed(stage, report):
        reports = []
        for task in local.run_stage(worker, stage):
            reports.append(task)
            _log.debug("%s: %d of %d tasks", stage, len(reports), tasks)
    _log.info("%s: %d tasks in %.1f s", stage, tasks, report.seconds[stage])
    return reports


@contextmanager
def _timed(stage: Stage, report: RunReport) -> Iterator[None]:
    started = time.monotonic()
    try:
        yield
    finally:
        report.seconds[stage] = round(time.monotonic() - started, 3)


def _write_failures(run: Run, tasks: list[int]) -> None:
    """All tasks' failures in one file, for people and for resend."""
    with run.store.write_file(_FAILURES) as path, path.open("wb") as file:
        for number in sorted(tasks):
            file.write(TaskLedger(run, number).failure_lines())


def _described(baseline: Baseline | None, store: LocalStore) -> dict[str, object] | None:
    """The baseline as the report shows it, with what the copy of its manifest says."""
    if baseline is None:
        return None
    return describe.baseline(baseline, read_manifest(store, baseline.index))


def _make_work_dir(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PreflightError(
            f"the scratch space can't be made ({error.strerror}); name another folder with --work-dir",
            where=str(folder),
        ) from error


def _work_dir(config: RunConfig) -> Path:
    if config.work_dir is not None:
        return config.work_dir.absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "inventory-enqueue"


def _remove_scratch(run: Run) -> None:
    shutil.rmtree(run.runtime.work_dir / run.id, ignore_errors=True)
