"""Clients from botocore's own resolution of credentials, regions and endpoints."""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import boto3
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import BotoCoreError, NoCredentialsError
from botocore.httpsession import get_cert_path
from botocore.utils import get_environ_proxies

from inventory_enqueue.aws.signing import SigningCredentials
from inventory_enqueue.config import AwsSettings
from inventory_enqueue.errors import PreflightError
from inventory_enqueue.version import __version__

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client
    from types_boto3_sqs import SQSClient

_CONNECT_TIMEOUT = 10
_READ_TIMEOUT = 60
_S3_ATTEMPTS = 5
_SQS_ATTEMPTS = 5


def s3_client(settings: AwsSettings, *, connections: int = 10, read_timeout: int = _READ_TIMEOUT) -> "S3Client":
    """A client for S3.

    Args:
        settings: How AWS is reached.
        connections: Requests in flight.
        read_timeout: Seconds to wait for an answer.

    Raises:
        PreflightError: The profile doesn't exist, or another setting can't be used.
    """
    config = Config(
        signature_version=UNSIGNED if settings.no_sign_request else None,
        connect_timeout=min(_CONNECT_TIMEOUT, read_timeout),
        read_timeout=read_timeout,
        retries={"mode": "standard", "total_max_attempts": _S3_ATTEMPTS},
        max_pool_connections=connections,
        user_agent_extra=f"inventory-enqueue/{__version__}",
    )
    try:
        return _session(settings, settings.region).client("s3", endpoint_url=settings.s3_endpoint_url, config=config)
    except (BotoCoreError, ValueError) as error:
        raise PreflightError(f"no S3 client can be made: {error}") from error


def sqs_client(
    settings: AwsSettings,
    queue_url: str,
    *,
    connections: int = 10,
    attempts: int = _SQS_ATTEMPTS,
    timeout: int = _READ_TIMEOUT,
) -> "SQSClient":
    """A client for SQS in the queue's region, at the queue's own endpoint.

    Args:
        settings: How AWS is reached.
        queue_url: The queue.
        connections: Requests in flight.
        attempts: Of each request. The sender retries entries, not requests, so its client makes one attempt.
        timeout: Seconds to wait for an answer.

    Raises:
        PreflightError: The profile doesn't exist, or another setting can't be used.
    """
    config = Config(
        connect_timeout=min(_CONNECT_TIMEOUT, timeout),
        read_timeout=timeout,
        retries={"mode": "standard", "total_max_attempts": attempts},
        max_pool_connections=connections,
        user_agent_extra=f"inventory-enqueue/{__version__}",
    )
    try:
        return _session(settings, _sqs_region(settings, queue_url)).client(
            "sqs", endpoint_url=_sqs_endpoint(settings, queue_url), config=config
        )
    except (BotoCoreError, ValueError) as error:
        raise PreflightError(f"no SQS client can be made: {error}", where=queue_url) from error


@dataclass(frozen=True)
class Endpoint:
    """Where and how requests of our own reach a service: all of it as botocore resolves it for its clients."""

    url: str
    service: str
    """The name that requests are signed for."""
    region: str
    credentials: Callable[[], SigningCredentials | None]
    """Asks for those that are valid now, and refreshes temporary ones; None where requests aren't signed.

    Raises BotoCoreError where there are none.
    """
    ca_bundle: str | None
    """Certificates that are trusted; None where nobody checks them."""
    proxy: str | None
    connect_timeout: int = _CONNECT_TIMEOUT
    read_timeout: int = _READ_TIMEOUT


def sqs_endpoint(settings: AwsSettings, queue_url: str) -> Endpoint:
    """The endpoint that sqs_client talks to.

    Raises:
        PreflightError: As sqs_client.
    """
    session = _session(settings, _sqs_region(settings, queue_url))
    return _endpoint(session, sqs_client(settings, queue_url), "sqs")


def s3_endpoint(settings: AwsSettings, bucket: str) -> Endpoint:
    """The endpoint of a bucket, whose URL is the bucket's: with its name in the host or in the path, as botocore does.

    A directory bucket's requests are signed without a session of its own, as botocore does with
    s3_disable_express_session_auth: https://docs.aws.amazon.com/AmazonS3/latest/userguide/s3-express-create-session.html

    Args:
        settings: How AWS is reached.
        bucket: Its name, or an access point's ARN or alias.

    Raises:
        PreflightError: As s3_client; or the bucket can't be addressed.
    """
    client = s3_client(settings)
    try:
        found = _resolve(client, bucket)
    except (BotoCoreError, ValueError) as error:
        raise PreflightError(f"the bucket can't be addressed: {error}", where=f"s3://{bucket}") from error
    finally:
        client.close()
    if found.auth_type == "v4a":
        raise PreflightError("a multi-region access point can't be listed; name its bucket", where=f"s3://{bucket}")
    session = _session(settings, settings.region)
    endpoint = _endpoint(session, client, found.service, url=found.url, signed=not settings.no_sign_request)
    return replace(endpoint, region=found.region)


