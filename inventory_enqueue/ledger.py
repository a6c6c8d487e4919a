"""What a pipeline has done: its lock, baseline and runs; and what the queue acknowledged of a run, row by row.

<state>/<pipeline>/lock                         flock; its holder in JSON
                   baseline.json                the delivery committed last, and its index
                   indexes/<run>/               meta.json, manifest.json, 00000.arrow ...
                   runs/<run>/run.json          with manifest.json, candidates/, tasks/, acks/, failures/
                   runs/<run>/report.json       there when the run has ended for good
"""

import json
import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Any, Final

import polars as pl

from inventory_enqueue import acknowledgements, documents
from inventory_enqueue.acknowledgements import BYTES_PER_ROW
from inventory_enqueue.baseline import Baseline, index_folder
from inventory_enqueue.errors import LockedError, PreflightError
from inventory_enqueue.report import iso
from inventory_enqueue.run import Run
from inventory_enqueue.store import AppendLog, LocalStore, whole_lines

_ACKS: Final = "acks"
_FAILURES: Final = "failures"
_LATE: Final = "late"

SYNC_INTERVAL: Final = 5.0
"""Seconds between fsyncs of the acknowledgements: a power loss may repeat what was sent in this time."""


class Ledger:
    """A pipeline's state, with its lock held."""

    def __init__(self, store: LocalStore) -> None:
        """Takes the pipeline's folder; use opened()."""
        self.store = store

    @classmethod
    @contextmanager
    def opened(cls, folder: Path, pipeline: str) -> Iterator["Ledger"]:
        """The pipeline's ledger, locked until the block ends or the process dies.

        Raises:
            LockedError: Another process holds the lock.
            PreflightError: The folder can't be written to.
        """
        store = LocalStore(folder)
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": iso(datetime.now(tz=UTC))}
        try:
            lock = store.lock("lock")
            descriptor = lock.__enter__()
        except OSError as error:
            raise PreflightError(
                f"the state can't be written ({error.strerror}); name another folder with --state, or mend its "
                "permissions",
                where=str(folder),
            ) from error
        try:
            if descriptor is None:
                raise LockedError(
                    f"another run of the pipeline {pipeline!r} is under way ({_holder(store)}); wait for it to end",
                    where=str(store.path("lock")),
                )
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(holder).encode(), 0)
            yield cls(store)
        finally:
            lock.__exit__(None, None, None)

    def baseline(self) -> Baseline | None:
        """The delivery committed last.

        Raises:
            IntegrityError: baseline.json is damaged or of a newer version.
        """
        return read_baseline(self.store)

    def unfinished(self) -> Run | None:
        """The run that was begun and has neither ended nor been given up.

        Raises:
            IntegrityError: A file of it is damaged or of a newer version.
        """
        for run_id in reversed(self.store.names("runs")):
            name = f"runs/{run_id}"
            if self.store.exists(f"{name}/run.json") and not self.store.exists(f"{name}/report.json"):
                return Run.load(self.store.root, self.store.path(name))
        return None

    def run_folder(self, run_id: str) -> Path:
        """Where a run's files are."""
        return self.store.path(f"runs/{run_id}")

    def commit(self, baseline: Baseline) -> None:
        """Moves the baseline, in one step: the last thing that a run does."""
        self.store.put("baseline.json", documents.encode(baseline.to_json()))

    def drop_baseline(self) -> None:
        """Forgets the delivery committed last, then removes its index."""
        self.store.remove("baseline.json")
        for run_id in self.store.names("indexes"):
            self.store.remove_folder(index_folder(run_id))

    def end(self, run: Run, report: dict[str, Any]) -> None:
        """Removes the indexes that no baseline points to any more, then records that a run has ended for good."""
        baseline = self.baseline()
        for run_id in self.store.names("indexes"):
            if baseline is None or baseline.run_id != run_id:
                self.store.remove_folder(index_folder(run_id))
        self.store.put(f"runs/{run.id}/report.json", documents.encode(report))


def read_baseline(store: LocalStore) -> Baseline | None:
    """Reads baseline.json without the lock: enough for a dry run."""
    if not store.exists("baseline.json"):
        return None
    return documents.parse(store.get("baseline.json"), Baseline.from_json, where=str(store.path("baseline.json")))


def _holder(store: LocalStore) -> str:
    try:
        holder = json.loads(store.get("lock"))
        return f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "its holder is just starting"


@dataclass(frozen=True)
class Failure:
    """A message that can't be delivered, with all that `resend` needs."""

    row: int
    key: str
    code: str
    message: str
    sender_fault: bool
    body: str


