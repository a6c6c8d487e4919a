"""The three formats of a delivery's data files: each gives a file's columns, and its rows as it holds them."""

from collections.abc import Collection, Iterator, Sequence
from types import TracebackType
from typing import Final, Protocol, Self

import pyarrow as pa

BATCH_ROWS: Final = 65_536
"""Rows a batch: about 10 MB of the columns that the stages read, and at most 70 MB, with keys of 1,024 bytes."""


class RowSource(Protocol):
    """An open data file. Columns have the names of schema.OBJECT_SCHEMA, and the types of the file."""

    @property
    def columns(self) -> frozenset[str]:
        """The file's columns, unknown ones included."""

    @property
    def rows(self) -> int | None:
        """How many rows the file says it has, or None where it doesn't say."""

    @property
    def keys_are_encoded(self) -> bool:
        """Whether keys are URL-encoded in form style."""

    def batches(self, columns: Collection[str]) -> Iterator[pa.RecordBatch]:
        """Streams these columns of all rows, in file order.

        Args:
            columns: Names, all of them in the file.

        Raises:
            pa.ArrowException, OSError: The bytes can't be decoded.
        """

    def __enter__(self) -> Self:
        """The file, open."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Closes the file."""


def unique(columns: Sequence[str], *, source: str) -> frozenset[str]:
    """A file's columns.

    Args:
        columns: Their names.
        source: Who says so, for the error.

    Raises:
        pa.ArrowInvalid: Two have one name, so that nobody can say which is meant.
    """
    names = frozenset(columns)
    if len(names) != len(columns):
        raise pa.ArrowInvalid(f"{source} names a column twice: {', '.join(columns)}")
    return names
