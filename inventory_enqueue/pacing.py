"""How fast a sink is written to: requests in flight, messages a second, what retries may cost. Pure: told the time."""

import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from inventory_enqueue.errors import StoppedError

_START: Final = 8
"""Requests in flight at the start: a queue in use has room for them."""
_EPOCH: Final = 20
"""At least so many answers make a mean latency that can be compared."""
_SLOWER: Final = 2.0
"""From this multiple of the best mean latency on, more requests would only wait longer."""
_NOISE: Final = 0.005
"""Seconds of latency that nobody has to explain."""
_FORGET: Final = 1.002
"""The best mean grows by this much an epoch, so that another route or a busier region becomes the norm in time."""


_FEW: Final = 0.1
"""Of requests may be throttled: then the window is a tenth above what the queue takes, and what it takes is sent."""
_RECENT: Final = 0.02
"""The weight of one answer in the share of those that were throttled: some fifty count."""


class Window:
    """Requests in flight: twice as many each round until throttled, then one more a round; half when throttled often.

    Additive increase, multiplicative decrease, as TCP has it: https://www.rfc-editor.org/rfc/rfc5681. It doesn't grow
    while answers take much longer than they did.
    """

    def __init__(self, limit: int) -> None:
        """Makes it.

        Args:
            limit: It never grows beyond.
        """
        self._limit = limit
        self._size = float(min(_START, limit))
        self._threshold = float(limit)
        self._halved = float("-inf")
        self._share = 0.0
        """Of requests that were throttled lately."""
        self._best = float("inf")
        self._sum = 0.0
        self._count = 0
        self._epoch = max(_EPOCH, self.size)
        self._is_slow = False

    @property
    def size(self) -> int:
        """Requests that may be in flight now: 1 to the limit."""
        return int(self._size)

    def answered(self, seconds: float) -> None:
        """An answer came, and it wasn't throttling.

        Args:
            seconds: It took.
        """
        self._share *= 1 - _RECENT
        self._sum += seconds
        self._count += 1
        if self._count == self._epoch:
            mean = self._sum / self._count
            self._best = min(self._best * _FORGET, mean)
            self._is_slow = mean > _SLOWER * self._best + _NOISE
            self._sum, self._count = 0.0, 0
            # Set at its start: a window that doubles grows with each answer, and would never be caught up with.
            self._epoch = max(_EPOCH, self.size)
        if not self._is_slow:
            step = 1.0 if self._size < self._threshold else 1 / self._size
            self._size = min(self._limit, self._size + step)

    def throttled(self, *, began: float, now: float) -> None:
        """A request was throttled: the window is halved where more than a few of the latest were.

        A queue at its limit throttles some requests for a window that is just right; and those that began before the
        window was halved tell nothing of the smaller one.

        Args:
            began: When the request was sent, in seconds of a clock.
            now: By the same clock.
        """
        if began < self._halved:
            return
        self._share += (1 - self._share) * _RECENT
        if self._share <= _FEW:
            return
        self._size = max(1.0, self._size / 2)
        self._threshold = self._size
        self._halved = now


class Rate:
    """Messages a second: each request waits for its turn, so that the mean is exact and nothing comes in bursts."""

    def __init__(self, per_second: float | None) -> None:
        """Makes it; None is no limit."""
        self._per_second = per_second
        self._next = float("-inf")

    def wait(self, now: float) -> float:
        """Seconds until the next request may begin; 0 for at once."""
        return max(0.0, self._next - now)

    def begun(self, messages: int, now: float) -> None:
        """A request of so many messages begins now. What was missed up to 0.1 s ago is made up for."""
        if self._per_second is not None:
            earliest = now if self._next == float("-inf") else now - _CATCH_UP
            self._next = max(self._next, earliest) + messages / self._per_second


_CATCH_UP: Final = 0.1


@dataclass(frozen=True)
class RetryPolicy:
    """Full jitter: before attempt n, up to base * 2 ** n seconds, never more than cap.

    https://aws.amazon.com/builders-library/timeouts-retries-and-backoff-with-jitter/
    """

    attempts: int = 12
    """In a row without any entry of the batch getting on: about 50 seconds together."""
    base: float = 0.1
    cap: float = 20.0
    patience: float = 60.0
    """Seconds without any message accepted after which an outage ends the run, however many batches wait."""

    def delay(self, attempt: int) -> float:
        """Seconds to wait after this many failed attempts."""
        return random.uniform(0, min(self.cap, self.base * 2**attempt))  # noqa: S311 - jitter is no secret


RETRY_POLICY: Final = RetryPolicy()


class RetryBudget:
    """Keeps retries from making an outage worse: each costs, a success pays back; with nothing left, one at a time.

    The costs are those of botocore's standard mode:
    https://docs.aws.amazon.com/sdkref/latest/guide/feature-retry-behavior.html
    """

    _CAPACITY: Final = 500
    _RETRY: Final = 5

    def __init__(self) -> None:
        """A full budget."""
        self._left = self._CAPACITY

    @property
    def is_spent(self) -> bool:
        """Whether retries go one at a time."""
        return self._left < self._RETRY

    def retried(self) -> None:
        """A request is made again."""
        self._left = max(0, self._left - self._RETRY)

    def succeeded(self) -> None:
        """A request got on."""
        self._left = min(self._CAPACITY, self._left + 1)


class Pause:
    """Keeps a queue from growing while its consumers can't follow."""

    def __init__(self, most: int, backlog: Callable[[], int]) -> None:
        """Makes it.

        Args:
            most: Messages that may wait in the queue.
            backlog: Asks the queue how many do. May raise StoppedError: then the last answer holds.
        """
        self._most = most
        self._backlog = backlog
        self._ask_at = float("-inf")
        self._is_on = False

    def wait(self, now: float) -> float:
        """Seconds until the queue is asked again, while nothing may be sent; 0 where something may.

        Raises:
            PreflightError: As backlog().
        """
        if now >= self._ask_at:
            # A question that fails for once leaves it as it was.
            with suppress(StoppedError):
                self._is_on = self._backlog() > self._most
            self._ask_at = now + _ASK_INTERVAL
        return self._ask_at - now if self._is_on else 0.0


_ASK_INTERVAL: Final = 5.0
"""Seconds. The attribute is an estimate that is seconds old anyway:
https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_GetQueueAttributes.html"""


class Pace:
    """The pace of all tasks of a run together, so that a task goes on as fast as the one before it ended."""

    def __init__(self, concurrency: int, rate: float | None = None, pause: Pause | None = None) -> None:
        """Makes it.

        Args:
            concurrency: Requests in flight, at most.
            rate: Messages a second, at most; None for no limit.
            pause: When nothing is sent.
        """
        self.window = Window(concurrency)
        self._rate = Rate(rate)
        self._pause = pause
        self._is_free = rate is None and pause is None
        """Whether nothing but the window holds requests back."""
        self.budget = RetryBudget()

    def wait(self, now: float) -> float:
        """Seconds until the next request may begin; 0 for at once."""
        if self._is_free:
            return 0.0
        pause = self._pause.wait(now) if self._pause is not None else 0.0
        return max(pause, self._rate.wait(now))

    def begun(self, messages: int, now: float) -> None:
        """A request of so many messages begins now."""
        if not self._is_free:
            self._rate.begun(messages, now)
