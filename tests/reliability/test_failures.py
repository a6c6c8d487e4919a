"""What goes wrong between us and the queue, over the wire: a proxy in front of a real server injects it.

Every key that is new is in the queue, or stands in the failures file, before a run commits; and what may be in the
queue twice is exactly what the queue took without our knowing.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from inventory_enqueue.demo.odd_keys import ODD_KEYS
from inventory_enqueue.errors import InventoryEnqueueError, PreflightError, StoppedError
from inventory_enqueue.pacing import RetryPolicy
from inventory_enqueue.report import RunReport, Status
from inventory_enqueue.sending import Sender
from tests.support import deliveries
from tests.support.pipelines import Days, Pipeline, count, seeded_state, three_days
from tests.support.proxy import (
    FaultProxy,
    Request,
    RequestRule,
    corrupt_answers,
    deny,
    fail_entries,
    lose_answers,
    omit_entries,
    reset_connections,
    server_error,
    sqs_error,
    throttle,
)
from tests.support.queue import create_queue, keys_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from types_boto3_sqs import SQSClient

    from tests.support.proxy import Entry, Fault, Rule

SEND = "SendMessageBatch"
NEW = [*(f"new/{number:03}" for number in range(72)), "new/a b", "new/c+d", "new/é%"]
ATTEMPTS = 8
STOPPED = 4  # batches that go through before nothing does


def key_of(entry: Entry) -> bytes:
    (key,) = keys_of([entry["MessageBody"]], "s3-event")
    return key


def keys_in(request: Request) -> Counter[bytes]:
    return Counter(key_of(entry) for entry in request.entries)


def every_third(entry: Entry) -> bool:
    return key_of(entry) in THIRD


THIRD = count(NEW[::3])


class Noted:
    """A rule that notes the keys of the requests that it struck."""

    def __init__(self, rule: Rule) -> None:
        self.keys: Counter[bytes] = Counter()
        self._rule = rule
        self._lock = threading.Lock()

    def __call__(self, request: Request) -> Fault | None:
        fault = self._rule(request)
        if fault is not None:
            with self._lock:
                self.keys += keys_in(request)
        return fault


class After:
    """A rule that holds once this many batches went through."""

    def __init__(self, batches: int, rule: Rule) -> None:
        self._left = batches
        self._rule = rule
        self._lock = threading.Lock()

    def __call__(self, request: Request) -> Fault | None:
        if request.action != SEND:
            return None
        with self._lock:
            self._left -= 1
            if self._left >= 0:
                return None
        return self._rule(request)


@pytest.fixture(scope="module")
def days(tmp_path_factory: pytest.TempPathFactory) -> Days:
    return three_days(tmp_path_factory.mktemp("bucket"), NEW)


@pytest.fixture(scope="module")
def first_day(tmp_path_factory: pytest.TempPathFactory, days: Days) -> Path:
    return seeded_state(tmp_path_factory.mktemp("first-day"), days)


@pytest.fixture
def seeded(tmp_path: Path, sqs_client: SQSClient, queue_url: str, proxy: FaultProxy, first_day: Path) -> Pipeline:
    """A pipeline whose way to the queue leads through the proxy, with the first day committed."""
    pipeline = Pipeline(tmp_path, sqs_client, queue_url)
    pipeline.endpoint_url = proxy.endpoint_url
    pipeline.begin_with(first_day)
    return pipeline


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries in this process wait for nothing and soon give up."""
    policy = RetryPolicy(attempts=ATTEMPTS, base=0.001, cap=0.005)
    monkeypatch.setattr("inventory_enqueue.stages.enqueue.Sender", partial(Sender, policy=policy))


def assert_received(pipeline: Pipeline, days: Days, expected: Counter[bytes]) -> None:
    """The second day is the baseline: again, it sends nothing; and these keys are in the queue, so often."""
    again = pipeline.run(days.second)
    assert (again.status, again.exit_code, again.sent["messages"]) == (Status.NOTHING_NEW, 0, 0)
    assert pipeline.received() == expected


def assert_third_day_goes_on(pipeline: Pipeline, days: Days) -> None:
    """The index is whole: the next day brings its own keys alone."""
    assert pipeline.run(days.third).status is Status.COMMITTED
    assert pipeline.received() == days.third_new


