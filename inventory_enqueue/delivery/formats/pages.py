"""The headers of a Parquet file's pages, looked at before polars decodes them.

It trusts them, and ends the process where a damaged one asks for more memory than there can be. pyarrow doesn't show
them.

https://parquet.apache.org/docs/file-format/data-pages/ and
https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift
"""

import mmap
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from inventory_enqueue.delivery.formats import thrift
from inventory_enqueue.delivery.formats.footer import ColumnChunk

_UNCOMPRESSED_SIZE: Final = 2
_COMPRESSED_SIZE: Final = 3
_DATA: Final = 5
_DICTIONARY: Final = 7
_DATA_V2: Final = 8
"""Fields of a PageHeader; the last three are structs, whose first field is the number of values."""
_VALUES: Final = 1

_COUNTED: Final = thrift.struct_of({_VALUES: thrift.integer})
_PAGE_HEADER: Final = thrift.struct_of(
    {
        _UNCOMPRESSED_SIZE: thrift.integer,
        _COMPRESSED_SIZE: thrift.integer,
        _DATA: _COUNTED,
        _DICTIONARY: _COUNTED,
        _DATA_V2: _COUNTED,
    }
)
_HEADER: Final = 16 * 1024
"""Bytes of a header that are looked at. It has at most four statistics of a value each, and a key has 1,024 bytes."""


def are_sound(path: Path, chunks: Iterable[ColumnChunk], rows: int) -> bool:
    """Whether the pages of flat column chunks hold as many values as there are rows, and end where the chunks do.

    Args:
        path: The file.
        chunks: Of one row group.
        rows: Of the row group.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            return all(_is_sound(data, chunk, rows) for chunk in chunks)
        except (KeyError, ValueError):
            return False


def _is_sound(data: mmap.mmap, chunk: ColumnChunk, rows: int) -> bool:
    position, values = chunk.start, 0
    while position < chunk.end:
        header, length = thrift.read(data[position : min(position + _HEADER, chunk.end)], 0, _PAGE_HEADER)
        held = header.get(_DATA) or header.get(_DATA_V2) or {_VALUES: 0}
        dictionary = header.get(_DICTIONARY) or {_VALUES: 0}
        sizes = (header[_COMPRESSED_SIZE], header[_UNCOMPRESSED_SIZE], held[_VALUES], dictionary[_VALUES])
        # A dictionary of more values than rows is none that a writer makes.
        if min(sizes) < 0 or dictionary[_VALUES] > rows:
            return False
        values += held[_VALUES]
        position += length + header[_COMPRESSED_SIZE]
    return position == chunk.end and values == rows == chunk.num_values
