"""Records into messages and requests: nothing lost, nothing over a limit, and JSON that says exactly what was meant."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cached_property
from hashlib import md5, sha256
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any, Final

import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from inventory_enqueue import acknowledgements
from inventory_enqueue.batching import BILLED_BYTES, BatchLimits, MessageBatch, MessageForm, Messages, Span, cut
from inventory_enqueue.config import MessageGroups
from inventory_enqueue.demo.odd_keys import ODD_KEYS
from inventory_enqueue.messages import ENVELOPES, Envelope, IfDeleted, Template, Value

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SQS: Final = BatchLimits(max_entries=10, max_message_bytes=1_048_576, max_request_bytes=1_048_576, bills_by_size=True)

# Any character is possible, but those that some encoding has to treat come often.
any_text = st.text(
    st.one_of(
        st.characters(exclude_categories=["Cs"]),
        st.sampled_from("\"'\\/\x00\x01\b\t\n\f\r\x1f\x7f\x80é\u2028\uffff😀"),
    ),
    max_size=30,
)
any_key = st.one_of(any_text, st.sampled_from(ODD_KEYS)).filter(bool)
any_attributes = st.dictionaries(st.text("abc.-_", min_size=1, max_size=5), any_key, max_size=2)
any_group = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=4)
any_row = st.integers(0, (1 << 56) - 1)

BARE: Final = Template(Value(pl.col("key"), is_plain=False))
PARTS: Final = Template(
    '{"change":"\\n", "key":',
    Value(pl.col("json"), is_plain=False),
    IfDeleted(',"gone":"\\\\"', ',"size":'),
    IfDeleted("", Value(pl.col("size").cast(pl.String))),
    IfDeleted("", "é"),
    "}",
)


def bare_record(row: Mapping[str, Any]) -> str:
    return str(row["key"])


def record_of_parts(row: Mapping[str, Any]) -> str:
    rest = ',"gone":"\\\\"' if row["change"] == "deleted" else f',"size":{row["size"]}é'
    return f'{{"change":"\\n", "key":{row["json"]}{rest}}}'


@dataclass(frozen=True)
class Case:
    """Messages, and what they must hold by plain Python."""

    messages: Messages
    limits: BatchLimits
    rows: pl.DataFrame
    """row, key and record; perhaps group and identity."""

    @cached_property
    def batches(self) -> list[MessageBatch]:
        return [MessageBatch(self.messages, range(start, stop)) for start, stop in self.messages.requests]

    @cached_property
    def parts(self) -> list[pl.DataFrame]:
        """The rows of each message."""
        count = self.messages.requests[-1][1]
        heights = [self.messages.records_of(number).height for number in range(count)]
        return [self.rows[start:stop] for start, stop in pairwise(accumulate(heights, initial=0))]

    def bodies(self, batch: MessageBatch) -> list[str]:
        envelope = self.messages.form.envelope
        records = [self.parts[position]["record"].to_list() for position in batch.positions]
        return [f"{envelope.head}{envelope.separator.join(record)}{envelope.tail}" for record in records]

    def entries(self, batch: MessageBatch) -> list[dict[str, Any]]:
        """What the entries of a request must be."""
        attributes, expected = self.messages.form.attributes, []
        for number, body, position in zip(names(batch), self.bodies(batch), batch.positions, strict=True):
            rows = self.parts[position]
            entry: dict[str, Any] = {"Id": number, "MessageBody": body}
            if "group" in rows.columns:
                entry["MessageGroupId"] = rows["group"][0]
            if "identity" in rows.columns:
                joined = "".join(rows["identity"])
                is_plain = len(self.parts) == self.rows.height
                entry["MessageDeduplicationId"] = joined if is_plain else sha256(joined.encode()).hexdigest()
            if attributes:
                values = {name: {"DataType": "String", "StringValue": value} for name, value in attributes.items()}
                entry["MessageAttributes"] = values
            expected.append(entry)
        return expected

    def group(self, position: int) -> object:
        return self.parts[position]["group"][0] if "group" in self.rows.columns else None


def names(batch: MessageBatch) -> list[str]:
    return list(batch.ids())


def entries(batch: MessageBatch) -> list[dict[str, Any]]:
    """The entries of a request as any reader of JSON has them."""
    found: list[dict[str, Any]] = json.loads(b"[%b]" % batch.entries_json())
    return found


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Messages of any records, in any form, within any limits that each record fits into."""
    keys = draw(st.lists(any_key, min_size=1, max_size=40))
    rows = pl.DataFrame(
        {
            "row": pl.Series(draw(st.lists(any_row, min_size=len(keys), max_size=len(keys))), dtype=pl.UInt64),
            "key": keys,
            "json": [json.dumps(key, ensure_ascii=draw(st.booleans())) for key in keys],
            "size": draw(st.lists(st.integers(0, 10**12), min_size=len(keys), max_size=len(keys))),
            "change": draw(st.lists(st.sampled_from(["new", "deleted"]), min_size=len(keys), max_size=len(keys))),
        }
    )
    template, record = draw(st.sampled_from([(BARE, bare_record), (PARTS, record_of_parts)]))
    records = [record(row) for row in rows.iter_rows(named=True)]
    envelope = draw(st.sampled_from(list(ENVELOPES.values())))
    max_records = draw(st.one_of(st.integers(1, 5), st.just(50))) if envelope.holds_several else 1
    form = MessageForm(envelope, max_records, draw(any_attributes))
    beside: dict[str, list[str]] = {}
    if draw(st.booleans()):
        groups = draw(st.lists(any_group, min_size=1, max_size=3))
        beside["group"] = sorted(draw(st.sampled_from(groups)) for _ in keys)
        if draw(st.booleans()):
            beside["identity"] = [sha256(f"{number} {key}".encode()).hexdigest() for number, key in enumerate(keys)]
    largest = max(form.body_bytes(len(text.encode())) for text in records)
    most = draw(st.integers(largest, largest * 4))
    limits = BatchLimits(
        max_entries=draw(st.integers(1, 10)),
        max_message_bytes=most,
        max_request_bytes=draw(st.integers(most, most * 12)),
        bills_by_size=draw(st.booleans()),
    )
    known = rows.select("row", "key").with_columns(**{name: pl.Series(values) for name, values in beside.items()})
    messages = Messages(known.hstack(template.values(rows)), template, form, limits)
    return Case(messages, limits, known.with_columns(record=pl.Series(records)))


