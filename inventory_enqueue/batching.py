"""Records into messages, and messages into SendMessageBatch requests, within the limits. Pure.

Rows stay columns: the texts of a chunk's messages lie one after the other in one buffer, a request is a slice of it.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import md5
from itertools import accumulate, pairwise
from typing import Final, NamedTuple

import polars as pl

from inventory_enqueue import acknowledgements
from inventory_enqueue.acknowledgements import BYTES_PER_ROW
from inventory_enqueue.messages import Envelope, Template, json_escaped

MAX_ENTRIES: Final = 10
"""Of a SendMessageBatch request:
https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessageBatch.html"""
BILLED_BYTES: Final = 65_536
"""Each 64 KB of payload counts as one request: https://aws.amazon.com/sqs/pricing/"""
MAX_RECORDS_BYTES: Final = 65_536
"""Messages of several records stay within what S3 itself would send at once, and within one billed request."""

Span = tuple[int, int]
"""From and up to, not including."""


@dataclass(frozen=True)
class BatchLimits:
    """What one request of a sink can hold."""

    max_entries: int
    max_message_bytes: int
    """Of a message with its attributes."""
    max_request_bytes: int
    """The messages of one request together."""
    bills_by_size: bool = False
    """Whether requests are cut where that saves a billed one."""
    one_line: bool = False
    """Whether a message must not hold a line feed."""

    def hold_any(self, message_bytes: int) -> bool:
        """Whether messages of at most this size fill requests by number, whatever their sizes."""
        most = min(self.max_request_bytes, BILLED_BYTES) if self.bills_by_size else self.max_request_bytes
        return message_bytes * self.max_entries <= most


@dataclass(frozen=True)
class MessageForm:
    """What all messages of a run have in common."""

    envelope: Envelope
    max_records: int = 1
    """Records in a message, at most."""
    attributes: Mapping[str, str] = field(default_factory=dict)
    """Message attributes, all of type String."""

    @cached_property
    def attribute_bytes(self) -> int:
        """What the attributes add to a message's size: names, types and values.

        https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-message-metadata.html
        """
        return sum(len(f"{name}String{value}".encode()) for name, value in self.attributes.items())

    def body(self, records: Iterable[str]) -> str:
        """The message that holds these records."""
        return f"{self.envelope.head}{self.envelope.separator.join(records)}{self.envelope.tail}"

    def body_bytes(self, record_bytes: int) -> int:
        """The size of a message of one record, with its attributes."""
        return len(self.body([""]).encode()) + record_bytes + self.attribute_bytes


class Texts:
    """Texts one after the other: each is a slice of one buffer."""

    def __init__(self, texts: pl.Series, firsts: Sequence[int]) -> None:
        """Joins texts.

        Args:
            texts: Pieces, without nulls.
            firsts: Text n consists of the pieces from firsts[n] up to firsts[n + 1].
        """
        pieces = texts.rechunk().to_arrow(compat_level=pl.CompatLevel.oldest())
        _, offsets, data = pieces.buffers()
        assert offsets is not None  # noqa: S101 - a column of texts has them
        ends = memoryview(offsets).cast("q").tolist()[pieces.offset : pieces.offset + len(texts) + 1]
        is_whole = len(firsts) == len(texts) + 1
        self._ends = ends if is_whole else [ends[first] for first in firsts]
        self._largest: int | None = (texts.str.len_bytes().max() or 0) if is_whole else None  # type: ignore[assignment]
        # Slices of bytes cost less than views, also where they are copies.
        self._data = data.to_pybytes() if data is not None else b""

    def span(self, start: int, stop: int) -> bytes:
        """The texts from start up to stop, in one piece."""
        return self._data[self._ends[start] : self._ends[stop]]

    def slices(self, start: int, stop: int) -> tuple[bytes, list[int]]:
        """The buffer, and where in it each text from start up to stop begins and the last one ends."""
        return self._data, self._ends[start : stop + 1]

    def size(self, start: int, stop: int) -> int:
        """The bytes of the texts from start up to stop."""
        return self._ends[stop] - self._ends[start]

    def largest(self) -> int:
        """The bytes of the largest text."""
        return max(self.sizes(), default=0) if self._largest is None else self._largest

    def sizes(self) -> list[int]:
        """The bytes of each text."""
        return [stop - start for start, stop in zip(self._ends, self._ends[1:], strict=False)]


