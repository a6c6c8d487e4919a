"""What consumers make of our messages: their own code where a registry has it, else their rules written down."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import unquote_plus, unquote_to_bytes

import pytest
from aws_lambda_powertools.utilities.data_classes import S3Event, S3EventBridgeNotificationEvent
from aws_lambda_powertools.utilities.parser.models import (
    S3EventNotificationEventBridgeModel,
    S3Model,
    S3SqsEventNotificationModel,
)

from inventory_enqueue.config import MessageFormat
from inventory_enqueue.demo.odd_keys import ODD_KEYS
from inventory_enqueue.messages import ENVELOPES, records
from tests.support.go import query_unescape
from tests.support.messages import CONTEXT, build, frame

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_HERE: Final = Path(__file__).parent / "consumers"
_INSTALLED: Final = Path(__file__).parent.parent / "build" / "consumers"
_ENVIRONMENT: Final = dict(os.environ)
"""As it is before the tests hide the developer's setup: npm's registry and proxy are part of it."""
_INSTALL_SECONDS: Final = 30

EVENTS: Final = build(MessageFormat.S3_EVENT, *ODD_KEYS)
BRIDGE_EVENTS: Final = build(MessageFormat.EVENTBRIDGE, *ODD_KEYS)
VARIANTS: Final[list[dict[str, Any]]] = [
    {"version_id": "3sL4kqtJlcpXroDTDmJ"},
    {"size": None, "e_tag": None, "last_modified_date": None},
    {"change": "changed"},
    {"change": "deleted"},
    {"change": "deleted", "version_id": "null"},
]
"""Rows whose messages have other fields, or other values of them."""


def several_records(*changes: str) -> str:
    """Make a message with a record of each odd key and change."""
    rows = [{"key": key, "change": change} for change in changes for key in ODD_KEYS]
    envelope = ENVELOPES[MessageFormat.S3_EVENT]
    made = records(frame(*rows), MessageFormat.S3_EVENT, CONTEXT)
    return envelope.head + envelope.separator.join(made) + envelope.tail


def queued(*bodies: str) -> dict[str, Any]:
    """Make what Lambda hands to a function for these messages.

    https://docs.aws.amazon.com/lambda/latest/dg/with-sqs.html
    """
    return {
        "Records": [
            {
                "messageId": "059f36b4-87a3-44ab-83d2-661975830a7d",
                "receiptHandle": "AQEBwJnKyrHigUMZj6rYigCgxlaS3SLy0a",
                "body": body,
                "attributes": {
                    "ApproximateReceiveCount": "1",
                    "SentTimestamp": "1545082649183",
                    "SenderId": "AIDAIENQZJOLO23YVJ4VO",
                    "ApproximateFirstReceiveTimestamp": "1545082649185",
                },
                "messageAttributes": {},
                "md5OfBody": "e4e68fb7bd0e697a0ae8f1bb342846b3",
                "eventSource": "aws:sqs",
                "eventSourceARN": "arn:aws:sqs:us-east-2:123456789012:my-queue",
                "awsRegion": "us-east-2",
            }
            for body in bodies
        ]
    }


class TestPowertoolsForPython:
    """The models and data classes of Powertools for AWS Lambda (Python) themselves."""

    def test_the_model_of_s3_events_takes_every_odd_key(self) -> None:
        models = [S3Model.model_validate_json(body) for body in EVENTS]
        assert [self.key(record) for model in models for record in model.Records] == list(ODD_KEYS)

    def test_the_model_of_queued_s3_events_takes_every_odd_key(self) -> None:
        model = S3SqsEventNotificationModel.model_validate(queued(*EVENTS))
        bodies = [record.body for record in model.Records]
        assert [self.key(record) for body in bodies for record in S3Model.model_validate(body).Records] == list(
            ODD_KEYS
        )

    def test_the_models_take_several_records_in_a_message(self) -> None:
        model = S3Model.model_validate_json(several_records("new", "deleted"))
        assert [self.key(record) for record in model.Records] == [*ODD_KEYS, *ODD_KEYS]

    def test_the_model_of_bridge_events_takes_every_odd_key(self) -> None:
        models = [S3EventNotificationEventBridgeModel.model_validate_json(body) for body in BRIDGE_EVENTS]
        assert [model.detail.object.key for model in models] == list(ODD_KEYS)

    @pytest.mark.parametrize("values", VARIANTS, ids=str)
    def test_the_models_take_every_kind_of_row(self, values: dict[str, Any]) -> None:
        (body,) = build(MessageFormat.S3_EVENT, "a b", **values)
        (record,) = S3Model.model_validate_json(body).Records
        assert record.s3.object is not None
        assert record.s3.object.versionId == values.get("version_id")
        (body,) = build(MessageFormat.EVENTBRIDGE, "a b", **values)
        detail = S3EventNotificationEventBridgeModel.model_validate_json(body).detail
        assert detail.object.version_id == values.get("version_id")
        deleted = values.get("change") == "deleted"
        assert detail.deletion_type == ("Permanently Deleted" if deleted else None)
        assert detail.reason == ("DeleteObject" if deleted else "PutObject")

    def test_the_data_classes_give_the_keys(self) -> None:
        assert [S3Event(json.loads(body)).object_key for body in EVENTS] == list(ODD_KEYS)
        bridge = [S3EventBridgeNotificationEvent(json.loads(body)) for body in BRIDGE_EVENTS]
        assert [event.detail.object["key"] for event in bridge] == list(ODD_KEYS)
        # Its own property decodes a key that isn't encoded, in S3's own events too: docs/messages.md says so.
        assert [event.detail.object.key for event in bridge] == list(map(unquote_plus, ODD_KEYS))

    @staticmethod
    def key(record: Any) -> str:  # noqa: ANN401 - the models' records have no type of their own name
        assert record.s3.object is not None
        return unquote_plus(record.s3.object.key)


def install_from_npm() -> str:
    """Install what tests/consumers/package.json names, unless it is there, and return node's path; else skip."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("node and npm are not installed")
    wanted = (_HERE / "package.json").read_bytes()
    installed = _INSTALLED / "package.json"
    if not installed.is_file() or installed.read_bytes() != wanted:
        shutil.rmtree(_INSTALLED, ignore_errors=True)
        place = _INSTALLED.with_name(f"consumers-{os.getpid()}")
        place.mkdir(parents=True)
        (place / "package.json").write_bytes(wanted)
        install = [
            npm,
            "install",
            "--no-audit",
            "--no-fund",
            "--no-package-lock",
            "--ignore-scripts",
            "--fetch-retries=0",
        ]
        try:
            subprocess.run(
                install, cwd=place, env=_ENVIRONMENT, check=True, capture_output=True, timeout=_INSTALL_SECONDS
            )
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            shutil.rmtree(place, ignore_errors=True)
            pytest.skip(f"npm can't install Powertools: {error}")
        place.rename(_INSTALLED)
    return node


