"""What is sent is what the queue holds: over each server, by each transport, in each format; standard and FIFO."""

from __future__ import annotations

import json
import os
import resource
import signal
import threading
import time
import uuid
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import polars as pl
import pytest

from inventory_enqueue import pipeline
from inventory_enqueue.batching import MessageBatch, MessageForm, Messages
from inventory_enqueue.config import (
    AwsSettings,
    FirstRun,
    JsonLinesFile,
    MessageFormat,
    MessageGroups,
    RunConfig,
    Sending,
    SendTransport,
    SqsQueue,
    Verify,
)
from inventory_enqueue.demo.odd_keys import ODD_KEYS
from inventory_enqueue.demo.roto import REGION
from inventory_enqueue.errors import PreflightError, StoppedError
from inventory_enqueue.messages import ENVELOPES, Template, Value
from inventory_enqueue.pacing import RetryPolicy
from inventory_enqueue.report import RunReport, Status
from inventory_enqueue.sending import Sender
from inventory_enqueue.sinks.jsonl import JsonLinesFileSink
from inventory_enqueue.stages import enqueue
from tests.support import deliveries
from tests.support.ministack import ministack
from tests.support.pipelines import count
from tests.support.proxy import FaultProxy, corrupt_answers, lose_answers, server_error, throttle
from tests.support.queue import create_queue, drain, keys_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from types_boto3_sqs import SQSClient

    from inventory_enqueue.demo.roto import RotoServer

SEND = "SendMessageBatch"
ORDINARY = [f"data/part-{number:04}.parquet" for number in range(95)]
KEYS = [*ODD_KEYS, *ORDINARY]
UNCARRIABLE = [key for key in KEYS if any((ord(c) < 32 and c not in "\t\n\r") or c in "\ufffe\uffff" for c in key)]


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with ministack(tmp_path_factory.mktemp("ministack")) as endpoint_url:
        yield endpoint_url


class Target:
    """A queue, and a first run that sends all keys of a delivery to it."""

    def __init__(self, endpoint_url: str, folder: Path, *, keys: list[str] = KEYS, **attributes: str) -> None:
        self.endpoint_url = endpoint_url
        self.client: SQSClient = boto3.client("sqs", endpoint_url=endpoint_url, region_name=REGION)
        suffix = ".fifo" if "FifoQueue" in attributes else ""
        self.queue_url = create_queue(self.client, f"queue-{uuid.uuid4().hex}{suffix}", **attributes)
        half = len(keys) // 2
        self._config = RunConfig(
            manifest=deliveries.deliver(folder, 1, keys[:half], keys[half:]),
            sink=SqsQueue(self.queue_url),
            state=folder / "state",
            pipeline="p",
            first_run=FirstRun.ALL,
            work_dir=folder / "work",
            aws=AwsSettings(region=REGION, sqs_endpoint_url=endpoint_url),
        )

    def send(self, report: RunReport | None = None, **options: Any) -> RunReport:  # noqa: ANN401 - any field of RunConfig
        return pipeline.run(replace(self._config, **options), report)

    def bodies(self) -> list[str]:
        return drain(self.client, self.queue_url)

    def received(self, message_format: MessageFormat = MessageFormat.S3_EVENT) -> Counter[bytes]:
        return keys_of(self.bodies(), message_format)


@pytest.fixture(params=["roto", "ministack"])
def endpoint_url(request: pytest.FixtureRequest, roto: RotoServer, strict: str) -> str:
    return roto.endpoint_url if request.param == "roto" else strict


def failed_keys(report: RunReport) -> Counter[bytes]:
    if not report.sent["failed"]:
        return Counter()
    lines = Path(str(report.sent["failures_file"])).read_text(encoding="ascii").splitlines()
    return Counter(json.loads(line)["key"].encode() for line in lines)


