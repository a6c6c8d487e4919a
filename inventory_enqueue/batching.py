"""Records into messages, and messages into SendMessageBatch requests, within the limits. Pure.

Rows stay columns, and only that by which messages differ is made of them: it is cut from one buffer, and joined to a
request with what all messages have in common between its pieces.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import md5
from itertools import accumulate, pairwise
from typing import Final, NamedTuple, TypeVar

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


class Wrapping(NamedTuple):
    """What all messages have around that by which they differ."""

    head: bytes
    """Up to where the first record becomes its own."""
    between: bytes
    """From a record's end up to where the next one becomes its own."""
    tail: bytes


def _wrapping(envelope: Envelope, template: Template, spelled: Callable[[str], str] = str) -> Wrapping:
    head, separator, tail = envelope.head, envelope.separator, envelope.tail
    return Wrapping(*(spelled(text).encode() for text in (head + template.head, separator + template.head, tail)))


class Texts:
    """Messages without what all begin with: that is neither made, nor kept, nor hashed for each of them."""

    def __init__(self, records: pl.Series, firsts: Sequence[int] | None, wrapping: Wrapping) -> None:
        """Takes the records.

        Args:
            records: Without their template's head, and without nulls; with the tail where each is a message.
            firsts: Message n consists of the records from firsts[n] up to firsts[n + 1]; None where each is a message.
            wrapping: Of the messages.
        """
        pieces = records.rechunk().to_arrow(compat_level=pl.CompatLevel.oldest())
        _, offsets, data = pieces.buffers()
        assert offsets is not None  # noqa: S101 - a column of texts has them
        self._ends: list[int] = memoryview(offsets).cast("q").tolist()[pieces.offset : pieces.offset + len(records) + 1]
        # Slices of bytes cost less than views, also where they are copies.
        self._data = data.to_pybytes() if data is not None else b""
        self._firsts = firsts
        self._wrapping = wrapping
        self._longest: int = records.str.len_bytes().max() or 0  # type: ignore[assignment]

    def rests(self, start: int, stop: int) -> list[bytes]:
        """The messages from start up to stop, each without what all begin with."""
        data = self._data
        if self._firsts is None:
            return [data[first:last] for first, last in pairwise(self._ends[start : stop + 1])]
        _, between, tail = self._wrapping
        return [
            between.join([data[begin:end] for begin, end in pairwise(self._ends[first : last + 1])]) + tail
            for first, last in pairwise(self._firsts[start : stop + 1])
        ]

    def size(self, start: int, stop: int) -> int:
        """The bytes of the whole messages from start up to stop."""
        head, between, tail = map(len, self._wrapping)
        messages = stop - start
        if self._firsts is None:
            return self._ends[stop] - self._ends[start] + messages * head
        first, last = self._firsts[start], self._firsts[stop]
        around = messages * (head + tail) + (last - first - messages) * between
        return self._ends[last] - self._ends[first] + around

    def largest(self) -> int:
        """The bytes of the largest whole message."""
        if self._firsts is None:
            return len(self._wrapping.head) + self._longest
        return max(self.sizes(), default=0)

    def sizes(self) -> list[int]:
        """The bytes of each whole message."""
        if self._firsts is None:
            head = len(self._wrapping.head)
            return [stop - start + head for start, stop in pairwise(self._ends)]
        return [self.size(number, number + 1) for number in range(len(self._firsts) - 1)]


class Entries:
    """Messages as entries of a request."""

    def __init__(self, texts: Texts, beside: Texts | None, head: bytes, attributes: Mapping[str, str]) -> None:
        """Makes what lies between that by which they differ.

        Args:
            texts: The messages as JSON strings.
            beside: What each has after its body, from the body's last quote on up to a value's last quote.
            head: What all texts begin with.
            attributes: Of all messages.
        """
        self._texts = texts
        self._beside = beside
        self._end = f'"{_attributes(attributes)}}}'.encode()
        starts = [b'{"Id":"%c","MessageBody":"%b' % (name, head) for name in _IDS.encode()]
        self._before = [starts[0], *(b"%b,%b" % (self._end, start) for start in starts[1:])]
        """What comes before the text of each entry: the end of the one before, and its own start."""

    def json(self, positions: Sequence[int], before: bytes, after: bytes) -> bytes:
        """Messages with a comma between each two, and something before and after them."""
        texts = _of(positions, self._texts.rests)
        if self._beside is not None:
            texts = [text + beside for text, beside in zip(texts, _of(positions, self._beside.rests), strict=True)]
        pieces = [before] * (2 * len(texts))
        pieces[::2] = self._before[: len(texts)]
        pieces[1::2] = texts
        return b"".join([before, *pieces, self._end, after])


T = TypeVar("T")