class _ResolvedError(Exception):
    """Where botocore would have sent a request, and how it would have signed it."""

    def __init__(self, url: str, service: str, region: str, auth_type: str | None) -> None:
        super().__init__(url)
        self.url = url
        self.service = service
        self.region = region
        self.auth_type = auth_type


def _resolve(client: "S3Client", bucket: str) -> _ResolvedError:
    """Lets botocore make a request up to its signature, and no further."""

    def stop(request: Any, signing_name: str, region_name: str, **_: object) -> None:  # noqa: ANN401 - botocore's own
        context = request.context.get("signing", {})
        url = urlsplit(request.url)
        raise _ResolvedError(
            f"{url.scheme}://{url.netloc}{url.path}".rstrip("/"),
            context.get("signing_name", signing_name),
            context.get("region", region_name),
            request.context.get("auth_type"),
        )

    # Before botocore's own, one of which makes a session for a directory bucket.
    client.meta.events.register_first("before-sign.s3.ListObjectsV2", stop)
    try:
        client.list_objects_v2(Bucket=bucket)
    except _ResolvedError as found:
        return found
    raise AssertionError  # botocore signs each request, or asks whether to


def _endpoint(
    session: boto3.Session,
    client: Any,  # noqa: ANN401 - any service's client
    service: str,
    *,
    url: str | None = None,
    signed: bool = True,
) -> Endpoint:
    url = url or client.meta.endpoint_url
    assert url is not None  # noqa: S101 - each client has one
    found = session.get_credentials() if signed else None

    def credentials() -> SigningCredentials:
        if found is None:
            raise NoCredentialsError
        frozen = found.get_frozen_credentials()
        if not frozen.access_key or not frozen.secret_key:
            raise NoCredentialsError
        return SigningCredentials(frozen.access_key, frozen.secret_key, frozen.token)

    # As botocore.session and botocore.args choose them.
    configured = session._session.get_config_variable("ca_bundle")  # noqa: SLF001 - boto3 shows it nowhere else
    authorities: str | None = configured or os.environ.get("REQUESTS_CA_BUNDLE")
    return Endpoint(
        url=url,
        service=service,
        region=client.meta.region_name,
        credentials=credentials if signed else lambda: None,
        ca_bundle=authorities or get_cert_path(verify=True),
        proxy=get_environ_proxies(url).get(urlsplit(url).scheme),
    )


def _sqs_region(settings: AwsSettings, queue_url: str) -> str | None:
    return settings.sqs_region or queue_region(queue_url) or settings.region


def _sqs_endpoint(settings: AwsSettings, queue_url: str) -> str | None:
    """The queue's own host, where it isn't the region's usual one: another service, or an endpoint in a VPC."""
    if settings.sqs_endpoint_url is not None:
        return settings.sqs_endpoint_url
    url = urlsplit(queue_url)
    if queue_region(queue_url) is None or ".vpce." in (url.hostname or ""):
        return f"{url.scheme}://{url.netloc}"
    return None


def queue_region(queue_url: str) -> str | None:
    """The region in an AWS queue's URL, https://sqs.<region>.amazonaws.com/<account>/<name>; None for another host."""
    host = urlsplit(queue_url).hostname or ""
    labels = host.split(".")
    if "amazonaws" not in labels:
        return None
    # Legacy hosts are <region>.queue.amazonaws.com and queue.amazonaws.com (us-east-1); those of endpoints in a VPC
    # begin with the endpoint's id, vpce-0123456789abcdef0-01234567.sqs.<region>.vpce.amazonaws.com.
    regions = [label for label in labels[: labels.index("amazonaws")] if _REGION.fullmatch(label)]
    return regions[0] if regions else "us-east-1"


_REGION = re.compile(r"[a-z]+(-[a-z]+)+-[0-9]+")


def _session(settings: AwsSettings, region: str | None) -> boto3.Session:
    return boto3.Session(profile_name=settings.profile, region_name=region)
