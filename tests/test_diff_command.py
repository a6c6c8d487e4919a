"""`diff OLD NEW`: what changed between two deliveries, line by line or counted by prefix, and nothing left behind."""

from __future__ import annotations

import json
import os
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from click.testing import CliRunner

from inventory_enqueue.cli.main import cli
from inventory_enqueue.demo.odd_keys import ODD_KEYS
from inventory_enqueue.manifest import FileFormat
from tests.support import data_files
from tests.support.cli import run_cli
from tests.support.data_files import Row, deliver_rows
from tests.support.deliveries import DAY_1, SOURCE, data_file, flip, tree
from tests.support.listing import CURRENT, VERSIONED, listed, objects

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from click.testing import Result

LATER: Final = DAY_1 + timedelta(hours=1, milliseconds=45)
WRITTEN_TEXT: Final = "2026-03-02T00:00:00.000Z"
LATER_TEXT: Final = "2026-03-02T02:00:00.045Z"
MEMBERS: Final = ["change", "bucket", "key", "version_id", "size", "e_tag", "last_modified", "previous"]

Line = dict[str, Any]


@pytest.fixture(autouse=True)
def nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever the command does: no state, an empty work folder."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg cache"))
    yield
    assert not (tmp_path / "xdg state").exists()
    assert not (tmp_path / "xdg cache").exists()
    assert tree(tmp_path / "work") == {}


def version(key: str, version_id: str | None, **values: Any) -> Row:  # noqa: ANN401 - a value of any column
    content = data_files.md5(f"{key} {version_id}".encode())
    return listed(key, version_id=version_id, is_latest=True, is_delete_marker=False, e_tag=content) | values


