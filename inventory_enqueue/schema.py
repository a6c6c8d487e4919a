"""The one Arrow schema of an object row, and the only normaliser to it. Every later stage assumes it.

Column names are S3 Inventory's own:
https://docs.aws.amazon.com/AmazonS3/latest/userguide/storage-inventory.html#storage-inventory-contents
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from inventory_enqueue.encoding import decode_keys
from inventory_enqueue.errors import IntegrityError

_FIELDS: list["pa.Field[Any]"] = [
    pa.field("bucket", pa.string()),
    pa.field("key", pa.string()),
    pa.field("version_id", pa.string()),
    pa.field("is_latest", pa.bool_()),
    pa.field("is_delete_marker", pa.bool_()),
    pa.field("size", pa.int64()),
    pa.field("last_modified_date", pa.timestamp("ms", tz="UTC")),
    pa.field("e_tag", pa.string()),
    pa.field("storage_class", pa.string()),
    pa.field("intelligent_tiering_access_tier", pa.string()),
]
OBJECT_SCHEMA: Final = pa.schema(_FIELDS)
"""What a run can ask of a row. Inventory columns that no stage uses are left out, unknown ones ignored.

A null key marks a row that was quarantined; a null version_id is the null version."""

_TO_TEXT: Final = pc.CastOptions(pa.string(), allow_invalid_utf8=True)
_TEXT_TYPES: Final = (
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_string_view,
    pa.types.is_binary,
    pa.types.is_large_binary,
    pa.types.is_binary_view,
    pa.types.is_fixed_size_binary,
)
_ALSO: Final = {
    pa.string(): (),
    pa.int64(): (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal),
    pa.bool_(): (pa.types.is_boolean,),
    pa.timestamp("ms", tz="UTC"): (pa.types.is_timestamp, pa.types.is_date),
}
"""As what else than text a column may be written. A number is no time, for nobody says in which unit; and of a key 0012
that was taken for a number nobody knows any more what it was."""
_RANGES: Final = {
    "size": (0, (1 << 63) - 1),
    # Milliseconds of the years that four digits can name; what was written in a wrong unit lies far beyond.
    "last_modified_date": (-62_135_596_800_000, 253_402_300_799_999),
}

_NULL_VERSIONS: Final = ("", "null")
"""The null version is null in ORC and Parquet, an empty field in CSV; the S3 API and some stores write `null`."""

_POLARS_SCHEMA: Final = pl.Schema(OBJECT_SCHEMA)

REQUIRED: Final = frozenset({"bucket", "key"})


@dataclass(frozen=True)
class QuarantinedRow:
    """A row that can't be trusted: it is named and counted, never sent."""

    position: int
    """In its batch."""
    reason: str
    column: str
    raw: bytes | None
    """The column's value as the file holds it."""


@dataclass(frozen=True)
class Rows:
    """Some rows of a data file."""

    frame: pl.DataFrame
    """In OBJECT_SCHEMA's types, every row of the file in its place: a quarantined one has a null key."""
    quarantined: tuple[QuarantinedRow, ...] = ()


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


def normalise(
    batch: pa.RecordBatch, columns: Iterable[str], *, source_bucket: str, keys_are_encoded: bool, where: str
) -> Rows:
    """Casts a batch to the columns asked for, in OBJECT_SCHEMA's types; absent optional ones become nulls.

    Args:
        batch: Rows as a format's reader gives them, with `bucket` and `key`.
        columns: The names wanted, in order; `key` among them.
        source_bucket: The bucket that every row must be of.
        keys_are_encoded: Whether keys are URL-encoded in form style.
        where: The file and the position of the batch's first row, for errors.

    Raises:
        IntegrityError: A value can't be read as its column's type, or is no possible one.
    """
    present = frozenset(batch.schema.names)
    quarantined: dict[int, QuarantinedRow] = {}
    arrays: dict[str, pa.Array[Any]] = {}
    _check_bucket(batch.column("bucket"), source_bucket, quarantined)
    for name in columns:
        field = OBJECT_SCHEMA.field(name)
        if name not in present or batch.column(name).null_count == batch.num_rows:
            # A column that is null throughout may have any type: a writer can't know which.
            arrays[name] = pa.nulls(batch.num_rows, field.type)
            continue
        column = _checked(batch.column(name), field, where)
        if pa.types.is_string(field.type):
            arrays[name] = _text(name, column, quarantined)
        else:
            arrays[name] = _cast(column, field, where)
    if keys_are_encoded:
        arrays["key"] = _decoded(arrays["key"], quarantined)
    _check_keys(cast("pa.StringArray", arrays["key"]), quarantined)
    if quarantined:
        bad = pa.array([position in quarantined for position in range(batch.num_rows)])
        arrays["key"] = pc.if_else(bad, pa.scalar(None, pa.string()), arrays["key"])
    if "version_id" in arrays:
        arrays["version_id"] = _null_version(arrays["version_id"])
    schema = pa.schema([OBJECT_SCHEMA.field(name) for name in arrays])
    frame = pl.from_arrow(pa.RecordBatch.from_arrays(list(arrays.values()), schema=schema))
    assert isinstance(frame, pl.DataFrame)  # noqa: S101 - from_arrow's type also covers a single column
    return Rows(frame, tuple(quarantined.values()))


