"""Which keys a run sends: deleted ones, ones that reappear, recent ones, known ones, and all of them once more."""

from __future__ import annotations

import csv
import json
import shutil
from collections import Counter
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote_plus

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from inventory_enqueue.batching import BatchLimits
from inventory_enqueue.config import Change, FirstRun, MessageFormat, OnLate, RunConfig, Sending, Sizes, StandardOutput
from inventory_enqueue.demo.odd_keys import ODD_KEYS
from inventory_enqueue.errors import StoppedError
from inventory_enqueue.filters import Filters
from inventory_enqueue.fingerprints import Versions
from inventory_enqueue.manifest import FileFormat
from inventory_enqueue.report import Status
from inventory_enqueue.sinks.jsonl import JsonLinesFileSink
from inventory_enqueue.stages import recent
from tests.support import data_files
from tests.support.cli import run_cli
from tests.support.deliveries import DAY_1, SOURCE, data_file
from tests.support.file_pipeline import FilePipeline, Message, keys, refused
from tests.support.killer import KILLED, ONE_FILE_A_TASK, Moment, run_killed
from tests.support.listing import CURRENT, VERSIONED, deliver, listed, objects, version

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from inventory_enqueue.batching import MessageBatch
    from tests.support.data_files import Row

WEEK: Final = timedelta(days=7)
EVERY_CHANGE: Final = frozenset(Change)
DELETED: Final = frozenset({Change.DELETED})
ONE_BY_ONE: Final = Sending(concurrency=1)
ONE_FILE_EACH: Final = Sizes(**ONE_FILE_A_TASK)

Told = tuple[str, str, str | None, int | None, str | None, str | None]
"""Of a message: change, key, version, size, ETag and time."""


def overwritten(row: Row) -> Row:
    return row | {"e_tag": data_files.md5(b"another"), "size": 1_000, "last_modified_date": DAY_1 + timedelta(hours=1)}


def in_files(rows: Sequence[Row], count: int) -> list[list[Row]]:
    """Deal rows out to files."""
    return [list(rows[number::count]) for number in range(count)]


def iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def telling(change: str, rows: Iterable[Row]) -> Counter[Told]:
    """What JSON messages tell of these rows."""
    return Counter(
        (change, row["key"], row.get("version_id"), row["size"], row["e_tag"], iso(row["last_modified_date"]))
        for row in rows
    )


def told(messages: Iterable[Message]) -> Counter[Told]:
    names = ("change", "key", "version_id", "size", "e_tag", "last_modified_date")
    return Counter(tuple(message[name] for name in names) for message in messages)


