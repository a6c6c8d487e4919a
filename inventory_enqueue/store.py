"""Bytes under names: the home of a pipeline's state, as a contract. stores/ has a local folder and S3.

Names are made by this program alone, with `/` between their parts; none comes from outside. A name is a file or a
folder, never both. What is written is there whole or not at all, and durable when the call returns.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from io import BufferedIOBase
from pathlib import Path
from typing import NamedTuple, Protocol


class ConflictError(Exception):
    """A conditional write found something else than what it was to replace."""


class HeldError(Exception):
    """Another process holds the lock."""

    def __init__(self, holder: str) -> None:
        """Makes the error.

        Args:
            holder: Who, where and since when: for people.
        """
        super().__init__(holder)
        self.holder = holder


class Versioned(NamedTuple):
    """A name's bytes, and what names this very content in a conditional write."""

    data: bytes
    version: str


class Log(Protocol):
    """Lines or records appended to one name, by one writer."""

    def append(self, data: bytes) -> None:
        """Appends whole lines or records, or nothing. In a local folder they survive the process's death from now on.

        Raises:
            OSError, StoppedError: They can't be written.
        """

    def sync(self) -> None:
        """Makes all that was appended durable."""

    def close(self) -> None:
        """Makes all that was appended durable, and ends the log."""


class Lock(Protocol):
    """An exclusive lock that is held."""

    @property
    def token(self) -> str:
        """Names this holding: random."""

    def check(self) -> None:
        """Asks, without any request, whether the lock is still held.

        Raises:
            LockLostError: It was lost, or may be.
        """

    def release(self) -> None:
        """Gives it back."""


class Store(Protocol):
    """A folder of names. Errors of S3 are raised as PreflightError and StoppedError, those of disks as OSError."""

    def at(self, folder: str) -> "Store":
        """The store of the names in a folder of this one."""

    def where(self, name: str = "") -> str:
        """Where a name is, or the store itself: a path or an s3:// URL, for people."""

    def get(self, name: str) -> bytes:
        """The bytes.

        Raises:
            FileNotFoundError: There are none.
        """

    def open(self, name: str) -> BufferedIOBase:
        """The bytes, to be read: for readers that have a place for them.

        Raises:
            FileNotFoundError: There are none.
        """

    def size(self, name: str) -> int | None:
        """How many bytes the name holds, or None where there are none."""

    def put(self, name: str, data: bytes | memoryview) -> None:
        """Writes or replaces."""

    def write_file(self, name: str) -> AbstractContextManager[Path]:
        """A path to write to; at the end of the block it is there under its name, after an error it isn't."""

    def local(self, name: str) -> Path:
        """A local file with the name's bytes, which nobody may change.

        Raises:
            FileNotFoundError: There are none.
        """

    def names(self, folder: str = "") -> list[str]:
        """The names and folders directly under a folder, sorted."""

    def folders(self, folder: str = "") -> list[str]:
        """The folders alone."""

    def remove(self, name: str) -> None:
        """Removes a name's bytes, if there are any."""

    def remove_folder(self, name: str) -> None:
        """Removes a folder with all that is in it, as far as it is there."""

    def read(self, name: str) -> Versioned | None:
        """The bytes with their version, or None where there are none."""

    def create(self, name: str, data: bytes) -> str:
        """Writes where nothing is, and returns the version.

        Raises:
            ConflictError: The name holds bytes.
        """

    def replace(self, name: str, data: bytes, version: str) -> str:
        """Writes where the version is still this one, and returns the new version.

        Raises:
            ConflictError: It isn't.
        """

    def create_log(self, name: str, header: bytes = b"") -> Log:
        """A new log.

        Args:
            name: Of the log.
            header: What each of its pieces begins with.

        Raises:
            FileExistsError: The name is taken.
        """

    def read_log(self, name: str) -> Iterator[tuple[str, bytes]]:
        """The pieces of a log, each with where it is, and beginning with its header.

        The last line or record of a piece may be torn: append() never returned from it.
        """

    def lock(self, name: str, *, lease: float) -> Lock:
        """Takes an exclusive lock, without waiting.

        Args:
            name: Of the lock.
            lease: Seconds for which a holder that isn't heard of keeps it, where its death can't be seen.

        Raises:
            HeldError: Another process holds it.
            PreflightError: The store doesn't honour what a lock is made of.
        """


def whole_lines(data: bytes) -> list[bytes]:
    """The lines of a log; a torn last one is left out, since append() never returned from it."""
    return data[: data.rfind(b"\n") + 1].splitlines()
