"""Events on standard input: which delivery they tell of."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote_plus

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inventory_enqueue.delivery.events import manifest_of_event
from inventory_enqueue.uris import S3Url

FOLDER = "pre fix+é%2F/source-bucket/daily/2026-03-02T01-00Z"
CHECKSUM, MANIFEST = f"{FOLDER}/manifest.checksum", f"{FOLDER}/manifest.json"
EXPECTED = S3Url("inventory", MANIFEST)


def s3_event(*keys: str, name: str = "ObjectCreated:Put", bucket: str = "inventory", **more: object) -> dict[str, Any]:
    """As https://docs.aws.amazon.com/AmazonS3/latest/userguide/notification-content-structure.html shows it."""
    return {
        "Records": [
            {
                "eventVersion": "2.3",
                "eventSource": "aws:s3",
                "awsRegion": "eu-central-1",
                "eventTime": "2026-03-02T04:11:13.123Z",
                "eventName": name,
                "userIdentity": {"principalId": "AWS:AIDAEXAMPLE"},
                "requestParameters": {"sourceIPAddress": "127.0.0.1"},
                "responseElements": {"x-amz-request-id": "C3D13FE58DE4C810", "x-amz-id-2": "FMyUVURIY8"},
                "s3": {
                    "s3SchemaVersion": "1.0",
                    "configurationId": "inventories",
                    "bucket": {
                        "name": bucket,
                        "ownerIdentity": {"principalId": "A3NL1KOZZKExample"},
                        "arn": f"arn:aws:s3:::{bucket}",
                    },
                    "object": {"key": key, "size": 33, "eTag": "d41d8cd98f00b204e9800998ecf8427e", "sequencer": "00"},
                },
                **more,
            }
            for key in keys
        ]
    }


def eventbridge(key: str, *, kind: str = "Object Created", source: str = "aws.s3") -> dict[str, Any]:
    """As https://docs.aws.amazon.com/AmazonS3/latest/userguide/ev-events.html shows it."""
    return {
        "version": "0",
        "id": "17793124-05d4-b198-2fde-7ededc63b103",
        "detail-type": kind,
        "source": source,
        "account": "111122223333",
        "time": "2026-03-02T04:11:13Z",
        "region": "ca-central-1",
        "resources": ["arn:aws:s3:::inventory"],
        "detail": {
            "version": "0",
            "bucket": {"name": "inventory"},
            "object": {"key": key, "size": 33, "etag": "b1946ac92492d2347c6235b4d2611184", "sequencer": "00"},
            "request-id": "N4N7GDK58NMKJ12R",
            "requester": "123456789012",
            "reason": "PutObject",
        },
    }


def sns(content: object) -> dict[str, Any]:
    """As https://docs.aws.amazon.com/sns/latest/dg/http-notification-json.html shows it."""
    return {
        "Type": "Notification",
        "MessageId": "22b80b92-fdea-4c2c-8f9d-bdfb0c7bf324",
        "TopicArn": "arn:aws:sns:us-west-2:123456789012:topic",
        "Subject": "Amazon S3 Notification",
        "Message": json.dumps(content),
        "Timestamp": "2026-03-02T04:11:14.000Z",
    }


def received(*contents: object) -> dict[str, Any]:
    """What `aws sqs receive-message` prints."""
    return {"Messages": [{"MessageId": "m", "ReceiptHandle": "r", "Body": json.dumps(c)} for c in contents]}


def sqs_record(content: object) -> dict[str, Any]:
    """As a Lambda function gets it from a queue."""
    return {"messageId": "m", "body": json.dumps(content), "eventSource": "aws:sqs"}


S3 = s3_event(quote_plus(CHECKSUM, safe="/"))
BRIDGE = eventbridge(CHECKSUM)
EVENTS = {
    "S3": S3,
    "S3 by CompleteMultipartUpload": s3_event(quote_plus(CHECKSUM), name="ObjectCreated:CompleteMultipartUpload"),
    "S3 of a store that writes the prefix s3:": s3_event(quote_plus(CHECKSUM), name="s3:ObjectCreated:Put"),
    "one S3 record alone": S3["Records"][0],
    "EventBridge": BRIDGE,
    "S3 in SNS": sns(S3),
    "EventBridge in SNS": sns(BRIDGE),
    "S3 in an SQS message": {"Body": json.dumps(S3)},
    "S3 in an SQS record": sqs_record(S3),
    "SQS records": {"Records": [sqs_record(BRIDGE)]},
    "S3 in SNS in SQS, received": received(sns(S3)),
    "the same delivery twice": received(S3, BRIDGE, sns(S3)),
    "with other objects": s3_event("p/manifest.json", quote_plus(CHECKSUM), "p/hive/dt%3D2026-03-02-01-00/symlink.txt"),
}


@pytest.mark.parametrize("event", EVENTS.values(), ids=EVENTS)
@pytest.mark.parametrize("indent", [None, 2])
def test_an_event_names_its_delivery(event: dict[str, Any], indent: int | None) -> None:
    assert manifest_of_event(json.dumps(event, indent=indent)) == EXPECTED
    assert manifest_of_event(f"\n {json.dumps(event, ensure_ascii=False)} \r\n") == EXPECTED


def test_s3_keys_are_decoded_once_and_eventbridge_keys_never() -> None:
    assert manifest_of_event(json.dumps(s3_event("a%2Bb+c%252F/manifest.checksum"))).key == "a+b c%2F/manifest.json"
    assert manifest_of_event(json.dumps(eventbridge("a%2Bb+c/manifest.checksum"))).key == "a%2Bb+c/manifest.json"