# ---- What is retried until the queue has it


@pytest.mark.parametrize("code", ["InternalError", "AWS.SimpleQueueService.InternalError"])
@pytest.mark.usefixtures("quick")
def test_entries_that_failed_by_the_queues_fault_are_sent_again_alone_until_all_are_in_it_once(
    code: str, seeded: Pipeline, proxy: FaultProxy, days: Days
) -> None:
    rule = fail_entries(every_third, code, sender_fault=False, times=2)
    proxy.rules.append(rule)
    report = seeded.run(days.second)
    assert (report.status, report.exit_code) == (Status.COMMITTED, 0)
    assert rule.fired == 2 * len(THIRD) == report.sent["retries"]
    assert (report.sent["keys"], report.sent["failed"]) == (len(NEW), 0)
    assert sum(logged.entries for logged in proxy.log) == len(NEW) + 2 * len(THIRD)
    assert_received(seeded, days, days.second_new)


@pytest.mark.parametrize("code", ["AWS.SimpleQueueService.RequestThrottled", "KmsThrottled"])
@pytest.mark.usefixtures("quick")
def test_throttled_entries_are_retried_even_if_the_queue_calls_it_the_senders_fault(
    code: str, seeded: Pipeline, proxy: FaultProxy, days: Days
) -> None:
    proxy.rules.append(fail_entries(every_third, code, sender_fault=True, times=1))
    report = seeded.run(days.second)
    assert (report.exit_code, report.sent["failed"]) == (0, 0)
    assert report.sent["throttled"] > 0
    assert_received(seeded, days, days.second_new)


@pytest.mark.parametrize("enqueue", [False, True])
@pytest.mark.usefixtures("quick")
def test_entries_in_neither_list_of_the_answer_are_sent_again(
    enqueue: bool,  # noqa: FBT001 - a parameter
    seeded: Pipeline,
    proxy: FaultProxy,
    days: Days,
) -> None:
    proxy.rules.append(omit_entries(every_third, enqueue=enqueue, times=1))
    assert seeded.run(days.second).exit_code == 0
    assert_received(seeded, days, days.second_new + (THIRD if enqueue else Counter()))


@pytest.mark.usefixtures("quick")
def test_an_entry_in_both_lists_of_the_answer_is_sent_again(seeded: Pipeline, proxy: FaultProxy, days: Days) -> None:
    def lie(body: bytes) -> bytes:
        answer = json.loads(body)
        first, *_ = answer["Successful"]
        answer["Failed"] = [{"Id": first["Id"], "Code": "InternalError", "SenderFault": False}]
        return json.dumps(answer).encode()

    rule = Noted(corrupt_answers(SEND, lie, times=2))
    proxy.rules.append(rule)
    assert seeded.run(days.second).exit_code == 0
    received = seeded.received()
    assert received.keys() == days.second_new.keys()
    twice = received - days.second_new
    assert twice.total() == 2
    assert twice <= rule.keys


@pytest.mark.usefixtures("quick")
def test_ids_that_were_never_sent_count_for_nothing(seeded: Pipeline, proxy: FaultProxy, days: Days) -> None:
    def rename(body: bytes) -> bytes:
        answer = json.loads(body)
        for entry in answer["Successful"]:
            entry["Id"] = f"x{entry['Id']}"
        return json.dumps(answer).encode()

    rule = Noted(corrupt_answers(SEND, rename, times=2))
    proxy.rules.append(rule)
    assert seeded.run(days.second).exit_code == 0
    assert_received(seeded, days, days.second_new + rule.keys)


@pytest.mark.parametrize("body", [b"", b"<html>gateway</html>", b'{"Successful":null,"Failed":null}'])
@pytest.mark.usefixtures("quick")
def test_an_answer_that_says_nothing_is_no_success(
    body: bytes, seeded: Pipeline, proxy: FaultProxy, days: Days
) -> None:
    rule = Noted(corrupt_answers(SEND, lambda _: body, times=2))
    proxy.rules.append(rule)
    assert seeded.run(days.second).exit_code == 0
    assert_received(seeded, days, days.second_new + rule.keys)