class Messages:
    """A chunk of messages: all of them can be sent."""

    def __init__(self, rows: pl.DataFrame, template: Template, form: MessageForm, limits: BatchLimits) -> None:
        """Cuts records into messages, and messages into requests.

        Args:
            rows: row (UInt64), key, and template.values(): each record fits into a message of its own. With groups,
                group (String), in which rows lie together; for FIFO queues, identity (String), of the record.
            template: Of the records.
            form: Of the messages.
            limits: Of the sink.
        """
        self._rows = rows
        self._template = template
        self.form = form
        self._marked = acknowledgements.encode(rows["row"])
        groups = _spans_of_groups(rows)
        self._firsts = self._pack(groups, limits)
        self.requests = self._cut(groups, limits)
        """The messages of each request."""

    def _pack(self, groups: Sequence[Span], limits: BatchLimits) -> list[int]:
        """The number of each message's first record, and the number of records at the end."""
        if self.form.max_records == 1:
            return list(range(self._rows.height + 1))
        sizes = records_of(self._rows, self._template).str.len_bytes()
        return pack(sizes.to_list(), groups, self.form, limits)

    def _cut(self, groups: Sequence[Span], limits: BatchLimits) -> list[Span]:
        largest = self.bodies.largest() + self.form.attribute_bytes
        if len(groups) == 1 and limits.hold_any(largest):
            return _blocks(self._rows.height if self._is_first is None else len(self._firsts) - 1, limits)
        sizes = [size + self.form.attribute_bytes for size in self.bodies.sizes()]
        if len(groups) == 1:
            return cut(sizes, limits)
        message = {first: number for number, first in enumerate(self._firsts)}
        spans = [(message[start], message[stop]) for start, stop in groups]
        return [
            (first + start, first + stop) for first, last in spans for start, stop in cut(sizes[first:last], limits)
        ]

    @cached_property
    def _is_first(self) -> pl.Expr | None:
        """Whether a record is its message's first; None where each is."""
        if len(self._firsts) == self._rows.height + 1:
            return None
        return pl.int_range(pl.len()).is_in(pl.Series(self._firsts[:-1]).implode())

    def _texts(self, head: Sequence[pl.Expr], separator: str, tail: str, *, escaped: bool) -> Texts:
        """The messages: what comes before the first record, the records with separators, and what comes after."""
        record = self._template.text(self._rows, escaped=escaped)
        if self._is_first is None:
            parts = [*head, *record, pl.lit(tail)]
        else:
            is_last = self._is_first.shift(-1, fill_value=True)
            parts = [
                pl.when(self._is_first).then(pl.concat_str(head)).otherwise(pl.lit(separator)),
                *record,
                pl.when(is_last).then(pl.lit(tail)).otherwise(pl.lit("")),
            ]
        return Texts(self._rows.select(pl.concat_str(parts)).to_series(), self._firsts)

    @cached_property
    def bodies(self) -> Texts:
        """The messages' bodies."""
        envelope = self.form.envelope
        return self._texts([pl.lit(envelope.head)], envelope.separator, envelope.tail, escaped=False)

    @cached_property
    def entries(self) -> Texts:
        """The messages as entries of a request, each with a comma after it. Ten in a row have different ids."""
        number = pl.int_range(pl.len()) if self._is_first is None else self._is_first.cum_sum() - 1
        head = [pl.lit(ID_BEFORE), (number % MAX_ENTRIES).cast(pl.String)]
        before = '"'
        if "group" in self._rows.columns:
            head += [pl.lit(before + ',"MessageGroupId":"'), _quoted(pl.col("group"))]
        if "identity" in self._rows.columns:
            head += [pl.lit(before + ',"MessageDeduplicationId":"'), self._deduplication_ids()]
        envelope = self.form.envelope
        head.append(pl.lit(before + f',"MessageBody":"{json_escaped(envelope.head)}'))
        tail = f'{json_escaped(envelope.tail)}"{_attributes(self.form.attributes)}}},'
        return self._texts(head, json_escaped(envelope.separator), tail, escaped=True)

    def _deduplication_ids(self) -> pl.Expr:
        """Of what a message holds; where it holds several records, of all of them."""
        if self._is_first is None:
            return pl.col("identity")
        number = self._is_first.cum_sum()
        return pl.col("identity").str.join("").over(number).chash.sha2_256()  # type: ignore[attr-defined,no-any-return]

    def md5s(self, start: int, stop: int) -> list[str]:
        """The MD5 of each body in hexadecimal, which the queue answers."""
        data, ends = self.bodies.slices(start, stop)
        return [md5(data[first:last], usedforsecurity=False).hexdigest() for first, last in pairwise(ends)]

    def acknowledgements(self, messages: Iterable[Span]) -> bytes:
        """The rows of messages, as the ledger takes them."""
        firsts = self._firsts
        return b"".join(
            [self._marked[BYTES_PER_ROW * firsts[start] : BYTES_PER_ROW * firsts[stop]] for start, stop in messages]
        )

    def records_of(self, message: int) -> pl.DataFrame:
        """The records of a message: row, key and record."""
        rows = self._rows[self._firsts[message] : self._firsts[message + 1]]
        return rows.select("row", "key", record=records_of(rows, self._template))


