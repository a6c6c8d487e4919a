"""An SQS queue as a test sees it: made, emptied, and its messages read as a consumer reads them."""

from __future__ import annotations

import json
import time
from collections import Counter
from typing import TYPE_CHECKING, cast

from tests.support import go

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from types_boto3_sqs import SQSClient
    from types_boto3_sqs.literals import QueueAttributeNameType


_EMPTY_RECEIVES = 3  # SQS may answer an empty list while messages are there: one such answer proves nothing
_STUCK_RECEIVES = 100
_PAUSE = 0.05


def create_queue(client: SQSClient, name: str, **attributes: str) -> str:
    """Create a queue and return its URL; attributes by AWS's names: `MaximumMessageSize="1024"`."""
    named = cast("Mapping[QueueAttributeNameType, str]", attributes)
    return client.create_queue(QueueName=name, Attributes=named)["QueueUrl"]


def drain(client: SQSClient, url: str) -> list[str]:
    """Receive and delete every message, and return their bodies.

    Ends after several empty receives in a row with no visible message counted. Messages that another consumer holds in
    flight are not waited for.
    """
    bodies: list[str] = []
    empty = 0
    while empty < _EMPTY_RECEIVES or _visible(client, url):
        if empty > _STUCK_RECEIVES:
            raise AssertionError(f"{url}: {_visible(client, url)} messages are counted, but none is handed out")
        messages = client.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages", [])
        if not messages:
            empty += 1
            time.sleep(_PAUSE)
            continue
        empty = 0
        bodies += [message["Body"] for message in messages]
        handles = [{"Id": str(i), "ReceiptHandle": message["ReceiptHandle"]} for i, message in enumerate(messages)]
        deleted = client.delete_message_batch(QueueUrl=url, Entries=handles)  # type: ignore[arg-type]
        if deleted.get("Failed"):
            raise AssertionError(f"{url}: not deleted: {deleted['Failed']}")
    return bodies


def keys_of(bodies: Iterable[str], message_format: str) -> Counter[bytes]:
    """Count the object keys in message bodies, as the bytes that a consumer ends up with."""
    return Counter(key for body in bodies for key in _KEYS[message_format](body))


def _event_keys(body: str) -> Iterator[bytes]:
    for record in json.loads(body)["Records"]:
        yield go.query_unescape(record["s3"]["object"]["key"])


def _json_keys(body: str) -> Iterator[bytes]:
    yield json.loads(body)["key"].encode()


def _bridge_keys(body: str) -> Iterator[bytes]:
    yield json.loads(body)["detail"]["object"]["key"].encode()


def _bare_key(body: str) -> Iterator[bytes]:
    yield body.encode()


_KEYS = {"s3-event": _event_keys, "eventbridge": _bridge_keys, "json": _json_keys, "key": _bare_key}


def _visible(client: SQSClient, url: str) -> int:
    name: QueueAttributeNameType = "ApproximateNumberOfMessages"
    return int(client.get_queue_attributes(QueueUrl=url, AttributeNames=[name])["Attributes"][name])
