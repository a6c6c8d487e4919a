"""What the queue said of a task's rows: what was recorded is read back, whatever was torn off."""

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

import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from inventory_enqueue import acknowledgements, pipeline
from inventory_enqueue.config import FirstRun, JsonLinesFile, RunConfig
from inventory_enqueue.demo.odd_keys import ODD_KEYS
from inventory_enqueue.errors import IntegrityError
from inventory_enqueue.fingerprints import MAX_ROWS_PER_FILE, row_base
from inventory_enqueue.ledger import Failure, TaskLedger
from inventory_enqueue.run import Run
from inventory_enqueue.stores.local import LocalLog, LocalStore
from tests.support import deliveries

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TASK = 3
ACKS = f"acks/{TASK:05d}"
FAILURES = f"failures/{TASK:05d}"

# At the start of a file, inside and at its very end, over several files; and any other.
POSITIONS = st.one_of(st.integers(0, 30), st.integers(MAX_ROWS_PER_FILE - 3, MAX_ROWS_PER_FILE - 1))
MOST = (1 << 56) - 1
ROWS = st.one_of(
    st.builds(lambda file, position: row_base(file) + position, st.integers(0, 3), POSITIONS), st.integers(0, MOST)
)
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
    return Run.load(LocalStore(folder / "state" / "p"), str(report.run_id))


@contextmanager
def fresh(run: Run) -> Iterator[Run]:
    """The run in a folder of its own: hypothesis asks for many in one test."""
    with tempfile.TemporaryDirectory(prefix="ledger-") as folder:
        yield replace(run, store=LocalStore(Path(folder)))


def folder_of(run: Run) -> Path:
    """Where the run's files are."""
    return Path(run.store.where())


@contextmanager
def attempt(run: Run) -> Iterator[TaskLedger]:
    task = TaskLedger(run, TASK)
    try:
        yield task
    finally:
        task.close()


def encoded(*rows: int) -> bytes:
    return bytes(acknowledgements.encode(pl.Series(rows, dtype=pl.UInt64)))


def acknowledged(run: Run) -> Counter[int]:
    """The rows, counted: a row that was acknowledged twice may be there twice."""
    rows = TaskLedger(run, TASK).acknowledged()
    assert rows.dtype == pl.UInt64
    return Counter(rows.to_list())


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
                    task.record(encoded(*rows))
        assert acknowledged(run) == Counter(row for answers in attempts for rows in answers for row in rows)


@given(rows=st.lists(ROWS, max_size=60), start=st.integers(0, 70), stop=st.integers(0, 70))
def test_rows_are_encoded_as_eight_bytes_each_and_decoded_again(rows: list[int], start: int, stop: int) -> None:
    series = pl.Series(rows, dtype=pl.UInt64)[start:stop]
    data = bytes(acknowledgements.encode(series))
    assert data == b"".join(row.to_bytes(7, "little") + b"\xac" for row in rows[start:stop])
    assert acknowledgements.decode(data, where="").to_list() == rows[start:stop]


def test_a_file_of_acknowledgements_begins_with_its_format_version_and_run(any_run: Run) -> None:
    with fresh(any_run) as run:
        for _ in range(2):
            with attempt(run) as task:
                task.record(encoded(row_base(2) + 5, 0))
                task.record(encoded(10))
        paths = sorted((folder_of(run) / ACKS).iterdir())
        assert [path.name for path in paths] == ["00000.rows", "00001.rows"]
        for path in paths:
            header, _, rows = path.read_bytes().partition(b"\n")
            assert json.loads(header) == {"format_version": 1, "run_id": run.id, "pipeline": "p"}
            assert rows == encoded(row_base(2) + 5, 0, 10)


def test_an_attempt_in_which_nothing_was_answered_leaves_no_file(any_run: Run) -> None:
    with fresh(any_run) as run:
        with attempt(run) as task:
            task.record(b"")
        assert list(folder_of(run).iterdir()) == []
        assert acknowledged(run) == Counter()
        assert failures(run) == []


def test_tasks_have_ledgers_of_their_own(any_run: Run) -> None:
    with fresh(any_run) as run:
        for number in (TASK, TASK + 1):
            task = TaskLedger(run, number)
            task.record(encoded(number), [failure(number + 100)])
            task.close()
        for number in (TASK, TASK + 1):
            assert TaskLedger(run, number).acknowledged().to_list() == [number]
            assert TaskLedger(run, number).failed() == [number + 100]


def test_what_was_recorded_is_there_before_the_attempt_ends(any_run: Run) -> None:
    """As a killed process leaves it: never closed."""
    with fresh(any_run) as run, attempt(run) as task:
        task.record(encoded(1, 2), [failure(3)])
        assert acknowledged(run) == Counter([1, 2])
        assert TaskLedger(run, TASK).failed() == [3]


