"""Clients from botocore's own resolution of credentials, regions and endpoints."""

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import boto3
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import BotoCoreError

from inventory_enqueue.config import AwsSettings
from inventory_enqueue.errors import PreflightError
from inventory_enqueue.version import __version__

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client
    from types_boto3_sqs import SQSClient

_CONNECT_TIMEOUT = 10
_READ_TIMEOUT = 60
_S3_ATTEMPTS = 5


def s3_client(settings: AwsSettings, *, connections: int = 10) -> "S3Client":
    """A client for S3.

    Raises:
        PreflightError: The profile doesn't exist, or another setting can't be used.
    """
    config = Config(
        signature_version=UNSIGNED if settings.no_sign_request else None,
        connect_timeout=_CONNECT_TIMEOUT,
        read_timeout=_READ_TIMEOUT,
        retries={"mode": "standard", "total_max_attempts": _S3_ATTEMPTS},
        max_pool_connections=connections,
        user_agent_extra=f"inventory-enqueue/{__version__}",
    )
    try:
        return _session(settings, settings.region).client("s3", endpoint_url=settings.s3_endpoint_url, config=config)
    except (BotoCoreError, ValueError) as error:
        raise PreflightError(f"no S3 client can be made: {error}") from error


def sqs_client(settings: AwsSettings, queue_url: str, *, connections: int) -> "SQSClient":
    """A client for SQS in the queue's region, at the queue's own endpoint.

    Retries are the sender's: it retries entries, not requests, so botocore makes one attempt.

    Raises:
        PreflightError: The profile doesn't exist, or another setting can't be used.
    """
    config = Config(
        connect_timeout=_CONNECT_TIMEOUT,
        read_timeout=_READ_TIMEOUT,
        retries={"mode": "standard", "total_max_attempts": 1},
        max_pool_connections=connections,
        user_agent_extra=f"inventory-enqueue/{__version__}",
    )
    url = urlsplit(queue_url)
    region = settings.sqs_region or queue_region(queue_url) or settings.region
    endpoint = settings.sqs_endpoint_url
    if endpoint is None and queue_region(queue_url) is None:
        endpoint = f"{url.scheme}://{url.netloc}"
    try:
        return _session(settings, region).client("sqs", endpoint_url=endpoint, config=config)
    except (BotoCoreError, ValueError) as error:
        raise PreflightError(f"no SQS client can be made: {error}", where=queue_url) from error


def queue_region(queue_url: str) -> str | None:
    """The region in an AWS queue's URL, https://sqs.<region>.amazonaws.com/<account>/<name>; None for another host."""
    host = urlsplit(queue_url).hostname or ""
    labels = host.split(".")
    if "amazonaws" not in labels:
        return None
    # Legacy hosts are <region>.queue.amazonaws.com and queue.amazonaws.com (us-east-1).
    candidates = [label for label in labels[: labels.index("amazonaws")] if label.count("-") >= 2]  # noqa: PLR2004
    return candidates[0].removeprefix("vpce-") if candidates else "us-east-1"


def _session(settings: AwsSettings, region: str | None) -> boto3.Session:
    return boto3.Session(profile_name=settings.profile, region_name=region)
