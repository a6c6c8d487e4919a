"""Spills: fingerprints on their way from the index tasks to the diff tasks, in scratch space.

An index task writes one file. It holds its fingerprints in rounds of bounded size; each is

- where each partition begins in the round, and where the last one ends, as uint64 in the machine's order;
- then the columns of FINGERPRINT_SCHEMA one after the other, in the order of the partitions.

The file ends with the number of rows of each round, and then the number of rounds. A diff task reads its partition's
part of every round, out of all files. There are as many files as index tasks, whatever the number of partitions.

These are no Arrow files, since a part of a record batch can be had through a memory map alone. Arrow asks the system to
fetch the whole batch then, for each of its partitions anew; and the page cache maps so much around each part that it
took five times the memory of the rows.
"""

import io
import os
from array import array
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from inventory_enqueue.errors import IntegrityError
from inventory_enqueue.fingerprints import FINGERPRINT_SCHEMA, partition
from inventory_enqueue.report import Output
from inventory_enqueue.run import Run

_ARROW_SCHEMA: Final = pl.DataFrame(schema=FINGERPRINT_SCHEMA).to_arrow().schema
_WIDTHS: Final = [field.type.bit_width // 8 for field in _ARROW_SCHEMA]
_NUMBER: Final = "Q"
_NUMBER_BYTES: Final = 8
_BYTE: Final = 8


class SpillWriter:
    """Collects fingerprints and writes a round whenever there are enough."""

    def __init__(self, run: Run, number: int) -> None:
        """Creates the file of an index task; it is there under its name when the block ends without an error."""
        self._bits = run.plan.partition_bits
        self._rows_per_round = run.runtime.sizes.rows_per_spill
        self._pending: list[pl.DataFrame] = []
        self._pending_rows = self._rows = 0
        self._path = spill_path(run, number)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._part = self._path.with_suffix(".part")
        self._rounds = array(_NUMBER)
        self._file = self._part.open("wb")

    @property
    def output(self) -> Output:
        """The file, once it is complete."""
        return Output(self._path.name, self._path.stat().st_size, self._rows)

    def add(self, fingerprints: pl.DataFrame) -> None:
        """Takes fingerprints of any partitions."""
        self._pending.append(fingerprints)
        self._pending_rows += fingerprints.height
        if self._pending_rows >= self._rows_per_round:
            self._write_round()

    def __enter__(self) -> Self:
        """The writer."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Writes what is left, and closes the file."""
        try:
            if error is None:
                if self._pending_rows:
                    self._write_round()
                self._file.write(self._rounds)
                self._file.write(array(_NUMBER, [len(self._rounds)]))
        finally:
            self._file.close()
        if error is None:
            self._part.replace(self._path)

    def _write_round(self) -> None:
        frame = pl.concat(self._pending, rechunk=True)
        self._pending, self._pending_rows = [], 0
        self._rows += frame.height
        numbers = frame.with_columns(partition=partition(self._bits))["partition"]
        order = _order(numbers, self._bits)
        ordered = frame.to_arrow().to_batches()[0].take(order)
        first_of_each = pl.int_range(1 << self._bits, dtype=pl.UInt32, eager=True)
        bounds = [*numbers[pl.Series(order)].search_sorted(first_of_each).to_list(), frame.height]
        self._rounds.append(frame.height)
        self._file.write(array(_NUMBER, bounds))
        for column, width in zip(ordered.columns, _WIDTHS, strict=True):
            values = column.buffers()[1]
            assert values is not None  # noqa: S101 - a column of numbers has them
            self._file.write(values.slice(0, frame.height * width))


def spill_path(run: Run, number: int) -> Path:
    """Where an index task leaves its fingerprints."""
    return run.scratch / "spills" / f"{number:05d}.spill"


def _order(numbers: pl.Series, bits: int) -> "pa.Array[Any]":
    """The positions of rows in the order of their partitions.

    By a counting sort of one byte, then of a second one where there are more partitions: nothing else is as fast.
    """
    order: pa.Array[Any] = pc.array_sort_indices(_lowest_byte(numbers))
    if bits <= _BYTE:
        return order
    higher = _lowest_byte(numbers // (1 << _BYTE)).take(order)
    return order.take(pc.array_sort_indices(higher))


def _lowest_byte(numbers: pl.Series) -> "pa.Array[Any]":
    return (numbers % (1 << _BYTE)).cast(pl.UInt8).to_arrow()


def read_partition(paths: list[Path], number: int, *, partition_bits: int) -> pl.DataFrame:
    """All fingerprints of a partition, from the spills of all index tasks.

    They are read into memory from Arrow's pool: it keeps what was freed for the next partition, where memory that is
    fresh from the system costs more than what is read into it.

    Raises:
        IntegrityError: A spill was cut since it was written.
    """
    parts = [(path, _part(path, number, partition_bits)) for path in paths]
    rows = sum(end - start for _, rounds in parts for _, start, end, _ in rounds)
    buffers = [pa.allocate_buffer(rows * width) for width in _WIDTHS]
    filled = 0
    for path, rounds in parts:
        with path.open("rb", buffering=0) as file:
            for at, start, end, rows_of_round in rounds:
                first = at
                for buffer, width in zip(buffers, _WIDTHS, strict=True):
                    file.seek(first + start * width)
                    _read_into(file, memoryview(buffer)[filled * width : (filled + end - start) * width], path)
                    first += rows_of_round * width
                filled += end - start
    arrays = [
        pa.Array.from_buffers(field.type, rows, [None, buffer])
        for field, buffer in zip(_ARROW_SCHEMA, buffers, strict=True)
    ]
    frame = pl.from_arrow(pa.RecordBatch.from_arrays(arrays, schema=_ARROW_SCHEMA))
    assert isinstance(frame, pl.DataFrame)  # noqa: S101 - from_arrow's type also covers a single column
    return frame


def _part(path: Path, number: int, partition_bits: int) -> list[tuple[int, int, int, int]]:
    """Of each round of a spill: where its columns begin, the partition's first row and end in it, and its rows."""
    found = []
    with path.open("rb") as file:
        at = 0
        for rows in _rounds(file):
            start, end = _numbers(file, at + number * _NUMBER_BYTES, 2)
            at += ((1 << partition_bits) + 1) * _NUMBER_BYTES
            found.append((at, start, end, rows))
            at += rows * sum(_WIDTHS)
    return found


def _read_into(file: io.FileIO, view: memoryview, path: Path) -> None:
    while view:
        read = file.readinto(view)
        if not read:
            raise IntegrityError("this scratch file was cut; run the same command again", where=str(path))
        view = view[read:]


def _rounds(file: IO[bytes]) -> "array[int]":
    """The number of rows of each round."""
    end = file.seek(-_NUMBER_BYTES, os.SEEK_END)
    (rounds,) = _numbers(file, end, 1)
    return _numbers(file, end - rounds * _NUMBER_BYTES, rounds)


def _numbers(file: IO[bytes], at: int, count: int) -> "array[int]":
    file.seek(at)
    return array(_NUMBER, file.read(count * _NUMBER_BYTES))
