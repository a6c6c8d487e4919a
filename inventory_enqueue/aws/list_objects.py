"""The wire of ListObjectsV2: requests over our own transport, and how a page of the answer is read.

https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html
"""

from dataclasses import dataclass, replace
from hashlib import sha256
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol
from urllib.parse import quote, urlsplit

from botocore.exceptions import BotoCoreError

from inventory_enqueue.aws.list_page import BrokenPageError, Page, parse_error, parse_page
from inventory_enqueue.aws.s3 import bucket_region
from inventory_enqueue.aws.session import s3_client, s3_endpoint
from inventory_enqueue.config import AwsSettings
from inventory_enqueue.errors import PreflightError

if TYPE_CHECKING:
    from inventory_enqueue.aws.transport import Answer, Transport

MAX_KEYS: Final = 1000
"""Of a page: S3 gives no more."""
BROKEN: Final = "BrokenAnswer"
"""Our own code of an answer that isn't a whole page."""
_OK: Final = 200
_NOTHING: Final = sha256(b"").hexdigest()
_SIGNATURE: Final = frozenset({"SignatureDoesNotMatch", "RequestTimeTooSkewed", "RequestExpired", "AccessDenied"})
"""S3 refuses with them what was signed at a wrong time."""
_EXPIRED: Final = frozenset({"ExpiredToken", "ExpiredTokenException", "InvalidToken", "InvalidAccessKeyId"})


@dataclass(frozen=True, eq=False)
class PageRequest:
    """What a page is asked for. Two of them are never equal: each is a request of its own."""

    prefix: str = ""
    start_after: str = ""
    """Keys after this one, which need not exist; "" for all."""
    token: str = ""
    """Of the page before, in place of start_after."""
    delimiter: str = ""
    """With one, keys that have it after the prefix come as their common prefixes."""

    def query(self) -> str:
        """Sorted by name and percent-encoded, as it is signed."""
        values = {
            "continuation-token": self.token,
            "delimiter": self.delimiter,
            # XML can't carry most control characters.
            "encoding-type": "url",
            "list-type": "2",
            "max-keys": str(MAX_KEYS),
            "prefix": self.prefix,
            "start-after": "" if self.token else self.start_after,
        }
        return "&".join(f"{name}={quote(value, safe='')}" for name, value in values.items() if value)


class PageReply(NamedTuple):
    """What came of a request."""

    began: float
    """In seconds of time.monotonic()."""
    seconds: float
    status: int
    """HTTP's; 0 where no answer came."""
    page: Page | None = None
    """None for anything but a whole page."""
    code: str = ""
    """Of an error, as S3 names it; "" where no answer came."""
    message: str = ""
    """Of an error; or why there is no answer."""
    may_work_again: bool = False
    """Whether the error was about a clock or credentials that have been renewed since."""


class PageSource(Protocol):
    """A way to get pages."""

    def begin(self, request: PageRequest) -> None:
        """Begins a request.

        Raises:
            PreflightError: There are no credentials.
        """

    def finished(self, timeout: float) -> list[tuple[PageRequest, PageReply]]:
        """The requests that ended; none after so many seconds."""

    def close(self) -> None:
        """Ends what is in flight."""


class TransportPages:
    """Pages of one bucket, over our own transport."""

    def __init__(self, transport: "Transport", settings: AwsSettings, *, path: str = "/") -> None:
        """Takes over a transport to the bucket's endpoint.

        Args:
            transport: Its endpoint's URL is the bucket's.
            settings: Who pays, and who must own the bucket.
            path: After the endpoint's URL: "" where that has a path already.
        """
        self._transport = transport
        self._path = path
        headers = [("x-amz-content-sha256", _NOTHING)]
        if settings.expected_bucket_owner is not None:
            headers.append(("x-amz-expected-bucket-owner", settings.expected_bucket_owner))
        if settings.request_payer:
            headers.append(("x-amz-request-payer", "requester"))
        self._headers = tuple(headers)

    def begin(self, request: PageRequest) -> None:
        """Begins a request.

        Raises:
            PreflightError: There are no credentials.
        """
        from inventory_enqueue.aws.transport import Request  # noqa: PLC0415 - pycurl is missing on some machines

        sent = Request("GET", self._path, request.query(), self._headers)
        try:
            self._transport.begin(sent, None, request)
        except (BotoCoreError, RuntimeError) as error:
            # botocore says so with a RuntimeError where those that it was given anew have expired, too.
            raise PreflightError(f"there are no credentials: {error}") from error

    def finished(self, timeout: float) -> list[tuple[PageRequest, PageReply]]:
        """The requests that ended; none after so many seconds."""
        return [self._reply(answer) for answer in self._transport.poll(timeout)]

    def _reply(self, answer: "Answer") -> tuple[PageRequest, PageReply]:
        request = answer.token
        assert isinstance(request, PageRequest)  # noqa: S101 - begin() gave it
        reply = PageReply(answer.began, answer.seconds, answer.status, message=answer.error)
        if answer.error:
            return request, reply
        if answer.status == _OK:
            try:
                return request, reply._replace(page=parse_page(answer.body))
            except BrokenPageError as error:
                return request, reply._replace(code=error.code or BROKEN, message=str(error))
        code, message = parse_error(answer.body)
        again = (code in _SIGNATURE and self._transport.clock_was_wrong(answer)) or (
            code in _EXPIRED and self._transport.credentials_changed(answer)
        )
        return request, reply._replace(code=code or str(answer.status), message=message, may_work_again=again)

    def close(self) -> None:
        """Ends what is in flight, and closes the connections."""
        self._transport.close()


def open_bucket(settings: AwsSettings, bucket: str, *, connections: int) -> TransportPages:
    """A source of a bucket's pages, in the bucket's own region.

    Args:
        settings: How AWS is reached.
        bucket: Its name, or an access point's ARN or alias.
        connections: Requests in flight, at most.

    Raises:
        PreflightError: The profile doesn't exist, or another setting can't be used.
    """
    from inventory_enqueue.aws.transport import Transport  # noqa: PLC0415 - as above

    endpoint = s3_endpoint(_in_region_of(bucket, settings), bucket)
    path = "" if urlsplit(endpoint.url).path.strip("/") else "/"
    return TransportPages(Transport(endpoint, connections=connections), settings, path=path)


def _in_region_of(bucket: str, settings: AwsSettings) -> AwsSettings:
    """The settings with the bucket's region: another region's endpoint would answer each request with a redirect.

    Other stores than AWS have one endpoint, which isn't asked; an access point's ARN names its region.
    """
    client = s3_client(settings)
    try:
        host = urlsplit(client.meta.endpoint_url).hostname or ""
        if ".amazonaws." not in host or ":" in bucket:
            return settings
        region = bucket_region(client, bucket)
    finally:
        client.close()
    return settings if region is None else replace(settings, region=region)
