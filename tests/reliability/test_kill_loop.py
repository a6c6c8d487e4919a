"""Killed at random, again and again, in every stage, until it commits: nothing is lost, and twice is only what may be.

A kill while messages are sent may repeat, with a local state, what was in flight; with a state in S3 also what was
acknowledged since the last checkpoint. A kill at any other time repeats nothing.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import pytest

from inventory_enqueue.report import Stage, Status
from tests.support.pipelines import Pipeline, seeded_state, three_days
from tests.support.proxy import FaultProxy, delay
from tests.support.queue import create_queue
from tests.support.running import PATIENCE, kill_group, start

if TYPE_CHECKING:
    from pathlib import Path

    from types_boto3_s3 import S3Client
    from types_boto3_sqs import SQSClient

    from tests.support.pipelines import Days

SOAK: Final = bool(os.environ.get("SOAK"))
KILLS: Final = 250 if SOAK else 10
"""For each home of the state and kind of queue."""
AT_LEAST: Final = 4
"""Of 40 kills in each stage."""

SEND: Final = "SendMessageBatch"
SLOWLY: Final = 0.06
MANY: Final = 600
FILES: Final = 3
BATCH: Final = 10
RATE: Final = 400
"""Messages a second: a run sends for a second and a half, and everything else takes less."""
CHECKPOINT: Final = 0.2
LEASE: Final = 2

COMMITTING: Final = "commit"
WHEN: Final = {
    Stage.INDEX: 0.2,
    Stage.DIFF: 0.08,
    Stage.ENQUEUE: 0.5,
    COMMITTING: 0.14,
}
"""The stages, and seconds of each within which a kill comes."""
SHARES: Final = {Stage.INDEX: 2, Stage.DIFF: 1, Stage.ENQUEUE: 4, COMMITTING: 2}
"""Of kills: the next one goes for the stage that lacks most of its share."""


@pytest.fixture(scope="module")
def days(tmp_path_factory: pytest.TempPathFactory) -> Days:
    return three_days(tmp_path_factory.mktemp("bucket"), [f"new/{number}" for number in range(MANY)], FILES)


@pytest.fixture(scope="module")
def first_day(tmp_path_factory: pytest.TempPathFactory, days: Days) -> Path:
    return seeded_state(tmp_path_factory.mktemp("seeded"), days)


@pytest.fixture
def slow_queue(proxy: FaultProxy) -> str:
    proxy.rules.append(delay(SEND, SLOWLY))
    return proxy.endpoint_url


@dataclass
class Killing:
    """A pipeline that is killed over and over."""

    pipeline: Pipeline
    log: Path
    chance: random.Random
    kills: Counter[str]

    def next_stage(self) -> str:
        """Name the stage that lacks most."""
        return min(SHARES, key=lambda stage: self.kills[stage] / SHARES[stage])

    def run_until_killed(self, manifest: Path, stage: str) -> bool:
        """Kill a run in this stage. Returns whether it came to its end instead."""
        more = ("--rate", str(RATE), "--checkpoint-interval", f"{CHECKPOINT}s", "--lease", f"{LEASE}s")
        process = start(self.pipeline, manifest, self.log, *more, slowed=True)
        deadline = time.monotonic() + PATIENCE
        while process.poll() is None and stage_of(self.log) != stage:
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.002)
        try:
            process.wait(self.chance.uniform(0, WHEN[stage]))
        except subprocess.TimeoutExpired:
            kill_group(process)
        if process.returncode == 0:
            return True
        assert process.returncode == -signal.SIGKILL, self.log.read_text()
        self.kills[stage_of(self.log)] += 1
        if self.chance.random() < 0.2:  # another machine takes over
            shutil.rmtree(self.pipeline.work, ignore_errors=True)
        return False


def stage_of(log: Path) -> str:
    """Name the stage that a run had come to, by what it printed at the end of each."""
    ended = sum(line.startswith((b"index: ", b"diff: ", b"enqueue: ")) for line in log.read_bytes().splitlines())
    return list(WHEN)[ended]


@pytest.mark.parametrize("queue", ["standard", "fifo"])
@pytest.mark.parametrize("home", ["local", "s3"])
def test_killed_in_every_stage_again_and_again_nothing_is_lost(  # noqa: PLR0913, PLR0917 - fixtures
    home: str,
    queue: str,
    tmp_path: Path,
    sqs_client: SQSClient,
    s3_client: S3Client,
    bucket: str,
    days: Days,
    first_day: Path,
    slow_queue: str,
) -> None:
    killing = Killing(
        Pipeline(tmp_path, sqs_client, ""),
        tmp_path / "log",
        random.Random(f"{home} {queue}"),  # noqa: S311 - no secret
        Counter(),
    )
    runs, twice, bound = 0, 0, 0
    while killing.kills.total() < KILLS:
        suffix = ".fifo" if queue == "fifo" else ""
        attributes = {"FifoQueue": "true"} if queue == "fifo" else {}
        pipeline = Pipeline(tmp_path / str(runs), sqs_client, "")
        pipeline.queue_url = create_queue(sqs_client, f"{bucket[:40]}-{runs}{suffix}", **attributes)
        if home == "s3":
            pipeline.keep_state_in(bucket, s3_client)
            pipeline.store.remove_folder("")
        pipeline.begin_with(first_day)
        pipeline.endpoint_url = slow_queue
        killing.pipeline, before = pipeline, killing.kills.copy()
        while killing.kills.total() < KILLS and not killing.run_until_killed(days.second, killing.next_stage()):
            pass
        assert pipeline.cli(days.second).report["status"] in {Status.COMMITTED, Status.NOTHING_NEW}
        received = pipeline.received()
        assert received.keys() == days.second_new.keys(), f"lost after {killing.kills}"
        sent_again = (received - days.second_new).total()
        while_sending = (killing.kills - before)[Stage.ENQUEUE]
        allowed = while_sending * repeated_by_a_kill(pipeline, home)
        assert sent_again <= allowed, killing.kills
        runs, twice, bound = runs + 1, twice + sent_again, bound + allowed
        assert pipeline.cli(days.second).report["status"] == "nothing_new"
        assert pipeline.received() == Counter()
    print(f"{home}, {queue}: {dict(killing.kills)}, {runs} runs, {runs * MANY} keys, 0 lost, {twice} twice of {bound}")  # noqa: T201
    assert min(killing.kills[stage] for stage in SHARES) >= AT_LEAST * KILLS // 40, killing.kills


def repeated_by_a_kill(pipeline: Pipeline, home: str) -> int:
    """The most messages that a kill while messages are sent may repeat."""
    in_flight = pipeline.concurrency * BATCH
    return in_flight if home == "local" else in_flight + round(RATE * (CHECKPOINT + SLOW_WRITE))


SLOW_WRITE: Final = 0.2
"""Seconds that writing a checkpoint to S3 may take here."""


def test_most_of_such_a_run_is_sending(  # noqa: PLR0913, PLR0917 - fixtures
    tmp_path: Path, sqs_client: SQSClient, queue_url: str, days: Days, first_day: Path, slow_queue: str
) -> None:
    """Else the kills while messages are sent, which are those that can repeat any, would be too few."""
    pipeline = Pipeline(tmp_path, sqs_client, queue_url)
    pipeline.begin_with(first_day)
    pipeline.endpoint_url = slow_queue
    log = tmp_path / "log"
    process = start(pipeline, days.second, log, "--rate", str(RATE), slowed=True)
    assert process.wait(PATIENCE) == 0, log.read_text()
    seconds = json.loads(log.read_text().splitlines()[-1])["seconds"]
    assert 2 * seconds["enqueue"] >= seconds["total"], seconds
