"""Runs that stop before their end: at a limit, by a guard, by a signal; and what gives them up."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from inventory_enqueue.config import FirstRun, Locking, MessageFormat
from inventory_enqueue.errors import LockedError, RefusedError, StoppedError
from inventory_enqueue.guards import check_selected
from inventory_enqueue.report import RunReport, Stage, Status
from inventory_enqueue.run import Run
from inventory_enqueue.stores.local import LocalStore
from tests.reliability.conftest import FILES, NEW
from tests.support.cli import run_cli
from tests.support.killer import Moment
from tests.support.pipelines import OLD, Pipeline, count
from tests.support.proxy import FaultProxy, delay, throttle
from tests.support.running import PATIENCE, start, under_way, wait_for_a_request

if TYPE_CHECKING:
    from pathlib import Path

    from types_boto3_sqs import SQSClient

    from tests.support.pipelines import Days

SEND = "SendMessageBatch"
RECORD = "inventory_enqueue.ledger:TaskLedger.record"
COMMIT = "inventory_enqueue.ledger:Ledger.commit"


# ---- Limits


@pytest.mark.parametrize("most", [1, 7, 10, 25, len(NEW) - 1])
def test_a_run_stops_after_so_many_messages_exactly_and_the_next_one_goes_on(
    most: int, seeded: Pipeline, days: Days
) -> None:
    report = RunReport()
    with pytest.raises(StoppedError, match=f"the {most} messages of --max-messages are sent; run the same command"):
        seeded.run(days.second, report, max_messages=most)
    first = seeded.received()
    assert first.total() == most
    assert seeded.run(days.second).status is Status.COMMITTED
    assert first + seeded.received() == days.second_new


def test_a_limit_of_all_messages_is_no_limit(seeded: Pipeline, days: Days) -> None:
    report = seeded.run(days.second, max_messages=len(NEW))
    assert (report.status, report.sent["messages"]) == (Status.COMMITTED, len(NEW))
    assert seeded.received() == days.second_new


def test_messages_that_are_sent_again_count_once(seeded: Pipeline, days: Days, proxy: FaultProxy) -> None:
    seeded.endpoint_url = proxy.endpoint_url
    proxy.rules.append(throttle(SEND, times=3))
    with pytest.raises(StoppedError, match="--max-messages"):
        seeded.run(days.second, max_messages=32)
    assert seeded.received().total() == 32


def test_runs_of_a_few_messages_each_send_everything_once(seeded: Pipeline, days: Days) -> None:
    received: Counter[bytes] = Counter()
    exits: list[int] = []
    while not exits or exits[-1] != 0:
        exits.append(seeded.cli(days.second, "--max-messages", "20").exit_code)
        received += seeded.received()
    assert exits == [8, 8, 8, 0]
    assert received == days.second_new


def test_a_run_stops_when_its_time_is_over_drains_and_the_next_one_goes_on(
    seeded: Pipeline, days: Days, proxy: FaultProxy
) -> None:
    seeded.endpoint_url = proxy.endpoint_url
    proxy.rules.append(delay(SEND, 0.4))
    stopped = seeded.cli(days.second, "--max-duration", "1s", "--concurrency", "1")
    assert (stopped.exit_code, stopped.report["status"]) == (8, "incomplete")
    assert "--max-duration (0:00:01) is over; run the same command again" in stopped.stderr
    first = seeded.received()
    proxy.rules.clear()
    assert seeded.run(days.second).status is Status.COMMITTED
    assert first + seeded.received() == days.second_new


def test_no_time_at_all_stops_before_anything_is_sent(seeded: Pipeline, days: Days) -> None:
    with pytest.raises(StoppedError, match="--max-duration"):
        seeded.run(days.second, max_duration=timedelta(microseconds=1))
    assert seeded.received() == Counter()
    assert seeded.run(days.second).status is Status.COMMITTED
    assert seeded.received() == days.second_new


# ---- The guard against far too much


def test_far_more_than_the_baseline_holds_is_refused_and_the_ratio_that_goes_on_is_named(
    seeded: Pipeline, days: Days, monkeypatch: pytest.MonkeyPatch
) -> None:
    """63 new objects, 30 known ones."""
    monkeypatch.setattr("inventory_enqueue.guards.MIN_GUARDED", 62)
    before = seeded.baseline
    with pytest.raises(RefusedError, match=r"63 objects are to be sent, the delivery before has 30.* 2\.1 or more"):
        seeded.run(days.second)
    assert seeded.received() == Counter()
    assert seeded.baseline == before
    with pytest.raises(RefusedError, match=r"--max-new-ratio 2\.09"):
        seeded.run(days.second, max_new_ratio=2.09)
    assert seeded.run(days.second, max_new_ratio=2.1).status is Status.COMMITTED
    assert seeded.received() == days.second_new


def test_the_ratio_that_is_named_is_enough(seeded: Pipeline, days: Days, monkeypatch: pytest.MonkeyPatch) -> None:
    """57 of 100, say, are more than 0.57 x 100 = 56.99999999999999, and a bucket may have been empty."""
    monkeypatch.setattr("inventory_enqueue.guards.MIN_GUARDED", 0)
    report = seeded.run(days.second, max_new_ratio=10)
    assert report.run_id is not None
    run = Run.load(seeded.store, report.run_id)
    run = replace(run, baseline=None, config={**run.config, "max_new_ratio": 0.5})
    for known in range(400):
        counts = Counter(previous_listed=known, selected=1 + known * 7 // 10)
        with pytest.raises(RefusedError) as refused:
            check_selected(run, counts)
        named = re.search(r"name (\S+) or more", refused.value.message)
        assert named is not None
        check_selected(replace(run, config={**run.config, "max_new_ratio": float(named[1])}), counts)


def test_few_objects_are_never_too_many(seeded: Pipeline, days: Days, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inventory_enqueue.guards.MIN_GUARDED", len(NEW))
    assert seeded.run(days.second, max_new_ratio=0).status is Status.COMMITTED


def test_a_dry_run_says_that_a_run_would_be_refused(
    seeded: Pipeline, days: Days, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("inventory_enqueue.guards.MIN_GUARDED", 10)
    report = seeded.run(days.second, dry_run=True)
    assert (report.status, report.counts["selected"]) == (Status.DRY_RUN, len(NEW))
    assert "a run would be refused" in caplog.text


# ---- An unfinished run that is given up


def test_an_abandoned_run_says_what_will_be_sent_again_and_a_new_one_sends_everything(
    seeded: Pipeline, days: Days
) -> None:
    seeded.killed(Moment(RECORD, "after", call=3), days.second)
    first = seeded.received()
    again = seeded.cli(days.second, "--abandon")
    assert again.exit_code == 0, again
    abandoned = again.report["abandoned"]
    assert abandoned["run_id"] == seeded.runs[1].name
    # What was in flight when it died, the queue may have taken, too.
    assert first.total() - seeded.concurrency * 10 <= abandoned["acknowledged"] <= first.total()
    assert abandoned["acknowledged"] >= 30
    assert f"the queue took {abandoned['acknowledged']} keys of it" in again.stderr
    assert seeded.received() == days.second_new
    statuses = [json.loads((run / "report.json").read_bytes())["status"] for run in seeded.runs]
    assert statuses == ["seeded", "abandoned", "committed"]


def test_a_run_with_other_flags_goes_on_once_the_unfinished_one_is_abandoned(seeded: Pipeline, days: Days) -> None:
    seeded.killed(Moment(RECORD, "after", call=3), days.second)
    with pytest.raises(RefusedError, match=r"another value of message_format.* --abandon"):
        seeded.run(days.second, message_format=MessageFormat.EVENTBRIDGE)
    report = seeded.run(days.second, message_format=MessageFormat.EVENTBRIDGE, abandon=True)
    assert (report.status, report.sent["keys"]) == (Status.COMMITTED, len(NEW))


def test_where_nothing_is_unfinished_nothing_is_abandoned(seeded: Pipeline, days: Days) -> None:
    report = seeded.run(days.second, abandon=True)
    assert (report.status, report.abandoned) == (Status.COMMITTED, None)
    assert seeded.received() == days.second_new


def test_a_run_that_died_after_its_commit_is_not_abandoned(seeded: Pipeline, days: Days) -> None:
    seeded.killed(Moment(COMMIT, "after"), days.second)
    report = seeded.run(days.second, abandon=True)
    assert (report.status, report.abandoned) == (Status.COMMITTED, None)
    assert seeded.received() == days.second_new


# ---- The lock


def test_the_second_run_waits_for_the_first_one_and_then_has_nothing_to_do(
    seeded: Pipeline, days: Days, proxy: FaultProxy, tmp_path: Path
) -> None:
    seeded.endpoint_url = proxy.endpoint_url
    proxy.rules.append(delay(SEND, 0.2))
    with under_way(seeded, days.second, tmp_path / "log") as first:
        second = seeded.cli(days.second, "--lock-wait", "50s")
        assert first.wait(PATIENCE) == 0
    assert (second.exit_code, second.report["status"]) == (0, "nothing_new")
    assert seeded.received() == days.second_new


def test_the_wait_for_the_lock_ends(seeded: Pipeline, days: Days, proxy: FaultProxy, tmp_path: Path) -> None:
    seeded.endpoint_url = proxy.endpoint_url
    proxy.rules.append(delay(SEND, 30))
    with under_way(seeded, days.second, tmp_path / "log") as first:
        began = time.monotonic()
        with pytest.raises(LockedError, match=rf"process {first.pid} on .*, for \d+ s"):
            seeded.run(days.second, locking=Locking(patience=1.2))
        assert 1.2 <= time.monotonic() - began < 10


def test_two_pipelines_over_one_bucket_do_not_wait_for_each_other(
    seeded: Pipeline, days: Days, proxy: FaultProxy, tmp_path: Path
) -> None:
    seeded.endpoint_url = proxy.endpoint_url
    proxy.rules.append(delay(SEND, 30))
    with under_way(seeded, days.second, tmp_path / "log"):
        other = seeded.cli(days.first, "--pipeline", "other", "--first-run", "seed", "--lock-wait", "0")
        assert other.exit_code == 0, other


# ---- Signals


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_stops_the_run_after_the_answers_that_are_due_and_nothing_is_sent_twice(  # noqa: PLR0913, PLR0917
    number: int, code: int, seeded: Pipeline, days: Days, proxy: FaultProxy, tmp_path: Path
) -> None:
    seeded.endpoint_url = proxy.endpoint_url
    proxy.rules.append(delay(SEND, 0.5))
    process = start(seeded, days.second, tmp_path / "log", "--concurrency", "2")
    wait_for_a_request(process, proxy, SEND)
    process.send_signal(number)
    assert process.wait(PATIENCE) == code, (tmp_path / "log").read_text()
    assert "the same command goes on where it stopped" in (tmp_path / "log").read_text()
    first = seeded.received()
    assert 0 < first.total() < len(NEW)
    proxy.rules.clear()
    assert seeded.run(days.second).status is Status.COMMITTED
    assert first + seeded.received() == days.second_new


def test_a_second_signal_ends_at_once_and_nothing_is_lost(
    seeded: Pipeline, days: Days, proxy: FaultProxy, tmp_path: Path
) -> None:
    seeded.endpoint_url = proxy.endpoint_url
    proxy.rules.append(delay(SEND, 20))
    process = start(seeded, days.second, tmp_path / "log")
    wait_for_a_request(process, proxy, SEND)
    process.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(5) == 143
    proxy.rules.clear()
    assert seeded.run(days.second).status is Status.COMMITTED
    received = seeded.received()
    assert received.keys() == days.second_new.keys()


def test_the_grace_is_how_long_a_stopped_run_waits_for_answers(
    seeded: Pipeline, days: Days, proxy: FaultProxy, tmp_path: Path
) -> None:
    seeded.endpoint_url = proxy.endpoint_url
    proxy.rules.append(delay(SEND, 30))
    process = start(seeded, days.second, tmp_path / "log", "--grace", "0.3s")
    wait_for_a_request(process, proxy, SEND)
    process.send_signal(signal.SIGTERM)
    assert process.wait(8) == 143


def test_a_signal_while_tasks_are_still_handed_out_stops_those_that_began(
    seeded: Pipeline, days: Days, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeded.endpoint_url, seeded.concurrency = proxy.endpoint_url, 1
    proxy.rules.append(delay(SEND, 0.3))
    submit = ThreadPoolExecutor.submit

    def interrupted(pool: ThreadPoolExecutor, task: Any, *arguments: Any) -> Any:  # noqa: ANN401 - as submit
        if arguments[1:] == (Stage.ENQUEUE, FILES - 1):
            raise KeyboardInterrupt
        return submit(pool, task, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(ThreadPoolExecutor, "submit", interrupted)
        with pytest.raises(KeyboardInterrupt):
            seeded.run(days.second)
    first = seeded.received()
    assert first.total() <= 10
    proxy.rules.clear()
    assert seeded.run(days.second).status is Status.COMMITTED
    assert first + seeded.received() == days.second_new


# ---- What stays of runs


def test_of_the_runs_that_ended_the_last_ones_stay(seeded: Pipeline, days: Days) -> None:
    (seeded.home / "runs" / "20200101T000000Z-00000000").mkdir()
    assert seeded.run(days.second, keep_runs=2).status is Status.COMMITTED
    first_two = seeded.runs
    assert len(first_two) == 2, "the empty folder of a process that died is gone"
    seeded.killed(Moment(RECORD, "after", call=1), days.third)
    assert len(seeded.runs) == 3
    assert seeded.run(days.third, keep_runs=1).status is Status.COMMITTED
    (last,) = seeded.runs
    assert last not in first_two
    assert sorted(path.name for path in (seeded.home / "indexes").iterdir()) == [seeded.baseline["run_id"]]


def test_a_run_whose_removal_was_cut_short_never_looks_unfinished(
    tmp_path: Path, sqs_client: SQSClient, queue_url: str, days: Days, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder's files go in any order: one that had lost its report first would send its whole day again."""
    pipeline = Pipeline(tmp_path, sqs_client, queue_url)
    pipeline.run(days.first, first_run=FirstRun.ALL)
    assert pipeline.received() == count(OLD)

    def die_half_way(store: LocalStore, name: str) -> None:
        for part in ("acks", "tasks", "report.json"):
            path = store.root / name / part
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        if name.startswith("runs/"):
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(LocalStore, "remove_folder", die_half_way)
        with pytest.raises(KeyboardInterrupt):
            pipeline.run(days.second, first_run=FirstRun.ALL, keep_runs=1)
    assert pipeline.received() == days.second_new
    report = pipeline.run(days.third, first_run=FirstRun.ALL)
    assert (report.status, report.finished_first) == (Status.COMMITTED, [])
    assert pipeline.received() == days.third_new
    assert len(pipeline.runs) == 2, "what was left of the first one is gone"


