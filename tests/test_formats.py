"""Parquet, ORC and CSV are read to the byte or refused: random rows come back equal, damaged ones never as others."""

from __future__ import annotations

import base64
import os
import random
import re
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import quote, quote_plus, unquote_plus

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from inventory_enqueue.config import AwsSettings, Sizes
from inventory_enqueue.delivery.formats.parquet import ParquetSource
from inventory_enqueue.delivery.landing import LandedFile, Landing
from inventory_enqueue.delivery.reading import Room, columns_of, read_rows, read_selected
from inventory_enqueue.demo.odd_keys import ODD_KEYS
from inventory_enqueue.encoding import decode_keys
from inventory_enqueue.errors import IntegrityError, RefusedError
from inventory_enqueue.fingerprints import Scheme, Versions
from inventory_enqueue.manifest import FileFormat
from inventory_enqueue.report import Status
from inventory_enqueue.schema import OBJECT_SCHEMA
from tests.support import data_files
from tests.support.data_files import TYPES, UNKNOWN, Groups, OrcCompression, Row
from tests.support.deliveries import SOURCE, edit_manifest
from tests.support.file_pipeline import FilePipeline, keys
from tests.support.reader import ROOM, Outcome, Reader, arrow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from hypothesis.strategies import SearchStrategy

FORMATS: Final = list(FileFormat)
SOAK: Final = os.environ.get("SOAK") == "1"

# Together 2,000 cases, and 100,000 in a soak.
ROUND_TRIPS: Final = 250
DAMAGED_A_FORMAT: Final = 380
ALTERED_A_FORMAT: Final = 130
DECODED: Final = 220


def cases(number: int) -> settings:
    """How many random cases a test takes."""
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    return settings(max_examples=number * 50 if SOAK else number, deadline=None, suppress_health_check=checks)


# Random rows.

SCHEME: Final = Scheme(1, 2, 3, 4)
COLUMNS: Final = [*OBJECT_SCHEMA.names, *UNKNOWN]
_ANY: Final = st.characters(codec="utf-8")
_TEXTS: Final = st.sampled_from(["STANDARD", "GLACIER", "null", "NULL", "nan", "0012", " ", '"', "a,b", "a\nb", "\r\n"])
_YEAR_2261: Final = int(datetime(2261, 1, 1, tzinfo=UTC).timestamp() * 1000)


def moment(milliseconds: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=milliseconds)


def values(name: str) -> SearchStrategy[Any]:
    """Values of a column, as the three formats can all hold them."""
    kind = TYPES[name]
    if name == "bucket":
        return st.just(SOURCE)
    if name == "key":
        return st.sampled_from(ODD_KEYS) | st.text(_ANY, min_size=1, max_size=20)
    if kind == pa.bool_():
        return st.none() | st.booleans()
    if kind == pa.int64():
        return st.none() | st.integers(0, (1 << 63) - 1)
    if pa.types.is_timestamp(kind):
        return st.none() | st.integers(0, _YEAR_2261).map(moment)
    return st.none() | _TEXTS | st.text(_ANY, min_size=1, max_size=8)


POOLS: Final = st.fixed_dictionaries({name: st.lists(values(name), min_size=1, max_size=4) for name in COLUMNS})


def files_of(pools: dict[str, list[Any]], seed: int) -> list[Groups]:
    """Two files of two or three groups, their rows put together from values that were drawn: that is a few, not all."""
    chance = random.Random(seed)  # noqa: S311 - no secret

    def row() -> Row:
        return {name: chance.choice(pool) for name, pool in pools.items()}

    return [[[row() for _ in range(chance.randint(1, 4))] for _ in range(chance.randint(2, 3))] for _ in range(2)]


FILES: Final = st.builds(files_of, POOLS, st.integers(0, 1 << 32))
GROUPS: Final = FILES.map(lambda files: files[0])
ORDERS: Final = st.permutations(COLUMNS)


def expected(groups: Groups) -> list[Row]:
    """What reading must give: the columns of our schema, and no name for the null version."""
    return [
        {**{name: row[name] for name in OBJECT_SCHEMA.names}, "version_id": known_version(row["version_id"])}
        for group in groups
        for row in group
    ]


def known_version(version: str | None) -> str | None:
    return None if version in {"", "null"} else version


