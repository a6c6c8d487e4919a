"""Random chains of three deliveries, by the stages and by the whole pipeline, against a plain Python oracle."""

from __future__ import annotations

import logging
import os
import shutil
from collections import Counter
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

import polars as pl
import pytest
from hypothesis import HealthCheck, currently_in_test_context, given, note, settings
from hypothesis import strategies as st

from inventory_enqueue import planning
from inventory_enqueue.baseline import Baseline
from inventory_enqueue.config import AwsSettings, Change, FirstRun, JsonLinesFile, RunConfig, Sending, Sizes
from inventory_enqueue.demo.odd_keys import ODD_KEYS
from inventory_enqueue.errors import RefusedError
from inventory_enqueue.filters import VERSION_COLUMNS, Filters, Moment, Pattern
from inventory_enqueue.fingerprints import (
    ADMITTED_BIT,
    FILE_SHIFT,
    FINGERPRINT_SCHEMA,
    Scheme,
    Versions,
    partition,
    row_base,
)
from inventory_enqueue.manifest import FileFormat, InventoryFile, Manifest
from inventory_enqueue.plan import Plan
from inventory_enqueue.report import Status
from inventory_enqueue.run import Delivery, Run, Runtime
from inventory_enqueue.schema import OBJECT_SCHEMA
from inventory_enqueue.stages.diff import CHANGED, DELETED, NEW, NEWLY_ADMITTED, diff
from inventory_enqueue.stages.index import counted_rows, fingerprints
from inventory_enqueue.stores.local import LocalStore
from tests.support import data_files, oracle
from tests.support.deliveries import DAY_1, SOURCE
from tests.support.file_pipeline import FilePipeline
from tests.support.oracle import Entry, Listing, Oracle, Order, Rules

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hypothesis.strategies import DrawFn

SOAK: Final = os.environ.get("SOAK") == "1"

CHAINS_BY_STAGE: Final = 100
CHAINS_BY_PIPELINE: Final = {64: 100, 8: 40}
"""How many random chains, with so many bits kept of h; twenty times as many in a soak."""

SCRATCH: Final = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 - in memory, where there is such a place
OWN_FOLDER: Final = f"{SOURCE}/daily/"
"""Where data_files.deliver puts the inventory's own files."""


def cases(number: int) -> settings:
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    return settings(max_examples=number * 20 if SOAK else number, deadline=None, suppress_health_check=checks)


@pytest.fixture(scope="module", autouse=True)
def no_fsync() -> Iterator[None]:
    """Thousands of small runs needn't survive a power loss."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(scope="module", autouse=True)
def no_logs() -> Iterator[None]:
    """A failing chain would be buried under the warnings of all others."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


# Random chains. All is drawn from few values, so that every kind of duplicate and change occurs again and again.

_KEYS: Final = (
    st.sampled_from(["a", "b", "a/b.json", "logs/x.json", "logs/y.tmp", "logs/", OWN_FOLDER + "data/1-0.parquet"])
    | st.sampled_from(ODD_KEYS)
    | st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
)
_HOURS: Final = [None, *(timedelta(hours=hours, milliseconds=7) for hours in (-900, -30, -20, -2, 10, 20, 30, 44))]
_DATES: Final = [None if hours is None else DAY_1 + hours for hours in _HOURS]
_CLASSES: Final = [None, "STANDARD", "STANDARD", "STANDARD_IA", "GLACIER", "GLACIER_IR", "DEEP_ARCHIVE"]
_TIERS: Final = [None, None, None, None, "FREQUENT", "ARCHIVE_ACCESS", "ARCHIVE_INSTANT_ACCESS", "DEEP_ARCHIVE"]
_CHANGES: Final = [
    frozenset({"new"}),
    frozenset({"new", "changed"}),
    frozenset({"new", "changed", "deleted"}),
    frozenset({"new", "changed", "deleted"}),
    frozenset({"changed"}),
    frozenset({"deleted"}),
]

