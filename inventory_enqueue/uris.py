"""Where things are: s3://bucket/key, or a local path."""

import re
from dataclasses import dataclass
from pathlib import Path

# Wider than AWS's rule for new buckets (https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html):
# old buckets and S3-compatible stores have capitals and underscores. Never a slash, so that a name is no path.
_BUCKET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")


@dataclass(frozen=True)
class S3Url:
    """An object or a prefix in S3."""

    bucket: str
    key: str

    def __str__(self) -> str:
        """As the AWS CLI writes it."""
        return f"s3://{self.bucket}/{self.key}"

    def sibling(self, name: str) -> "S3Url":
        """The object of this name beside this one."""
        folder, slash, _ = self.key.rpartition("/")
        return S3Url(self.bucket, f"{folder}{slash}{name}")


Location = S3Url | Path


def is_bucket_name(name: str) -> bool:
    """Whether this can be the name of a bucket."""
    return _BUCKET_NAME.fullmatch(name) is not None and ".." not in name


def parse_location(text: str) -> Location:
    """Parses an s3:// URL or a local path.

    Raises:
        ValueError: It has another scheme, or the bucket's name is none.
    """
    if text.startswith("s3://"):
        bucket, _, key = text.removeprefix("s3://").partition("/")
        if not is_bucket_name(bucket):
            raise ValueError(f"{text!r}: {bucket!r} is not a bucket's name")
        return S3Url(bucket, key)
    if "://" in text:
        raise ValueError(f"{text!r}: only s3:// URLs and local paths are supported")
    if not text:
        raise ValueError("the path is empty")
    return Path(text)
