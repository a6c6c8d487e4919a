"""The footer of a Parquet file, damaged at any bit: the right rows or a refusal, and the process lives."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import resource
import sys
import time
import traceback
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from inventory_enqueue.config import AwsSettings
from inventory_enqueue.delivery.formats import thrift
from inventory_enqueue.delivery.formats.footer import read_metadata
from inventory_enqueue.delivery.known_keys import read_known_keys
from inventory_enqueue.delivery.landing import LandedFile, Landing
from inventory_enqueue.delivery.reading import Room, columns_of, read_rows
from inventory_enqueue.errors import IntegrityError
from inventory_enqueue.manifest import FileFormat
from tests.support.data_files import write_parquet
from tests.support.deliveries import SOURCE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.connection import Connection
    from pathlib import Path

COLUMNS: Final = ("bucket", "key", "size")
TABLE: Final = pa.table(
    {"bucket": [SOURCE] * 6, "key": [f"k/{number}" for number in range(6)], "size": [0, None, 2, 3, None, 5]}
)
KEYS: Final = TABLE.select(["key"])
TAIL: Final = 8
"""Bytes of the footer's length and the magic number."""
STEP: Final = 1 if os.environ.get("SOAK") == "1" else 5
"""Bits from one that is flipped to the next."""
_MEMORY: Final = 6 << 30


def footer_of(data: bytes) -> int:
    """Where the footer starts."""
    return len(data) - TAIL - int.from_bytes(data[-TAIL:-4], "little")


def inventory_rows(path: Path) -> list[Any]:
    """A data file's rows: by polars, then by pyarrow; what one of them refuses is left out."""
    landed = LandedFile(path, FileFormat.PARQUET, "", SOURCE, "data/file")
    found: list[Any] = []
    for room in (Room(1 << 30), Room(0)):
        with suppress(IntegrityError):
            assert columns_of(landed)
            found.append(pl.concat([rows.frame for rows in read_rows(landed, COLUMNS, room)]).rows())
    return found


def known_rows(path: Path) -> list[Any]:
    """The same for a file of known keys, in any order."""
    frames = read_known_keys(Landing(AwsSettings(), path.parent / "scratch"), path, with_versions=False)
    with suppress(IntegrityError):
        return [sorted(row for frame in frames for row in frame.rows())]
    return []


def read_flipped(
    connection: Connection[Any, Any], path: Path, data: bytes, bits: range, read: Callable[[Path], list[Any]]
) -> None:
    """In a process of its own: tells of each bit before it is flipped, and of what became of the file behind."""
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    for bit in bits:
        connection.send(bit)
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            connection.send(read(path))
        except BaseException:  # noqa: BLE001 - a panic of polars is no Exception
            connection.send(traceback.format_exc())


def flipped(
    folder: Path, data: bytes, bits: range, read: Callable[[Path], list[Any]]
) -> Iterator[tuple[int, list[Any] | str]]:
    """Each bit, and what was read; a text where anything else than IntegrityError was raised, or the process died."""
    context = multiprocessing.get_context("spawn")
    while bits:
        ours, theirs = context.Pipe()
        process = context.Process(target=read_flipped, args=(theirs, folder / "f.parquet", data, bits, read))
        process.start()
        theirs.close()
        bit = bits[0]
        try:
            for bit in bits:
                assert ours.recv() == bit
                yield bit, ours.recv()
        except EOFError:
            process.join()
            yield bit, f"the process died: {process.exitcode}"
        else:
            process.join()
        finally:
            process.kill()
            process.join()
            ours.close()
        bits = bits[bits.index(bit) + 1 :]


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "none", "write_page_index": True},
        {"compression": "snappy", "data_page_version": "2.0", "use_dictionary": False},
    ],
)
def test_no_bit_of_a_footer_gives_wrong_rows_or_ends_the_process(tmp_path: Path, options: dict[str, Any]) -> None:
    """Statistics of sizes that contradict each other made pyarrow end it.

    A schema's bits say what values mean, such as whether there are nulls: another meaning contradicts nothing.
    """
    data = write_parquet([TABLE[:3], TABLE[3:]], store_schema=False, **options)
    right = TABLE.to_pylist()
    footer = footer_of(data)
    meaning = range(8 * footer, 8 * data.index(b"size", footer))
    bits = range(8 * footer, 8 * len(data), STEP)
    read = refused = 0
    for bit, outcome in flipped(tmp_path, data, bits, inventory_rows):
        assert isinstance(outcome, list), (bit, outcome)
        for rows in outcome:
            assert bit in meaning or [dict(zip(COLUMNS, row, strict=True)) for row in rows] == right, bit
        read += bool(outcome)
        refused += not outcome
    assert read + refused == len(bits)
    assert min(read, refused) > len(bits) // 5


def test_no_bit_of_a_file_of_known_keys_ends_the_process(tmp_path: Path) -> None:
    """A damaged page header made polars end it; of metadata that are no UTF-8 it makes a panic."""
    tables = [part.replace_schema_metadata({"note": "n" * 20}) for part in (KEYS[:3], KEYS[3:])]
    data = write_parquet(tables, compression="none", write_page_index=True)
    bits = range(8 * 4, 8 * len(data), STEP)
    outcomes = list(flipped(tmp_path, data, bits, known_rows))
    assert [(bit, outcome) for bit, outcome in outcomes if not isinstance(outcome, list)] == []
    read = sum(bool(outcome) for _, outcome in outcomes)
    assert min(read, len(outcomes) - read) > len(outcomes) // 5


