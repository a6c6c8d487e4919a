"""The strictest SQS on PyPI, in an environment of its own, since it pins botocore: `make test` makes it."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from inventory_enqueue.demo.roto import HOST

if TYPE_CHECKING:
    from collections.abc import Iterator

_PROGRAM = Path(__file__).parents[2] / "build" / "ministack" / "bin" / "ministack"
_START_SECONDS = 30


@contextmanager
def ministack(folder: Path) -> Iterator[str]:
    """Run the server as long as the `with` block, and give its endpoint."""
    assert _PROGRAM.exists(), f"{_PROGRAM} is missing: run `make build/ministack/.installed`"
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = probe.getsockname()[1]
    environment = {
        **os.environ,
        "BIND_HOST": HOST,
        "MINISTACK_HOST": HOST,
        "GATEWAY_PORT": str(port),
        "SERVICES": "s3,sqs",
        "STATE_DIR": str(folder / "state"),
    }
    with (folder / "ministack.log").open("wb") as log:
        process = subprocess.Popen([_PROGRAM], env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                socket.create_connection((HOST, port), timeout=1).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError((folder / "ministack.log").read_text()) from None
                time.sleep(0.05)
        yield f"http://{HOST}:{port}"
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