@pytest.mark.parametrize("transport", list(SendTransport))
@pytest.mark.parametrize("message_format", list(MessageFormat))
def test_every_key_is_in_the_queue_once_and_what_it_cannot_carry_is_in_the_failures_file(
    message_format: MessageFormat, transport: SendTransport, endpoint_url: str, tmp_path: Path
) -> None:
    target = Target(endpoint_url, tmp_path)
    report = target.send(message_format=message_format, sending=Sending(transport=transport))
    refused = count(UNCARRIABLE) if message_format is MessageFormat.KEY else Counter()
    assert report.exit_code == (4 if refused else 0)
    assert target.received(message_format) == count(KEYS) - refused
    assert report.sent["keys"] == len(KEYS) - refused.total()
    if refused:
        assert failed_keys(report) == refused


@pytest.mark.parametrize("message_format", list(MessageFormat))
def test_a_file_holds_the_same_messages_as_the_queue(
    message_format: MessageFormat, strict: str, tmp_path: Path
) -> None:
    target = Target(strict, tmp_path)
    target.send(message_format=message_format)
    path = tmp_path / "messages.jsonl"
    target.send(message_format=message_format, pipeline="file", sink=JsonLinesFile(path))

    def tidied(body: str) -> str:
        """Without what differs from run to run."""
        return body if message_format is MessageFormat.KEY else json.dumps(without_run_ids(json.loads(body)))

    queued = Counter(map(tidied, target.bodies()))
    if message_format is MessageFormat.KEY:
        queued = Counter({body: number for body, number in queued.items() if "\n" not in body})
    assert Counter(map(tidied, path.read_bytes().decode().split("\n")[:-1])) == queued


def without_run_ids(message: Any) -> Any:  # noqa: ANN401 - JSON
    ids = {"x-amz-request-id", "x-amz-id-2", "run_id", "request-id", "id"}
    if isinstance(message, dict):
        return {name: without_run_ids(value) for name, value in message.items() if name not in ids}
    return [without_run_ids(value) for value in message] if isinstance(message, list) else message


@pytest.mark.parametrize("transport", list(SendTransport))
def test_messages_tell_the_run_and_the_pipeline_in_attributes(
    transport: SendTransport, endpoint_url: str, tmp_path: Path
) -> None:
    target = Target(endpoint_url, tmp_path, keys=ORDINARY[:3])
    report = target.send(sending=Sending(transport=transport))
    seen: list[object] = []
    while len(seen) < 3:
        answer = target.client.receive_message(
            QueueUrl=target.queue_url, MaxNumberOfMessages=10, MessageAttributeNames=["All"]
        )
        seen += [message["MessageAttributes"] for message in answer.get("Messages", [])]
    expected = {
        "run_id": {"DataType": "String", "StringValue": report.run_id},
        "pipeline": {"DataType": "String", "StringValue": "p"},
    }
    assert seen == [expected] * 3


@pytest.mark.parametrize("records", [2, 10, 1000])
def test_messages_of_several_records_hold_every_key_once(records: int, endpoint_url: str, tmp_path: Path) -> None:
    target = Target(endpoint_url, tmp_path)
    report = target.send(sending=Sending(records_per_message=records))
    bodies = target.bodies()
    assert keys_of(bodies, "s3-event") == count(KEYS)
    assert report.sent["keys"] == len(KEYS)
    assert report.sent["messages"] == len(bodies) < len(KEYS)
    assert all(len(json.loads(body)["Records"]) <= records for body in bodies)
    assert all(len(body) <= 65_536 for body in bodies)


# ---- FIFO, and groups


@pytest.mark.parametrize("transport", list(SendTransport))
@pytest.mark.parametrize("records", [1, 7])
def test_a_fifo_queue_holds_every_key_once_though_answers_were_lost(
    records: int, transport: SendTransport, strict: str, tmp_path: Path
) -> None:
    with FaultProxy(strict) as proxy:
        target = Target(strict, tmp_path, FifoQueue="true")
        lost = lose_answers(SEND, times=3)
        proxy.rules.append(lost)
        aws = AwsSettings(region=REGION, sqs_endpoint_url=proxy.endpoint_url)
        sending = Sending(transport=transport, records_per_message=records)
        assert target.send(aws=aws, sending=sending).exit_code == 0
        assert lost.fired == 3
        assert target.received() == count(KEYS)


