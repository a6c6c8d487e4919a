"""Message bodies: what consumers parse, byte for byte, for any key."""

import json
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote_plus

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inventory_enqueue.config import MessageFormat
from inventory_enqueue.demo.odd_keys import ODD_KEYS
from inventory_enqueue.messages import MessageContext, bodies
from tests.support.go import query_unescape

CREATED = datetime(2026, 11, 24, 1, tzinfo=UTC)
MODIFIED = datetime(2026, 11, 23, 12, 34, 56, 789000, tzinfo=UTC)
CONTEXT = MessageContext("a-bucket", "eu-west-1", "20261124T010000Z-00000000", CREATED)
SCHEMA: dict[str, type[pl.DataType] | pl.DataType] = {
    "key": pl.String,
    "version_id": pl.String,
    "size": pl.Int64,
    "last_modified_date": pl.Datetime("ms", "UTC"),
    "e_tag": pl.String,
    "change": pl.String,
}
any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


def build(message_format: MessageFormat, *keys: str, **values: Any) -> list[str]:  # noqa: ANN401 - any column's value
    row = {"version_id": None, "size": 42, "last_modified_date": MODIFIED, "e_tag": "abc", "change": "new", **values}
    rows = pl.DataFrame([{"key": key, **row} for key in keys], schema=SCHEMA)
    return bodies(rows, message_format, CONTEXT).to_list()


def s3_object(body: str) -> dict[str, Any]:
    return dict(json.loads(body)["Records"][0]["s3"]["object"])


def test_an_s3_event_has_the_full_shape_that_strict_consumers_need() -> None:
    (body,) = build(MessageFormat.S3_EVENT, "a/b=c.json")
    assert json.loads(body) == {
        "Records": [
            {
                "eventVersion": "2.1",
                "eventSource": "aws:s3",
                "awsRegion": "eu-west-1",
                "eventTime": "2026-11-23T12:34:56.789Z",
                "eventName": "ObjectCreated:Put",
                "userIdentity": {"principalId": "AWS:inventory-enqueue"},
                "requestParameters": {"sourceIPAddress": "127.0.0.1"},
                "responseElements": {
                    "x-amz-request-id": "20261124T010000Z-00000000",
                    "x-amz-id-2": "20261124T010000Z-00000000",
                },
                "s3": {
                    "s3SchemaVersion": "1.0",
                    "configurationId": "inventory-enqueue",
                    "bucket": {
                        "name": "a-bucket",
                        "ownerIdentity": {"principalId": "inventory-enqueue"},
                        "arn": "arn:aws:s3:::a-bucket",
                    },
                    "object": {
                        "key": "a/b%3Dc.json",
                        "size": 42,
                        "eTag": "abc",
                        "sequencer": f"00{int(MODIFIED.timestamp()):08X}00000000",
                    },
                },
            }
        ]
    }


def test_a_json_message_has_the_inventory_columns() -> None:
    (body,) = build(MessageFormat.JSON, 'say "hi"', version_id="v1", change="changed")
    assert json.loads(body) == {
        "schema_version": 1,
        "change": "changed",
        "bucket": "a-bucket",
        "key": 'say "hi"',
        "version_id": "v1",
        "size": 42,
        "e_tag": "abc",
        "last_modified_date": "2026-11-23T12:34:56.789Z",
        "run_id": "20261124T010000Z-00000000",
    }


def test_columns_that_the_inventory_lacks_are_null_in_json_and_stand_ins_in_an_event() -> None:
    empty = {"size": None, "e_tag": None, "last_modified_date": None}
    plain = json.loads(build(MessageFormat.JSON, "a", **empty)[0])
    assert [plain[name] for name in ("version_id", "size", "e_tag", "last_modified_date")] == [None] * 4
    event = json.loads(build(MessageFormat.S3_EVENT, "a", **empty)[0])["Records"][0]
    assert event["eventTime"] == "2026-11-24T01:00:00.000Z"
    assert event["s3"]["object"] == {
        "key": "a",
        "size": 0,
        "eTag": "",
        "sequencer": f"00{int(CREATED.timestamp()):08X}00000000",
    }


def test_a_version_is_named_in_an_event() -> None:
    assert s3_object(build(MessageFormat.S3_EVENT, "a", version_id="3/L4kqtJl")[0])["versionId"] == "3/L4kqtJl"


@pytest.mark.parametrize("message_format", list(MessageFormat))
def test_no_rows_give_no_messages(message_format: MessageFormat) -> None:
    assert build(message_format) == []


@given(st.lists(any_text, min_size=1, max_size=10))
def test_the_key_of_an_event_is_what_quote_plus_gives_and_go_decodes_to_the_same_bytes(keys: list[str]) -> None:
    built = build(MessageFormat.S3_EVENT, *keys)
    for key, body in zip(keys, built, strict=True):
        encoded = s3_object(body)["key"]
        assert encoded == quote_plus(key, safe="/")
        assert query_unescape(encoded) == key.encode()
        # Vector borrows the key from the body: a JSON escape inside it would be fatal.
        assert f'"key":"{encoded}"' in body


@given(st.lists(any_text, min_size=1, max_size=10), any_text, any_text)
def test_any_text_from_outside_is_escaped_as_json_in_ascii(keys: list[str], e_tag: str, version_id: str) -> None:
    for message_format in MessageFormat:
        for key, body in zip(keys, build(message_format, *keys, e_tag=e_tag, version_id=version_id), strict=True):
            assert body.isascii()
            assert body.isprintable()
            document = json.loads(body)
            if message_format is MessageFormat.JSON:
                assert (document["key"], document["e_tag"], document["version_id"]) == (key, e_tag, version_id)
            else:
                object_ = s3_object(body)
                assert (object_["eTag"], object_["versionId"]) == (e_tag, version_id)


@pytest.mark.parametrize("key", ODD_KEYS, ids=ascii)
def test_every_odd_key_survives_both_formats(key: str) -> None:
    assert query_unescape(s3_object(build(MessageFormat.S3_EVENT, key)[0])["key"]) == key.encode()
    assert json.loads(build(MessageFormat.JSON, key)[0])["key"] == key


def test_sequencers_sort_by_the_second_of_the_last_modification() -> None:
    moments = [datetime.fromtimestamp(second, tz=UTC) for second in (0, 1, 255, 256, 1_700_000_000, 4_000_000_000)]
    sequencers = [
        s3_object(build(MessageFormat.S3_EVENT, "a", last_modified_date=moment)[0])["sequencer"] for moment in moments
    ]
    assert sequencers == sorted(sequencers)
    assert all(len(sequencer) == 18 for sequencer in sequencers)
