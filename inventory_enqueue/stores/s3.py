"""A prefix of an S3 bucket as a store: conditional writes where a local folder has renames and flock."""

import copy
import itertools
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedIOBase, BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Final

from inventory_enqueue.errors import StoppedError
from inventory_enqueue.store import ConflictError, Versioned
from inventory_enqueue.stores.lease import Guard, Lease
from inventory_enqueue.stores.objects import Objects
from inventory_enqueue.uris import S3Url

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

_BUFFER: Final = 4 * 1024 * 1024
"""What a log holds in memory before it writes a piece."""


class S3Store:
    """The names under s3://bucket/prefix/.

    Once a lock was taken through a store, it and all that share its guard write only while the lock is held.
    """

    def __init__(self, client: "S3Client", url: S3Url, scratch: Path, *, sync_interval: float = 5.0) -> None:
        """Makes the store, without any request.

        Args:
            client: Makes the requests.
            url: The prefix, with or without a slash at its end.
            scratch: A local folder for temporary files and for copies that local() makes. They are the caller's to
                remove, when nobody uses them any more.
            sync_interval: Seconds after which a log that is appended to writes what it holds.
        """
        self._objects = Objects(client, url.bucket)
        self._prefix = url.key if not url.key or url.key.endswith("/") else f"{url.key}/"
        self._guard = Guard()
        # The SDK tries a request again for minutes: each attempt looks at the lock anew.
        client.meta.events.register("before-send.s3", self._guard.before_attempt)
        self._files = _LocalFiles(scratch)
        self._sync_interval = sync_interval

    def at(self, folder: str) -> "S3Store":
        """The store of a folder of this one; it shares the guard and the local files."""
        store = copy.copy(self)
        store._prefix = self._folder(folder)  # noqa: SLF001 - its own class
        return store

    def where(self, name: str = "") -> str:
        """The name's URL."""
        return str(self._objects.url(self._key(name)))

    def get(self, name: str) -> bytes:
        """The bytes.

        Raises:
            FileNotFoundError: There are none.
            PreflightError, StoppedError: S3 refuses or can't be reached; every method raises these.
        """
        return self._objects.get(self._key(name)).data

    def open(self, name: str) -> BufferedIOBase:
        """The bytes, all of them in memory.

        Raises:
            FileNotFoundError: There are none.
        """
        return BytesIO(self.get(name))

    def size(self, name: str) -> int | None:
        """How many bytes there are; None for a log, which is a folder here."""
        return self._objects.size(self._key(name))

    def put(self, name: str, data: bytes | memoryview) -> None:
        """Writes or replaces.

        Raises:
            LockLostError: The lock was lost; every method that writes raises this.
        """
        with self._writing(name) as key:
            self._objects.put(key, bytes(data))

    @contextmanager
    def write_file(self, name: str) -> Iterator[Path]:
        """A local path to write to; at the end of the block it is uploaded, after an error it isn't."""
        path = self._files.new(name)
        try:
            yield path
            with self._writing(name) as key:
                self._objects.upload(key, path)
        finally:
            path.unlink(missing_ok=True)

    def local(self, name: str) -> Path:
        """A copy, made once while the name isn't written again by this store.

        Raises:
            FileNotFoundError: There are no bytes.
            OSError: The copy can't be written.
        """
        key = self._key(name)
        if (known := self._files.copy_of(key)) is not None:
            return known
        path = self._files.new(name)
        try:
            self._objects.download(key, path)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        self._files.keep(key, path)
        return path

    def names(self, folder: str = "") -> list[str]:
        """The names and folders directly under a folder, sorted."""
        listed = self._objects.listed(self._folder(folder))
        return sorted({*listed.objects, *listed.folders})

    def folders(self, folder: str = "") -> list[str]:
        """The folders alone."""
        return sorted(self._objects.listed(self._folder(folder)).folders)

    def remove(self, name: str) -> None:
        """Removes a name's bytes, if there are any."""
        with self._writing(name) as key:
            self._objects.delete(key)

    def remove_folder(self, name: str) -> None:
        """Removes a folder with all that is in it, as far as it is there."""
        folder = self._folder(name)
        with self._guard.writing():
            self._files.drop_folder(folder)
            self._objects.delete_folder(folder)

    def read(self, name: str) -> Versioned | None:
        """The bytes, and their ETag."""
        found = self._objects.find(self._key(name))
        return None if found is None else Versioned(found.data, found.version)

    def create(self, name: str, data: bytes) -> str:
        """Writes where nothing is, or the bytes are these already: an earlier attempt of ours may have written them.

        Raises:
            ConflictError: The name holds other bytes.
        """
        with self._writing(name) as key:
            return self._objects.put_if(key, data, None)

    def replace(self, name: str, data: bytes, version: str) -> str:
        """Writes where the version is still this one, or the bytes are these already.

        Raises:
            ConflictError: Neither holds.
        """
        with self._writing(name) as key:
            return self._objects.put_if(key, data, version)

    def create_log(self, name: str, header: bytes = b"") -> "S3Log":
        """A new log: nothing is written before something is appended.

        Raises:
            FileExistsError: The name holds bytes or a log with pieces.
        """
        if self.size(name) is not None or self.names(name):
            raise FileExistsError(f"there is something at {self.where(name)}")
        return S3Log(self, name, header, self._sync_interval)

    def read_log(self, name: str) -> Iterator[tuple[str, bytes]]:
        """The pieces, in the order in which they were written; none where there is no log."""
        for piece in self.names(name):
            yield self.where(f"{name}/{piece}"), self.get(f"{name}/{piece}")

    def lock(self, name: str, *, lease: float) -> Lease:
        """Takes an exclusive lock, an object that is replaced every quarter of the lease.

        Raises:
            HeldError: Another process holds it.
            PreflightError: The store doesn't honour conditional writes.
        """
        held = Lease.take(self._objects, self._key(name), lease)
        self._guard.add(held)
        return held

    @contextmanager
    def _writing(self, name: str) -> Iterator[str]:
        """Checks the lock, and forgets the copy of what changes, whether that succeeds or not."""
        key = self._key(name)
        with self._guard.writing():
            self._files.drop(key)
            yield key

    def _key(self, name: str) -> str:
        return f"{self._prefix}{name}"

    def _folder(self, folder: str) -> str:
        return f"{self._prefix}{folder}/" if folder else self._prefix