rules = st.builds(
    Rules,
    prefix=st.sampled_from(["", "", "", "", "a", "logs/", "é"]),
    suffix=st.sampled_from(["", "", "", "", ".json", "x"]),
    patterns=st.lists(
        st.tuples(st.booleans(), st.sampled_from(["*", "*.json", "logs/*", "?", "[a-l]*", "[!a]*", "*\n*", "*/*"])),
        max_size=3,
    ).map(tuple),
    min_size=st.sampled_from([None, None, None, 0, 1]),
    max_size=st.sampled_from([None, None, None, 1]),
    modified_after=st.sampled_from([None, None, None, "1d", "36h", "2026-03-02"]),
    modified_before=st.sampled_from([None, None, None, "1d", "6h", "2026-03-03T00:00:00"]),
    storage_classes=st.sampled_from([(), (), (), ("STANDARD",), ("STANDARD_IA", "GLACIER")]),
    exclude_storage_classes=st.sampled_from([(), (), (), ("STANDARD_IA",), ("STANDARD",)]),
    include_archived=st.booleans(),
)
every_row = st.just(Rules(include_archived=True))


@dataclass(frozen=True)
class Day:
    """A delivery, the command that is given, and how the program is to work."""

    listing: Listing
    order: Order
    file_format: FileFormat
    sizes: Sizes
    loses_index: str
    """Of the day before: whole, a part, or not at all."""
    previous: int | None
    """The number of a day that is named by --previous."""


@dataclass(frozen=True)
class Chain:
    """Three days."""

    all_versions: bool
    skips_first: bool
    """The first delivery is there, but no run reads it as its own."""
    days: tuple[Day, ...]


@st.composite
def chains(draw: DrawFn) -> Chain:
    all_versions = draw(st.booleans())
    keys = draw(st.lists(_KEYS, min_size=1, max_size=5, unique=True))
    entry = st.builds(
        Entry,
        key=st.sampled_from(keys),
        version_id=st.sampled_from([None, "v1", "v2", "null"]),
        is_latest=st.sampled_from([True, True, True, False, None]),
        is_delete_marker=st.sampled_from([False, False, False, True, None]),
        size=st.sampled_from([None, 0, 1, 5]),
        last_modified_date=st.sampled_from(_DATES),
        e_tag=st.sampled_from([None, "", "e1", "e2"]),
        storage_class=st.sampled_from(_CLASSES),
        intelligent_tiering_access_tier=st.sampled_from(_TIERS),
    )
    pool = draw(st.lists(entry, min_size=1, max_size=8))
    rules_pool = draw(st.lists(every_row | rules, min_size=1, max_size=2))
    folder = draw(st.sampled_from([None, None, OWN_FOLDER]))
    days = tuple(draw(_days(number, all_versions, folder, pool, rules_pool)) for number in range(3))
    return Chain(all_versions, draw(st.sampled_from([False, False, False, True])), days)


