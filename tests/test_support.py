"""The helpers under tests.support: what other tests lean on has to hold itself."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, quote_plus

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, ConnectionClosedError, HTTPClientError
from hypothesis import given
from hypothesis import strategies as st

from inventory_enqueue.demo.roto import RotoServer
from tests.support.cli import run_cli, run_process
from tests.support.go import query_unescape
from tests.support.proxy import (
    Answer,
    FaultProxy,
    Request,
    RequestRule,
    Reset,
    corrupt_answers,
    delay,
    deny,
    fail_entries,
    lose_answers,
    omit_entries,
    reset_connections,
    server_error,
    throttle,
)
from tests.support.queue import create_queue, drain, keys_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from types_boto3_s3 import S3Client
    from types_boto3_sqs import SQSClient
    from types_boto3_sqs.type_defs import SendMessageBatchResultTypeDef

SEND = "SendMessageBatch"

# ---- Go's url.QueryUnescape


@pytest.mark.parametrize(
    ("text", "decoded"),
    [
        ("", b""),
        ("a/b.txt", b"a/b.txt"),
        ("a+b", b"a b"),
        ("a%20b", b"a b"),
        ("a%2Bb%2bc", b"a+b+c"),
        ("100%25", b"100%"),
        ("%2541", b"%41"),
        ("%25%34%31", b"%41"),
        ("%e6%97%A5", "日".encode()),
        ("日+本", "日 本".encode()),
        ("%FF%00", b"\xff\x00"),
        ("a\nb&c;d=e?f#g", b"a\nb&c;d=e?f#g"),
    ],
)
def test_query_unescape_decodes(text: str, decoded: bytes) -> None:
    assert query_unescape(text) == decoded


@pytest.mark.parametrize(
    ("text", "escape"),
    [
        ("%", "%"),
        ("a%4", "%4"),
        ("%zz%41", "%zz"),
        ("100%+1", "%+1"),
        ("%%41", "%%4"),
        ("%4g", "%4g"),
        ("% 41", "% 4"),
        ("%u0041", "%u0"),
        ("ok%41 %", "%"),
    ],
)
def test_query_unescape_refuses_a_bad_percent_sign(text: str, escape: str) -> None:
    with pytest.raises(ValueError, match="invalid URL escape") as refused:
        query_unescape(text)
    assert str(refused.value) == f'invalid URL escape "{escape}"'


@given(st.binary())
def test_query_unescape_reverses_both_encodings_of_a_space(data: bytes) -> None:
    assert query_unescape(quote_plus(data)) == query_unescape(quote(data)) == data


# ---- The queue


def test_drain_returns_every_body_and_leaves_nothing(sqs_client: SQSClient, queue_url: str) -> None:
    bodies = [f"message {i}" for i in range(95)]
    for first in range(0, 95, 10):
        send(sqs_client, queue_url, *bodies[first : first + 10])
    assert Counter(drain(sqs_client, queue_url)) == Counter(bodies)
    assert drain(sqs_client, queue_url) == []


def test_drain_says_when_messages_are_counted_but_held_back(
    sqs_client: SQSClient, queue_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.support.queue._PAUSE", 0)
    send(sqs_client, queue_url, "a")
    with FaultProxy(sqs_client.meta.endpoint_url) as proxy, client_of(proxy) as client:
        nothing = Answer(200, {"content-type": "application/x-amz-json-1.0"}, b"{}")
        proxy.rules.append(RequestRule(nothing, lambda request: request.action == "ReceiveMessage"))
        with pytest.raises(AssertionError, match="1 messages are counted, but none is handed out"):
            drain(client, queue_url)


def test_create_queue_sets_attributes(sqs_client: SQSClient) -> None:
    url = create_queue(sqs_client, "small-messages", MaximumMessageSize="1024")
    attributes = sqs_client.get_queue_attributes(QueueUrl=url, AttributeNames=["MaximumMessageSize"])["Attributes"]
    assert attributes == {"MaximumMessageSize": "1024"}


def test_keys_of_counts_keys_in_both_formats() -> None:
    records = [{"s3": {"object": {"key": key}}} for key in ("a+b%2Bc", "%FF")]
    events = [json.dumps({"Records": records}), json.dumps({"Records": records[:1]})]
    assert keys_of(events, "s3-event") == {b"a b+c": 2, b"\xff": 1}
    assert keys_of(['{"key": "a+b%2B\\u65e5"}'], "json") == {"a+b%2B日".encode(): 1}


# ---- The proxy


def test_proxy_forwards_a_request_as_it_came(sqs_client: SQSClient, s3_client: S3Client, bucket: str) -> None:
    """Two proxies in a row see the same request, but for nothing."""
    sent: list[Request] = []
    arrived: list[Request] = []
    with FaultProxy(s3_client.meta.endpoint_url) as inner, FaultProxy(inner.endpoint_url) as outer:
        inner.rules.append(arrived.append)
        outer.rules.append(sent.append)
        with client_of(outer) as sqs, s3_client_of(outer) as s3:
            url = create_queue(sqs, f"queue-of-{bucket}")
            send(sqs, url, "a", "日")
            s3.put_object(Bucket=bucket, Key="//a b+c%/日", Body=bytes(range(256)))
    assert [comparable(request) for request in arrived] == [comparable(request) for request in sent]
    assert arrived[0].headers["host"] == outer.endpoint_url.removeprefix("http://")
    assert inner.log == outer.log == [("CreateQueue", 0), (SEND, 2), (None, 0)]
    assert Counter(drain(sqs_client, url)) == {"a": 1, "日": 1}


def test_proxy_forwards_s3(s3_client: S3Client, bucket: str) -> None:
    body = os.urandom(1 << 20)
    with FaultProxy(s3_client.meta.endpoint_url) as proxy, s3_client_of(proxy) as client:
        client.put_object(Bucket=bucket, Key="a/b c", Body=body)
        assert s3_client.get_object(Bucket=bucket, Key="a/b c")["Body"].read() == body
        assert client.get_object(Bucket=bucket, Key="a/b c")["Body"].read() == body
        assert client.head_object(Bucket=bucket, Key="a/b c")["ContentLength"] == len(body)
        assert [found["Key"] for found in client.list_objects_v2(Bucket=bucket)["Contents"]] == ["a/b c"]
        client.delete_object(Bucket=bucket, Key="a/b c")
        with pytest.raises(ClientError) as missing:
            client.get_object(Bucket=bucket, Key="a/b c")
    assert missing.value.response["Error"].get("Code") == "NoSuchKey"


def test_failed_entries_are_reported_and_never_enqueued(sqs_client: SQSClient, queue_url: str) -> None:
    with FaultProxy(sqs_client.meta.endpoint_url) as proxy, client_of(proxy) as client:
        rule = fail_entries(lambda entry: "odd" in entry["MessageBody"], "InternalError", sender_fault=False)
        proxy.rules.append(rule)
        answer = send(client, queue_url, "odd 0", "even 1", "odd 2", "even 3")
    assert [entry["Id"] for entry in answer["Successful"]] == ["1", "3"]
    expected = {"Code": "InternalError", "SenderFault": False, "Message": "injected"}
    assert answer["Failed"] == [{"Id": "0", **expected}, {"Id": "2", **expected}]
    assert rule.fired == 2
    assert sorted(drain(sqs_client, queue_url)) == ["even 1", "even 3"]


def test_every_entry_can_fail(sqs_client: SQSClient, queue_url: str) -> None:
    with FaultProxy(sqs_client.meta.endpoint_url) as proxy, client_of(proxy) as client:
        proxy.rules.append(fail_entries(lambda _: True, "InvalidMessageContents", sender_fault=True))
        answer = send(client, queue_url, "a", "b")
    assert "Successful" not in answer
    assert [(entry["Id"], entry["SenderFault"]) for entry in answer["Failed"]] == [("0", True), ("1", True)]
    assert drain(sqs_client, queue_url) == []


def test_entry_faults_add_up(sqs_client: SQSClient, queue_url: str) -> None:
    with FaultProxy(sqs_client.meta.endpoint_url) as proxy, client_of(proxy) as client:
        proxy.rules += [
            fail_entries(lambda entry: entry["MessageBody"] == "a", "First", sender_fault=True),
            fail_entries(lambda entry: entry["MessageBody"] == "b", "Second", sender_fault=False),
        ]
        answer = send(client, queue_url, "a", "b", "c")
    assert {entry["Id"]: entry["Code"] for entry in answer["Failed"]} == {"0": "First", "1": "Second"}
    assert drain(sqs_client, queue_url) == ["c"]


def test_each_message_fails_its_number_of_times_under_many_threads(sqs_client: SQSClient, queue_url: str) -> None:
    bodies = [f"{i}" for i in range(100)]

    def send_until_accepted(first: int) -> None:
        left = bodies[first : first + 10]
        while left:
            failed = send(client, queue_url, *left).get("Failed", [])
            left = [left[int(entry["Id"])] for entry in failed]

    with (
        FaultProxy(sqs_client.meta.endpoint_url) as proxy,
        client_of(proxy) as client,
        ThreadPoolExecutor(8) as threads,
    ):
        rule = fail_entries(lambda _: True, "InternalError", sender_fault=False, times=2)
        proxy.rules.append(rule)
        list(threads.map(send_until_accepted, range(0, 100, 10)))
    assert rule.fired == 200
    assert proxy.log == [(SEND, 10)] * 30
    assert sorted(drain(sqs_client, queue_url)) == sorted(bodies)


@pytest.mark.parametrize("enqueue", [True, False])
def test_omitted_entries_are_in_neither_list(sqs_client: SQSClient, queue_url: str, enqueue: bool) -> None:  # noqa: FBT001 - a parameter
    with FaultProxy(sqs_client.meta.endpoint_url) as proxy, client_of(proxy) as client:
        proxy.rules.append(omit_entries(lambda entry: entry["MessageBody"] == "b", enqueue=enqueue))
        answer = send(client, queue_url, "a", "b", "c")
    assert [entry["Id"] for entry in answer["Successful"]] == ["0", "2"]
    assert "Failed" not in answer
    assert sorted(drain(sqs_client, queue_url)) == (["a", "b", "c"] if enqueue else ["a", "c"])


def test_a_lost_answer_leaves_the_messages_in_the_queue(sqs_client: SQSClient, queue_url: str) -> None:
    with FaultProxy(sqs_client.meta.endpoint_url) as proxy, client_of(proxy) as client:
        rule = lose_answers(SEND, times=1)
        proxy.rules.append(rule)
        with pytest.raises(ConnectionClosedError):
            send(client, queue_url, "a", "b")
        send(client, queue_url, "c")
    assert rule.fired == 1
    assert sorted(drain(sqs_client, queue_url)) == ["a", "b", "c"]


def test_a_reset_connection_leaves_the_queue_empty(sqs_client: SQSClient, queue_url: str) -> None:
    with FaultProxy(sqs_client.meta.endpoint_url) as proxy, client_of(proxy) as client:
        proxy.rules.append(reset_connections(SEND))
        with pytest.raises(ConnectionClosedError):
            send(client, queue_url, "a")
    assert proxy.log == [(SEND, 1)]
    assert drain(sqs_client, queue_url) == []


def test_denied_is_what_aws_says(sqs_client: SQSClient, queue_url: str) -> None:
    with FaultProxy(sqs_client.meta.endpoint_url) as proxy, client_of(proxy, attempts=3) as client:
        proxy.rules.append(deny("GetQueueAttributes"))
        with pytest.raises(ClientError, match="not authorized to perform: sqs:getqueueattributes") as denied:
            client.get_queue_attributes(QueueUrl=queue_url, AttributeNames=["All"])
        send(client, queue_url, "a")
    assert code_and_status(denied.value) == ("AccessDenied", 403)
    assert proxy.log == [("GetQueueAttributes", 0), (SEND, 1)], "no retry"
    assert drain(sqs_client, queue_url) == ["a"]


def test_throttled_calls_are_retried_by_the_sdk(sqs_client: SQSClient, queue_url: str) -> None:
    with FaultProxy(sqs_client.meta.endpoint_url) as proxy:
        rule = throttle(SEND, times=2)
        proxy.rules.append(rule)
        with client_of(proxy) as client, pytest.raises(ClientError) as throttled:
            send(client, queue_url, "a")
        with client_of(proxy, attempts=2) as client:
            send(client, queue_url, "a")
    assert code_and_status(throttled.value) == ("RequestThrottled", 403)
    assert isinstance(throttled.value, sqs_client.exceptions.RequestThrottled)
    assert rule.fired == 2
    assert proxy.log == [(SEND, 1)] * 3
    assert drain(sqs_client, queue_url) == ["a"]


def test_server_errors_are_retried_by_the_sdk(sqs_client: SQSClient, queue_url: str) -> None:
    with FaultProxy(sqs_client.meta.endpoint_url) as proxy:
        proxy.rules.append(server_error(SEND, times=2))
        with client_of(proxy) as client, pytest.raises(ClientError) as failed:
            send(client, queue_url, "a")
        with client_of(proxy, attempts=2) as client:
            send(client, queue_url, "a")
    assert code_and_status(failed.value) == ("ServiceUnavailable", 503)
    assert drain(sqs_client, queue_url) == ["a"]


def test_a_delay_is_as_long_as_asked_and_the_rules_after_it_are_heard(sqs_client: SQSClient, queue_url: str) -> None:
    with FaultProxy(sqs_client.meta.endpoint_url) as proxy, client_of(proxy) as client:
        slow = delay(SEND, 0.3, times=2)
        proxy.rules += [slow, throttle(SEND, times=1)]
        started = time.monotonic()
        with pytest.raises(ClientError):
            send(client, queue_url, "a")
        send(client, queue_url, "a")
        assert time.monotonic() - started > 0.6
        send(client, queue_url, "b")
    assert slow.fired == 2
    assert sorted(drain(sqs_client, queue_url)) == ["a", "b"]


def test_a_body_can_be_corrupted_on_its_way_back(s3_client: S3Client, bucket: str) -> None:
    s3_client.put_object(Bucket=bucket, Key="k", Body=b"data")
    with FaultProxy(s3_client.meta.endpoint_url) as proxy, s3_client_of(proxy) as client:
        proxy.rules.append(corrupt_answers(None, lambda body: body.replace(b"a", b"") + b"!", times=1))
        assert client.get_object(Bucket=bucket, Key="k")["Body"].read() == b"dt!"
        assert client.get_object(Bucket=bucket, Key="k")["Body"].read() == b"data"


def test_any_callable_is_a_rule(s3_client: S3Client, bucket: str) -> None:
    for key in ("a", "b"):
        s3_client.put_object(Bucket=bucket, Key=key, Body=b"data")
    with FaultProxy(s3_client.meta.endpoint_url) as proxy, s3_client_of(proxy) as client:
        proxy.rules.append(lambda request: Reset() if request.path.endswith("/a") else None)
        assert client.get_object(Bucket=bucket, Key="b")["Body"].read() == b"data"
        with pytest.raises(HTTPClientError):
            client.get_object(Bucket=bucket, Key="a")


def test_a_killed_server_looks_like_one_and_the_proxy_outlives_it(tmp_path: Path) -> None:
    with RotoServer(tmp_path) as server, FaultProxy(server.endpoint_url) as proxy, client_of(proxy) as client:
        url = create_queue(client, "q")
        send(client, url, "a")
        server.kill()
        with pytest.raises(HTTPClientError):
            send(client, url, "b")
        server.start()
        assert drain(client, url) == ["a"]


def test_the_end_of_the_proxy_closes_its_connections(sqs_client: SQSClient, queue_url: str) -> None:
    with FaultProxy(sqs_client.meta.endpoint_url) as proxy, client_of(proxy) as client:
        send(client, queue_url, "a")
        proxy.rules.append(delay(SEND, 0.2))
        with ThreadPoolExecutor(1) as threads:
            cut = threads.submit(send, client, queue_url, "b")
            while len(proxy.log) < 2:
                time.sleep(0.01)
            proxy.__exit__(None, None, None)
            assert isinstance(cut.exception(), HTTPClientError)


# ---- The command line


def test_a_process_has_dummy_credentials_an_empty_home_and_what_the_test_passes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_PROFILE", "production")
    monkeypatch.setenv("INVENTORY_ENQUEUE_STATE", "elsewhere")
    script = "import json, os; print(json.dumps([dict(os.environ), os.listdir(os.environ['HOME']), input()]))"
    result = run_process(["-c", script], env={"AWS_DEFAULT_REGION": "eu-west-1", "X": "1"}, stdin="hello\n")
    environment, home, read = json.loads(result.stdout)
    assert {name: value for name, value in environment.items() if name.startswith(("AWS_", "INVENTORY_", "X"))} == {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "eu-west-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "X": "1",
    }
    assert home == []
    assert read == "hello"


def test_a_process_that_takes_too_long_is_killed_with_its_children(tmp_path: Path) -> None:
    script = f"""
