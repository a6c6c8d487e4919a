"""Batches to a sink: requests in flight at the run's pace, retries entry by entry, every answer recorded as it comes.

One loop in one thread; another thread makes the next chunk of messages meanwhile. An answer is recorded before anything
takes its place in flight, so that a process that is killed repeats at most what was in flight.
"""

import heapq
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count
from queue import Empty, Full, Queue
from threading import Event, Thread
from typing import Final, Protocol, Self

from inventory_enqueue.batching import MessageBatch, Messages
from inventory_enqueue.errors import StoppedError
from inventory_enqueue.ledger import Failure
from inventory_enqueue.pacing import RETRY_POLICY, Pace, RetryPolicy
from inventory_enqueue.sinks import BatchResult, Refusal, Sink
from inventory_enqueue.watch import RESUMES, Watch

_CHECK: Final = 0.25
"""Seconds after which a waiting loop looks whether the run was stopped."""
_MOST_CHUNKS: Final = 8
"""Chunks of which something waits to be sent again: beyond, no new one is begun."""
_STARVED: Final = 0.005
"""Seconds after which a loop that has requests to spare looks for the next chunk."""


class Answers(Protocol):
    """Takes what the queue says: a run's ledger."""

    def record(self, sent: bytes, failures: Sequence[Failure] = ()) -> None:
        """As TaskLedger.record."""

    def checkpoint(self) -> None:
        """As TaskLedger.checkpoint."""


class Sender:
    """Sends one task's messages."""

    def __init__(
        self,
        sink: Sink,
        ledger: Answers,
        pace: Pace,
        *,
        watch: Watch,
        policy: RetryPolicy = RETRY_POLICY,
    ) -> None:
        """Makes it.

        Args:
            sink: Where to.
            ledger: Gets each answer before anything else happens.
            pace: Of the run.
            watch: Whether to go on.
            policy: When to give up.
        """
        self._sink = sink
        self._ledger = ledger
        self._pace = pace
        self._watch = watch
        self._policy = policy
        self._in_flight = 0
        self._got_on = time.monotonic()
        self._waiting: list[tuple[float, int, int, MessageBatch]] = []
        """When, in which order, after how many attempts in vain, what."""
        self._order = count()
        self._failed_attempts: dict[int, int] = {}
        """Of requests in flight that aren't the first of their kind, by id()."""
        self.counts: Counter[str] = Counter()
        """messages, requests, retries, throttled, billed."""

    def send_all(self, chunks: Iterable[Messages]) -> None:
        """Sends all messages; returns when each was accepted or refused for good.

        Raises:
            PreflightError: The sink refuses everything.
            StoppedError: Retries ran out, the run was stopped, or the sink failed. What was accepted is recorded.
        """
        with _Ahead(chunks, self._sink.prepare) as source:
            try:
                while True:
                    self._watch.check()
                    self._ledger.checkpoint()
                    wait = self._begin(source)
                    if self._has_ended(source):
                        return
                    self._settle(wait)
            except Exception:
                # Also of a disk that is full where messages are made: what the queue has taken meanwhile is recorded.
                self._drain()
                raise

    def _has_ended(self, source: "_Ahead") -> bool:
        """Whether everything is settled.

        Raises:
            StoppedError: Everything that may be sent is, and there is more.
        """
        if self._in_flight or self._waiting:
            return False
        if self._watch.messages_left == 0 and source.is_ready(self._has_room):
            raise self._watch.limit_reached()
        return source.is_empty

    def _begin(self, source: "_Ahead") -> float:
        """Begins what may begin now.

        Returns:
            Seconds until more may.
        """
        while self._in_flight < self._pace.window.size:
            now = time.monotonic()
            is_due = bool(self._waiting) and self._waiting[0][0] <= now and self._may_retry()
            if not is_due and not (self._may_go_on() and source.is_ready(self._has_room)):
                return self._idle_for(now, source)
            if not is_due and self._watch.messages_left == 0:
                return self._idle_for(now, source)
            # Asked last, since neither a rate nor a full queue matters to a run that has nothing left to send.
            wait = self._pace.wait(now)
            if wait:
                return min(wait, _CHECK)
            batch = self._retry() if is_due else self._first(source)
            self._pace.begun(batch.length, now)
            self._sink.begin(batch)
            self._in_flight += 1
        return _CHECK

    def _first(self, source: "_Ahead") -> MessageBatch:
        """The next batch that wasn't sent before, or as much of it as may be."""
        batch, left = source.next(), self._watch.messages_left
        if left is not None and batch.length > left:
            source.put_back(batch.part(range(left, batch.length)))
            batch = batch.part(range(left))
        self._watch.begun(batch.length)
        return batch

    def _retry(self) -> MessageBatch:
        _, _, attempts, batch = heapq.heappop(self._waiting)
        self._failed_attempts[id(batch)] = attempts
        if attempts:
            # What is left of a request that got on tells of no outage, and costs nothing.
            self._pace.budget.retried()
        return batch

    def _may_go_on(self) -> bool:
        """Whether new messages are sent: in an outage, what waits to be sent again comes first."""
        return not (self._pace.budget.is_spent and self._waiting)

    def _has_room(self) -> bool:
        """Whether another chunk may be begun: what waits to be sent again keeps its chunk in memory, about 20 MB."""
        return len({id(batch.messages) for *_, batch in self._waiting}) < _MOST_CHUNKS

    def _may_retry(self) -> bool:
        return not self._pace.budget.is_spent or not self._failed_attempts

    def _idle_for(self, now: float, source: "_Ahead") -> float:
        """Seconds for which nothing new can begin unless an answer comes."""
        if not source.is_empty:
            return _STARVED
        if self._waiting and self._may_retry():
            return min(_CHECK, max(0.0, self._waiting[0][0] - now))
        return _CHECK

    def _settle(self, wait: float) -> None:
        """Records the answers that have come.

        Raises:
            PreflightError, StoppedError: One of them says that it is of no use to go on, or retries ran out.
        """
        if not self._in_flight:
            time.sleep(wait)
            return
        fatal = None
        answers = self._sink.finished(wait)
        self._record(answers)
        for batch, result in answers:
            self._pace_by(result)
            fatal = fatal or result.fatal or self._again(batch, result)
        if fatal is not None:
            raise fatal

    def _record(self, answers: list[tuple[MessageBatch, BatchResult]]) -> None:
        """Writes down what answers say, all at once."""
        self._in_flight -= len(answers)
        counts = self.counts
        acknowledged: list[bytes] = []
        failures: list[Failure] = []
        for batch, result in answers:
            if result.sent:
                acknowledged.append(batch.acknowledgements(result.sent))
            for refusal in result.refused:
                failures += _failures(batch, refusal)
            counts["messages"] += len(result.sent)
            counts["billed"] += batch.billed()
            if result.retry:
                counts["retries"] += len(result.retry)
                counts["throttled"] += result.throttled
        counts["requests"] += len(answers)
        if answers:
            self._ledger.record(b"".join(acknowledged), failures)

    def _pace_by(self, result: BatchResult) -> None:
        if result.throttled:
            self._pace.window.throttled(began=result.began, now=time.monotonic())
        if result.sent:
            # An error that comes at once says nothing of how long an answer takes.
            self._pace.window.answered(result.seconds)
            self._pace.budget.succeeded()
            self._got_on = time.monotonic()

    def _again(self, batch: MessageBatch, result: BatchResult) -> StoppedError | None:
        """Puts what an answer left over on the list of what is to be sent again."""
        attempts = self._failed_attempts.pop(id(batch), 0)
        if not result.retry:
            return None
        attempts = 0 if result.sent or result.refused or result.apart else attempts + 1
        if attempts >= self._policy.attempts:
            return self._given_up(f"a batch in {attempts} attempts", result)
        if self._pace.budget.is_spent and time.monotonic() - self._got_on > self._policy.patience:
            return self._given_up(f"anything for {self._policy.patience:.0f} s", result)
        due = time.monotonic() + (0 if result.apart else self._policy.delay(attempts))
        parts = [[entry] for entry in result.retry] if result.apart else [list(result.retry)]
        for part in parts:
            heapq.heappush(self._waiting, (due, next(self._order), attempts, batch.part(part)))
        return None

    def _given_up(self, what: str, result: BatchResult) -> StoppedError:
        return StoppedError(f"the queue didn't take {what} ({result.reason}); {RESUMES}")

    def _drain(self) -> None:
        """Records the answers of what is in flight, as far as they come in time."""
        until = time.monotonic() + self._watch.grace
        while self._in_flight and (left := until - time.monotonic()) > 0:
            self._record(self._sink.finished(min(left, _CHECK)))


