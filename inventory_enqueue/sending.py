"""Batches to a sink: several requests in flight, retries entry by entry, and every answer recorded as it comes."""

import random
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from threading import Event, Lock
from typing import Final

from inventory_enqueue.batching import MessageBatch
from inventory_enqueue.errors import StoppedError
from inventory_enqueue.ledger import Failure, TaskLedger
from inventory_enqueue.sinks import BatchResult, Sink


@dataclass(frozen=True)
class RetryPolicy:
    """Full jitter: before attempt n, up to base * 2 ** n seconds, never more than cap.

    https://aws.amazon.com/builders-library/timeouts-retries-and-backoff-with-jitter/
    """

    attempts: int = 12
    """In a row without any entry of the batch getting on: about 45 seconds together."""
    base: float = 0.1
    cap: float = 20.0

    def delay(self, attempt: int) -> float:
        """Seconds to wait after this many failed attempts."""
        return random.uniform(0, min(self.cap, self.base * 2**attempt))  # noqa: S311 - jitter is no secret


RETRY_POLICY: Final = RetryPolicy()


class Sender:
    """Sends one task's batches."""

    def __init__(self, sink: Sink, ledger: TaskLedger, *, concurrency: int, policy: RetryPolicy = RETRY_POLICY) -> None:
        """Makes it.

        Args:
            sink: Where to.
            ledger: Gets each answer before anything else happens.
            concurrency: Requests in flight; as many more batches wait for a thread.
            policy: When to give up.
        """
        self._sink = sink
        self._ledger = ledger
        self._concurrency = concurrency
        self._policy = policy
        self._stop = Event()
        self._lock = Lock()
        self.counts: Counter[str] = Counter()
        """requests, retries, throttled."""

    def send_all(self, batches: Iterable[MessageBatch]) -> None:
        """Sends all batches; returns when each entry was accepted or refused for good.

        Raises:
            PreflightError: The sink refuses everything.
            StoppedError: Retries ran out, or the sink failed. What was accepted until then is recorded.
        """
        with ThreadPoolExecutor(self._concurrency, thread_name_prefix="send") as pool:
            waiting: set[Future[None]] = set()
            try:
                for batch in batches:
                    waiting.add(pool.submit(self._deliver, batch))
                    if len(waiting) >= 2 * self._concurrency:
                        waiting = _first_ended(waiting)
                while waiting:
                    waiting = _first_ended(waiting)
            except BaseException:
                self._stop.set()
                pool.shutdown(wait=True, cancel_futures=True)
                raise

    def _deliver(self, batch: MessageBatch) -> None:
        failed_attempts = 0
        while batch and not self._stop.is_set():
            result = self._sink.send(batch)
            self._record(batch, result)
            progress = bool(result.sent or result.refused)
            batch = [batch[position] for position in result.retry]
            if not batch:
                return
            failed_attempts = 0 if progress else failed_attempts + 1
            if failed_attempts >= self._policy.attempts:
                raise StoppedError(
                    f"the queue didn't take a batch in {failed_attempts} attempts ({result.reason}); "
                    "run the same command again: it goes on with what is left"
                )
            self._stop.wait(self._policy.delay(failed_attempts))

    def _record(self, batch: MessageBatch, result: BatchResult) -> None:
        failures = [
            Failure(
                batch[refusal.position].row,
                batch[refusal.position].key,
                refusal.code,
                refusal.message,
                refusal.sender_fault,
                batch[refusal.position].body,
            )
            for refusal in result.refused
        ]
        self._ledger.record([batch[position].row for position in result.sent], failures)
        with self._lock:
            self.counts.update(requests=result.requests, retries=len(result.retry), throttled=int(result.throttled))


def _first_ended(waiting: set[Future[None]]) -> set[Future[None]]:
    """Waits for a batch to end, raises its error, and returns those that are still under way."""
    done, still = wait(waiting, return_when=FIRST_COMPLETED)
    for future in done:
        future.result()
    return still
