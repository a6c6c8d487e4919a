"""Whether there is room for what a run will write, asked before it writes anything."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from inventory_enqueue.config import FirstRun
from inventory_enqueue.errors import StoppedError
from inventory_enqueue.run import Delivery, Run
from inventory_enqueue.stores.local import LocalStore
from inventory_enqueue.uris import S3Url

_BYTES_PER_ROW: Final = 76
"""A row of a real delivery takes 66 to 76 bytes: the rows of a bucket that we don't know are rather underestimated, so
that nothing is refused which would have fitted. What is too much all the same stops the run later, resumable."""

_FINGERPRINT: Final = 28
"""Bytes of a row in a spill, and of one in the index."""
_RECENT: Final = 2
"""Bytes a row for the recent ones: one in a hundred, of 200 bytes."""
_CANDIDATE: Final = 25


@dataclass(frozen=True)
class Need:
    """What a run will write to one file system."""

    folder: Path
    size: int
    """In bytes, about."""
    free: int
    option: str
    """What names another place."""

    def __str__(self) -> str:
        """As the log has it."""
        return f"about {self.size:,} bytes needed in {self.folder}, {self.free:,} free"


def needs(run: Run) -> list[Need]:
    """The scratch space and the state, or both together where they share a file system."""
    scratch, state = _scratch(run), _state(run)
    work_dir, home = run.runtime.work_dir, run.pipeline_store
    if not run.in_state:
        return [_need(work_dir, scratch + state, "--work-dir")]
    if not isinstance(home, LocalStore):
        return [_need(work_dir, scratch, "--work-dir")]
    if _existing(work_dir).stat().st_dev == _existing(home.root).stat().st_dev:
        return [_need(work_dir, scratch + state, "--work-dir")]
    return [_need(work_dir, scratch, "--work-dir"), _need(home.root, state, "--state")]


def check(run: Run) -> None:
    """Compares what is needed with what is free.

    Raises:
        StoppedError: There is too little.
    """
    for need in needs(run):
        if need.size > need.free:
            raise StoppedError(
                f"the run will write about {need.size:,} bytes here, {need.free:,} are free: make room, or name "
                f"another place with {need.option}",
                where=str(need.folder),
            )


def _scratch(run: Run) -> int:
    """Spills, recent rows, and the downloads that are there at a time where they aren't all kept."""
    plan, sizes = run.plan, run.runtime.sizes
    indexed = [run.current]
    if run.previous is not None and plan.indexes_previous:
        indexed.append(run.previous)
    if run.known is not None and run.known.delivery is not None:
        indexed.append(run.known.delivery)
    spills = sum(_rows(run, delivery) for delivery in indexed) * _FINGERPRINT
    recent = _rows(run, run.current) * _RECENT if run.previous is not None and run.selected_changes else 0
    remote = [delivery.manifest for delivery in indexed if isinstance(delivery.location, S3Url)]
    largest = max((file.size for manifest in remote for file in manifest.files), default=0)
    # Each worker's own batch, and those that Worker.fetch_ahead asks for.
    batches = 2 * sizes.workers + 1
    downloads = min(sum(manifest.total_bytes for manifest in remote), batches * max(sizes.bytes_per_batch, largest))
    return spills + recent + downloads


def _state(run: Run) -> int:
    """The new index, and the candidates where everything is one."""
    rows = _rows(run, run.current)
    everything = run.selected_changes and (run.replay or run.config["first_run"] == FirstRun.ALL)
    return rows * (_FINGERPRINT + (_CANDIDATE if everything and run.previous is None else 0))


def _rows(run: Run, delivery: Delivery) -> int:
    """About how many rows a delivery has: by what a row of the baseline took, where there is one."""
    manifest, known = delivery.manifest, None if run.previous is None else run.previous.manifest
    if run.baseline is not None and known is not None and known.file_format is manifest.file_format and known.files:
        return manifest.total_bytes * run.baseline.identities // max(known.total_bytes, 1)
    return manifest.total_bytes // _BYTES_PER_ROW


def _need(folder: Path, size: int, option: str) -> Need:
    return Need(folder, size, shutil.disk_usage(_existing(folder)).free, option)


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    return next(path for path in (folder, *folder.parents) if path.exists())
