"""What the queue said of a task's rows, written line by line: what was recorded is read back, whatever was torn off."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inventory_enqueue import ledger as ledger_module
from inventory_enqueue import pipeline
from inventory_enqueue.config import FirstRun, JsonLinesFile, RunConfig
from inventory_enqueue.demo.odd_keys import ODD_KEYS
from inventory_enqueue.errors import IntegrityError
from inventory_enqueue.fingerprints import MAX_ROWS_PER_FILE, row_base
from inventory_enqueue.ledger import Failure, TaskLedger
from inventory_enqueue.run import Run
from inventory_enqueue.store import AppendLog
from tests.support import deliveries

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

TASK = 3
ACKS = f"acks/{TASK:05d}"
FAILURES = f"failures/{TASK:05d}"

# Rows that touch and rows that don't, at the start of a file, inside and at its very end, over several files.
POSITIONS = st.one_of(st.integers(0, 30), st.integers(MAX_ROWS_PER_FILE - 3, MAX_ROWS_PER_FILE - 1))
ROWS = st.builds(lambda file, position: row_base(file) + position, st.integers(0, 3), POSITIONS)
ANSWERS = st.lists(st.lists(ROWS, max_size=10, unique=True), max_size=8)
KEYS = st.one_of(st.sampled_from(ODD_KEYS), st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20))
FAILED = st.builds(Failure, ROWS, KEYS, st.sampled_from(["InvalidMessageContents"]), KEYS, st.booleans(), KEYS)


few = settings(max_examples=30)  # each writes files and syncs them


@pytest.fixture(scope="module")
def any_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run as the pipeline makes it; where its files are is for each test to say."""
    folder = tmp_path_factory.mktemp("run")
    config = RunConfig(
        manifest=deliveries.deliver(folder, 1, ["key"]),
        sink=JsonLinesFile(folder / "out.jsonl"),
        state=folder / "state",
        pipeline="p",
        first_run=FirstRun.SEED,
        work_dir=folder / "work",
    )
    report = pipeline.run(config)
    return Run.load(folder / "state" / "p", folder / "state" / "p" / "runs" / str(report.run_id))


@contextmanager
def fresh(run: Run) -> Iterator[Run]:
    """The run in a folder of its own: hypothesis asks for many in one test."""
    with tempfile.TemporaryDirectory(prefix="ledger-") as folder:
        yield replace(run, folder=Path(folder))


@contextmanager
def attempt(run: Run) -> Iterator[TaskLedger]:
    task = TaskLedger(run, TASK)
    try:
        yield task
    finally:
        task.close()


def acknowledged(run: Run) -> Counter[int]:
    """The rows in all ranges, counted: a row that was acknowledged twice may be there twice."""
    ranges = list(TaskLedger(run, TASK).acknowledged())
    assert all(first <= last for first, last in ranges)
    return Counter(row for first, last in ranges for row in range(first, last + 1))


def failures(run: Run) -> list[dict[str, Any]]:
    return [json.loads(line) for line in TaskLedger(run, TASK).failure_lines().splitlines()]


def failure(row: int, key: str = "key", message: str = "bad") -> Failure:
    return Failure(row, key, "InvalidMessageContents", message, sender_fault=True, body=f"body of {key}")


@few
@given(attempts=st.lists(ANSWERS, max_size=4))
def test_every_row_recorded_in_any_attempt_is_acknowledged_and_no_other(
    attempts: list[list[list[int]]], any_run: Run
) -> None:
    with fresh(any_run) as run:
        for answers in attempts:
            with attempt(run) as task:
                for rows in answers:
                    task.record(rows)
        assert acknowledged(run) == Counter(row for answers in attempts for rows in answers for row in rows)


