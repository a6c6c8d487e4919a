"""Finding deliveries under a configuration's prefix: the newest complete one, or a list of them.

A configuration's folder, s3://DEST/PREFIX/BUCKET/CONFIG/ or a local copy of it, holds one folder a delivery, named
YYYY-MM-DDTHH-MMZ after the time when the scan of the bucket began, beside data/ and hive/.
https://docs.aws.amazon.com/AmazonS3/latest/userguide/storage-inventory-location.html
"""

import logging
import re
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

from inventory_enqueue.delivery.folders import LEVELS, as_folder, child, folders_above, subfolders
from inventory_enqueue.delivery.landing import Landing
from inventory_enqueue.errors import (
    ChecksumMismatchError,
    IntegrityError,
    InventoryEnqueueError,
    InventoryUnavailableError,
)
from inventory_enqueue.manifest import FileFormat
from inventory_enqueue.report import iso
from inventory_enqueue.run import Delivery
from inventory_enqueue.uris import Location, S3Url

POLL: Final = timedelta(seconds=30)

_log = logging.getLogger(__name__)

_LABEL = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}-[0-9]{2}Z")
_LABEL_FORMAT = "%Y-%m-%dT%H-%MZ"
_MANIFEST = "manifest.json"
_CHECKSUM = "manifest.checksum"
# A configuration's folder has one entry a delivery: with more than this the prefix is another, of a huge flat bucket.
_MAX_PAGES = 100
_PAGE = 1000
# Where a wrong prefix is given: how far around it, and into how many folders of a level, a right one is looked for.
_MAX_LOOKS = 50
_MAX_NAMED = 3


class WrongPrefixError(InventoryUnavailableError):
    """The deliveries are in another folder than the given one: to wait for them here is in vain."""


@dataclass(frozen=True)
class Candidate:
    """A folder that is named as a delivery's is."""

    manifest: Location
    """Where its manifest.json is, if it is complete."""
    label: datetime
    """When the scan of the bucket began, to the minute."""


@dataclass(frozen=True)
class DeliveryInfo:
    """What `inventories` tells of a delivery."""

    label: datetime
    age: timedelta
    manifest: Location
    file_format: FileFormat | None
    """This and the next two are None where the delivery can't be used."""
    files: int | None
    total_bytes: int | None
    reason: str | None
    """Why it can't be used: it is incomplete, or damaged."""

    @property
    def complete(self) -> bool:
        """Whether a run can take it."""
        return self.reason is None

    def to_json(self) -> dict[str, Any]:
        """As `inventories --json` prints it."""
        return {
            "date": iso(self.label),
            "age_s": int(self.age.total_seconds()),
            "format": self.file_format,
            "files": self.files,
            "bytes": self.total_bytes,
            "complete": self.complete,
            "reason": self.reason,
            "manifest": str(self.manifest),
        }


def parse_label(name: str) -> datetime | None:
    """The time in a delivery folder's name, YYYY-MM-DDTHH-MMZ; None for any other name, as data or hive."""
    if not _LABEL.fullmatch(name):
        return None
    try:
        return datetime.strptime(name, _LABEL_FORMAT).replace(tzinfo=UTC)
    except ValueError:
        return None


def label_text(label: datetime) -> str:
    """The delivery folder's name for a time."""
    return label.astimezone(UTC).strftime(_LABEL_FORMAT)


