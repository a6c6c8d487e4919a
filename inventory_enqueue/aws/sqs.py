"""The wire of SendMessageBatch: AWS JSON 1.0 requests, and how answers are read. Pure but for the two ways to send.

https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessageBatch.html
"""

import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError

from inventory_enqueue.batching import MessageBatch
from inventory_enqueue.errors import PreflightError

if TYPE_CHECKING:
    from types_boto3_sqs import SQSClient
    from types_boto3_sqs.type_defs import MessageAttributeValueTypeDef, SendMessageBatchRequestEntryTypeDef

    from inventory_enqueue.aws.transport import Answer, Transport

THROTTLED: Final = frozenset(
    {
        *("RequestThrottled", "RequestThrottledException", "ThrottlingException", "ThrottledException", "Throttling"),
        *("KmsThrottled", "OverLimit", "TooManyRequestsException", "RequestLimitExceeded", "SlowDown"),
    }
)
MISSING: Final = frozenset({"NonExistentQueue", "QueueDoesNotExist", "InvalidAddress"})
CONTENT: Final = frozenset(
    {"InvalidMessageContents", "BatchRequestTooLong", "InvalidParameterValue", "InvalidAttributeValue"}
)
"""A request is refused for what one of its entries holds."""
EXPIRED: Final = frozenset({"ExpiredToken", "ExpiredTokenException"})
SIGNATURE: Final = frozenset(
    {"InvalidSignatureException", "SignatureDoesNotMatch", "RequestTimeTooSkewed", "RequestExpired"}
)
TIMED_OUT: Final = frozenset({"RequestTimeout", "RequestTimeoutException"})
SERVER_ERROR: Final = 500
TRANSIENT: Final = frozenset({408, 429})
"""HTTP statuses below SERVER_ERROR that say to try again."""
_OK: Final = 200


class Reply(NamedTuple):
    """What came of a request."""

    began: float
    seconds: float
    status: int
    """HTTP's; 0 where no answer came."""
    body: bytes = b""
    """An answer to 200."""
    code: str = ""
    """Of an error, without its prefix."""
    message: str = ""
    """Of an error; or why there is no answer."""
    may_work_again: bool = False
    """Whether the error was about a clock or credentials that have been renewed since."""


class Wire(Protocol):
    """A way to make requests."""

    def begin(self, batch: MessageBatch) -> None:
        """Begins a request.

        Raises:
            PreflightError: There are no credentials.
        """

    def finished(self, timeout: float) -> list[tuple[MessageBatch, Reply]]:
        """The requests that ended; none after the timeout."""

    def close(self) -> None:
        """Closes the connections."""


class TransportWire:
    """Over our own transport."""

    def __init__(self, transport: "Transport", queue_url: str) -> None:
        """Takes over the transport."""
        from inventory_enqueue.aws.transport import Request  # noqa: PLC0415 - pycurl is missing on some machines

        self._transport = transport
        self._request = Request(
            headers=(("content-type", "application/x-amz-json-1.0"), ("x-amz-target", "AmazonSQS.SendMessageBatch"))
        )
        self._head = f'{{"QueueUrl":{json.dumps(queue_url)},"Entries":['.encode()

    def begin(self, batch: MessageBatch) -> None:
        """Begins a request.

        Raises:
            PreflightError: There are no credentials.
        """
        try:
            self._transport.begin(self._request, batch.entries_json(self._head, b"]}"), batch)
        except (BotoCoreError, RuntimeError) as error:
            # botocore says so with a RuntimeError where those that it was given anew have expired, too.
            raise PreflightError(f"there are no credentials: {error}") from error

    def finished(self, timeout: float) -> list[tuple[MessageBatch, Reply]]:
        """The requests that ended; none after the timeout."""
        return [self._reply(answer) for answer in self._transport.poll(timeout)]

    def _reply(self, answer: "Answer") -> tuple[MessageBatch, Reply]:
        batch = answer.token
        assert isinstance(batch, MessageBatch)  # noqa: S101 - begin() gave it
        if answer.status == _OK or answer.error:
            return batch, Reply(answer.began, answer.seconds, answer.status, answer.body, "", answer.error)
        code, message = _error(answer.body, answer.headers.get("x-amzn-query-error", ""))
        again = (code in SIGNATURE and self._transport.clock_was_wrong(answer)) or (
            code in EXPIRED and self._transport.credentials_changed(answer)
        )
        return batch, Reply(answer.began, answer.seconds, answer.status, b"", code, message, again)

    def close(self) -> None:
        """Closes the connections."""
        self._transport.close()