@dataclass(frozen=True)
class Foreign:
    """How another writer than AWS's writes Parquet."""

    types: dict[str, pa.DataType]
    empty_for_null: bool
    microseconds: int
    options: dict[str, Any]

    def write(self, columns: Sequence[str], groups: Groups) -> bytes:
        tables = [data_files.table(columns, [self.row(row) for row in group], self.types) for group in groups]
        return data_files.write_parquet(tables, **self.options)

    def row(self, row: Row) -> Row:
        """The row with what this writer can say beside: parts of a millisecond, empty texts."""
        finer = timedelta(microseconds=self.microseconds)
        row = {
            name: value + finer if isinstance(value, datetime) and self.types[name] != TYPES[name] else value
            for name, value in row.items()
        }
        return row | {name: "" for name in ("e_tag", "version_id") if self.empty_for_null and row[name] is None}

    def expected(self, groups: Groups) -> list[Row]:
        rows = expected(groups)
        if not self.empty_for_null:
            return rows
        return [{**row, "e_tag": row["e_tag"] or ""} for row in rows]


TEXT_TYPES: Final = (
    pa.string(),
    pa.large_string(),
    pa.string_view(),
    pa.binary(),
    pa.large_binary(),
    pa.dictionary(pa.int32(), pa.string()),
)
TIME_TYPES: Final = [
    pa.timestamp("ms", "UTC"),
    pa.timestamp("us", "UTC"),
    pa.timestamp("ns", "UTC"),
    pa.timestamp("us"),
    pa.timestamp("ns"),
    pa.timestamp("us", "America/New_York"),
]


def foreign_types(name: str) -> SearchStrategy[pa.DataType]:
    kind = TYPES[name]
    if kind == pa.string():
        return st.sampled_from(TEXT_TYPES)
    return st.sampled_from(TIME_TYPES) if pa.types.is_timestamp(kind) else st.just(kind)


