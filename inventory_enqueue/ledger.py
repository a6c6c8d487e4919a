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
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Any, Final

from inventory_enqueue import documents
from inventory_enqueue.errors import LockedError, PreflightError
from inventory_enqueue.fingerprints import MAX_ROWS_PER_FILE, row_base
from inventory_enqueue.report import iso
from inventory_enqueue.run import Baseline, Run, index_folder
from inventory_enqueue.store import AppendLog, LocalStore, whole_lines

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

    acks/<task>/<attempt>.jsonl      format_version, then {"file": 3, "rows": [[first, last], ...]} for each answer
    failures/<task>/<attempt>.jsonl  one Failure a line
    """

    def __init__(self, run: Run, task: int) -> None:
        """Begins an attempt at a task."""
        self._store = run.store
        self._header = {"run_id": run.id, "pipeline": run.pipeline}
        self._bucket = run.current.manifest.source_bucket
        self._acks, self._failures = f"acks/{task:05d}", f"failures/{task:05d}"
        self._lock = Lock()
        self._log: AppendLog | None = None
        self._failure_log: AppendLog | None = None
        self._synced = time.monotonic()

    def acknowledged(self) -> Iterator[tuple[int, int]]:
        """The rows that the queue accepted in any attempt, as ranges (first, last)."""
        for name in self._store.names(self._acks):
            where = str(self._store.path(f"{self._acks}/{name}"))
            header, *answers = whole_lines(self._store.get(f"{self._acks}/{name}")) or [documents.encode_line({})]
            documents.parse(header, dict, where=where)
            try:
                for line in answers:
                    record = json.loads(line)
                    base = row_base(record["file"])
                    yield from ((base + first, base + last) for first, last in record["rows"])
            except (ValueError, TypeError, KeyError) as error:
                raise documents.damaged(where) from error

    def failed(self) -> list[int]:
        """The rows that stand in the failures files of any attempt."""
        return [int(record["row"]) for record in self._failure_lines()]

    def failure_lines(self) -> bytes:
        """The failures of all attempts, one a row."""
        unique = {record["row"]: record for record in self._failure_lines()}
        return b"".join((json.dumps(record) + "\n").encode() for record in unique.values())

    def record(self, sent: Sequence[int], failures: Sequence[Failure] = ()) -> None:
        """Records an answer of the queue, at once: a process that is killed afterwards has it.

        Args:
            sent: Rows accepted.
            failures: Messages that were refused for good; durable when this returns.

        Raises:
            OSError: The state can't be written.
        """
        with self._lock:
            if sent:
                self._ack_log().append(_ack_lines(sent))
            if failures:
                self._failures_log().append(b"".join(self._failure_line(failure) for failure in failures))
                self._failures_log().sync()
            if time.monotonic() - self._synced > SYNC_INTERVAL:
                self._ack_log().sync()
                self._synced = time.monotonic()

    def close(self) -> None:
        """Makes everything durable and ends the attempt."""
        with self._lock:
            for log in (self._log, self._failure_log):
                if log is not None:
                    log.close()
            self._log = self._failure_log = None

    def _ack_log(self) -> AppendLog:
        if self._log is None:
            self._log = _next_attempt(self._store, self._acks)
            self._log.append(documents.encode_line(self._header))
        return self._log

    def _failures_log(self) -> AppendLog:
        if self._failure_log is None:
            self._failure_log = _next_attempt(self._store, self._failures)
        return self._failure_log

    def _failure_line(self, failure: Failure) -> bytes:
        return documents.encode_line({**self._header, "bucket": self._bucket, **asdict(failure)})

    def _failure_lines(self) -> Iterator[dict[str, Any]]:
        for name in self._store.names(self._failures):
            for line in whole_lines(self._store.get(f"{self._failures}/{name}")):
                yield documents.parse(line, dict, where=str(self._store.path(f"{self._failures}/{name}")))


def _next_attempt(store: LocalStore, folder: str) -> AppendLog:
    return store.create_log(f"{folder}/{len(store.names(folder)):05d}.jsonl")


def _ack_lines(rows: Iterable[int]) -> bytes:
    """Rows as lines of (file, row ranges)."""
    files: dict[int, list[list[int]]] = {}
    for row in sorted(rows):
        file, position = divmod(row, MAX_ROWS_PER_FILE)
        ranges = files.setdefault(file, [])
        if ranges and ranges[-1][1] + 1 == position:
            ranges[-1][1] = position
        else:
            ranges.append([position, position])
    return b"".join(
        (json.dumps({"file": file, "rows": ranges}, separators=(",", ":")) + "\n").encode()
        for file, ranges in files.items()
    )