def duration_text(duration: timedelta) -> str:
    """A duration for people, in its two largest units: 1 d 3 h."""
    seconds = max(0, int(duration.total_seconds()))
    amounts = (
        (seconds // 86400, "d"),
        (seconds // 3600 % 24, "h"),
        (seconds // 60 % 60, "min"),
        (seconds % 60, "s"),
    )
    return " ".join([f"{amount} {unit}" for amount, unit in amounts if amount][:2]) or "0 s"


def manifest_location(location: Location) -> Location:
    """The manifest.json that is meant by its own location, its checksum file's, or its folder's."""
    if isinstance(location, S3Url):
        name = location.key.rpartition("/")[2]
        if not name:
            return S3Url(location.bucket, location.key + _MANIFEST)
        if parse_label(name):
            return S3Url(location.bucket, f"{location.key}/{_MANIFEST}")
        return S3Url(location.bucket, _json_name(location.key))
    with suppress(OSError):  # what can't be looked at is told of where it is read
        if location.is_dir():
            return location / _MANIFEST
    return location.with_name(_json_name(location.name))


def find_candidates(landing: Landing, location: Location) -> list[Candidate]:
    """The deliveries under a configuration's folder, complete or not, newest first.

    Args:
        landing: How S3 is reached.
        location: The folder, with or without a slash at its end.

    Raises:
        WrongPrefixError: There are none, but in a folder near it there are.
        InventoryUnavailableError: There are none.
        PreflightError, StoppedError: The folder can't be listed.
    """
    folder = as_folder(location)
    names, whole = subfolders(landing, folder, _MAX_PAGES)
    if not whole:
        raise WrongPrefixError(
            f"it holds more than {_MAX_PAGES * _PAGE:,} entries, so it is no configuration's folder; name "
            "s3://DEST/PREFIX/BUCKET/CONFIG/",
            where=str(folder),
        )
    labels = {name: label for name in names if (label := parse_label(name))}
    if not labels:
        raise _none_there(landing, folder, names)
    newest_first = sorted(labels, key=labels.__getitem__, reverse=True)
    return [Candidate(manifest_location(child(folder, name)), labels[name]) for name in newest_first]


def find_latest(landing: Landing, location: Location, *, day: date | None = None) -> Delivery:
    """The newest complete delivery under a configuration's folder.

    A delivery is complete once manifest.checksum is there and says the MD5 of manifest.json. Until then an older one is
    taken; the log says so.

    Args:
        landing: How S3 is reached.
        location: The folder, with or without a slash at its end.
        day: Only deliveries whose scan began on this day in UTC.

    Raises:
        InventoryUnavailableError: There is none.
        IntegrityError: The newest one is complete, but its manifest can't be used.
        PreflightError, StoppedError: S3 or the folder can't be read.
    """
    candidates = find_candidates(landing, location)
    of_day = ""
    if day is not None:
        candidates = _of_day(candidates, day, where=str(location))
        of_day = f" of {_utc_day(day)} (UTC)"
    reasons = []
    for candidate in candidates:
        opened = _open_complete(landing, candidate)
        if isinstance(opened, Delivery):
            return opened
        reasons.append(f"{label_text(candidate.label)}: {opened}")
        _log.info("skipping an incomplete delivery, %s", reasons[-1])
    raise InventoryUnavailableError(
        f"it holds no complete delivery{of_day}, and {len(reasons):,} incomplete; the newest is {reasons[0]}",
        where=str(location),
    )


def check_age(delivery: Delivery, max_age: timedelta | None, now: datetime) -> None:
    """Refuses a delivery whose scan began too long ago.

    Raises:
        InventoryUnavailableError: It is older than max_age.
    """
    age = now - delivery.manifest.creation_timestamp
    if max_age is not None and age > max_age:
        raise InventoryUnavailableError(
            f"this delivery is {duration_text(age)} old, and {duration_text(max_age)} is the limit; wait for a newer "
            "one, or allow an older one",
            where=str(delivery.location),
        )


def wait_for(
    find: Callable[[], Delivery],
    wait: timedelta,
    *,
    poll: timedelta = POLL,
    sleep: Callable[[float], object] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Delivery:
    """What `find` finds, tried again as long as it isn't available and the wait isn't over.

    Args:
        find: Finds a delivery, and checks its age where that matters.
        wait: How long to try; the last attempt is at its end.
        poll: The time between two attempts.
        sleep: Sleeps for some seconds.
        clock: Seconds from any fixed moment on.

    Raises:
        InventoryUnavailableError: The last attempt's error, once the wait is over.
        WrongPrefixError: At once: waiting can't help.
    """
    deadline = clock() + wait.total_seconds()
    told = False
    while True:
        try:
            return find()
        except WrongPrefixError:
            raise
        except InventoryUnavailableError as error:
            left = deadline - clock()
            if left <= 0:
                if not told:
                    raise
                raise InventoryUnavailableError(
                    f"{error.message} (waited {duration_text(wait)} for it)", where=error.where
                ) from error
            if not told:
                _log.info("waiting up to %s: %s", duration_text(wait), error)
                told = True
        sleep(min(poll.total_seconds(), left))


def list_deliveries(
    landing: Landing, location: Location, *, limit: int, now: datetime
) -> tuple[list[DeliveryInfo], int]:
    """The newest deliveries under a configuration's folder, and how many older ones there are.

    Args:
        landing: How S3 is reached.
        location: The folder, with or without a slash at its end.
        limit: How many to look into, at two requests each.
        now: What their age is counted to.

    Raises:
        InventoryUnavailableError: There are none.
        PreflightError, StoppedError: S3 or the folder can't be read.
    """
    candidates = find_candidates(landing, location)
    return [_info(landing, candidate, now) for candidate in candidates[:limit]], len(candidates[limit:])


def _info(landing: Landing, candidate: Candidate, now: datetime) -> DeliveryInfo:
    label, age = candidate.label, now - candidate.label
    try:
        manifest = landing.open(candidate.manifest).manifest
    except (InventoryUnavailableError, IntegrityError) as error:
        return DeliveryInfo(label, age, candidate.manifest, None, None, None, error.message)
    return DeliveryInfo(
        label, age, candidate.manifest, manifest.file_format, len(manifest.files), manifest.total_bytes, None
    )


def _of_day(candidates: list[Candidate], day: date, *, where: str) -> list[Candidate]:
    of_day = [candidate for candidate in candidates if candidate.label.date() == _utc_day(day)]
    if not of_day:
        raise InventoryUnavailableError(
            f"it holds no delivery of {_utc_day(day)} (UTC), and {len(candidates):,} of other days; the newest is "
            f"{label_text(candidates[0].label)}",
            where=where,
        )
    return of_day


def _utc_day(day: date) -> date:
    """The day itself, or that of a time: in UTC where it has a zone."""
    if isinstance(day, datetime):
        return (day.astimezone(UTC) if day.tzinfo else day).date()
    return day


def _open_complete(landing: Landing, candidate: Candidate) -> Delivery | str:
    """A delivery, or why it is incomplete.

    Raises:
        IntegrityError: It is complete, but its manifest can't be used: an older one in its place would hide that.
        PreflightError, StoppedError: It can't be read.
    """
    try:
        return landing.open(candidate.manifest)
    except InventoryUnavailableError as error:
        return error.message
    except ChecksumMismatchError as error:
        return error.message


def _none_there(landing: Landing, folder: Location, names: list[str]) -> InventoryUnavailableError:
    seen = f"no folder in it is named as a delivery's is, 2026-03-02T01-00Z (folders seen: {len(names):,})"
    nearby = _nearby(landing, folder, names)
    if nearby:
        listed = " or ".join(str(found) for found in nearby[:_MAX_NAMED])
        more = f" or {len(nearby) - _MAX_NAMED} more like it" if len(nearby) > _MAX_NAMED else ""
        return WrongPrefixError(f"{seen}; did you mean {listed}{more}?", where=str(folder))
    return InventoryUnavailableError(
        f"{seen}; check the prefix, s3://DEST/PREFIX/BUCKET/CONFIG/, or name a manifest. S3 writes a configuration's "
        "first delivery within 48 hours",
        where=str(folder),
    )


def _nearby(landing: Landing, folder: Location, names: list[str]) -> list[Location]:
    """Configurations' folders near one that isn't: the nearest above it, else those on the nearest level below it."""
    for above in folders_above(folder):
        if _has_deliveries(_look(landing, above)):
            return [above]
    level = [child(folder, name) for name in names]
    for _ in range(LEVELS):
        listed = {below: _look(landing, below) for below in level[:_MAX_LOOKS]}
        found = [below for below, inside in listed.items() if _has_deliveries(inside)]
        if found:
            return found
        level = [child(below, name) for below, inside in listed.items() for name in inside]
    return []


def _look(landing: Landing, folder: Location) -> list[str]:
    """The first folders in a folder: names of deliveries begin with a digit, so that they come first in S3."""
    with suppress(InventoryEnqueueError):
        return subfolders(landing, folder, 1)[0]
    return []


def _has_deliveries(names: Iterable[str]) -> bool:
    return any(parse_label(name) for name in names)


def _json_name(name: str) -> str:
    return f"{name.removesuffix('.checksum')}.json" if name.endswith(".checksum") else name
