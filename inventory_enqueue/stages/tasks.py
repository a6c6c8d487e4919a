"""Any task by its stage and number."""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from inventory_enqueue.report import Stage, TaskReport
from inventory_enqueue.run import Run
from inventory_enqueue.stages import diff, enqueue, index, recall
from inventory_enqueue.stages.worker import Worker

_TASKS: Final[Mapping[Stage, Callable[[Worker, int], TaskReport]]] = {
    Stage.INDEX: index.run,
    Stage.DIFF: diff.run,
    Stage.RECALL: recall.run,
    Stage.ENQUEUE: enqueue.run,
}
_DONE: Final[Mapping[Stage, Callable[[Run, TaskReport], bool]]] = {
    Stage.INDEX: index.done,
    Stage.DIFF: diff.done,
    Stage.RECALL: recall.done,
    Stage.ENQUEUE: lambda _run, _report: True,
}


def run_task(worker: Worker, stage: Stage, number: int) -> TaskReport:
    """Runs a task, or returns the report of an earlier attempt whose outputs are still there."""
    report = worker.run.task_report(stage, number)
    if report is not None and _DONE[stage](worker.run, report):
        return report
    worker.watch.check()
    started = time.monotonic()
    report = _TASKS[stage](worker, number)
    report = replace(report, seconds=round(time.monotonic() - started, 3))
    worker.run.save_task_report(report)
    return report
