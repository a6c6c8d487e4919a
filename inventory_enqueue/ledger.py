"""What a pipeline has done: its lock, baseline and runs; and what the queue acknowledged of a run, row by row.

<state>/<pipeline>/lock                         one run at a time: flock, or in S3 a lease
                   baseline.json                the delivery committed last, and its index
                   indexes/<run>/               meta.json, manifest.json, 00000.arrow ...
                   runs/<run>/run.json          with manifest.json, candidates/, tasks/, acks/, failures/
                   runs/<run>/report.json       there when the run has ended for good
"""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from threading import Lock as ThreadLock
from typing import Any, Final

import polars as pl

from inventory_enqueue import acknowledgements, documents
from inventory_enqueue.acknowledgements import BYTES_PER_ROW
from inventory_enqueue.baseline import Baseline, index_folder
from inventory_enqueue.config import Locking
from inventory_enqueue.errors import LockedError, LockLostError, PreflightError, StoppedError
from inventory_enqueue.run import Run, run_folder
from inventory_enqueue.store import ConflictError, HeldError, Lock, Log, Store, Versioned, whole_lines

_ACKS: Final = "acks"
_FAILURES: Final = "failures"
_LATE: Final = "late"
_BASELINE: Final = "baseline.json"
_LOCK: Final = "lock"
_POLL: Final = 0.5
"""Seconds between two looks at a lock that another run holds."""


class Ledger:
    """A pipeline's state, with its lock held."""

    def __init__(self, store: Store, lock: Lock, keep_runs: int) -> None:
        """Takes the pipeline's folder; use opened()."""
        self.store = store
        self.lock = lock
        self._keep_runs = keep_runs
        self._baseline = store.read(_BASELINE)

    @classmethod
    @contextmanager
    def opened(cls, store: Store, pipeline: str, locking: Locking, *, keep_runs: int) -> Iterator["Ledger"]:
        """The pipeline's ledger, locked until the block ends or the process dies.

        Args:
            store: The pipeline's folder.
            pipeline: Its name.
            locking: How long to wait for the lock.
            keep_runs: Ended runs whose files stay.

        Raises:
            LockedError: Another process holds the lock, for longer than we wait.
            PreflightError: The state can't keep a lock, or is no folder.
            StoppedError: It can't be written to.
        """
        try:
            lock = _locked(store, pipeline, locking)
        except (NotADirectoryError, FileExistsError) as error:
            raise PreflightError(
                "the state can't be written: there is a file where its folder should be; name another --state",
                where=store.where(),
            ) from error
        except OSError as error:
            raise StoppedError(
                f"the state can't be written ({error.strerror}); mend that (its permissions, a full disk) and run the "
                "same command again, or name another folder with --state",
                where=store.where(),
            ) from error
        try:
            yield cls(store, lock, keep_runs)
        finally:
            lock.release()

    def baseline(self) -> Baseline | None:
        """The delivery committed last.

        Raises:
            IntegrityError: baseline.json is damaged or of a newer version.
        """
        return _parsed(self.store, self._baseline)

    def unfinished(self) -> Run | None:
        """The run that was begun and has neither ended nor been given up.

        Raises:
            IntegrityError: A file of it is damaged or of a newer version.
        """
        for run_id in reversed(self.store.folders("runs")):
            names = self.store.names(run_folder(run_id))
            if "run.json" in names and _REPORT not in names:
                return Run.load(self.store, run_id)
        return None

    def commit(self, baseline: Baseline) -> None:
        """Moves the baseline, in one step: the last thing that a run does.

        Raises:
            LockLostError: Another run has moved it since this one began.
        """
        self.lock.check()
        data, known = documents.encode(baseline.to_json()), self._baseline
        try:
            if known is None:
                version = self.store.create(_BASELINE, data)
            else:
                version = self.store.replace(_BASELINE, data, known.version)
        except ConflictError:
            found = self.store.read(_BASELINE)
            committed = _parsed(self.store, found)
            if found is None or committed is None or committed.run_id != baseline.run_id:
                raise LockLostError(
                    "another run committed meanwhile, so this one doesn't; run the same command again: it finds out "
                    "what is left",
                    where=self.store.where(_BASELINE),
                ) from None
            # Whoever took this run over has committed it.
            data, version = found
        self._baseline = Versioned(data, version)

    def drop_baseline(self) -> None:
        """Forgets the delivery committed last, then removes its index."""
        self.store.remove(_BASELINE)
        self._baseline = None
        for run_id in self.store.folders("indexes"):
            self.store.remove_folder(index_folder(run_id))

    def end(self, run: Run, report: dict[str, Any]) -> None:
        """Removes the indexes that no baseline points to any more, then records that a run has ended for good.

        Of the runs that ended, the last keep_runs stay, each with its report, its failures and what was acknowledged;
        one that hasn't ended always stays.
        """
        baseline = self.baseline()
        for run_id in self.store.folders("indexes"):
            if baseline is None or baseline.run_id != run_id:
                self.store.remove_folder(index_folder(run_id))
        self.store.put(f"{run_folder(run.id)}/{_REPORT}", documents.encode(report))
        self._prune()

    def _prune(self) -> None:
        ended = []
        for run_id in self.store.folders("runs"):
            names = self.store.names(run_folder(run_id))
            if "run.json" not in names:
                # A process died before the run was one, or while it removed it.
                self.store.remove_folder(run_folder(run_id))
            elif _REPORT in names:
                ended.append(run_id)
        for run_id in ended[: -self._keep_runs]:
            # First, what makes it a run: one that lost its report before the rest would look unfinished.
            self.store.remove(f"{run_folder(run_id)}/run.json")
            self.store.remove_folder(run_folder(run_id))


