"""A real S3 and SQS server on loopback: the roto-server binary of the PyPI package roto-aws."""

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from inventory_enqueue.errors import PreflightError

HOST: Final = "127.0.0.1"
REGION: Final = "us-east-1"
_START_SECONDS: Final = 15.0
_STOP_SECONDS: Final = 5.0
_POLL_SECONDS: Final = 0.02


class RotoServer:
    """A server that runs as long as the `with` block.

    After `kill` or `stop`, `start` brings it back on the same port with the same data.
    """

    def __init__(self, data_dir: Path) -> None:
        """Chooses a free port, and starts nothing yet.

        Args:
            data_dir: Where the server keeps buckets, queues and its log; made if it isn't there.
        """
        self.data_dir = data_dir
        self.port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint_url(self) -> str:
        """The endpoint of both S3 and SQS."""
        return f"http://{HOST}:{self.port}"

    def environment(self) -> dict[str, str]:
        """The environment variables that point an AWS SDK to the server, and away from the user's own settings."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_ACCESS_KEY_ID": "demo",
            "AWS_SECRET_ACCESS_KEY": "demo",
            "AWS_DEFAULT_REGION": REGION,
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "NO_PROXY": HOST,
            "no_proxy": HOST,
        }

    def start(self) -> None:
        """Starts the server and waits until it accepts connections.

        Raises:
            PreflightError: The binary isn't installed, or the server doesn't come up.
        """
        binary = _binary()
        self.data_dir.mkdir(parents=True, exist_ok=True)
        command = [binary, "--host", HOST, "--port", str(self.port), "--data-dir", str(self.data_dir)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)  # noqa: S603
        try:
            self._wait_until_ready(self._process)
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """Ends the server, first gently."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
        self._process = None

    def kill(self) -> None:
        """Ends the server as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def __enter__(self) -> Self:
        """Starts the server."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stops the server."""
        self.stop()

    @property
    def _log(self) -> Path:
        return self.data_dir / "roto-server.log"

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline and process.poll() is None:
            try:
                socket.create_connection((HOST, self.port), timeout=1).close()
            except OSError:
                time.sleep(_POLL_SECONDS)
            else:
                return
        log = self._log.read_text(errors="replace")[-2000:]
        raise PreflightError(f"roto-server doesn't answer on port {self.port}; its log ends with:\n{log}")


def _binary() -> str:
    # Beside the interpreter first: a virtual environment need not be activated.
    beside = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    binary = shutil.which("roto-server", path=beside)
    if binary is None:
        raise PreflightError("roto-server isn't installed: pip install 'inventory-enqueue[demo]'")
    return binary


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port