class TestDeletedKeys:
    @pytest.mark.parametrize("file_format", list(FileFormat))
    @pytest.mark.parametrize("sizes", [Sizes(partition_bits=0), ONE_FILE_EACH], ids=["one batch", "a batch a file"])
    @pytest.mark.parametrize("by_previous", [False, True], ids=["baseline", "previous"])
    def test_every_change_of_odd_keys_is_told_once_with_the_last_values(
        self, daily: FilePipeline, root: Path, file_format: FileFormat, sizes: Sizes, *, by_previous: bool
    ) -> None:
        before = objects(*ODD_KEYS)
        gone, changed, kept = before[::3], before[1::3], before[2::3]
        added = objects("new/a", "new/b c")
        today = [*added, *kept, *map(overwritten, changed)]
        first = deliver(root, 1, *in_files(before, 3), file_format=file_format)
        second = deliver(root, 2, *in_files(today, 2), file_format=file_format)
        options: dict[str, Any] = {"changes": EVERY_CHANGE, "sizes": sizes}
        if by_previous:
            options["previous"] = first
        else:
            daily.seed(first, sizes=sizes)
        expected = telling("deleted", gone) + telling("new", added) + telling("changed", map(overwritten, changed))
        assert told(daily.run(second, **options)) == expected
        assert daily.report.counts["deleted"] == len(gone)
        assert daily.report.counts["selected"] == daily.report.sent["keys"] == expected.total()

    def test_only_deleted_keys_are_sent_if_only_they_are_asked_for(self, daily: FilePipeline, root: Path) -> None:
        before = objects("a", "b", "c")
        daily.seed(deliver(root, 1, before))
        today = [before[0], overwritten(before[1]), listed("new")]
        assert told(daily.run(deliver(root, 2, today), changes=DELETED)) == telling("deleted", before[2:])

    def test_an_s3_event_of_a_deleted_key_has_no_size_and_no_etag(self, daily: FilePipeline, root: Path) -> None:
        daily.seed(deliver(root, 1, objects(*ODD_KEYS, "stays")))
        messages = daily.run(
            deliver(root, 2, objects("stays", "new")),
            changes=EVERY_CHANGE,
            message_format=MessageFormat.S3_EVENT,
            max_shrink=1,
        )
        events = [record for message in messages for record in message["Records"]]
        removed = [event for event in events if event["eventName"] == "ObjectRemoved:Delete"]
        created = [event for event in events if event["eventName"] == "ObjectCreated:Put"]
        assert len(removed) + len(created) == len(events)
        assert Counter(unquote_plus(event["s3"]["object"]["key"]) for event in removed) == Counter(ODD_KEYS)
        assert {frozenset(event["s3"]["object"]) for event in removed} == {frozenset({"key", "sequencer"})}
        assert {event["eventTime"] for event in removed} == {iso(DAY_1 + timedelta(days=1))}
        assert [event["s3"]["object"]["key"] for event in created] == ["new"]
        assert created[0]["s3"]["object"]["size"] == 3

    @pytest.mark.parametrize("file_format", list(FileFormat))
    @pytest.mark.parametrize("message_format", [MessageFormat.S3_EVENT, MessageFormat.EVENTBRIDGE, MessageFormat.JSON])
    def test_of_all_versions_each_that_is_gone_is_named_the_null_version_too(
        self, daily: FilePipeline, root: Path, file_format: FileFormat, message_format: MessageFormat
    ) -> None:
        before = [
            version("a", "v2"),
            version("a", "v1", latest=False),
            version("a", None, latest=False),
            version("b", None),
            version("c", None),
            version("d", "m", marker=True),
        ]
        today = [version("a", "v3"), version("a", "v2", latest=False), version("c", None)]
        both = {"columns": VERSIONED, "file_format": file_format}
        daily.seed(deliver(root, 1, before[:3], before[3:], **both), versions=Versions.ALL)  # type: ignore[arg-type]
        messages = daily.run(
            deliver(root, 2, today, **both),  # type: ignore[arg-type]
            versions=Versions.ALL,
            changes=EVERY_CHANGE,
            message_format=message_format,
        )
        expected = Counter(
            [("deleted", "a", "v1"), ("deleted", "a", "null"), ("deleted", "b", "null"), ("new", "a", "v3")]
        )
        assert Counter(map(identity, messages)) == expected

    def test_of_live_objects_one_under_a_delete_marker_is_gone(self, daily: FilePipeline, root: Path) -> None:
        before = [version("a", "v1"), version("b", "v1")]
        marked = [version("a", "v2", marker=True), version("a", "v1", latest=False), version("b", "v1")]
        daily.seed(deliver(root, 1, before, columns=VERSIONED))
        messages = daily.run(deliver(root, 2, marked, columns=VERSIONED), changes=EVERY_CHANGE)
        assert told(messages) == telling("deleted", before[:1])

    def test_a_version_under_a_delete_marker_is_still_there(self, daily: FilePipeline, root: Path) -> None:
        marked = [version("a", "v2", marker=True), version("a", "v1", latest=False)]
        daily.seed(deliver(root, 1, [version("a", "v1")], columns=VERSIONED), versions=Versions.ALL)
        manifest = deliver(root, 2, marked, columns=VERSIONED)
        assert daily.run(manifest, versions=Versions.ALL, changes=EVERY_CHANGE) == []
        assert daily.report.counts["unchanged"] == 1

    def test_one_that_the_filters_never_admitted_is_not_told(self, daily: FilePipeline, root: Path) -> None:
        filters = Filters(suffix=".json")
        daily.seed(deliver(root, 1, objects("a.json", "a.tmp", "b.json")), filters=filters)
        second = deliver(root, 2, objects("b.json"))
        messages = daily.run(second, filters=filters, changes=EVERY_CHANGE, max_shrink=1)
        assert told(messages) == telling("deleted", objects("a.json"))
        assert daily.report.counts["deleted"] == 2

    def test_what_the_filters_of_its_own_day_left_out_is_not_told_under_wider_ones(
        self, daily: FilePipeline, root: Path
    ) -> None:
        daily.seed(deliver(root, 1, objects("a.json", "a.tmp", "b.json")), filters=Filters(suffix=".json"))
        messages = daily.run(deliver(root, 2, objects("b.json")), changes=EVERY_CHANGE, max_shrink=1)
        assert told(messages) == telling("deleted", objects("a.json"))

    def test_nothing_gone_and_nothing_new_is_a_run_that_sends_nothing(self, daily: FilePipeline, root: Path) -> None:
        daily.seed(deliver(root, 1, objects("a", "b")))
        assert daily.run(deliver(root, 2, objects("b", "a")), changes=EVERY_CHANGE) == []
        assert daily.report.status is Status.COMMITTED


def identity(message: Message) -> tuple[str, str, str | None]:
    """The change, key and version that a message of any format tells."""
    if "schema_version" in message:
        return message["change"], message["key"], message["version_id"]
    if "detail" in message:
        change = {"Object Deleted": "deleted", "Object Created": "new"}[message["detail-type"]]
        return change, message["detail"]["object"]["key"], message["detail"]["object"].get("version-id")
    (event,) = message["Records"]
    change = {"ObjectRemoved:Delete": "deleted", "ObjectCreated:Put": "new"}[event["eventName"]]
    return change, unquote_plus(event["s3"]["object"]["key"]), event["s3"]["object"].get("versionId")


