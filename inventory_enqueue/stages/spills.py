"""Spills: fingerprints on their way from the index tasks to the diff tasks, in scratch space.

An index task writes one Arrow IPC file. It holds its fingerprints in rounds of bounded size; each round has one record
batch for each partition, so the batch of a partition in a round is found by its number alone. A diff task reads its
partition's batches out of all of them. There are as many files as index tasks, whatever the number of partitions.
"""

from pathlib import Path
from types import TracebackType
from typing import Self

import polars as pl
import pyarrow as pa

from inventory_enqueue.fingerprints import FINGERPRINT_SCHEMA, partition

_ARROW_SCHEMA = pl.DataFrame(schema=FINGERPRINT_SCHEMA).to_arrow().schema


class SpillWriter:
    """Collects fingerprints and writes a round whenever there are enough."""

    def __init__(self, path: Path, *, partition_bits: int, rows_per_round: int) -> None:
        """Creates the file.

        Args:
            path: Where.
            partition_bits: 2 ** bits partitions.
            rows_per_round: Fingerprints that are held in memory, 28 bytes each, twice while a round is written.
        """
        self._bits = partition_bits
        self._rows_per_round = rows_per_round
        self._pending: list[pl.DataFrame] = []
        self._pending_rows = 0
        self._writer = pa.ipc.new_file(str(path), _ARROW_SCHEMA)
        self.rows = 0

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

    def _write_round(self) -> None:
        frame = pl.concat(self._pending)
        self._pending, self._pending_rows = [], 0
        self.rows += frame.height
        for part in _by_partition(frame, self._bits):
            self._writer.write_batch(_one_batch(part))


def _by_partition(frame: pl.DataFrame, bits: int) -> list[pl.DataFrame]:
    if bits == 0:
        return [frame]
    parts = frame.with_columns(partition=partition(bits)).partition_by("partition", as_dict=True, include_key=False)
    return [parts.get((number,), frame.clear()) for number in range(1 << bits)]


def _one_batch(part: pl.DataFrame) -> pa.RecordBatch:
    batches = part.to_arrow().combine_chunks().to_batches()
    return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=_ARROW_SCHEMA)


def read_partition(paths: list[Path], number: int, *, partition_bits: int) -> pl.DataFrame:
    """All fingerprints of a partition, from the spills of all index tasks."""
    partitions = 1 << partition_bits
    batches: list[pa.RecordBatch] = []
    for path in paths:
        with pa.OSFile(str(path), "rb") as file, pa.ipc.open_file(file) as reader:
            batches += [reader.get_batch(n) for n in range(number, reader.num_record_batches, partitions)]
    frame = pl.from_arrow(pa.Table.from_batches(batches, schema=_ARROW_SCHEMA))
    assert isinstance(frame, pl.DataFrame)  # noqa: S101 - from_arrow's type also covers a single column
    return frame
