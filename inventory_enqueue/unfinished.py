"""A run that was begun and not ended: it is finished before anything else."""

import logging

from inventory_enqueue import describe
from inventory_enqueue.config import StandardOutput
from inventory_enqueue.errors import InventoryEnqueueError, RefusedError, StoppedError
from inventory_enqueue.execution import carry_out, conclude, described, end
from inventory_enqueue.ledger import Ledger, TaskLedger
from inventory_enqueue.planning import Job
from inventory_enqueue.report import RunReport, Stage, Status, total
from inventory_enqueue.run import Run, differences
from inventory_enqueue.stages.worker import Worker

_log = logging.getLogger(__name__)


def finish_unfinished(job: Job, ledger: Ledger, report: RunReport) -> bool:
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
        end(unfinished, ledger, Status.FAILED)
        return False
    if other:
        raise RefusedError(
            f"the unfinished run {unfinished.id} was begun with another value of {', '.join(other)}; finish it with "
            "the same flags as then, give it up with --abandon, or use another --pipeline",
            where=unfinished.store.where(),
        )
    _log.info("going on with the unfinished run %s (%s)", unfinished.id, unfinished.current.location)
    unfinished = unfinished.with_runtime(job.runtime)
    unfinished.save()
    if same:
        carry_out(Worker(unfinished, job.watch), ledger, report)
    else:
        _finish_first(job, unfinished, ledger, report)
    return same


def abandon_unfinished(ledger: Ledger, report: RunReport) -> None:
    """Gives a run up that was begun and not ended, and says what that costs; one that is committed already is left."""
    unfinished, baseline = ledger.unfinished(), ledger.baseline()
    if unfinished is None or (baseline is not None and baseline.run_id == unfinished.id):
        return
    acknowledged = sum(
        TaskLedger(unfinished, task).acknowledged().n_unique() for task in range(unfinished.plan.tasks(Stage.ENQUEUE))
    )
    _log.warning(
        "giving up the unfinished run %s: the queue took %d keys of it, which will be sent again as far as they are "
        "selected again",
        unfinished.id,
        acknowledged,
    )
    report.abandoned = {"run_id": unfinished.id, "acknowledged": acknowledged}
    end(unfinished, ledger, Status.ABANDONED)


def _finish_first(job: Job, unfinished: Run, ledger: Ledger, report: RunReport) -> None:
    """Carries out the run of another delivery, with a report of its own inside this command's.

    A run that can't be finished, for its delivery is damaged or refused, and that sent nothing, is given up: it doesn't
    stand in the way of a better one.
    """
    first = _first_report(unfinished, report)
    try:
        carry_out(Worker(unfinished, job.watch), ledger, first)
    except StoppedError as error:
        first.fail(error)
        raise
    except InventoryEnqueueError as error:
        first.fail(error)
        if unfinished.has_sent():
            raise
        _log.warning("giving up the unfinished run %s, which sent nothing: %s", unfinished.id, error)
        end(unfinished, ledger, first.status)
    finally:
        report.finished_first.append(first.to_json())


def _first_report(unfinished: Run, report: RunReport) -> RunReport:
    return RunReport(pipeline=report.pipeline, source=describe.source(unfinished.current, unfinished.kind))


def _end_committed(run: Run, ledger: Ledger, report: RunReport) -> None:
    """Says the last word of a run that died before it, after its commit: what it did stands in its tasks' reports."""
    done = {stage: [run.task_report(stage, number) for number in range(run.plan.tasks(stage))] for stage in Stage}
    counts, sent = (
        total(task for stage in stages for task in done[stage] if task is not None)
        for stages in ((Stage.INDEX, Stage.DIFF, Stage.RECALL), (Stage.ENQUEUE,))
    )
    report.run_id, report.baseline = run.id, described(run.baseline, run.pipeline_store)
    report.counts = describe.counts(counts)
    conclude(run, ledger, sent, report)