OTHERS: dict[str, tuple[object, str]] = {
    "S3's test event": (
        {"Service": "Amazon S3", "Event": "s3:TestEvent", "Time": "2026-03-02T04:11:13.123Z", "Bucket": "inventory"},
        "S3's test of a new notification",
    ),
    "a removal": (s3_event(CHECKSUM, name="ObjectRemoved:Delete"), "tells of ObjectRemoved:Delete of s3://inventory/"),
    "a deletion": (eventbridge(CHECKSUM, kind="Object Deleted"), "tells of Object Deleted of s3://inventory/"),
    "another key": (s3_event("p/manifest.json"), "ObjectCreated:Put of s3://inventory/p/manifest.json"),
    "a name that ends so": (s3_event("p/my-manifest.checksum"), "my-manifest.checksum"),
    "many other keys": (s3_event("a", "b", "c", "d", "e"), "s3://inventory/c and 2 more; an S3 event"),
    "another source": (eventbridge(CHECKSUM, source="my.app"), "no known form"),
    "two deliveries": (
        s3_event("p/1/manifest.checksum", "p/2/manifest.checksum"),
        "2 deliveries, s3://inventory/p/1/manifest.json, s3://inventory/p/2/manifest.json; a run takes one",
    ),
    "no records": (s3_event(), "tells of nothing"),
    "an empty receipt": ({"Messages": []}, "tells of nothing"),
    "no bucket": (s3_event(CHECKSUM, bucket="../x"), "the event, part 1: '../x' is not a bucket's name"),
    "no UTF-8": (s3_event("%FF/manifest.checksum"), "the event, part 1: the key '%FF/manifest.checksum' isn't UTF-8"),
    "no Unicode": (eventbridge("\ud800/manifest.checksum"), "isn't Unicode"),
    "a manifest": ({"sourceBucket": "b", "files": []}, "the event is of no known form"),
    "a subscription's confirmation": ({"Type": "SubscriptionConfirmation", "Message": "…"}, "no known form"),
    "a message of another kind": (sns("hello"), "the event, its message is of no known form"),
    "a list": ([S3], "no known form"),
    "a number": (7, "no known form"),
    "null": (None, "no known form"),
    "a key that is no text": ({"Records": [{"s3": {"object": {"key": 7}}}]}, "the event, part 1 is of no known form"),
}


@pytest.mark.parametrize(("event", "says"), OTHERS.values(), ids=OTHERS)
def test_any_other_event_is_refused_with_what_it_is(event: object, says: str) -> None:
    with pytest.raises(ValueError, match=r"^the event") as error:
        manifest_of_event(json.dumps(event))
    assert says in str(error.value)


@pytest.mark.parametrize(
    "text", ["", " ", "s3://inventory/manifest.json", "{", "\ufeff{}", "[" * 100_000, '{"Records":[' * 100_000, "NaN,"]
)
def test_text_that_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^the event is no JSON \(.* was expected"):
        manifest_of_event(text)


def test_a_message_that_is_no_json_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^the event, its message is no JSON"):
        manifest_of_event(json.dumps({"Type": "Notification", "Message": "hello"}))


def test_an_event_in_message_in_message_ends() -> None:
    event: object = S3
    for _ in range(6):
        event = sqs_record(event)
    assert manifest_of_event(json.dumps(event)) == EXPECTED
    nested: object = S3
    for _ in range(50):
        nested = {"Records": [nested]}
    with pytest.raises(ValueError, match="nested too deeply"):
        manifest_of_event(json.dumps(nested))


keys = st.text(st.characters(exclude_categories=["Cs"]), max_size=40).map(lambda folder: f"{folder}/manifest.checksum")


@given(keys)
def test_any_key_comes_through_each_form(key: str) -> None:
    expected = S3Url("inventory", key.removesuffix("checksum") + "json")
    encoded = s3_event(quote_plus(key))
    for event in (encoded, s3_event(quote_plus(key, safe="/")), eventbridge(key), sns(encoded), received(sns(encoded))):
        assert manifest_of_event(json.dumps(event)) == expected


# ---- Anything at all

WORDS = (
    *("Records", "Messages", "Message", "Type", "body", "Body", "s3", "bucket", "object", "name", "key", "eventName"),
    *("source", "detail-type", "detail", "Event"),
)
VALUES = ("aws.s3", "Object Created", "ObjectCreated:Put", "Notification", "inventory", "s3:TestEvent", CHECKSUM, "%FF")
leaves = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(VALUES)
    # Whole events too, so that wraps with something inside are met.
    | st.sampled_from([S3, BRIDGE, S3["Records"][0], sns(S3)])
)  # fmt: skip
documents = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(WORDS) | st.text(max_size=3), inner, max_size=4)
        | inner.map(json.dumps)
    ),
    max_leaves=12,
)
almost_events = st.fixed_dictionaries(
    {
        "eventName": leaves,
        "s3": st.fixed_dictionaries(
            {"bucket": st.fixed_dictionaries({"name": leaves}), "object": st.fixed_dictionaries({"key": leaves})}
        ),
    }
)


@given(documents | st.lists(documents | almost_events, max_size=3).map(lambda parts: {"Records": parts}))
@settings(max_examples=500)
def test_any_json_document_names_a_delivery_or_is_refused(document: object) -> None:
    answer: S3Url | str
    try:
        answer = manifest_of_event(json.dumps(document))
    except ValueError as error:
        answer = str(error)
    if isinstance(answer, S3Url):
        assert answer.key.encode().rpartition(b"/")[2] == b"manifest.json"
    else:
        assert answer.startswith("the event")


@given(st.text())
def test_any_text_names_a_delivery_or_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^the event"):
        manifest_of_event(text)
