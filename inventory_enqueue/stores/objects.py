"""Requests for the objects of one bucket, the conditional ones among them; their errors in this package's words."""

import random
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, TypedDict

from boto3.s3.transfer import TransferConfig
from botocore.exceptions import ClientError

from inventory_enqueue.aws import s3
from inventory_enqueue.errors import PreflightError, StoppedError
from inventory_enqueue.store import ConflictError
from inventory_enqueue.uris import S3Url

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client
    from types_boto3_s3.type_defs import GetObjectOutputTypeDef

_LARGE: Final = 8 * 1024 * 1024
_UPLOADS: Final = TransferConfig(
    multipart_threshold=_LARGE,
    multipart_chunksize=_LARGE,
    # Parts go one after another, from the calling thread: the tasks that write are parallel already.
    use_threads=False,
)
_ATTEMPTS: Final = 5
_PAUSE: Final = 0.2
"""Seconds before the second attempt, at most; twice as many before each further one."""


class Found(NamedTuple):
    """An object."""

    data: bytes
    version: str
    """Its ETag: two contents never have the same one, and a content that is written again may keep its own."""
    age: float
    """Seconds since it was written, both times by the server's clock and in whole seconds."""


class Listed(NamedTuple):
    """What is directly under a prefix, without that prefix."""

    objects: list[str]
    folders: list[str]


class _Condition(TypedDict, total=False):
    IfMatch: str
    IfNoneMatch: str


class _BusyError(ConflictError):
    """Another conditional write of the same object is under way, and nobody knows yet which one wins."""


