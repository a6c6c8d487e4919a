"""The few S3 calls outside the listing: small objects, and downloads that are hashed while they land; their errors."""

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
READ = "s3:GetObject"
LIST = "s3:ListBucket"
WRITE = "s3:PutObject"
DELETE = "s3:DeleteObject"
"""What IAM calls the permissions."""

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
    """The object may not be read or written; or it isn't there, and its bucket may not be listed."""


class ObjectNotFoundError(Exception):
    """The object isn't there; whoever asked knows what that means."""


class BucketNotFoundError(ObjectNotFoundError):
    """Nor is its bucket."""


def get_object(client: "S3Client", url: S3Url, arguments: S3Arguments) -> bytes:
    """An object's bytes.

    Raises:
        ObjectNotFoundError: It doesn't exist.
        PreflightError: Access is denied, or there are no credentials.
        StoppedError: S3 can't be reached.
    """
    with errors(url):
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
    with errors(url):
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
def errors(url: S3Url, action: str = READ) -> Iterator[None]:
    """Translates the SDK's errors.

    Args:
        url: What the block's requests are about.
        action: The permission that they need.

    Raises:
        ObjectNotFoundError, PreflightError, StoppedError: As get_object.
    """
    try:
        yield
    except ClientError as error:
        details = error.response.get("Error", {})
        raise error_for(details.get("Code", ""), details.get("Message", ""), url, action) from error
    except BotoCoreError as error:
        what = "read" if action in {READ, LIST} else "written"
        if "credential" in str(error).lower():
            raise PreflightError(f"S3 can't be {what}: {error}", where=str(url)) from error
        message = f"S3 can't be {what}: {error}; run the same command again"
        raise StoppedError(message, where=str(url)) from error


def error_for(code: str, message: str, url: S3Url, action: str) -> ObjectNotFoundError | InventoryEnqueueError:
    """What an error code of S3 means.

    https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
    """
    if code == "NoSuchBucket":
        return BucketNotFoundError(str(url))
    if code in _ABSENT:
        return ObjectNotFoundError(str(url))
    if code in _DENIED:
        # An object under a KMS key needs the key, too: https://docs.aws.amazon.com/AmazonS3/latest/userguide/UsingKMSEncryption.html
        kms = "kms:Decrypt" if action == READ else "kms:GenerateDataKey"
        allow = f"{kms if 'kms' in message.lower() else action} on it"
        if action == READ:
            allow += f", and {LIST} on its bucket, without which S3 denies what isn't there, too"
        return AccessDeniedError(f"access is denied; allow {allow} ({code}: {message})", where=str(url))
    if code in _FATAL:
        return PreflightError(f"S3 refuses: {code}: {message}", where=str(url))
    return StoppedError(f"S3 answers {code}: {message}; run the same command again", where=str(url))