@pytest.mark.usefixtures("quick")
def test_a_failed_entry_that_does_not_say_whose_fault_it_was_is_retried(
    seeded: Pipeline, proxy: FaultProxy, days: Days
) -> None:
    """Some servers leave out what is false."""

    def terse(body: bytes) -> bytes:
        answer = json.loads(body)
        for entry in answer.get("Failed", []):
            del entry["SenderFault"]
        return json.dumps(answer).encode()

    proxy.rules += [corrupt_answers(SEND, terse), fail_entries(every_third, "Busy", sender_fault=False, times=1)]
    assert seeded.run(days.second).exit_code == 0
    assert_received(seeded, days, days.second_new)


@pytest.mark.usefixtures("quick")
def test_when_answers_get_lost_nothing_is_lost_and_twice_is_only_what_they_were_about(
    seeded: Pipeline, proxy: FaultProxy, days: Days
) -> None:
    rule = Noted(lose_answers(SEND, times=5))
    proxy.rules.append(rule)
    report = seeded.run(days.second)
    assert (report.exit_code, report.sent["keys"]) == (0, len(NEW))
    assert rule.keys.total() >= 40
    assert_received(seeded, days, days.second_new + rule.keys)


FAULTS: dict[str, Callable[[], Rule]] = {
    "reset connections": lambda: reset_connections(SEND, times=8),
    "throttling with 403": lambda: throttle(SEND, times=8),
    "503": lambda: server_error(SEND, times=8),
}


@pytest.mark.parametrize("name", FAULTS)
def test_whole_requests_that_failed_are_retried_and_every_key_is_in_the_queue_once(
    name: str, seeded: Pipeline, proxy: FaultProxy, days: Days
) -> None:
    """With the waits that users have."""
    rule = Noted(FAULTS[name]())
    proxy.rules.append(rule)
    report = seeded.run(days.second)
    assert (report.status, report.exit_code) == (Status.COMMITTED, 0)
    assert rule.keys.total() > 0
    assert report.sent["retries"] == rule.keys.total()
    assert report.sent["throttled"] == (0 if "reset" in name else 8)
    assert_received(seeded, days, days.second_new)


@pytest.mark.usefixtures("quick")
def test_everything_at_once_loses_nothing(seeded: Pipeline, proxy: FaultProxy, days: Days) -> None:
    lost = Noted(lose_answers(SEND, times=3))
    proxy.rules += [
        reset_connections(SEND, times=2),
        server_error(SEND, times=2),
        lost,
        omit_entries(lambda entry: key_of(entry).endswith(b"7"), enqueue=False, times=1),
        fail_entries(every_third, "InternalError", sender_fault=False, times=1),
    ]
    assert seeded.run(days.second).exit_code == 0
    received = seeded.received()
    assert received.keys() == days.second_new.keys()
    assert received <= days.second_new + lost.keys


# ---- What the queue will never take: the failures file, exit 4


def failures_of(report: dict[str, Any]) -> list[dict[str, Any]]:
    path = Path(report["sent"]["failures_file"])
    return [json.loads(line) for line in path.read_text(encoding="ascii").splitlines()]


def assert_failures(report: dict[str, Any], days: Days, keys: Counter[bytes], code: str) -> list[dict[str, Any]]:
    """Each of these keys stands once in the failures file, with its row, its whole message, and why."""
    failures = failures_of(report)
    assert Counter(failure["key"].encode() for failure in failures) == keys
    for failure in failures:
        assert failure["format_version"] == 1
        assert failure["run_id"] == report["run_id"]
        assert failure["pipeline"] == "p"
        assert failure["bucket"] == deliveries.SOURCE
        assert days.key(*divmod(failure["row"], 1 << 36)) == failure["key"].encode()
        assert failure["code"] == code
        assert failure["message"]
        assert failure["sender_fault"] is True
        assert keys_of([failure["body"]], "s3-event") == Counter([failure["key"].encode()])
    return failures