class Boto3Wire:
    """Over boto3 with threads: the reference, and where pycurl can't be had."""

    def __init__(self, client: "SQSClient", queue_url: str, *, connections: int) -> None:
        """Takes over the client."""
        self._client = client
        self._url = queue_url
        self._pool = ThreadPoolExecutor(connections, thread_name_prefix="send")
        self._ended: SimpleQueue[tuple[MessageBatch, Reply]] = SimpleQueue()

    def begin(self, batch: MessageBatch) -> None:
        """Begins a request."""
        self._pool.submit(self._send, batch)

    def _send(self, batch: MessageBatch) -> None:
        began = time.monotonic()
        status, body, code, text = 0, b"", "", ""
        try:
            answer = self._client.send_message_batch(QueueUrl=self._url, Entries=_entries(batch))
            body = json.dumps({name: answer.get(name, []) for name in ("Successful", "Failed")}).encode()
            status = _OK
        except ClientError as error:
            detail = error.response.get("Error", {})
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            code, text = bare(detail.get("Code", "Unknown")), detail.get("Message", "")
        except (NoCredentialsError, PartialCredentialsError) as error:
            status, code, text = 403, "NoCredentials", str(error)
        except BotoCoreError as error:
            text = str(error) or type(error).__name__
        except Exception as error:  # noqa: BLE001 - each request must have an end
            text = f"{type(error).__name__}: {error}"
        self._ended.put((batch, Reply(began, time.monotonic() - began, status, body, code, text)))

    def finished(self, timeout: float) -> list[tuple[MessageBatch, Reply]]:
        """The requests that ended; none after the timeout."""
        ended = []
        try:
            ended.append(self._ended.get(timeout=timeout))
            while True:
                ended.append(self._ended.get_nowait())
        except Empty:
            return ended

    def close(self) -> None:
        """Closes the connections."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._client.close()


def _entries(batch: MessageBatch) -> "list[SendMessageBatchRequestEntryTypeDef]":
    """The entries as boto3 takes them, read from those of the other wire: both send the same."""
    entries: list[dict[str, Any]] = json.loads(batch.entries_json(b"[", b"]"))
    typed: list[SendMessageBatchRequestEntryTypeDef] = []
    for entry in entries:
        attributes: dict[str, MessageAttributeValueTypeDef] = entry.pop("MessageAttributes", {})
        one: SendMessageBatchRequestEntryTypeDef = {"Id": entry.pop("Id"), "MessageBody": entry.pop("MessageBody")}
        if attributes:
            one["MessageAttributes"] = attributes
        if "MessageGroupId" in entry:
            one["MessageGroupId"] = entry.pop("MessageGroupId")
        if "MessageDeduplicationId" in entry:
            one["MessageDeduplicationId"] = entry.pop("MessageDeduplicationId")
        typed.append(one)
    return typed


def says_all_sent(body: bytes, ids: str, md5s: Sequence[str] | None) -> bool:
    """Whether an answer, at first sight, says that all entries were accepted; all else is read with care.

    Args:
        body: Of the answer.
        ids: Of the entries, in the order of the request: a digit each.
        md5s: Of their bodies, in hexadecimal; None where they aren't checked.
    """
    text = body.decode("latin-1")
    if '"Failed"' in text:
        return False
    if md5s is not None:
        # As many as there are entries, each that of its body: so each body was accepted, whatever its id.
        return [part[:32] for part in text.split('"MD5OfMessageBody":"')[1:]] == md5s
    return [part[:2] for part in text.split('"Id":"')[1:]] == [f'{name}"' for name in ids]


def bare(code: str) -> str:
    """An error's name: codes come with the prefix AWS.SimpleQueueService. or com.amazonaws.sqs#, or without."""
    return code.rpartition("#")[2].rpartition(".")[2]


def _error(body: bytes, query_error: str) -> tuple[str, str]:
    """An error's code and message. The header has the code that older clients know, "Code;Sender".

    https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-making-api-requests-json.html
    """
    try:
        document = json.loads(body)
        named = str(document.get("__type") or document.get("code") or "")
        message = str(document.get("message") or document.get("Message") or "")
    except (ValueError, AttributeError):
        named, message = "", ""
    code = query_error.partition(";")[0] or named
    return bare(code) or "Unknown", message
