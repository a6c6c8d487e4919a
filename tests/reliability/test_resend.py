"""`resend`: what was refused once is sent again, and what fails again comes out in the form that went in."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from inventory_enqueue.demo.odd_keys import ODD_KEYS
from tests.reliability.conftest import NEW
from tests.support.cli import Result, clean_environment, run_cli
from tests.support.proxy import delay, deny, fail_entries, throttle
from tests.support.queue import create_queue, drain, keys_of
from tests.support.running import PATIENCE, wait_for_a_request

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client
    from types_boto3_sqs import SQSClient

    from tests.support.pipelines import Days, Pipeline
    from tests.support.proxy import Entry, FaultProxy

REFUSED = Counter(key.encode() for key in NEW[::4])


def is_refused(entry: Entry) -> bool:
    return keys_of([entry["MessageBody"]], "s3-event").keys() <= REFUSED.keys()


def resend(pipeline: Pipeline, failures: Path | str, *more: str) -> Result:
    return run_cli(*resend_arguments(pipeline, failures, *more))


def resend_arguments(pipeline: Pipeline, failures: Path | str, *more: str) -> list[str]:
    return [
        *("resend", str(failures), "--queue-url", pipeline.queue_url),
        *("--region", "us-east-1", "--endpoint-url", pipeline.endpoint_url, "--work-dir", str(pipeline.work), *more),
    ]


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


@pytest.fixture
def failures(seeded: Pipeline, days: Days, proxy: FaultProxy) -> Path:
    """The failures file of a run, all of whose other messages are delivered."""
    seeded.endpoint_url = proxy.endpoint_url
    proxy.rules.append(fail_entries(is_refused, "InvalidMessageContents", sender_fault=True))
    report = seeded.run(days.second)
    assert seeded.received() == days.second_new - REFUSED
    proxy.rules.clear()
    return Path(report.sent["failures_file"])


def test_what_was_refused_is_sent_again_once_the_queue_takes_it(
    failures: Path, seeded: Pipeline, proxy: FaultProxy
) -> None:
    proxy.rules.append(throttle("SendMessageBatch", times=2))
    done = resend(seeded, failures)
    assert done.exit_code == 0, done
    assert f"{len(REFUSED)} messages sent, 0 failed again" in done.stderr
    assert seeded.received() == REFUSED


def test_what_fails_again_is_written_in_the_same_form_which_can_be_sent_again(
    failures: Path, seeded: Pipeline, proxy: FaultProxy, tmp_path: Path
) -> None:
    still = set(list(REFUSED)[:3])
    rule = fail_entries(
        lambda entry: keys_of([entry["MessageBody"]], "s3-event").keys() <= still, "AnotherReason", sender_fault=True
    )
    proxy.rules.append(rule)
    again = tmp_path / "again.jsonl"
    done = resend(seeded, failures, "--still-failing", str(again))
    assert done.exit_code == 4, done
    assert seeded.received() == Counter(key for key in REFUSED if key not in still)
    before = {record["key"]: record for record in records(failures)}
    for record in records(again):
        assert record == {**before[record["key"]], "code": "AnotherReason", "message": record["message"]}
    assert {record["key"].encode() for record in records(again)} == still
    proxy.rules.clear()
    assert resend(seeded, again).exit_code == 0
    assert seeded.received() == Counter(still)


def test_a_resend_that_is_stopped_changes_nothing_and_the_next_one_sends_all(
    failures: Path, seeded: Pipeline, proxy: FaultProxy
) -> None:
    before = failures.read_bytes()
    proxy.rules.append(deny("SendMessageBatch"))
    assert resend(seeded, failures).exit_code == 3
    proxy.rules.clear()
    assert failures.read_bytes() == before
    assert not failures.with_name("failures.jsonl.again").exists()
    assert resend(seeded, failures).exit_code == 0
    assert seeded.received() == REFUSED


def test_what_fails_again_never_takes_the_place_of_what_is_sent(failures: Path, seeded: Pipeline) -> None:
    """It would be gone once all is sent, and a command that is stopped could not be run again."""
    before = failures.read_bytes()
    link = failures.with_name("link")
    link.symlink_to(failures)
    for name in (failures, link, failures.parent / ".." / failures.parent.name / failures.name):
        done = resend(seeded, failures, "--still-failing", str(name))
        assert (done.exit_code, "--still-failing" in done.stderr) == (2, True), done
    assert failures.read_bytes() == before
    assert seeded.received() == Counter()


def test_messages_that_the_queue_can_never_take_fail_before_they_are_sent(
    seeded: Pipeline, sqs_client: SQSClient, tmp_path: Path
) -> None:
    line = {"format_version": 1, "run_id": "r", "pipeline": "p", "bucket": "b", "row": 7, "code": "X", "message": "x"}
    bodies = ["fine", "bad \x01 character", "", "x" * 300_000]
    lines = [{**line, "sender_fault": True, "key": f"k{n}", "body": body} for n, body in enumerate(bodies)]
    path = tmp_path / "failures.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in lines), encoding="ascii")
    done = resend(seeded, path)
    assert done.exit_code == 4, done
    again = [(record["key"], record["code"]) for record in records(tmp_path / "failures.jsonl.again")]
    assert again == [("k1", "InvalidMessageContents"), ("k2", "InvalidMessageContents"), ("k3", "MessageTooLong")]
    assert drain(sqs_client, seeded.queue_url) == ["fine"]


def test_any_body_is_sent_byte_for_byte_also_to_a_fifo_queue(
    seeded: Pipeline, sqs_client: SQSClient, tmp_path: Path
) -> None:
    seeded.queue_url = create_queue(sqs_client, f"{tmp_path.name[:40]}.fifo", FifoQueue="true")
    line = {"format_version": 1, "run_id": "r", "pipeline": "p", "bucket": "b", "row": 7, "code": "X", "message": "x"}
    # Two characters of Unicode are none for SQS.
    keys = [key for key in ODD_KEYS if not set(key) & {"\ufffe", "\uffff"}]
    bodies = [json.dumps({"key": key}, ensure_ascii=False) for key in keys] + ['"', "\\", "é\n\t"]
    lines = [{**line, "sender_fault": True, "key": f"k{n}", "body": body} for n, body in enumerate(bodies)]
    path = tmp_path / "failures.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in lines), encoding="ascii")
    done = resend(seeded, path)
    assert done.exit_code == 0, done
    assert Counter(drain(sqs_client, seeded.queue_url)) == Counter(bodies)


def test_messages_have_the_attributes_of_the_runs_that_they_are_of(
    seeded: Pipeline, sqs_client: SQSClient, tmp_path: Path
) -> None:
    """Also where files of several runs were joined; and they count towards a message's size."""
    line = {"format_version": 1, "bucket": "b", "row": 7, "code": "X", "message": "x", "sender_fault": True}
    runs = ["r1", "r1", "r2", "r1"]
    lines = [
        {**line, "run_id": run, "pipeline": f"p-{run}", "key": f"k{n}", "body": f"b{n}"} for n, run in enumerate(runs)
    ]
    lines.append({**lines[0], "key": "large", "body": "x" * 262_144})
    path = tmp_path / "failures.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in lines), encoding="ascii")
    assert resend(seeded, path).exit_code == 4
    assert [record["code"] for record in records(tmp_path / "failures.jsonl.again")] == ["MessageTooLong"]
    received = sqs_client.receive_message(
        QueueUrl=seeded.queue_url, MaxNumberOfMessages=10, MessageAttributeNames=["All"]
    )["Messages"]
    attributes = {
        message["Body"]: {name: value["StringValue"] for name, value in message["MessageAttributes"].items()}
        for message in received
    }
    assert attributes == {f"b{n}": {"run_id": run, "pipeline": f"p-{run}"} for n, run in enumerate(runs)}