def test_a_replay_to_a_fifo_queue_is_sent_also_within_its_five_minutes(strict: str, tmp_path: Path) -> None:
    target = Target(strict, tmp_path, FifoQueue="true", keys=ORDINARY)
    assert target.send().exit_code == 0
    assert target.send(replay=True, first_run=None).sent["keys"] == len(ORDINARY)
    assert target.received() == count(ORDINARY) + count(ORDINARY)


@pytest.mark.parametrize(("groups", "most"), [(None, 64), ("hash:4", 4), ("all-in-one", 1)])
def test_messages_of_a_fifo_queue_have_groups(groups: str | None, most: int, strict: str, tmp_path: Path) -> None:
    target = Target(strict, tmp_path, FifoQueue="true")
    target.send(message_groups=None if groups is None else MessageGroups.parse(groups))
    seen = Counter[str]()
    while True:
        answer = target.client.receive_message(
            QueueUrl=target.queue_url, MaxNumberOfMessages=10, AttributeNames=["All"]
        ).get("Messages", [])
        if not answer:
            break
        for message in answer:
            seen[message["Attributes"]["MessageGroupId"]] += 1
            target.client.delete_message(QueueUrl=target.queue_url, ReceiptHandle=message["ReceiptHandle"])
    assert seen.total() == len(KEYS)
    assert 1 <= len(seen) <= most
    assert most < 4 or len(seen) > most / 2


def test_a_standard_queue_is_shared_out_by_groups_too(strict: str, tmp_path: Path) -> None:
    target = Target(strict, tmp_path, keys=ORDINARY[:3])
    target.send(message_groups=MessageGroups.parse("tenant-a"))
    seen: list[object] = []
    while len(seen) < 3:
        answer = target.client.receive_message(
            QueueUrl=target.queue_url, MaxNumberOfMessages=10, AttributeNames=["All"]
        )
        seen += [message["Attributes"].get("MessageGroupId") for message in answer.get("Messages", [])]
    assert seen == ["tenant-a"] * 3


# ---- Limits


CONTROLS = ["".join(chr(1 + (start + n) % 31) for n in range(1024)) for start in range(8)]


@pytest.mark.parametrize("transport", list(SendTransport))
@pytest.mark.parametrize("message_format", [MessageFormat.S3_EVENT, MessageFormat.JSON])
@pytest.mark.parametrize("most", [1024, 4096])
def test_what_fits_into_a_small_queue_round_trips_and_the_rest_is_in_the_failures_file(
    most: int, message_format: MessageFormat, transport: SendTransport, strict: str, tmp_path: Path
) -> None:
    keys = [*KEYS, *CONTROLS, *("é" * n for n in range(1, 400, 7))]
    target = Target(strict, tmp_path, keys=keys, MaximumMessageSize=str(most))
    report = target.send(message_format=message_format, sending=Sending(transport=transport))
    received, failed = target.received(message_format), failed_keys(report)
    assert (report.exit_code, report.status) == (4 if failed else 0, Status.COMMITTED)
    assert received + failed == count(keys)
    # A control character takes three bytes in s3-event, and six in JSON.
    fits = {1024: Counter[bytes](), 4096: count(CONTROLS if message_format is MessageFormat.S3_EVENT else [])}[most]
    assert received & count(CONTROLS) == fits
    assert received & count(ORDINARY) == count(ORDINARY)
    assert target.send().status is Status.NOTHING_NEW


