"""Messages: what consumers parse, byte for byte, for any row."""

import json
import re
import uuid
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inventory_enqueue.config import MessageFormat
from inventory_enqueue.demo.odd_keys import ODD_KEYS
from inventory_enqueue.messages import ENVELOPES, EVENT_ID_NAMESPACE, MessageContext, bodies, carriable, records
from tests.support.go import query_unescape
from tests.support.messages import CONTEXT, CREATED, MODIFIED, ROW, build, frame, reference

DOCUMENTATION: Final = Path(__file__).parent.parent / "docs" / "messages.md"
ASCII_FORMATS: Final = [message_format for message_format in MessageFormat if message_format is not MessageFormat.KEY]

# Any character is possible, but those that some encoding has to treat come often.
any_text = st.text(
    st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from("\"'\\%+/ =&~.-_\x00\n\x1f\x7f\x80é€\ufffe😀")),
    max_size=40,
)
any_moment = st.datetimes(timezones=st.just(UTC)).map(
    lambda moment: moment.replace(microsecond=moment.microsecond // 1000 * 1000)
)
any_row = st.fixed_dictionaries(
    {
        "key": any_text,
        "version_id": st.none() | any_text,
        "size": st.none() | st.integers(0, (1 << 63) - 1),
        "last_modified_date": st.none() | any_moment,
        "e_tag": st.none() | any_text,
        "change": st.sampled_from(["new", "changed", "deleted"]),
    }
)
any_now = st.sampled_from(
    [None, CREATED, datetime(2026, 11, 24, 21, 0, 0, 987654, tzinfo=timezone(timedelta(hours=-5)))],
)


def s3_object(body: str) -> dict[str, Any]:
    return dict(json.loads(body)["Records"][0]["s3"]["object"])


def event_bridge(body: str) -> dict[str, Any]:
    return dict(json.loads(body))


@given(st.lists(any_row, max_size=10), any_now)
def test_the_bulk_gives_the_bytes_that_plain_python_gives(rows: list[dict[str, Any]], now: datetime | None) -> None:
    context = MessageContext("a-bucket", "eu-west-1", "a-run", CREATED, now)
    for message_format in MessageFormat:
        made = records(frame(*rows), message_format, context).to_list()
        assert made == [reference(row, message_format, context) for row in rows]
        if message_format is not MessageFormat.KEY:
            assert all(record.isascii() and record.isprintable() for record in made)


@given(any_text, any_text, any_text)
def test_what_a_run_has_in_common_is_escaped_too(bucket: str, region: str, run_id: str) -> None:
    context = MessageContext(bucket, region, run_id, CREATED)
    for message_format in MessageFormat:
        assert records(frame(ROW), message_format, context).to_list() == [reference(ROW, message_format, context)]


@pytest.mark.parametrize("message_format", list(MessageFormat))
@pytest.mark.parametrize("key", ODD_KEYS, ids=ascii)
def test_every_odd_key_is_in_the_message_of_every_format(key: str, message_format: MessageFormat) -> None:
    (body,) = build(message_format, key)
    match message_format:
        case MessageFormat.S3_EVENT:
            assert query_unescape(s3_object(body)["key"]) == key.encode()
        case MessageFormat.EVENTBRIDGE:
            assert event_bridge(body)["detail"]["object"]["key"] == key
        case MessageFormat.JSON:
            assert json.loads(body)["key"] == key
        case MessageFormat.KEY:
            assert body == key


@pytest.mark.parametrize("message_format", list(MessageFormat))
def test_no_rows_give_no_messages(message_format: MessageFormat) -> None:
    assert build(message_format) == []


@pytest.mark.parametrize("message_format", list(MessageFormat))
def test_a_message_is_its_records_in_an_envelope(message_format: MessageFormat) -> None:
    rows = frame({"key": "a"}, {"key": "b", "change": "deleted"})
    envelope = ENVELOPES[message_format]
    made = records(rows, message_format, CONTEXT).to_list()
    assert bodies(rows, message_format, CONTEXT).to_list() == [envelope.head + one + envelope.tail for one in made]
    assert envelope.holds_several == (message_format is MessageFormat.S3_EVENT)
    if envelope.holds_several:
        message = envelope.head + envelope.separator.join(made) + envelope.tail
        assert json.loads(message) == {"Records": [json.loads(one) for one in made]}


def test_columns_that_the_inventory_lacks_are_null_in_json_and_stand_ins_in_an_event() -> None:
    empty = {"size": None, "e_tag": None, "last_modified_date": None}
    plain = json.loads(build(MessageFormat.JSON, "a", **empty)[0])
    assert [plain[name] for name in ("version_id", "size", "e_tag", "last_modified_date")] == [None] * 4
    sequencer = f"00{int(CREATED.timestamp()):08X}00000000"
    event = json.loads(build(MessageFormat.S3_EVENT, "a", **empty)[0])["Records"][0]
    assert event["eventTime"] == "2026-11-24T01:00:00.000Z"
    assert event["s3"]["object"] == {"key": "a", "size": 0, "eTag": "", "sequencer": sequencer}
    event = event_bridge(build(MessageFormat.EVENTBRIDGE, "a", **empty)[0])
    assert event["time"] == "2026-11-24T01:00:00Z"
    assert event["detail"]["object"] == {"key": "a", "size": 0, "etag": "", "sequencer": sequencer}


def test_the_time_of_the_run_stands_for_the_objects_but_not_in_the_sequencer() -> None:
    now = datetime(2026, 11, 25, 8, tzinfo=UTC)
    context = MessageContext("a-bucket", "eu-west-1", "a-run", CREATED, now)
    rows = frame({"key": "a"}, {"key": "b", "change": "deleted"})
    sequencers = [f"00{int(moment.timestamp()):08X}00000000" for moment in (MODIFIED, CREATED)]
    events = [json.loads(body) for body in records(rows, MessageFormat.S3_EVENT, context)]
    assert [event["eventTime"] for event in events] == ["2026-11-25T08:00:00.000Z"] * 2
    assert [event["s3"]["object"]["sequencer"] for event in events] == sequencers
    events = [json.loads(body) for body in records(rows, MessageFormat.EVENTBRIDGE, context)]
    assert [event["time"] for event in events] == ["2026-11-25T08:00:00Z"] * 2
    assert [event["detail"]["object"]["sequencer"] for event in events] == sequencers


def test_sequencers_sort_by_the_second_of_the_last_modification() -> None:
    seconds = (0, 1, 255, 256, 65_535, 65_536, 1_700_000_000, 4_000_000_000)
    moments = [datetime.fromtimestamp(second, tz=UTC) for second in seconds]
    sequencers = [
        s3_object(build(MessageFormat.S3_EVENT, "a", last_modified_date=moment)[0])["sequencer"] for moment in moments
    ]
    assert sequencers == sorted(set(sequencers))
    assert all(len(sequencer) == 18 for sequencer in sequencers)


def test_an_event_has_the_same_id_whenever_its_run_sends_it_and_another_one_for_any_other_object() -> None:
    rows = [
        {"key": "a"},
        {"key": "b"},
        {"key": "a", "change": "changed"},
        {"key": "a", "version_id": "v1"},
        {"key": "a", "e_tag": "another"},
    ]
    contexts = [CONTEXT, MessageContext("a-bucket", "eu-west-1", "another-run", CREATED)]

    def ids() -> list[str]:
        return [
            event_bridge(body)["id"]
            for context in contexts
            for body in bodies(frame(*rows), MessageFormat.EVENTBRIDGE, context)
        ]

    assert ids() == ids()
    assert len(set(ids())) == len(rows) * len(contexts)
    assert {uuid.UUID(text).version for text in ids()} == {3}
    assert EVENT_ID_NAMESPACE.bytes.isascii()


@given(st.lists(any_text, min_size=1, max_size=10))
def test_sqs_carries_every_message_but_bare_keys_with_characters_that_it_refuses(keys: list[str]) -> None:
    rows = frame(*({"key": key} for key in keys))
    for message_format in ASCII_FORMATS:
        assert carriable(rows, message_format).to_list() == [True] * len(keys)
    assert carriable(rows, MessageFormat.KEY).to_list() == [
        bool(key) and all(map(_sqs_takes, map(ord, key))) for key in keys
    ]


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        *(("a" + character, True) for character in "\t\n\r \x7f\x80\ud7ff\ue000\ufffd\U00010000\U0010ffff"),
        *(("a" + character, False) for character in "\x00\x08\x0b\x0c\x0e\x1f\ufffe\uffff"),
        ("", False),
    ],
    ids=ascii,
)
def test_the_borders_of_what_sqs_takes(key: str, *, expected: bool) -> None:
    assert carriable(frame({"key": key}), MessageFormat.KEY).to_list() == [expected]


def _sqs_takes(code: int) -> bool:
    """As the API reference of SendMessage has it."""
    return code in {0x9, 0xA, 0xD} or any(
        first <= code <= last for first, last in ((0x20, 0xD7FF), (0xE000, 0xFFFD), (0x10000, 0x10FFFF))
    )


@pytest.mark.parametrize("message_format", ASCII_FORMATS)
def test_the_documentation_shows_what_the_code_makes(message_format: MessageFormat) -> None:
    section = DOCUMENTATION.read_text().split(f"\n## {message_format}\n")[1].split("\n## ")[0]
    examples = re.findall(r"```json\n(.*?)```", section, re.DOTALL)
    rows = [
        {"key": "logs/2026/part=1.json", "version_id": "3sL4kqtJlcpXroDTDmJ"},
        {"key": "logs/2026/part=1.json", "change": "deleted"},
    ]
    made = bodies(frame(*rows), message_format, CONTEXT).to_list()
    assert [json.dumps(json.loads(example), separators=(",", ":")) for example in examples] == made[: len(examples)]
    assert examples
