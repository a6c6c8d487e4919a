"""Filters: each condition against plain Python, their order, and what they mean from one day to the next."""

import json
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inventory_enqueue.config import FirstRun, JsonLinesFile, MessageFormat, RunConfig
from inventory_enqueue.delivery.writing import InventoryConfig, write_delivery
from inventory_enqueue.demo.odd_keys import ODD_KEYS
from inventory_enqueue.filters import Filters, Moment, Pattern
from inventory_enqueue.pipeline import run
from inventory_enqueue.report import RunReport
from tests.support import deliveries

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
SCHEMA: dict[str, type[pl.DataType] | pl.DataType] = {
    "key": pl.String,
    "size": pl.Int64,
    "last_modified_date": pl.Datetime("ms", "UTC"),
    "storage_class": pl.String,
    "intelligent_tiering_access_tier": pl.String,
}
OBJECT = {
    "key": "a/b.json",
    "size": 10,
    "last_modified_date": NOW - timedelta(days=1),
    "storage_class": "STANDARD",
    "intelligent_tiering_access_tier": None,
}


def failed(filters: Filters, **values: object) -> list[str]:
    """The names of the conditions that an object fails."""
    frame = pl.DataFrame([{**OBJECT, **values}], schema=SCHEMA)
    verdicts = frame.select(**filters.conditions(NOW)).row(0, named=True) if filters.conditions(NOW) else {}
    assert None not in verdicts.values()
    return [name for name, passed in verdicts.items() if not passed]


@pytest.mark.parametrize(
    ("filters", "values", "fails"),
    [
        (Filters(), {}, []),
        (Filters(), {"storage_class": "GLACIER"}, ["archived"]),
        (Filters(), {"storage_class": "DEEP_ARCHIVE"}, ["archived"]),
        (Filters(), {"storage_class": "GLACIER_IR"}, []),
        (Filters(), {"storage_class": None}, []),
        (Filters(), {"intelligent_tiering_access_tier": "DEEP_ARCHIVE"}, ["archived"]),
        (Filters(), {"intelligent_tiering_access_tier": "ARCHIVE_INSTANT_ACCESS"}, []),
        (Filters(include_archived=True), {"storage_class": "GLACIER"}, []),
        (Filters(prefix="a/"), {}, []),
        (Filters(prefix="b/"), {}, ["prefix"]),
        (Filters(suffix=".json"), {}, []),
        (Filters(suffix=".JSON"), {}, ["suffix"]),
        (Filters(min_size=10, max_size=10), {}, []),
        (Filters(min_size=11), {}, ["min_size"]),
        (Filters(max_size=9), {}, ["max_size"]),
        (Filters(min_size=0), {"size": None}, ["min_size"]),
        (Filters(modified_after=Moment("2026-11-23")), {}, []),
        (Filters(modified_after=Moment("24h")), {}, ["modified_after"]),
        (Filters(modified_after=Moment("25h")), {}, []),
        (Filters(modified_before=Moment("2026-11-23T13:00:00+01:00")), {}, ["modified_before"]),
        (Filters(modified_before=Moment("23h")), {}, []),
        (Filters(modified_before=Moment("1d")), {"last_modified_date": None}, ["modified_before"]),
        (Filters(storage_classes=("STANDARD", "STANDARD_IA")), {"storage_class": None}, []),
        (Filters(storage_classes=("STANDARD_IA",)), {}, ["storage_class"]),
        (Filters(exclude_storage_classes=("STANDARD",)), {"storage_class": None}, ["exclude_storage_class"]),
    ],
)
def test_each_condition(filters: Filters, values: dict[str, object], fails: list[str]) -> None:
    assert failed(filters, **values) == fails


def patterns(*texts: str) -> tuple[Pattern, ...]:
    return tuple(Pattern(text[1:], include=text[0] == "+") for text in texts)


@pytest.mark.parametrize(
    ("rules", "key", "admitted"),
    [
        (("-*.tmp",), "a/x.tmp", False),
        (("-*.tmp",), "a/x.json", True),
        (("+*.json",), "a/x.json", True),
        (("+*.json",), "a/x.tmp", False),
        (("-*", "+*.json"), "a/x.json", True),
        (("+*.json", "-*"), "a/x.json", False),
        (("-*", "+a/*", "-a/b/*"), "a/b/c", False),
        (("-*", "+a/*", "-a/b/*"), "a/c", True),
    ],
)
def test_the_last_pattern_that_matches_decides(rules: tuple[str, ...], key: str, *, admitted: bool) -> None:
    assert (failed(Filters(patterns=patterns(*rules)), key=key) == []) is admitted


