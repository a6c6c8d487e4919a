"""Messages to an SQS queue, by SendMessageBatch; every answer is read entry by entry."""

import json
import logging
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError

from inventory_enqueue.aws.session import sqs_client, sqs_endpoint
from inventory_enqueue.aws.sqs import (
    CONTENT,
    MISSING,
    SERVER_ERROR,
    SIGNATURE,
    THROTTLED,
    TIMED_OUT,
    TRANSIENT,
    Boto3Wire,
    Reply,
    TransportWire,
    Wire,
    bare,
    says_all_sent,
)
from inventory_enqueue.batching import MAX_ENTRIES, BatchLimits, MessageBatch, Messages
from inventory_enqueue.config import AwsSettings, SendTransport, Verify
from inventory_enqueue.errors import PreflightError, StoppedError
from inventory_enqueue.sinks import BatchResult, Refusal

if TYPE_CHECKING:
    from types_boto3_sqs import SQSClient

_log = logging.getLogger(__name__)

MAX_REQUEST_BYTES: Final = 1_048_576
"""https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html"""
ASSUMED_MESSAGE_BYTES: Final = 262_144
"""The limit of queues that were made before 2025, taken where the queue can't be asked."""
PRICE_USD_PER_MILLION_REQUESTS: Final = 0.40
"""Standard queue, us-east-1, November 2026: https://aws.amazon.com/sqs/pricing/"""


class SqsSink:
    """A queue."""

    def __init__(
        self,
        queue_url: str,
        settings: AwsSettings,
        *,
        connections: int,
        transport: SendTransport | None = None,
        verify: Verify = Verify.MD5,
    ) -> None:
        """Asks the queue for its limits.

        Args:
            queue_url: The queue.
            settings: How AWS is reached.
            connections: Requests in flight.
            transport: How requests are made; by default ours, and boto3's where pycurl is missing.
            verify: What of an answer is checked.

        Raises:
            PreflightError: The queue doesn't exist, can't be used, or there are no credentials.
            StoppedError: SQS can't be reached.
        """
        self._url = queue_url
        self._verify = verify
        self._attributes_client = sqs_client(settings, queue_url)
        # Asked while requests are in flight: it must not keep the loop from them for long.
        self._backlog_client = sqs_client(settings, queue_url, attempts=1, timeout=_BACKLOG_TIMEOUT)
        most = self._max_message_bytes()
        self.limits = BatchLimits(
            max_entries=MAX_ENTRIES,
            max_message_bytes=most,
            # Servers and queues with the old limit of 256 KiB a message hold a whole request to it, too.
            max_request_bytes=max(most, ASSUMED_MESSAGE_BYTES) if most < MAX_REQUEST_BYTES else MAX_REQUEST_BYTES,
            bills_by_size=True,
        )
        self._wire = _wire(queue_url, settings, connections, transport)

    def prepare(self, messages: Messages) -> None:
        """Makes the entries of requests."""
        _ = messages.entries

    def begin(self, batch: MessageBatch) -> None:
        """Begins one SendMessageBatch request.

        Raises:
            PreflightError: There are no credentials any more.
        """
        self._wire.begin(batch)

    def finished(self, timeout: float) -> list[tuple[MessageBatch, BatchResult]]:
        """The requests that were answered, or failed; none after the timeout."""
        return [(batch, self._result(batch, reply)) for batch, reply in self._wire.finished(timeout)]

    def close(self) -> None:
        """Closes the connections."""
        self._wire.close()
        self._attributes_client.close()
        self._backlog_client.close()

    def backlog(self) -> int:
        """About how many messages wait in the queue.

        Raises:
            PreflightError, StoppedError: It can't be asked.
        """
        return int(self._attribute(self._backlog_client, "ApproximateNumberOfMessages"))

    def _result(self, batch: MessageBatch, reply: Reply) -> BatchResult:
        md5s = batch.md5s() if self._verify is Verify.MD5 else None
        if says_all_sent(reply.body, batch.ids(), md5s):
            return BatchResult(_EVERY[batch.length], began=reply.began, seconds=reply.seconds)
        if reply.code:
            return self._refused_whole(batch, reply)
        everything = tuple(range(batch.length))
        if not reply.status:
            return BatchResult(retry=everything, reason=reply.message, began=reply.began, seconds=reply.seconds)
        return _read_answer(batch, reply, md5s)

    def _refused_whole(self, batch: MessageBatch, reply: Reply) -> BatchResult:
        """What an error for a whole request means for its entries."""
        everything = tuple(range(batch.length))
        reason = f"{reply.code}: {reply.message}"
        began, seconds = reply.began, reply.seconds
        passes = reply.status >= SERVER_ERROR or reply.status in TRANSIENT or reply.code in TIMED_OUT
        if reply.code in THROTTLED or passes or reply.may_work_again:
            throttled = reply.code in THROTTLED or reply.status in _SLOW_DOWN
            return BatchResult(retry=everything, reason=reason, throttled=throttled, began=began, seconds=seconds)
        if reply.code not in CONTENT:
            error = self._fatal(reply.code, reply.message)
            return BatchResult(retry=everything, reason=reason, fatal=error, began=began, seconds=seconds)
        if batch.length == 1:
            refusal = Refusal(0, reply.code, reply.message)
            return BatchResult(refused=(refusal,), began=began, seconds=seconds)
        # Some servers refuse a request for one entry's content: alone, each entry gets an answer of its own.
        return BatchResult(retry=everything, reason=reason, apart=True, began=began, seconds=seconds)

    def _max_message_bytes(self) -> int:
        try:
            return int(self._attribute(self._attributes_client, "MaximumMessageSize"))
        except (_DeniedError, KeyError):
            _log.warning(
                "%s: MaximumMessageSize can't be read (allow sqs:GetQueueAttributes); 256 KiB are assumed", self._url
            )
            return ASSUMED_MESSAGE_BYTES

    def _attribute(self, client: "SQSClient", name: Any) -> str:  # noqa: ANN401 - one of botocore's literals
        """One of the queue's attributes.

        Raises:
            PreflightError, StoppedError: It can't be asked; _DeniedError where that alone isn't allowed.
            KeyError: It has no such attribute.
        """
        try:
            return client.get_queue_attributes(QueueUrl=self._url, AttributeNames=[name])["Attributes"][name]
        except ClientError as error:
            detail = error.response.get("Error", {})
            code, message = bare(detail.get("Code", "Unknown")), detail.get("Message", "")
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            if status >= SERVER_ERROR or code in THROTTLED:
                raise StoppedError(f"SQS answers {code}: {message}", where=self._url) from error
            if code not in MISSING and _is_denial(code, message):
                raise _DeniedError("access is denied; allow sqs:GetQueueAttributes on it", where=self._url) from error
            raise self._fatal(code, message) from error
        except (NoCredentialsError, PartialCredentialsError) as error:
            raise PreflightError(f"there are no credentials: {error}", where=self._url) from error
        except BotoCoreError as error:
            raise StoppedError(f"SQS can't be reached: {error}", where=self._url) from error

    def _fatal(self, code: str, message: str) -> PreflightError:
        if code in MISSING:
            return PreflightError(
                f"the queue doesn't exist ({code}); check --queue-url and the region", where=self._url
            )
        if _is_denial(code, message):
            return PreflightError(f"access is denied; allow sqs:SendMessage on it ({code}: {message})", where=self._url)
        if code in SIGNATURE:
            # The message quotes the request that was signed, with the session's token.
            message = "the signature isn't right; check the secret key, the region and this machine's clock"
        return PreflightError(f"SQS refuses: {code}: {message}", where=self._url)