def test_it_says_what_pyarrow_reads_of_a_sound_one(tmp_path: Path) -> None:
    path = tmp_path / "file"
    rows = 1000
    table = pa.table(
        {
            "key": [f"k/{number}" for number in range(rows)],
            "nothing": pa.nulls(rows, pa.string()),
            "list": [[number] * (number % 3) for number in range(rows)],
            "struct": [{"a": number, "b": {"c": [str(number)]}} for number in range(rows)],
        }
    )
    for dictionary, version in itertools.product([True, False], ["1.0", "2.0"]):
        path.write_bytes(
            write_parquet(
                [table[:0], table[:1], table[1:]],
                use_dictionary=dictionary,
                data_page_version=version,
                write_page_index=True,
            )
        )
        ours, theirs = read_metadata(path), pq.read_metadata(path)
        assert ours.num_rows == theirs.num_rows == rows
        assert [group.num_rows for group in ours.row_groups] == [0, 1, rows - 1]
        for number, group in enumerate(ours.row_groups):
            chunks = [theirs.row_group(number).column(index) for index in range(theirs.num_columns)]
            for chunk, column in zip(group.columns, chunks, strict=True):
                assert b".".join(chunk.leaf.path).decode() == column.path_in_schema
                assert chunk.num_values == column.num_values
                assert chunk.total_uncompressed_size == column.total_uncompressed_size
                assert chunk.end - chunk.start == column.total_compressed_size


# What no single bit makes of a footer, written by hand: fields as Thrift's compact protocol has them.


def varint(number: int) -> bytes:
    groups: list[int] = []
    while number > 127:
        groups.append(number & 127 | 128)
        number >>= 7
    return bytes([*groups, number])


def nested_schema(depth: int) -> bytes:
    """A footer whose schema is a column in so many others, and that has no rows."""
    group, leaf = b"\x48\x01a\x15\x02\x00", b"\x15\x02\x38\x01a\x00"
    return b"\x15\x02\x19\xfc" + varint(depth + 1) + group * depth + leaf + b"\x16\x00\x19\x0c\x00"


DEEP_STRUCTS: Final = b"\x5c" + b"\x1c" * 100_000
DEEP_LISTS: Final = b"\x59" + b"\x19" * 100_000


@pytest.mark.parametrize(
    ("footer", "says"),
    [
        (nested_schema(100_000), "its schema nests to more than 100 levels"),
        (DEEP_STRUCTS, "its values nest to more than 64 levels"),
        (DEEP_LISTS, "its values nest to more than 64 levels"),
        (b"\x59\xf3" + varint(1 << 62) + b"\x00", "it has a list of 4611686018427387904 elements"),
        (b"\x59\xf1" + varint(1 << 40) + b"\x00", "it has a list of 1099511627776 elements"),
        (b"\x58" + varint(1 << 63) + b"\x00", "it ends too early"),
        (b"\x36" + b"\xff" * 100_000 + b"\x00\x00", "it has a number of more than 10 bytes"),
        (b"\x36" + b"\xff" * 9 + b"\x7f\x00", "it has a number of more than 64 bits"),
        (b"\x36\x02\x06\x06\x02\x00", "it has field 3 twice"),
        (b"\x38\x01a\x00", "it has a value of type 8 in the place of an integer"),
        (b"\x5b\x00\x00", "it has a value of type 11 in the place of one that Parquet has"),
        (b"\x00", "the field 2 is missing"),
        (b"", "it ends too early"),
    ],
    ids=range(13),
)
def test_one_that_leads_astray_is_refused_at_once(tmp_path: Path, footer: bytes, says: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"PAR1" + footer + len(footer).to_bytes(4, "little") + b"PAR1")
    started = time.process_time()
    with pytest.raises(pa.ArrowInvalid, match=says):
        read_metadata(path)
    assert time.process_time() - started < 1


def test_a_schema_may_nest_as_deep_as_one_would(tmp_path: Path) -> None:
    path = tmp_path / "file"
    footer = nested_schema(60)
    path.write_bytes(b"PAR1" + footer + len(footer).to_bytes(4, "little") + b"PAR1")
    (leaf,) = read_metadata(path).leaves
    assert leaf.path == [b"a"] * 60


def test_values_of_every_type_are_passed_over() -> None:
    unwanted = [
        b"\x11",
        b"\x12",
        b"\x13\x7f",
        b"\x14\x80\x01",
        b"\x17" + b"x" * 8,
        b"\x18\x03abc",
        b"\x19\x21\x01\x02",
        b"\x1a\x15\x04",
        b"\x19\x2c\x15\x02\x00\x00",
        b"\x1c\x08\x90\x03\x01y\x00",
    ]
    data = b"".join(unwanted) + b"\x05\xfe\x03\x0d\x00"
    assert thrift.read(data, 0, thrift.struct_of({255: thrift.integer})) == ({255: -7}, len(data))
