"""What a log of acknowledgements holds: rows, eight bytes each. Pure.

Each row's highest byte, which no row uses, is a mark. So what a power loss leaves of a file that was appended to but
not synced, which may be zeros, is never taken for an acknowledgement of row 0.
"""

from typing import Final

import polars as pl
import pyarrow as pa

from inventory_enqueue.documents import damaged

_SHIFT: Final = 1 << 56
_MARK: Final = 0xAC
BYTES_PER_ROW: Final = 8


def encode(rows: pl.Series) -> memoryview:
    """The rows as the log holds them.

    Args:
        rows: UInt64, without nulls.
    """
    encoded = (rows + _MARK * _SHIFT).rechunk().to_arrow()
    start = encoded.offset * BYTES_PER_ROW
    data = encoded.buffers()[1]
    assert data is not None  # noqa: S101 - a column of numbers has them
    return memoryview(data)[start : start + len(rows) * BYTES_PER_ROW]


def decode(data: bytes, *, where: str) -> pl.Series:
    """The rows of a log; a torn last one, with or without zeros after it, is left out: nothing promised that it lasts.

    Args:
        data: From the first row on.
        where: The file, for errors.

    Returns:
        UInt64.

    Raises:
        IntegrityError: It is damaged.
    """
    # A mark is never zero, so zeros at the end and what is left before them of a row were never written whole.
    written = data.rstrip(b"\0")
    length = len(written) // BYTES_PER_ROW
    values = pl.Series(
        "row",
        pl.from_arrow(pa.Array.from_buffers(pa.uint64(), length, [None, pa.py_buffer(written)])),
        pl.UInt64,
    )
    if not (values // _SHIFT == _MARK).all():
        raise damaged(where)
    return values % _SHIFT