def test_entries_that_failed_by_our_fault_go_to_the_failures_file_and_the_run_commits_with_exit_4(
    seeded: Pipeline, proxy: FaultProxy, days: Days
) -> None:
    rule = fail_entries(every_third, "InvalidMessageContents", sender_fault=True)
    proxy.rules.append(rule)
    result = seeded.cli(days.second)
    assert (result.exit_code, result.report["status"]) == (4, "committed")
    assert result.report["sent"]["keys"] == len(NEW) - len(THIRD)
    assert result.report["sent"]["failed"] == len(THIRD)
    assert rule.fired == len(THIRD), "none was tried again"
    failures = assert_failures(result.report, days, THIRD, "InvalidMessageContents")
    assert {failure["message"] for failure in failures} == {"injected"}
    again = seeded.cli(days.second)
    assert (again.exit_code, again.report["sent"]["messages"]) == (0, 0)
    assert rule.fired == len(THIRD)
    proxy.rules.clear()
    assert_received(seeded, days, days.second_new - THIRD)
    assert_third_day_goes_on(seeded, days)


@pytest.mark.usefixtures("quick")
def test_a_run_that_could_deliver_nothing_commits_with_every_key_in_the_failures_file(
    seeded: Pipeline, proxy: FaultProxy, days: Days
) -> None:
    proxy.rules.append(fail_entries(lambda _: True, "InvalidMessageContents", sender_fault=True))
    report = seeded.run(days.second)
    assert (report.status, report.exit_code) == (Status.COMMITTED, 4)
    assert (report.sent["keys"], report.sent["failed"]) == (0, len(NEW))
    assert_failures(report.to_json(), days, days.second_new, "InvalidMessageContents")
    proxy.rules.clear()
    assert_third_day_goes_on(seeded, days)


@pytest.mark.usefixtures("quick")
def test_odd_keys_that_the_queue_refuses_stand_in_the_failures_file_byte_for_byte(
    tmp_path: Path, sqs_client: SQSClient, queue_url: str, proxy: FaultProxy
) -> None:
    days = three_days(tmp_path / "bucket", ODD_KEYS)
    pipeline = Pipeline(tmp_path, sqs_client, queue_url)
    pipeline.endpoint_url = proxy.endpoint_url
    pipeline.seed(days.first)
    odd = count(ODD_KEYS[::2])
    proxy.rules.append(fail_entries(lambda entry: key_of(entry) in odd, "InvalidMessageContents", sender_fault=True))
    report = pipeline.run(days.second)
    assert report.exit_code == 4
    assert_failures(report.to_json(), days, odd, "InvalidMessageContents")
    assert pipeline.received() == count(ODD_KEYS) - odd


def test_messages_that_are_too_large_for_the_queue_go_to_the_failures_file_and_the_rest_is_delivered(
    tmp_path: Path, sqs_client: SQSClient, proxy: FaultProxy
) -> None:
    large = [f"{number}/{'k' * 1000}" for number in range(7)]
    urls = [f"{number}/{'é' * 300}" for number in range(4)]  # six times as long once it is encoded
    days = three_days(tmp_path / "bucket", [key for pair in zip(NEW, large + urls, strict=False) for key in pair])
    pipeline = Pipeline(tmp_path, sqs_client, create_queue(sqs_client, tmp_path.name[:60], MaximumMessageSize="1024"))
    pipeline.endpoint_url = proxy.endpoint_url
    pipeline.seed(days.first)
    result = pipeline.cli(days.second)
    assert (result.exit_code, result.report["status"]) == (4, "committed")
    failures = assert_failures(result.report, days, count(large + urls), "MessageTooLong")
    assert all("1024" in failure["message"] and len(failure["body"]) > 1024 for failure in failures)
    assert sum(logged.entries for logged in proxy.log) == len(NEW[:11]), "what is too large isn't sent at all"
    assert_received(pipeline, days, days.second_new - count(large + urls))


def refuse_batches_with(key: bytes, code: str) -> Callable[[Request], Fault | None]:
    """As servers do that answer for the whole request what is wrong with one entry."""
    error = sqs_error(400, f"{code};Sender", __type=f"com.amazonaws.sqs#{code}", message="Invalid characters found.")
    return RequestRule(error, lambda request: request.action == SEND and key in keys_in(request))


