"""Fixtures: one real S3 + SQS server for the session, clients of it, and fresh names for each test."""

from __future__ import annotations

import logging
import os
import signal
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import pytest
from hypothesis import settings

from inventory_enqueue.demo.roto import RotoServer
from tests.support.cli import clean_environment
from tests.support.file_pipeline import FilePipeline
from tests.support.proxy import FaultProxy
from tests.support.queue import create_queue

if TYPE_CHECKING:
    from collections.abc import Iterator

    from types_boto3_s3 import S3Client
    from types_boto3_sqs import SQSClient

settings.register_profile("local", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") == "true" else "local")

_MARK = "TESTED_BY"  # every process that this session starts, directly or not, inherits it
_SERVERS = (b"roto-server", b"ministack", b"/weed")
_GRACE_SECONDS = 5


@pytest.fixture(scope="session", autouse=True)
def isolated_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Tests in this process see no AWS setup of the developer; the value marks this session's processes."""
    mark = uuid.uuid4().hex
    with pytest.MonkeyPatch.context() as patch:
        clean = clean_environment(tmp_path_factory.mktemp("home")) | {_MARK: mark}
        for name in os.environ.keys() - clean.keys():
            patch.delenv(name)
        for name, value in clean.items():
            patch.setenv(name, value)
        yield mark


@pytest.fixture(scope="session", autouse=True)
def no_server_left(isolated_session: str) -> Iterator[None]:
    """Fail the session, after it, if a server that it started still runs."""
    yield
    deadline = time.monotonic() + _GRACE_SECONDS
    while (left := _servers(isolated_session)) and time.monotonic() < deadline:
        time.sleep(0.1)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    if left:
        pytest.fail(f"servers were left running: {left}")


def _servers(mark: str) -> list[int]:
    """List the servers that carry this mark; none where there is no /proc to look at."""
    pids = [int(folder.name) for folder in Path("/proc").glob("[0-9]*")]
    return [pid for pid in pids if _is_server(pid, f"{_MARK}={mark}".encode())]


def _is_server(pid: int, mark: bytes) -> bool:
    folder = Path(f"/proc/{pid}")
    try:
        command = (folder / "cmdline").read_bytes()
        return any(name in command for name in _SERVERS) and mark in (folder / "environ").read_bytes()
    except OSError:  # it ended meanwhile, or belongs to someone else
        return False


@pytest.fixture(scope="session")
def roto(tmp_path_factory: pytest.TempPathFactory, no_server_left: None) -> Iterator[RotoServer]:  # noqa: ARG001 - order
    """One server for all tests. A test that kills its server starts its own."""
    with RotoServer(tmp_path_factory.mktemp("roto")) as server:
        yield server


@pytest.fixture
def sqs_client(roto: RotoServer) -> Iterator[SQSClient]:
    client = boto3.client("sqs", endpoint_url=roto.endpoint_url)
    yield client
    client.close()


@pytest.fixture
def s3_client(roto: RotoServer) -> Iterator[S3Client]:
    client = boto3.client("s3", endpoint_url=roto.endpoint_url)
    yield client
    client.close()


@pytest.fixture
def queue_url(sqs_client: SQSClient) -> str:
    return create_queue(sqs_client, f"queue-{uuid.uuid4().hex}")


@pytest.fixture
def bucket(s3_client: S3Client) -> str:
    name = f"bucket-{uuid.uuid4().hex}"
    s3_client.create_bucket(Bucket=name)
    return name


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture(autouse=True)
def log_level_restored() -> Iterator[None]:
    """The command line sets the level of the package's logger, for good."""
    logger = logging.getLogger("inventory_enqueue")
    level = logger.level
    yield
    logger.setLevel(level)


@pytest.fixture
def daily(tmp_path: Path) -> FilePipeline:
    return FilePipeline(tmp_path / "pipeline")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The folder that stands for the destination bucket."""
    return tmp_path / "destination"


@pytest.fixture
def proxy(roto: RotoServer) -> Iterator[FaultProxy]:
    """A proxy in front of the server, with rules for what goes wrong."""
    with FaultProxy(roto.endpoint_url) as fault_proxy:
        yield fault_proxy