@few
@given(rows=st.lists(ROWS, max_size=60, unique=True))
def test_only_truly_contiguous_rows_of_one_file_share_a_range(rows: list[int], any_run: Run) -> None:
    with fresh(any_run) as run:
        with attempt(run) as task:
            task.record(rows)
        ranges = list(TaskLedger(run, TASK).acknowledged())
    assert Counter(row for first, last in ranges for row in range(first, last + 1)) == Counter(rows)
    for first, last in ranges:
        assert first // MAX_ROWS_PER_FILE == last // MAX_ROWS_PER_FILE
    starts = {first for first, _ in ranges}
    touching = [last for _, last in ranges if last + 1 in starts]
    assert all((last + 1) % MAX_ROWS_PER_FILE == 0 for last in touching), "two ranges that touch are one"


def test_the_last_row_of_a_file_and_the_first_of_the_next_are_not_contiguous(any_run: Run) -> None:
    with fresh(any_run) as run:
        with attempt(run) as task:
            task.record([row_base(1) - 1, row_base(1), row_base(1) + 1])
        assert list(TaskLedger(run, TASK).acknowledged()) == [
            (row_base(1) - 1, row_base(1) - 1),
            (row_base(1), row_base(1) + 1),
        ]


def test_a_file_of_acknowledgements_begins_with_its_format_version_and_run(any_run: Run) -> None:
    with fresh(any_run) as run:
        for _ in range(2):
            with attempt(run) as task:
                task.record([row_base(2) + 5, row_base(2) + 6, row_base(2) + 8])
        paths = sorted((run.folder / ACKS).iterdir())
        assert [path.name for path in paths] == ["00000.jsonl", "00001.jsonl"]
        for path in paths:
            header, *lines = path.read_text(encoding="ascii").splitlines()
            assert json.loads(header) == {"format_version": 1, "run_id": run.id, "pipeline": "p"}
            assert [json.loads(line) for line in lines] == [{"file": 2, "rows": [[5, 6], [8, 8]]}]


def test_an_attempt_in_which_nothing_was_answered_leaves_no_file(any_run: Run) -> None:
    with fresh(any_run) as run:
        with attempt(run) as task:
            task.record([])
        assert list(run.folder.iterdir()) == []
        assert acknowledged(run) == Counter()
        assert failures(run) == []


def test_tasks_have_ledgers_of_their_own(any_run: Run) -> None:
    with fresh(any_run) as run:
        for number in (TASK, TASK + 1):
            task = TaskLedger(run, number)
            task.record([number], [failure(number + 100)])
            task.close()
        for number in (TASK, TASK + 1):
            assert list(TaskLedger(run, number).acknowledged()) == [(number, number)]
            assert TaskLedger(run, number).failed() == [number + 100]


def test_what_was_recorded_is_there_before_the_attempt_ends(any_run: Run) -> None:
    """As a killed process leaves it: never closed."""
    with fresh(any_run) as run, attempt(run) as task:
        task.record([1, 2], [failure(3)])
        assert acknowledged(run) == Counter([1, 2])
        assert TaskLedger(run, TASK).failed() == [3]


def test_answers_recorded_by_many_threads_are_all_there(any_run: Run) -> None:
    batches = [[row_base(n % 3) + 20 * n + position for position in range(10)] for n in range(400)]
    with fresh(any_run) as run:
        with attempt(run) as task, ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda rows: task.record(rows[:9], [failure(rows[9])]), batches))
        assert acknowledged(run) == Counter(row for rows in batches for row in rows[:9])
        assert Counter(TaskLedger(run, TASK).failed()) == Counter(rows[9] for rows in batches)
        assert len(list((run.folder / ACKS).iterdir())) == 1


# ---- Torn tails: a power loss leaves any part of what was not synced


def sizes_after(path: Path, task: TaskLedger, answers: Sequence[Sequence[int]]) -> list[int]:
    """Record answers, and note the file's size after each."""
    sizes = []
    for rows in answers:
        task.record(rows)
        sizes.append(path.stat().st_size if path.exists() else 0)
    return sizes


