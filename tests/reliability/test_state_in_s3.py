"""A state in S3: everything that a local one can, from machines that vanish; and a lock that can be lost."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Final

import boto3
import pytest

from inventory_enqueue.config import FirstRun, Locking, Sending
from inventory_enqueue.errors import (
    InventoryEnqueueError,
    LockedError,
    LockLostError,
    PreflightError,
    RefusedError,
    StoppedError,
)
from inventory_enqueue.report import Status
from inventory_enqueue.stores.objects import Objects
from inventory_enqueue.uris import S3Url
from tests.reliability.conftest import NEW
from tests.support.cli import clean_environment, run_cli
from tests.support.deliveries import SOURCE, deliver
from tests.support.killer import Moment
from tests.support.ministack import ministack
from tests.support.pipelines import Pipeline, count
from tests.support.proxy import Answer, LoseAnswer, RequestRule, Reset, delay, fail_entries
from tests.support.running import PATIENCE, under_way, wait_for_a_request, wait_until
from tests.support.weed import make_bucket, weed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from types_boto3_s3 import S3Client
    from types_boto3_sqs import SQSClient

    from inventory_enqueue.demo.roto import RotoServer
    from tests.support.pipelines import Days
    from tests.support.proxy import Fault, FaultProxy, Forward, Request

SEND: Final = "SendMessageBatch"
RECORD: Final = "inventory_enqueue.ledger:TaskLedger.record"
COMMIT: Final = "inventory_enqueue.ledger:Ledger.commit"
LEASE: Final = 2
BATCH: Final = 10


@pytest.fixture(scope="module")
def servers(roto: RotoServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """S3 endpoints by server."""
    with ministack(tmp_path_factory.mktemp("ministack")) as one, weed(tmp_path_factory.mktemp("weed")) as another:
        yield {"roto": roto.endpoint_url, "ministack": one, "seaweedfs": another}


@pytest.fixture
def pipeline(tmp_path: Path, sqs_client: SQSClient, queue_url: str, s3_client: S3Client, bucket: str) -> Pipeline:
    """A pipeline with its state in S3, on roto."""
    made = Pipeline(tmp_path, sqs_client, queue_url)
    made.keep_state_in(bucket, s3_client)
    return made


@pytest.fixture
def seeded(pipeline: Pipeline, first_day: Path) -> Pipeline:
    pipeline.begin_with(first_day)
    return pipeline


# ---- The same as on a disk


@pytest.mark.parametrize("server", ["roto", "ministack", "seaweedfs"])
def test_three_days_with_a_state_in_s3_send_each_new_key_once(  # noqa: PLR0913, PLR0917 - fixtures
    server: str, servers: dict[str, str], tmp_path: Path, sqs_client: SQSClient, queue_url: str, days: Days
) -> None:
    client = boto3.client("s3", endpoint_url=servers[server], region_name="us-east-1")
    make_bucket(client, "three-days")
    pipeline = Pipeline(tmp_path, sqs_client, queue_url)
    pipeline.keep_state_in("three-days", client)
    where = ("--s3-endpoint-url", servers[server])
    seeded = pipeline.cli(days.first, "--first-run", "seed", *where)
    assert (seeded.exit_code, seeded.report["status"]) == (0, "seeded"), seeded
    pipeline.killed(Moment(RECORD, "after", call=3), days.second, *where)
    shutil.rmtree(pipeline.work)  # the machine is gone
    second = pipeline.cli(days.second, *where)
    assert (second.exit_code, second.report["counts"]["selected"]) == (0, len(NEW)), second
    received = pipeline.received()
    assert received.keys() == days.second_new.keys()
    assert (received - days.second_new).total() <= 3 * BATCH + pipeline.concurrency * BATCH
    again = pipeline.cli(days.second, *where)
    assert (again.exit_code, again.report["status"]) == (0, "nothing_new")
    assert pipeline.cli(days.third, *where).exit_code == 0
    assert pipeline.received() == days.third_new
    options = ("--state", str(pipeline.location), "--work-dir", str(pipeline.work), *where)
    shown = json.loads(run_cli("baseline", "show", "--json", *options).stdout)
    assert shown["manifest_uri"] == str(days.third)
    listed = json.loads(run_cli("runs", "--json", *options).stdout)
    assert [run["status"] for run in listed] == ["committed", "committed", "seeded"]
    assert list(pipeline.work.iterdir()) == [], "scratch space is left behind"


IN_EACH_STAGE: Final = {
    "the run isn't written": Moment("inventory_enqueue.run:Run.save"),
    "an index task isn't recorded": Moment("inventory_enqueue.run:Run.save_task_report", about="Stage.INDEX", call=2),
    "a diff task isn't recorded": Moment("inventory_enqueue.run:Run.save_task_report", about="Stage.DIFF"),
    "the diff stage is done": Moment("inventory_enqueue.engines.local:run_stage", about="Stage.ENQUEUE"),
    "an enqueue task isn't recorded": Moment("inventory_enqueue.run:Run.save_task_report", about="Stage.ENQUEUE"),
    "all is sent": Moment("inventory_enqueue.execution:check_sent"),
    "the new index is complete": Moment("inventory_enqueue.execution:write_meta", "after"),
    "the commit is next": Moment(COMMIT),
    "the baseline has moved": Moment(COMMIT, "after"),
    "the run's end isn't recorded": Moment("inventory_enqueue.ledger:Ledger.end"),
    "the run's end is recorded": Moment("inventory_enqueue.ledger:Ledger.end", "after"),
}


@pytest.mark.parametrize("moment", IN_EACH_STAGE)
def test_killed_between_two_steps_and_gone_on_with_on_another_machine(
    moment: str, seeded: Pipeline, days: Days
) -> None:
    """An enqueue task that ended has its acknowledgements in S3: at none of these moments is anything in flight."""
    seeded.killed(IN_EACH_STAGE[moment], days.second)
    shutil.rmtree(seeded.work)
    assert seeded.run(days.second).exit_code == 0
    assert seeded.run(days.second).status is Status.NOTHING_NEW
    assert seeded.received() == days.second_new
    assert seeded.baseline["manifest_uri"] == str(days.second)


def test_a_failures_file_in_s3_is_named_and_can_be_sent_again(seeded: Pipeline, days: Days, proxy: FaultProxy) -> None:
    seeded.endpoint_url = proxy.endpoint_url
    proxy.rules.append(fail_entries(lambda _entry: True, "InvalidMessageContents", sender_fault=True))
    failed = seeded.cli(days.second)
    assert failed.exit_code == 4, failed
    proxy.rules.clear()
    file = failed.report["sent"]["failures_file"]
    assert file.startswith(str(seeded.location))
    done = run_cli(
        *("resend", file, "--queue-url", seeded.queue_url, "--endpoint-url", seeded.endpoint_url),
        *("--work-dir", str(seeded.work)),
    )
    assert done.exit_code == 0, done
    assert seeded.received() == days.second_new


# ---- The lock


def lasting(*more: str) -> tuple[str, ...]:
    return ("--lease", f"{LEASE}s", "--checkpoint-interval", "0.1s", *more)


def test_a_holder_that_slept_past_its_lease_stops_and_commits_nothing(
    seeded: Pipeline, days: Days, proxy: FaultProxy, tmp_path: Path
) -> None:
    seeded.endpoint_url = proxy.endpoint_url
    proxy.rules.append(delay(SEND, 0.3))
    with under_way(seeded, days.second, tmp_path / "log", *lasting()) as sleeper:
        wait_for_a_request(sleeper, proxy, SEND)
        sleeper.send_signal(signal.SIGSTOP)
        proxy.rules.clear()
        winner = seeded.cli(days.second, *lasting())
        assert (winner.exit_code, winner.report["status"]) == (0, "committed"), winner
        committed = seeded.baseline
        before = len(proxy.log)
        sleeper.send_signal(signal.SIGCONT)
        assert sleeper.wait(PATIENCE) == 5, (tmp_path / "log").read_text()
    assert "the lock was lost" in (tmp_path / "log").read_text()
    assert [request for request in proxy.log[before:] if request.action == SEND] == []
    assert seeded.baseline == committed
    received = seeded.received()
    assert received.keys() == days.second_new.keys()
    assert (received - days.second_new).total() <= 2 * seeded.concurrency * BATCH


@pytest.mark.parametrize("moment", [COMMIT, "inventory_enqueue.execution:check_sent"])
def test_a_holder_that_slept_before_its_commit_does_not_commit(
    moment: str, seeded: Pipeline, days: Days, tmp_path: Path
) -> None:
    """Meanwhile its run and the next day's are committed."""
    stops = Moment(moment, by=signal.SIGSTOP)
    with under_way(seeded, days.second, tmp_path / "log", *lasting(), moment=stops) as sleeper:
        wait_until(lambda: state_of(sleeper) == "T")
        assert seeded.cli(days.second, *lasting()).exit_code == 0
        assert seeded.cli(days.third, *lasting()).exit_code == 0
        committed = seeded.baseline
        sleeper.send_signal(signal.SIGCONT)
        assert sleeper.wait(PATIENCE) == 5, (tmp_path / "log").read_text()
    assert seeded.baseline == committed
    assert committed["manifest_uri"] == str(days.third)
    assert seeded.received() == days.second_new + days.third_new


