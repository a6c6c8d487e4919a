"""A delivery's manifest.json and manifest.checksum, parsed and checked. Pure: bytes in, values out.

Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/storage-inventory-location.html
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, TypeVar

from inventory_enqueue.errors import ChecksumMismatchError, IntegrityError
from inventory_enqueue.uris import is_bucket_name

T = TypeVar("T")

# Before a capital that begins a word: KeyName, ETag; the first letter of the name begins none.
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=^E)(?=Tag$)")
_MD5_HEX = re.compile(r"[0-9a-fA-F]{32}")


class FileFormat(StrEnum):
    """The formats of a delivery's data files, as fileFormat spells them."""

    PARQUET = "Parquet"
    ORC = "ORC"
    CSV = "CSV"


@dataclass(frozen=True)
class InventoryFile:
    """One data file of a delivery."""

    key: str
    """The whole key in the destination bucket."""
    size: int
    """Bytes."""
    md5_checksum: str
    """Hex, lower case."""

    @property
    def name(self) -> str:
        """The key's last segment."""
        return self.key.rpartition("/")[2]


@dataclass(frozen=True)
class Manifest:
    """AWS's fields in snake case, with md5: the identity of a delivery, since a path may be overwritten."""

    source_bucket: str
    destination_bucket: str
    creation_timestamp: datetime
    """When the scan of the bucket began."""
    file_format: FileFormat
    file_schema: str
    files: tuple[InventoryFile, ...]
    md5: str
    """Hex MD5 of manifest.json's bytes."""

    @property
    def columns(self) -> frozenset[str]:
        """The columns that fileSchema names, in snake case: an early word, since data files tell for themselves.

        It is `Bucket, Key, ETag` for CSV, `struct<bucket:string,…>` for ORC, `message s3.inventory { … }` for Parquet.
        """
        match self.file_format:
            case FileFormat.CSV:
                return frozenset(csv_columns(self.file_schema))
            case FileFormat.ORC:
                return frozenset(re.findall(r"(\w+):", self.file_schema))
            case FileFormat.PARQUET:
                return frozenset(re.findall(r"(?:required|optional)\s+\w+\s+(\w+)", self.file_schema))

    @property
    def inventory_id(self) -> str | None:
        """The id of the inventory configuration, as the data files' keys have it; None where they were moved."""
        parts = self.files[0].key.split("/") if self.files else []
        return parts[-3] if len(parts) > 3 and parts[-2] == "data" and parts[-4] == self.source_bucket else None  # noqa: PLR2004 - bucket/id/data/name

    @property
    def own_prefix(self) -> str | None:
        """The prefix of the inventory's own files, where they lie in the bucket that it lists; else None."""
        folder, separator, _ = self.files[0].key.rpartition("/data/") if self.files else ("", "", "")
        return f"{folder}/" if separator and self.source_bucket == self.destination_bucket else None

    @property
    def total_bytes(self) -> int:
        """The data files' size together."""
        return sum(file.size for file in self.files)

    @classmethod
    def parse(cls, data: bytes, *, where: str) -> "Manifest":
        """Parses manifest.json.

        Args:
            data: The file's bytes.
            where: Its URI, for errors.

        Raises:
            IntegrityError: It is not JSON, or a field is missing or not what AWS documents.
        """
        try:
            document = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise IntegrityError(f"not JSON ({error}); is this a manifest.json?", where=where) from error
        if not isinstance(document, dict):
            raise IntegrityError("a JSON object was expected; is this a manifest.json?", where=where)
        field = _Fields(document, where)
        return cls(
            source_bucket=field("sourceBucket", _bucket_name),
            destination_bucket=field("destinationBucket", _bucket_of_arn),
            creation_timestamp=field("creationTimestamp", _epoch_ms),
            file_format=field("fileFormat", _file_format),
            file_schema=field("fileSchema", _text),
            files=_unique(
                [
                    _file(_Fields(entry, f"{where}: files[{number}]"))
                    for number, entry in enumerate(field("files", _objects))
                ],
                where,
            ),
            md5=_md5_of(data),
        )


