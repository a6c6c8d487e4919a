"""What a pipeline compares with: an index that is lost and made again, ages on its side, and the verbs that move it."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import pytest
from click.testing import CliRunner

from inventory_enqueue import planning
from inventory_enqueue.cli.main import cli
from inventory_enqueue.config import Change, Sizes
from inventory_enqueue.errors import InventoryUnavailableError, StoppedError
from inventory_enqueue.filters import Filters, Moment
from inventory_enqueue.manifest import FileFormat
from inventory_enqueue.report import Status
from inventory_enqueue.sinks.jsonl import JsonLinesFileSink
from tests.support import data_files, deliveries
from tests.support.data_files import Row, deliver_rows
from tests.support.deliveries import DAY_1, SOURCE, checksum_file, data_file, tree
from tests.support.file_pipeline import FilePipeline, Message, keys, refused
from tests.support.killer import ONE_FILE_A_TASK
from tests.support.listing import CURRENT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from click.testing import Result

EVERY_CHANGE: Final = frozenset(Change)
ONE_FILE_EACH: Final = Sizes(**ONE_FILE_A_TASK)


def told(messages: Iterable[Message]) -> Counter[tuple[str, str, int | None]]:
    return Counter((message["change"], message["key"], message["size"]) for message in messages)


def index_of(daily: FilePipeline) -> Path:
    """The folder of the baseline's index."""
    document = json.loads((daily.home / "baseline.json").read_bytes())
    folder: Path = daily.home / "indexes" / document["run_id"]
    return folder


def lose_meta(index: Path) -> None:
    (index / "meta.json").unlink()


def lose_part(index: Path) -> None:
    (index / "00001.arrow").unlink()


def cut_part(index: Path) -> None:
    path = index / "00000.arrow"
    path.write_bytes(path.read_bytes()[:-1])


def damage_meta(index: Path) -> None:
    (index / "meta.json").write_text("{", encoding="ascii")


def lose_all(index: Path) -> None:
    shutil.rmtree(index)


def lose_every_index(index: Path) -> None:
    shutil.rmtree(index.parent)


LOSSES: Final = [lose_meta, lose_part, cut_part, damage_meta, lose_all, lose_every_index]


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