_EVERY: Final = [tuple(range(length)) for length in range(MAX_ENTRIES + 1)]
"""All positions of a request, by its length."""
_SLOW_DOWN: Final = frozenset({429, 503})


_BACKLOG_TIMEOUT: Final = 3
"""Seconds."""


class _DeniedError(PreflightError):
    """The queue's attributes aren't ours to read."""


def _is_denial(code: str, message: str) -> bool:
    return "denied" in f"{code} {message}".lower()


def _wire(queue_url: str, settings: AwsSettings, connections: int, transport: SendTransport | None) -> Wire:
    if transport is None and find_spec("pycurl") is None:
        _log.warning("pycurl isn't installed: messages are sent by boto3, which takes more than ten times as much CPU")
        transport = SendTransport.BOTO3
    if transport is SendTransport.BOTO3:
        client = sqs_client(settings, queue_url, connections=connections, attempts=1)
        return Boto3Wire(client, queue_url, connections=connections)
    from inventory_enqueue.aws.transport import Transport  # noqa: PLC0415 - pycurl is missing on some machines

    return TransportWire(Transport(sqs_endpoint(settings, queue_url), connections=connections), queue_url)


def estimated_cost_usd(requests: int) -> float:
    """The price of billed requests."""
    return round(requests * PRICE_USD_PER_MILLION_REQUESTS / 1_000_000, 6)


def _read_answer(batch: MessageBatch, reply: Reply, md5s: list[str] | None) -> BatchResult:
    """Each entry by its id: in Successful with the right MD5, in Failed, or in neither, which is no success."""
    failed, successful = _lists(reply.body)
    refused, sent, retry, codes = [], [], [], set()
    for position, name in enumerate(batch.ids()):
        code = "NoAnswer"
        if name in failed:
            code = bare(str(failed[name].get("Code", "Unknown")))
            if failed[name].get("SenderFault") is True and code not in THROTTLED:
                refused.append(Refusal(position, code, str(failed[name].get("Message", ""))))
                continue
        elif name in successful:
            if md5s is None or successful[name].get("MD5OfMessageBody") == md5s[position]:
                sent.append(position)
                continue
            code = "WrongMD5"
        retry.append(position)
        codes.add(code)
    return BatchResult(
        sent=tuple(sent),
        refused=tuple(refused),
        retry=tuple(retry),
        reason=", ".join(sorted(codes)),
        throttled=any(code in THROTTLED for code in codes),
        began=reply.began,
        seconds=reply.seconds,
    )


def _lists(body: bytes) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """The failed and the successful entries by id; what isn't such an answer says nothing of any."""
    try:
        answer = json.loads(body)
        failed, successful = answer.get("Failed") or [], answer.get("Successful") or []
        return {entry["Id"]: entry for entry in failed}, {entry["Id"]: entry for entry in successful}
    except (ValueError, AttributeError, TypeError, KeyError):
        return {}, {}