def records_of(rows: pl.DataFrame, template: Template) -> pl.Series:
    """The records of rows that have template.values()."""
    return rows.select(pl.concat_str(template.text(rows))).to_series()


class MessageBatch(NamedTuple):
    """The messages of one request."""

    messages: Messages
    positions: Sequence[int]
    """Their numbers. A range where they lie side by side."""

    @property
    def length(self) -> int:
        """How many messages there are."""
        return len(self.positions)

    def part(self, entries: Sequence[int]) -> "MessageBatch":
        """Some of the entries, by their position in the batch."""
        return MessageBatch(self.messages, [self.positions[entry] for entry in entries])

    def ids(self) -> str:
        """The ids of the entries, one after the other: each is a digit."""
        if isinstance(self.positions, range):
            start = self.positions.start % MAX_ENTRIES
            return (_IDS + _IDS)[start : start + len(self.positions)]
        return _IDS[: len(self.positions)]

    def entries_json(self) -> bytes:
        """The entries, with a comma between each two."""
        entries = self.messages.entries
        if isinstance(self.positions, range):
            return entries.span(self.positions.start, self.positions.stop)[:-1]
        # Those that are left of other requests may have the same ids: they get new ones, of one digit as the old ones.
        start = len(ID_BEFORE)
        return b",".join(
            b"".join([ID_BEFORE.encode(), _IDS[number].encode(), entries.span(position, position + 1)[start + 1 : -1]])
            for number, position in enumerate(self.positions)
        )

    def bodies(self) -> list[str]:
        """The bodies, one by one."""
        return [self.messages.bodies.span(position, position + 1).decode() for position in self.positions]

    def size(self) -> int:
        """The bytes of its messages, with their attributes."""
        bodies, attributes = self.messages.bodies, self.messages.form.attribute_bytes * self.length
        if isinstance(self.positions, range):
            return bodies.size(self.positions.start, self.positions.stop) + attributes
        return sum(bodies.size(position, position + 1) for position in self.positions) + attributes

    def md5s(self) -> list[str]:
        """The bodies' MD5s in hexadecimal, which the queue answers."""
        if isinstance(self.positions, range):
            return self.messages.md5s(self.positions.start, self.positions.stop)
        return [name for position in self.positions for name in self.messages.md5s(position, position + 1)]

    def acknowledgements(self, entries: Sequence[int]) -> bytes:
        """The rows of some entries, as the ledger takes them."""
        if len(entries) == self.length and isinstance(self.positions, range):
            return self.messages.acknowledgements([(self.positions.start, self.positions.stop)])
        return self.messages.acknowledgements((self.positions[entry], self.positions[entry] + 1) for entry in entries)


