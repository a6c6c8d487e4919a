"""A run in a process of its own: started, watched, signalled and killed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING

from tests.support.cli import clean_environment
from tests.support.killer import ROOT, SLOWED, Moment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.pipelines import Pipeline
    from tests.support.proxy import FaultProxy

PATIENCE = 60  # seconds
NEVER = Moment("inventory_enqueue.ledger:Ledger.commit", call=1 << 30)


def start(
    pipeline: Pipeline, manifest: Path | str, log: Path, *more: str, slowed: bool = False, moment: Moment = NEVER
) -> subprocess.Popen[bytes]:
    """Start the command in a process group of its own, with one data file a task, and wait until it holds the lock."""
    command = [
        sys.executable,
        "-m",
        "tests.support.killer",
        json.dumps(asdict(moment)),
        *pipeline.arguments(manifest, *more),
    ]
    environment = clean_environment(pipeline.work) | {"PYTHONPATH": str(ROOT)} | ({SLOWED: "1"} if slowed else {})
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=stderr, stderr=stderr, start_new_session=True
        )
    wait_until(lambda: process.poll() is not None or lock_holder(pipeline) == process.pid)
    return process


@contextlib.contextmanager
def under_way(
    pipeline: Pipeline, manifest: Path | str, log: Path, *more: str, moment: Moment = NEVER
) -> Iterator[subprocess.Popen[bytes]]:
    """As start; at the end of the block nothing of it is left running."""
    process = start(pipeline, manifest, log, *more, moment=moment)
    try:
        yield process
    finally:
        kill_group(process)


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait until it is so, with patience."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def wait_for_a_request(process: subprocess.Popen[bytes], proxy: FaultProxy, action: str) -> None:
    """Wait until the process makes a request through the proxy, or ends."""
    seen = len(proxy.log)
    wait_until(lambda: process.poll() is not None or any(logged.action == action for logged in proxy.log[seen:]))


def lock_holder(pipeline: Pipeline) -> int | None:
    """The process that the lock names: it needn't be alive."""
    with contextlib.suppress(OSError, ValueError):
        lock = json.loads(pipeline.store.get("lock"))
        return int(lock.get("holder", lock)["pid"])
    return None


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill the process and its children as by `kill -9`."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
