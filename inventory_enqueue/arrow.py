"""Frames and Arrow record batches, into each other. Pure."""

import itertools
from collections.abc import Sequence

import polars as pl
import pyarrow as pa


def from_batches(batches: Sequence[pa.RecordBatch], schema: pa.Schema) -> pl.DataFrame:
    """Record batches as one frame, in one piece: what is gathered from many pieces takes four times as long."""
    frame = pl.from_arrow(pa.Table.from_batches(batches, schema=schema), rechunk=True)
    assert isinstance(frame, pl.DataFrame)  # noqa: S101 - from_arrow's type also covers a single column
    return frame


def one_batch(frame: pl.DataFrame, schema: pa.Schema) -> pa.RecordBatch:
    """A frame as one record batch."""
    batches = frame.rechunk().to_arrow().cast(schema).combine_chunks().to_batches()
    return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=schema)


def cut(frame: pl.DataFrame, column: str, starts: Sequence[int], schema: pa.Schema) -> list[pa.RecordBatch]:
    """Cuts a frame that is sorted by a column: batch n holds what is from starts[n] on, and before the next start."""
    values = frame[column]
    first = values.search_sorted(pl.Series(starts, dtype=values.dtype)).to_list()
    batch = one_batch(frame, schema)
    return [batch[start:end] for start, end in itertools.pairwise([*first, frame.height])]