globs = st.text(st.sampled_from("ab*?/[!]-^.\\&~|(){}+$é\n"), max_size=8)


@given(globs, st.one_of(st.text("ab/[!]-^.\\&~|(){}+$é\n", max_size=8), st.sampled_from(ODD_KEYS)))
@settings(max_examples=500)
def test_globs_match_as_pythons_fnmatch_does(glob: str, key: str) -> None:
    frame = pl.DataFrame({"key": [key]})
    assert frame.select(Pattern(glob, include=True).matches()).item() is fnmatchcase(key, glob)


def test_a_filter_survives_its_json_and_ages_stay_as_they_were_written() -> None:
    filters = Filters("p", "s", patterns("+a", "-b"), 1, 2, Moment("1d"), Moment("2026-01-01"), ("X",), ("Y",))
    assert Filters.from_json(json.loads(json.dumps(filters.to_json()))) == filters
    assert filters.to_json()["modified_after"] == {"text": "1d"}


def test_only_the_columns_that_conditions_name_are_read() -> None:
    assert Filters(include_archived=True).columns() == ()
    assert set(Filters(min_size=1).columns()) == {"size", "storage_class", "intelligent_tiering_access_tier"}


@pytest.mark.parametrize("text", ["", "yesterday", "1", "-1d", "2026-13-01", "1y"])
def test_a_moment_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="a date, a time"):
        Moment(text)


class Bucket:
    """Days of one small bucket, through the whole pipeline."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.day = 0

    def next_day(
        self, objects: dict[str, int], filters: Filters, *, send_admitted: bool = False
    ) -> tuple[RunReport, set[str]]:
        """Commits a delivery of these keys and sizes; returns the report and the keys sent."""
        self.day += 1
        output = self.folder / f"{self.day}.jsonl"
        rows = deliveries.rows(objects)
        rows = rows.set_column(rows.schema.get_field_index("size"), "size", pa.array(objects.values(), pa.int64()))
        created = deliveries.DAY_1 + timedelta(days=self.day)
        inventory = InventoryConfig(deliveries.SOURCE, "inventory")
        delivery = write_delivery(self.folder / "bucket", inventory, created, [[rows]], seed=self.day)
        config = RunConfig(
            manifest=delivery.manifest,
            sink=JsonLinesFile(output),
            state=self.folder / "state",
            pipeline="one",
            first_run=FirstRun.SEED,
            filters=filters,
            send_admitted=send_admitted,
            message_format=MessageFormat.JSON,
            work_dir=self.folder / "work",
        )
        report = run(config)
        lines = output.read_text(encoding="ascii").splitlines() if output.exists() else []
        return report, {json.loads(line)["key"] for line in lines}


def test_a_changed_filter_never_makes_old_keys_new_and_send_admitted_sends_them(tmp_path: Path) -> None:
    bucket = Bucket(tmp_path)
    objects = {"a.json": 1, "a.tmp": 1}
    bucket.next_day(objects, Filters(suffix=".json"))
    objects |= {"b.json": 1, "b.tmp": 1}
    report, sent = bucket.next_day(objects, Filters(suffix=".json"))
    assert (sent, report.counts["filtered"]["suffix"]) == ({"b.json"}, 2)
    report, sent = bucket.next_day(objects | {"c.tmp": 1}, Filters())
    assert (sent, report.counts["newly_admitted"]) == ({"c.tmp"}, 2)
    bucket.next_day(objects, Filters(suffix=".json"))
    report, sent = bucket.next_day(objects, Filters(), send_admitted=True)
    assert sent == {"a.tmp", "b.tmp"}


def test_a_key_that_the_same_filter_admits_only_now_is_sent_as_new(tmp_path: Path) -> None:
    bucket = Bucket(tmp_path)
    filters = Filters(min_size=10)
    bucket.next_day({"grows": 1, "large": 10}, filters)
    report, sent = bucket.next_day({"grows": 12, "large": 10}, filters)
    assert (sent, report.counts["newly_admitted"]) == ({"grows"}, 1)
    report, sent = bucket.next_day({"grows": 12, "large": 10}, filters)
    assert (sent, report.counts["unchanged"]) == (set(), 2)