def test_runs_tells_of_each_run_and_its_command_goes_on_with_the_unfinished_one(seeded: Pipeline, days: Days) -> None:
    seeded.killed(Moment(RECORD, "after", call=2), days.second)
    where = ("--state", str(seeded.state), "--work-dir", str(seeded.work))
    listed = json.loads(run_cli("runs", *where, "--json").stdout)
    assert [(run["status"], run["sent"]) for run in listed] == [("unfinished", None), ("seeded", 0)]
    assert listed[0]["manifest"] == str(days.second)
    assert "is unfinished; the same command goes on with it" in run_cli("runs", *where).stdout
    _, *command = shlex.split(listed[0]["resume"])
    assert run_cli(*command[command.index("--manifest") :]).exit_code == 0
    (last, _) = json.loads(run_cli("runs", *where, "--json").stdout)
    assert (last["status"], last["new"], last["resume"]) == ("committed", len(NEW), None)
    received = seeded.received()
    assert received.keys() == days.second_new.keys()
    assert (received - days.second_new).total() <= seeded.concurrency * 10


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("run.json", {}),
        ("run.json", {"run_id": "r", "pipeline": "p", "created": "yesterday", "current": "x", "command": None}),
        ("run.json", {"run_id": "r", "pipeline": "p", "created": 7, "current": "x", "command": None}),
        ("report.json", {"counts": None}),
        ("report.json", {"status": "seeded", "sent": [], "seconds": {}}),
    ],
)
def test_runs_tells_of_a_damaged_file_and_does_not_crash(name: str, content: dict[str, Any], seeded: Pipeline) -> None:
    (run,) = seeded.runs
    (run / name).write_text(json.dumps({"format_version": 1, **content}), encoding="ascii")
    told = run_cli("runs", "--state", str(seeded.state), "--work-dir", str(seeded.work))
    assert (told.exit_code, told.stdout) == (7, "")
    assert told.stderr.startswith(f"inventory-enqueue: {run / name}: this is no state file")
