"""The footer of a Parquet file: what it says of its row groups, looked at before a library trusts it.

pyarrow ends the process where it is asked for a column chunk of which damaged statistics contradict each other (an
exception in C++ that nothing catches: so did 43 of the 11,320 bits in the footer of a small file, flipped one by one).
Other damage it doesn't see, and reads the rows of another column, or some of them. Whatever contradicts itself here is
refused.

https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift
"""

import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import pyarrow as pa

from inventory_enqueue.delivery.formats import thrift

_MAGIC: Final = b"PAR1"
_TAIL: Final = 8
"""Bytes behind the footer: its length, as 4 of them, and the magic number."""
_DEPTH: Final = 100
"""How deep a schema may nest, which is followed by recursion: the limit of pyarrow 26; earlier ones may have none."""

BYTE_ARRAY: Final = 6
"""The physical type of texts."""

# The fields of parquet.thrift that are taken, by their structs.
_SCHEMA, _NUM_ROWS, _ROW_GROUPS = 2, 3, 4
_ELEMENT_TYPE, _NAME, _NUM_CHILDREN = 1, 4, 5
_COLUMNS, _GROUP_NUM_ROWS = 1, 3
_META_DATA: Final = 3
_TYPE, _PATH_IN_SCHEMA, _NUM_VALUES = 1, 3, 5
_TOTAL_UNCOMPRESSED_SIZE, _TOTAL_COMPRESSED_SIZE = 6, 7
_DATA_PAGE_OFFSET, _DICTIONARY_PAGE_OFFSET = 9, 11

_COLUMN_META_DATA: Final = thrift.struct_of(
    {
        _TYPE: thrift.integer,
        _PATH_IN_SCHEMA: thrift.list_of(thrift.binary),
        _NUM_VALUES: thrift.integer,
        _TOTAL_UNCOMPRESSED_SIZE: thrift.integer,
        _TOTAL_COMPRESSED_SIZE: thrift.integer,
        _DATA_PAGE_OFFSET: thrift.integer,
        _DICTIONARY_PAGE_OFFSET: thrift.integer,
    }
)
_COLUMN_CHUNK: Final = thrift.struct_of({_META_DATA: _COLUMN_META_DATA})
_ROW_GROUP: Final = thrift.struct_of({_COLUMNS: thrift.list_of(_COLUMN_CHUNK), _GROUP_NUM_ROWS: thrift.integer})
_SCHEMA_ELEMENT: Final = thrift.struct_of(
    {_ELEMENT_TYPE: thrift.integer, _NAME: thrift.binary, _NUM_CHILDREN: thrift.integer}
)
_FILE_META_DATA: Final = thrift.struct_of(
    {
        _SCHEMA: thrift.list_of(_SCHEMA_ELEMENT),
        _NUM_ROWS: thrift.integer,
        _ROW_GROUPS: thrift.list_of(_ROW_GROUP),
    }
)


class Leaf(NamedTuple):
    """What holds values in the schema: a column, or a part of a nested one."""

    column: str
    path: list[bytes]
    """The column's name, and those of the parts that lead to this one."""
    physical_type: int
    """As parquet.thrift numbers them."""


class ColumnChunk(NamedTuple):
    """The part of a column that is in a row group."""

    leaf: Leaf
    num_values: int
    total_uncompressed_size: int
    """Bytes of its pages with their headers, before they were compressed."""
    start: int
    """The position in the file of its first page, in bytes."""
    end: int
    """The position behind its last page."""


class RowGroup(NamedTuple):
    """A part of a file."""

    num_rows: int
    columns: tuple[ColumnChunk, ...]
    """In the schema's order."""


class FileMetaData(NamedTuple):
    """What is taken of a footer."""

    leaves: tuple[Leaf, ...]
    num_rows: int
    row_groups: tuple[RowGroup, ...]


