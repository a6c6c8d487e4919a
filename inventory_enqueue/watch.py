"""What ends a command before its work is done: a stop that was asked for, a lost lock, a limit."""

import time
from datetime import timedelta
from threading import Event

from inventory_enqueue.config import GRACE
from inventory_enqueue.errors import StoppedError
from inventory_enqueue.store import Lock

RESUMES = "run the same command again: it goes on with what is left"


class Watch:
    """Is looked at between two batches of rows, and between two requests; its own thread isn't needed."""

    def __init__(
        self, *, max_messages: int | None = None, max_duration: timedelta | None = None, grace: float = GRACE
    ) -> None:
        """Begins to watch a command.

        Args:
            max_messages: Messages that it may send, in all of its runs together.
            max_duration: How long it may take, from now on.
            grace: Seconds to wait for the answers of what is in flight, once it is to end.
        """
        self._stop = Event()
        self._lock: Lock | None = None
        self._max_messages = max_messages
        self._max_duration = max_duration
        self._started = time.monotonic()
        self.grace = grace
        self.messages_left = max_messages
        """How many more may be sent; None where there is no limit."""

    def holds(self, lock: Lock) -> None:
        """From now on, the command goes on only while it holds this lock."""
        self._lock = lock

    def stop(self) -> None:
        """Makes whoever checks end early, in whatever thread."""
        self._stop.set()

    def go_on(self) -> None:
        """Takes stop() back, once all have ended."""
        self._stop.clear()

    def check(self) -> None:
        """Is there a reason to end?

        Raises:
            LockLostError: Another run has taken the pipeline over.
            StoppedError: stop() was called, or the time is over.
        """
        if self._stop.is_set():
            raise StoppedError(f"the run was stopped; {RESUMES}")
        if self._lock is not None:
            self._lock.check()
        if self._max_duration is not None and time.monotonic() - self._started > self._max_duration.total_seconds():
            raise StoppedError(f"the time of --max-duration ({self._max_duration}) is over; {RESUMES}")

    def begun(self, messages: int) -> None:
        """Counts messages that are sent for the first time."""
        if self.messages_left is not None:
            self.messages_left -= messages

    def limit_reached(self) -> StoppedError:
        """The error for a command that has sent as many messages as it may."""
        return StoppedError(f"the {self._max_messages:,} messages of --max-messages are sent; {RESUMES}")
