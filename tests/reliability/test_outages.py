"""Servers that die and networks that are cut in the middle of a run."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import boto3
import pytest

from inventory_enqueue.demo.roto import RotoServer
from inventory_enqueue.report import Status
from tests.support.deliveries import upload
from tests.support.pipelines import Pipeline, three_days
from tests.support.proxy import ConnectionDropped, FaultProxy, RequestRule, delay
from tests.support.queue import create_queue
from tests.support.running import PATIENCE, under_way, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.pipelines import Days
    from tests.support.proxy import Answer, Forward, Request

SEND: Final = "SendMessageBatch"
BATCH: Final = 10


@dataclass
class Scene:
    """A pipeline whose S3 and SQS are one server that can die, behind a network that can be cut."""

    server: RotoServer
    proxy: FaultProxy
    pipeline: Pipeline
    days: Days
    manifest: str


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    days = three_days(tmp_path / "bucket", [f"new/{number}" for number in range(300)])
    with RotoServer(tmp_path / "roto") as server, FaultProxy(server.endpoint_url) as proxy:
        sqs = boto3.client("sqs", endpoint_url=server.endpoint_url, region_name="us-east-1")
        s3 = boto3.client("s3", endpoint_url=server.endpoint_url, region_name="us-east-1")
        s3.create_bucket(Bucket="inventories")
        upload(tmp_path / "bucket", s3, "inventories")
        pipeline = Pipeline(tmp_path, sqs, create_queue(sqs, "q"))
        pipeline.seed(days.first)
        pipeline.endpoint_url = proxy.endpoint_url
        proxy.rules.append(delay(SEND, 0.05))
        manifest = f"s3://inventories/{days.second.relative_to(tmp_path / 'bucket').as_posix()}"
        yield Scene(server, proxy, pipeline, days, manifest)


def sends(scene: Scene) -> int:
    return sum(logged.action == SEND for logged in scene.proxy.log)


def assert_nothing_lost(scene: Scene, repeated: int) -> None:
    received = scene.pipeline.received()
    assert received.keys() == scene.days.second_new.keys(), "lost"
    assert (received - scene.days.second_new).total() <= repeated
    assert scene.pipeline.run(scene.days.second).status is Status.NOTHING_NEW
    assert scene.pipeline.received() == Counter()


def test_the_queues_server_is_killed_twice_and_comes_back_and_the_run_goes_on(scene: Scene, tmp_path: Path) -> None:
    with under_way(scene.pipeline, scene.manifest, tmp_path / "log", "--rate", "150") as run:
        for at in (5, 15):
            wait_until(lambda: run.poll() is not None or sends(scene) >= at)  # noqa: B023 - waits within the round
            assert run.poll() is None, (tmp_path / "log").read_text()
            scene.server.kill()
            time.sleep(0.5)
            scene.server.start()
        assert run.wait(PATIENCE) == 0, (tmp_path / "log").read_text()
    assert_nothing_lost(scene, repeated=2 * scene.pipeline.concurrency * BATCH)


@dataclass(frozen=True)
class Cut:
    """No request gets through, and no answer."""

    def apply(self, _request: Request, _forward: Forward) -> Answer:
        raise ConnectionDropped


def test_a_network_that_is_cut_for_a_while_stops_nothing(scene: Scene, tmp_path: Path) -> None:
    with under_way(scene.pipeline, scene.manifest, tmp_path / "log", "--rate", "150") as run:
        wait_until(lambda: run.poll() is not None or sends(scene) >= 5)
        scene.proxy.rules.append(RequestRule(Cut(), lambda _request: True))
        time.sleep(3)
        assert run.poll() is None, (tmp_path / "log").read_text()
        scene.proxy.rules.pop()
        assert run.wait(PATIENCE) == 0, (tmp_path / "log").read_text()
    # Each connection may lose an answer when it is cut, and none while nothing gets through.
    assert_nothing_lost(scene, repeated=scene.pipeline.concurrency * BATCH)


@pytest.mark.parametrize("action", ["GET", SEND])
def test_a_network_that_stays_cut_stops_the_run_cleanly_and_the_next_one_goes_on(action: str, scene: Scene) -> None:
    """S3 from the first data file on; SQS from the fourth request on."""
    seen = 0

    def is_cut(request: Request) -> bool:
        nonlocal seen
        is_one = request.action == SEND if action == SEND else request.method == "GET" and "/data/" in request.path
        seen += is_one
        return is_one and (action == "GET" or seen > 3)

    scene.proxy.rules.append(RequestRule(Cut(), is_cut))
    stopped = scene.pipeline.cli(scene.manifest)
    assert (stopped.exit_code, stopped.report["status"]) == (8, "incomplete"), stopped
    assert "run the same command again" in stopped.report["error"]["message"]
    scene.proxy.rules.pop()
    assert scene.pipeline.cli(scene.manifest).exit_code == 0
    assert_nothing_lost(scene, repeated=0)