def state_of(process: subprocess.Popen[bytes]) -> str:
    """The letter that the kernel has for the state of a process: T for a stopped one."""
    with open(f"/proc/{process.pid}/stat", encoding="ascii") as stat:  # noqa: PTH123 - no path of ours
        return stat.read().rpartition(") ")[2][0]


def test_a_killed_run_never_locks_its_own_re_run_out(seeded: Pipeline, days: Days) -> None:
    seeded.killed(Moment(RECORD, "after", call=1), days.second, "--lease", "300s")
    began = time.monotonic()
    assert seeded.cli(days.second, "--lock-wait", "0").exit_code == 0
    assert time.monotonic() - began < PATIENCE


@pytest.mark.parametrize("home", ["local", "s3"])
def test_of_five_runs_at_once_one_does_it_and_nothing_is_sent_twice(  # noqa: PLR0913, PLR0917 - fixtures
    home: str,
    tmp_path: Path,
    sqs_client: SQSClient,
    queue_url: str,
    s3_client: S3Client,
    bucket: str,
    days: Days,
    first_day: Path,
) -> None:
    pipeline = Pipeline(tmp_path, sqs_client, queue_url)
    if home == "s3":
        pipeline.keep_state_in(bucket, s3_client)
    pipeline.begin_with(first_day)
    command = [sys.executable, "-m", "inventory_enqueue", *pipeline.arguments(days.second, "--lock-wait", "0")]
    environment = clean_environment(tmp_path)
    processes = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) for _ in range(5)]
    outputs = [json.loads(process.communicate(timeout=PATIENCE)[0]) for process in processes]
    ends = Counter((process.returncode, output["status"]) for process, output in zip(processes, outputs, strict=True))
    assert ends[0, "committed"] == 1, ends
    assert ends.keys() <= {(0, "committed"), (0, "nothing_new"), (5, "failed")}
    assert pipeline.received() == days.second_new