@st.composite
def _days(  # noqa: PLR0913, PLR0917 - all of it belongs to the chain
    draw: DrawFn,
    number: int,
    all_versions: bool,  # noqa: FBT001 - as above
    folder: str | None,
    pool: list[Entry],
    rules_pool: list[Rules],
) -> Day:
    group = st.lists(st.sampled_from(pool), max_size=6).map(tuple)
    file = st.lists(group, min_size=1, max_size=2).map(tuple)
    # A delivery without files doesn't tell where its own would be.
    files = tuple(draw(st.lists(file, min_size=0 if folder is None else 1, max_size=3)))
    missing = draw(st.just(frozenset()) | st.just(frozenset()) | st.frozensets(st.sampled_from(oracle.OPTIONAL)))
    columns = [*(oracle.VERSIONS if all_versions or draw(st.booleans()) else ()), *oracle.OPTIONAL]
    created = DAY_1 + timedelta(days=number)
    listing = Listing(
        created=created,
        columns=tuple(name for name in columns if name not in missing),
        files=files,
        folder=folder,
    )
    order = Order(
        now=created + timedelta(hours=3 + number),
        rules=draw(st.sampled_from(rules_pool)),
        changes=draw(st.sampled_from(_CHANGES)),
        send_admitted=draw(st.booleans()),
        seeds=draw(st.booleans()),
    )
    sizes = Sizes(
        partition_bits=draw(st.sampled_from([0, 0, 1, 2])),
        bytes_per_batch=draw(st.sampled_from([1, 4000, 1 << 27])),
        rows_per_spill=draw(st.sampled_from([1, 3, 1000])),
        bytes_decoded=draw(st.sampled_from([0, 1 << 27])),
        workers=1,
    )
    previous = draw(st.sampled_from([None, None, None, *range(number)])) if number else None
    loses_index = draw(st.sampled_from(["no", "no", "no", "whole", "part"])) if number else "no"
    return Day(listing, order, draw(st.sampled_from(FileFormat)), sizes, loses_index, previous)


def filters(of: Rules) -> Filters:
    return Filters(
        prefix=of.prefix,
        suffix=of.suffix,
        patterns=tuple(Pattern(glob, include=include) for include, glob in of.patterns),
        min_size=of.min_size,
        max_size=of.max_size,
        modified_after=None if of.modified_after is None else Moment(of.modified_after),
        modified_before=None if of.modified_before is None else Moment(of.modified_before),
        storage_classes=of.storage_classes,
        exclude_storage_classes=of.exclude_storage_classes,
        include_archived=of.include_archived,
    )


# The stages alone: no files, and the index in memory.

_STATE: Final = Path("/nowhere")
_POLARS_SCHEMA: Final = pl.Schema(OBJECT_SCHEMA)
_CODES: Final = {
    NEW: oracle.NEW,
    CHANGED: oracle.CHANGED,
    NEWLY_ADMITTED: oracle.NEWLY_ADMITTED,
    DELETED: oracle.DELETED,
}


