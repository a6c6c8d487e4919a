"""A lock made of one object and conditional writes: its holder replaces it again and again, or loses it.

The object says who holds it and for how long without being replaced, the lease. Others count its age by the server's
clock alone; the holder counts from before it sent its last successful request, so it always gives up first.
"""

import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, Final, Self

from inventory_enqueue import documents
from inventory_enqueue.errors import InventoryEnqueueError, LockLostError
from inventory_enqueue.store import ConflictError, HeldError
from inventory_enqueue.stores.holders import Holder
from inventory_enqueue.stores.objects import Found, Objects, conditions_missing

_ROUNDING: Final = 1.0
"""Seconds added to a lease: the server's two times are whole seconds, so an age is up to this much too high."""
_BEATS_PER_LEASE: Final = 4
_TAKE_ATTEMPTS: Final = 3
_JOIN_SECONDS: Final = 10.0
# A clock that goes on while the machine is suspended; where there is none, the next heartbeat tells of such a loss.
_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
_NO_VERSION: Final = f'"{"0" * 32}"'


@dataclass(frozen=True)
class _Document:
    """What the lock's object holds. Two are never the same, so a writer knows its own."""

    token: str
    lease: float
    beat: int
    released: bool
    holder: Holder

    def encode(self) -> bytes:
        return documents.encode({**vars(self), "holder": self.holder.to_json()})

    @classmethod
    def parse(cls, data: bytes, where: str) -> Self:
        return documents.parse(data, cls._from_json, where=where)

    @classmethod
    def _from_json(cls, document: dict[str, Any]) -> Self:
        return cls(
            token=document["token"],
            lease=float(document["lease"]),
            beat=document["beat"],
            released=document["released"],
            holder=Holder.from_json(document["holder"]),
        )


class Lease:
    """A lock that is held as long as a thread of this process replaces its object in time."""

    def __init__(self, objects: Objects, key: str, document: _Document, version: str, sent: float) -> None:
        """Begins to replace the object; use take().

        Args:
            objects: The bucket.
            key: The lock's object.
            document: What it holds.
            version: Its version.
            sent: When the request that wrote it was about to be sent.
        """
        self._objects = objects
        self._key = key
        self._document = document
        self._version = version
        self._deadline = sent + document.lease
        self._loss: str | None = None
        self._stop = threading.Event()
        self._given_back = False
        self._thread = threading.Thread(target=self._keep, name="lock", daemon=True)
        self._thread.start()

    @classmethod
    def take(cls, objects: Objects, key: str, lease: float) -> Self:
        """Takes the lock, without waiting.

        Raises:
            HeldError: Another process holds it.
            PreflightError: The store doesn't honour conditional writes.
            IntegrityError: The object is damaged, or of a newer version.
        """
        _prove_conditions(objects, key.rpartition("/")[0])
        document = _Document(secrets.token_hex(16), lease, 0, released=False, holder=Holder.this_process())
        version: str | None = None
        for _ in range(_TAKE_ATTEMPTS):
            sent = _now()
            with suppress(ConflictError):
                written = objects.put_if(key, document.encode(), version)
                return cls(objects, key, document, written, sent)
            found = objects.find(key)
            version = None if found is None else _free_version(found, str(objects.url(key)))
        raise HeldError("one of several processes that took it at the same time")

    @property
    def token(self) -> str:
        """Names this holding."""
        return self._document.token

    @property
    def given_back(self) -> bool:
        """Whether it was released while it was held."""
        return self._given_back

    def check(self) -> None:
        """Looks whether the lock is still held.

        Raises:
            LockLostError: It was lost, or may be.
        """
        if self._loss is None and _now() < self._deadline:
            return
        raise LockLostError(
            f"the lock was lost: {self._loss or f'S3 took no sign of life for {self._document.lease:g} s'}; run the "
            "same command again, once no other run is under way",
            where=str(self._objects.url(self._key)),
        )

    def release(self) -> None:
        """Gives it back, as far as S3 can be reached: else its lease ends, or its process does."""
        self._stop.set()
        self._thread.join(_JOIN_SECONDS)
        if self._loss is None and _now() < self._deadline:
            self._given_back = True
            with suppress(ConflictError, InventoryEnqueueError):
                self._objects.put_if(self._key, replace(self._document, released=True).encode(), self._version)

    def _keep(self) -> None:
        while not self._stop.wait(self._document.lease / _BEATS_PER_LEASE) and self._loss is None:
            # What keeps S3 from answering may pass, and a denied or expired credential be renewed.
            with suppress(InventoryEnqueueError):
                if _now() >= self._deadline:
                    self._look()
                    return
                self._beat()

    def _beat(self) -> None:
        self._document = replace(self._document, beat=self._document.beat + 1)
        sent = _now()
        try:
            self._version = self._objects.put_if(self._key, self._document.encode(), self._version)
            self._deadline = sent + self._document.lease
        except ConflictError:
            self._look()

    def _look(self) -> None:
        """After a conflict or a loss: who has it? An earlier beat whose answer was lost is replaced by the next one."""
        found = self._objects.find(self._key)
        if found is None:
            self._loss = "its object was removed"
            return
        document = _Document.parse(found.data, str(self._objects.url(self._key)))
        if document.token == self.token:
            self._version = found.version
        else:
            self._loss = f"{document.holder} took it at {document.holder.since}"


