"""A process of its own that takes a store's lock, then does what it is told, a Python expression a line.

    python -m tests.support.lock_holder '{"location": ..., "endpoint_url": ..., "scratch": ..., "lease": ...}'

`store` and `lock` can be used in a line. Each is answered by a line: ok, or the error's class and text.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inventory_enqueue.config import AwsSettings
from inventory_enqueue.stores import open_store
from inventory_enqueue.uris import parse_location
from tests.support.cli import clean_environment

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Place:
    """What the process needs to open the store."""

    location: str
    endpoint_url: str | None
    scratch: str
    lease: float


class Holder:
    """The process, while it holds the lock."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.pid = process.pid
        self._process = process

    def does(self, expression: str) -> str:
        """Let it evaluate this; "ok", or the error."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{expression}\n")
        self._process.stdin.flush()
        return self.answer()

    def answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def pause(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


@contextmanager
def lock_holder(place: Place) -> Iterator[Holder]:
    """Run the process; the block begins once it holds the lock."""
    environment = clean_environment(place.scratch) | {"PYTHONPATH": os.pathsep.join([str(ROOT), *_inherited()])}
    with subprocess.Popen(
        [sys.executable, "-m", "tests.support.lock_holder", json.dumps(asdict(place))],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        encoding="utf-8",
    ) as process:
        holder = Holder(process)
        try:
            assert holder.answer() == "ok"
            yield holder
        finally:
            holder.kill()


def _inherited() -> list[str]:
    return [path for path in [os.environ.get("PYTHONPATH")] if path]


def _main() -> None:
    place = Place(**json.loads(sys.argv[1]))
    settings = AwsSettings(s3_endpoint_url=place.endpoint_url)
    store = open_store(parse_location(place.location), settings, Path(place.scratch))
    known: dict[str, Any] = {"store": store, "lock": store.lock("lock.json", lease=place.lease)}
    _say("ok")
    for line in sys.stdin:
        try:
            eval(line, known)  # noqa: S307 - the tests' own words
        except Exception as error:  # noqa: BLE001 - whatever it is, the test looks at it
            _say(f"{type(error).__name__}: {error}")
        else:
            _say("ok")


def _say(answer: str) -> None:
    sys.stdout.write(f"{answer}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    _main()