@pytest.mark.parametrize("code", ["InvalidMessageContents", "AWS.SimpleQueueService.InvalidMessageContents"])
@pytest.mark.usefixtures("quick")
def test_a_batch_that_is_refused_for_one_entry_is_split_and_that_entry_alone_fails(
    code: str, seeded: Pipeline, proxy: FaultProxy, days: Days
) -> None:
    bad = NEW[37].encode()
    proxy.rules.append(refuse_batches_with(bad, code))
    report = seeded.run(days.second)
    assert (report.status, report.exit_code) == (Status.COMMITTED, 4)
    assert_failures(report.to_json(), days, Counter([bad]), "InvalidMessageContents")
    requests = [logged for logged in proxy.log if logged.action == SEND]
    assert report.sent["requests"] == len(requests)
    assert report.sent["keys"] == len(NEW) - 1
    proxy.rules.clear()
    assert_received(seeded, days, days.second_new - Counter([bad]))


@pytest.mark.usefixtures("quick")
def test_a_split_batch_whose_entries_are_throttled_is_retried(seeded: Pipeline, proxy: FaultProxy, days: Days) -> None:
    bad = NEW[37].encode()
    alone = RequestRule(
        sqs_error(403, "RequestThrottled;Sender", __type="com.amazonaws.sqs#RequestThrottled", message="Slow down."),
        lambda request: len(request.entries) == 1 and bad not in keys_in(request),
        times=4,
    )
    proxy.rules += [refuse_batches_with(bad, "InvalidMessageContents"), alone]
    report = seeded.run(days.second)
    assert report.exit_code == 4
    assert alone.fired == 4
    assert_failures(report.to_json(), days, Counter([bad]), "InvalidMessageContents")
    assert seeded.received() == days.second_new - Counter([bad])


# ---- What stops the run: no commit, and the same command goes on


def assert_stopped(
    pipeline: Pipeline, days: Days, error: type[InventoryEnqueueError], exit_code: int
) -> tuple[RunReport, str]:
    """Run the second day: it stops, and the baseline doesn't move."""
    before = pipeline.baseline
    report = RunReport()
    with pytest.raises(error) as raised:
        pipeline.run(days.second, report)
    report.fail(raised.value)
    assert report.exit_code == exit_code
    assert pipeline.baseline == before
    return report, str(raised.value)


STOPPERS: dict[str, Callable[[], Rule]] = {
    "throttling": lambda: throttle(SEND),
    "503": lambda: server_error(SEND),
    "failed entries": lambda: fail_entries(lambda _: True, "InternalError", sender_fault=False),
    "omitted entries": lambda: omit_entries(lambda _: True, enqueue=False),
}


@pytest.mark.parametrize("name", STOPPERS)
@pytest.mark.usefixtures("quick")
def test_when_retries_run_out_the_run_stops_uncommitted_and_the_same_command_sends_the_rest_alone(
    name: str, seeded: Pipeline, proxy: FaultProxy, days: Days
) -> None:
    proxy.rules.append(After(STOPPED, STOPPERS[name]()))
    report, message = assert_stopped(seeded, days, StoppedError, 8)
    assert report.status is Status.INCOMPLETE
    assert report.resume == "run the same command again: it goes on where this one stopped"
    assert "run the same command again" in message
    assert f"{ATTEMPTS} attempts" in message
    first = seeded.received()
    assert STOPPED <= first.total() <= 10 * STOPPED
    proxy.rules.clear()
    resumed = seeded.run(days.second)
    assert (resumed.status, resumed.run_id) == (Status.COMMITTED, report.run_id)
    assert resumed.sent["keys"] == len(NEW)
    assert_received(seeded, days, days.second_new - first)
    assert_third_day_goes_on(seeded, days)


@pytest.mark.usefixtures("quick")
def test_as_long_as_a_batch_gets_on_its_retries_never_run_out(seeded: Pipeline, proxy: FaultProxy, days: Days) -> None:
    """Of each batch only its first entry gets through, each time: more rounds than a batch without progress has."""
    proxy.rules.append(fail_entries(lambda entry: entry["Id"] != "0", "InternalError", sender_fault=False))
    assert seeded.run(days.second).exit_code == 0
    assert_received(seeded, days, days.second_new)