@given(cases())
def test_the_messages_of_all_requests_hold_every_record_once_and_in_order(case: Case) -> None:
    requests = case.messages.requests
    assert [start for start, _ in requests] == [0, *(stop for _, stop in requests[:-1])]
    assert all(start < stop for start, stop in requests)
    assert sum(part.height for part in case.parts) == case.rows.height
    assert all(1 <= part.height <= case.messages.form.max_records for part in case.parts)
    for number, part in enumerate(case.parts):
        assert case.messages.records_of(number).equals(part.select("row", "key", "record"))
    for batch in case.batches:
        assert batch.bodies() == case.bodies(batch)


@given(cases())
def test_no_message_and_no_request_is_over_a_limit_and_a_request_has_one_group(case: Case) -> None:
    attributes = case.messages.form.attributes
    beside = sum(len(f"{name}String{value}".encode()) for name, value in attributes.items())
    for batch in case.batches:
        sizes = [len(body.encode()) + beside for body in case.bodies(batch)]
        assert batch.length == len(sizes) <= case.limits.max_entries
        assert max(sizes) <= case.limits.max_message_bytes
        assert batch.size() == sum(sizes) <= case.limits.max_request_bytes
        if "group" in case.rows.columns:
            assert pl.concat([case.parts[position] for position in batch.positions])["group"].n_unique() == 1


@given(cases())
def test_no_two_messages_or_requests_that_follow_each_other_would_fit_into_one(case: Case) -> None:
    limits, form = case.limits, case.messages.form
    for number, (first, second) in enumerate(pairwise(case.parts)):
        one_more = form.body([*first["record"], second["record"][0]]).encode()
        fits = len(one_more) + form.attribute_bytes <= min(limits.max_message_bytes, 65_536)
        assert first.height == form.max_records or not fits or case.group(number) != case.group(number + 1)
    for one, other in pairwise(case.batches):
        one_more_fits = one.size() + other.part([0]).size() <= limits.max_request_bytes
        same_group = case.group(one.positions[0]) == case.group(other.positions[0])
        assert limits.bills_by_size or one.length == limits.max_entries or not one_more_fits or not same_group