class Stages:
    """A chain through the index and diff stages' functions."""

    def __init__(self, chain: Chain, scheme: Scheme) -> None:
        self._chain = chain
        self._scheme = scheme
        self._deliveries = [_delivery(number, day.listing) for number, day in enumerate(chain.days)]
        self._baseline: int | None = None
        self._index: pl.DataFrame | None = None

    def lose_index(self) -> None:
        self._index = None

    def run(self, number: int, previous: int | None) -> tuple[set[tuple[str, tuple[int, int], bool]], Counter[str]]:
        """What was found (change, position, whether it is admitted), and all counts."""
        compared = self._baseline if previous is None else previous
        rebuilds = previous is not None or self._index is None
        content: tuple[str, ...] = oracle.CONTENT
        if compared is not None and rebuilds:
            both = (self._chain.days[number].listing.columns, self._chain.days[compared].listing.columns)
            content = tuple(name for name in oracle.CONTENT if all(name in columns for columns in both))
        run = self._run(number, compared, content, with_baseline=previous is None)
        counts: Counter[str] = Counter()
        today = self._fingerprints(run, number, run.current, counts)
        before = pl.DataFrame(schema=FINGERPRINT_SCHEMA)
        if compared is not None:
            assert run.previous is not None
            kept = None if rebuilds else self._index
            before = self._fingerprints(run, compared, run.previous, Counter()) if kept is None else kept
        found, index = set(), [before.clear()]
        bits = run.plan.partition_bits
        for part in range(run.plan.partitions):
            result = diff(*(side.filter(partition(bits) == part) for side in (today, before)))
            counts.update(result.counts)
            index.append(result.index)
            for row, code in result.candidates.select("row", "change").iter_rows():
                admitted, position = divmod(row, ADMITTED_BIT)
                found.add((_CODES[code], divmod(position, 1 << FILE_SHIFT), bool(admitted)))
        assert sum(counts[name] for name in _CODES.values()) == len(found)
        self._baseline, self._index = number, pl.concat(index)
        return found, counts

    def _run(self, number: int, compared: int | None, content: tuple[str, ...], *, with_baseline: bool) -> Run:
        day = self._chain.days[number]
        config = RunConfig(
            manifest=_STATE,
            sink=JsonLinesFile(_STATE),
            state=_STATE,
            versions=Versions.ALL if self._chain.all_versions else Versions.CURRENT,
            filters=filters(day.order.rules),
        )
        return Run(
            id=f"run-{number}",
            pipeline="p",
            created=day.order.now,
            pipeline_store=LocalStore(_STATE),
            store=LocalStore(_STATE),
            in_state=True,
            config=config.to_json(),
            current=self._deliveries[number],
            previous=None if compared is None else self._deliveries[compared],
            known=None,
            baseline=self._committed(compared) if with_baseline and compared is not None else None,
            seeding=False,
            source_region="us-east-1",
            scope={},
            kind="manifest",
            state_prefix=None,
            command=None,
            plan=Plan(self._scheme, day.sizes.partition_bits or 0, (), content_columns=content),
            runtime=Runtime(_STATE, Sending(), AwsSettings(), day.sizes),
        )

    def _committed(self, number: int) -> Baseline:
        day = self._chain.days[number]
        return Baseline(
            run_id=f"run-{number}",
            committed=day.order.now,
            manifest_uri="",
            manifest_md5="",
            creation_timestamp=day.listing.created,
            source_bucket=SOURCE,
            scope={},
            filters=filters(day.order.rules).to_json(),
            filtered_at=day.order.now,
            identities=0,
            kind="manifest",
        )

    def _fingerprints(self, run: Run, number: int, delivery: Delivery, counts: Counter[str]) -> pl.DataFrame:
        listing = self._chain.days[number].listing
        present = [name for name in OBJECT_SCHEMA.names if name not in VERSION_COLUMNS or name in listing.columns]
        frames = [pl.DataFrame(schema=FINGERPRINT_SCHEMA)]
        schema = {name: _POLARS_SCHEMA[name] for name in present if name != "bucket"}
        for file, rows in _by_file(listing).items():
            frame = pl.DataFrame([vars(entry) for entry in rows], schema=schema)
            # In two pieces, as of two row groups.
            for offset, piece in ((0, frame[:3]), (3, frame[3:])):
                if not piece.is_empty():
                    frames.append(
                        fingerprints(run, counted_rows(run, delivery, piece, row_base(file) + offset, counts))
                    )
        return pl.concat(frames)


def _delivery(number: int, listing: Listing) -> Delivery:
    destination = "inventory" if listing.folder is None else SOURCE
    files = tuple(InventoryFile(f"{OWN_FOLDER}data/{number}-{file}", 0, "") for file in range(len(listing.files)))
    return Delivery(
        _STATE, Manifest(SOURCE, destination, listing.created, FileFormat.PARQUET, "", files, f"{number}"), b""
    )


def _by_file(listing: Listing) -> dict[int, list[Entry]]:
    files: dict[int, list[Entry]] = {}
    for (file, _), entry in listing.rows():
        files.setdefault(file, []).append(entry)
    return files