@pytest.mark.usefixtures("quick")
def test_failures_before_a_stop_are_in_the_failures_file_of_the_resumed_run(
    seeded: Pipeline, proxy: FaultProxy, days: Days
) -> None:
    refused = fail_entries(every_third, "InvalidMessageContents", sender_fault=True)
    proxy.rules += [After(STOPPED, throttle(SEND)), refused]
    report, _ = assert_stopped(seeded, days, StoppedError, 8)
    first, seen = seeded.received(), refused.fired
    assert 0 < seen < len(THIRD)
    del proxy.rules[0]
    resumed = seeded.run(days.second)
    assert (resumed.exit_code, resumed.run_id) == (4, report.run_id)
    assert refused.fired == len(THIRD), "a message that was refused isn't sent again"
    assert (resumed.sent["keys"], resumed.sent["failed"]) == (len(NEW) - len(THIRD), len(THIRD))
    assert_failures(resumed.to_json(), days, THIRD, "InvalidMessageContents")
    proxy.rules.clear()
    assert_received(seeded, days, days.second_new - THIRD - first)


def test_denied_in_the_middle_it_stops_at_once_with_exit_3_and_the_same_command_sends_the_rest_alone(
    seeded: Pipeline, proxy: FaultProxy, days: Days
) -> None:
    denied = deny(SEND)
    proxy.rules.append(After(STOPPED, denied))
    before = seeded.baseline
    result = seeded.cli(days.second)
    assert (result.exit_code, result.report["status"]) == (3, "failed")
    assert "sqs:SendMessage" in result.stderr
    assert "Traceback" not in result.stderr
    assert 1 <= denied.fired <= seeded.concurrency, "each request in flight was denied once, none was retried"
    assert seeded.baseline == before
    first = seeded.received()
    assert STOPPED <= first.total() <= 10 * STOPPED
    proxy.rules.clear()
    resumed = seeded.cli(days.second)
    assert (resumed.exit_code, resumed.report["run_id"]) == (0, result.report["run_id"])
    assert_received(seeded, days, days.second_new - first)
    assert_third_day_goes_on(seeded, days)


FATAL = {
    "the queue is gone": (400, "AWS.SimpleQueueService.NonExistentQueue", "com.amazonaws.sqs#QueueDoesNotExist"),
    "credentials have expired": (403, "ExpiredToken", "com.amazon.coral.service#ExpiredTokenException"),
}


@pytest.mark.parametrize("name", FATAL)
@pytest.mark.usefixtures("quick")
def test_what_no_retry_can_help_stops_with_exit_3_and_is_resumable(
    name: str, seeded: Pipeline, proxy: FaultProxy, days: Days
) -> None:
    status, code, shape = FATAL[name]
    error = sqs_error(status, f"{code};Sender", __type=shape, message="No.")
    rule = RequestRule(error, lambda request: request.action == SEND)
    proxy.rules.append(After(STOPPED, rule))
    assert_stopped(seeded, days, PreflightError, 3)
    assert rule.fired <= seeded.concurrency
    first = seeded.received()
    proxy.rules.clear()
    assert seeded.run(days.second).status is Status.COMMITTED
    assert seeded.received() == days.second_new - first


@pytest.mark.usefixtures("quick")
def test_an_outage_between_stop_and_resume_changes_nothing(seeded: Pipeline, proxy: FaultProxy, days: Days) -> None:
    proxy.rules.append(After(STOPPED, throttle(SEND)))
    assert_stopped(seeded, days, StoppedError, 8)
    first = seeded.received()
    proxy.rules.insert(0, server_error("GetQueueAttributes"))
    assert_stopped(seeded, days, StoppedError, 8)
    proxy.rules[:] = [throttle(SEND)]
    assert_stopped(seeded, days, StoppedError, 8)
    assert seeded.received() == Counter()
    proxy.rules.clear()
    assert seeded.run(days.second).status is Status.COMMITTED
    assert len(seeded.runs) == 2, "the seed, and the one run that was resumed"
    assert_received(seeded, days, days.second_new - first)