def test_answers_recorded_by_many_threads_are_all_there(any_run: Run) -> None:
    batches = [[row_base(n % 3) + 20 * n + position for position in range(10)] for n in range(400)]
    with fresh(any_run) as run:
        with attempt(run) as task, ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda rows: task.record(encoded(*rows[:9]), [failure(rows[9])]), batches))
        assert acknowledged(run) == Counter(row for rows in batches for row in rows[:9])
        assert Counter(TaskLedger(run, TASK).failed()) == Counter(rows[9] for rows in batches)
        assert len(list((folder_of(run) / ACKS).iterdir())) == 1


# ---- Torn tails: a power loss leaves any part of what was not synced


@few
@given(answers=ANSWERS, later=st.lists(ROWS, max_size=5), data=st.data())
def test_a_tail_torn_at_any_byte_loses_only_the_rows_it_touched_and_a_later_attempt_goes_on(
    answers: list[list[int]], later: list[int], data: st.DataObject, any_run: Run
) -> None:
    with fresh(any_run) as run:
        path = folder_of(run) / ACKS / "00000.rows"
        with attempt(run) as task:
            for rows in answers:
                task.record(encoded(*rows))
        whole = path.read_bytes() if path.exists() else b""
        left = data.draw(st.integers(0, len(whole)))
        if whole:
            path.write_bytes(whole[:left])
        with attempt(run) as task:
            task.record(encoded(*later))
        got = acknowledged(run)
    kept = max(0, left - len(whole.partition(b"\n")[0]) - 1) // 8
    assert got == Counter(later) + Counter([row for rows in answers for row in rows][:kept])


@pytest.mark.parametrize("zeros", [0, 1, 7, 8, 4096])
def test_a_tail_torn_at_each_byte_with_zeros_after_it_keeps_every_row_before_it_and_never_counts_as_row_0(
    zeros: int, any_run: Run
) -> None:
    """A power loss leaves zeros where the file had grown already, but its blocks weren't written: anywhere in a row."""
    rows = [0, 1, 2, 9, row_base(1) + 4, row_base(2), 10, MOST, 0]
    with fresh(any_run) as run:
        path = folder_of(run) / ACKS / "00000.rows"
        with attempt(run) as task:
            task.record(encoded(*rows[:4]))
            task.record(encoded(*rows[4:]))
        whole = path.read_bytes()
        first = whole.index(b"\n") + 1
        for left in range(len(whole) + 1):
            path.write_bytes(whole[:left] + bytes(zeros))
            kept = max(0, left - first) // 8
            assert acknowledged(run) == Counter(rows[:kept]), left


@few
@given(records=st.lists(FAILED, min_size=1, max_size=6, unique_by=lambda record: record.row), data=st.data())
def test_failures_torn_at_any_byte_lose_only_what_was_torn(
    records: list[Failure], data: st.DataObject, any_run: Run
) -> None:
    with fresh(any_run) as run:
        path = folder_of(run) / FAILURES / "00000.jsonl"
        sizes = []
        with attempt(run) as task:
            for record in records:
                task.record(b"", [record])
                sizes.append(path.stat().st_size)
        left = data.draw(st.integers(0, sizes[-1]))
        path.write_bytes(path.read_bytes()[:left])
        kept = [record.row for record, size in zip(records, sizes, strict=True) if size <= left]
        assert TaskLedger(run, TASK).failed() == kept
        with attempt(run) as task:  # the others are refused again
            task.record(b"", [record for record in records if record.row not in kept])
        assert {record["row"]: record["key"] for record in failures(run)} == {r.row: r.key for r in records}


@pytest.mark.parametrize(
    "spoilt",
    [
        pytest.param(encoded(5)[:3] + encoded(6, 7), id="a row that is cut in its middle"),
        pytest.param(bytes(40) + encoded(6), id="a block that was never written"),
        pytest.param(bytes(43) + encoded(6)[3:], id="a block that was never written, and the end of a row"),
        pytest.param(b"\x05\0\0\0\0\0\0\xad", id="another mark"),
        pytest.param(b"\xff" * 8, id="bits that are set"),
        pytest.param(b'{"file":0,"rows":[[6,6]]}\n', id="a text"),
    ],
)
def test_damage_before_the_tail_is_told_with_the_file_that_has_it(spoilt: bytes, any_run: Run) -> None:
    """A power loss may keep a later block and lose an earlier one; then nothing may be guessed."""
    with fresh(any_run) as run:
        with attempt(run) as task:
            task.record(encoded(1, 2))
        path = folder_of(run) / ACKS / "00000.rows"
        path.write_bytes(path.read_bytes() + spoilt)
        with pytest.raises(IntegrityError, match=str(path)):
            acknowledged(run)


@pytest.mark.parametrize("line", [{}, {"row": None}, {"row": "one"}, {"row": -1}, {"row": 1 << 64}, {"row": 1.5}])
@pytest.mark.parametrize("kind", ["failures", "late"])
def test_a_line_without_a_row_is_damage_not_a_crash(line: dict[str, Any], kind: str, any_run: Run) -> None:
    with fresh(any_run) as run:
        path = folder_of(run) / kind / f"{TASK:05d}" / "00000.jsonl"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"format_version": 1, **line}) + "\n", encoding="ascii")
        task = TaskLedger(run, TASK)
        rows, lines = (task.failed, task.failure_lines) if kind == "failures" else (task.late, task.late_lines)
        with pytest.raises(IntegrityError, match=str(path)):
            rows()
        with pytest.raises(IntegrityError, match=str(path)):
            lines()


