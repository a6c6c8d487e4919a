"""Ctrl-C and SIGTERM end every verb in the same way: the work stops, and the exit code names the signal."""

import os
import signal
from types import FrameType
from typing import NoReturn


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived: it ends a run as Ctrl-C does."""


def listen() -> None:
    """Turns the first signal into an exception of the main thread; the second one ends the process at once."""
    # Installed by Python and not by a library, a handler also ends a wait in a system call.
    signal.signal(signal.SIGINT, _Handler())
    signal.signal(signal.SIGTERM, _Handler())


def exit_code(signalled: KeyboardInterrupt) -> int:
    """128 and the signal's number: 130 for SIGINT, 143 for SIGTERM."""
    return 128 + (signal.SIGTERM if isinstance(signalled, Terminated) else signal.SIGINT)


class _Handler:
    _arrived = 0
    """Signals of both kinds."""

    def __call__(self, number: int, _frame: FrameType | None) -> NoReturn:
        _Handler._arrived += 1
        if _Handler._arrived > 1:
            # Whoever asks twice doesn't want to wait for answers; what the queue said so far is recorded.
            os._exit(128 + number)
        raise Terminated if number == signal.SIGTERM else KeyboardInterrupt
