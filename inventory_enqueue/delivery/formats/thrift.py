"""Apache Thrift's compact protocol, in which a Parquet file's footer and the headers of its pages are written.

Libraries read it in C++ or Rust, and some end the process where what they read contradicts itself. This reader takes
only the fields that it is asked for, passes over the others, and raises nothing but ValueError: every number is of 64
bits at most, structs and lists of which nothing is taken nest to a fixed depth, and no length or count leads beyond the
data, as each element takes a byte at least. So its time grows with the data's length only.

https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

Reader = Callable[[bytes, int, int], tuple[Any, int]]
"""Reads a value from data, at a position, of a type of the protocol: gives the value, and the position behind it."""
Struct = dict[int, Any]
"""The fields that were asked for and are there, by their ids."""

_STOP, _TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _STRUCT = 0, 1, 2, 3, 7, 8, 9, 10, 12
_INTEGERS: Final = frozenset({4, 5, 6})
"""The types of integers of 16, 32 and 64 bits: all are written alike."""
_LONG_LIST: Final = 15
"""In the place of a list's count, which then follows."""
_SIZES: Final = {_TRUE: 0, _FALSE: 0, _BYTE: 1, _DOUBLE: 8}
"""Bytes of fields of the other types that hold no others."""
_BITS: Final = 64
_LAST_SHIFT: Final = 63
"""A varint has 7 bits a byte: the tenth holds the last of 64."""
_DEPTH: Final = 64
"""How deep values may nest: the limit of Apache Thrift's own readers. parquet.thrift's nest to less than 10."""


def read(data: bytes, at: int, reader: Reader) -> tuple[Any, int]:
    """Reads a struct that stands by itself.

    Args:
        data: Where it is.
        at: Its position in bytes, 0 or above.
        reader: What struct_of gave.

    Returns:
        What the reader makes of it, and the position behind it.

    Raises:
        ValueError: It is none, or it isn't there as a whole.
    """
    try:
        return reader(data, at, _STRUCT)
    except IndexError as error:
        raise ValueError("it ends too early") from error


def struct_of(fields: Mapping[int, Reader]) -> Reader:
    """Makes a reader of structs that takes these fields, by their ids, and gives a Struct."""

    def struct(data: bytes, at: int, kind: int) -> tuple[Struct, int]:
        _expect(kind == _STRUCT, "a struct", kind)
        found: Struct = {}
        field = 0
        while (byte := data[at]) != _STOP:
            at += 1
            if byte >> 4:
                field += byte >> 4
            else:
                field, at = _integer(data, at)
            reader = fields.get(field)
            if reader is None:
                at = _after(data, at, byte & 15, _DEPTH)
            elif field in found:
                raise ValueError(f"it has field {field} twice")
            else:
                found[field], at = reader(data, at, byte & 15)
        return found, at + 1

    return struct


def list_of(element: Reader) -> Reader:
    """Makes a reader of lists, which gives a list."""

    def elements(data: bytes, at: int, kind: int) -> tuple[list[Any], int]:
        _expect(kind == _LIST, "a list", kind)
        count, kind, at = _list_header(data, at)
        found = []
        for _ in range(count):
            value, at = element(data, at, kind)
            found.append(value)
        return found, at

    return elements


def integer(data: bytes, at: int, kind: int) -> tuple[int, int]:
    """Reads an integer of 16, 32 or 64 bits."""
    _expect(kind in _INTEGERS, "an integer", kind)
    return _integer(data, at)


def binary(data: bytes, at: int, kind: int) -> tuple[bytes, int]:
    """Reads a text, or bytes."""
    _expect(kind == _BINARY, "a text", kind)
    length, at = _varint(data, at)
    return data[at : at + length], at + length


def _expect(holds: bool, what: str, kind: int) -> None:  # noqa: FBT001 - a condition
    if not holds:
        raise ValueError(f"it has a value of type {kind} in the place of {what}")


def _after(data: bytes, at: int, kind: int, depth: int) -> int:
    """The position behind a value, which may hold others to this depth.

    Footers of many row groups are mostly statistics that nobody wants: this is where the time goes.
    """
    if kind in _INTEGERS:
        while data[at] > 127:  # noqa: PLR2004 - the highest bit says that there is more
            at += 1
        return at + 1
    if kind == _BINARY:
        length, at = _varint(data, at)
        return at + length
    size = _SIZES.get(kind)
    if size is not None:
        return at + size
    if not depth:
        raise ValueError(f"its values nest to more than {_DEPTH} levels")
    return _after_struct(data, at, depth - 1) if kind == _STRUCT else _after_list(data, at, kind, depth - 1)


def _after_struct(data: bytes, at: int, depth: int) -> int:
    while (byte := data[at]) != _STOP:
        at += 1
        if not byte >> 4:
            _, at = _varint(data, at)
        at = _after(data, at, byte & 15, depth)
    return at + 1


def _after_list(data: bytes, at: int, kind: int, depth: int) -> int:
    _expect(kind in {_LIST, _SET}, "one that Parquet has", kind)
    count, kind, at = _list_header(data, at)
    if kind in {_TRUE, _FALSE}:
        return at + count  # in a list they take a byte each; as fields, none beside that of the type
    for _ in range(count):
        at = _after(data, at, kind, depth)
    return at


def _list_header(data: bytes, at: int) -> tuple[int, int, int]:
    """How many elements a list has, their type, and where the first one is."""
    count, kind = data[at] >> 4, data[at] & 15
    at += 1
    if count == _LONG_LIST:
        count, at = _varint(data, at)
    if count > len(data) - at:
        raise ValueError(f"it has a list of {count} elements, in {len(data) - at} bytes")
    return count, kind, at


def _integer(data: bytes, at: int) -> tuple[int, int]:
    """A signed number in zigzag."""
    number, at = _varint(data, at)
    return (number >> 1) ^ -(number & 1), at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = data[at]
        at += 1
        number |= (byte & 127) << shift
        if byte < 128:  # noqa: PLR2004 - the highest bit says that there is more
            break
        shift += 7
        if shift > _LAST_SHIFT:
            raise ValueError("it has a number of more than 10 bytes")
    if number >> _BITS:
        raise ValueError(f"it has a number of more than {_BITS} bits")
    return number, at
