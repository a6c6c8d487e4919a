"""Objects of a bucket as rows of an inventory, and deliveries of them: what tests of changes have in common."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from inventory_enqueue.manifest import FileFormat
from tests.support import data_files
from tests.support.data_files import deliver_rows
from tests.support.deliveries import DAY_1, SOURCE

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.support.data_files import Groups, Row

CURRENT: Final = ["bucket", "key", "size", "last_modified_date", "e_tag", "storage_class"]
VERSIONED: Final = ["bucket", "key", "version_id", "is_latest", "is_delete_marker", *CURRENT[2:]]
WRITTEN: Final = DAY_1 - timedelta(hours=1)


def listed(key: str, **values: Any) -> Row:  # noqa: ANN401 - a value of any column
    """An object of the bucket, as its row lists it."""
    return {
        "bucket": SOURCE,
        "key": key,
        "size": len(key),
        "last_modified_date": WRITTEN,
        "e_tag": data_files.md5(key.encode()),
        "storage_class": "STANDARD",
        **values,
    }


def objects(*names: str, **values: Any) -> list[Row]:  # noqa: ANN401 - a value of any column
    return [listed(name, **values) for name in names]


def version(key: str, version_id: str | None, *, latest: bool = True, marker: bool = False) -> Row:
    """A version of an object; a delete marker has no content."""
    content = data_files.md5(f"{key} {version_id}".encode())
    row = listed(key, version_id=version_id, is_latest=latest, is_delete_marker=marker, e_tag=content)
    return row | dict.fromkeys(["size", "e_tag", "storage_class"]) if marker else row


def deliver(
    root: Path,
    day: int,
    *files: Sequence[Row],
    columns: Sequence[str] = CURRENT,
    file_format: FileFormat = FileFormat.PARQUET,
) -> Path:
    """Write a delivery whose files have a row group, stripe or gzip member for each of two halves."""
    halves: list[Groups] = [[list(rows[: len(rows) // 2]), list(rows[len(rows) // 2 :])] for rows in files]
    return deliver_rows(root, day, file_format, columns, halves)