class TestALostIndex:
    """It is made again from the baseline's delivery."""

    BEFORE: Final = ("a", "b", "changes", "goes", "goes too", "x.tmp")
    TODAY: Final = ("a", "b", "new", "changes")
    EXPECTED: Final = Counter(
        [("new", "new", 3), ("changed", "changes", 99), ("deleted", "goes", 4), ("deleted", "goes too", 8)]
    )

    @pytest.fixture
    def first(self, daily: FilePipeline, root: Path) -> Path:
        manifest = deliver(root, 1, objects(*self.BEFORE[:3]), objects(*self.BEFORE[3:]))
        daily.seed(manifest, sizes=ONE_FILE_EACH)
        return manifest

    @pytest.fixture
    def second(self, root: Path) -> Path:
        return deliver(root, 2, objects(*self.TODAY[:3]), [listed("changes", size=99), listed("x.tmp")])

    @pytest.mark.parametrize("lose", LOSSES)
    @pytest.mark.parametrize("sizes", [Sizes(partition_bits=0), ONE_FILE_EACH], ids=["one batch", "a batch a file"])
    def test_the_next_run_sends_what_it_would_have_sent(  # noqa: PLR0913, PLR0917 - fixtures
        self,
        daily: FilePipeline,
        root: Path,
        first: Path,
        second: Path,
        lose: Callable[[Path], None],
        sizes: Sizes,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        lose(index_of(daily))
        assert told(daily.run(second, changes=EVERY_CHANGE, sizes=sizes)) == self.EXPECTED
        assert any("made again" in text and str(first) in text for text in warnings(caplog))
        assert daily.report.status is Status.COMMITTED
        assert daily.report.counts["unchanged"] == 3
        caplog.clear()
        third = deliver(root, 3, objects("a", "new", "x.tmp", "b"), [listed("changes", size=99), listed("newer")])
        assert told(daily.run(third, changes=EVERY_CHANGE)) == Counter([("new", "newer", 5)])
        assert warnings(caplog) == []

    def test_a_whole_index_is_not_made_again(
        self, daily: FilePipeline, first: Path, second: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        for number in range(2):
            data_file(first, number).unlink()
        assert told(daily.run(second)) == Counter([("new", "new", 3)])
        assert warnings(caplog) == []

    def test_a_key_that_the_filters_of_its_day_left_out_is_admitted_today(
        self, daily: FilePipeline, root: Path
    ) -> None:
        daily.seed(deliver(root, 1, [listed("grows", size=1), listed("large", size=10)]), filters=Filters(min_size=10))
        lose_all(index_of(daily))
        second = deliver(root, 2, [listed("grows", size=11), listed("large", size=10)])
        messages = daily.run(second, filters=Filters(min_size=10), changes=EVERY_CHANGE)
        assert told(messages) == Counter([("new", "grows", 11)])
        assert daily.report.counts["newly_admitted"] == 1

    def test_filters_that_changed_since_admit_nothing_old(self, daily: FilePipeline, root: Path) -> None:
        daily.seed(deliver(root, 1, objects("a.json", "a.tmp")), filters=Filters(suffix=".json"))
        lose_all(index_of(daily))
        assert keys(daily.run(deliver(root, 2, objects("a.json", "a.tmp", "b.tmp")))) == Counter(["b.tmp"])

    @pytest.mark.parametrize("lost", [False, True])
    def test_ages_in_the_filters_count_back_from_the_time_of_the_run_that_made_it(
        self, daily: FilePipeline, root: Path, clock: Clock, *, lost: bool
    ) -> None:
        filters = Filters(modified_before=Moment("1d"))
        clock.now = DAY_1 + timedelta(hours=5)
        old, young = (listed(key, last_modified_date=clock.now - age) for key, age in OLD_AND_YOUNG.items())
        daily.seed(deliver(root, 1, [old, young]), filters=filters)
        if lost:
            lose_all(index_of(daily))
        clock.now += timedelta(hours=20)
        newest = listed("newest", last_modified_date=clock.now - timedelta(hours=1))
        second = deliver(root, 2, [old, young, newest])
        assert keys(daily.run(second, filters=filters)) == Counter(["young"])
        assert daily.report.counts["newly_admitted"] == 1
        clock.now += timedelta(days=1)
        assert keys(daily.run(deliver(root, 3, [young, newest, old]), filters=filters)) == Counter(["newest"])
        clock.now += timedelta(days=1)
        assert daily.run(deliver(root, 4, [young, old, newest]), filters=filters) == []

    @pytest.mark.parametrize("gone", [0, 1])
    def test_where_a_data_file_is_gone_too_the_error_names_the_ways_on(
        self, daily: FilePipeline, first: Path, second: Path, gone: int
    ) -> None:
        lose_all(index_of(daily))
        data_file(first, gone).unlink()
        error = refused(daily, second)
        assert (type(error), error.exit_code) == (InventoryUnavailableError, 6)
        assert "--previous" in error.message
        assert "--first-run" in error.message
        assert str(first) in str(error)

    def test_both_ways_on_lead_on(self, daily: FilePipeline, root: Path, first: Path, second: Path) -> None:
        copy = deliver(root / "copy", 1, objects(*self.BEFORE))
        lose_all(index_of(daily))
        data_file(first).unlink()
        refused(daily, second)
        assert told(daily.run(second, previous=copy, changes=EVERY_CHANGE)) == self.EXPECTED
        assert keys(daily.run(deliver(root, 3, objects(*self.TODAY, "x.tmp", "c")))) == Counter("c")
        daily.seed(second, pipeline="another")

    def test_where_the_manifest_was_overwritten_its_copy_is_enough(
        self, daily: FilePipeline, first: Path, second: Path
    ) -> None:
        lose_meta(index_of(daily))
        data = json.loads(first.read_bytes())
        data["files"] = []
        deliveries.write_manifest(first, json.dumps(data).encode())
        assert told(daily.run(second, changes=EVERY_CHANGE)) == self.EXPECTED

    def test_where_the_copy_is_gone_too_nothing_is_sent(self, daily: FilePipeline, first: Path, second: Path) -> None:
        lose_all(index_of(daily))
        data = json.loads(first.read_bytes())
        data["files"].pop()
        deliveries.write_manifest(first, json.dumps(data).encode())
        error = refused(daily, second, changes=EVERY_CHANGE)
        assert (type(error), error.exit_code) == (InventoryUnavailableError, 6)
        assert "overwritten" in error.message
        assert "--previous" in error.message
        assert str(first) in str(error)

    @pytest.mark.parametrize(
        "lose", [lambda manifest: manifest.unlink(), lambda manifest: checksum_file(manifest).unlink()]
    )
    def test_where_the_manifest_is_gone_nothing_is_sent(
        self, daily: FilePipeline, first: Path, second: Path, lose: Callable[[Path], None]
    ) -> None:
        lose_all(index_of(daily))
        lose(first)
        error = refused(daily, second)
        assert (type(error), error.exit_code) == (InventoryUnavailableError, 6)
        assert "--previous" in error.message

    @pytest.mark.parametrize("position", [0.1, 0.5, 0.6, 0.9])
    def test_a_part_with_another_byte_in_it_sends_nothing(
        self, daily: FilePipeline, root: Path, position: float
    ) -> None:
        rows = objects(*(f"k/{number}" for number in range(1000)))
        daily.seed(deliver(root, 1, rows), sizes=Sizes(partition_bits=0))
        (part,) = index_of(daily).glob("*.arrow")
        content = bytearray(part.read_bytes())
        content[int(len(content) * position)] ^= 0x10
        part.write_bytes(content)
        error = refused(daily, deliver(root, 2, [*rows, listed("new")]))
        assert error.exit_code == 7
        assert str(part) in str(error)

    def test_a_run_that_made_it_again_and_stopped_goes_on(
        self, daily: FilePipeline, first: Path, second: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert first.exists()
        lose_all(index_of(daily))
        options: dict[str, Any] = {"changes": EVERY_CHANGE, "sizes": ONE_FILE_EACH}
        with stopped_before_anything_is_sent(monkeypatch), pytest.raises(StoppedError):
            daily.run(second, **options)
        assert told(daily.run(second, **options)) == self.EXPECTED

    def test_a_dry_run_makes_it_again_in_scratch_space(self, daily: FilePipeline, first: Path, second: Path) -> None:
        assert first.exists()
        lose_all(index_of(daily))
        before = tree(daily.home)
        assert daily.run(second, dry_run=True, changes=EVERY_CHANGE) == []
        assert daily.report.counts["selected"] == self.EXPECTED.total()
        assert tree(daily.home) == before

    @pytest.mark.parametrize(
        "lose",
        [
            lose_meta,
            lose_all,
        ],
    )
    def test_the_report_still_names_the_baseline(
        self, daily: FilePipeline, first: Path, second: Path, lose: Callable[[Path], None]
    ) -> None:
        lose(index_of(daily))
        daily.run(second)
        assert daily.report.baseline is not None
        assert daily.report.baseline["manifest"] == str(first)

    def test_a_damaged_copy_of_the_manifest_is_as_good_as_none(
        self, daily: FilePipeline, first: Path, second: Path
    ) -> None:
        assert first.exists()
        (index_of(daily) / "manifest.json").write_text("{", encoding="ascii")
        assert told(daily.run(second, changes=EVERY_CHANGE)) == self.EXPECTED


OLD_AND_YOUNG: Final = {"old": timedelta(hours=30), "young": timedelta(hours=10)}


def stop(*_: object) -> None:
    raise StoppedError("stopped by the test")


@contextmanager
def stopped_before_anything_is_sent(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setattr(JsonLinesFileSink, "begin", stop)
        yield


@contextmanager
def stopped_before_the_commit(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Everything is sent and recorded."""
    with monkeypatch.context() as patch:
        patch.setattr("inventory_enqueue.execution.check_sent", stop)
        yield


def listed(key: str, **values: Any) -> Row:  # noqa: ANN401 - a value of any column
    return {
        "bucket": SOURCE,
        "key": key,
        "size": len(key),
        "last_modified_date": DAY_1 - timedelta(hours=1),
        "e_tag": data_files.md5(key.encode()),
        "storage_class": "STANDARD",
        **values,
    }


def objects(*names: str) -> list[Row]:
    return [listed(name) for name in names]


def deliver(root: Path, day: int, *files: list[Row]) -> Path:
    return deliver_rows(root, day, FileFormat.PARQUET, CURRENT, [[rows] for rows in files])


class Clock:
    """When runs begin."""

    now = datetime(2026, 3, 2, 6, tzinfo=UTC)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    plan_run = planning.plan_run

    def at_that_time(*arguments: Any) -> Any:  # noqa: ANN401 - as plan_run
        return replace(plan_run(*arguments), created=clock.now)

    monkeypatch.setattr("inventory_enqueue.pipeline.plan_run", at_that_time)
    return clock


class TestAgesWithANamedPreviousDelivery:
    """Nobody knows when it was filtered: ages go back from as long before the run as it is before this delivery."""

    @pytest.mark.parametrize("hours_after_the_delivery", [0, 5, 240])
    def test_a_key_that_was_too_young_then_is_sent_and_one_that_was_not_is_not(
        self, daily: FilePipeline, root: Path, clock: Clock, hours_after_the_delivery: int
    ) -> None:
        delay = timedelta(hours=hours_after_the_delivery)
        clock.now = DAY_1 + timedelta(days=1) + delay
        then = DAY_1 + delay
        rows = [
            listed("old then", last_modified_date=then - timedelta(hours=24, milliseconds=1)),
            listed("a day old", last_modified_date=then - timedelta(hours=24)),
            listed("young then", last_modified_date=then - timedelta(hours=1)),
            listed("young now", last_modified_date=clock.now - timedelta(hours=24)),
        ]
        added = [
            listed("new and old", last_modified_date=clock.now - timedelta(hours=25)),
            listed("new and young", last_modified_date=clock.now - timedelta(hours=23)),
        ]
        first, second = deliver(root, 1, rows), deliver(root, 2, [*rows, *added])
        messages = daily.run(second, previous=first, filters=Filters(modified_before=Moment("1d")))
        assert keys(messages) == Counter(["a day old", "young then", "new and old"])
        assert daily.report.counts["newly_admitted"] == 2

    def test_a_key_that_is_too_old_now_was_admitted_then(self, daily: FilePipeline, root: Path, clock: Clock) -> None:
        clock.now = DAY_1 + timedelta(days=1)
        ages = [listed(f"{hours} h", last_modified_date=DAY_1 - timedelta(hours=hours)) for hours in (1, 23, 25)]
        first, second = deliver(root, 1, ages), deliver(root, 2, [listed("new", last_modified_date=DAY_1)])
        filters = Filters(modified_after=Moment("1d"))
        options: dict[str, Any] = {"previous": first, "filters": filters, "changes": EVERY_CHANGE, "max_shrink": 1}
        assert keys(daily.run(second, **options)) == Counter(["1 h", "23 h"])
        assert {message["change"] for message in daily.messages()} == {"deleted"}


def baseline(verb: str, *arguments: str | Path, state: Path, answer: str | None = None) -> Result:
    command = ["baseline", verb, *map(str, arguments), "--state", str(state)]
    return CliRunner().invoke(cli, command, input=answer)


class TestTheVerbs:
    @pytest.fixture
    def days(self, root: Path) -> list[Path]:
        return [
            deliver(root, 1, objects("a")),
            deliver(root, 2, objects("a", "b")),
            deliver(root, 3, objects("a", "b", "c")),
        ]

    @pytest.fixture
    def state(self, daily: FilePipeline) -> Path:
        return daily.home.parent

    @pytest.fixture
    def work(self, tmp_path: Path) -> list[str]:
        return ["--work-dir", str(tmp_path / "work")]

    def test_show_tells_of_the_delivery_that_was_committed(
        self, daily: FilePipeline, days: list[Path], state: Path
    ) -> None:
        daily.seed(days[0])
        daily.run(days[1])
        shown = baseline("show", state=state)
        assert shown.exit_code == 0
        assert daily.report.run_id is not None
        for part in ("pipeline   p\n", str(days[1]), "2026-03-03T01:00:00.000Z", SOURCE, "2 keys", daily.report.run_id):
            assert part in shown.stdout
        as_json = baseline("show", "--json", "--pipeline", "p", state=state)
        assert json.loads(as_json.stdout) == {
            name: value for name, value in json.loads(daily.baseline() or b"").items() if name != "format_version"
        }
        assert json.loads(as_json.stdout)["manifest_uri"] == str(days[1])

    def test_show_changes_nothing(self, daily: FilePipeline, days: list[Path], state: Path) -> None:
        daily.seed(days[0])
        before = tree(state)
        baseline("show", state=state)
        assert tree(state) == before

    def test_without_a_baseline_there_is_nothing_to_show(
        self, daily: FilePipeline, days: list[Path], state: Path
    ) -> None:
        assert baseline("show", state=state).exit_code == 6
        daily.run(days[0], replay=True)
        shown = baseline("show", state=state)
        assert (shown.exit_code, shown.stdout) == (6, "")
        assert "no baseline" in shown.stderr

    def test_set_backward_sends_the_days_in_between_again(
        self, daily: FilePipeline, days: list[Path], state: Path, work: list[str]
    ) -> None:
        daily.seed(days[0])
        assert keys(daily.run(days[2])) == Counter("bc")
        messages = daily.messages()
        moved = baseline("set", days[1], *work, state=state)
        assert moved.exit_code == 0, moved.output
        assert daily.messages() == messages
        assert str(days[1]) in baseline("show", state=state).stdout
        assert keys(daily.run(days[2])) == Counter("c")
        assert daily.run(days[2]) == []

    def test_set_forward_leaves_the_days_in_between_out(
        self, daily: FilePipeline, root: Path, days: list[Path], state: Path, work: list[str]
    ) -> None:
        daily.seed(days[0])
        assert baseline("set", days[2], "--pipeline", "p", *work, state=state).exit_code == 0
        assert daily.run(days[1]) == []
        assert daily.report.status is Status.NOTHING_NEW
        assert keys(daily.run(deliver(root, 4, objects("a", "b", "c", "d")))) == Counter("d")
        assert len(list((daily.home / "indexes").iterdir())) == 1

    def test_set_makes_a_pipeline_that_is_named(
        self, daily: FilePipeline, days: list[Path], state: Path, work: list[str]
    ) -> None:
        assert baseline("set", days[0], *work, state=state).exit_code == 6
        assert baseline("set", days[0], "--pipeline", "p", *work, state=state).exit_code == 0
        assert keys(daily.run(days[1])) == Counter("b")

    def test_set_remembers_what_the_filters_left_out(
        self, daily: FilePipeline, root: Path, state: Path, work: list[str]
    ) -> None:
        filters = Filters(min_size=10)
        first = deliver(root, 1, [listed("grows", size=1), listed("large", size=10)])
        assert baseline("set", first, "--pipeline", "p", "--min-size", "10", *work, state=state).exit_code == 0
        second = deliver(root, 2, [listed("grows", size=11), listed("large", size=10)])
        assert keys(daily.run(second, filters=filters)) == Counter(["grows"])

    def test_set_is_refused_while_a_run_is_unfinished(
        self,
        daily: FilePipeline,
        days: list[Path],
        state: Path,
        work: list[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        daily.seed(days[0])
        with stopped_before_anything_is_sent(monkeypatch), pytest.raises(StoppedError):
            daily.run(days[1])
        before = daily.baseline()
        result = baseline("set", days[2], *work, state=state)
        assert result.exit_code == 9
        assert "unfinished" in result.stderr
        assert daily.baseline() == before
        assert keys(daily.run(days[1])) == Counter("b")
        assert baseline("set", days[2], *work, state=state).exit_code == 0

    def test_set_to_what_is_not_there_or_damaged_moves_nothing(
        self, daily: FilePipeline, days: list[Path], state: Path, work: list[str]
    ) -> None:
        daily.seed(days[0])
        before = daily.baseline()
        assert baseline("set", days[0].parent / "nowhere" / "manifest.json", *work, state=state).exit_code == 6
        data_file(days[1]).write_bytes(b"damaged")
        assert baseline("set", days[1], *work, state=state).exit_code == 7
        assert daily.baseline() == before
        assert keys(daily.run(days[2])) == Counter("bc"), "and the next run isn't in the way of the damaged one"

    def test_after_a_set_that_failed_the_same_command_or_another_set_works(
        self, daily: FilePipeline, days: list[Path], state: Path, work: list[str]
    ) -> None:
        daily.seed(days[0])
        path = data_file(days[1])
        content = path.read_bytes()
        path.write_bytes(b"damaged")
        assert baseline("set", days[1], *work, state=state).exit_code == 7
        path.write_bytes(content)
        result = baseline("set", days[1], *work, state=state)
        assert result.exit_code == 0, result.output
        assert keys(daily.run(days[2])) == Counter("c")

    def test_drop_makes_the_next_run_a_first_one(self, daily: FilePipeline, days: list[Path], state: Path) -> None:
        daily.seed(days[0])
        assert baseline("drop", "--yes", state=state).exit_code == 0
        assert daily.baseline() is None
        assert baseline("show", state=state).exit_code == 6
        error = refused(daily, days[1])
        assert error.exit_code == 9
        assert "--first-run" in error.message
        assert len(list((daily.home / "runs").iterdir())) == 1, "what was done stays known"
        assert keys(daily.everything(days[1])) == Counter("ab")

    @pytest.mark.parametrize("answer", ["n\n", "\n", ""])
    def test_drop_asks(self, daily: FilePipeline, days: list[Path], state: Path, answer: str) -> None:
        daily.seed(days[0])
        before = tree(state)
        assert baseline("drop", state=state, answer=answer).exit_code == 1
        assert tree(state) == before
        assert baseline("drop", state=state, answer="y\n").exit_code == 0
        assert daily.baseline() is None

    def test_drop_is_refused_while_a_run_is_unfinished(
        self, daily: FilePipeline, days: list[Path], state: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        daily.seed(days[0])
        with stopped_before_the_commit(monkeypatch), pytest.raises(StoppedError):
            daily.run(days[1])
        assert keys(daily.messages()) == Counter("b")
        before = daily.baseline()
        assert baseline("drop", "--yes", state=state).exit_code == 9
        assert daily.baseline() == before
        assert daily.run(days[1]) == []
        assert daily.report.status is Status.COMMITTED

    @pytest.mark.parametrize("verb", ["show", "drop", "set"])
    def test_of_several_pipelines_one_must_be_named(
        self, daily: FilePipeline, days: list[Path], state: Path, work: list[str], verb: str
    ) -> None:
        for name in ("p", "q"):
            daily.seed(days[0], pipeline=name)
        more: list[str] = {"show": [], "drop": ["--yes"], "set": [str(days[1]), *work]}[verb]
        before = tree(state)
        result = baseline(verb, *more, state=state)
        assert result.exit_code == 6
        assert "p, q" in result.stderr
        assert "--pipeline" in result.stderr
        assert tree(state) == before
        assert baseline(verb, *more, "--pipeline", "q", state=state).exit_code == 0
        kept = {name: content for name, content in tree(state).items() if name.startswith("p/")}
        assert kept == {name: content for name, content in before.items() if name.startswith("p/")}

    @pytest.mark.parametrize("name", ["nowhere", "../p", "../state/p", "./p", "p/", ".", pytest.param("/", id="root")])
    @pytest.mark.parametrize("verb", ["show", "drop"])
    def test_a_name_that_is_no_pipelines_is_refused(
        self, daily: FilePipeline, days: list[Path], state: Path, verb: str, name: str
    ) -> None:
        daily.seed(days[0])
        assert_refused_and_unchanged(verb, name, state)

    @pytest.mark.parametrize("name", ["..", ""])
    @pytest.mark.parametrize("verb", ["show", "drop"])
    def test_so_is_one_that_is_another_folders(
        self, daily: FilePipeline, days: list[Path], state: Path, verb: str, name: str
    ) -> None:
        daily.seed(days[0])
        (state.parent / "baseline.json").write_bytes(daily.baseline() or b"")
        assert_refused_and_unchanged(verb, name, state)

    @pytest.mark.parametrize("name", ["../p", "..", ".", "/p", "a/b"])
    def test_set_makes_no_pipeline_outside_the_state(
        self, daily: FilePipeline, days: list[Path], state: Path, work: list[str], name: str
    ) -> None:
        daily.seed(days[0])
        before = tree(state.parent)
        assert baseline("set", days[1], "--pipeline", name, *work, state=state).exit_code in {2, 6}
        assert tree(state.parent) == before


def assert_refused_and_unchanged(verb: str, name: str, state: Path) -> None:
    before = tree(state.parent)
    result = baseline(verb, *(["--yes"] if verb == "drop" else []), "--pipeline", name, state=state)
    assert tree(state.parent) == before
    assert result.exit_code == 6
    assert f"{name!r}" in result.stderr