# ---- S3 that fails


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(
            Answer(503, {"content-type": "application/xml"}, b"<Error><Code>SlowDown</Code></Error>"), id="503"
        ),
        pytest.param(Reset(), id="reset"),
    ],
)
@pytest.mark.parametrize("at", ["candidates/", "acks/", "tasks/", "/meta.json", "baseline.json", "run.json"])
def test_where_s3_takes_no_more_the_run_stops_and_a_re_run_works(  # noqa: PLR0913, PLR0917 - fixtures
    at: str, fault: Fault, seeded: Pipeline, days: Days, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inventory_enqueue.aws.session._S3_ATTEMPTS", 1)
    before = seeded.baseline
    seeded.endpoint_url = proxy.endpoint_url
    proxy.rules.append(RequestRule(fault, lambda request: request.method == "PUT" and at in request.path))
    with pytest.raises(StoppedError, match="run the same command again"):
        seeded.run(days.second)
    assert seeded.baseline == before
    proxy.rules.clear()
    assert seeded.run(days.second).status is Status.COMMITTED
    received = seeded.received()
    assert received.keys() == days.second_new.keys()
    assert (received - days.second_new).total() <= (len(NEW) if at == "acks/" else 0)


@pytest.mark.parametrize(
    ("at", "error"), [("acks/", StoppedError), ("baseline.json", LockLostError), ("/lock", LockedError)]
)
def test_where_s3_says_that_another_one_wrote_the_run_stops_and_a_re_run_works(
    at: str, error: type[InventoryEnqueueError], seeded: Pipeline, days: Days, proxy: FaultProxy
) -> None:
    """Status 412, and nothing of ours is there: somebody else's write, or a store that is confused."""
    before = seeded.baseline
    seeded.endpoint_url = proxy.endpoint_url
    conflict = Answer(412, {"content-type": "application/xml"}, b"<Error><Code>PreconditionFailed</Code></Error>")
    proxy.rules.append(RequestRule(conflict, lambda request: request.method == "PUT" and at in request.path))
    with pytest.raises(error):
        seeded.run(days.second, locking=Locking(patience=0))
    assert seeded.baseline == before
    proxy.rules.clear()
    assert seeded.run(days.second).status is Status.COMMITTED
    received = seeded.received()
    assert received.keys() == days.second_new.keys()
    assert (received - days.second_new).total() <= (len(NEW) if at == "acks/" else 0)


def test_answers_of_the_state_that_get_lost_lose_nothing(seeded: Pipeline, days: Days, proxy: FaultProxy) -> None:
    """The SDK asks again, and meets what its first request did: also that of the commit, and of the lock."""
    seeded.endpoint_url = proxy.endpoint_url
    seen: set[str] = set()

    def first_time(request: Request) -> bool:
        is_new = request.method == "PUT" and request.path not in seen
        seen.add(request.path)
        return is_new

    proxy.rules.append(RequestRule(LoseAnswer(), first_time))
    assert seeded.cli(days.second).exit_code == 0
    assert any("baseline.json" in path for path in seen)
    assert seeded.received() == days.second_new


def test_a_state_that_may_not_be_written_to_is_told_before_anything_is_sent(
    seeded: Pipeline, days: Days, proxy: FaultProxy
) -> None:
    seeded.endpoint_url = proxy.endpoint_url
    denied = Answer(403, {"content-type": "application/xml"}, b"<Error><Code>AccessDenied</Code></Error>")
    proxy.rules.append(RequestRule(denied, lambda request: request.method == "PUT"))
    with pytest.raises(PreflightError, match="s3:PutObject"):
        seeded.run(days.second)
    assert seeded.received() == Counter()


def test_what_was_acknowledged_is_in_s3_after_the_checkpoint_interval(
    seeded: Pipeline, days: Days, proxy: FaultProxy
) -> None:
    """Also while no answer comes, and nothing more is recorded."""
    seeded.endpoint_url = proxy.endpoint_url
    answered = threading.Event()
    proxy.rules.append(RequestRule(_After(answered), lambda request: request.action == SEND and _is_late(proxy)))
    done: list[object] = []
    sending = Sending(concurrency=2, checkpoint_interval=0.2)
    worker = threading.Thread(target=lambda: done.append(seeded.run(days.second, sending=sending)))
    worker.start()
    try:
        wait_until(lambda: bool(seeded.store.folders("runs")) and _acks(seeded) > 0)
        assert not done
    finally:
        answered.set()
        worker.join(PATIENCE)
    assert len(done) == 1


class _After:
    """Forwards a request once an event has come."""

    def __init__(self, event: threading.Event) -> None:
        self._event = event

    def apply(self, request: Request, forward: Forward) -> Answer:
        self._event.wait(PATIENCE)
        return forward(request)


def _is_late(proxy: FaultProxy) -> bool:
    return sum(logged.action == SEND for logged in proxy.log) > 1


def _acks(pipeline: Pipeline) -> int:
    run = pipeline.store.at(f"runs/{pipeline.store.folders('runs')[-1]}")
    return sum(
        len(run.names(f"acks/{task}/{log}")) for task in run.folders("acks") for log in run.names(f"acks/{task}")
    )


def test_a_first_run_of_all_and_a_dry_run_work_with_a_state_in_s3(pipeline: Pipeline, days: Days) -> None:
    assert pipeline.run(days.first, first_run=FirstRun.ALL, dry_run=True).counts["selected"] == 30
    assert pipeline.store.names() == []
    assert pipeline.run(days.first, first_run=FirstRun.ALL).status is Status.COMMITTED
    assert pipeline.received().total() == 30


def test_a_state_in_the_bucket_that_is_read_is_excluded_and_counted(
    tmp_path: Path, sqs_client: SQSClient, queue_url: str, s3_client: S3Client
) -> None:
    make_bucket(s3_client, SOURCE)
    pipeline = Pipeline(tmp_path, sqs_client, queue_url)
    pipeline.keep_state_in(SOURCE, s3_client)
    pipeline.seed(deliver(tmp_path, 1, ["a", "states/p/lock"]))
    report = pipeline.run(deliver(tmp_path, 2, ["a", "b", "states", "states/p/lock", "states/p/baseline.json"]))
    assert (report.counts["excluded"], report.counts["new"]) == (2, 2)
    assert pipeline.received() == count(["b", "states"])


def test_a_state_at_the_root_of_the_bucket_that_is_read_is_refused(
    tmp_path: Path, sqs_client: SQSClient, queue_url: str
) -> None:
    pipeline = Pipeline(tmp_path, sqs_client, queue_url)
    pipeline.location = S3Url(SOURCE, "")
    with pytest.raises(RefusedError, match=f"with a prefix, such as s3://{SOURCE}/inventory-enqueue/"):
        pipeline.run(deliver(tmp_path, 1, ["a"]), first_run=FirstRun.ALL, dry_run=True)


def test_a_disk_that_is_full_where_candidates_are_copied_to_stops_the_run_resumably(
    pipeline: Pipeline, days: Days, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline.seed(days.first)

    def refuse(_objects: Objects, _key: str, target: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))

    with monkeypatch.context() as patched:
        patched.setattr(Objects, "download", refuse)
        with pytest.raises(StoppedError, match="No space left on device; mend that and run the same command again"):
            pipeline.run(days.second)
    assert pipeline.run(days.second).status is Status.COMMITTED
    assert pipeline.received() == days.second_new