FOREIGN: Final = st.builds(
    Foreign,
    st.fixed_dictionaries({name: foreign_types(name) for name in COLUMNS}),
    st.booleans(),
    st.integers(0, 999),
    st.fixed_dictionaries(
        {
            "compression": st.sampled_from(["snappy", "gzip", "zstd", "none"]),
            "version": st.sampled_from(["1.0", "2.6"]),
            "data_page_version": st.sampled_from(["1.0", "2.0"]),
            "use_dictionary": st.booleans(),
            "write_statistics": st.booleans(),
            "store_schema": st.booleans(),
        }
    ),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("formats")


def land(folder: Path, file_format: FileFormat, data: bytes, columns: Sequence[str]) -> LandedFile:
    path = folder / "file"
    path.write_bytes(data)
    return LandedFile(path, file_format, data_files.file_schema(file_format, columns), SOURCE, "data/file")


def read(landed: LandedFile, *, selected: bool, room: Room = ROOM) -> pa.Table:
    """A file's rows, as the index or the enqueue stage reads them."""
    return pa.concat_tables([OBJECT_SCHEMA.empty_table(), *tables_of(landed, selected=selected, room=room)])


def tables_of(landed: LandedFile, *, selected: bool, room: Room = ROOM) -> Iterator[pa.Table]:
    everything = pl.int_range(1000, dtype=pl.UInt64, eager=True)
    some = (rows for rows, _ in read_selected(landed, OBJECT_SCHEMA.names, room, everything))
    for rows in some if selected else read_rows(landed, OBJECT_SCHEMA.names, room):
        assert rows.quarantined == ()
        yield arrow(rows)


@dataclass(frozen=True)
class Case:
    """Rows to write, and how."""

    files: list[Groups]
    columns: list[str]
    foreign: Foreign
    compression: OrcCompression
    selected: bool
    room: Room

    def written(self, groups: Groups) -> Iterator[tuple[FileFormat, bytes, list[Row]]]:
        """A file in each format, with the rows that reading must give."""
        rows = expected(groups)
        yield FileFormat.PARQUET, data_files.write(FileFormat.PARQUET, self.columns, groups), rows
        yield FileFormat.PARQUET, self.foreign.write(self.columns, groups), self.foreign.expected(groups)
        yield FileFormat.ORC, data_files.write_orc(self.columns, groups, self.compression), rows
        yield FileFormat.CSV, data_files.write_csv(self.columns, groups), rows


COMPRESSIONS: Final[SearchStrategy[OrcCompression]] = st.sampled_from(["ZLIB", "UNCOMPRESSED", "SNAPPY"])


@cases(ROUND_TRIPS)
@given(st.builds(Case, FILES, ORDERS, FOREIGN, COMPRESSIONS, st.booleans(), st.sampled_from([ROOM, Room(0)])))
def test_rows_come_back_equal_from_all_three_formats_and_give_the_same_fingerprints(folder: Path, case: Case) -> None:
    for groups in case.files:
        tables = []
        for file_format, data, rows in case.written(groups):
            tables.append(read(land(folder, file_format, data, case.columns), selected=case.selected, room=case.room))
            assert tables[-1].to_pylist() == rows, file_format
        frame = pl.DataFrame(pl.from_arrow(pa.concat_tables(tables)))
        for versions in Versions:
            prints = frame.select(SCHEME.expressions(versions))
            first, *others = prints.iter_slices(prints.height // len(tables))
            assert all(first.equals(other) for other in others)


# Damaged files.


@dataclass(frozen=True)
class Damage:
    """What happened to a file's bytes, at a position modulo its length; below 0 it counts from the end."""

    kind: str
    position: int
    masks: tuple[int, ...]

    def __call__(self, data: bytes) -> bytes:
        at = self.position % len(data)
        match self.kind:
            case "truncate":
                return data[:at]
            case "flip":
                return self._flip(data, at)
            case "cut":
                return data[:at] + data[at + len(self.masks) :]
            case "insert":
                return data[:at] + bytes(self.masks) + data[at:]
            case _:
                return data[:at] + bytes(len(self.masks)) + data[at + len(self.masks) :]

    def _flip(self, data: bytes, at: int) -> bytes:
        """Each mask on a byte of its own, some of them far away."""
        damaged = bytearray(data)
        for number, mask in enumerate(self.masks):
            damaged[(at + number * mask) % len(data)] ^= mask
        return bytes(damaged)


DAMAGE: Final = st.builds(
    Damage,
    st.sampled_from(["flip", "flip", "flip", "truncate", "cut", "insert", "zero"]),
    # The ends of Parquet and ORC files say what is where.
    st.integers(-2000, -1) | st.integers(0, 100_000),
    st.lists(st.integers(1, 255), min_size=1, max_size=6).map(tuple),
)


@pytest.fixture(scope="module")
def reader() -> Iterator[Reader]:
    with Reader() as reader:
        yield reader


def landing(folder: Path) -> Landing:
    return Landing(AwsSettings(), folder / "scratch")


def never_lands(folder: Path, manifest: Path, number: int) -> None:
    """A data file that isn't what the manifest says is refused by its name; its neighbour isn't."""
    opened = landing(folder)
    delivery = opened.open(manifest)
    with pytest.raises(IntegrityError, match=re.escape(f"{delivery.manifest.files[number].name}: it")):
        opened.land(delivery, number)
    assert opened.land(delivery, 1 - number).path.exists()
    opened.close()


def land_all(folder: Path, manifest: Path, number: int) -> LandedFile:
    opened = landing(folder)
    landed = opened.land(opened.open(manifest), number)
    opened.close()
    return landed


@pytest.mark.parametrize("file_format", FORMATS)
@cases(DAMAGED_A_FORMAT)
@given(st.data())
def test_a_damaged_file_never_lands_and_gives_no_wrong_row_if_it_was_written_so(
    folder: Path, reader: Reader, file_format: FileFormat, data: st.DataObject
) -> None:
    """The MD5 tells of any damage done later. A writer that was broken can be told only from what it wrote."""
    files, columns = data.draw(FILES, "files"), data.draw(ORDERS, "columns")
    number, damage = data.draw(st.integers(0, 1), "file"), data.draw(DAMAGE, "damage")
    contents = [written(file_format, columns, groups, data) for groups in files]
    schema = data_files.file_schema(file_format, columns)
    manifest = data_files.deliver(folder, 1, file_format, schema, contents)
    inside = file_format is FileFormat.CSV and data.draw(st.booleans(), "inside of gzip")
    if inside:
        text = b"".join(data_files.csv_text(columns, group) for group in files[number])
        damaged = data_files.gzip_member(damage(text))
    else:
        damaged = damage(contents[number])
    assume(damaged != contents[number])
    path = folder / SOURCE / "daily" / "data" / f"1-{number}.{data_files.SUFFIX[file_format]}"
    path.write_bytes(damaged)
    never_lands(folder, manifest, number)

    entry = {"size": len(damaged), "MD5checksum": data_files.md5(damaged)}
    edit_manifest(manifest, lambda document: document["files"][number].update(entry))
    outcome = reader.read(land_all(folder, manifest, number))
    assert outcome.died is None, outcome.died
    assert outcome.broken is None, outcome.broken
    if file_format is FileFormat.CSV:
        if not inside:
            assert_no_wrong_row(outcome, files[number])
    elif damage.kind == "truncate":
        assert outcome.rows is None


def written(file_format: FileFormat, columns: Sequence[str], groups: Groups, data: st.DataObject) -> bytes:
    if file_format is FileFormat.ORC:
        # With padding for the stripes few bytes would matter.
        return data_files.write_orc(
            columns, groups, data.draw(st.sampled_from(["UNCOMPRESSED", "ZLIB"]), "compression")
        )
    return data_files.write(file_format, columns, groups)


def assert_no_wrong_row(outcome: Outcome, groups: Groups) -> None:
    """Gzip's own checksums find what was damaged; only whole members can be missing, or the whole be no gzip."""
    if outcome.rows is None:
        assert outcome.refused
        return
    whole = [expected(groups[:number]) for number in range(len(groups) + 1)]
    assert outcome.rows in whole or all(row["key"] is None for row in outcome.rows)


# Files with other columns than they should have.


VERSIONED: Final = {"version_id", "is_latest", "is_delete_marker"}
LISTED: Final = [
    "bucket",
    "key",
    "size",
    "last_modified_date",
    "e_tag",
    "storage_class",
    "intelligent_tiering_access_tier",
]
WRITTEN: Final = datetime(2026, 3, 1, tzinfo=UTC)


def good(number: int) -> Row:
    return {
        "bucket": SOURCE,
        "key": f"good/{number:03}",
        "size": number,
        "last_modified_date": WRITTEN,
        "e_tag": f"e{number}",
        "storage_class": "STANDARD",
        "intelligent_tiering_access_tier": None,
    }


OTHER_TYPES: Final[list[pa.DataType]] = [
    pa.string(),
    pa.int64(),
    pa.int32(),
    pa.float64(),
    pa.bool_(),
    pa.date32(),
    pa.decimal128(38, 0),
    pa.timestamp("ms"),
    pa.list_(pa.string()),
    pa.struct([("a", pa.string())]),
]


def without(name: str, groups: Groups) -> list[Row]:
    return [row | {name: None} for row in expected(groups)]


def assert_right_or_refused(outcome: Outcome, right: list[Row], *, refused: bool) -> None:
    assert outcome.broken is None, outcome.broken
    assert outcome.refused or (outcome.rows == right and not refused)
    assert outcome.refused is None or outcome.refused.startswith("data/file")


@pytest.mark.parametrize("file_format", [FileFormat.PARQUET, FileFormat.ORC])
@cases(ALTERED_A_FORMAT)
@given(st.data())
def test_a_file_with_other_columns_gives_the_right_rows_or_is_refused(
    folder: Path, reader: Reader, file_format: FileFormat, data: st.DataObject
) -> None:
    groups, columns = data.draw(GROUPS, "rows"), data.draw(ORDERS, "columns")
    name = data.draw(st.sampled_from(OBJECT_SCHEMA.names), "column")
    change = data.draw(st.sampled_from(["drop", "rename", "twice", "type"]), "change")
    tables = [data_files.table(columns, group) for group in groups]
    right = expected(groups)
    match change:
        case "drop":
            tables, right = [part.drop_columns(name) for part in tables], without(name, groups)
        case "rename":
            tables, right = [renamed(part, name, name.upper()) for part in tables], without(name, groups)
        case "twice":
            other = data.draw(st.sampled_from([column for column in columns if column != name]), "other")
            tables = [renamed(part, other, name) for part in tables]
        case _:
            kind = data.draw(st.sampled_from(OTHER_TYPES), "type")
            tables = [retyped(part, name, kind) for part in tables]
            assume(all(part.schema == tables[0].schema for part in tables))
    if file_format is FileFormat.PARQUET:
        content = data_files.write_parquet(tables)
    else:
        content = data_files.write_orc_tables(tables, "UNCOMPRESSED")
    outcome = reader.read(land(folder, file_format, content, columns))
    assert outcome.died is None, outcome.died
    lost = change in {"drop", "rename"} and name in {"bucket", "key", *VERSIONED}
    assert_right_or_refused(outcome, right, refused=lost or change == "twice")


@cases(ALTERED_A_FORMAT)
@given(st.data())
def test_a_csv_file_with_other_columns_gives_the_right_rows_or_is_refused(
    folder: Path, reader: Reader, data: st.DataObject
) -> None:
    groups, columns = data.draw(GROUPS, "rows"), data.draw(ORDERS, "columns")
    name = data.draw(st.sampled_from(OBJECT_SCHEMA.names), "column")
    change = data.draw(st.sampled_from(["drop", "rename", "twice", "one too few", "type"]), "change")
    names, written_columns, right = list(columns), list(columns), expected(groups)
    match change:
        case "drop":
            names.remove(name)
            written_columns.remove(name)
            right = without(name, groups)
        case "rename":
            names, right = [f"x_{column}" if column == name else column for column in names], without(name, groups)
        case "twice":
            names.append(name)
            written_columns.append(name)
        case "one too few":
            names.remove(name)
        case _:
            wrong = data.draw(st.sampled_from(["1.5", "-1", "yes", "2024-05-07", "x", "9" * 30]), "value")
            groups = [[row | {name: wrong} for row in group] for group in groups]
            # A text takes any value, and a row of another bucket is quarantined.
            right = [row | {"key": None} for row in expected(groups)] if name == "bucket" else expected(groups)
    landed = land(folder, FileFormat.CSV, data_files.write_csv(written_columns, groups), names)
    lost = change in {"drop", "rename"} and name in {"bucket", "key", *VERSIONED}
    assert_right_or_refused(reader.read(landed), right, refused=lost or change in {"twice", "one too few"})


def renamed(part: pa.Table, old: str, new: str) -> pa.Table:
    return part.rename_columns([new if column == old else column for column in part.column_names])


def retyped(part: pa.Table, name: str, kind: pa.DataType) -> pa.Table:
    """The column in another type: the same values where that can hold them, else something nested."""
    number, right = part.column_names.index(name), part[name]
    with suppress(pa.ArrowInvalid, pa.ArrowNotImplementedError):
        column = right.cast(kind)
        if column.cast(right.type).equals(right):
            return part.set_column(number, name, column)
    nested = kind if pa.types.is_nested(kind) else pa.list_(pa.string())
    value: Any = {"a": "x"} if pa.types.is_struct(nested) else ["x"]
    return part.set_column(number, name, pa.array([value] * part.num_rows, nested))


@pytest.mark.parametrize(
    ("name", "values", "kind", "says"),
    [
        pytest.param("size", [1, -1], pa.int64(), "'size' holds -1, not 0 to", id="negative-size"),
        pytest.param("size", ["1", "x"], pa.string(), "'size' can't be read as int64", id="size-is-text"),
        pytest.param("size", [0.5, 1], pa.float64(), "'size' can't be read as int64", id="size-has-a-fraction"),
        pytest.param("key", [12, None], pa.int64(), "'key' holds int64, not string", id="key-was-taken-for-a-number"),
        pytest.param("e_tag", [1e5, None], pa.float64(), "'e_tag' holds double, not string", id="e-tag-too"),
        pytest.param("key", [["a"], None], pa.list_(pa.string()), "'key' holds list", id="key-is-a-list"),
        pytest.param("bucket", [1, 1], pa.int64(), "can't be decoded", id="bucket-is-a-number"),
        pytest.param("size", [1, 2], pa.timestamp("us"), "'size' holds timestamp[us], not int64", id="size-is-a-time"),
        pytest.param("size", [True, None], pa.bool_(), "'size' holds bool, not int64", id="size-is-a-truth"),
        pytest.param("is_latest", [2, 1], pa.int64(), "'is_latest' holds int64, not bool", id="truth-is-a-number"),
        pytest.param(
            "last_modified_date", [1, 2], pa.int64(), "'last_modified_date' holds int64, not", id="time-is-a-number"
        ),
        pytest.param(
            "last_modified_date",
            [1_700_000_000_000_000, None],
            pa.timestamp("ms", "UTC"),
            "'last_modified_date' holds 1700000000000000, not",
            id="microseconds-taken-for-milliseconds",
        ),
    ],
)
def test_a_column_that_no_inventory_holds_is_refused_with_its_name_and_place(
    folder: Path, name: str, values: list[Any], kind: pa.DataType, says: str
) -> None:
    versioned = {"version_id": None, "is_latest": True, "is_delete_marker": False}
    right = data_files.table(OBJECT_SCHEMA.names, [good(number) | versioned for number in range(len(values))])
    wrong = right.set_column(right.column_names.index(name), name, pa.array(values, kind))
    landed = land(folder, FileFormat.PARQUET, data_files.write_parquet([wrong]), LISTED)
    with pytest.raises(IntegrityError, match=re.escape(says)) as refused:
        list(read_rows(landed, OBJECT_SCHEMA.names, ROOM))
    assert refused.value.where == "data/file, rows from 0"


@pytest.mark.parametrize("name", ["e_tag", "size", "last_modified_date", "storage_class"])
@pytest.mark.parametrize("kind", [pa.int32(), pa.null(), pa.list_(pa.string()), pa.struct([("a", pa.int32())])])
def test_a_column_that_is_null_throughout_may_have_any_type(folder: Path, name: str, kind: pa.DataType) -> None:
    """A foreign writer has to choose one without a value to go by."""
    part = data_files.table(LISTED, [good(0), good(1)])
    part = part.set_column(part.column_names.index(name), name, pa.array([None, None], kind))
    landed = land(folder, FileFormat.PARQUET, data_files.write_parquet([part]), LISTED)
    (batch,) = tables_of(landed, selected=False)
    assert batch.to_pylist() == [{**dict.fromkeys(VERSIONED), **good(number), name: None} for number in (0, 1)]


@pytest.mark.parametrize("file_format", [FileFormat.PARQUET, FileFormat.ORC])
@pytest.mark.parametrize(("name", "damaged"), [(b"e_tag", b"e_\xffag"), (b"key", b"\x80ey"), (b"e_tag", b"\xf0_tag")])
def test_a_column_name_that_is_no_utf8_is_refused(
    folder: Path, file_format: FileFormat, name: bytes, damaged: bytes
) -> None:
    tables = [data_files.table(LISTED, [good(0)])]
    write = data_files.write_parquet if file_format is FileFormat.PARQUET else uncompressed_orc
    content = write(tables).replace(name, damaged)
    with pytest.raises(IntegrityError, match="data/file: the file can't be decoded: 'utf-8' codec"):
        columns_of(land(folder, file_format, content, LISTED))


def uncompressed_orc(tables: Sequence[pa.Table]) -> bytes:
    return data_files.write_orc_tables(tables, "UNCOMPRESSED")


# Rows that can't be trusted.


@dataclass(frozen=True)
class Untrusted:
    """What is wrong with a row, and what the program has to say about it."""

    wrong: Row
    reason: str
    column: str
    raw: bytes | None
    formats: tuple[FileFormat, ...] = tuple(FORMATS)
    encode_keys: bool = True


_TYPED: Final = (FileFormat.PARQUET, FileFormat.ORC)
_CSV: Final = (FileFormat.CSV,)
UNTRUSTED: Final = {
    "null-key": Untrusted({"key": None}, "without a key", "key", None),
    "empty-key": Untrusted({"key": ""}, "without a key", "key", None),
    "other-bucket": Untrusted({"bucket": "other-bucket"}, "of another bucket", "bucket", b"other-bucket"),
    "null-bucket": Untrusted({"bucket": None}, "of another bucket", "bucket", None),
    "bucket-no-utf8": Untrusted({"bucket": b"source-b\xfccket"}, "of another bucket", "bucket", b"source-b\xfccket"),
    "key-no-utf8": Untrusted({"key": b"caf\xe9"}, "no UTF-8", "key", b"caf\xe9", _TYPED),
    "key-surrogate": Untrusted({"key": b"\xed\xa0\x80"}, "no UTF-8", "key", b"\xed\xa0\x80", _TYPED),
    "e-tag-no-utf8": Untrusted({"e_tag": b"\xc3("}, "no UTF-8", "e_tag", b"\xc3("),
    "class-no-utf8": Untrusted({"storage_class": b"\xff"}, "no UTF-8", "storage_class", b"\xff"),
    "key-raw-no-utf8": Untrusted({"key": b"caf\xe9"}, "no UTF-8", "key", b"caf\xe9", _CSV, encode_keys=False),
    "key-percent-no-utf8": Untrusted({"key": b"caf\xe9"}, "not URL-encoded", "key", b"caf%E9", _CSV),
    "key-percent-surrogate": Untrusted(
        {"key": b"%ED%A0%80"}, "not URL-encoded", "key", b"%ED%A0%80", _CSV, encode_keys=False
    ),
    "key-lone-percent": Untrusted({"key": b"100%"}, "not URL-encoded", "key", b"100%", _CSV, encode_keys=False),
    "key-bad-escape": Untrusted({"key": b"a%zz+b"}, "not URL-encoded", "key", b"a%zz+b", _CSV, encode_keys=False),
    "key-short-escape": Untrusted({"key": b"%41%4"}, "not URL-encoded", "key", b"%41%4", _CSV, encode_keys=False),
}


def deliver(
    root: Path, day: int, file_format: FileFormat, files: Sequence[Groups], *, encode_keys: bool = True
) -> Path:
    if file_format is FileFormat.CSV:
        contents = [data_files.write_csv(LISTED, groups, encode_keys=encode_keys) for groups in files]
    else:
        contents = [data_files.write(file_format, LISTED, groups) for groups in files]
    return data_files.deliver(root, day, file_format, data_files.file_schema(file_format, LISTED), contents)


@pytest.mark.parametrize(
    ("file_format", "untrusted"),
    [
        pytest.param(file_format, untrusted, id=f"{file_format}-{name}")
        for name, untrusted in UNTRUSTED.items()
        for file_format in untrusted.formats
    ],
)
def test_a_row_that_cannot_be_trusted_is_named_and_counted_and_all_others_are_sent(
    file_format: FileFormat, untrusted: Untrusted, tmp_path: Path
) -> None:
    daily = FilePipeline(tmp_path / "pipeline")
    bad = good(6) | untrusted.wrong
    files = [[[good(0), good(1)], [good(2)]], [[good(3), good(4)], [good(5), bad, good(7)]]]
    manifest = deliver(tmp_path, 1, file_format, files, encode_keys=untrusted.encode_keys)
    sent = daily.everything(manifest, max_quarantined=0.2)
    assert keys(sent) == Counter(f"good/{number:03}" for number in (0, 1, 2, 3, 4, 5, 7))
    counts = daily.report.counts
    assert [counts[name] for name in ("listed", "quarantined", "new", "selected")] == [8, 1, 7, 7]
    assert daily.quarantine() == [
        {
            "format_version": 1,
            "file": f"{SOURCE}/daily/data/1-1.{data_files.SUFFIX[file_format]}",
            "position": 3,
            "reason": untrusted.reason,
            "column": untrusted.column,
            "raw_base64": None if untrusted.raw is None else base64.b64encode(untrusted.raw).decode(),
        }
    ]


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_quarantined_row_is_never_sent_and_is_new_once_it_can_be_read(
    file_format: FileFormat, tmp_path: Path
) -> None:
    daily = FilePipeline(tmp_path / "pipeline")
    bad = good(1) | {"e_tag": b"\xff"}
    days = [
        deliver(tmp_path, day, file_format, [[[good(0)], [row]]]) for day, row in enumerate((bad, bad, good(1), bad), 1)
    ]
    daily.seed(days[0], max_quarantined=1.0)
    assert daily.run(days[1], max_quarantined=1.0) == []
    assert (daily.report.counts["quarantined"], daily.report.counts["unchanged"]) == (1, 1)
    assert keys(daily.run(days[2])) == Counter(["good/001"])
    assert daily.run(days[3], max_quarantined=1.0) == []
    # It is no more known to be there: that much has to be said.
    assert (daily.report.counts["quarantined"], daily.report.counts["deleted"]) == (1, 1)


def test_up_to_one_row_in_a_thousand_may_be_untrusted_by_default(tmp_path: Path) -> None:
    daily = FilePipeline(tmp_path / "pipeline")
    rows = [good(0) | {"bucket": "other"}, *(good(number) for number in range(1, 1000))]
    sent = daily.everything(deliver(tmp_path, 1, FileFormat.PARQUET, [[rows]]))
    assert (len(sent), daily.report.counts["quarantined"]) == (999, 1)


@pytest.mark.parametrize("file_format", FORMATS)
def test_more_untrusted_rows_than_allowed_are_refused_naming_the_file_that_names_them(
    file_format: FileFormat, tmp_path: Path
) -> None:
    daily = FilePipeline(tmp_path / "pipeline")
    daily.seed(deliver(tmp_path, 1, file_format, [[[good(0)]]]))
    baseline = daily.baseline()
    rows = [good(0), good(1) | {"bucket": "other"}, *(good(number) for number in range(2, 999))]
    manifest = deliver(tmp_path, 2, file_format, [[rows]])
    with pytest.raises(RefusedError, match="1 of 999 rows can't be trusted") as refused:
        daily.run(manifest)
    assert (refused.value.exit_code, daily.report.status) == (9, Status.REFUSED)
    assert str(daily.run_folder / "quarantine") in refused.value.message
    assert "--max-quarantined" in refused.value.message
    (named,) = daily.quarantine()
    assert (named["position"], named["column"], base64.b64decode(named["raw_base64"])) == (1, "bucket", b"other")
    assert (daily.messages(), daily.baseline()) == ([], baseline)
    assert len(daily.run(manifest, max_quarantined=0.002)) == 997, "the way on that the message names"


def test_of_very_many_untrusted_rows_a_part_is_named_and_all_are_counted(tmp_path: Path) -> None:
    daily = FilePipeline(tmp_path / "pipeline")
    rows = [good(number) | {"bucket": None} for number in range(10_005)]
    assert daily.everything(deliver(tmp_path, 1, FileFormat.PARQUET, [[rows]]), max_quarantined=1.0) == []
    assert (daily.report.counts["quarantined"], len(daily.quarantine())) == (10_005, 10_000)


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_row_whose_version_id_is_no_utf8_is_quarantined_under_current_versions_too(
    file_format: FileFormat, tmp_path: Path
) -> None:
    daily = FilePipeline(tmp_path / "pipeline")
    live = {"version_id": "v1", "is_latest": True, "is_delete_marker": False}
    rows = [good(0) | live, good(1) | live | {"version_id": b"\xff"}, good(2) | live]
    manifest = data_files.deliver_rows(tmp_path, 1, file_format, OBJECT_SCHEMA.names, [[rows]])
    sent = daily.everything(manifest, max_quarantined=0.5)
    assert keys(sent) == Counter(["good/000", "good/002"])
    assert daily.report.counts["quarantined"] == 1


def test_a_date_that_is_none_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    daily = FilePipeline(tmp_path / "pipeline")
    files = [[[good(0)]], [[good(1) | {"last_modified_date": "yesterday"}]]]
    manifest = deliver(tmp_path, 1, FileFormat.CSV, files)
    with pytest.raises(IntegrityError, match="last_modified_date"):
        daily.everything(manifest, sizes=Sizes(bytes_per_batch=1, workers=1))
    assert daily.messages() == []


def test_texts_may_hold_line_breaks_wherever_a_block_of_csv_ends(folder: Path) -> None:
    """S3 encodes keys, so that it writes none; a store that doesn't encode them may."""
    rows = [{"bucket": SOURCE, "key": f"{number}\n{'k' * (number % 700)}\r\n"} for number in range(15_000)]
    landed = land(folder, FileFormat.CSV, data_files.write_csv(["bucket", "key"], [rows], encode_keys=False), [])
    landed = replace(landed, file_schema="Bucket, Key")
    assert landed.path.stat().st_size < sum(len(row["key"]) for row in rows) > 1 << 22
    found = [key for batch in tables_of(landed, selected=False) for key in batch["key"].to_pylist()]
    assert found == [row["key"] for row in rows]


# Keys in CSV.


def strictly_decoded(text: str) -> str | None:
    """What the standard library makes of a form-encoded text, if it is one."""
    if re.search("%(?![0-9A-Fa-f]{2})", text):
        return None
    try:
        return unquote_plus(text, errors="strict")
    except UnicodeDecodeError:
        return None


_ESCAPES: Final = ["%41", "%2B", "%2b", "%25", "%00", "%C3%A9", "%c3%a9", "%F0%9F%AA%A3", "+", "/", "%2525"]
_BAD_ESCAPES: Final = ["%", "%z", "%4", "%zz", "%FF", "%C3", "%A9", "%ED%A0%80", "%C0%80", "%e2%82", "%\u0664\u0661"]
ENCODED: Final = st.lists(
    st.sampled_from(_ESCAPES) | st.sampled_from(_ESCAPES + _BAD_ESCAPES) | st.text(_ANY, max_size=4), max_size=6
).map("".join)


@cases(DECODED)
@given(st.lists(st.none() | ENCODED, max_size=12))
def test_keys_are_decoded_as_the_standard_library_does_strictly(texts: list[str | None]) -> None:
    decoded, undecodable = decode_keys(pa.array(texts, pa.string()))
    right = [None if text is None else strictly_decoded(text) for text in texts]
    assert decoded.to_pylist() == right
    assert list(undecodable) == [n for n, text in enumerate(texts) if text is not None and right[n] is None]


def lower_hex(key: str) -> str:
    return re.sub("%..", lambda escape: escape[0].lower(), quote_plus(key, safe="/"))


@pytest.mark.parametrize("encode", [quote_plus, quote, lower_hex])
def test_every_odd_key_is_decoded_exactly_once_however_it_was_encoded(encode: Callable[[str], str]) -> None:
    once = pa.array([encode(key) for key in ODD_KEYS])
    twice = pa.array([encode(encode(key)) for key in ODD_KEYS])
    assert decode_keys(once)[0].to_pylist() == list(ODD_KEYS)
    assert decode_keys(twice)[0] == once


@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_no_damaged_page_header_makes_polars_ask_for_more_memory_than_there_is(
    version: Literal["1.0", "2.0"], tmp_path: Path
) -> None:
    """It would end this process: a number of values below zero was taken for 2**64."""
    path = tmp_path / "file.parquet"
    table = pa.table({"is_latest": pa.array([True, None] * 50)})
    pq.write_table(table, path, compression="none", data_page_version=version, use_dictionary=False)
    whole = path.read_bytes()
    refused = 0
    for bit in range(8 * 4, 8 * 44):  # after the file's magic number
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with ParquetSource(path) as source:
            (group,) = source.row_groups(["is_latest"])
            frame = source.read(["is_latest"], group)
            refused += frame is None
            assert frame is None or frame.height == table.num_rows
    assert refused > 40
