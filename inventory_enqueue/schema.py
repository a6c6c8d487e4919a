"""The one Arrow schema of an object row, and the only normaliser to it. Every later stage assumes it.

Column names are S3 Inventory's own:
https://docs.aws.amazon.com/AmazonS3/latest/userguide/storage-inventory.html#storage-inventory-contents
"""

from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from inventory_enqueue.errors import IntegrityError

_FIELDS: list["pa.Field[Any]"] = [
    pa.field("bucket", pa.string(), nullable=False),
    pa.field("key", pa.string(), nullable=False),
    pa.field("version_id", pa.string()),
    pa.field("is_latest", pa.bool_()),
    pa.field("is_delete_marker", pa.bool_()),
    pa.field("size", pa.int64()),
    pa.field("last_modified_date", pa.timestamp("ms", tz="UTC")),
    pa.field("e_tag", pa.string()),
    pa.field("storage_class", pa.string()),
    pa.field("intelligent_tiering_access_tier", pa.string()),
]
OBJECT_SCHEMA = pa.schema(_FIELDS)
"""What a run can ask of a row. Inventory columns that no stage uses are left out, unknown ones ignored."""

REQUIRED = frozenset({"bucket", "key"})


def check_columns(present: Iterable[str], *, where: str) -> frozenset[str]:
    """Checks a data file's columns and returns those of OBJECT_SCHEMA.

    Raises:
        IntegrityError: A column that a run can't do without is missing.
    """
    known = frozenset(present) & frozenset(OBJECT_SCHEMA.names)
    missing = REQUIRED - known
    if missing:
        raise IntegrityError(f"the column {min(missing)!r} is missing; is this an S3 Inventory file?", where=where)
    versioned = {"version_id", "is_latest", "is_delete_marker"}
    if known & versioned and not versioned <= known:
        absent = ", ".join(sorted(versioned - known))
        raise IntegrityError(
            f"the inventory lists versions, but the column {absent} is missing: "
            "without it the live objects can't be told from old versions",
            where=where,
        )
    return known


def normalise(batch: pa.RecordBatch, columns: Iterable[str], *, source_bucket: str, where: str) -> pa.RecordBatch:
    """Casts a batch to the columns asked for, in OBJECT_SCHEMA's types; absent optional ones become nulls.

    Args:
        batch: Rows as a format's reader gives them, with `bucket` and `key`.
        columns: The names wanted, in order.
        source_bucket: The bucket that every row must be of.
        where: The file and the position of the batch's first row, for errors.

    Raises:
        IntegrityError: A row is of another bucket, a key is null or no UTF-8, or a value can't be cast.
    """
    _check_bucket(batch.column("bucket"), source_bucket, where)
    if batch.column("key").null_count:
        raise IntegrityError("a row has no key", where=where)
    present = frozenset(batch.schema.names)
    arrays = [
        _cast(batch.column(name), OBJECT_SCHEMA.field(name), where)
        if name in present
        else pa.nulls(batch.num_rows, OBJECT_SCHEMA.field(name).type)
        for name in columns
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=pa.schema([OBJECT_SCHEMA.field(name) for name in columns]))


def _check_bucket(column: "pa.Array[Any]", source_bucket: str, where: str) -> None:
    values = column.dictionary if isinstance(column, pa.DictionaryArray) else pc.unique(column)
    others = [value for value in values.cast(pa.binary()).to_pylist() if value != source_bucket.encode()]
    if others or (column.null_count and len(column)):
        name = others[0].decode(errors="backslashreplace") if others and others[0] is not None else "(null)"
        raise IntegrityError(f"a row is of bucket {name!r}, the manifest of {source_bucket!r}", where=where)


def _cast(column: "pa.Array[Any]", field: "pa.Field[Any]", where: str) -> "pa.Array[Any]":
    try:
        if isinstance(column, pa.DictionaryArray):
            column = column.dictionary_decode()
        if pa.types.is_string(field.type):
            column = column.cast(field.type)
            column.validate(full=True)  # pyarrow takes invalid UTF-8 in silence
            return column
        return column.cast(field.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        reason = str(error).splitlines()[0][:200]
        raise IntegrityError(
            f"the column {field.name!r} can't be read as {field.type}: {reason}", where=where
        ) from error