@pytest.mark.parametrize("identity_bits", [64, 8, 1])
@given(chain=chains())
@cases(CHAINS_BY_STAGE)
def test_the_stages_find_and_count_what_the_oracle_says(chain: Chain, identity_bits: int) -> None:
    expect, stages = Oracle(all_versions=chain.all_versions), Stages(chain, Scheme(1, 2, 3, 4, identity_bits))
    for number, day in enumerate(chain.days):
        if day.loses_index != "no":
            expect.lose_index()
            stages.lose_index()
        # So that a guard refuses nothing: what was found doesn't depend on what is sent.
        order = replace(day.order, changes=frozenset({"new"}))
        expected = expect.run(order, day.listing, None if day.previous is None else chain.days[day.previous].listing)
        assert expected is not None
        found, counts = stages.run(number, day.previous)
        note(f"day {number}: {expected.found}")
        assert found == {(change, seen.position, seen.admitted) for change, seen in expected.found}
        assert {name: counts[name] for name in expected.counts if name != "selected"} == {
            name: count for name, count in expected.counts.items() if name != "selected"
        }


# The whole pipeline.


@dataclass(frozen=True)
class Clock:
    """Takes the place of datetime in planning."""

    moment: datetime

    def now(self, tz: object) -> datetime:
        assert tz is UTC
        return self.moment


class Bucket:
    """A chain's deliveries on the disk, and a pipeline for them."""

    def __init__(self, folder: Path, chain: Chain) -> None:
        self.chain = chain
        self.root = folder / "destination"
        self.pipeline = FilePipeline(folder)
        self.manifests = [self._deliver(number, day) for number, day in enumerate(chain.days)]

    def _deliver(self, number: int, day: Day) -> Path:
        columns = ("bucket", "key", *day.listing.columns)
        contents = [
            data_files.write(day.file_format, columns, [[_row(entry) for entry in group] for group in groups])
            for groups in day.listing.files
        ]
        return data_files.deliver(
            self.root,
            number + 1,
            day.file_format,
            data_files.file_schema(day.file_format, columns),
            contents,
            destination="inventory" if day.listing.folder is None else SOURCE,
        )

    def run(self, number: int, previous: int | None) -> Counter[oracle.Message]:
        day = self.chain.days[number]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(planning, "datetime", Clock(day.order.now))
            messages = self.pipeline.run(
                self.manifests[number],
                previous=None if previous is None else self.manifests[previous],
                first_run=FirstRun.SEED if day.order.seeds else FirstRun.ALL,
                changes=frozenset(map(Change, day.order.changes)),
                versions=Versions.ALL if self.chain.all_versions else Versions.CURRENT,
                filters=filters(day.order.rules),
                send_admitted=day.order.send_admitted,
                max_shrink=1.0,
                sizes=day.sizes,
            )
        return Counter(map(_message, messages))

    def lose_index(self, how: str) -> None:
        for index in (self.pipeline.home / "indexes").iterdir():
            if how == "whole":
                shutil.rmtree(index)
            else:
                (index / "00000.arrow").unlink()


def _row(entry: Entry) -> data_files.Row:
    return {"bucket": SOURCE, **vars(entry)}


def _message(message: dict[str, Any]) -> oracle.Message:
    modified = message["last_modified_date"]
    return (
        message["change"],
        message["key"],
        message["version_id"],
        message["size"],
        message["e_tag"] or "",
        None if modified is None else datetime.fromisoformat(modified),
    )


def check_pipeline(chain: Chain, folder: Path) -> None:
    expect, bucket = Oracle(all_versions=chain.all_versions), Bucket(folder, chain)
    for number, day in enumerate(chain.days):
        if number == 0 and chain.skips_first:
            continue
        previous = 0 if number == 1 and chain.skips_first else day.previous
        if expect.has_baseline and day.loses_index != "no":
            expect.lose_index()
            bucket.lose_index(day.loses_index)
        expected = expect.run(day.order, day.listing, None if previous is None else chain.days[previous].listing)
        if currently_in_test_context():
            note(f"day {number}: {expected}")
        if expected is None:
            before = bucket.pipeline.baseline()
            with pytest.raises(RefusedError, match="all would look changed"):
                bucket.run(number, previous)
            assert bucket.pipeline.report.status is Status.REFUSED
            assert bucket.pipeline.baseline() == before
            continue
        assert bucket.run(number, previous) == expected.messages
        report = bucket.pipeline.report
        assert report.exit_code == 0
        assert {name: report.counts[name] for name in expected.counts} == expected.counts
        assert report.sent["keys"] == expected.messages.total()