def test_two_messages_with_the_same_body_both_go_to_a_fifo_queue(
    seeded: Pipeline, sqs_client: SQSClient, tmp_path: Path
) -> None:
    """Two versions of a key, as bare keys."""
    seeded.queue_url = create_queue(sqs_client, f"{tmp_path.name[:40]}.fifo", FifoQueue="true")
    line = {"format_version": 1, "run_id": "r", "pipeline": "p", "bucket": "b", "code": "X", "message": "x"}
    lines = [{**line, "sender_fault": True, "row": row, "key": "k", "body": "k"} for row in (7, 8)]
    path = tmp_path / "failures.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in lines), encoding="ascii")
    assert resend(seeded, path).exit_code == 0
    assert drain(sqs_client, seeded.queue_url) == ["k", "k"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_waits_for_the_answers_that_are_due_and_ends_with_its_code(
    number: int, code: int, failures: Path, seeded: Pipeline, proxy: FaultProxy
) -> None:
    proxy.rules.append(delay("SendMessageBatch", 1))
    command = [sys.executable, "-m", "inventory_enqueue", *resend_arguments(seeded, failures)]
    process = subprocess.Popen(command, env=clean_environment(seeded.work), stderr=subprocess.PIPE)
    wait_for_a_request(process, proxy, "SendMessageBatch")
    process.send_signal(number)
    _, stderr = process.communicate(timeout=PATIENCE)
    assert process.returncode == code, stderr.decode()
    assert b"the same command sends all of it again" in stderr
    assert not failures.with_name("failures.jsonl.again").exists()
    first = seeded.received()
    assert 0 < first.total() <= len(REFUSED)
    proxy.rules.clear()
    assert resend(seeded, failures).exit_code == 0
    assert seeded.received() == REFUSED


def test_a_failures_file_in_s3_is_read_there(
    failures: Path, seeded: Pipeline, s3_client: S3Client, bucket: str
) -> None:
    s3_client.upload_file(str(failures), bucket, "state/failures.jsonl")
    assert resend(seeded, f"s3://{bucket}/state/failures.jsonl").exit_code == 0
    assert seeded.received() == REFUSED


@pytest.mark.parametrize(
    ("content", "code", "says"),
    [
        (None, 6, "there is no such file"),
        (b"{}\n", 7, "line 1: this is no state file"),
        (b'{"format_version": 1, "run_id": "r", "key": "k"}\n', 7, "line 1"),
        (b'{"format_version": 2}\n', 7, "upgrade this one"),
    ],
)
def test_what_is_no_failures_file_is_told_where(
    content: bytes | None, code: int, says: str, seeded: Pipeline, tmp_path: Path
) -> None:
    path = tmp_path / "file.jsonl"
    if content is not None:
        path.write_bytes(content)
    done = resend(seeded, path)
    assert (done.exit_code, says in done.stderr) == (code, True), done
    assert seeded.received() == Counter()