ID_BEFORE: Final = '{"Id":"'
_IDS: Final = "0123456789"


def cut(sizes: Sequence[int], limits: BatchLimits) -> list[Span]:
    """Cuts messages into requests.

    Where requests are billed by size, into those that cost the least, and of these into the fewest.

    Args:
        sizes: The bytes of each message; none is too large for a request.
        limits: Of the sink.

    Returns:
        Each request's messages, in their order.
    """
    if limits.hold_any(max(sizes, default=0)):
        return _blocks(len(sizes), limits)
    return _cheapest(sizes, limits) if limits.bills_by_size else _fullest(sizes, limits)


def _blocks(messages: int, limits: BatchLimits) -> list[Span]:
    """Requests that are full, but for the last."""
    most = limits.max_entries
    return [(start, min(start + most, messages)) for start in range(0, messages, most)]


def _fullest(sizes: Sequence[int], limits: BatchLimits) -> list[Span]:
    starts, room = [0], limits.max_request_bytes
    for number, size in enumerate(sizes):
        if number - starts[-1] == limits.max_entries or size > room:
            starts.append(number)
            room = limits.max_request_bytes
        room -= size
    return list(zip(starts, [*starts[1:], len(sizes)], strict=True))


def _cheapest(sizes: Sequence[int], limits: BatchLimits) -> list[Span]:
    """For each message, the best last request that ends with it, given the best of those before."""
    best = [(0, 0, 0)]
    for stop in range(1, len(sizes) + 1):
        total, choices = 0, []
        for start in range(stop - 1, max(-1, stop - 1 - limits.max_entries), -1):
            total += sizes[start]
            if total > limits.max_request_bytes:
                break
            billed, requests, _ = best[start]
            choices.append((billed + -(-total // BILLED_BYTES), requests + 1, start))
        best.append(min(choices))
    spans, stop = [], len(sizes)
    while stop:
        start = best[stop][2]
        spans.append((start, stop))
        stop = start
    return spans[::-1]


def _spans_of_groups(records: pl.DataFrame) -> list[Span]:
    if "group" not in records.columns:
        return [(0, records.height)]
    lengths = records["group"].rle().struct.field("len").to_list()
    ends = list(accumulate(lengths, initial=0))
    return list(pairwise(ends))


def pack(sizes: Sequence[int], groups: Sequence[Span], form: MessageForm, limits: BatchLimits) -> list[int]:
    """Packs records into as few messages as their order and their groups allow.

    Args:
        sizes: The bytes of each record.
        groups: The records of each group.
        form: Of the messages.
        limits: Of the sink.

    Returns:
        The number of each message's first record, and the number of records at the end.
    """
    separator = len(form.envelope.separator)
    most = min(limits.max_message_bytes, MAX_RECORDS_BYTES) - form.body_bytes(0)
    fits_always = (max(sizes, default=0) + separator) * form.max_records <= most
    firsts: list[int] = []
    for start, stop in groups:
        if fits_always:
            firsts += range(start, stop, form.max_records)
            continue
        room = -1
        for number, size in enumerate(sizes[start:stop], start):
            if size + separator > room or number - firsts[-1] == form.max_records:
                firsts.append(number)
                room = most + separator
            room -= size + separator
    return [*firsts, len(sizes)]


def _quoted(group: pl.Expr) -> pl.Expr:
    """Groups as JSON strings without their quotes: they may hold any punctuation, but no control character."""
    return group.str.replace_all("\\", "\\\\", literal=True).str.replace_all('"', '\\"', literal=True)


def _attributes(attributes: Mapping[str, str]) -> str:
    if not attributes:
        return ""
    values = {name: {"DataType": "String", "StringValue": value} for name, value in attributes.items()}
    return f',"MessageAttributes":{json.dumps(values, separators=(",", ":"))}'