def test_the_schemas_of_powertools_for_typescript_take_every_message() -> None:
    node = install_from_npm()
    # A module finds its imports beside itself.
    script = shutil.copy(_HERE / "powertools.js", _INSTALLED)
    others = {
        message_format: [body for values in VARIANTS for body in build(message_format, "a", **values)]
        for message_format in (MessageFormat.S3_EVENT, MessageFormat.EVENTBRIDGE)
    }
    messages = {
        "s3": [*EVENTS, *others[MessageFormat.S3_EVENT], several_records("new", "deleted")],
        "eventbridge": [*BRIDGE_EVENTS, *others[MessageFormat.EVENTBRIDGE]],
    }
    done = subprocess.run(
        [node, script], input=json.dumps(messages).encode(), capture_output=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr.decode()
    keys = json.loads(done.stdout)
    encoded = [*ODD_KEYS, *"a" * len(VARIANTS), *ODD_KEYS, *ODD_KEYS]
    assert list(map(unquote_plus, keys["s3"])) == encoded
    assert keys["queued"] == keys["s3"]
    assert keys["eventbridge"] == [*ODD_KEYS, *"a" * len(VARIANTS)]


class RefusedError(Exception):
    """The consumer fails on the message, or drops it as malformed."""


class Found(NamedTuple):
    """An object that a consumer goes and reads."""

    bucket: str
    key: bytes


def filebeat(body: str) -> list[Found]:
    """Filebeat, input aws-s3: x-pack/filebeat/input/awss3/sqs_s3_event.go."""
    document = json.loads(body)
    if "Records" not in document:
        return []  # it deletes such a message in silence
    found = []
    for record in document["Records"]:
        if record["eventSource"] == "aws:s3" and record["eventName"].startswith("ObjectCreated:"):
            bucket, region = record["s3"]["bucket"], record["awsRegion"]
            assert (bucket["arn"], region) == (f"arn:aws:s3:::{bucket['name']}", CONTEXT.source_region)
            found.append(Found(bucket["name"], _go(record["s3"]["object"]["key"])))
    return found


def vector(body: str) -> list[Found]:
    """Vector, source aws_s3: src/sources/aws_s3/sqs.rs. Any record's failure is the whole message's."""
    found = []
    for record in json.loads(body)["Records"]:
        if re.fullmatch(r"2\.\d+", record["eventVersion"]) is None or record["eventSource"] != "aws:s3":
            raise RefusedError("another version or source")
        if record["awsRegion"] != CONTEXT.source_region:
            raise RefusedError("of another region than the source's")
        kind, separator, _ = record["eventName"].partition(":")
        if not separator:
            raise RefusedError("no kind of event")
        key = record["s3"]["object"]["key"]
        # The key is borrowed from the body's bytes, which fails where it holds a JSON escape.
        if f'"key":"{key}"' not in body:
            raise RefusedError("an escape in the key")
        decoded = unquote_to_bytes(key.replace("+", " "))
        decoded.decode()  # else it is refused
        if kind == "ObjectCreated":
            found.append(Found(record["s3"]["bucket"]["name"], decoded))
    return found


def opentelemetry(body: str) -> list[Found]:
    """OpenTelemetry Collector, awss3receiver: receiver/awss3receiver/s3sqsreader.go."""
    found = []
    for record in json.loads(body)["Records"]:
        created = record["eventSource"] == "aws:s3" and record["eventName"].startswith("ObjectCreated:")
        if created and record["s3"]["bucket"]["name"] == CONTEXT.bucket:
            found.append(Found(CONTEXT.bucket, _go(record["s3"]["object"]["key"])))
    return found


def redpanda_connect(body: str) -> list[Found]:
    """Redpanda Connect, input aws_s3: internal/impl/aws/input_s3.go. It asks no record what happened."""
    return [
        Found(record["s3"]["bucket"]["name"], _go(record["s3"]["object"]["key"]))
        for record in json.loads(body)["Records"]
    ]


def data_prepper(body: str) -> list[Found]:
    """Data Prepper, source s3: S3EventNotification of the AWS SDK for Java, or an event of EventBridge."""
    document = json.loads(body)
    if document.get("detail-type") == "Object Created":
        detail = document["detail"]
        assert isinstance(detail["object"]["size"], int)
        return [Found(detail["bucket"]["name"], detail["object"]["key"].encode())]
    return [
        # java.net.URLDecoder differs from Go's rule only in what it says of a bad escape.
        Found(record["s3"]["bucket"]["name"], _go(record["s3"]["object"]["key"]))
        for record in document.get("Records", [])
        if record["eventName"].startswith("ObjectCreated:")
    ]


def _go(key: str) -> bytes:
    try:
        return query_unescape(key)
    except ValueError as error:
        raise RefusedError(str(error)) from error


CONSUMERS: Final[Mapping[str, Callable[[str], list[Found]]]] = {
    "filebeat": filebeat,
    "vector": vector,
    "opentelemetry": opentelemetry,
    "redpanda_connect": redpanda_connect,
    "data_prepper": data_prepper,
}
EVERY_CONSUMER: Final = pytest.mark.parametrize("consumer", CONSUMERS.values(), ids=CONSUMERS.keys())


def objects(*keys: str) -> list[Found]:
    """Tell what a consumer has to find for these keys."""
    return [Found(CONTEXT.bucket, key.encode()) for key in keys]


@EVERY_CONSUMER
@pytest.mark.parametrize(("key", "body"), list(zip(ODD_KEYS, EVENTS, strict=True)), ids=map(ascii, ODD_KEYS))
def test_a_consumer_finds_every_odd_key(consumer: Callable[[str], list[Found]], key: str, body: str) -> None:
    assert consumer(body) == objects(key)


@EVERY_CONSUMER
def test_a_consumer_finds_all_records_of_a_message(consumer: Callable[[str], list[Found]]) -> None:
    assert consumer(several_records("new", "changed")) == objects(*ODD_KEYS, *ODD_KEYS)


@EVERY_CONSUMER
def test_a_consumer_reads_no_deleted_object(consumer: Callable[[str], list[Found]]) -> None:
    # Redpanda Connect reads what is named, whatever happened to it: docs/messages.md says so.
    expected = objects("a") if consumer is redpanda_connect else []
    assert consumer(build(MessageFormat.S3_EVENT, "a", change="deleted")[0]) == expected


def test_data_prepper_finds_every_odd_key_of_a_bridge_event() -> None:
    assert [data_prepper(body) for body in BRIDGE_EVENTS] == [objects(key) for key in ODD_KEYS]


@pytest.mark.parametrize(
    ("consumer", "old", "new"),
    [
        (vector, '"key":"a%2Bb"', '"key":"a\\u002bb"'),
        (vector, '"awsRegion":"eu-west-1"', '"awsRegion":"us-east-1"'),
        (vector, '"eventVersion":"2.1"', '"eventVersion":"3.0"'),
        (vector, "ObjectCreated:Put", "ObjectCreated"),
        (filebeat, '"key":"a%2Bb"', '"key":"a%b"'),
        (redpanda_connect, '"key":"a%2Bb"', '"key":"a%zz"'),
    ],
)
def test_the_rules_refuse_what_the_consumers_refuse(consumer: Callable[[str], list[Found]], old: str, new: str) -> None:
    (body,) = build(MessageFormat.S3_EVENT, "a+b")
    assert old in body
    with pytest.raises(RefusedError):
        consumer(body.replace(old, new))


@pytest.mark.parametrize(
    ("consumer", "old", "new"),
    [
        (filebeat, '{"Records":', '{"records":'),
        (filebeat, "ObjectCreated:Put", "s3:ObjectCreated:Put"),
        (opentelemetry, '"name":"a-bucket"', '"name":"another"'),
        (data_prepper, "ObjectCreated:Put", "s3:ObjectCreated:Put"),
    ],
)
def test_the_rules_pass_over_what_the_consumers_pass_over(
    consumer: Callable[[str], list[Found]], old: str, new: str
) -> None:
    (body,) = build(MessageFormat.S3_EVENT, "a+b")
    assert old in body
    assert consumer(body.replace(old, new)) == []
