"""Messages to an SQS queue, by SendMessageBatch; every answer is read entry by entry."""

import logging
from typing import TYPE_CHECKING, Final

from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError

from inventory_enqueue.aws.session import sqs_client
from inventory_enqueue.batching import BatchLimits, MessageBatch
from inventory_enqueue.config import AwsSettings
from inventory_enqueue.errors import InventoryEnqueueError, PreflightError, StoppedError
from inventory_enqueue.sinks import BatchResult, Refusal

if TYPE_CHECKING:
    from types_boto3_sqs.type_defs import SendMessageBatchRequestEntryTypeDef, SendMessageBatchResultTypeDef

_log = logging.getLogger(__name__)

MAX_ENTRIES: Final = 10
MAX_REQUEST_BYTES: Final = 1_048_576
"""https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html"""
ASSUMED_MESSAGE_BYTES: Final = 262_144
"""The limit of queues that were made before 2025, taken where the queue can't be asked."""
PRICE_USD_PER_MILLION_REQUESTS: Final = 0.40
"""Standard queue, us-east-1, November 2026: https://aws.amazon.com/sqs/pricing/"""
BILLED_BYTES: Final = 65_536
"""Each 64 KB of payload counts as one request."""

_SERVER_ERROR: Final = 500
_MISSING: Final = frozenset({"NonExistentQueue", "QueueDoesNotExist", "InvalidAddress"})
_THROTTLED: Final = frozenset(
    {"RequestThrottled", "ThrottlingException", "Throttling", "KmsThrottled", "OverLimit", "TooManyRequestsException"}
)
_CONTENT: Final = frozenset(
    {"InvalidMessageContents", "BatchRequestTooLong", "InvalidParameterValue", "InvalidAttributeValue"}
)