def _failures(batch: MessageBatch, refusal: Refusal) -> Iterator[Failure]:
    """A message that can't be delivered, as one failure a record: each can be sent again alone."""
    messages = batch.messages
    for record in messages.records_of(batch.positions[refusal.position]).iter_rows(named=True):
        yield Failure(
            row=record["row"],
            key=record["key"],
            code=refusal.code,
            message=refusal.message,
            sender_fault=refusal.sender_fault,
            body=messages.form.body([record["record"]]),
        )


class _Ahead:
    """Makes the next chunk of messages in a thread of its own, while this one is sent. There are at most three."""

    def __init__(self, chunks: Iterable[Messages], prepare: Callable[[Messages], None]) -> None:
        self._chunks = chunks
        self._prepare = prepare
        self._made: Queue[Messages | BaseException | None] = Queue(maxsize=1)
        self._stop = Event()
        self._batches: Iterator[MessageBatch] = iter(())
        self._next: MessageBatch | None = None
        self._thread = Thread(target=self._make, name="messages", daemon=True)
        self.is_empty = False
        """Whether there is nothing left."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def is_ready(self, has_room: Callable[[], bool]) -> bool:
        """Whether there is a next batch now; once there will be none any more, is_empty.

        Args:
            has_room: Whether the next chunk may be begun.

        Raises:
            BaseException: What the chunks raised.
        """
        while self._next is None and not self.is_empty:
            self._next = next(self._batches, None)
            if self._next is None and not (has_room() and self._begin_chunk()):
                break
        return self._next is not None

    def next(self) -> MessageBatch:
        """The next batch, where one is ready."""
        batch, self._next = self._next, None
        if batch is None:
            raise IndexError("no batch is ready")
        return batch

    def put_back(self, batch: MessageBatch) -> None:
        """Makes what is left of the batch that next() gave the next one."""
        self._next = batch

    def _begin_chunk(self) -> bool:
        try:
            made = self._made.get_nowait()
        except Empty:
            return False
        if isinstance(made, BaseException):
            raise made
        if made is None:
            self.is_empty = True
            return False
        self._batches = (MessageBatch(made, range(start, stop)) for start, stop in made.requests)
        return True

    def _make(self) -> None:
        try:
            for messages in self._chunks:
                self._prepare(messages)
                if not self._put(messages):
                    return
        except BaseException as error:  # noqa: BLE001 - it is raised where the chunks are wanted
            self._put(error)
        else:
            self._put(None)

    def _put(self, item: Messages | BaseException | None) -> bool:
        while not self._stop.is_set():
            try:
                self._made.put(item, timeout=_CHECK)
            except Full:
                continue
            return True
        return False