@given(cases())
def test_the_json_of_a_request_gives_exactly_its_bodies_attributes_groups_and_ids(case: Case) -> None:
    for batch in case.batches:
        assert len(set(names(batch))) == batch.length
        assert set(names(batch)) <= set("0123456789")
        assert entries(batch) == case.entries(batch)


@given(cases(), st.data())
def test_any_part_of_a_request_is_a_request_like_the_whole(case: Case, data: st.DataObject) -> None:
    batch = data.draw(st.sampled_from(case.batches))
    for _ in range(2):  # a part of a part, too
        chosen = data.draw(st.lists(st.sampled_from(range(batch.length)), min_size=1, unique=True).map(sorted))
        part = batch.part(chosen)
        assert names(part) == [str(number) for number in range(len(chosen))]
        assert entries(part) == case.entries(part)
        assert part.bodies() == [batch.bodies()[entry] for entry in chosen]
        assert part.md5s() == [batch.md5s()[entry] for entry in chosen]
        assert part.size() == sum(batch.part([entry]).size() for entry in chosen)
        assert bytes(part.acknowledgements(range(len(chosen)))) == bytes(batch.acknowledgements(chosen))
        batch = part


@given(cases())
def test_md5s_are_those_of_the_bodies(case: Case) -> None:
    for batch in case.batches:
        digests = [md5(body.encode(), usedforsecurity=False).hexdigest() for body in case.bodies(batch)]
        assert batch.md5s() == digests


@given(cases(), st.data())
def test_acknowledgements_are_the_rows_of_the_entries_and_no_other(case: Case, data: st.DataObject) -> None:
    for batch in case.batches:
        some = data.draw(st.lists(st.sampled_from(range(batch.length)), unique=True).map(sorted))
        for accepted in (some, list(range(batch.length))):
            rows = acknowledgements.decode(bytes(batch.acknowledgements(accepted)), where="").to_list()
            assert rows == [row for entry in accepted for row in case.parts[batch.positions[entry]]["row"]]


def batches(messages: Messages) -> list[MessageBatch]:
    return [MessageBatch(messages, range(start, stop)) for start, stop in messages.requests]


def test_every_character_arrives_as_it_is_though_columns_are_cut_and_joined() -> None:
    """No buffer is taken from its wrong end."""
    codes = [*range(0x250), *range(0x2000, 0x2070), *range(0xD7F0, 0xD800), *range(0xE000, 0xE010), 0xFFFE, 0x1F600]
    texts = [f"{chr(code)}x{chr(code)}" for code in codes]
    frame = pl.DataFrame({"row": pl.Series(range(len(texts)), dtype=pl.UInt64), "key": texts, "change": "new"})
    frame = frame.hstack(BARE.values(frame))
    whole = pl.concat([frame[:100], frame[100:]], rechunk=False)[3:]
    messages = Messages(whole, BARE, MessageForm(Envelope()), SQS)
    assert [entry["MessageBody"] for batch in batches(messages) for entry in entries(batch)] == texts[3:]
    acknowledged = b"".join(batch.acknowledgements(range(batch.length)) for batch in batches(messages))
    assert acknowledgements.decode(acknowledged, where="").to_list() == list(range(3, len(texts)))


@pytest.mark.parametrize("name", ['"', "\\", 'a"b\\c', "!#$%&'()*+,-./:;<=>?@[]^_`{|}~"])
def test_a_group_may_have_any_punctuation_that_sqs_allows(name: str) -> None:
    assert MessageGroups.parse(name).name == name
    rows = pl.DataFrame({"row": pl.Series([1], dtype=pl.UInt64), "key": "k", "change": "new", "group": name})
    (batch,) = batches(Messages(rows.hstack(BARE.values(rows)), BARE, MessageForm(Envelope()), SQS))
    assert entries(batch) == [{"Id": "0", "MessageGroupId": name, "MessageBody": "k"}]


