"""Bytes under names: the home of a pipeline's state. Here a local folder; whole files appear at once or not at all."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_TEMPORARY_SUFFIX = ".tmp"


class LocalStore:
    """A folder whose files are written to a temporary name, fsynced and renamed.

    Names are made by this program alone, with `/` between their parts; none comes from outside.
    """

    def __init__(self, root: Path) -> None:
        """Makes the store; the folder is created at the first write."""
        self.root = root

    def path(self, name: str) -> Path:
        """Where a name's bytes are, for readers that want a local file."""
        return self.root / name

    def exists(self, name: str) -> bool:
        """Whether the name holds bytes."""
        return self.path(name).is_file()

    def get(self, name: str) -> bytes:
        """The bytes.

        Raises:
            FileNotFoundError: There are none.
        """
        return self.path(name).read_bytes()

    def put(self, name: str, data: bytes | memoryview) -> None:
        """Writes or replaces, durably."""
        with self.write_file(name) as temporary:
            temporary.write_bytes(data)

    @contextmanager
    def write_file(self, name: str) -> Iterator[Path]:
        """A path to write to; at the end of the block it is there under its name, durably; after an error it isn't."""
        target = self.path(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        # One writer a name at a time (the pipeline's lock and the task's number), so the temporary name may be fixed:
        # what a killed run left is overwritten.
        temporary = target.with_name(target.name + _TEMPORARY_SUFFIX)
        try:
            yield temporary
            _fsync(temporary)
            temporary.replace(target)
            _fsync(target.parent)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise

    def names(self, folder: str) -> list[str]:
        """The names directly under a folder, sorted; temporary ones left out."""
        with suppress(FileNotFoundError, NotADirectoryError):
            return sorted(
                entry.name for entry in os.scandir(self.path(folder)) if not entry.name.endswith(_TEMPORARY_SUFFIX)
            )
        return []

    def remove(self, name: str) -> None:
        """Removes a name's bytes, if there are any, durably."""
        path = self.path(name)
        if path.exists():
            path.unlink()
            _fsync(path.parent)

    def remove_folder(self, name: str) -> None:
        """Removes a folder with all that is in it, as far as it is there."""
        shutil.rmtree(self.path(name), ignore_errors=True)

    def create_log(self, name: str) -> "AppendLog":
        """A new file that grows line by line.

        Raises:
            FileExistsError: The name is taken.
        """
        path = self.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
        _fsync(path.parent)
        return AppendLog(descriptor)

    @contextmanager
    def lock(self, name: str) -> Iterator[int | None]:
        """An exclusive lock that the process's death frees: an open descriptor, or None where another holds it."""
        path = self.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield None
            else:
                yield descriptor
        finally:
            os.close(descriptor)


class AppendLog:
    """Lines appended to one file: from append() on they survive the process's death, from sync() on the machine's."""

    def __init__(self, descriptor: int) -> None:
        """Takes over the open descriptor of an empty file."""
        self._descriptor = descriptor
        self._size = 0

    def append(self, data: bytes) -> None:
        """Appends whole lines, or nothing.

        Raises:
            OSError: The disk refused them.
        """
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._descriptor, view) :]
        except OSError:
            # The next line must not continue this one.
            os.ftruncate(self._descriptor, self._size)
            raise
        self._size += len(data)

    def sync(self) -> None:
        """Makes all lines durable."""
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Makes all lines durable and closes the file."""
        self.sync()
        os.close(self._descriptor)


def whole_lines(data: bytes) -> list[bytes]:
    """The lines of an append log; a torn last one is left out, since append() never returned from it."""
    return data[: data.rfind(b"\n") + 1].splitlines()


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