class Guard:
    """What lets a process write only while it holds its locks."""

    def __init__(self) -> None:
        """Begins without a lock: everything is allowed."""
        self._locks: list[Lease] = []
        self._thread = threading.local()

    def add(self, lock: Lease) -> None:
        """From now on this lock must be held, until it is given back."""
        self._locks = [*(known for known in self._locks if not known.given_back), lock]

    def check(self) -> None:
        """Looks at all locks.

        Raises:
            LockLostError: One was lost, or may be.
        """
        for lock in self._locks:
            if not lock.given_back:
                lock.check()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """The block's requests are sent only while the locks are held.

        Raises:
            LockLostError: One was lost, or may be.
        """
        self.check()
        self._thread.writes = True
        try:
            yield
        finally:
            self._thread.writes = False

    def before_attempt(self, **_: object) -> None:
        """Looks at all locks again, where this thread's block writes: the SDK calls this for each attempt.

        Raises:
            LockLostError: One was lost, or may be.
        """
        if getattr(self._thread, "writes", False):
            self.check()


def _free_version(found: Found, where: str) -> str:
    """The version of a lock's object that may be replaced, since nobody holds it.

    Raises:
        HeldError: Somebody does.
    """
    document = _Document.parse(found.data, where)
    if document.released or document.holder.is_dead() or found.age >= document.lease + _ROUNDING:
        return found.version
    raise HeldError(f"{document.holder}, heard of {found.age:.0f} s ago, lease {document.lease:g} s")


def _prove_conditions(objects: Objects, folder: str) -> None:
    """Proves that the store honours the conditions that locks are made of, once: not all S3-compatible ones do.

    Raises:
        PreflightError: It doesn't.
    """
    prefix = f"{folder}/" if folder else ""
    if objects.size(f"{prefix}conditions.json") is not None:
        return
    probe = f"{prefix}conditions-{secrets.token_hex(8)}"
    try:
        version = objects.put_if(probe, b"1", None)
        _must_conflict(objects, probe, None)
        _must_conflict(objects, probe, _NO_VERSION)
        _must_write(objects, probe, version)
    finally:
        objects.delete(probe)
    objects.put(f"{prefix}conditions.json", documents.encode({"honoured": ["If-Match", "If-None-Match"]}))


def _must_conflict(objects: Objects, probe: str, version: str | None) -> None:
    with suppress(ConflictError):
        objects.put_if(probe, b"2", version)
        raise conditions_missing(objects.url(probe), "IfNoneMatch" if version is None else "IfMatch")


def _must_write(objects: Objects, probe: str, version: str) -> None:
    try:
        objects.put_if(probe, b"3", version)
    except ConflictError as error:
        raise conditions_missing(objects.url(probe), "IfMatch") from error


def _now() -> float:
    return time.clock_gettime(_CLOCK)