def test_records_of_any_size_share_messages_up_to_64_kib_and_larger_ones_are_alone() -> None:
    sizes = [30_000, 35_000, 400, 70_000, 10, 10, 200_000, 65_000, 10]
    keys = ["x" * size for size in sizes]
    rows = pl.DataFrame({"row": pl.Series(range(len(sizes)), dtype=pl.UInt64), "key": keys, "change": "new"})
    messages = Messages(rows.hstack(BARE.values(rows)), BARE, MessageForm(Envelope("[", ",", "]"), 100), SQS)
    count = messages.requests[-1][1]
    assert [messages.records_of(number)["row"].to_list() for number in range(count)] == [
        *([0, 1, 2], [3], [4, 5], [6], [7, 8]),
    ]


# ---- What requests cost


def billed(sizes: Sequence[int], spans: Sequence[Span]) -> int:
    return sum(math.ceil(sum(sizes[start:stop]) / BILLED_BYTES) for start, stop in spans)


def every_cut(sizes: Sequence[int], limits: BatchLimits) -> list[list[Span]]:
    """All ways to cut messages into requests within the limits, in their order."""
    found = []
    for mask in range(1 << (len(sizes) - 1)):
        ends = [number + 1 for number in range(len(sizes) - 1) if mask >> number & 1]
        spans = list(pairwise([0, *ends, len(sizes)]))
        if all(
            stop - start <= limits.max_entries and sum(sizes[start:stop]) <= limits.max_request_bytes
            for start, stop in spans
        ):
            found.append(spans)
    return found


any_size = st.one_of(
    st.integers(1, 200_000),
    st.sampled_from([BILLED_BYTES // 10, BILLED_BYTES // 2, BILLED_BYTES - 1, BILLED_BYTES, BILLED_BYTES + 1]),
    st.integers(6_000, 7_000),
)


# Here the cheapest cuts differ in how many requests they make.
@example(sizes=[40_000, 98_304, 98_304, 65_536, 32_768, 131_072], max_entries=3, max_request_bytes=200_000)
@given(
    sizes=st.lists(any_size, min_size=1, max_size=9),
    max_entries=st.integers(1, 10),
    max_request_bytes=st.sampled_from([200_000, 262_144, 1_048_576]),
)
def test_requests_billed_by_size_cost_the_least_and_are_the_fewest_of_those(
    sizes: list[int], max_entries: int, max_request_bytes: int
) -> None:
    limits = BatchLimits(max_entries, 200_000, max_request_bytes, bills_by_size=True)
    spans = cut(sizes, limits)
    possible = every_cut(sizes, limits)
    assert spans in possible
    assert (billed(sizes, spans), len(spans)) == min((billed(sizes, other), len(other)) for other in possible)


@pytest.mark.parametrize("size", [6_553, 6_554, 9_000, 21_845, 21_846, 40_000, 65_536])
def test_twelve_equal_messages_cost_the_least(size: int) -> None:
    sizes = [size] * 12
    spans = cut(sizes, SQS)
    possible = every_cut(sizes, SQS)
    assert spans in possible
    assert (billed(sizes, spans), len(spans)) == min((billed(sizes, other), len(other)) for other in possible)


@given(
    sizes=st.lists(any_size, min_size=1, max_size=9),
    max_entries=st.integers(1, 10),
    max_request_bytes=st.sampled_from([200_000, 262_144, 1_048_576]),
)
def test_other_requests_are_the_fewest(sizes: list[int], max_entries: int, max_request_bytes: int) -> None:
    limits = BatchLimits(max_entries, 200_000, max_request_bytes)
    spans = cut(sizes, limits)
    possible = every_cut(sizes, limits)
    assert spans in possible
    assert len(spans) == min(len(other) for other in possible)


def test_small_messages_go_ten_to_a_request() -> None:
    assert cut([100] * 25, SQS) == [(0, 10), (10, 20), (20, 25)]


def test_nothing_makes_no_request() -> None:
    for limits in (SQS, BatchLimits(10, 100, 100)):
        assert cut([], limits) == []
