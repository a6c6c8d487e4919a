"""A local folder as a store: temporary names, fsync and rename; the lock is one that death frees."""

import fcntl
import hashlib
import json
import os
import secrets
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from io import BufferedIOBase
from pathlib import Path
from typing import Final

from inventory_enqueue.store import ConflictError, HeldError, Versioned

_TEMPORARY_SUFFIX: Final = ".tmp"


class LocalStore:
    """A folder whose files are written to a temporary name, fsynced and renamed."""

    def __init__(self, root: Path) -> None:
        """Makes the store; the folder is created at the first write."""
        self.root = root

    def at(self, folder: str) -> "LocalStore":
        """The store of a folder of this one."""
        return LocalStore(self.root / folder)

    def where(self, name: str = "") -> str:
        """The name's path."""
        return str(self._path(name))

    def get(self, name: str) -> bytes:
        """The bytes.

        Raises:
            FileNotFoundError: There are none.
        """
        return self._path(name).read_bytes()

    def open(self, name: str) -> BufferedIOBase:
        """The file.

        Raises:
            FileNotFoundError: It isn't there.
        """
        return self._path(name).open("rb")

    def size(self, name: str) -> int | None:
        """How many bytes there are."""
        path = self._path(name)
        return path.stat().st_size if path.is_file() else None

    def put(self, name: str, data: bytes | memoryview) -> None:
        """Writes or replaces, durably."""
        with self.write_file(name) as temporary:
            temporary.write_bytes(data)

    @contextmanager
    def write_file(self, name: str) -> Iterator[Path]:
        """A path to write to; at the end of the block it is there under its name, durably; after an error it isn't."""
        target = self._path(name)
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

    def local(self, name: str) -> Path:
        """The file itself.

        Raises:
            FileNotFoundError: It isn't there.
        """
        path = self._path(name)
        if not path.is_file():
            raise FileNotFoundError(f"there is no file {path}")
        return path

    def names(self, folder: str = "") -> list[str]:
        """The names directly under a folder, sorted; temporary ones left out."""
        with suppress(FileNotFoundError, NotADirectoryError):
            return sorted(
                entry.name for entry in os.scandir(self._path(folder)) if not entry.name.endswith(_TEMPORARY_SUFFIX)
            )
        return []

    def folders(self, folder: str = "") -> list[str]:
        """The folders directly under a folder, sorted."""
        with suppress(FileNotFoundError, NotADirectoryError):
            return sorted(entry.name for entry in os.scandir(self._path(folder)) if entry.is_dir())
        return []

    def remove(self, name: str) -> None:
        """Removes a name's bytes, if there are any, durably."""
        path = self._path(name)
        if path.exists():
            path.unlink()
            _fsync(path.parent)

    def remove_folder(self, name: str) -> None:
        """Removes a folder with all that is in it, as far as it is there."""
        shutil.rmtree(self._path(name), ignore_errors=True)

    def read(self, name: str) -> Versioned | None:
        """The bytes, and their hash."""
        try:
            data = self.get(name)
        except FileNotFoundError:
            return None
        return Versioned(data, _version(data))

    def create(self, name: str, data: bytes) -> str:
        """Writes where nothing is.

        Raises:
            ConflictError: The name holds bytes.
        """
        with self._writers_in_turn(name):
            if self._path(name).exists():
                raise ConflictError(self.where(name))
            self.put(name, data)
        return _version(data)

    def replace(self, name: str, data: bytes, version: str) -> str:
        """Writes where the version is still this one.

        Raises:
            ConflictError: It isn't.
        """
        with self._writers_in_turn(name):
            found = self.read(name)
            if found is None or found.version != version:
                raise ConflictError(self.where(name))
            self.put(name, data)
        return _version(data)

    def create_log(self, name: str, header: bytes = b"") -> "LocalLog":
        """A new file that grows.

        Raises:
            FileExistsError: The name is taken.
        """
        path = self._path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
        _fsync(path.parent)
        log = LocalLog(descriptor)
        if header:
            log.append(header)
        return log

    def read_log(self, name: str) -> Iterator[tuple[str, bytes]]:
        """The file."""
        yield self.where(name), self.get(name)

    def lock(self, name: str, *, lease: float) -> "LocalLock":
        """An exclusive lock that the process's death frees; so it needs no lease.

        Raises:
            HeldError: Another process holds it.
            OSError: The folder can't be written to.
        """
        del lease
        path = self._path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            lock = LocalLock(descriptor)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(holder_document(lock.token)).encode(), 0)
        except BlockingIOError:
            os.close(descriptor)
            raise HeldError(_described(path)) from None
        except BaseException:
            os.close(descriptor)
            raise
        return lock

    @contextmanager
    def _writers_in_turn(self, name: str) -> Iterator[None]:
        """Between a conditional write's look and its write nobody else writes."""
        folder = self._path(name).parent
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _path(self, name: str) -> Path:
        return self.root / name


class LocalLog:
    """One file: from append() on its lines survive the process's death, from sync() on the machine's."""

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


class LocalLock:
    """flock: the kernel frees it when its holder dies, however that happens."""

    def __init__(self, descriptor: int) -> None:
        """Takes over a descriptor that is locked."""
        self._descriptor = descriptor
        self.token = secrets.token_hex(16)

    def check(self) -> None:
        """It can't be lost."""

    def release(self) -> None:
        """Gives it back."""
        os.close(self._descriptor)


def holder_document(token: str) -> dict[str, object]:
    """Who holds a lock, for those who find it held."""
    return {
        "token": token,
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.now(tz=UTC).isoformat(timespec="seconds"),
    }


def _described(path: Path) -> str:
    try:
        holder = json.loads(path.read_bytes())
        age = datetime.now(tz=UTC) - datetime.fromisoformat(holder["since"])
        since = f"since {holder['since']}, for {round(age.total_seconds())} s"
        return f"process {holder['pid']} on {holder['host']} {since}"
    except (OSError, ValueError, KeyError, TypeError):
        return "a process that is just starting"


def _version(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
