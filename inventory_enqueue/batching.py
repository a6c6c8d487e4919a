"""Messages into requests, within a sink's limits. Pure."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Message(NamedTuple):
    """A body, and the row of the delivery that it tells of."""

    row: int
    key: str
    body: str
    """ASCII, so its length is its size in bytes."""


MessageBatch = Sequence[Message]


@dataclass(frozen=True)
class BatchLimits:
    """What one request of a sink can hold."""

    max_entries: int
    max_message_bytes: int
    max_request_bytes: int
    """The bodies of one request together."""


def batches(messages: Iterable[Message], limits: BatchLimits) -> Iterator[MessageBatch]:
    """Cuts messages into requests. One that is too large for the sink makes a batch of its own, to be refused alone."""
    entries: list[Message] = []
    size = 0
    for message in messages:
        length = len(message.body)
        if length > limits.max_message_bytes:
            yield [message]
            continue
        if entries and (len(entries) == limits.max_entries or size + length > limits.max_request_bytes):
            yield entries
            entries, size = [], 0
        entries.append(message)
        size += length
    if entries:
        yield entries