@few
@given(answers=ANSWERS, later=st.lists(ROWS, max_size=5, unique=True), data=st.data())
def test_a_tail_torn_at_any_byte_loses_only_what_it_touched_and_a_later_attempt_goes_on(
    answers: list[list[int]], later: list[int], data: st.DataObject, any_run: Run
) -> None:
    with fresh(any_run) as run:
        path = run.folder / ACKS / "00000.jsonl"
        with attempt(run) as task:
            sizes = sizes_after(path, task, answers)
        whole = path.read_bytes() if path.exists() else b""
        left = data.draw(st.integers(0, len(whole)))
        if whole:
            path.write_bytes(whole[:left])
        with attempt(run) as task:
            task.record(later)
        got = acknowledged(run)
    kept = [rows for rows, size in zip(answers, sizes, strict=True) if size <= left]
    assert got >= Counter(later) + Counter(row for rows in kept for row in rows)
    assert got <= Counter(later) + Counter(row for rows in answers for row in rows)
    touched = next((rows for rows, size in zip(answers, sizes, strict=True) if size > left), [])
    assert got <= Counter(later) + Counter(row for rows in [*kept, touched] for row in rows)


def test_a_tail_torn_at_each_byte_keeps_every_line_before_it(any_run: Run) -> None:
    answers = [[0, 1, 2, 9], [row_base(1) + 4], [row_base(2), 10, 11]]
    with fresh(any_run) as run:
        path = run.folder / ACKS / "00000.jsonl"
        with attempt(run) as task:
            sizes_after(path, task, answers)
        whole = path.read_bytes()
        lines = [[0, 1, 2, 9], [row_base(1) + 4], [10, 11], [row_base(2)]]  # an answer of two files makes two lines
        for left in range(len(whole) + 1):
            path.write_bytes(whole[:left])
            newlines = whole[:left].count(b"\n")
            expected = [row for line in lines[: max(0, newlines - 1)] for row in line]
            assert acknowledged(run) == Counter(expected), left


@few
@given(records=st.lists(FAILED, min_size=1, max_size=6, unique_by=lambda record: record.row), data=st.data())
def test_failures_torn_at_any_byte_lose_only_what_was_torn(
    records: list[Failure], data: st.DataObject, any_run: Run
) -> None:
    with fresh(any_run) as run:
        path = run.folder / FAILURES / "00000.jsonl"
        sizes = []
        with attempt(run) as task:
            for record in records:
                task.record([], [record])
                sizes.append(path.stat().st_size)
        left = data.draw(st.integers(0, sizes[-1]))
        path.write_bytes(path.read_bytes()[:left])
        kept = [record.row for record, size in zip(records, sizes, strict=True) if size <= left]
        assert TaskLedger(run, TASK).failed() == kept
        with attempt(run) as task:  # the others are refused again
            task.record([], [record for record in records if record.row not in kept])
        assert {record["row"]: record["key"] for record in failures(run)} == {r.row: r.key for r in records}


@pytest.mark.parametrize(
    "spoilt",
    [
        pytest.param(b'{"file":0,"rows":[[5,\n{"file":0,"rows":[[6,6]]}\n', id="a line that is cut in its middle"),
        pytest.param(b"\0" * 40 + b'\n{"file":0,"rows":[[6,6]]}\n', id="a block that was never written"),
    ],
)
def test_damage_before_the_tail_is_told_with_the_file_that_has_it(spoilt: bytes, any_run: Run) -> None:
    """A power loss may keep a later block and lose an earlier one; then nothing may be guessed."""
    with fresh(any_run) as run:
        with attempt(run) as task:
            task.record([1, 2])
        path = run.folder / ACKS / "00000.jsonl"
        path.write_bytes(path.read_bytes() + spoilt)
        with pytest.raises(IntegrityError, match=str(path)):
            acknowledged(run)


