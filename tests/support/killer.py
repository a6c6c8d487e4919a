"""The command line, killed as by `kill -9` at one named moment: nothing is flushed, closed or cleaned up.

    run_killed(Moment("inventory_enqueue.ledger:Ledger.commit", "before"), "--manifest", ...)

starts `python -m tests.support.killer MOMENT ARGS...`, a process of its own. It cuts the work into small tasks (one
data file each, two partitions), so that a few rows are enough to die between two tasks of a stage.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import resource
import signal
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tests.support.cli import Result, run_process

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

ROOT = Path(__file__).parents[2]
KILLED = -signal.SIGKILL
FILE_LIMIT = "TESTS_FILE_LIMIT"
"""Set in the environment of a run that can't write more bytes than these into any file: as a full disk, but not for
others."""
SLOWED = "TESTS_SLOWED"
"""Set in the environment of a run whose stages are to take some time each."""
_SLOW = [
    ("inventory_enqueue.engines.local", "run_task", 0.04),
    ("inventory_enqueue.execution", "check_sent", 0.04),
    ("inventory_enqueue.execution", "_commit", 0.04),
]
ONE_FILE_A_TASK = {"partition_bits": 1, "bytes_per_batch": 1}


@dataclass(frozen=True)
class Moment:
    """When the process dies."""

    function: str
    """A function of the product, as module:name, where it is looked up at the time of the call."""
    when: Literal["before", "after"] = "before"
    call: int = 1
    """The process dies at this call."""
    about: str = ""
    """Only calls count whose arguments have this text in their repr."""
    by: int = signal.SIGKILL
    """The signal that it gets: SIGSTOP lets it sleep instead."""


def run_killed(moment: Moment, *args: str | os.PathLike[str], env: Mapping[str, str] | None = None) -> Result:
    """Run the command line until it dies at this moment, and return how it really ended."""
    command = ["-m", "tests.support.killer", json.dumps(asdict(moment)), *args]
    return run_process(command, env={"PYTHONPATH": str(ROOT), **(env or {})})


def _die_at(moment: Moment) -> None:
    module, _, path = moment.function.partition(":")
    owner: Any = importlib.import_module(module)
    *outer, name = path.split(".")
    for part in outer:
        owner = getattr(owner, part)
    setattr(owner, name, _deadly(getattr(owner, name), moment))


def _deadly(function: Callable[..., Any], moment: Moment) -> Callable[..., Any]:
    lock = threading.Lock()
    calls = 0

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - stands for any function
        nonlocal calls
        if moment.about not in repr((args, kwargs)):
            return function(*args, **kwargs)
        with lock:
            calls += 1
            deadly = calls == moment.call
        if deadly and moment.when == "before":
            os.kill(os.getpid(), moment.by)
        result = function(*args, **kwargs)
        if deadly and moment.when == "after":
            os.kill(os.getpid(), moment.by)
        return result

    return wrapper


def _cut_small() -> None:
    """Let config.Sizes() be small: no option of the command line says so."""
    sizes: Any = importlib.import_module("inventory_enqueue.config").Sizes
    make = sizes.__init__

    def make_small(self: object, **values: Any) -> None:  # noqa: ANN401 - stands for any constructor
        make(self, **(ONE_FILE_A_TASK | values))

    sizes.__init__ = make_small


def _slow_down() -> None:
    """Let a signal from outside find each stage, and the commit: a few rows pass them in no time."""
    for module, name, seconds in _SLOW:
        owner = importlib.import_module(module)
        setattr(owner, name, _slow(getattr(owner, name), seconds))


def _slow(function: Callable[..., Any], seconds: float) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - stands for any function
        time.sleep(seconds)
        result = function(*args, **kwargs)
        time.sleep(seconds)
        return result

    return wrapper


def _main() -> None:
    command = importlib.import_module("inventory_enqueue.cli.main")
    if limit := os.environ.get(FILE_LIMIT):
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
    _cut_small()
    if os.environ.get(SLOWED):
        _slow_down()
    _die_at(Moment(**json.loads(sys.argv.pop(1))))
    command.main()


if __name__ == "__main__":
    _main()
