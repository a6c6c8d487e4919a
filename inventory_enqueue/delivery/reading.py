"""Rows of a landed data file, as record batches in our schema."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Condition
from typing import Final

import polars as pl
import pyarrow as pa

from inventory_enqueue.delivery.formats import RowSource
from inventory_enqueue.delivery.formats.csv import CsvSource
from inventory_enqueue.delivery.formats.orc import Decoder, OrcSource
from inventory_enqueue.delivery.formats.parquet import ParquetSource, RowGroup
from inventory_enqueue.delivery.landing import LandedFile
from inventory_enqueue.errors import IntegrityError
from inventory_enqueue.manifest import FileFormat
from inventory_enqueue.schema import Rows, check_columns, from_plain, is_plain, normalise

_UNDECODABLE: Final = (pa.ArrowException, OSError, UnicodeDecodeError)
"""What decoding damaged bytes raises: the last one where a column's name is no UTF-8."""

FRAME_ROWS: Final = 262_144
"""Rows of a row group that later stages see at a time."""


def columns_of(landed: LandedFile) -> frozenset[str]:
    """The columns of schema.OBJECT_SCHEMA that a data file has.

    Raises:
        IntegrityError: The file can't be read, or a needed column is missing.
    """
    with _open(landed) as source:
        return check_columns(source.columns, where=landed.where)


class Room:
    """Memory for row groups that are decoded whole: so much at a time, over all threads; who needs more waits."""

    def __init__(self, size: int) -> None:
        """Takes the size in bytes."""
        self._size = size
        self._taken = 0
        self._freed = Condition()

    @contextmanager
    def reserved(self, size: int) -> Iterator[bool]:
        """Reserves bytes for the block. Gives False, at once, where there will never be so many."""
        if size > self._size:
            yield False
            return
        with self._freed:
            self._freed.wait_for(lambda: self._taken + size <= self._size)
            self._taken += size
        try:
            yield True
        finally:
            with self._freed:
                self._taken -= size
                self._freed.notify_all()


def release_memory() -> None:
    """Gives back what is kept for the next file: idle decoders, and what Arrow holds for threads that freed it."""
    Decoder.end_all()
    pa.default_memory_pool().release_unused()


def read_rows(landed: LandedFile, columns: Sequence[str], room: Room) -> Iterator[Rows]:
    """Streams a file's rows, in file order.

    Args:
        landed: A verified data file.
        columns: Names of schema.OBJECT_SCHEMA, in the order wanted; those that the file lacks are null.
        room: For row groups.

    Raises:
        IntegrityError: The file can't be decoded, or a value can't be read as what it must be.
    """
    for rows, _ in _read(landed, columns, room):
        yield rows


def read_selected(
    landed: LandedFile, columns: Sequence[str], room: Room, positions: pl.Series
) -> Iterator[tuple[Rows, pl.Series]]:
    """Streams chosen rows of a file, in file order; row groups without any are skipped.

    Args:
        landed: A verified data file.
        columns: As for read_rows.
        room: For row groups.
        positions: Of the rows in the file, sorted, as uint64.

    Yields:
        Rows, and their positions.

    Raises:
        IntegrityError: As read_rows.
    """
    for rows, chosen in _read(landed, columns, room, positions):
        if chosen is not None:
            yield rows, chosen


def _read(
    landed: LandedFile, columns: Sequence[str], room: Room, positions: pl.Series | None = None
) -> Iterator[tuple[Rows, pl.Series | None]]:
    """Rows, and the positions of those that were chosen; all of them without positions."""
    with _open(landed) as source:
        wanted = sorted({"bucket", *columns} & check_columns(source.columns, where=landed.where))
        start = 0
        try:
            for group in source.row_groups(wanted) if isinstance(source, ParquetSource) else [None]:
                if group is not None and positions is not None and not _within(positions, start, group.rows).len():
                    start += group.rows
                    continue
                for piece in _pieces(landed, source, wanted, room, group):
                    chosen = None if positions is None else _within(positions, start, len(piece))
                    if chosen is None or chosen.len():
                        taken = piece if chosen is None else _taken(piece, chosen - start)
                        yield _rows(landed, taken, columns, source, start), chosen
                    start += len(piece)
        except _UNDECODABLE as error:
            raise _unreadable(error, f"{landed.where}, rows from {start}") from error
        if source.rows is not None and start != source.rows:
            raise IntegrityError(f"{start} rows were read, its footer says {source.rows}", where=landed.where)


def _pieces(
    landed: LandedFile, source: RowSource, wanted: Sequence[str], room: Room, group: RowGroup | None
) -> Iterator[pl.DataFrame | pa.RecordBatch]:
    """A row group, or a whole file of another format: as frames where its rows are plain, else as batches."""
    if group is None or not isinstance(source, ParquetSource):
        yield from source.batches(wanted)
        return
    with room.reserved(group.decoded) as fits:
        frame = source.read(wanted, group) if fits else None
        if frame is not None and is_plain(frame, source_bucket=landed.source_bucket):
            yield from frame.iter_slices(FRAME_ROWS)
            return
        del frame
    yield from source.batches(wanted, group)


def _within(positions: pl.Series, start: int, rows: int) -> pl.Series:
    first, end = positions.search_sorted(start), positions.search_sorted(start + rows)
    return positions[first:end]


def _taken(piece: pl.DataFrame | pa.RecordBatch, positions: pl.Series) -> pl.DataFrame | pa.RecordBatch:
    if isinstance(piece, pa.RecordBatch):
        return piece.take(positions.to_arrow())
    # polars' texts are views into what was decoded: a few of them would keep a whole row group in memory.
    frame = pl.from_arrow(piece[positions].to_arrow(compat_level=pl.CompatLevel.oldest()))
    assert isinstance(frame, pl.DataFrame)  # noqa: S101 - from_arrow's type also covers a single column
    return frame


def _rows(
    landed: LandedFile, piece: pl.DataFrame | pa.RecordBatch, columns: Sequence[str], source: RowSource, start: int
) -> Rows:
    if isinstance(piece, pl.DataFrame):
        return from_plain(piece, columns)
    return normalise(
        piece,
        columns,
        source_bucket=landed.source_bucket,
        keys_are_encoded=source.keys_are_encoded,
        where=f"{landed.where}, rows from {start}",
    )


def _open(landed: LandedFile) -> RowSource:
    try:
        match landed.file_format:
            case FileFormat.PARQUET:
                return ParquetSource(landed.path)
            case FileFormat.ORC:
                return OrcSource(landed.path)
            case FileFormat.CSV:
                return CsvSource(landed.path, landed.file_schema)
    except _UNDECODABLE as error:
        raise _unreadable(error, landed.where) from error


def _unreadable(error: Exception, where: str) -> IntegrityError:
    reason = next(iter(str(error).splitlines()), type(error).__name__)
    return IntegrityError(f"the file can't be decoded: {reason[:200]}", where=where)