def _of(positions: Sequence[int], spans: Callable[[int, int], list[T]]) -> list[T]:
    """What is to be had for spans of messages, for some messages: at once where they lie side by side."""
    if isinstance(positions, range):
        return spans(positions.start, positions.stop)
    return [found for position in positions for found in spans(position, position + 1)]


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
        self._marked = bytes(acknowledgements.encode(rows["row"]))
        groups = _spans_of_groups(rows)
        self._wrapping = _wrapping(form.envelope, template)
        records = self._records(self._wrapping, escaped=False)
        self._firsts = self._pack(records, groups, limits)
        self.bodies = self._texts(records, self._wrapping)
        """The messages' bodies."""
        self._md5 = md5(self._wrapping.head, usedforsecurity=False)
        """Of what all messages begin with."""
        self.requests = self._cut(groups, limits)
        """The messages of each request."""

    def _records(self, wrapping: Wrapping, *, escaped: bool) -> pl.Series:
        """The records without what all begin with; where each is a message, with its tail."""
        tail = wrapping.tail.decode() if self.form.max_records == 1 else ""
        parts = self._template.rest(self._rows, escaped=escaped)
        return self._rows.select(pl.concat_str(*parts, pl.lit(tail))).to_series()

    def _texts(self, records: pl.Series, wrapping: Wrapping) -> Texts:
        return Texts(records, None if self.form.max_records == 1 else self._firsts, wrapping)

    def _pack(self, records: pl.Series, groups: Sequence[Span], limits: BatchLimits) -> Sequence[int]:
        """The number of each message's first record, and the number of records at the end."""
        if self.form.max_records == 1:
            return range(self._rows.height + 1)
        sizes = records.str.len_bytes() + len(self._template.head.encode())
        return pack(sizes.to_list(), groups, self.form, limits)

    def _cut(self, groups: Sequence[Span], limits: BatchLimits) -> list[Span]:
        largest = self.bodies.largest() + self.form.attribute_bytes
        self.are_small = largest * MAX_ENTRIES <= BILLED_BYTES
        """Whether no request of them is billed as more than one."""
        if len(groups) == 1 and limits.hold_any(largest):
            return _blocks(len(self._firsts) - 1, limits)
        sizes = [size + self.form.attribute_bytes for size in self.bodies.sizes()]
        if len(groups) == 1:
            return cut(sizes, limits)
        message = {first: number for number, first in enumerate(self._firsts)}
        spans = [(message[start], message[stop]) for start, stop in groups]
        return [
            (first + start, first + stop) for first, last in spans for start, stop in cut(sizes[first:last], limits)
        ]

    @cached_property
    def entries(self) -> Entries:
        """The messages as entries of requests."""
        wrapping = _wrapping(self.form.envelope, self._template, json_escaped)
        texts = self._texts(self._records(wrapping, escaped=True), wrapping)
        return Entries(texts, self._beside(), wrapping.head, self.form.attributes)

    def _beside(self) -> Texts | None:
        """What a message's entry has beside its body."""
        if "group" not in self._rows.columns:
            return None
        parts = [pl.lit('","MessageGroupId":"'), _quoted(pl.col("group"))]
        if "identity" in self._rows.columns:
            parts += [pl.lit('","MessageDeduplicationId":"'), self._deduplication_ids()]
        # Records of one message have the same.
        made = self._rows.select(pl.concat_str(parts)).to_series().gather(pl.Series(self._firsts[:-1]))
        return Texts(made, None, Wrapping(b"", b"", b""))

    def _deduplication_ids(self) -> pl.Expr:
        """Of what a message holds; where it holds several records, of all of them."""
        if len(self._firsts) > self._rows.height:
            return pl.col("identity")
        number = pl.int_range(pl.len()).is_in(pl.Series(self._firsts[:-1]).implode()).cum_sum()
        return pl.col("identity").str.join("").over(number).chash.sha2_256()  # type: ignore[attr-defined,no-any-return]

    def md5s(self, start: int, stop: int) -> list[str]:
        """The MD5 of each body in hexadecimal, which the queue answers."""
        copy, names = self._md5.copy, []
        for rest in self.bodies.rests(start, stop):
            digest = copy()
            digest.update(rest)
            names.append(digest.hexdigest())
        return names

    def body(self, message: int) -> bytes:
        """A message's body."""
        return self._wrapping.head + self.bodies.rests(message, message + 1)[0]

    def acknowledgements(self, start: int, stop: int) -> bytes:
        """The rows of messages, as the ledger takes them."""
        return self._marked[BYTES_PER_ROW * self._firsts[start] : BYTES_PER_ROW * self._firsts[stop]]

    def records_of(self, message: int) -> pl.DataFrame:
        """The records of a message: row, key and record."""
        rows = self._rows[self._firsts[message] : self._firsts[message + 1]]
        return rows.select("row", "key", record=self._template.texts(rows))


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
        return _IDS[: len(self.positions)]

    def entries_json(self, before: bytes = b"", after: bytes = b"") -> bytes:
        """The entries with a comma between each two, and something before and after them."""
        return self.messages.entries.json(self.positions, before, after)

    def bodies(self) -> list[str]:
        """The bodies, one by one."""
        return [self.messages.body(position).decode() for position in self.positions]

    def size(self) -> int:
        """The bytes of its messages, with their attributes."""
        bodies, attributes = self.messages.bodies, self.messages.form.attribute_bytes * self.length
        if isinstance(self.positions, range):
            return bodies.size(self.positions.start, self.positions.stop) + attributes
        return sum(bodies.size(position, position + 1) for position in self.positions) + attributes

    def billed(self) -> int:
        """What it costs, in requests."""
        return 1 if self.length <= MAX_ENTRIES and self.messages.are_small else max(1, -(-self.size() // BILLED_BYTES))

    def md5s(self) -> list[str]:
        """The bodies' MD5s in hexadecimal, which the queue answers."""
        return _of(self.positions, self.messages.md5s)

    def acknowledgements(self, entries: Sequence[int]) -> bytes:
        """The rows of some entries, as the ledger takes them."""
        if len(entries) == self.length and isinstance(self.positions, range):
            return self.messages.acknowledgements(self.positions.start, self.positions.stop)
        positions = [self.positions[entry] for entry in entries]
        return b"".join(self.messages.acknowledgements(position, position + 1) for position in positions)


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
