"""The state of all pipelines: opened, and a pipeline found in it."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from inventory_enqueue.config import AwsSettings
from inventory_enqueue.errors import InventoryUnavailableError, PreflightError, StoppedError
from inventory_enqueue.store import Store
from inventory_enqueue.stores import open_store
from inventory_enqueue.stores.local import LocalStore
from inventory_enqueue.uris import Location

_COPIES: Final = "inventory-enqueue-state-"
"""What the folders of copies begin with: the work folder may be anyone's, /tmp among them."""


@contextmanager
def opened_state(
    location: Location, settings: AwsSettings, work_dir: Path, *, checkpoint_interval: float
) -> Iterator[Store]:
    """The state, with the pipelines as its folders; of S3's files it keeps copies in the work folder.

    Raises:
        PreflightError: S3 can't be used so.
    """
    if isinstance(location, Path):
        yield LocalStore(location.absolute())
        return
    with _copies(work_dir) as copies:
        yield open_store(location, settings, copies, sync_interval=checkpoint_interval)


@contextmanager
def _copies(work_dir: Path) -> Iterator[Path]:
    """A folder for copies of a remote state's files; those that killed processes left are removed."""
    for left in work_dir.glob(f"{_COPIES}*"):
        with suppress(OSError), _locked(left):
            shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=_COPIES, dir=work_dir))
    try:
        with _locked(folder):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Holds a folder while its process lives.

    Raises:
        OSError: Another process holds it.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def made_work_dir(folder: Path | None) -> Path:
    """The scratch space, made: the folder that was named, or the one of the XDG base directories.

    Raises:
        PreflightError: It can't be made.
    """
    if folder is None:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "inventory-enqueue"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PreflightError(
            f"the scratch space can't be made ({error.strerror}); name another folder with --work-dir",
            where=str(folder),
        ) from error
    return folder.absolute()


@contextmanager
def disk_errors_stop(folder: Path) -> Iterator[None]:
    """Ends a command cleanly where a file can't be written or read, be it that a disk is full.

    Args:
        folder: To blame where the error names no file.

    Raises:
        StoppedError: A file couldn't be written or read.
    """
    try:
        yield
    except OSError as error:
        raise StoppedError(
            f"{error.strerror or error}; mend that and run the same command again",
            where=str(error.filename or folder),
        ) from error


def pipeline_named(state: Store, name: str | None) -> str:
    """The pipeline that is meant: the named one, or the only one.

    Raises:
        InventoryUnavailableError: There is none, or there are several and none was named.
    """
    names = state.folders()
    if name is not None:
        if name not in names:
            raise InventoryUnavailableError(f"there is no pipeline {name!r}", where=state.where())
        return name
    if len(names) != 1:
        there_are = f"there are several pipelines ({', '.join(names)})" if names else "there is no pipeline"
        raise InventoryUnavailableError(f"{there_are}: name one by --pipeline", where=state.where())
    return names[0]