class TaskLedger:
    """What the queue said of one enqueue task's rows.

    Each attempt writes files of its own; the facts in all of them are united.

    acks/<task>/<attempt>.rows       a line with format_version, then the rows accepted, as acknowledgements.py has them
    failures/<task>/<attempt>.jsonl  one Failure a line
    late/<task>/<attempt>.jsonl      the same, for what --on-late keeps back
    """

    def __init__(self, run: Run, task: int) -> None:
        """Begins an attempt at a task."""
        self._store = run.store
        self._header = {"run_id": run.id, "pipeline": run.pipeline}
        self._bucket = run.current.manifest.source_bucket
        self._task = task
        self._lock = Lock()
        self._logs: dict[str, AppendLog] = {}
        self._has_header = False
        """Whether the log of acknowledgements has its first line."""
        self._synced = time.monotonic()

    def acknowledged(self) -> pl.Series:
        """The rows that the queue accepted in any attempt: UInt64, some of them more than once.

        Raises:
            IntegrityError: A file is damaged or of a newer version.
        """
        rows = [pl.Series("row", [], pl.UInt64)]
        for name in self._files(_ACKS):
            where = str(self._store.path(name))
            header, newline, answers = self._store.get(name).partition(b"\n")
            if newline:
                documents.parse(header, dict, where=where)
                rows.append(acknowledgements.decode(answers, where=where))
        return pl.concat(rows)

    def failed(self) -> list[int]:
        """The rows that stand in the failures files of any attempt."""
        return [int(record["row"]) for record in self._records(_FAILURES)]

    def late(self) -> list[int]:
        """The rows that any attempt kept back, since they reappeared."""
        return [int(record["row"]) for record in self._records(_LATE)]

    def failure_lines(self) -> bytes:
        """The failures of all attempts, one a row."""
        return self._lines(_FAILURES)

    def late_lines(self) -> bytes:
        """What all attempts kept back, one a row, in the form of failures."""
        return self._lines(_LATE)

    def _lines(self, kind: str) -> bytes:
        unique = {record["row"]: record for record in self._records(kind)}
        return b"".join((json.dumps(record) + "\n").encode() for record in unique.values())

    def record(self, sent: bytes, failures: Sequence[Failure] = ()) -> None:
        """Records an answer of the queue, at once: a process that is killed afterwards has it.

        Args:
            sent: Rows accepted, as acknowledgements.encode() gives them.
            failures: Messages that were refused for good; durable when this returns.

        Raises:
            OSError: The state can't be written.
        """
        with self._lock:
            if sent:
                self._ack_log().append(sent)
            self._append(_FAILURES, failures)
            if time.monotonic() - self._synced > SYNC_INTERVAL:
                self._ack_log().sync()
                self._synced = time.monotonic()

    def record_failures(self, failures: Sequence[Failure]) -> None:
        """Records messages that no queue takes; they are durable when this returns.

        Raises:
            OSError: The state can't be written.
        """
        with self._lock:
            self._append(_FAILURES, failures)

    def record_late(self, kept_back: Sequence[Failure]) -> None:
        """Records messages that aren't sent, since their keys reappeared; they are durable when this returns.

        Raises:
            OSError: The state can't be written.
        """
        with self._lock:
            self._append(_LATE, kept_back)

    def close(self) -> None:
        """Makes everything durable and ends the attempt."""
        with self._lock:
            for log in self._logs.values():
                log.close()
            self._logs = {}

    def _append(self, kind: str, failures: Sequence[Failure]) -> None:
        if failures:
            log = self._log(kind)
            lines = ({**self._header, "bucket": self._bucket, **asdict(failure)} for failure in failures)
            log.append(b"".join(documents.encode_line(line) for line in lines))
            log.sync()

    def _ack_log(self) -> AppendLog:
        log = self._log(_ACKS)
        if not self._has_header:
            line = documents.encode_line(self._header).rstrip()
            # No row lies across two blocks of the file system.
            log.append(line.ljust(len(line) + -(len(line) + 1) % BYTES_PER_ROW) + b"\n")
            self._has_header = True
        return log

    def _log(self, kind: str) -> AppendLog:
        """This attempt's file of a kind."""
        if kind not in self._logs:
            suffix = "rows" if kind == _ACKS else "jsonl"
            name = f"{kind}/{self._task:05d}/{len(self._files(kind)):05d}.{suffix}"
            self._logs[kind] = self._store.create_log(name)
        return self._logs[kind]

    def _files(self, kind: str) -> list[str]:
        folder = f"{kind}/{self._task:05d}"
        return [f"{folder}/{name}" for name in self._store.names(folder)]

    def _records(self, kind: str) -> Iterator[dict[str, Any]]:
        for name in self._files(kind):
            for line in whole_lines(self._store.get(name)):
                yield documents.parse(line, dict, where=str(self._store.path(name)))