def deliver(
    root: Path,
    day: int,
    *files: Sequence[Row],
    columns: Sequence[str] = CURRENT,
    file_format: FileFormat = FileFormat.PARQUET,
) -> Path:
    """Write a delivery whose files have two row groups, stripes or gzip members."""
    halves = [[list(rows[: len(rows) // 2]), list(rows[len(rows) // 2 :])] for rows in files]
    return deliver_rows(root, day, file_format, columns, halves)


def diff(*arguments: str | Path) -> Result:
    """Run `diff` with these arguments, in this process."""
    work = Path(os.environ["XDG_STATE_HOME"]).with_name("work")
    return CliRunner().invoke(cli, ["diff", *map(str, arguments), "--work-dir", str(work)])


def lines(*arguments: str | Path) -> list[Line]:
    """Run it to its good end and parse what it prints."""
    result = diff(*arguments)
    assert result.exit_code == 0, result.output
    printed = result.stdout_bytes.decode()
    assert not printed or printed.endswith("\n")
    # Only a newline ends a line: keys may hold what str.splitlines() takes for one.
    return [json.loads(line) for line in printed.split("\n")[:-1]]


def named(changes: Iterable[Line]) -> Counter[tuple[str, str]]:
    return Counter((line["change"], line["key"]) for line in changes)


class TestLines:
    def test_a_line_of_each_kind_says_all_that_is_known(self, root: Path) -> None:
        old = deliver(root, 1, objects("changes", "goes", "stays"))
        changed = listed("changes", size=99, e_tag="x-2", last_modified_date=LATER)
        new = deliver(root, 2, [listed("stays"), changed, listed("comes", size=0, last_modified_date=LATER)])
        found = lines(old, new)
        assert [list(line) for line in found] == [MEMBERS] * 3
        assert {line["key"]: line for line in found} == {
            "comes": {
                "change": "new",
                "bucket": SOURCE,
                "key": "comes",
                "version_id": None,
                "size": 0,
                "e_tag": data_files.md5(b"comes"),
                "last_modified": LATER_TEXT,
                "previous": None,
            },
            "changes": {
                "change": "changed",
                "bucket": SOURCE,
                "key": "changes",
                "version_id": None,
                "size": 99,
                "e_tag": "x-2",
                "last_modified": LATER_TEXT,
                "previous": {"size": 7, "e_tag": data_files.md5(b"changes"), "last_modified": WRITTEN_TEXT},
            },
            "goes": {
                "change": "deleted",
                "bucket": SOURCE,
                "key": "goes",
                "version_id": None,
                "size": 4,
                "e_tag": data_files.md5(b"goes"),
                "last_modified": WRITTEN_TEXT,
                "previous": None,
            },
        }

    @pytest.mark.parametrize("file_format", list(FileFormat))
    def test_odd_keys_come_out_as_they_are(self, root: Path, file_format: FileFormat) -> None:
        before = objects(*ODD_KEYS[::2])
        gone, changed = before[::2], before[1::2]
        added = objects(*ODD_KEYS[1::2])
        today = [row | {"e_tag": "another", "size": 10_000} for row in changed] + added
        old = deliver(root, 1, before[:20], before[20:], file_format=file_format)
        found = lines(old, deliver(root, 2, today[30:], today[:30], file_format=file_format), "--quiet")
        expected = Counter(("deleted", row["key"]) for row in gone)
        expected += Counter(("changed", row["key"]) for row in changed)
        expected += Counter(("new", row["key"]) for row in added)
        assert named(found) == expected
        before_of = {line["key"]: line["previous"]["size"] for line in found if line["change"] == "changed"}
        assert before_of == {row["key"]: row["size"] for row in changed}

    @pytest.mark.parametrize("kinds", ["new", "changed", "deleted", "deleted,new"])
    def test_only_the_changes_that_are_asked_for_are_named(self, root: Path, kinds: str) -> None:
        old = deliver(root, 1, objects("changes", "goes", "stays"))
        new = deliver(root, 2, [listed("changes", e_tag="another"), *objects("stays", "comes")])
        every = {"new": "comes", "changed": "changes", "deleted": "goes"}
        found = lines(old, new, "--changes", kinds)
        assert named(found) == Counter((kind, every[kind]) for kind in kinds.split(","))

    def test_every_version_is_named_by_key_and_version(self, root: Path) -> None:
        old = deliver(root, 1, [version("a", "v1"), version("b", None), version("c", "v1")], columns=VERSIONED)
        today = [
            version("a", "v2"),
            version("a", "v1", is_latest=False),
            version("c", "v2", is_delete_marker=True, size=None, e_tag=None),
            version("c", "v1", is_latest=False),
        ]
        new = deliver(root, 2, today, columns=VERSIONED)
        found = lines(old, new, "--versions", "all")
        assert Counter((line["change"], line["key"], line["version_id"]) for line in found) == Counter(
            [("new", "a", "v2"), ("deleted", "b", None)]
        )
        live = lines(old, new)
        assert named(live) == Counter([("changed", "a"), ("deleted", "b"), ("deleted", "c")])

    def test_filters_choose_keys_on_both_sides(self, root: Path) -> None:
        old = deliver(root, 1, objects("logs/goes.json", "logs/goes.tmp", "other/goes.json"))
        new = deliver(root, 2, objects("logs/comes.json", "logs/comes.tmp", "other/comes.json"))
        found = lines(old, new, "--prefix", "logs/", "--suffix", ".json")
        assert named(found) == Counter([("new", "logs/comes.json"), ("deleted", "logs/goes.json")])

    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            (["--exclude", "*", "--include", "*.json"], ["a/x.json", "b/x.json"]),
            (["--include", "*.json", "--exclude", "a/*"], ["b/x.json"]),
            (["--exclude", "*", "--include", "a/*", "--exclude", "*.tmp"], ["a/x.json"]),
        ],
    )
    def test_the_last_pattern_that_matches_decides(self, root: Path, options: list[str], expected: list[str]) -> None:
        new = deliver(root, 2, objects("a/x.json", "a/x.tmp", "b/x.json", "stays"))
        found = lines(deliver(root, 1, objects("stays", "goes")), new, "--changes", "new,changed", *options)
        assert named(found) == Counter(("new", key) for key in expected)

    def test_archived_objects_are_objects(self, root: Path) -> None:
        old = deliver(root, 1, [listed("stays"), *objects("goes", storage_class="GLACIER")])
        new = deliver(root, 2, [listed("stays"), *objects("comes", storage_class="DEEP_ARCHIVE")])
        assert named(lines(old, new)) == Counter([("new", "comes"), ("deleted", "goes")])
        assert named(lines(old, new, "--exclude-storage-class", "GLACIER")) == Counter([("new", "comes")])

    def test_the_order_of_the_deliveries_is_that_of_the_arguments(self, root: Path) -> None:
        first, second = deliver(root, 1, objects("a", "b")), deliver(root, 2, objects("b", "c"))
        assert named(lines(second, first)) == Counter([("new", "a"), ("deleted", "c")])

    def test_columns_that_one_side_lacks_are_null(self, root: Path) -> None:
        old = deliver(root, 1, objects("a", "b"), columns=["bucket", "key", "e_tag"])
        new = deliver(root, 2, objects("b", "c"))
        found = {line["key"]: (line["size"], line["last_modified"]) for line in lines(old, new)}
        assert found == {"a": (None, None), "c": (1, WRITTEN_TEXT)}

    @pytest.mark.parametrize("options", [[], ["--changes", "new"], ["--changes", "changed"], ["--prefix", "none/"]])
    def test_nothing_that_changed_is_no_line(self, root: Path, options: list[str]) -> None:
        rows = objects("a", "b")
        assert lines(deliver(root, 1, rows), deliver(root, 2, rows[::-1]), *options) == []

    def test_from_nothing_all_is_new(self, root: Path) -> None:
        new = deliver(root, 2, objects("a", "b"))
        assert named(lines(empty(root, 1), new)) == Counter([("new", "a"), ("new", "b")])

    def test_to_nothing_all_is_deleted(self, root: Path) -> None:
        old = deliver(root, 1, objects("a", "b"))
        assert named(lines(old, empty(root, 2))) == Counter([("deleted", "a"), ("deleted", "b")])

    def test_the_process_says_on_stderr_what_it_counted_and_nothing_when_quiet(self, root: Path) -> None:
        old, new = deliver(root, 1, objects("a", "b", "c")), deliver(root, 2, objects("c", "d"))
        result = run_cli("diff", old, new, "--work-dir", root.parent / "work")
        assert (result.exit_code, len(result.stdout.splitlines())) == (0, 3)
        assert "1 new, 0 changed, 2 deleted, 1 unchanged" in result.stderr
        quiet = run_cli("diff", old, new, "--work-dir", root.parent / "work", "--quiet")
        assert (quiet.exit_code, quiet.stdout, quiet.stderr) == (0, result.stdout, "")


def empty(root: Path, day: int) -> Path:
    """A delivery without data files."""
    return data_files.deliver(
        root, day, FileFormat.PARQUET, data_files.file_schema(FileFormat.PARQUET, CURRENT), files=[]
    )


class TestErrors:
    @pytest.mark.parametrize("absent", ["old", "new"])
    def test_a_manifest_that_is_not_there(self, root: Path, absent: str) -> None:
        sides = {"old": deliver(root, 1, objects("a")), "new": deliver(root, 2, objects("b"))}
        sides[absent] = root / "nowhere" / "x" / "y" / "manifest.json"
        result = diff(sides["old"], sides["new"])
        assert (result.exit_code, result.stdout) == (6, "")
        assert "nowhere" in result.stderr

    def test_a_delivery_of_another_bucket(self, root: Path) -> None:
        content = data_files.write(FileFormat.PARQUET, CURRENT, [objects("a", bucket="other")])
        schema = data_files.file_schema(FileFormat.PARQUET, CURRENT)
        other = data_files.deliver(root, 1, FileFormat.PARQUET, schema, [content], bucket="other")
        result = diff(other, deliver(root, 2, objects("a")))
        assert (result.exit_code, result.stdout) == (9, "")
        assert "'other'" in result.stderr

    @pytest.mark.parametrize("damaged", [0, 1])
    def test_a_data_file_that_is_damaged(self, root: Path, damaged: int) -> None:
        days = [deliver(root, 1, objects("a", "b")), deliver(root, 2, objects("b", "c"))]
        flip(data_file(days[damaged]), 20)
        result = diff(*days)
        assert (result.exit_code, result.stdout) == (7, "")
        assert "MD5" in result.stderr

    @pytest.mark.parametrize("gone", [0, 1])
    def test_a_data_file_that_is_gone(self, root: Path, gone: int) -> None:
        days = [deliver(root, 1, objects("a", "b")), deliver(root, 2, objects("b", "c"))]
        data_file(days[gone]).unlink()
        result = diff(*days)
        assert (result.exit_code, result.stdout) == (7, "")

    def test_versions_that_are_not_listed(self, root: Path) -> None:
        days = [deliver(root, day, objects("a")) for day in (1, 2)]
        assert diff(*days, "--versions", "all").exit_code == 9

    @pytest.mark.parametrize("options", [["--changes", ""], ["--changes", "moved"], ["--depth", "-1"], ["--top", "0"]])
    def test_options_that_mean_nothing(self, root: Path, options: list[str]) -> None:
        days = [deliver(root, day, objects("a")) for day in (1, 2)]
        assert diff(*days, *options).exit_code == 2


class TestSummary:
    @pytest.fixture
    def days(self, root: Path) -> list[Path]:
        before = objects("a/b/1", "a/b/2", "a/c/1", "top", "z/1")
        changed = listed("a/b/1", e_tag="another", size=50)
        today = [changed, *objects("a/c/1", "a/b/new", "a/d", "b/1", "a//2", "/x", size=1_000)]
        today[1] = before[2]
        return [deliver(root, 1, before[:3], before[3:]), deliver(root, 2, today)]

    @pytest.mark.parametrize(
        ("depth", "expected"),
        [
            ("0", {"": (5, 1, 3, 5_000, 11)}),
            (
                "1",
                {
                    "a/": (3, 1, 1, 3_000, 5),
                    "": (0, 0, 1, 0, 3),
                    "z/": (0, 0, 1, 0, 3),
                    "b/": (1, 0, 0, 1_000, 0),
                    "/": (1, 0, 0, 1_000, 0),
                },
            ),
            (
                "2",
                {
                    "a/b/": (1, 1, 1, 1_000, 5),
                    "a/": (1, 0, 0, 1_000, 0),
                    "a//": (1, 0, 0, 1_000, 0),
                    "": (0, 0, 1, 0, 3),
                    "z/": (0, 0, 1, 0, 3),
                    "b/": (1, 0, 0, 1_000, 0),
                    "/": (1, 0, 0, 1_000, 0),
                },
            ),
        ],
    )
    def test_changes_are_counted_by_the_prefix_of_a_depth(
        self, days: list[Path], depth: str, expected: dict[str, tuple[int, ...]]
    ) -> None:
        found = lines(*days, "--summary", "--json", "--depth", depth)
        assert [list(line) for line in found] == [
            ["prefix", "new", "changed", "deleted", "new_bytes", "deleted_bytes"]
        ] * len(found)
        assert {line["prefix"]: tuple(line.values())[1:] for line in found} == expected
        assert len(found) == len(expected)
        totals = [line["new"] + line["changed"] + line["deleted"] for line in found]
        assert totals == sorted(totals, reverse=True)

    def test_the_table_names_the_prefixes_with_the_most_changes(self, days: list[Path]) -> None:
        result = diff(*days, "--summary", "--quiet")
        heading, first, *rest = result.stdout.splitlines()
        assert heading.split("  ")[0] == "prefix"
        assert first.split() == ["a/", "3", "1", "1", "3,000", "5"]
        assert [row.split()[0] for row in rest[:-1]] == ["(no", "/", "b/", "z/"]
        assert rest[-1].split() == ["(all)", "5", "1", "3", "5,000", "11"]

    def test_the_others_are_one_row_beyond_the_top(self, days: list[Path]) -> None:
        result = diff(*days, "--summary", "--top", "1")
        rows = [row.split() for row in result.stdout.splitlines()[1:]]
        assert rows == [
            ["a/", "3", "1", "1", "3,000", "5"],
            ["(4", "others)", "2", "0", "2", "2,000", "6"],
            ["(all)", "5", "1", "3", "5,000", "11"],
        ]
        assert len(lines(*days, "--summary", "--top", "1", "--json")) == 5, "JSON Lines have all of them"

    def test_filters_and_changes_hold_for_the_sums_too(self, days: list[Path]) -> None:
        (found,) = lines(*days, "--summary", "--json", "--prefix", "a/", "--changes", "new")
        assert found == {
            "prefix": "a/",
            "new": 3,
            "changed": 0,
            "deleted": 0,
            "new_bytes": 3_000,
            "deleted_bytes": 0,
        }

    def test_nothing_that_changed_is_a_table_of_zeros(self, root: Path) -> None:
        days = [deliver(root, day, objects("a", "b")) for day in (1, 2)]
        result = diff(*days, "--summary")
        assert result.exit_code == 0, result.output
        assert result.stdout.splitlines()[-1].split() == ["(all)", "0", "0", "0", "0", "0"]

    def test_a_depth_beyond_any_key_counts_each_folder(self, days: list[Path]) -> None:
        found = lines(*days, "--summary", "--json", "--depth", "100000")
        assert {line["prefix"] for line in found} == {"a/b/", "a/", "a//", "", "z/", "b/", "/"}

    @pytest.mark.parametrize("depth", ["0", "1", "2"])
    def test_no_key_does_things_to_a_terminal(self, root: Path, depth: str) -> None:
        evil = ["\x1b[31m/x", "\r\n/x", "\x07/\x9b2J/x", "\u202eevil/x", "[red]bold[/red]/x", "\u2028/x", "\x7f/x"]
        old = deliver(root, 1, objects("stays"))
        new = deliver(root, 2, objects("stays", *evil, *(f"{key}/x" for key in ODD_KEYS if len(key) < 100)))
        result = diff(old, new, "--summary", "--depth", depth, "--top", "1000")
        assert result.exit_code == 0
        table = result.stdout_bytes.decode()
        assert [character for character in table if not character.isprintable() and character != "\n"] == []
        assert len(table.split("\n")) == len(lines(old, new, "--summary", "--json", "--depth", depth)) + 3
        if depth == "1":
            assert "\\x1b[31m/" in table
            assert "\n[red]bold[/" in table
