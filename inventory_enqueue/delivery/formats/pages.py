"""The headers of a Parquet file's pages, looked at before polars decodes them.

It trusts them, and ends the process where a damaged one asks for more memory than there can be. pyarrow doesn't show
them.

https://parquet.apache.org/docs/file-format/data-pages/ and, for the encoding of headers,
https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
"""

import mmap
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import pyarrow.parquet as pq

_UNCOMPRESSED_SIZE: Final = 2
_COMPRESSED_SIZE: Final = 3
_DATA: Final = 5
_DICTIONARY: Final = 7
_DATA_V2: Final = 8
"""Fields of a PageHeader; the last three are structs, whose first field is the number of values."""
_VALUES: Final = 1

_STOP, _TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _STRUCT = 0, 1, 2, 3, 7, 8, 9, 10, 12
_INTEGERS: Final = frozenset({4, 5, 6})
_LONG_LIST: Final = 15


def are_sound(path: Path, chunks: Iterable[pq.ColumnChunkMetaData], rows: int) -> bool:
    """Whether the pages of flat column chunks hold as many values as there are rows, and end where the chunks do.

    Args:
        path: The file.
        chunks: Of one row group.
        rows: Of the row group.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            return all(_is_sound(data, chunk, rows) for chunk in chunks)
        except (IndexError, KeyError, TypeError, ValueError, RecursionError):
            return False


def _is_sound(data: mmap.mmap, chunk: pq.ColumnChunkMetaData, rows: int) -> bool:
    position = chunk.data_page_offset
    if chunk.has_dictionary_page and chunk.dictionary_page_offset:
        position = min(position, chunk.dictionary_page_offset)
    end, values = position + chunk.total_compressed_size, 0
    if not 0 <= position <= end <= len(data):
        return False
    while position < end:
        header, start = _struct(data, position)
        held = header.get(_DATA) or header.get(_DATA_V2) or {_VALUES: 0}
        dictionary = header.get(_DICTIONARY) or {_VALUES: 0}
        sizes = (header[_COMPRESSED_SIZE], header[_UNCOMPRESSED_SIZE], held[_VALUES], dictionary[_VALUES])
        # A dictionary of more values than rows is none that a writer makes.
        if min(sizes) < 0 or dictionary[_VALUES] > rows or start <= position:
            return False
        values += held[_VALUES]
        position = start + header[_COMPRESSED_SIZE]
    return position == end and values == rows == chunk.num_values


def _struct(data: mmap.mmap, at: int) -> tuple[dict[int, Any], int]:
    """A struct's fields by their ids (texts and lists are passed over), and where it ends."""
    fields: dict[int, Any] = {}
    field = 0
    while (byte := data[at]) != _STOP:
        at += 1
        kind, step = byte & 15, byte >> 4
        if step:
            field += step
        else:
            field, at = _integer(data, at)
        fields[field], at = _value(data, at, kind)
    return fields, at + 1


def _value(data: mmap.mmap, at: int, kind: int) -> tuple[Any, int]:
    if kind in {_TRUE, _FALSE}:
        return kind == _TRUE, at
    if kind in _INTEGERS:
        return _integer(data, at)
    if kind == _STRUCT:
        return _struct(data, at)
    if kind == _BINARY:
        length, at = _varint(data, at)
        return None, at + length
    if kind in {_LIST, _SET}:
        return None, _after_list(data, at)
    return None, at + {_BYTE: 1, _DOUBLE: 8}[kind]


def _after_list(data: mmap.mmap, at: int) -> int:
    count, kind = data[at] >> 4, data[at] & 15
    at += 1
    if count == _LONG_LIST:
        count, at = _varint(data, at)
    for _ in range(count):
        _, at = (None, at + 1) if kind in {_TRUE, _FALSE} else _value(data, at, kind)
    return at


def _integer(data: mmap.mmap, at: int) -> tuple[int, int]:
    """A signed number in zigzag."""
    number, at = _varint(data, at)
    return (number >> 1) ^ -(number & 1), at


def _varint(data: mmap.mmap, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = data[at]
        at += 1
        number |= (byte & 127) << shift
        if byte < 128:  # noqa: PLR2004 - the highest bit says that there is more
            return number, at
        shift += 7