def is_plain(frame: pl.DataFrame, *, source_bucket: str) -> bool:
    """Whether from_plain gives for these rows what normalise would: they are such as AWS writes them.

    Args:
        frame: Rows with `bucket`, `key` and others of OBJECT_SCHEMA, in the file's types.
        source_bucket: The bucket that every row must be of.
    """
    if any(kind != _POLARS_SCHEMA[name] for name, kind in frame.schema.items()):
        return False
    key = pl.col("key")
    conditions = [
        key.is_not_null().all(),
        key.str.len_bytes().min().fill_null(1) > 0,
        pl.col("bucket").eq_missing(pl.lit(source_bucket)).all(),
    ]
    for name in _RANGES.keys() & set(frame.columns):
        value = pl.col(name).to_physical()
        low, high = _RANGES[name]
        conditions += [value.min().fill_null(low) >= low, value.max().fill_null(high) <= high]
    return bool(frame.select(pl.all_horizontal(conditions)).item())


def from_plain(frame: pl.DataFrame, columns: Sequence[str]) -> Rows:
    """The same as normalise, at a fraction of its cost, for rows that are plain.

    Args:
        frame: Rows for which is_plain holds.
        columns: As for normalise.
    """
    absent = [pl.lit(None, _POLARS_SCHEMA[name]).alias(name) for name in columns if name not in frame.columns]
    frame = frame.with_columns(absent)
    none = pl.col("version_id").is_in(_NULL_VERSIONS)
    versions = {"version_id": pl.when(~none).then("version_id")} if "version_id" in columns else {}
    return Rows(frame.with_columns(**versions).select(columns))


def _check_bucket(column: "pa.Array[Any]", source_bucket: str, quarantined: dict[int, QuarantinedRow]) -> None:
    values = column.dictionary if isinstance(column, pa.DictionaryArray) else pc.unique(column)
    expected = source_bucket.encode()
    if column.null_count == 0 and all(value == expected for value in values.cast(pa.binary()).to_pylist()):
        return
    plain = column.dictionary_decode() if isinstance(column, pa.DictionaryArray) else column
    for position, value in enumerate(plain.cast(pa.binary()).to_pylist()):
        if value != expected:
            quarantined[position] = QuarantinedRow(position, "of another bucket", "bucket", value)


def _checked(column: "pa.Array[Any]", field: "pa.Field[Any]", where: str) -> "pa.Array[Any]":
    """The column without a dictionary, if its type can hold what the field does."""
    if isinstance(column, pa.DictionaryArray):
        column = column.dictionary_decode()
    if not any(is_kind(column.type) for is_kind in (*_TEXT_TYPES, *_ALSO[field.type])):
        raise IntegrityError(f"the column {field.name!r} holds {column.type}, not {field.type}", where=where)
    return column


def _text(name: str, column: "pa.Array[Any]", quarantined: dict[int, QuarantinedRow]) -> pa.StringArray:
    """The column as strings; rows whose bytes are no UTF-8 are quarantined, and null here."""
    text = cast("pa.StringArray", column.cast(options=_TO_TEXT))  # type: ignore[call-arg]  # the options hold the type
    try:
        # pyarrow takes invalid UTF-8 in silence, polars doesn't.
        text.validate(full=True)
    except pa.ArrowInvalid:
        values = text.cast(pa.binary()).to_pylist()
        for position, value in enumerate(values):
            if value is not None and not _is_utf8(value):
                quarantined.setdefault(position, QuarantinedRow(position, "no UTF-8", name, value))
                values[position] = None
        return cast("pa.StringArray", pa.array(values, pa.binary()).cast(pa.string()))
    return text


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _decoded(keys: "pa.Array[Any]", quarantined: dict[int, QuarantinedRow]) -> "pa.Array[Any]":
    decoded, undecodable = decode_keys(keys)
    for position in undecodable:
        raw = keys[position].as_py().encode()
        quarantined.setdefault(position, QuarantinedRow(position, "not URL-encoded", "key", raw))
    return decoded


def _check_keys(keys: pa.StringArray, quarantined: dict[int, QuarantinedRow]) -> None:
    """An object has a key of at least one byte."""
    lengths = pc.binary_length(keys)
    if keys.null_count or (len(lengths) and pc.min(lengths).as_py() == 0):
        for position, length in enumerate(lengths.to_pylist()):
            if not length:
                quarantined.setdefault(position, QuarantinedRow(position, "without a key", "key", None))


def _null_version(versions: "pa.Array[Any]") -> pa.StringArray:
    none = pc.is_in(versions, value_set=pa.array(_NULL_VERSIONS))
    return cast("pa.StringArray", pc.if_else(none, pa.scalar(None, pa.string()), versions))


def _cast(column: "pa.Array[Any]", field: "pa.Field[Any]", where: str) -> "pa.Array[Any]":
    try:
        if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
            column = column.cast(pa.string())
        # Foreign writers have finer timestamps: what is below a millisecond is cut off, as S3 does.
        column = column.cast(options=pc.CastOptions(field.type, allow_time_truncate=True))  # type: ignore[call-arg]  # as above
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        reason = str(error).splitlines()[0][:200]
        raise IntegrityError(
            f"the column {field.name!r} can't be read as {field.type}: {reason}", where=where
        ) from error
    _check_range(column, field, where)
    return column


def _check_range(column: "pa.Array[Any]", field: "pa.Field[Any]", where: str) -> None:
    """Later stages take a value as it is."""
    if field.name not in _RANGES:
        return
    low, high = _RANGES[field.name]
    extremes: Any = pc.min_max(column.cast(pa.int64()))
    for value in extremes.as_py().values():
        if value is not None and not low <= value <= high:
            raise IntegrityError(f"the column {field.name!r} holds {value}, not {low} to {high}", where=where)