class Objects:
    """A bucket. Each method raises PreflightError or StoppedError where S3 refuses or can't be reached."""

    def __init__(self, client: "S3Client", bucket: str) -> None:
        """Takes the client."""
        self._client = client
        self._bucket = bucket

    def url(self, key: str) -> S3Url:
        """Where an object is."""
        return S3Url(self._bucket, key)

    def get(self, key: str) -> Found:
        """An object.

        Raises:
            FileNotFoundError: It doesn't exist.
        """
        with self._errors(key, s3.READ):
            answer = self._client.get_object(Bucket=self._bucket, Key=key)
            with closing(answer["Body"]) as body:
                return Found(body.read(), answer["ETag"], self._age(key, answer))

    def find(self, key: str) -> Found | None:
        """An object, or None where there is none."""
        try:
            return self.get(key)
        except FileNotFoundError:
            return None

    def size(self, key: str) -> int | None:
        """How many bytes an object has, or None where there is none."""
        try:
            with self._errors(key, s3.READ):
                return self._client.head_object(Bucket=self._bucket, Key=key)["ContentLength"]
        except FileNotFoundError:
            return None

    def download(self, key: str, target: Path) -> None:
        """Writes an object to a file.

        Raises:
            FileNotFoundError: It doesn't exist.
            OSError: The disk refused it.
        """
        with self._errors(key, s3.READ):
            s3.download(self._client, self.url(key), {}, target)

    def put(self, key: str, data: bytes) -> None:
        """Writes or replaces."""
        with self._errors(key, s3.WRITE):
            self._client.put_object(Bucket=self._bucket, Key=key, Body=data)

    def upload(self, key: str, path: Path) -> None:
        """Writes or replaces, in parts where the file is large: S3 shows the object once the last one is there."""
        if path.stat().st_size < _LARGE:
            self.put(key, path.read_bytes())
            return
        with self._errors(key, s3.WRITE), path.open("rb") as file:
            self._client.upload_fileobj(file, self._bucket, key, Config=_UPLOADS)

    def put_if(self, key: str, data: bytes, version: str | None) -> str:
        """Writes where the version is still this one, or where nothing is, and returns the new version.

        An attempt whose answer was lost may have succeeded, and then the SDK's own next attempt meets a conflict with
        it. So after each failure the object is looked at: it is ours if it holds these very bytes.
        https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html

        Args:
            key: Of the object.
            data: Its bytes. Where writers compete, they hold something that no other writer's have.
            version: Of what is replaced, or None for nothing.

        Raises:
            ConflictError: The condition doesn't hold.
            PreflightError: The store doesn't know conditional writes.
        """
        condition: _Condition = {"IfNoneMatch": "*"} if version is None else {"IfMatch": version}
        for attempt in range(_ATTEMPTS):
            time.sleep(random.uniform(0, _PAUSE * (2**attempt - 1)))  # noqa: S311 - only to keep writers apart
            try:
                return self._put_if(key, data, condition)
            except (ConflictError, StoppedError) as error:
                found = self.find(key)
                if found is not None and found.data == data:
                    return found.version
                if not isinstance(error, _BusyError):
                    raise
        raise ConflictError(str(self.url(key)))

    def _put_if(self, key: str, data: bytes, condition: _Condition) -> str:
        with self._errors(key, s3.WRITE), _conflicts(self.url(key), condition):
            return self._client.put_object(Bucket=self._bucket, Key=key, Body=data, **condition)["ETag"]

    def listed(self, folder: str) -> Listed:
        """What is directly under a prefix that is empty or ends with a slash."""
        listed = Listed([], [])
        with self._errors(folder, s3.LIST):
            pages = self._client.get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self._bucket, Prefix=folder, Delimiter="/"):
                listed.objects.extend(entry["Key"][len(folder) :] for entry in page.get("Contents", ()))
                listed.folders.extend(entry["Prefix"][len(folder) : -1] for entry in page.get("CommonPrefixes", ()))
        # Consoles make an empty object for the folder itself.
        return Listed([name for name in listed.objects if name], listed.folders)

    def delete(self, key: str) -> None:
        """Removes an object, if there is one."""
        with self._errors(key, s3.DELETE):
            self._client.delete_object(Bucket=self._bucket, Key=key)

    def delete_folder(self, folder: str) -> None:
        """Removes all objects under a prefix: a page of a listing has as many as a request may name, 1,000."""
        with self._errors(folder, s3.LIST):
            for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=folder):
                self._delete_all([entry["Key"] for entry in page.get("Contents", ())])

    def _delete_all(self, keys: list[str]) -> None:
        if not keys:
            return
        with self._errors(keys[0], s3.DELETE):
            answer = self._client.delete_objects(
                Bucket=self._bucket, Delete={"Objects": [{"Key": key} for key in keys], "Quiet": True}
            )
        # Keys fail one by one, in an answer with status 200.
        # https://docs.aws.amazon.com/AmazonS3/latest/API/API_DeleteObjects.html
        for failed in answer.get("Errors", ()):
            url = self.url(failed.get("Key", keys[0]))
            raise s3.error_for(failed.get("Code", ""), failed.get("Message", ""), url, s3.DELETE)

    def _age(self, key: str, answer: "GetObjectOutputTypeDef") -> float:
        date = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
        if date is None:
            raise PreflightError(
                "the store's answer has no Date, by which the age of a lock is told; name another --state",
                where=str(self.url(key)),
            )
        return (parsedate_to_datetime(date) - answer["LastModified"]).total_seconds()

    @contextmanager
    def _errors(self, key: str, action: str) -> Iterator[None]:
        url = self.url(key)
        try:
            with s3.errors(url, action):
                yield
        except s3.BucketNotFoundError as error:
            raise PreflightError(f"the bucket {self._bucket!r} doesn't exist; make it", where=str(url)) from error
        except s3.ObjectNotFoundError as error:
            raise FileNotFoundError(f"there is no object {url}") from error


@contextmanager
def _conflicts(url: S3Url, condition: _Condition) -> Iterator[None]:
    """Tells the answers to a conditional write from others."""
    try:
        yield
    except ClientError as error:
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        code = error.response.get("Error", {}).get("Code")
        if status == 412 or code == "NoSuchKey":  # noqa: PLR2004 - Precondition Failed
            raise ConflictError(str(url)) from error
        if status == 409:  # noqa: PLR2004 - Conflict
            raise _BusyError(str(url)) from error
        if code == "NotImplemented":
            raise conditions_missing(url, next(iter(condition))) from error
        raise


def conditions_missing(url: S3Url, condition: str) -> PreflightError:
    """The error for a store that doesn't honour a condition: its argument in the SDK."""
    header = {"IfMatch": "If-Match", "IfNoneMatch": "If-None-Match"}[condition]
    return PreflightError(
        f"the store doesn't honour {header}, so nothing keeps two runs of a pipeline apart: name another --state, in a "
        "bucket of Amazon S3, of a store with conditional writes, or a local folder",
        where=str(url),
    )