def test_a_disk_that_is_full_in_the_middle_of_a_line_spoils_no_other_line(
    any_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Space comes back while other answers are on their way: each of them is recorded, too."""
    write = os.write
    full = False

    def half(descriptor: int, data: bytes | memoryview) -> int:
        nonlocal full
        if not full:
            return write(descriptor, data)
        if len(data) < 10:
            full = False
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data[: len(data) - 9])

    with fresh(any_run) as run:
        with attempt(run) as task:
            task.record([1])
            with monkeypatch.context() as patch:
                patch.setattr(os, "write", half)
                full = True
                with pytest.raises(OSError, match="No space left"):
                    task.record([2])
                task.record([3])
        assert acknowledged(run) == Counter([1, 3])


def test_a_newer_format_version_is_refused(any_run: Run) -> None:
    with fresh(any_run) as run:
        with attempt(run) as task:
            task.record([1], [failure(2)])
        for path in (run.folder / ACKS / "00000.jsonl", run.folder / FAILURES / "00000.jsonl"):
            path.write_bytes(path.read_bytes().replace(b'"format_version": 1', b'"format_version": 2'))
        with pytest.raises(IntegrityError, match=r"acks.*format_version is 2"):
            acknowledged(run)
        with pytest.raises(IntegrityError, match=r"failures.*format_version is 2"):
            TaskLedger(run, TASK).failed()


# ---- Failures


@few
@given(attempts=st.lists(st.lists(FAILED, max_size=5), max_size=3))
def test_failures_of_any_key_are_read_back_as_they_were_the_last_one_of_each_row(
    attempts: list[list[Failure]], any_run: Run
) -> None:
    with fresh(any_run) as run:
        for records in attempts:
            with attempt(run) as task:
                task.record([], records)
        everything = [record for records in attempts for record in records]
        assert TaskLedger(run, TASK).failed() == [record.row for record in everything]
        common = {"format_version": 1, "run_id": run.id, "pipeline": "p", "bucket": deliveries.SOURCE}
        last = {record.row: {**common, **asdict(record)} for record in everything}
        assert failures(run) == list(last.values())


def test_each_odd_key_stands_in_a_line_of_its_own(any_run: Run) -> None:
    with fresh(any_run) as run:
        with attempt(run) as task:
            task.record([], [failure(row, key, message=key) for row, key in enumerate(ODD_KEYS)])
        lines = (run.folder / FAILURES / "00000.jsonl").read_bytes().split(b"\n")
        assert lines.pop() == b""
        assert all(line.isascii() for line in lines)
        assert [json.loads(line)["key"] for line in lines] == list(ODD_KEYS)
        assert [record["key"] for record in failures(run)] == list(ODD_KEYS)


# ---- Durability


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[AppendLog]:
    """The logs that were synced, in order."""
    logs: list[AppendLog] = []
    sync = AppendLog.sync

    def noted(log: AppendLog) -> None:
        sync(log)
        logs.append(log)

    monkeypatch.setattr(AppendLog, "sync", noted)
    return logs


def test_a_failure_is_durable_when_it_is_recorded(any_run: Run, synced: list[AppendLog]) -> None:
    """Nothing sends it again after a power loss unless the run goes on: so it is rare, and may cost an fsync."""
    with fresh(any_run) as run, attempt(run) as task:
        task.record([], [failure(1)])
        assert len(synced) == 1
        task.record([], [failure(2)])
        assert len(synced) == 2


def test_acknowledgements_are_synced_once_an_interval_and_at_the_end(
    any_run: Run, synced: list[AppendLog], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("inventory_enqueue.ledger.time.monotonic", lambda: now)
    with fresh(any_run) as run:
        with attempt(run) as task:
            for row in range(5):
                task.record([row])
            assert synced == []
            now += ledger_module.SYNC_INTERVAL + 0.1
            task.record([5])
            assert len(synced) == 1
            task.record([6])
            assert len(synced) == 1
        assert len(synced) == 2
