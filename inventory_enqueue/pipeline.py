"""The story of a run, top to bottom: a delivery is indexed, diffed and enqueued, and only then becomes the baseline."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime

from inventory_enqueue import describe, guards
from inventory_enqueue.comparing import dry_run, nothing_to_do
from inventory_enqueue.config import LatestDelivery, RunConfig
from inventory_enqueue.delivery.finding import check_age, find_latest, manifest_location, wait_for
from inventory_enqueue.delivery.landing import Landing
from inventory_enqueue.errors import RefusedError
from inventory_enqueue.execution import UNDELIVERABLE, carry_out, described, end
from inventory_enqueue.ledger import Ledger
from inventory_enqueue.planning import Job, plan_run
from inventory_enqueue.report import RunReport, Status
from inventory_enqueue.run import Delivery, Runtime
from inventory_enqueue.stages.worker import Worker
from inventory_enqueue.state import disk_errors_stop, made_work_dir, opened_state
from inventory_enqueue.unfinished import abandon_unfinished, finish_unfinished
from inventory_enqueue.watch import Watch


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
    with begin_job(config) as job:
        report.pipeline, report.source = job.pipeline, describe.source(job.delivery, config.kind)
        if config.dry_run:
            dry_run(job, report)
        else:
            with opened_ledger(job) as ledger:
                if config.abandon:
                    abandon_unfinished(ledger, report)
                if not finish_unfinished(job, ledger, report):
                    _begin(job, ledger, report)
                if report.exit_code == 0 and any(
                    first["exit_code"] == UNDELIVERABLE for first in report.finished_first
                ):
                    report.exit_code = UNDELIVERABLE
    return report


def set_baseline(config: RunConfig, report: RunReport) -> RunReport:
    """Makes the delivery the baseline, whatever was committed before; sends nothing.

    Raises:
        RefusedError: A run is unfinished: to set the baseline under it would lose what it has still to send.
    """
    with begin_job(config) as job, opened_ledger(job) as ledger:
        refuse_unfinished(ledger)
        run = plan_run(job, None)
        guards.check_run(run)
        run.save()
        carry_out(Worker(run, job.watch), ledger, report)
    return report


def refuse_unfinished(ledger: Ledger) -> None:
    """Keeps the baseline as it is while a run has still to send; one that only records a delivery is given up.

    Raises:
        RefusedError: A run is unfinished.
    """
    unfinished = ledger.unfinished()
    if unfinished is None:
        return
    if unfinished.seeding:
        end(unfinished, ledger, Status.FAILED)
        return
    raise RefusedError(
        f"the run {unfinished.id} is unfinished: finish it first, by the same command that began it",
        where=unfinished.store.where(),
    )


@contextmanager
def begin_job(config: RunConfig) -> Iterator[Job]:
    """Finds the delivery, and makes room to work in.

    Raises:
        InventoryEnqueueError: There is none, or it can't be read; in the block too, where a file can't be written.
    """
    watch = Watch(max_messages=config.max_messages, max_duration=config.max_duration, grace=config.grace)
    runtime = Runtime(made_work_dir(config.work_dir), config.sending, config.aws, config.sizes)
    with (
        disk_errors_stop(runtime.work_dir),
        closing(Landing(config.aws, runtime.work_dir)) as landing,
        opened_state(
            config.state, config.aws, runtime.work_dir, checkpoint_interval=config.sending.checkpoint_interval
        ) as state,
    ):
        delivery = _find_delivery(config, landing)
        pipeline = config.pipeline_name(delivery.manifest.source_bucket)
        yield Job(config, runtime, landing, delivery, pipeline, state.at(pipeline), watch)


@contextmanager
def opened_ledger(job: Job) -> Iterator[Ledger]:
    """The pipeline's ledger; the job goes on only while it is ours.

    Raises:
        LockedError, PreflightError: As Ledger.opened.
    """
    locking, keep_runs = job.config.locking, job.config.keep_runs
    with Ledger.opened(job.store, job.pipeline, locking, keep_runs=keep_runs) as ledger:
        job.watch.holds(ledger.lock)
        yield ledger


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
    report.baseline = described(baseline, ledger.store)
    if nothing_to_do(job, baseline, report):
        return
    guards.check_state(job, baseline, ledger)
    guards.check_delivery(job, baseline)
    run = plan_run(job, baseline)
    guards.check_run(run)
    worker = Worker(run, job.watch)
    if run.selected_changes:
        worker.open_sink()
    run.save()
    carry_out(worker, ledger, report)