class S3Log:
    """A folder of numbered objects, since S3 can't append.

    What was appended is in memory until a piece is written: by sync(), or by an append() that finds 4 MiB there, or
    sync_interval seconds gone since the last piece. That piece holds what was appended before, so an append() that
    raises has appended nothing.
    """

    def __init__(self, store: S3Store, name: str, header: bytes, sync_interval: float) -> None:
        """Begins a log of which there are no pieces."""
        self._store = store
        self._name = name
        self._header = header
        self._sync_interval = sync_interval
        self._buffer = bytearray()
        self._piece = b""
        """What is being written: a further attempt must write the same bytes, since the one before may have won."""
        self._pieces = 0
        self._synced = time.monotonic()

    def append(self, data: bytes) -> None:
        """Appends whole lines or records, or nothing.

        Raises:
            LockLostError, PreflightError, StoppedError: What was appended before can't be written.
        """
        if len(self._buffer) >= _BUFFER or time.monotonic() - self._synced >= self._sync_interval:
            self.sync()
        self._buffer += data

    def sync(self) -> None:
        """Writes all that was appended.

        Raises:
            LockLostError, PreflightError, StoppedError: It can't be written.
        """
        while self._piece or self._buffer:
            if not self._piece:
                self._piece, self._buffer = self._header + self._buffer, bytearray()
            self._write()
        self._synced = time.monotonic()

    def close(self) -> None:
        """Writes all that was appended, and ends the log."""
        self.sync()

    def _write(self) -> None:
        name = f"{self._name}/{self._pieces:08d}"
        try:
            self._store.create(name, self._piece)
        except ConflictError as error:
            raise StoppedError(
                "another process writes this log; end it, and run the same command again", where=self._store.where(name)
            ) from error
        self._pieces += 1
        self._piece = b""


class _LocalFiles:
    """Files in a folder of this store's own: what other processes or earlier runs left in the scratch may be old."""

    def __init__(self, scratch: Path) -> None:
        self._folder = scratch / f"s3-{secrets.token_hex(8)}"
        self._numbers = itertools.count()
        self._copies: dict[str, Path] = {}

    def new(self, name: str) -> Path:
        """A path that nobody uses, with the name's last part at its end."""
        self._folder.mkdir(parents=True, exist_ok=True)
        return self._folder / f"{next(self._numbers)}-{name.rpartition('/')[2]}"

    def copy_of(self, key: str) -> Path | None:
        """The copy, unless the scratch was cleared meanwhile."""
        path = self._copies.get(key)
        return path if path is not None and path.is_file() else None

    def keep(self, key: str, path: Path) -> None:
        self._copies[key] = path

    def drop(self, key: str) -> None:
        path = self._copies.pop(key, None)
        if path is not None:
            path.unlink(missing_ok=True)

    def drop_folder(self, folder: str) -> None:
        for key in [key for key in self._copies if key.startswith(folder)]:
            self.drop(key)
