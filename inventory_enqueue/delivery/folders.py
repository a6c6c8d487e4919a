"""Folders in S3 and on this machine: what is in them, and what is around them."""

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final

from botocore.exceptions import BotoCoreError, ClientError

from inventory_enqueue.config import S3Arguments
from inventory_enqueue.delivery.landing import Landing
from inventory_enqueue.errors import (
    InventoryEnqueueError,
    InventoryUnavailableError,
    PreflightError,
    StoppedError,
)
from inventory_enqueue.uris import Location, S3Url

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

LEVELS: Final = 3
"""From the bucket to the folder of an inventory's configuration: PREFIX/BUCKET/CONFIG/."""


def subfolders(landing: Landing, folder: Location, max_pages: int) -> tuple[list[str], bool]:
    """The names of the folders directly in a folder, and whether these are all.

    Args:
        landing: How S3 is reached.
        folder: With a slash at the end of its key, as as_folder makes it.
        max_pages: Of 1,000 names, that are asked for in S3.

    Raises:
        InventoryUnavailableError: There is no such folder or bucket.
        PreflightError, StoppedError: It can't be listed.
    """
    if isinstance(folder, S3Url):
        return _s3_subfolders(landing.client, folder, landing.arguments, max_pages)
    try:
        return [entry.name for entry in folder.iterdir() if entry.is_dir()], True
    except FileNotFoundError as error:
        raise InventoryUnavailableError("there is no such folder; check the path", where=str(folder)) from error
    except NotADirectoryError as error:
        raise InventoryUnavailableError(
            "this is a file; name the configuration's folder, or this file as the manifest", where=str(folder)
        ) from error
    except OSError as error:
        raise PreflightError(f"it can't be listed ({error.strerror})", where=str(folder)) from error


def _s3_subfolders(client: "S3Client", folder: S3Url, arguments: S3Arguments, max_pages: int) -> tuple[list[str], bool]:
    """As subfolders; see https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html ."""
    pages = client.get_paginator("list_objects_v2").paginate(
        Bucket=folder.bucket, Prefix=folder.key, Delimiter="/", **arguments
    )
    names: dict[str, None] = {}  # some S3-compatible servers repeat a page's last folder on the next page
    whole = True
    try:
        for page in islice(pages, max_pages):
            prefixes = (common["Prefix"] for common in page.get("CommonPrefixes", ()))
            names.update(dict.fromkeys(prefix[len(folder.key) : -1] for prefix in prefixes))
            whole = not page.get("IsTruncated")
    except ClientError as error:
        raise _translated(error, folder) from error
    except BotoCoreError as error:
        kind = PreflightError if "credential" in str(error).lower() else StoppedError
        raise kind(f"S3 can't be listed: {error}", where=str(folder)) from error
    return list(names), whole


def _translated(error: ClientError, folder: S3Url) -> InventoryEnqueueError:
    code = error.response.get("Error", {}).get("Code", "")
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    told = f"{code}: {error.response.get('Error', {}).get('Message', '')}"
    if code == "NoSuchBucket":
        return InventoryUnavailableError("there is no such bucket; check the URL", where=str(folder))
    if code == "AccessDenied":
        return PreflightError(
            f"access is denied; allow s3:ListBucket on the bucket, or name a manifest ({told})", where=str(folder)
        )
    if 300 <= status < 500:  # noqa: PLR2004 - HTTP's classes
        return PreflightError(f"S3 refuses: {told}", where=str(folder))
    return StoppedError(f"S3 answers {told}; run the same command again", where=str(folder))


def as_folder(location: Location) -> Location:
    """The same place with a slash at the end of its key, or as an absolute path."""
    if isinstance(location, Path):
        return location.absolute()
    slash = "/" if location.key and not location.key.endswith("/") else ""
    return S3Url(location.bucket, location.key + slash)


def child(folder: Location, name: str) -> Location:
    """A folder in a folder."""
    return S3Url(folder.bucket, f"{folder.key}{name}/") if isinstance(folder, S3Url) else folder / name


def folders_above(folder: Location) -> list[Location]:
    """The folders above a folder, the nearest first."""
    if isinstance(folder, Path):
        return list(folder.parents[:LEVELS])
    keys = [folder.key]
    while keys[-1] and len(keys) <= LEVELS:
        keys.append(keys[-1][: keys[-1].rfind("/", 0, -1) + 1])
    return [S3Url(folder.bucket, key) for key in keys[1:]]
