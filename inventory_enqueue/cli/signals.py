"""Ctrl-C and SIGTERM end every verb in the same way: the work stops, and the exit code names the signal."""

import signal
from types import FrameType
from typing import NoReturn


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived: it ends a run as Ctrl-C does."""


def listen() -> None:
    """Turns both signals into exceptions of the main thread."""
    # Importing polars replaces Python's SIGINT handler by one that restarts system calls: a wait would outlast Ctrl-C.
    signal.siginterrupt(signal.SIGINT, True)  # noqa: FBT003 - its parameters have no names
    signal.signal(signal.SIGTERM, _terminate)


def exit_code(signalled: KeyboardInterrupt) -> int:
    """128 and the signal's number: 130 for SIGINT, 143 for SIGTERM."""
    return 128 + (signal.SIGTERM if isinstance(signalled, Terminated) else signal.SIGINT)


def _terminate(_number: int, _frame: FrameType | None) -> NoReturn:
    raise Terminated