class TestDeletedKeysThatNobodyCanName:
    """The previous delivery's data files are gone, or others lie there."""

    @pytest.fixture
    def first(self, daily: FilePipeline, root: Path) -> Path:
        manifest = deliver(root, 1, objects("a", "b", "c"), objects("d", "e", "f"))
        daily.seed(manifest)
        return manifest

    @pytest.fixture
    def second(self, root: Path) -> Path:
        return deliver(root, 2, objects("b", "c", "e", "f", "new"))

    def test_the_others_are_sent_and_these_are_counted(
        self, daily: FilePipeline, root: Path, first: Path, second: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        for number in range(2):
            data_file(first, number).unlink()
        assert told(daily.run(second, changes=EVERY_CHANGE)) == telling("new", objects("new"))
        assert daily.report.status is Status.COMMITTED
        assert (daily.report.counts["deleted"], daily.report.counts["deleted_gone"]) == (2, 2)
        assert any("deleted keys can't be named" in warning for warning in warnings(caplog))
        third = deliver(root, 3, objects("b", "c", "f", "new"))
        assert told(daily.run(third, changes=EVERY_CHANGE)) == telling("deleted", objects("e"))

    def test_where_one_file_is_gone_the_deleted_keys_of_the_other_are_named(
        self, daily: FilePipeline, first: Path, second: Path
    ) -> None:
        data_file(first, 0).unlink()
        expected = telling("new", objects("new")) + telling("deleted", objects("d"))
        assert told(daily.run(second, changes=EVERY_CHANGE, sizes=ONE_FILE_EACH)) == expected
        assert (daily.report.counts["deleted"], daily.report.counts["deleted_gone"]) == (2, 1)

    def test_so_are_they_where_both_files_are_in_one_batch(
        self, daily: FilePipeline, first: Path, second: Path
    ) -> None:
        data_file(first, 1).unlink()
        expected = telling("new", objects("new")) + telling("deleted", objects("a"))
        assert told(daily.run(second, changes=EVERY_CHANGE)) == expected
        assert (daily.report.counts["deleted"], daily.report.counts["deleted_gone"]) == (2, 1)

    def test_a_file_without_deleted_keys_is_not_missed(self, daily: FilePipeline, root: Path, first: Path) -> None:
        data_file(first, 1).unlink()
        messages = daily.run(deliver(root, 2, objects("b", "c", "d", "e", "f")), changes=EVERY_CHANGE)
        assert told(messages) == telling("deleted", objects("a"))
        assert daily.report.counts["deleted_gone"] == 0

    @pytest.mark.parametrize("sizes", [Sizes(partition_bits=0), ONE_FILE_EACH], ids=["one batch", "a batch a file"])
    def test_a_file_with_other_keys_in_its_place_commits_nothing(
        self, daily: FilePipeline, first: Path, second: Path, sizes: Sizes
    ) -> None:
        path = data_file(first)
        size = path.stat().st_size
        path.write_bytes(data_files.write(FileFormat.PARQUET, CURRENT, [[listed("x")], objects("y", "z")]))
        assert path.stat().st_size == size
        error = refused(daily, second, changes=EVERY_CHANGE, sizes=sizes)
        assert error.exit_code == 7
        assert "replaced" in error.message

    @pytest.mark.parametrize(
        "content",
        [
            data_files.write(FileFormat.PARQUET, CURRENT, [[]]),
            b"no parquet",
            b"",
            data_files.write(FileFormat.PARQUET, CURRENT, [objects("a", "b", "c")])[:-9],
        ],
        ids=["without rows", "no Parquet", "empty", "cut"],
    )
    def test_nor_does_a_file_that_cannot_be_read(
        self, daily: FilePipeline, first: Path, second: Path, content: bytes
    ) -> None:
        data_file(first).write_bytes(content)
        assert refused(daily, second, changes=EVERY_CHANGE).exit_code == 7

    def test_the_same_file_put_back_after_that_the_run_is_finished(
        self, daily: FilePipeline, first: Path, second: Path
    ) -> None:
        path = data_file(first)
        content = path.read_bytes()
        path.write_bytes(b"no parquet")
        refused(daily, second, changes=EVERY_CHANGE)
        path.write_bytes(content)
        expected = telling("new", objects("new")) + telling("deleted", objects("a", "d"))
        assert told(daily.run(second, changes=EVERY_CHANGE)) == expected

    def test_files_that_went_after_the_deleted_keys_were_sent_do_not_stop_the_resume(
        self, daily: FilePipeline, first: Path, second: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with stopped_before_the_commit(monkeypatch), pytest.raises(StoppedError):
            daily.run(second, changes=EVERY_CHANGE)
        shutil.rmtree(tmp_path / "pipeline" / "work")
        for number in range(2):
            data_file(first, number).unlink()
        assert daily.run(second, changes=EVERY_CHANGE) == []
        assert told(daily.messages()) == telling("new", objects("new")) + telling("deleted", objects("a", "d"))
        assert daily.report.status is Status.COMMITTED


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


@contextmanager
def stopped_before_the_commit(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Everything is sent and recorded, then the run stops."""

    def stop(*_: object) -> None:
        raise StoppedError("stopped by the test")

    with monkeypatch.context() as patch:
        patch.setattr("inventory_enqueue.execution.check_sent", stop)
        yield


@contextmanager
def stopped_at_message(monkeypatch: pytest.MonkeyPatch, number: int) -> Iterator[None]:
    """The sink takes messages one by one, and fails at this one."""
    begin = JsonLinesFileSink.begin
    calls = 0

    def begin_or_stop(self: JsonLinesFileSink, batch: MessageBatch) -> None:
        nonlocal calls
        calls += 1
        if calls >= number:
            raise StoppedError("stopped by the test")
        begin(self, batch)

    limits = BatchLimits(max_entries=1, max_message_bytes=1 << 30, max_request_bytes=1 << 30)
    with monkeypatch.context() as patch:
        patch.setattr(JsonLinesFileSink, "limits", limits)
        patch.setattr(JsonLinesFileSink, "begin", begin_or_stop)
        yield


class TestKeysThatReappear:
    """New by the diff, and last modified more than a week before the delivery that doesn't have them."""

    LATE: Final = (*objects("late/a", 'late/"b" é\n', last_modified_date=DAY_1 - WEEK - timedelta(milliseconds=1)),)
    FRESH: Final = (
        listed("fresh/a week", last_modified_date=DAY_1 - WEEK),
        listed("fresh/today", last_modified_date=DAY_1 + timedelta(hours=1)),
    )

    @pytest.fixture
    def second(self, daily: FilePipeline, root: Path) -> Path:
        daily.seed(deliver(root, 1, objects("a")))
        return deliver(root, 2, [listed("a"), self.LATE[0], self.FRESH[0]], [self.FRESH[1], self.LATE[1]])

    def test_they_are_counted_and_sent(self, daily: FilePipeline, second: Path) -> None:
        assert told(daily.run(second)) == telling("new", [*self.LATE, *self.FRESH])
        assert daily.report.counts["reappeared"] == 2
        assert (daily.report.sent["late"], daily.report.sent["late_file"]) == (0, None)
        assert not (daily.run_folder / "late.jsonl").exists()

    @pytest.mark.parametrize("on_late", [OnLate.SKIP, OnLate.REPORT])
    @pytest.mark.parametrize("sizes", [Sizes(partition_bits=0), ONE_FILE_EACH], ids=["one batch", "a batch a file"])
    def test_they_are_kept_back_with_all_that_resend_needs(
        self, daily: FilePipeline, second: Path, on_late: OnLate, sizes: Sizes, caplog: pytest.LogCaptureFixture
    ) -> None:
        assert told(daily.run(second, on_late=on_late, sizes=sizes)) == telling("new", self.FRESH)
        report = daily.report
        assert (report.status, report.exit_code, report.counts["reappeared"]) == (Status.COMMITTED, 0, 2)
        assert (report.sent["keys"], report.sent["late"]) == (2, 2)
        assert report.sent["late_file"] == str(daily.run_folder / "late.jsonl")
        assert late_keys(daily) == keys_of_rows(self.LATE)
        bodies = [json.loads(record["body"]) for record in late_records(daily)]
        assert told(bodies) == telling("new", self.LATE)
        assert {record["bucket"] for record in late_records(daily)} == {SOURCE}
        assert any("reappeared" in warning for warning in warnings(caplog)) is (on_late is OnLate.REPORT)

    def test_kept_back_once_they_are_known_the_next_day(self, daily: FilePipeline, root: Path, second: Path) -> None:
        daily.run(second, on_late=OnLate.SKIP)
        third = deliver(root, 3, [listed("a"), *self.LATE, *self.FRESH, listed("b")])
        assert keys(daily.run(third, on_late=OnLate.SKIP)) == Counter("b")

    def test_the_previous_delivery_may_be_one_that_was_named(
        self, daily: FilePipeline, root: Path, second: Path
    ) -> None:
        first = deliver(root, 1, objects("a"))
        assert told(daily.run(second, previous=first, on_late=OnLate.SKIP)) == telling("new", self.FRESH)
        assert late_keys(daily) == keys_of_rows(self.LATE)

    def test_an_object_without_a_time_is_sent(self, daily: FilePipeline, root: Path) -> None:
        daily.seed(deliver(root, 1, objects("a")))
        second = deliver(root, 2, [listed("a"), listed("b", last_modified_date=None)])
        assert keys(daily.run(second, on_late=OnLate.SKIP)) == Counter("b")

    def test_neither_a_changed_nor_a_newly_admitted_nor_a_deleted_key_has_reappeared(
        self, daily: FilePipeline, root: Path
    ) -> None:
        old = {"last_modified_date": DAY_1 - 9 * WEEK}
        filters = Filters(min_size=10)
        before = [listed("changes", size=10, **old), listed("grows", size=1, **old), listed("goes", size=10, **old)]
        daily.seed(deliver(root, 1, before), filters=filters)
        today = [listed("changes", size=11, **old), listed("grows", size=11, **old)]
        options: dict[str, Any] = {"changes": EVERY_CHANGE, "filters": filters, "on_late": OnLate.SKIP}
        assert keys(daily.run(deliver(root, 2, today), **options)) == Counter(["changes", "grows", "goes"])
        assert (daily.report.counts["reappeared"], daily.report.sent["late"]) == (0, 0)

    def test_a_first_run_has_none(self, daily: FilePipeline, root: Path) -> None:
        manifest = deliver(root, 1, self.LATE)
        assert keys(daily.everything(manifest, on_late=OnLate.SKIP)) == keys_of_rows(self.LATE)

    @pytest.mark.parametrize("number", [1, 2])
    def test_a_resumed_run_keeps_one_record_a_key(
        self, daily: FilePipeline, second: Path, number: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        options: dict[str, Any] = {"on_late": OnLate.SKIP, "sizes": ONE_FILE_EACH, "sending": ONE_BY_ONE}
        with stopped_at_message(monkeypatch, number), pytest.raises(StoppedError):
            daily.run(second, **options)
        daily.run(second, **options)
        assert told(daily.messages()) == telling("new", self.FRESH)
        assert late_keys(daily) == keys_of_rows(self.LATE)
        assert (daily.report.sent["keys"], daily.report.sent["late"]) == (2, 2)

    def test_a_resumed_run_counts_those_of_its_first_attempt(
        self, daily: FilePipeline, second: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with stopped_at_message(monkeypatch, 2), pytest.raises(StoppedError):
            daily.run(second, on_late=OnLate.SKIP, sending=ONE_BY_ONE)
        daily.run(second, on_late=OnLate.SKIP)
        assert (daily.report.counts["reappeared"], daily.report.sent["late"]) == (2, 2)


def late_records(daily: FilePipeline) -> list[dict[str, Any]]:
    lines = (daily.run_folder / "late.jsonl").read_bytes().splitlines()
    return [json.loads(line) for line in lines]


def late_keys(daily: FilePipeline) -> Counter[str]:
    return Counter(record["key"] for record in late_records(daily))


def keys_of_rows(rows: Iterable[Row]) -> Counter[str]:
    return Counter(row["key"] for row in rows)


class TestRecentRows:
    """Those that are kept while the delivery is indexed are sent as the others are, which are read once more."""

    KEPT: Final = tuple(objects(*(f"kept/{number}" for number in range(30))))
    OLD: Final = tuple(objects(*(f"old/{number}" for number in range(10)), last_modified_date=DAY_1 - 5 * WEEK))
    RECENT: Final = tuple(
        objects(*(f"recent/{number}" for number in range(10)), last_modified_date=DAY_1 + timedelta(hours=2))
    )
    MIXED: Final = tuple(row for pair in zip(OLD, RECENT, strict=True) for row in pair)

    @pytest.mark.parametrize("added", [OLD, RECENT, MIXED], ids=["old", "recent", "mixed"])
    @pytest.mark.parametrize("file_format", list(FileFormat))
    def test_all_arrive_once(
        self, daily: FilePipeline, root: Path, added: tuple[Row, ...], file_format: FileFormat
    ) -> None:
        daily.seed(deliver(root, 1, self.KEPT, file_format=file_format))
        second = deliver(root, 2, *in_files([*self.KEPT, *added], 2), file_format=file_format)
        assert told(daily.run(second, changes=EVERY_CHANGE)) == telling("new", added)

    @pytest.mark.parametrize("files", [1, 3])
    def test_all_arrive_once_where_too_many_are_recent(
        self, daily: FilePipeline, root: Path, files: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        given_up = []
        give_up = recent.RecentRows._give_up  # noqa: SLF001 - what nobody sees from outside

        def note(self: recent.RecentRows) -> None:
            given_up.append(self)
            give_up(self)

        monkeypatch.setattr(recent, "_ALWAYS_KEPT", 5)
        monkeypatch.setattr(recent.RecentRows, "_give_up", note)
        daily.seed(deliver(root, 1, self.OLD))
        assert not given_up
        added = [*self.RECENT, *objects("b", "c")]
        messages = daily.run(deliver(root, 2, *in_files([*self.OLD, *added], files)), changes=EVERY_CHANGE)
        assert told(messages) == telling("new", added)
        assert given_up

    @pytest.mark.parametrize("added", [RECENT, MIXED], ids=["recent", "mixed"])
    def test_none_is_missed_where_the_kept_rows_are_lost(
        self,
        daily: FilePipeline,
        root: Path,
        added: tuple[Row, ...],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        daily.seed(deliver(root, 1, self.KEPT))
        second = deliver(root, 2, *in_files([*self.KEPT, *added], 2))
        with stopped_at_message(monkeypatch, 4), pytest.raises(StoppedError):
            daily.run(second, sending=ONE_BY_ONE)
        assert len(daily.messages()) == 3
        (kept,) = (tmp_path / "pipeline" / "work").glob("*/*/recent/*.arrow")
        kept.unlink()
        daily.run(second)
        assert told(daily.messages()) == telling("new", added)


class TestReplay:
    @pytest.fixture
    def days(self, daily: FilePipeline, root: Path) -> list[Path]:
        """Two deliveries that were committed."""
        days = [deliver(root, 1, objects("a", "b")), deliver(root, 2, objects("b", "c.tmp"), objects("d"))]
        daily.seed(days[0])
        daily.run(days[1])
        return days

    def test_it_sends_all_and_leaves_the_baseline(self, daily: FilePipeline, days: list[Path]) -> None:
        baseline = daily.baseline()
        for _ in range(2):
            assert told(daily.run(days[1], replay=True)) == telling("new", objects("b", "c.tmp", "d"))
            assert daily.report.status is Status.COMMITTED
        assert keys(daily.run(days[0], replay=True)) == Counter(["a", "b"])
        assert daily.baseline() == baseline
        assert daily.run(days[1]) == []
        assert daily.report.status is Status.NOTHING_NEW

    def test_the_next_day_is_compared_as_if_it_had_never_been(
        self, daily: FilePipeline, root: Path, days: list[Path]
    ) -> None:
        daily.run(days[0], replay=True)
        third = deliver(root, 3, objects("b", "c.tmp", "e"))
        assert keys(daily.run(third, changes=EVERY_CHANGE)) == Counter("de")

    def test_it_sends_what_the_filters_admit(self, daily: FilePipeline, days: list[Path]) -> None:
        filters = Filters(suffix=".tmp")
        assert keys(daily.run(days[1], replay=True, filters=filters)) == Counter(["c.tmp"])

    def test_it_leaves_known_keys_out(self, daily: FilePipeline, days: list[Path]) -> None:
        assert keys(daily.run(days[1], replay=True, known=days[0])) == Counter(["c.tmp", "d"])
        assert daily.report.counts["known"] == 1

    def test_it_needs_no_baseline_and_makes_none(self, daily: FilePipeline, root: Path) -> None:
        manifest = deliver(root, 1, objects("a", "b"))
        assert keys(daily.run(manifest, replay=True)) == Counter("ab")
        assert daily.baseline() is None
        assert refused(daily, manifest).exit_code == 9
        daily.seed(manifest)

    def test_a_replay_that_stopped_goes_on(
        self, daily: FilePipeline, days: list[Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        baseline, before = daily.baseline(), len(daily.messages())
        with stopped_at_message(monkeypatch, 2), pytest.raises(StoppedError):
            daily.run(days[1], replay=True, sending=ONE_BY_ONE)
        daily.run(days[1], replay=True)
        assert keys(daily.messages()[before:]) == Counter(["b", "c.tmp", "d"])
        assert daily.baseline() == baseline

    def test_it_compares_with_nothing(self, tmp_path: Path) -> None:
        values: dict[str, Any] = {"manifest": tmp_path, "sink": StandardOutput(), "state": tmp_path, "replay": True}
        for more in ({"previous": tmp_path}, {"first_run": FirstRun.ALL}):
            with pytest.raises(ValueError, match="replay"):
                RunConfig(**values, **more)


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    pq.write_table(pa.Table.from_pylist(rows), path)


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), quoting=csv.QUOTE_ALL)
        writer.writeheader()
        writer.writerows(rows)


def write_plain_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    """Quotes only where they are needed."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_json_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="ascii")


def write_utf8_json_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


KEY_FILES: Final[dict[str, Callable[[Path, list[dict[str, Any]]], None]]] = {
    "known.parquet": write_parquet,
    "known.csv": write_csv,
    "plain.csv": write_plain_csv,
    "known.jsonl": write_json_lines,
    "known.ndjson": write_utf8_json_lines,
    "with space.json": write_json_lines,
}


@pytest.fixture(params=KEY_FILES)
def key_file(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[list[dict[str, Any]]], Path]:
    """Writes a file of known keys in one of the formats."""
    name: str = request.param

    def write(rows: list[dict[str, Any]]) -> Path:
        path = tmp_path / name
        KEY_FILES[name](path, rows)
        return path

    return write


class TestKnownKeys:
    NEW: Final = ("new/1", "new/2", "001")

    def test_those_of_a_file_are_not_sent_however_odd_they_are(
        self, daily: FilePipeline, root: Path, key_file: Callable[[list[dict[str, Any]]], Path]
    ) -> None:
        daily.seed(deliver(root, 1, objects("a")))
        rows = [{"n": number, "key": key, "note": "x,\n"} for number, key in enumerate([*ODD_KEYS, "elsewhere"])]
        second = deliver(root, 2, objects("a", *ODD_KEYS, *self.NEW))
        assert keys(daily.run(second, known=key_file(rows))) == Counter(self.NEW)
        assert daily.report.counts["known"] == len(ODD_KEYS)
        assert daily.report.counts["selected"] == daily.report.sent["keys"] == len(self.NEW)
        third = deliver(root, 3, objects("a", *ODD_KEYS, *self.NEW, "b"))
        assert keys(daily.run(third)) == Counter("b")

    def test_those_of_another_delivery_are_not_sent(self, daily: FilePipeline, root: Path) -> None:
        daily.seed(deliver(root, 1, objects("a")))
        known = deliver(root / "other", 5, objects("a", *ODD_KEYS[::2]), objects("elsewhere"))
        second = deliver(root, 2, objects("a", *ODD_KEYS, *self.NEW))
        assert keys(daily.run(second, known=known)) == Counter([*ODD_KEYS[1::2], *self.NEW])
        assert daily.report.counts["known"] == len(ODD_KEYS[::2])
        assert keys(daily.run(deliver(root, 3, objects("a", *ODD_KEYS, *self.NEW, "b")))) == Counter("b")

    def test_they_count_for_every_change(
        self, daily: FilePipeline, root: Path, key_file: Callable[[list[dict[str, Any]]], Path]
    ) -> None:
        before = objects("gone/1", "gone/2", "changed/1", "changed/2", "a")
        daily.seed(deliver(root, 1, before))
        second = deliver(root, 2, [*map(overwritten, before[2:4]), before[4], *objects("new/1", "new/2")])
        known = key_file([{"key": key} for key in ("gone/1", "changed/1", "new/1", "a")])
        messages = daily.run(second, changes=EVERY_CHANGE, known=known)
        assert keys(messages) == Counter(["gone/2", "changed/2", "new/2"])
        assert daily.report.counts["known"] == 3

    def test_on_a_first_run_of_all_objects_too(
        self, daily: FilePipeline, root: Path, key_file: Callable[[list[dict[str, Any]]], Path]
    ) -> None:
        manifest = deliver(root, 1, objects("a", "b", "0012", "12"))
        assert keys(daily.everything(manifest, known=key_file([{"key": "0012"}]))) == Counter(["a", "b", "12"])

    def test_an_empty_or_absent_key_is_none(self, daily: FilePipeline, root: Path, tmp_path: Path) -> None:
        known = tmp_path / "known.jsonl"
        known.write_text('{"key": null}\n{"key": ""}\n{"other": 1, "key": "b"}\n', encoding="ascii")
        assert keys(daily.everything(deliver(root, 1, objects("a", "b")), known=known)) == Counter("a")

    @pytest.mark.parametrize("null", [None, "", "null"])
    def test_with_all_versions_those_count_that_are_named(
        self,
        daily: FilePipeline,
        root: Path,
        key_file: Callable[[list[dict[str, Any]]], Path],
        null: str | None,
    ) -> None:
        rows = [
            version("a", "v2"),
            version("a", "v1", latest=False),
            version("a", None, latest=False),
            version("b", None),
            version("c", None),
        ]
        known = [("a", "v2"), ("a", null), ("b", null), ("c", "v9")]
        path = key_file([{"version_id": version_id, "key": key} for key, version_id in known])
        messages = daily.everything(deliver(root, 1, rows, columns=VERSIONED), versions=Versions.ALL, known=path)
        assert Counter(map(identity, messages)) == Counter([("new", "a", "v1"), ("new", "c", "null")])
        assert daily.report.counts["known"] == 3

    def test_with_all_versions_those_of_another_delivery_count_by_version(
        self, daily: FilePipeline, root: Path
    ) -> None:
        known = deliver(root / "other", 5, [version("a", "v1"), version("b", None)], columns=VERSIONED)
        rows = [version("a", "v2"), version("a", "v1", latest=False), version("b", None), version("b", "v1")]
        messages = daily.everything(deliver(root, 1, rows, columns=VERSIONED), versions=Versions.ALL, known=known)
        assert Counter(map(identity, messages)) == Counter([("new", "a", "v2"), ("new", "b", "v1")])

    @pytest.mark.parametrize("name", ["known.csv", "known.parquet", "known.jsonl", "manifest.json", "folder"])
    def test_what_is_not_there_stops_the_run(self, daily: FilePipeline, root: Path, tmp_path: Path, name: str) -> None:
        daily.seed(deliver(root, 1, objects("a")))
        error = refused(daily, deliver(root, 2, objects("a", "b")), known=tmp_path / "nowhere" / name)
        assert error.exit_code == 6
        assert "nowhere" in str(error)

    def test_so_does_a_file_without_keys(
        self, daily: FilePipeline, root: Path, key_file: Callable[[list[dict[str, Any]]], Path]
    ) -> None:
        daily.seed(deliver(root, 1, objects("a")))
        known = key_file([{"Key": "b", "name": "b"}, {"Key": "c", "name": "c"}])
        error = refused(daily, deliver(root, 2, objects("a", "b")), known=known)
        assert error.exit_code == 7
        assert error.where == str(known)

    def test_so_does_one_without_versions_where_these_count(
        self, daily: FilePipeline, root: Path, key_file: Callable[[list[dict[str, Any]]], Path]
    ) -> None:
        manifest = deliver(root, 1, [version("a", None), version("b", "v1")], columns=VERSIONED)
        error = refused(daily, manifest, first_run=FirstRun.ALL, versions=Versions.ALL, known=key_file([{"key": "a"}]))
        assert error.exit_code == 7

    @pytest.mark.parametrize(
        ("name", "content"),
        [("known.parquet", b"PAR1"), ("known.jsonl", b'{"key": "a"}\n{"key": '), ("known.csv", b"")],
    )
    def test_so_does_one_that_cannot_be_read(
        self, daily: FilePipeline, root: Path, tmp_path: Path, name: str, content: bytes
    ) -> None:
        path = tmp_path / name
        path.write_bytes(content)
        manifest = deliver(root, 1, objects("a", "b"))
        assert refused(daily, manifest, first_run=FirstRun.ALL, known=path).exit_code == 7

    def test_a_delivery_of_another_bucket_is_refused(self, daily: FilePipeline, root: Path) -> None:
        daily.seed(deliver(root, 1, objects("a")))
        content = data_files.write(FileFormat.PARQUET, CURRENT, [objects("b", bucket="other")])
        schema = data_files.file_schema(FileFormat.PARQUET, CURRENT)
        known = data_files.deliver(root, 2, FileFormat.PARQUET, schema, [content], bucket="other")
        error = refused(daily, deliver(root, 2, objects("a", "b")), known=known)
        assert error.exit_code == 9
        assert "'other'" in error.message


class TestResume:
    """A run with every change and known keys, stopped and begun again."""

    BEFORE: Final = tuple(objects(*(f"old/{number}" for number in range(12))))
    GONE, CHANGED, KEPT = BEFORE[:4], BEFORE[4:7], BEFORE[7:]
    ADDED: Final = tuple(objects("new/1", "new/2", "new/3 +é"))
    KNOWN: Final = ("old/0", "old/4", "new/1")

    @pytest.fixture
    def second(self, daily: FilePipeline, root: Path) -> Path:
        daily.seed(deliver(root, 1, *in_files(self.BEFORE, 2)))
        return deliver(root, 2, *in_files([*self.KEPT, *map(overwritten, self.CHANGED), *self.ADDED], 2))

    @pytest.fixture
    def known(self, tmp_path: Path) -> Path:
        path = tmp_path / "known.csv"
        write_csv(path, [{"key": key} for key in self.KNOWN])
        return path

    @property
    def expected(self) -> Counter[Told]:
        return (
            telling("deleted", self.GONE[1:])
            + telling("changed", map(overwritten, self.CHANGED[1:]))
            + telling("new", self.ADDED[1:])
        )

    @pytest.mark.parametrize("lost", ["", "work", "work/*/*/recalled", "work/*/*/recent"])
    @pytest.mark.parametrize("number", [1, 3, 5, 6, 7])
    def test_stopped_at_any_message_each_key_is_sent_once(  # noqa: PLR0913, PLR0917 - fixtures
        self,
        daily: FilePipeline,
        second: Path,
        known: Path,
        tmp_path: Path,
        number: int,
        lost: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        options: dict[str, Any] = {
            "changes": EVERY_CHANGE,
            "known": known,
            "sending": ONE_BY_ONE,
            "sizes": ONE_FILE_EACH,
        }
        with stopped_at_message(monkeypatch, number), pytest.raises(StoppedError):
            daily.run(second, **options)
        assert len(daily.messages()) == number - 1
        for folder in (tmp_path / "pipeline").glob(lost) if lost else ():
            shutil.rmtree(folder)
        daily.run(second, **options)
        assert told(daily.messages()) == self.expected
        assert daily.report.sent["keys"] == self.expected.total()
        assert (daily.report.counts["known"], daily.report.counts["deleted_gone"]) == (3, 0)

    @pytest.mark.parametrize(
        "moment",
        [
            Moment("inventory_enqueue.engines.local:run_stage", about="Stage.RECALL"),
            Moment("inventory_enqueue.run:Run.save_task_report", about="Stage.RECALL"),
            Moment("inventory_enqueue.engines.local:run_stage", about="Stage.ENQUEUE"),
            Moment("inventory_enqueue.run:Run.save_task_report", "after", about="Stage.ENQUEUE", call=3),
        ],
        ids=["before recall", "in recall", "between recall and enqueue", "a task of deleted keys is done"],
    )
    def test_killed_each_key_is_sent_once(
        self, daily: FilePipeline, second: Path, known: Path, tmp_path: Path, moment: Moment
    ) -> None:
        home = tmp_path / "pipeline"
        arguments = [
            *("--manifest", str(second), "--output", str(home / "messages.jsonl"), "--state", str(home / "state")),
            *("--pipeline", "p", "--work-dir", str(home / "work"), "--changes", "new,changed,deleted", "--json"),
            *("--known", str(known), "--message-format", "json", "--source-region", "us-east-1"),
        ]
        killed = run_killed(moment, *arguments)
        assert killed.exit_code == KILLED, killed
        result = run_cli(*arguments)
        assert result.exit_code == 0, result
        assert told(daily.messages()) == self.expected
        assert result.report["sent"]["keys"] == self.expected.total()