class SqsSink:
    """A standard queue."""

    def __init__(self, queue_url: str, settings: AwsSettings, *, connections: int) -> None:
        """Asks the queue for its limits.

        Args:
            queue_url: The queue.
            settings: How AWS is reached.
            connections: Requests in flight.

        Raises:
            PreflightError: The queue doesn't exist, can't be used, or there are no credentials.
            StoppedError: SQS can't be reached.
        """
        if queue_url.endswith(".fifo"):
            raise PreflightError("FIFO queues can't be filled yet; use a standard queue", where=queue_url)
        self._url = queue_url
        self._client = sqs_client(settings, queue_url, connections=connections)
        max_message_bytes = self._max_message_bytes()
        self.limits = BatchLimits(
            MAX_ENTRIES,
            max_message_bytes,
            # Servers and queues with the old limit of 256 KiB a message hold a whole request to it, too.
            max(max_message_bytes, ASSUMED_MESSAGE_BYTES)
            if max_message_bytes < MAX_REQUEST_BYTES
            else MAX_REQUEST_BYTES,
        )

    def send(self, batch: MessageBatch) -> BatchResult:
        """Makes one SendMessageBatch request.

        Raises:
            PreflightError: The queue is gone or denies.
        """
        if len(batch) == 1 and len(batch[0].body) > self.limits.max_message_bytes:
            text = f"the message has {len(batch[0].body)} bytes, the queue takes {self.limits.max_message_bytes}"
            return BatchResult(refused=(Refusal(0, "MessageTooLong", text),), requests=0)
        everything = tuple(range(len(batch)))
        entries: list[SendMessageBatchRequestEntryTypeDef] = [
            {"Id": str(position), "MessageBody": message.body} for position, message in enumerate(batch)
        ]
        try:
            answer = self._client.send_message_batch(QueueUrl=self._url, Entries=entries)
        except ClientError as error:
            return self._refused_whole(error, batch)
        except (NoCredentialsError, PartialCredentialsError) as error:
            raise PreflightError(f"there are no credentials: {error}", where=self._url) from error
        except BotoCoreError as error:
            return BatchResult(retry=everything, reason=str(error))
        return _read_answer(answer, everything)

    def close(self) -> None:
        """Closes the connections."""
        self._client.close()

    def _refused_whole(self, error: ClientError, batch: MessageBatch) -> BatchResult:
        """What an error for a whole request means for its entries."""
        code, message, status = _code(error)
        everything = tuple(range(len(batch)))
        if code in _THROTTLED or status >= _SERVER_ERROR:
            return BatchResult(retry=everything, reason=f"{code}: {message}", throttled=code in _THROTTLED)
        if code not in _CONTENT:
            raise self._fatal(error)
        if len(batch) == 1:
            return BatchResult(refused=(Refusal(0, code, message),))
        # Some servers refuse a request for one entry's content: alone, each entry gets an answer of its own.
        results = [self.send([entry]) for entry in batch]
        return BatchResult(
            sent=tuple(n for n, result in enumerate(results) if result.sent),
            refused=tuple(
                Refusal(n, refusal.code, refusal.message)
                for n, result in enumerate(results)
                for refusal in result.refused
            ),
            retry=tuple(n for n, result in enumerate(results) if result.retry),
            reason=f"{code}: {message}",
            requests=1 + len(results),
        )

    def _max_message_bytes(self) -> int:
        try:
            answer = self._client.get_queue_attributes(QueueUrl=self._url, AttributeNames=["MaximumMessageSize"])
            return int(answer["Attributes"]["MaximumMessageSize"])
        except ClientError as error:
            code, message, status = _code(error)
            if status >= _SERVER_ERROR or code in _THROTTLED:
                raise StoppedError(f"SQS answers {code}: {message}", where=self._url) from error
            if code in _MISSING or "denied" not in f"{code} {message}".lower():
                raise self._fatal(error) from error
        except (NoCredentialsError, PartialCredentialsError) as error:
            raise PreflightError(f"there are no credentials: {error}", where=self._url) from error
        except BotoCoreError as error:
            raise StoppedError(f"SQS can't be reached: {error}", where=self._url) from error
        except KeyError:
            pass
        _log.warning(
            "%s: MaximumMessageSize can't be read (allow sqs:GetQueueAttributes); 256 KiB are assumed", self._url
        )
        return ASSUMED_MESSAGE_BYTES

    def _fatal(self, error: ClientError) -> InventoryEnqueueError:
        code, message, _ = _code(error)
        if code in _MISSING:
            return PreflightError(
                f"the queue doesn't exist ({code}); check --queue-url and the region", where=self._url
            )
        if "denied" in f"{code} {message}".lower():
            return PreflightError(f"access is denied; allow sqs:SendMessage on it ({code}: {message})", where=self._url)
        return PreflightError(f"SQS refuses: {code}: {message}", where=self._url)


def estimated_cost_usd(requests: int) -> float:
    """The price of requests of up to 64 KB."""
    return round(requests * PRICE_USD_PER_MILLION_REQUESTS / 1_000_000, 6)


def _read_answer(answer: "SendMessageBatchResultTypeDef", everything: tuple[int, ...]) -> BatchResult:
    """Each entry by its id: in Successful, in Failed, or in neither, which is no success."""
    failed = {entry["Id"]: entry for entry in answer.get("Failed", [])}
    successful = {entry["Id"] for entry in answer.get("Successful", [])} - failed.keys()
    refused = [
        Refusal(position, failed[str(position)]["Code"], failed[str(position)].get("Message", ""))
        for position in everything
        if str(position) in failed
        and failed[str(position)].get("SenderFault", False)
        and not _retryable(failed[str(position)]["Code"])
    ]
    sent = tuple(position for position in everything if str(position) in successful)
    retry = sorted({*everything} - {*sent} - {refusal.position for refusal in refused})
    codes = sorted({failed[str(position)]["Code"] if str(position) in failed else "NoAnswer" for position in retry})
    throttled = any(_bare(code) in _THROTTLED for code in codes)
    return BatchResult(sent, tuple(refused), tuple(retry), ", ".join(codes), throttled)


def _retryable(code: str) -> bool:
    return _bare(code) in _THROTTLED


def _bare(code: str) -> str:
    """Codes come with the prefix AWS.SimpleQueueService. or without."""
    return code.rpartition(".")[2]


def _code(error: ClientError) -> tuple[str, str, int]:
    detail = error.response.get("Error", {})
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return _bare(detail.get("Code", "Unknown")), detail.get("Message", ""), status