@pytest.mark.parametrize(
    "header",
    [
        pytest.param(b"\n", id="empty"),
        pytest.param(bytes(70) + b"\n", id="a block that was never written"),
        pytest.param(b'{"run_id": "r"}\n', id="no version"),
        pytest.param(b'["format_version", 1]\n', id="no object"),
        pytest.param(b"", id="none"),
    ],
)
def test_rows_without_their_header_are_damage(header: bytes, any_run: Run) -> None:
    with fresh(any_run) as run:
        path = folder_of(run) / ACKS / "00000.rows"
        path.parent.mkdir(parents=True)
        path.write_bytes(header + encoded(10, 2))  # the 10 looks like the end of a line
        with pytest.raises(IntegrityError, match=str(path)):
            acknowledged(run)


@few
@example(bits={0})
@given(bits=st.sets(st.integers(0, 8 * 8 * 4 - 1), min_size=1, max_size=4))
def test_a_mark_that_is_damaged_is_told_and_no_other_row_is_ever_made_up_of_it(bits: set[int]) -> None:
    data = bytearray(encoded(1, 0, 77, row_base(3)))
    marks = bytes(data[7::8])
    for bit in bits:
        data[bit // 8] ^= 1 << bit % 8
    if bytes(data[7:31:8]) != marks[:3]:
        with pytest.raises(IntegrityError):
            acknowledgements.decode(bytes(data), where="")
    elif bytes(data[7::8]) == marks:
        assert acknowledgements.decode(bytes(data), where="").len() == 4


def fills_up(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Give what fills the disk: of the next write, all but nine bytes find room; after it there is space again."""
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

    def fill() -> None:
        nonlocal full
        full = True

    monkeypatch.setattr(os, "write", half)
    return fill


def test_a_disk_that_is_full_in_the_middle_of_an_answer_spoils_no_other_answer(
    any_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Space comes back while other answers are on their way: each of them is recorded, too."""
    fill = fills_up(monkeypatch)
    with fresh(any_run) as run:
        with attempt(run) as task:
            task.record(encoded(1))
            fill()
            with pytest.raises(OSError, match="No space left"):
                task.record(encoded(2, 4))
            task.record(encoded(3))
        assert acknowledged(run) == Counter([1, 3])


def test_a_disk_that_is_full_at_the_first_answer_spoils_no_later_answer(
    any_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill = fills_up(monkeypatch)
    with fresh(any_run) as run:
        with attempt(run) as task:
            fill()
            with pytest.raises(OSError, match="No space left"):
                task.record(encoded(1))
            task.record(encoded(2))
        assert acknowledged(run) == Counter([2])


def test_a_newer_format_version_is_refused(any_run: Run) -> None:
    with fresh(any_run) as run:
        with attempt(run) as task:
            task.record(encoded(1), [failure(2)])
        for path in (folder_of(run) / ACKS / "00000.rows", folder_of(run) / FAILURES / "00000.jsonl"):
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
                task.record(b"", records)
        everything = [record for records in attempts for record in records]
        assert TaskLedger(run, TASK).failed() == [record.row for record in everything]
        common = {"format_version": 1, "run_id": run.id, "pipeline": "p", "bucket": deliveries.SOURCE}
        last = {record.row: {**common, **asdict(record)} for record in everything}
        assert failures(run) == list(last.values())


def test_each_odd_key_stands_in_a_line_of_its_own(any_run: Run) -> None:
    with fresh(any_run) as run:
        with attempt(run) as task:
            task.record(b"", [failure(row, key, message=key) for row, key in enumerate(ODD_KEYS)])
        lines = (folder_of(run) / FAILURES / "00000.jsonl").read_bytes().split(b"\n")
        assert lines.pop() == b""
        assert all(line.isascii() for line in lines)
        assert [json.loads(line)["key"] for line in lines] == list(ODD_KEYS)
        assert [record["key"] for record in failures(run)] == list(ODD_KEYS)


# ---- Durability


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[LocalLog]:
    """The logs that were synced, in order."""
    logs: list[LocalLog] = []
    sync = LocalLog.sync

    def noted(log: LocalLog) -> None:
        sync(log)
        logs.append(log)

    monkeypatch.setattr(LocalLog, "sync", noted)
    return logs


def test_what_was_recorded_is_synced_once_an_interval_and_at_the_end(
    any_run: Run, synced: list[LocalLog], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("inventory_enqueue.ledger.time.monotonic", lambda: now)
    with fresh(any_run) as run:
        with attempt(run) as task:
            for row in range(5):
                task.record(encoded(row), [failure(10 + row)])
                task.checkpoint()
            assert synced == []
            now += run.runtime.sending.checkpoint_interval + 0.1
            task.checkpoint()
            assert len(synced) == len(set(map(id, synced))) == 2
            task.record(encoded(6))
            task.checkpoint()
            assert len(synced) == 2
        assert len(synced) == 4