def test_a_resume_with_a_lower_limit_and_another_packing_sends_exactly_the_rows_that_were_left(
    strict: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FaultProxy(strict) as proxy:
        target = Target(strict, tmp_path)
        aws = AwsSettings(region=REGION, sqs_endpoint_url=proxy.endpoint_url)
        stop = throttle(SEND)
        seen = Counter[str | None]()

        def third(request: Any) -> Any:  # noqa: ANN401 - the proxy's
            seen[request.action] += 1
            return stop(request) if seen[SEND] > 3 else None

        proxy.rules.append(third)
        many = Sending(concurrency=1, records_per_message=3)
        monkeypatch.setattr("inventory_enqueue.pacing.RetryPolicy.delay", lambda *_: 0.0)
        with pytest.raises(StoppedError):
            target.send(aws=aws, sending=many)
        first = target.received()
        assert 0 < first.total() < len(KEYS)
        target.client.set_queue_attributes(QueueUrl=target.queue_url, Attributes={"MaximumMessageSize": "1900"})
        report = target.send(sending=Sending(records_per_message=7))
        assert report.exit_code in {0, 4}
        rest = target.received()
        failed = failed_keys(report) if report.sent["failed"] else Counter()
        assert first + rest + failed == count(KEYS)
        assert report.sent["keys"] == len(KEYS) - failed.total()


# ---- Answers


def wrong_md5(body: bytes) -> bytes:
    answer = json.loads(body)
    answer["Successful"][0]["MD5OfMessageBody"] = "0" * 32
    return json.dumps(answer).encode()


@pytest.mark.parametrize(("verify", "twice"), [(Verify.MD5, 2), (Verify.COUNT, 0)])
def test_a_message_whose_md5_is_wrong_is_sent_again_unless_only_counted(
    verify: Verify, twice: int, proxy: FaultProxy, tmp_path: Path
) -> None:
    target = Target(proxy.endpoint_url, tmp_path, keys=ORDINARY)
    proxy.rules.append(corrupt_answers(SEND, wrong_md5, times=2))
    assert target.send(sending=Sending(verify=verify)).exit_code == 0
    received = target.received()
    assert received.keys() == count(ORDINARY).keys()
    assert received.total() - len(received) == twice


# ---- Pace


def test_the_rate_is_kept(roto: RotoServer, tmp_path: Path) -> None:
    """The exact rate is a matter of test_pacing.py: this shows that it is obeyed at all."""
    target = Target(roto.endpoint_url, tmp_path, keys=ORDINARY)
    started = time.monotonic()
    target.send(sending=Sending(rate=60))
    assert time.monotonic() - started > (len(ORDINARY) - 20) / 60
    assert target.received() == count(ORDINARY)


def test_nothing_is_sent_while_the_queue_holds_too_much(
    roto: RotoServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inventory_enqueue.pacing._ASK_INTERVAL", 0.2)
    target = Target(roto.endpoint_url, tmp_path, keys=ORDINARY)
    for number in range(5):
        target.client.send_message(QueueUrl=target.queue_url, MessageBody=f"old {number}")
    thread = threading.Thread(target=target.send, kwargs={"sending": Sending(pause_above=4)})
    thread.start()
    time.sleep(1.5)
    assert thread.is_alive()
    first = target.client.receive_message(QueueUrl=target.queue_url, MaxNumberOfMessages=10)["Messages"]
    assert sorted(message["Body"] for message in first) == [f"old {number}" for number in range(5)]
    for message in first:
        target.client.delete_message(QueueUrl=target.queue_url, ReceiptHandle=message["ReceiptHandle"])
    thread.join(30)
    assert not thread.is_alive()
    assert target.received() == count(ORDINARY)


def test_a_queue_that_holds_too_much_keeps_no_run_that_has_nothing_left_to_send(
    roto: RotoServer, tmp_path: Path
) -> None:
    target = Target(roto.endpoint_url, tmp_path, keys=ORDINARY[:7])
    report = target.send(sending=Sending(pause_above=6))
    assert (report.status, report.sent["keys"]) == (Status.COMMITTED, 7)


# ---- Outages


def test_an_outage_ends_the_run_though_retries_are_spent_and_many_batches_wait(
    proxy: FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = RetryPolicy(attempts=1_000_000, base=0.001, cap=0.002, patience=1.0)
    monkeypatch.setattr("inventory_enqueue.stages.enqueue.Sender", partial(Sender, policy=policy))
    keys = [f"key/{number}" for number in range(3000)]
    target = Target(proxy.endpoint_url, tmp_path, keys=keys)
    proxy.rules.append(server_error(SEND))
    with pytest.raises(StoppedError, match="didn't take anything for 1 s"):
        target.send()
    proxy.rules.clear()
    assert target.send().exit_code == 0
    assert target.received() == count(keys)


def test_what_the_queue_took_is_recorded_also_when_messages_can_no_longer_be_made(
    proxy: FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error of a disk that is full, where the next chunk is made."""
    make, made = enqueue.message_rows, []

    def fail_at_the_second(*arguments: Any) -> Any:  # noqa: ANN401 - as message_rows
        made.append(1)
        if len(made) == 2:
            time.sleep(0.3)
            raise OSError(28, "No space left on device")
        return make(*arguments)

    monkeypatch.setattr(enqueue, "_ROWS_AT_ONCE", 30)
    monkeypatch.setattr(enqueue, "message_rows", fail_at_the_second)
    target = Target(proxy.endpoint_url, tmp_path, keys=ORDINARY)
    with pytest.raises(StoppedError, match="No space left"):
        target.send()
    first = target.received()
    assert first.total() == 30
    assert target.send().exit_code == 0
    assert first + target.received() == count(ORDINARY)


# ---- Files


def test_a_file_that_ends_in_the_middle_of_a_line_is_refused_and_left_as_it_is(strict: str, tmp_path: Path) -> None:
    target = Target(strict, tmp_path, keys=ORDINARY)
    path = tmp_path / "mine.jsonl"
    path.write_bytes(b'{"precious": 1}')
    with pytest.raises(PreflightError, match="its last line has no end"):
        target.send(sink=JsonLinesFile(path), pipeline="file")
    assert path.read_bytes() == b'{"precious": 1}'


def test_a_write_that_fails_leaves_no_line_of_its_batch(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b"before\n")
    template = Template(Value(pl.col("key"), is_plain=False))
    row = pl.Series(range(1000), dtype=pl.UInt64)
    rows = pl.DataFrame({"row": row, "key": ["k" * 99] * 1000, "change": ["new"] * 1000})
    values = rows.select("row", "key").hstack(template.values(rows))
    messages = Messages(values, template, MessageForm(ENVELOPES[MessageFormat.KEY]), JsonLinesFileSink.limits)
    sink = JsonLinesFileSink(path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
        sink.begin(MessageBatch(messages, range(1000)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    ((_, result),) = sink.finished(0)
    sink.close()
    assert isinstance(result.fatal, StoppedError)
    assert result.sent == ()
    assert path.read_bytes() == b"before\n"


@pytest.mark.parametrize("before", [b"", b'{"key": "whole"}\n'])
@pytest.mark.parametrize("torn", [b'{"key": "to', b"x" * 100_000])
def test_a_torn_last_line_of_a_killed_run_is_removed_when_it_is_gone_on_with(
    before: bytes, torn: bytes, strict: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = Target(strict, tmp_path, keys=ORDINARY)
    path = tmp_path / "messages.jsonl"
    path.write_bytes(before)
    into = JsonLinesFile(path)

    def die(sink: JsonLinesFileSink, _: bytes) -> None:
        os.write(sink._descriptor, torn)  # noqa: SLF001 - as a write that the process's death cut short
        raise RuntimeError("died")

    write = JsonLinesFileSink._write  # noqa: SLF001 - it is put back
    monkeypatch.setattr(JsonLinesFileSink, "_write", die)
    with pytest.raises(RuntimeError, match="died"):
        target.send(sink=into, message_format=MessageFormat.JSON)
    monkeypatch.setattr(JsonLinesFileSink, "_write", write)
    assert path.read_bytes() == before + torn
    assert target.send(sink=into, message_format=MessageFormat.JSON).status is Status.COMMITTED
    data = path.read_bytes()
    assert data.startswith(before)
    assert keys_of(data.removeprefix(before).decode().splitlines(), "json") == count(ORDINARY)
