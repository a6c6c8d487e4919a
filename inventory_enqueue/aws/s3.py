"""The few S3 calls outside the listing: small objects, and downloads that are hashed while they land."""

import hashlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError

from inventory_enqueue.config import S3Arguments
from inventory_enqueue.errors import InventoryEnqueueError, PreflightError, StoppedError
from inventory_enqueue.uris import S3Url

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

_CHUNK = 1024 * 1024
_DOWNLOAD_ATTEMPTS = 3
_ABSENT = frozenset({"NoSuchKey", "NoSuchBucket", "404", "NotFound"})
_DENIED = frozenset({"AccessDenied", "403", "Forbidden", "AllAccessDisabled"})
_FATAL = _DENIED | {
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "InvalidToken",
    "PermanentRedirect",
    "AuthorizationHeaderMalformed",
    "InvalidBucketName",
}


class AccessDeniedError(PreflightError):
    """The object may not be read; or it isn't there, and its bucket may not be listed."""


class ObjectNotFoundError(Exception):
    """The object isn't there; whoever asked knows what that means."""


def get_object(client: "S3Client", url: S3Url, arguments: S3Arguments) -> bytes:
    """An object's bytes.

    Raises:
        ObjectNotFoundError: It doesn't exist.
        PreflightError: Access is denied, or there are no credentials.
        StoppedError: S3 can't be reached.
    """
    with _errors(url):
        body = client.get_object(Bucket=url.bucket, Key=url.key, **arguments)["Body"]
        with closing(body):
            return body.read()


def download(client: "S3Client", url: S3Url, arguments: S3Arguments, target: Path) -> tuple[int, str]:
    """Writes an object to a file and returns its size and hex MD5, counted over the bytes as they came.

    A connection that breaks in the middle is tried again from the start, as botocore does for the request alone.

    Raises:
        ObjectNotFoundError, PreflightError, StoppedError: As get_object.
    """
    for attempt in range(1, _DOWNLOAD_ATTEMPTS + 1):
        try:
            return _download(client, url, arguments, target)
        except StoppedError:
            if attempt == _DOWNLOAD_ATTEMPTS:
                raise
    raise AssertionError  # the loop returns or raises


def _download(client: "S3Client", url: S3Url, arguments: S3Arguments, target: Path) -> tuple[int, str]:
    digest = hashlib.md5(usedforsecurity=False)
    size = 0
    with _errors(url):
        body = client.get_object(Bucket=url.bucket, Key=url.key, **arguments)["Body"]
        with closing(body), target.open("wb") as file:
            for chunk in body.iter_chunks(_CHUNK):
                digest.update(chunk)
                size += len(chunk)
                file.write(chunk)
    return size, digest.hexdigest()


def bucket_region(client: "S3Client", bucket: str) -> str | None:
    """The bucket's region, or None where it can't be asked."""
    try:
        return client.head_bucket(Bucket=bucket).get("BucketRegion")
    except ClientError as error:
        # S3 names the region even where it denies the call.
        headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        return headers.get("x-amz-bucket-region")
    except BotoCoreError:
        return None


def inventory_filter(client: "S3Client", bucket: str, inventory_id: str) -> str | None:
    """The prefix that an inventory configuration lists, "" for the whole bucket, or None where it can't be asked."""
    try:
        answer = client.get_bucket_inventory_configuration(Bucket=bucket, Id=inventory_id)
    except (BotoCoreError, ClientError):
        return None
    return answer["InventoryConfiguration"].get("Filter", {}).get("Prefix", "")


@contextmanager
def _errors(url: S3Url) -> Iterator[None]:
    try:
        yield
    except ClientError as error:
        raise _translated(error, url) from error
    except BotoCoreError as error:
        kind = PreflightError if "credential" in str(error).lower() else StoppedError
        raise kind(f"S3 can't be read: {error}", where=str(url)) from error


def _translated(error: ClientError, url: S3Url) -> ObjectNotFoundError | InventoryEnqueueError:
    code = error.response.get("Error", {}).get("Code", "")
    message = error.response.get("Error", {}).get("Message", "")
    if code in _ABSENT:
        return ObjectNotFoundError(str(url))
    if code in _DENIED:
        action = "kms:Decrypt" if "kms" in message.lower() else "s3:GetObject"
        return AccessDeniedError(f"access is denied; allow {action} on it ({code}: {message})", where=str(url))
    if code in _FATAL:
        return PreflightError(f"S3 refuses: {code}: {message}", where=str(url))
    return StoppedError(f"S3 answers {code}: {message}; run the same command again", where=str(url))