_REPORT: Final = "report.json"


def _locked(store: Store, pipeline: str, locking: Locking) -> Lock:
    """Takes the lock, as soon as it is free."""
    deadline = time.monotonic() + locking.wait
    while True:
        try:
            return store.lock(_LOCK, lease=locking.lease)
        except HeldError as error:
            if time.monotonic() >= deadline:
                raise LockedError(
                    f"another run of the pipeline {pipeline!r} is under way ({error.holder}); wait for it to end, or "
                    "wait longer with --lock-wait",
                    where=store.where(_LOCK),
                ) from error
        time.sleep(min(_POLL, max(0.0, deadline - time.monotonic())))


def read_baseline(store: Store) -> Baseline | None:
    """Reads baseline.json without the lock: enough for a dry run."""
    return _parsed(store, store.read(_BASELINE))


def _parsed(store: Store, found: Versioned | None) -> Baseline | None:
    if found is None:
        return None
    return documents.parse(found.data, Baseline.from_json, where=store.where(_BASELINE))


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
        self._interval = run.runtime.sending.checkpoint_interval
        self._lock = ThreadLock()
        self._logs: dict[str, Log] = {}
        self._synced = time.monotonic()

    def acknowledged(self) -> pl.Series:
        """The rows that the queue accepted in any attempt: UInt64, some of them more than once.

        Raises:
            IntegrityError: A file is damaged or of a newer version.
        """
        rows = [pl.Series("row", [], pl.UInt64)]
        for where, piece in self._pieces(_ACKS):
            header, newline, answers = piece.partition(b"\n")
            if newline:
                documents.parse(header, dict, where=where)
                rows.append(acknowledgements.decode(answers, where=where))
        return pl.concat(rows)

    def failed(self) -> list[int]:
        """The rows that stand in the failures files of any attempt."""
        return [record["row"] for record in self._records(_FAILURES)]

    def late(self) -> list[int]:
        """The rows that any attempt kept back, since they reappeared."""
        return [record["row"] for record in self._records(_LATE)]

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
        """Records an answer of the queue: with a local state, a process that is killed afterwards has it.

        Args:
            sent: Rows accepted, as acknowledgements.encode() gives them.
            failures: Messages that were refused for good.

        Raises:
            OSError, StoppedError: The state can't be written.
        """
        with self._lock:
            if sent:
                self._log(_ACKS).append(sent)
            self._append(_FAILURES, failures)

    def checkpoint(self) -> None:
        """Makes all that was recorded durable, if the last time is long enough ago.

        Raises:
            OSError, StoppedError: The state can't be written.
        """
        if time.monotonic() - self._synced < self._interval:
            return
        with self._lock:
            for log in self._logs.values():
                log.sync()
            self._synced = time.monotonic()

    def record_failures(self, failures: Sequence[Failure]) -> None:
        """Records messages that no queue takes.

        Raises:
            OSError, StoppedError: The state can't be written.
        """
        with self._lock:
            self._append(_FAILURES, failures)

    def record_late(self, kept_back: Sequence[Failure]) -> None:
        """Records messages that aren't sent, since their keys reappeared.

        Raises:
            OSError, StoppedError: The state can't be written.
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
            lines = ({**self._header, "bucket": self._bucket, **asdict(failure)} for failure in failures)
            self._log(kind).append(b"".join(documents.encode_line(line) for line in lines))

    def _log(self, kind: str) -> Log:
        """This attempt's log of a kind."""
        if kind not in self._logs:
            suffix, header = ("rows", _padded(documents.encode_line(self._header))) if kind == _ACKS else ("jsonl", b"")
            name = f"{kind}/{self._task:05d}/{len(self._names(kind)):05d}.{suffix}"
            self._logs[kind] = self._store.create_log(name, header)
        return self._logs[kind]

    def _names(self, kind: str) -> list[str]:
        folder = f"{kind}/{self._task:05d}"
        return [f"{folder}/{name}" for name in self._store.names(folder)]

    def _pieces(self, kind: str) -> Iterator[tuple[str, bytes]]:
        for name in self._names(kind):
            yield from self._store.read_log(name)

    def _records(self, kind: str) -> Iterator[dict[str, Any]]:
        for where, piece in self._pieces(kind):
            for line in whole_lines(piece):
                yield documents.parse(line, _checked, where=where)


def _checked(record: dict[str, Any]) -> dict[str, Any]:
    """A line of failures, by whose row it is told what is left to be sent."""
    row = record["row"]
    if not isinstance(row, int) or not 0 <= row < 1 << 64:
        raise ValueError(row)
    return record


def _padded(line: bytes) -> bytes:
    """The line, of a length after which no row lies across two blocks of the file system."""
    line = line.rstrip()
    return line.ljust(len(line) + -(len(line) + 1) % BYTES_PER_ROW) + b"\n"
