"""The command line as a user runs it: a process of its own, with nothing of the developer's AWS setup in sight."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_PRIVATE = ("AWS_", "BOTO_", "INVENTORY_ENQUEUE_", "XDG_")
_DUMMIES = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "NO_PROXY": "127.0.0.1",
    "no_proxy": "127.0.0.1",
}


@dataclass(frozen=True)
class Result:
    """How a command ended, and what it printed."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def report(self) -> dict[str, Any]:
        """The report that `--json` prints on stdout."""
        return cast("dict[str, Any]", json.loads(self.stdout))


def run_cli(
    *args: str | os.PathLike[str],
    env: Mapping[str, str] | None = None,
    stdin: str | None = None,
    timeout: float = 120,
) -> Result:
    """Run `inventory-enqueue` with these arguments to its end; `env` is added to `clean_environment`."""
    return run_process(["-m", "inventory_enqueue", *args], env=env, stdin=stdin, timeout=timeout)


def run_process(
    args: Sequence[str | os.PathLike[str]],
    *,
    env: Mapping[str, str] | None = None,
    stdin: str | None = None,
    timeout: float = 120,
) -> Result:
    """Run Python with these arguments in a session of its own, all of which is killed when the time is up."""
    with (
        tempfile.TemporaryDirectory(prefix="home-") as home,
        subprocess.Popen(
            [sys.executable, *args],
            env=clean_environment(home) | dict(env or {}),
            stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            start_new_session=True,
        ) as process,
    ):
        try:
            stdout, stderr = process.communicate(stdin, timeout)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return Result(process.returncode, stdout, stderr)


def clean_environment(home: str | os.PathLike[str]) -> dict[str, str]:
    """This process's environment, but with dummy AWS settings, this HOME, and loopback reached without a proxy."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(_PRIVATE)}
    return inherited | _DUMMIES | {"HOME": os.fspath(home)}