def check_checksum(data: bytes, checksum: bytes, *, where: str, checksum_where: str) -> None:
    """Compares manifest.json with the content of its manifest.checksum.

    Raises:
        ChecksumMismatchError: They differ: the delivery is incomplete, was overwritten, or is damaged.
    """
    md5 = _md5_of(data)
    expected = checksum.decode("ascii", errors="replace").strip().lower()
    if expected != md5:
        raise ChecksumMismatchError(
            f"its MD5 is {md5}, {checksum_where} says {expected[:40]!r}; fetch the delivery again, "
            "or wait if it is being written",
            where=where,
        )


def _md5_of(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


@dataclass(frozen=True)
class _Fields:
    """The door that each field goes through once: there and of the right type, or an error that names it."""

    document: dict[str, Any]
    where: str

    def __call__(self, name: str, convert: Callable[[Any], T]) -> T:
        if name not in self.document:
            raise IntegrityError(f"the field {name} is missing", where=self.where)
        value = self.document[name]
        try:
            return convert(value)
        except (TypeError, ValueError, OverflowError) as error:
            raise IntegrityError(f"{name} is {str(value)[:80]!r}: {str(error)[:200]}", where=self.where) from error


def _file(field: _Fields) -> InventoryFile:
    return InventoryFile(field("key", _text), field("size", _byte_count), field("MD5checksum", _md5))


def _unique(files: list[InventoryFile], where: str) -> tuple[InventoryFile, ...]:
    """A file that is named twice is read once."""
    unique = tuple(dict.fromkeys(files))
    keys = Counter(file.key for file in unique)
    if len(keys) != len(unique):
        key = keys.most_common(1)[0][0]
        raise IntegrityError(f"files names {key!r} twice, with another size or MD5", where=where)
    return unique


def csv_columns(file_schema: str) -> list[str]:
    """The columns of a CSV delivery, in order, in snake case: `ETag` is e_tag, as in ORC and Parquet."""
    names = [name.strip() for name in file_schema.split(",")]
    return [_CAMEL.sub("_", name).lower() for name in names]


def _text(value: Any) -> str:  # noqa: ANN401 - JSON values have any type until they passed here
    if not isinstance(value, str) or not value:
        raise ValueError("a text was expected")
    value.encode()  # a lone surrogate is JSON, but no text that S3 has
    return value


def _objects(value: Any) -> list[dict[str, Any]]:  # noqa: ANN401 - as above
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise ValueError("a list of objects was expected")
    return value


def _byte_count(value: Any) -> int:  # noqa: ANN401 - as above
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError("a number of bytes was expected")
    return value


def _md5(value: Any) -> str:  # noqa: ANN401 - as above
    if not isinstance(value, str) or not _MD5_HEX.fullmatch(value):
        raise ValueError("32 hex digits were expected")
    return value.lower()


def _epoch_ms(value: Any) -> datetime:  # noqa: ANN401 - as above
    if isinstance(value, bool):
        raise TypeError("a number of milliseconds was expected")
    # AWS writes a string of digits; some S3-compatible stores write a number.
    return datetime.fromtimestamp(int(value) / 1000, tz=UTC)


def _file_format(value: Any) -> FileFormat:  # noqa: ANN401 - as above
    try:
        return FileFormat(value)
    except ValueError:
        raise ValueError(f"{', '.join(FileFormat)} can be read") from None


def _bucket_name(value: Any) -> str:  # noqa: ANN401 - as above
    if not is_bucket_name(_text(value)):
        raise ValueError("a bucket's name was expected")
    return str(value)


def _bucket_of_arn(value: Any) -> str:  # noqa: ANN401 - as above
    """arn:aws:s3:::name (any partition), or a bare name."""
    return _bucket_name(_text(value).rpartition(":")[2])
