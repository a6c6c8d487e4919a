"""Tasks in threads of this process: pyarrow, polars and the hashing work outside the interpreter's lock."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed

from inventory_enqueue.report import Stage, TaskReport
from inventory_enqueue.stages.tasks import run_task
from inventory_enqueue.stages.worker import Worker


def run_stage(worker: Worker, stage: Stage) -> Iterator[TaskReport]:
    """Runs all tasks of a stage and yields their reports as they end.

    Enqueue tasks run one at a time, since each has as many requests in flight as the pace allows; the others `workers`
    at a time, each with the memory that config.Sizes states (of twice as many diff tasks, half compute and half wait
    for the disk). After an error no further task is begun; those under way end early.

    Raises:
        InventoryEnqueueError, OSError: As the first task that failed.
    """
    workers = {Stage.ENQUEUE: 1, Stage.DIFF: 2 * worker.run.runtime.sizes.workers}.get(
        stage, worker.run.runtime.sizes.workers
    )
    with ThreadPoolExecutor(workers, thread_name_prefix=stage) as pool:
        try:
            # In here, too: a signal may come before all are handed out.
            futures: list[Future[TaskReport]] = [
                pool.submit(run_task, worker, stage, number) for number in range(worker.run.plan.tasks(stage))
            ]
            for future in as_completed(futures):
                yield future.result()
        except BaseException:
            worker.watch.stop()
            pool.shutdown(wait=True, cancel_futures=True)
            worker.watch.go_on()
            raise
