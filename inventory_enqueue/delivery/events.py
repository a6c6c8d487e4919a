"""The delivery that an event tells of: text in, the URL of its manifest.json out. Pure.

manifest.checksum is the last file of a delivery to be written, so its creation is what a trigger listens to.
https://docs.aws.amazon.com/AmazonS3/latest/userguide/storage-inventory-location.html
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote_plus

from inventory_enqueue.uris import S3Url, is_bucket_name

_CHECKSUM: Final = "manifest.checksum"
_MANIFEST: Final = "manifest.json"
_EXPECTED: Final = (
    "an S3 event notification or an EventBridge event, alone or as an SNS or SQS message, was expected, for the "
    f"creation of a delivery's {_CHECKSUM}"
)
_MAX_DEPTH = 8  # an event in SNS in SQS, as receive-message prints it, has 4
_MAX_NAMED = 3


@dataclass(frozen=True)
class _Event:
    """What happened to an object."""

    name: str
    url: S3Url

    @property
    def manifest(self) -> S3Url | None:
        """The delivery's manifest.json, if what happened is its completion."""
        folder, slash, name = self.url.key.rpartition("/")
        created = self.name.removeprefix("s3:").startswith("ObjectCreated:") or self.name == "Object Created"
        return S3Url(self.url.bucket, f"{folder}{slash}{_MANIFEST}") if created and name == _CHECKSUM else None

    def __str__(self) -> str:
        return f"{self.name} of {self.url}"


def manifest_of_event(text: str) -> S3Url:
    """The manifest.json of the one delivery that an event, or several, say is complete.

    Args:
        text: JSON: an S3 event notification, an EventBridge event, either as the Message of an SNS notification, any of
            these as the body of an SQS message, or several as the Records or Messages of a list. Events of other
            objects beside the delivery's don't matter.

    Raises:
        ValueError: It is no such event, or tells of no complete delivery, or of several.
    """
    events = list(_events(_parsed(text, "the event"), "the event", _MAX_DEPTH))
    manifests = list(dict.fromkeys(event.manifest for event in events if event.manifest))
    if not manifests:
        raise ValueError(f"the event tells of {_named(events) or 'nothing'}; {_EXPECTED}")
    if len(manifests) > 1:
        raise ValueError(
            f"the event tells of {len(manifests)} deliveries, {_named(manifests)}; a run takes one: start one for each"
        )
    return manifests[0]


def _events(document: Any, where: str, depth: int) -> Iterator[_Event]:  # noqa: ANN401 - any JSON
    """The events in a document.

    S3's keys are form-encoded, EventBridge's are not:
    https://docs.aws.amazon.com/AmazonS3/latest/userguide/notification-content-structure.html
    https://docs.aws.amazon.com/AmazonS3/latest/userguide/ev-events.html
    SNS and SQS: https://docs.aws.amazon.com/sns/latest/dg/sns-message-and-json-formats.html
    """
    if depth == 0:
        raise ValueError(f"{where} is nested too deeply; {_EXPECTED}")
    match document:
        case {"eventName": str(name), "s3": {"bucket": {"name": str(bucket)}, "object": {"key": str(key)}}}:
            yield _Event(name, _url(bucket, _decoded(key, where), where))
        case {
            "source": "aws.s3",
            "detail-type": str(name),
            "detail": {"bucket": {"name": str(bucket)}, "object": {"key": str(key)}},
        }:
            yield _Event(name, _url(bucket, key, where))
        case {"Records": [*parts]} | {"Messages": [*parts]}:
            for number, part in enumerate(parts):
                yield from _events(part, f"{where}, part {number + 1}", depth - 1)
        case {"Type": "Notification", "Message": str(inner)} | {"body": str(inner)} | {"Body": str(inner)}:
            where = f"{where}, its message"
            yield from _events(_parsed(inner, where), where, depth - 1)
        case {"Event": "s3:TestEvent"}:
            raise ValueError(f"{where} is S3's test of a new notification, and tells of no delivery")
        case _:
            raise ValueError(f"{where} is of no known form; {_EXPECTED}")


def _parsed(text: str, where: str) -> Any:  # noqa: ANN401 - any JSON
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is no JSON ({error}); {_EXPECTED}") from error


def _decoded(key: str, where: str) -> str:
    try:
        return unquote_plus(key, errors="strict")
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: the key {key!r} isn't UTF-8 in form encoding") from error


def _url(bucket: str, key: str, where: str) -> S3Url:
    if not is_bucket_name(bucket):
        raise ValueError(f"{where}: {bucket!r} is not a bucket's name")
    try:
        key.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{where}: the key {key!r} isn't Unicode") from error
    return S3Url(bucket, key)


def _named(things: list[_Event] | list[S3Url]) -> str:
    more = f" and {len(things) - _MAX_NAMED} more" if len(things) > _MAX_NAMED else ""
    return ", ".join(str(thing) for thing in things[:_MAX_NAMED]) + more