def read_metadata(path: Path) -> FileMetaData:
    """Reads a file's footer.

    It is refused unless its row groups have the schema's leaves, in its order and of its types, and the file's rows
    together; and unless each column chunk of a row group with rows has a place of its own, between the file's magic
    number and its footer.

    Raises:
        pa.ArrowInvalid: There is no footer, or none that can be read, or it is refused.
        UnicodeDecodeError: A column's name is no UTF-8.
        OSError: The file can't be read.
    """
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _TAIL))
        tail = file.read()
        end = size - _TAIL
        start = end - int.from_bytes(tail[:4], "little")
        if not tail.endswith(_MAGIC) or start < len(_MAGIC):
            raise pa.ArrowInvalid("it doesn't end in a Parquet footer")
        file.seek(start)
        data = file.read(end - start)
    try:
        return _checked(thrift.read(data, 0, _FILE_META_DATA)[0], start)
    except UnicodeDecodeError:
        raise
    except KeyError as error:
        raise pa.ArrowInvalid(f"its footer can't be read: the field {error} is missing") from error
    except ValueError as error:
        raise pa.ArrowInvalid(f"its footer can't be read: {error}") from error


def _checked(footer: thrift.Struct, end: int) -> FileMetaData:
    """What a footer says, which is at this position of the file."""
    elements: Iterator[thrift.Struct] = iter(footer[_SCHEMA])
    root: thrift.Struct = next(elements, {})
    leaves = tuple(_leaves(elements, root.get(_NUM_CHILDREN, 0)))
    groups = tuple(_row_group(group, leaves) for group in footer[_ROW_GROUPS])
    rows = sum(group.num_rows for group in groups)
    if rows != footer[_NUM_ROWS]:
        raise ValueError(f"its row groups have {rows} rows, the file {footer[_NUM_ROWS]}")
    # Of a row group without rows Arrow writes dictionaries, but says that the data pages are at 0.
    chunks = itertools.chain.from_iterable(group.columns for group in groups if group.num_rows)
    places = sorted((chunk.start, chunk.end) for chunk in chunks if chunk.start < chunk.end)
    borders = [len(_MAGIC), *itertools.chain.from_iterable(places), end]
    if any(left > right for left, right in itertools.pairwise(borders)):
        raise ValueError("it has column chunks in the place of others, or beyond the pages")
    return FileMetaData(leaves, rows, groups)


def _leaves(elements: Iterator[thrift.Struct], number: int, above: Sequence[bytes] = ()) -> Iterator[Leaf]:
    """The leaves of the next so many elements of a schema, in which each is followed by its children."""
    if len(above) > _DEPTH:
        raise ValueError(f"its schema nests to more than {_DEPTH} levels")
    for element in itertools.islice(elements, number):
        path = [*above, element[_NAME]]
        children = element.get(_NUM_CHILDREN, 0)
        if children:
            yield from _leaves(elements, children, path)
        else:
            yield Leaf(path[0].decode(), path, element[_ELEMENT_TYPE])


def _row_group(group: thrift.Struct, leaves: Sequence[Leaf]) -> RowGroup:
    if len(group[_COLUMNS]) != len(leaves) or group[_GROUP_NUM_ROWS] < 0:
        raise ValueError("a row group hasn't the schema's columns, or less than no rows")
    chunks = (_column_chunk(chunk[_META_DATA], leaf) for chunk, leaf in zip(group[_COLUMNS], leaves, strict=True))
    return RowGroup(group[_GROUP_NUM_ROWS], tuple(chunks))


def _column_chunk(chunk: thrift.Struct, leaf: Leaf) -> ColumnChunk:
    sizes = (chunk[_NUM_VALUES], chunk[_TOTAL_UNCOMPRESSED_SIZE], chunk[_TOTAL_COMPRESSED_SIZE])
    if chunk[_PATH_IN_SCHEMA] != leaf.path or chunk[_TYPE] != leaf.physical_type or min(sizes) < 0:
        raise ValueError(f"a chunk of {leaf.column} is of another column, of another type, or of a size below 0")
    start = chunk[_DATA_PAGE_OFFSET]
    # Where there is no dictionary, some writers say that it is at 0.
    if chunk.get(_DICTIONARY_PAGE_OFFSET, 0) > 0:
        start = min(start, chunk[_DICTIONARY_PAGE_OFFSET])
    return ColumnChunk(leaf, chunk[_NUM_VALUES], chunk[_TOTAL_UNCOMPRESSED_SIZE], start, start + sizes[-1])
