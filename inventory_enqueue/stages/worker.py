"""What the tasks of a run share within a process, made from the run's file alone: any process can take any task."""

import shutil
from functools import cached_property
from threading import BoundedSemaphore

from inventory_enqueue.batching import MessageForm
from inventory_enqueue.config import JsonLinesFile, SqsQueue, StandardOutput
from inventory_enqueue.delivery.landing import Landing
from inventory_enqueue.delivery.reading import Room
from inventory_enqueue.index import IndexMeta
from inventory_enqueue.messages import ENVELOPES
from inventory_enqueue.pacing import Pace, Pause
from inventory_enqueue.run import Run
from inventory_enqueue.sinks import Sink
from inventory_enqueue.sinks.jsonl import JsonLinesFileSink, StandardOutputSink
from inventory_enqueue.sinks.sqs import SqsSink
from inventory_enqueue.watch import Watch


class Worker:
    """A run, with the connections that its tasks use."""

    def __init__(self, run: Run, watch: Watch) -> None:
        """Makes it; connections are made when they are first used.

        Args:
            run: What is done.
            watch: Whether it is to end early: the tasks check it between two batches of rows.
        """
        self.run = run
        self.watch = watch
        self.room = Room(run.runtime.sizes.bytes_decoded)
        self.computing = BoundedSemaphore(run.runtime.sizes.workers)
        """Held by a diff task until it only writes: disks are waited for by more tasks than there are cores."""

    def fetch_ahead(self, number: int) -> None:
        """Begins to download the files of an index task, and those of the tasks that come next: one for each worker."""
        end = min(number + self.run.runtime.sizes.workers + 1, self.run.delivery_tasks)
        for task in range(number, end):
            self.landing.prefetch(*self.run.batch(task))

    @cached_property
    def keeps_downloads(self) -> bool:
        """Whether data files stay in the scratch space from index to enqueue, or are fetched twice: a question of room.

        Half of the free space is left to the spills and to others.
        """
        scratch = self.run.scratch
        scratch.mkdir(parents=True, exist_ok=True)
        return self.run.bytes_to_read < shutil.disk_usage(scratch).free // 2

    @cached_property
    def baseline_index(self) -> IndexMeta | None:
        """What the baseline's index is, where the run compares with it.

        Raises:
            InventoryUnavailableError, IntegrityError: It can't be used.
        """
        if self.run.baseline is None or self.run.plan.indexes_previous:
            return None
        return IndexMeta.load(self.run.pipeline_store, self.run.baseline.index)

    @cached_property
    def landing(self) -> Landing:
        """Where data files come from."""
        return Landing(self.run.runtime.aws, self.run.scratch / "data")

    @cached_property
    def sink(self) -> Sink:
        """Where messages go.

        Raises:
            PreflightError, StoppedError: It can't be used.
        """
        match self.run.sink:
            case SqsQueue(queue_url):
                sending = self.run.runtime.sending
                return SqsSink(
                    queue_url,
                    self.run.runtime.aws,
                    connections=sending.concurrency,
                    transport=sending.transport,
                    verify=sending.verify,
                )
            case JsonLinesFile(path):
                begun_at = self.run.output_size()
                sink = JsonLinesFileSink(path, begun_at=begun_at)
                if begun_at is None:
                    self.run.save_output_size(sink.begun_at)
                return sink
            case StandardOutput():
                return StandardOutputSink()

    @cached_property
    def form(self) -> MessageForm:
        """What all messages have in common."""
        envelope = ENVELOPES[self.run.message_format]
        return MessageForm(
            envelope,
            max_records=self.run.runtime.sending.records_per_message if envelope.holds_several else 1,
            attributes={"run_id": self.run.id, "pipeline": self.run.pipeline},
        )

    @cached_property
    def pace(self) -> Pace:
        """How fast they are sent."""
        sending = self.run.runtime.sending
        pause = None
        if sending.pause_above is not None and isinstance(self.sink, SqsSink):
            pause = Pause(sending.pause_above, self.sink.backlog)
        return Pace(sending.concurrency, sending.rate, pause)

    def open_sink(self) -> None:
        """Proves that the sink can be used, before any work is done for it.

        Raises:
            PreflightError, StoppedError: It can't.
        """
        _ = self.sink

    def close(self) -> None:
        """Closes what was opened."""
        if "sink" in self.__dict__:
            self.sink.close()
        if "landing" in self.__dict__:
            self.landing.close()