@given(chain=chains())
@cases(CHAINS_BY_PIPELINE[64])
def test_a_pipeline_sends_and_counts_what_the_oracle_says(chain: Chain) -> None:
    with TemporaryDirectory(dir=SCRATCH) as folder:
        check_pipeline(chain, Path(folder))


@given(chain=chains())
@cases(CHAINS_BY_PIPELINE[8])
def test_a_pipeline_is_exact_where_h_collides(chain: Chain) -> None:
    with TemporaryDirectory(dir=SCRATCH) as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning, "Scheme", partial(Scheme, identity_bits=8))
        check_pipeline(chain, Path(folder))


# Single chains.

ENTRY: Final = Entry("k", None, None, None, 1, DAY_1, "e1", None, None)
ORDER: Final = Order(DAY_1, Rules(), frozenset({"new", "changed", "deleted"}), send_admitted=False, seeds=True)


def single(*listings: Listing, loses_index: str = "no") -> Chain:
    """A chain of the plainest commands, the last of which finds the index so."""
    days = []
    for number, listing in enumerate(listings):
        created = DAY_1 + timedelta(days=number)
        last = number == len(listings) - 1
        days.append(
            Day(
                replace(listing, created=created),
                replace(ORDER, now=created),
                FileFormat.PARQUET,
                Sizes(partition_bits=0, workers=1),
                loses_index if last else "no",
                None,
            )
        )
    return Chain(all_versions=False, skips_first=False, days=tuple(days))


def listing(*entries: Entry, columns: tuple[str, ...] = oracle.OPTIONAL, folder: str | None = None) -> Listing:
    return Listing(DAY_1, columns, ((entries,),) if entries else (), folder)


def test_another_column_set_is_refused_where_changed_keys_are_asked_for_and_previous_compares_what_both_have(
    tmp_path: Path,
) -> None:
    without = listing(replace(ENTRY, size=2), columns=tuple(name for name in oracle.OPTIONAL if name != "e_tag"))
    chain = single(listing(ENTRY), without)
    check_pipeline(chain, tmp_path / "refused")
    second = replace(chain.days[1], previous=0)
    check_pipeline(replace(chain, days=(chain.days[0], second)), tmp_path / "compared")


def test_a_lost_index_is_made_again_when_the_delivery_is_empty_or_lies_elsewhere(tmp_path: Path) -> None:
    own = replace(ENTRY, key=OWN_FOLDER + "data/1-0.parquet")
    check_pipeline(single(listing(own, folder=OWN_FOLDER), listing(), loses_index="whole"), tmp_path)


@pytest.mark.parametrize("loses_index", ["no", "whole"])
@pytest.mark.parametrize("folders", [(None, OWN_FOLDER), (OWN_FOLDER, None)], ids=["into", "out of"])
def test_each_delivery_leaves_out_its_own_files_where_the_destination_moves_into_or_out_of_the_bucket(
    folders: tuple[str | None, str | None], loses_index: str, tmp_path: Path
) -> None:
    own = replace(ENTRY, key=OWN_FOLDER + "data/1-0.parquet")
    first, second = (listing(own, ENTRY, folder=folder) for folder in folders)
    check_pipeline(single(first, second, loses_index=loses_index), tmp_path)


def test_an_empty_first_delivery_without_e_tags_is_a_baseline_for_the_next_one(tmp_path: Path) -> None:
    columns = tuple(name for name in oracle.OPTIONAL if name != "e_tag")
    chain = single(listing(columns=columns), listing(ENTRY, columns=columns))
    bucket = Bucket(tmp_path, chain)
    bucket.run(0, None)
    assert [key for _, key, *_ in bucket.run(1, None)] == ["k"]
