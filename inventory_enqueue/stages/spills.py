"""Spills: fingerprints on their way from the index tasks to the diff tasks, in scratch space.

An index task writes one Arrow IPC file. It holds its fingerprints in rounds of bounded size; each round is one record
batch, in the order of the partitions, whose metadata says where each partition begins. A diff task reads its
partition's slice of every round, out of all files. There are as many files as index tasks, whatever the number of
partitions.
"""

import json
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from inventory_enqueue.arrow import from_batches
from inventory_enqueue.fingerprints import FINGERPRINT_SCHEMA, partition
from inventory_enqueue.report import Output
from inventory_enqueue.run import Run

_ARROW_SCHEMA: Final = pl.DataFrame(schema=FINGERPRINT_SCHEMA).to_arrow().schema
_BOUNDS: Final = b"bounds"
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
        self._writer = pa.ipc.new_file(str(self._part), _ARROW_SCHEMA)

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
            if self._pending_rows and error is None:
                self._write_round()
        finally:
            self._writer.close()
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
        self._writer.write_batch(ordered, custom_metadata={_BOUNDS: json.dumps(bounds).encode()})


def spill_path(run: Run, number: int) -> Path:
    """Where an index task leaves its fingerprints."""
    return run.scratch / "spills" / f"{number:05d}.arrow"


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


def read_partition(paths: list[Path], number: int) -> pl.DataFrame:
    """All fingerprints of a partition, from the spills of all index tasks."""
    slices: list[pa.RecordBatch] = []
    for path in paths:
        with pa.memory_map(str(path)) as file, pa.ipc.open_file(file) as reader:
            for round_ in range(reader.num_record_batches):
                batch, metadata = reader.get_batch_with_custom_metadata(round_)
                start, end = json.loads(metadata[_BOUNDS])[number : number + 2]
                slices.append(batch.slice(start, end - start))
    return from_batches(slices, _ARROW_SCHEMA)
