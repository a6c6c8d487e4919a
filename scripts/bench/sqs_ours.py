"""Ours in the senders' benchmark: rows in columns to acknowledged messages, as the enqueue stage does it.

    python scripts/bench/sqs_ours.py --queue-url https://127.0.0.1:5071/queue --messages 500000

Prints one JSON line: keys and messages sent, wall and cpu (user and system, of all threads) from the first row to the
last answer, what is recorded in the ledger included; and the process's memory before, and at its peak, in bytes.
"""

import json
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import click
from deliveries import Listing
from measuring import peak_rss
from ready_bodies import REGION, RUN_ID, frames

from inventory_enqueue import pipeline
from inventory_enqueue.config import FirstRun, RunConfig, Sending, SendTransport, SqsQueue, Verify
from inventory_enqueue.ledger import TaskLedger
from inventory_enqueue.manifest import FileFormat
from inventory_enqueue.run import Run
from inventory_enqueue.sending import Sender
from inventory_enqueue.stages import enqueue
from inventory_enqueue.stages.worker import Worker
from inventory_enqueue.stores.local import LocalStore
from inventory_enqueue.watch import Watch

_TRACE_INTERVAL = 0.05


@click.command()
@click.option("--queue-url", required=True, help="The queue.")
@click.option("--messages", "rows", required=True, type=int, help="Rows to send.")
@click.option("--records-per-message", default=1, show_default=True, help="Rows in a message.")
@click.option("--concurrency", default=Sending.concurrency, show_default=True, help="Requests in flight, at most.")
@click.option(
    "--verify",
    default=Verify.MD5.value,
    type=click.Choice([choice.value for choice in Verify]),
    help="What is checked.",
)
@click.option(
    "--transport", type=click.Choice([choice.value for choice in SendTransport]), help="How requests are made."
)
@click.option("--trace", type=click.Path(path_type=Path), help="Write seconds, window and messages sent here, as CSV.")
def main(  # noqa: PLR0913 - the command line's options
    *,
    queue_url: str,
    rows: int,
    records_per_message: int,
    concurrency: int,
    verify: str,
    transport: str | None,
    trace: Path | None,
) -> None:
    """Send messages."""
    sending = Sending(
        concurrency=concurrency,
        records_per_message=records_per_message,
        verify=Verify(verify),
        transport=None if transport is None else SendTransport(transport),
    )
    with tempfile.TemporaryDirectory() as folder:
        watch = _Watch()
        worker = Worker(a_run(Path(folder), queue_url, sending), watch)
        ledger = TaskLedger(worker.run, 0)
        points: list[tuple[float, int, int]] = []
        _ = worker.sink
        idle = begin_peak()
        wall, cpu = time.perf_counter(), cpu_seconds()

        def note() -> None:
            now = time.perf_counter() - wall
            if trace is not None and (not points or now > points[-1][0] + _TRACE_INTERVAL):
                points.append((now, worker.pace.window.size, sender.counts["messages"]))

        watch.note = note
        sender = Sender(worker.sink, ledger, worker.pace, watch=watch)
        try:
            sender.send_all(enqueue.chunks(worker, ledger, frames(rows)))
        finally:
            ledger.close()
        result = {
            "keys": rows,
            "messages": sender.counts["messages"],
            "wall": time.perf_counter() - wall,
            "cpu": cpu_seconds() - cpu,
            "idle": idle,
            "peak": peak_rss(),
        }
        worker.close()
    if trace is not None:
        lines = [f"{seconds:.3f},{window},{sent}\n" for seconds, window, sent in points]
        trace.write_text("seconds,window,messages\n" + "".join(lines), encoding="ascii")
    print(json.dumps(result))


class _Watch(Watch):
    """Notes how the sending goes on, too."""

    note: Callable[[], None] | None = None

    def check(self) -> None:
        """As a watch does."""
        if self.note is not None:
            self.note()
        super().check()


def a_run(folder: Path, queue_url: str, sending: Sending) -> Run:
    """A run as the pipeline makes it, of a small delivery."""
    config = RunConfig(
        manifest=Listing(FileFormat.PARQUET, 40, 40).manifest(folder),
        sink=SqsQueue(queue_url),
        state=folder / "state",
        pipeline="bench",
        first_run=FirstRun.SEED,
        source_region=REGION,
        sending=sending,
        work_dir=folder / "work",
    )
    report = pipeline.run(config)
    return replace(Run.load(LocalStore(folder / "state" / "bench"), str(report.run_id)), id=RUN_ID)


def begin_peak() -> int:
    """The memory that this process has now, in bytes; its peak counts from now on. Linux."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return peak_rss()


def cpu_seconds() -> float:
    """Of this process, all threads."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
