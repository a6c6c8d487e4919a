"""Killed as by `kill -9`, at every step and between any two, then the same command again: nothing is lost.

The order send, record, commit decides what may be in the queue twice: only what was sent and not yet recorded, which is
at most what was in flight (concurrency x 10 messages); nothing where the process died at any other moment.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from inventory_enqueue import acknowledgements
from inventory_enqueue.config import Change, FirstRun, MessageFormat
from inventory_enqueue.errors import RefusedError
from inventory_enqueue.fingerprints import MAX_ROWS_PER_FILE
from inventory_enqueue.report import Status
from tests.reliability.conftest import FILES, NEW
from tests.support.deliveries import upload
from tests.support.killer import Moment
from tests.support.pipelines import Days, Pipeline
from tests.support.proxy import FaultProxy, delay, deny, fail_entries
from tests.support.queue import keys_of
from tests.support.running import PATIENCE, kill_group, lock_holder, start, under_way

if TYPE_CHECKING:
    from collections.abc import Callable

    from types_boto3_s3 import S3Client
    from types_boto3_sqs import SQSClient

    from tests.support.proxy import Entry

SEND = "SendMessageBatch"
BATCH = 10

RECORD = "inventory_enqueue.ledger:TaskLedger.record"
SEND_BATCH = "inventory_enqueue.sinks.sqs:SqsSink.begin"
RENAME = "pathlib:Path.replace"
STAGE = "inventory_enqueue.engines.local:run_stage"
TASK_REPORT = "inventory_enqueue.run:Run.save_task_report"
WRITE_META = "inventory_enqueue.execution:write_meta"
COMMIT = "inventory_enqueue.ledger:Ledger.commit"
END = "inventory_enqueue.ledger:Ledger.end"

BETWEEN_SENDING_AND_RECORDING = {
    "the first batch is sent": Moment(RECORD, call=1),
    "a batch in the middle is sent": Moment(RECORD, call=5),
}
BEFORE_ALL_IS_SENT = {
    "the run isn't written": Moment("inventory_enqueue.run:Run.save"),
    "run.json is under its temporary name": Moment(RENAME, about="run.json"),
    "a spill is under its temporary name": Moment(RENAME, about="spills"),
    "an index task isn't recorded": Moment(TASK_REPORT, about="Stage.INDEX"),
    "the index stage is done": Moment(STAGE, about="Stage.DIFF"),
    "candidates are under their temporary name": Moment(RENAME, about="candidates", call=2),
    "an index part is under its temporary name": Moment(RENAME, about="00001.arrow"),
    "a diff task isn't recorded": Moment(TASK_REPORT, about="Stage.DIFF"),
    "the diff stage is done": Moment(STAGE, about="Stage.ENQUEUE"),
    "nothing is sent": Moment(SEND_BATCH),
    "a batch in the middle is about to be sent": Moment(SEND_BATCH, call=5),
    "an enqueue task isn't recorded": Moment(TASK_REPORT, about="Stage.ENQUEUE"),
    "two enqueue tasks are recorded": Moment(TASK_REPORT, "after", about="Stage.ENQUEUE", call=2),
    # After an index task, a diff task and a batch are recorded: see MIDDLES.
}
AFTER_ALL_IS_SENT = {
    "the enqueue stage is done": Moment("inventory_enqueue.execution:check_sent"),
    "the new index has no meta.json": Moment(WRITE_META),
    "meta.json is under its temporary name": Moment(RENAME, about="meta.json"),
    "the new index is complete": Moment(WRITE_META, "after"),
    "the commit is next": Moment(COMMIT),
    "baseline.json is under its temporary name": Moment(RENAME, about="baseline.json"),
}
COMMITTED = {
    "the baseline has moved": Moment(COMMIT, "after"),
    "the run's end isn't recorded": Moment(END),
    "the old index isn't removed": Moment("inventory_enqueue.stores.local:LocalStore.remove_folder"),
    "report.json is under its temporary name": Moment(RENAME, about="report.json"),
    "the run's end is recorded": Moment(END, "after"),
}
ENDED = "the run's end is recorded"
ANYWHERE = {**BETWEEN_SENDING_AND_RECORDING, **BEFORE_ALL_IS_SENT, **AFTER_ALL_IS_SENT, **COMMITTED}


@pytest.fixture
def seeded(tmp_path: Path, sqs_client: SQSClient, queue_url: str, first_day: Path) -> Pipeline:
    """A pipeline with the first day committed, and one request in flight at a time."""
    pipeline = Pipeline(tmp_path, sqs_client, queue_url)
    pipeline.concurrency = 1
    pipeline.begin_with(first_day)
    return pipeline


def assert_second_day_is_the_baseline(pipeline: Pipeline, days: Days) -> None:
    """Again, it sends nothing; and the third day, which adds its keys to those in the queue, finds them alone new."""
    assert pipeline.baseline["manifest_uri"] == str(days.second)
    again = pipeline.run(days.second)
    assert (again.status, again.sent["messages"]) == (Status.NOTHING_NEW, 0)
    report = pipeline.run(days.third)
    assert (report.status, report.sent["keys"]) == (Status.COMMITTED, len(days.third_new))


# ---- One kill at each moment


@pytest.mark.parametrize("moment", ANYWHERE)
def test_killed_when_then_the_same_command_again_and_every_key_is_in_the_queue(
    moment: str, seeded: Pipeline, days: Days
) -> None:
    before = seeded.baseline
    seeded.killed(ANYWHERE[moment], days.second)
    if moment not in COMMITTED:
        assert seeded.baseline == before
    resumed = seeded.run(days.second)
    # Whoever waits for the command's word gets it, though the run was committed by a process that is dead.
    assert resumed.status is (Status.NOTHING_NEW if moment == ENDED else Status.COMMITTED)
    assert resumed.sent["keys"] == (0 if moment == ENDED else len(NEW))
    expected = days.second_new
    if moment in AFTER_ALL_IS_SENT or moment in COMMITTED:
        assert_second_day_is_the_baseline(seeded, days)
        expected = days.second_new + days.third_new
    else:
        assert seeded.run(days.second).status is Status.NOTHING_NEW
    received = seeded.received()
    assert received.keys() == expected.keys(), "lost"
    twice = received - expected
    if moment in BETWEEN_SENDING_AND_RECORDING:
        assert 0 < twice.total() <= seeded.concurrency * BATCH
    else:
        assert twice == Counter()
    assert all((run / "report.json").exists() or not (run / "run.json").exists() for run in seeded.runs)
    assert sorted(path.name for path in (seeded.home / "indexes").iterdir()) == [seeded.baseline["run_id"]]
    assert list(seeded.work.iterdir()) == [], "scratch space is left behind"


def test_killed_while_a_data_file_lands_from_s3_it_is_fetched_again(
    seeded: Pipeline, days: Days, s3_client: S3Client, bucket: str, root: Path
) -> None:
    upload(root, s3_client, bucket)
    manifest = f"s3://{bucket}/{days.second.relative_to(root).as_posix()}"
    seeded.killed(Moment(RENAME, about=f"{os.sep}data{os.sep}", call=2), manifest)
    assert len(list(seeded.work.rglob("*.part"))) >= 1
    resumed = seeded.cli(manifest)
    assert resumed.exit_code == 0, resumed
    assert seeded.received() == days.second_new
    assert list(seeded.work.iterdir()) == []


IN_RECALL = {
    "recalled rows are under their temporary name": Moment(RENAME, about="recalled"),
    "a recall task isn't recorded": Moment(TASK_REPORT, about="Stage.RECALL", call=2),
    "a recall task is recorded": Moment(TASK_REPORT, "after", about="Stage.RECALL"),
    "the recall stage is done": Moment(STAGE, about="Stage.ENQUEUE"),
    "a deleted key is about to be sent": Moment(SEND_BATCH, call=2),
}


@pytest.mark.parametrize("scratch", ["is there", "is lost"])
@pytest.mark.parametrize("moment", IN_RECALL)
def test_killed_while_deleted_keys_are_recalled_each_of_them_is_sent_once(
    moment: str, scratch: str, seeded: Pipeline, days: Days
) -> None:
    """The third day lacks the first keys of the second day."""
    assert seeded.run(days.second).status is Status.COMMITTED
    seeded.received()
    seeded.killed(IN_RECALL[moment], days.third, "--changes", "new,deleted")
    if scratch == "is lost":
        shutil.rmtree(seeded.work)
    resumed = seeded.run(days.third, changes=frozenset({Change.NEW, Change.DELETED}))
    gone = Counter(days.key(0, position) for position in range(3))
    assert resumed.status is Status.COMMITTED
    assert (resumed.counts["deleted"], resumed.counts["deleted_gone"]) == (gone.total(), 0)
    assert seeded.received() == days.third_new + gone
    assert list(seeded.work.iterdir()) == []


KNOWN_TASK = f"Stage.INDEX: 'index'>, number={FILES},"
IN_KNOWN = {
    "the known keys' spill is under its temporary name": Moment(RENAME, about=f"{FILES:05}.spill"),
    "the known keys' task isn't recorded": Moment(TASK_REPORT, about=KNOWN_TASK),
    "the known keys' task is recorded": Moment(TASK_REPORT, "after", about=KNOWN_TASK),
    "known keys are left out of the candidates": Moment(TASK_REPORT, "after", about="Stage.DIFF"),
}


@pytest.mark.parametrize("scratch", ["is there", "is lost"])
@pytest.mark.parametrize("moment", IN_KNOWN)
def test_killed_while_known_keys_are_read_none_of_them_is_sent(
    moment: str, scratch: str, seeded: Pipeline, days: Days, tmp_path: Path
) -> None:
    known = tmp_path / "known.jsonl"
    known.write_text("".join(json.dumps({"key": key}) + "\n" for key in NEW[::2]), encoding="ascii")
    seeded.killed(IN_KNOWN[moment], days.second, "--known", str(known))
    if scratch == "is lost":
        shutil.rmtree(seeded.work)
    resumed = seeded.run(days.second, known=known)
    assert resumed.status is Status.COMMITTED
    assert resumed.counts["known"] == len(NEW[::2])
    assert seeded.received() == Counter(key.encode() for key in NEW[1::2])
    assert list(seeded.work.iterdir()) == []


@pytest.mark.parametrize("call", [1, 2])
def test_with_several_requests_in_flight_twice_is_at_most_what_they_held(
    call: int, seeded: Pipeline, days: Days
) -> None:
    """Two processes of the command line, as cron starts them."""
    seeded.concurrency = 3
    seeded.killed(Moment(RECORD, call=call), days.second)
    resumed = seeded.cli(days.second)
    assert (resumed.exit_code, resumed.report["status"]) == (0, "committed")
    received = seeded.received()
    assert received.keys() == days.second_new.keys()
    assert (received - days.second_new).total() <= seeded.concurrency * BATCH


@pytest.mark.parametrize("moment", ["the commit is next", "the baseline has moved"])
def test_a_killed_seeding_run_is_gone_on_with_and_sends_nothing(
    moment: str, tmp_path: Path, sqs_client: SQSClient, queue_url: str, days: Days
) -> None:
    pipeline = Pipeline(tmp_path, sqs_client, queue_url)
    pipeline.killed(ANYWHERE[moment], days.first, "--first-run", "seed")
    resumed = pipeline.run(days.first, first_run=FirstRun.SEED)
    assert resumed.status is Status.SEEDED
    assert pipeline.run(days.second).status is Status.COMMITTED
    assert pipeline.received() == days.second_new


def is_refused(entry: Entry) -> bool:
    return keys_of([entry["MessageBody"]], "s3-event").keys() <= REFUSED.keys()


REFUSED = Counter(key.encode() for key in NEW[::4])

WITH_FAILURES = {
    "an answer with failures isn't recorded": Moment(RECORD, call=3),
    "of an answer, the acknowledgements are recorded and the failures aren't": Moment(
        "inventory_enqueue.ledger:TaskLedger._append", call=3
    ),
    "the failures file is next": Moment("inventory_enqueue.execution:_write_lines"),
    "the failures file is under its temporary name": Moment(RENAME, about="failures.jsonl"),
}


@pytest.mark.parametrize("moment", WITH_FAILURES)
def test_killed_when_messages_were_refused_each_stands_in_the_failures_file_once(
    moment: str, seeded: Pipeline, days: Days, proxy: FaultProxy
) -> None:
    seeded.endpoint_url = proxy.endpoint_url
    proxy.rules.append(fail_entries(is_refused, "InvalidMessageContents", sender_fault=True))
    seeded.killed(WITH_FAILURES[moment], days.second)
    resumed = seeded.run(days.second)
    assert (resumed.exit_code, resumed.sent["failed"]) == (4, len(REFUSED))
    lines = Path(resumed.sent["failures_file"]).read_text(encoding="ascii").splitlines()
    assert Counter(json.loads(line)["key"].encode() for line in lines) == REFUSED
    received, delivered = seeded.received(), days.second_new - REFUSED
    assert received.keys() == delivered.keys()
    assert (received - delivered).total() <= (BATCH if "isn't recorded" in moment else 0)


def test_killed_after_the_commit_the_same_command_still_tells_of_the_failures_file(
    seeded: Pipeline, days: Days, proxy: FaultProxy
) -> None:
    """Exit code 4 is how anyone learns of it, and the process that died had none to give."""
    seeded.endpoint_url = proxy.endpoint_url
    proxy.rules.append(fail_entries(is_refused, "InvalidMessageContents", sender_fault=True))
    seeded.killed(COMMITTED["the baseline has moved"], days.second)
    told = seeded.cli(days.second)
    assert seeded.received() == days.second_new - REFUSED
    assert (told.exit_code, told.report["status"]) == (4, "committed")
    assert (told.report["sent"]["keys"], told.report["sent"]["failed"]) == (len(NEW) - len(REFUSED), len(REFUSED))
    assert Path(told.report["sent"]["failures_file"]).exists()
    again = seeded.run(days.second)
    assert (again.status, again.exit_code) == (Status.NOTHING_NEW, 0)


# ---- What the resumed run doesn't do again, and what it can do without


def stamps(pipeline: Pipeline, *folders: str) -> dict[str, int]:
    """The files in these folders of the run and of its scratch space, and when each was written."""
    run = pipeline.unfinished
    roots = [run, pipeline.home / "indexes" / run.name, pipeline.work / run.name]
    return {
        str(path): path.stat().st_mtime_ns
        for root in roots
        for path in root.rglob("*")
        if path.is_file() and path.parent.name in folders
    }


def test_finished_tasks_are_not_repeated(seeded: Pipeline, days: Days) -> None:
    seeded.killed(Moment(TASK_REPORT, "after", about="Stage.ENQUEUE", call=1), days.second)
    folders = ("tasks", "candidates", "spills", seeded.unfinished.name, "00000")
    before = stamps(seeded, *folders)
    names = Counter(Path(path).parent.name for path in before)
    assert names == {"tasks": FILES + 2 + 1, "candidates": 2, "spills": FILES, seeded.unfinished.name: 5, "00000": 1}
    seeded.killed(Moment(COMMIT), days.second)
    after = stamps(seeded, *folders)
    rewritten = {f"{seeded.unfinished}/{name}.json" for name in ("run", "manifest", "previous-manifest")}
    changed = {path for path, stamp in before.items() if after[path] != stamp}
    assert changed <= rewritten
    assert {Path(path).name for path in after.keys() - before.keys() if Path(path).parent.name == "tasks"} == {
        "enqueue-00001.json",
        "enqueue-00002.json",
    }


MIDDLES = {
    "index": Moment(TASK_REPORT, "after", about="Stage.INDEX", call=2),
    "diff": Moment(TASK_REPORT, "after", about="Stage.DIFF"),
    "enqueue": Moment(RECORD, "after", call=4),
}


@pytest.mark.parametrize(
    ("scratch", "stage"),
    [
        ("is deleted", "index"),
        ("is deleted", "enqueue"),
        ("is elsewhere", "enqueue"),
        ("is cut short", "index"),
    ],
)
def test_scratch_space_may_be_lost_between_kill_and_resume(
    scratch: str, stage: str, seeded: Pipeline, days: Days, tmp_path: Path
) -> None:
    seeded.killed(MIDDLES[stage], days.second)
    if scratch == "is deleted":
        shutil.rmtree(seeded.work)
    elif scratch == "is elsewhere":
        seeded.work.rename(tmp_path / "gone")
        seeded.work = tmp_path / "another work dir"
    else:
        for path in (*seeded.work.rglob("*.arrow"), *seeded.work.rglob("*.spill")):
            os.truncate(path, path.stat().st_size // 2)
    resumed = seeded.run(days.second)
    assert resumed.status is Status.COMMITTED
    assert_second_day_is_the_baseline(seeded, days)
    assert seeded.received() == days.second_new + days.third_new
    assert list(seeded.work.iterdir()) == []


@pytest.mark.parametrize("output", ["candidates", "index part"])
def test_a_diff_output_that_is_gone_is_made_again(output: str, seeded: Pipeline, days: Days) -> None:
    seeded.killed(Moment(STAGE, about="Stage.ENQUEUE"), days.second)
    run = seeded.unfinished
    folder = run / "candidates" if output == "candidates" else seeded.home / "indexes" / run.name
    (next(iter(sorted(folder.iterdir())))).unlink()
    assert seeded.run(days.second).status is Status.COMMITTED
    assert_second_day_is_the_baseline(seeded, days)
    assert seeded.received() == days.second_new + days.third_new


def test_a_resume_may_have_another_pace_transport_sizes_limits_and_display(seeded: Pipeline, days: Days) -> None:
    """The command line cuts tasks otherwise than the killer did; the run keeps its own cut."""
    seeded.killed(MIDDLES["enqueue"], days.second)
    others = ("--concurrency", "32", "--transport", "boto3", "--rate", "5000", "--memory", "512MiB", "--quiet")
    resumed = seeded.cli(days.second, *others, "--max-duration", "1h", "--verify", "count", "--grace", "1s")
    assert resumed.exit_code == 0, resumed
    assert_second_day_is_the_baseline(seeded, days)
    assert seeded.received() == days.second_new + days.third_new


def test_a_resume_with_other_messages_is_refused_and_names_the_difference(seeded: Pipeline, days: Days) -> None:
    seeded.killed(MIDDLES["enqueue"], days.second)
    first = seeded.received()
    refused = seeded.cli(days.second, "--message-format", "json")
    assert (refused.exit_code, refused.report["status"]) == (9, "refused")
    options: dict[str, Any] = {"message_format": MessageFormat.JSON, "changes": frozenset({Change.NEW, Change.CHANGED})}
    for names in (["message_format"], ["changes"], ["changes", "message_format"]):
        for manifest in (days.second, days.third):
            with pytest.raises(RefusedError, match=f" value of {', '.join(names)};") as error:
                seeded.run(manifest, **{name: options[name] for name in names})
            assert error.value.exit_code == 9
    assert seeded.received() == Counter()
    assert seeded.run(days.second).status is Status.COMMITTED
    assert seeded.received() == days.second_new - first


# ---- An unfinished run and a newer delivery


@pytest.mark.parametrize(
    "moment",
    [MIDDLES["diff"], MIDDLES["enqueue"], COMMITTED["the baseline has moved"]],
    ids=["diff", "enqueue", "commit"],
)
def test_an_unfinished_run_is_finished_before_the_newer_delivery_in_one_command(
    moment: Moment, seeded: Pipeline, days: Days
) -> None:
    seeded.killed(moment, days.second)
    run = seeded.unfinished.name
    result = seeded.cli(days.third)
    assert result.exit_code == 0, result
    report = result.report
    (first,) = report["finished_first"]
    assert (first["run_id"], first["status"], first["exit_code"]) == (run, "committed", 0)
    assert first["source"]["manifest"] == str(days.second)
    assert first["sent"]["keys"] == len(NEW)
    assert report["run_id"] != run
    assert (report["status"], report["source"]["manifest"]) == ("committed", str(days.third))
    assert report["baseline"]["run_id"] == run
    assert report["sent"]["keys"] == len(days.third_new)
    assert seeded.received() == days.second_new + days.third_new
    assert seeded.baseline["manifest_uri"] == str(days.third)
    again = seeded.run(days.third)
    assert (again.status, again.finished_first) == (Status.NOTHING_NEW, [])


@pytest.mark.parametrize("moment", [MIDDLES["enqueue"], COMMITTED["the baseline has moved"]], ids=["enqueue", "commit"])
def test_failures_of_the_run_that_was_finished_first_make_the_command_exit_4(
    moment: Moment, seeded: Pipeline, days: Days, proxy: FaultProxy
) -> None:
    """The newer delivery has none of its own; but nothing else will tell of those again."""
    seeded.endpoint_url = proxy.endpoint_url
    proxy.rules.append(fail_entries(is_refused, "InvalidMessageContents", sender_fault=True))
    seeded.killed(moment, days.second)
    result = seeded.cli(days.third)
    (first,) = result.report["finished_first"]
    assert (first["exit_code"], first["sent"]["failed"]) == (4, len(REFUSED))
    assert Path(first["sent"]["failures_file"]).exists()
    assert result.report["sent"]["failed"] == 0
    assert seeded.received() == days.second_new - REFUSED + days.third_new
    assert result.exit_code == 4


def test_an_unfinished_run_that_sent_nothing_makes_way_for_other_flags(seeded: Pipeline, days: Days) -> None:
    seeded.killed(MIDDLES["diff"], days.second)
    report = seeded.run(days.second, changes=frozenset({Change.NEW, Change.CHANGED}))
    assert (report.status, report.finished_first) == (Status.COMMITTED, [])
    assert len(seeded.runs) == 3
    assert_second_day_is_the_baseline(seeded, days)
    assert seeded.received() == days.second_new + days.third_new
    assert list(seeded.work.iterdir()) == []
    assert sorted(path.name for path in (seeded.home / "indexes").iterdir()) == [seeded.baseline["run_id"]]


def test_killed_while_a_first_run_that_sent_nothing_is_given_up_the_next_command_begins_anew(
    tmp_path: Path, sqs_client: SQSClient, queue_url: str, days: Days
) -> None:
    """Its index is left; but there never was a baseline, so none is missing."""
    pipeline = Pipeline(tmp_path, sqs_client, queue_url)
    pipeline.killed(Moment(STAGE, about="Stage.ENQUEUE"), days.first, "--first-run", "all")
    pipeline.killed(ANYWHERE["the old index isn't removed"], days.first, "--first-run", "seed")
    assert pipeline.run(days.first, first_run=FirstRun.SEED).status is Status.SEEDED
    assert pipeline.run(days.second).status is Status.COMMITTED
    assert pipeline.received() == days.second_new


def test_an_unfinished_first_run_of_all_objects_is_finished_before_the_next_day(
    tmp_path: Path, sqs_client: SQSClient, queue_url: str, days: Days
) -> None:
    pipeline = Pipeline(tmp_path, sqs_client, queue_url)
    pipeline.killed(Moment(RECORD, "after", call=2), days.first, "--first-run", "all")
    report = pipeline.run(days.second, first_run=FirstRun.ALL)
    (first,) = report.finished_first
    assert (first["status"], report.status) == ("committed", Status.COMMITTED)
    received = pipeline.received()
    everything = Counter(key for file in range(FILES) for key in map(str.encode, days.second_files[file]))
    assert received.keys() >= everything.keys()
    assert received.keys() - everything.keys() == {f"old/{number:03}".encode() for number in range(5)}
    assert received.total() - len(received) <= pipeline.concurrency * BATCH


def test_a_newer_delivery_waits_while_the_unfinished_run_cannot_be_finished(
    seeded: Pipeline, days: Days, proxy: FaultProxy
) -> None:
    """Else the baseline would move past keys that were never sent."""
    seeded.killed(MIDDLES["enqueue"], days.second)
    before = seeded.baseline
    seeded.endpoint_url = proxy.endpoint_url
    proxy.rules.append(deny(SEND))
    denied = seeded.cli(days.third)
    assert (denied.exit_code, denied.report["status"]) == (3, "failed")
    assert seeded.baseline == before
    assert len(seeded.runs) == 2, "the seed, and the one that is unfinished"
    proxy.rules.clear()
    assert seeded.run(days.third).status is Status.COMMITTED
    assert seeded.received() == days.second_new + days.third_new


def test_an_older_delivery_after_an_unfinished_run_sends_nothing_of_its_own(seeded: Pipeline, days: Days) -> None:
    seeded.killed(MIDDLES["enqueue"], days.third)
    report = seeded.run(days.second)
    assert (report.status, report.sent["messages"]) == (Status.NOTHING_NEW, 0)
    (first,) = report.finished_first
    assert first["status"] == "committed"
    assert seeded.baseline["manifest_uri"] == str(days.third)
    assert seeded.received() == days.third_new + Counter(
        key for key in days.second_new if key not in {days.key(0, position) for position in range(3)}
    )


# ---- A power loss: files lose their ends


def cut_off(data: bytes, bytes_lost: int) -> bytes:
    return data[: len(data) - bytes_lost]


def zeroed(data: bytes, bytes_lost: int) -> bytes:
    """A file system that knew the new size, and not yet what is in the blocks."""
    return cut_off(data, bytes_lost) + bytes(bytes_lost)


@pytest.mark.parametrize(
    ("loss", "bytes_lost", "rows"),
    [
        pytest.param(cut_off, 1, 1, id="part of a row"),
        pytest.param(cut_off, 8, 1, id="a row"),
        pytest.param(cut_off, 85, 11, id="more than an answer"),
        pytest.param(cut_off, 160, 20, id="all answers"),
        pytest.param(zeroed, 8, 1, id="zeros instead of a row"),
        pytest.param(zeroed, 88, 11, id="zeros instead of more than an answer"),
        pytest.param(zeroed, 160, 20, id="zeros instead of all answers"),
    ],
)
def test_an_acks_file_that_lost_its_end_repeats_exactly_those_rows(
    loss: Callable[[bytes, int], bytes], bytes_lost: int, rows: int, seeded: Pipeline, days: Days
) -> None:
    seeded.killed(Moment(RECORD, "after", call=6), days.second)
    path = max((seeded.unfinished / "acks").rglob("*.rows"))
    data = path.read_bytes()
    recorded = acknowledgements.decode(data.partition(b"\n")[2], where=str(path)).to_list()
    assert len(recorded) == 20
    path.write_bytes(loss(data, bytes_lost))
    resumed = seeded.run(days.second)
    assert resumed.status is Status.COMMITTED
    repeated = Counter(days.key(*divmod(row, MAX_ROWS_PER_FILE)) for row in recorded[-rows:])
    assert seeded.received() == days.second_new + repeated


@pytest.mark.parametrize("left", [0, 30])
def test_an_acks_file_that_lost_even_its_head_repeats_all_of_its_rows(left: int, seeded: Pipeline, days: Days) -> None:
    seeded.killed(Moment(RECORD, "after", call=6), days.second)
    path = max((seeded.unfinished / "acks").rglob("*.rows"))
    recorded = acknowledgements.decode(path.read_bytes().partition(b"\n")[2], where=str(path)).to_list()
    os.truncate(path, left)
    assert seeded.run(days.second).status is Status.COMMITTED
    repeated = Counter(days.key(*divmod(row, MAX_ROWS_PER_FILE)) for row in recorded)
    assert seeded.received() == days.second_new + repeated


def test_a_failures_file_that_lost_its_end_is_made_whole_again(seeded: Pipeline, days: Days, proxy: FaultProxy) -> None:
    seeded.endpoint_url = proxy.endpoint_url
    proxy.rules.append(fail_entries(is_refused, "InvalidMessageContents", sender_fault=True))
    seeded.killed(Moment(RECORD, "after", call=2), days.second)
    (path,) = (seeded.unfinished / "failures").rglob("*.jsonl")
    os.truncate(path, path.stat().st_size - 200)
    resumed = seeded.run(days.second)
    assert (resumed.exit_code, resumed.sent["failed"]) == (4, len(REFUSED))
    lines = Path(resumed.sent["failures_file"]).read_text(encoding="ascii").splitlines()
    assert Counter(json.loads(line)["key"].encode() for line in lines) == REFUSED
    assert seeded.received() == days.second_new - REFUSED


# ---- Two at once


def test_of_two_runs_at_once_one_exits_5_and_nothing_is_sent_twice(
    seeded: Pipeline, days: Days, proxy: FaultProxy, tmp_path: Path
) -> None:
    seeded.endpoint_url = proxy.endpoint_url
    proxy.rules.append(delay(SEND, 0.2))
    with under_way(seeded, days.second, tmp_path / "log") as first:
        second = seeded.cli(days.second, "--lock-wait", "0")
        assert first.poll() is None, "the first run ended before the second one was refused"
        assert second.exit_code == 5, second
        assert f"process {first.pid} on " in second.stderr
        assert second.report["sent"] == {}
        proxy.rules.clear()
        assert first.wait(PATIENCE) == 0, (tmp_path / "log").read_text()
    assert_second_day_is_the_baseline(seeded, days)
    assert seeded.received() == days.second_new + days.third_new


def test_a_run_that_was_killed_never_locks_out_the_next_one(
    seeded: Pipeline, days: Days, proxy: FaultProxy, tmp_path: Path
) -> None:
    seeded.endpoint_url = proxy.endpoint_url
    proxy.rules.append(delay(SEND, 0.2))
    first = start(seeded, days.second, tmp_path / "log")
    kill_group(first)
    assert lock_holder(seeded) == first.pid, "the dead one's name is still in the lock"
    proxy.rules.clear()
    assert seeded.run(days.second).status is Status.COMMITTED