import pathlib, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
pathlib.Path({str(tmp_path / "child")!r}).write_text(str(child.pid))
child.wait()
"""
    with pytest.raises(subprocess.TimeoutExpired):
        run_process(["-c", script], timeout=1)
    assert ended(int((tmp_path / "child").read_text()))


def test_run_cli_runs_the_command_line() -> None:
    result = run_cli("--help")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "inventory" in result.stdout


# ---- Shorthand


@contextmanager
def client_of(proxy: FaultProxy, attempts: int = 1) -> Iterator[SQSClient]:
    client = boto3.client("sqs", endpoint_url=proxy.endpoint_url, config=retries(attempts))
    try:
        yield client
    finally:
        client.close()


@contextmanager
def s3_client_of(proxy: FaultProxy) -> Iterator[S3Client]:
    unchecked = Config(response_checksum_validation="when_required")  # corrupt bodies shall come through
    client = boto3.client("s3", endpoint_url=proxy.endpoint_url, config=retries(1).merge(unchecked))
    try:
        yield client
    finally:
        client.close()


def retries(attempts: int) -> Config:
    return Config(retries={"mode": "standard", "total_max_attempts": attempts})


def send(client: SQSClient, url: str, *bodies: str) -> SendMessageBatchResultTypeDef:
    return client.send_message_batch(
        QueueUrl=url, Entries=[{"Id": str(i), "MessageBody": body} for i, body in enumerate(bodies)]
    )


def code_and_status(error: ClientError) -> tuple[str, int]:
    return error.response["Error"]["Code"], error.response["ResponseMetadata"]["HTTPStatusCode"]


def comparable(request: Request) -> tuple[str, str, list[tuple[str, str]], bytes]:
    return request.method, request.path, request.headers.items(), request.body


def ended(pid: int) -> bool:
    """Wait for a process that isn't our child; a zombie has ended too."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.05)
    return False
