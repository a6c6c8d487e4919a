"""The diff task: one partition of the delivery's fingerprints against the baseline's, exactly.

Nearly every row has one of the other side whose h is like its own, and no third one: such pairs are found by a sort,
and where they agree the object is unchanged. What is left goes through the definition itself:

- an identity is (h, k); a content is (h, k, f);
- new: the identity is absent from the baseline; deleted: it is absent from today;
- newly admitted: known, never admitted by the filters before, admitted now;
- changed: known, and one of its contents is nowhere in the baseline;
- duplicates: rows beyond one an identity. One candidate an identity: the admitted row that stands last in the delivery.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Final

import polars as pl
import pyarrow as pa

from inventory_enqueue.arrow import cut, from_batches
from inventory_enqueue.config import Change
from inventory_enqueue.errors import IntegrityError
from inventory_enqueue.fingerprints import ADMITTED_BIT, FACTORS, FINGERPRINT_SCHEMA, admitted, position, row_base
from inventory_enqueue.index import read_part, write_part
from inventory_enqueue.report import Output, Stage, TaskReport
from inventory_enqueue.run import Run
from inventory_enqueue.stages.spills import read_partition, spill_path
from inventory_enqueue.stages.worker import Worker

NEW, CHANGED, NEWLY_ADMITTED, DELETED = 0, 1, 2, 3
"""The codes of a candidate's change."""
CHANGES: Final = {NEW: Change.NEW, CHANGED: Change.CHANGED, NEWLY_ADMITTED: Change.NEW, DELETED: Change.DELETED}
"""What each of them is for the reader of a message: a key that is admitted only now is new to him."""

CANDIDATE_SCHEMA: Final = pl.Schema({"row": pl.UInt64, "change": pl.UInt8, "h": pl.UInt64, "other_row": pl.UInt64})
"""A candidate as it is written: its position in a delivery, with h to tell that the row is still the same; and the
position of what it replaced (or, where that is named, of what replaced it) in the other delivery, or null."""

_CANDIDATES: Final = pl.DataFrame(schema=CANDIDATE_SCHEMA).to_arrow().schema
_FACTORS: Final = [pl.lit(factor, pl.UInt64) for factor in FACTORS]
_IDENTITY = ["h", "k"]
_CONTENT = ["h", "k", "f"]


@dataclass(frozen=True)
class Diff:
    """What changed in one partition."""

    counts: Counter[str]
    """Identities that are new, changed, newly_admitted, unchanged or deleted, and rows that are duplicates."""
    candidates: pl.DataFrame
    """One an identity that is new, changed, newly admitted or deleted: h, k, row (with its admitted bit; of the
    baseline, if it is deleted), change, and previous_row, of the baseline."""
    index: pl.DataFrame
    """Today's contents, once each: the next baseline's partition. Their order has no meaning."""


def diff(today: pl.DataFrame, baseline: pl.DataFrame) -> Diff:
    """Compares two frames of FINGERPRINT_SCHEMA. Pure."""
    pairs, alone, rest = _neighbours(today, baseline)
    agree = _digests(today).gather(pairs["today"]) == _digests(baseline).gather(pairs["baseline"])
    differ = pairs.filter(~agree)
    new, deleted = today[alone[0]], baseline[alone[1]]
    hard = today[pl.concat([rest[0], differ["today"]])]
    exact = _exact(hard, baseline[pl.concat([rest[1], differ["baseline"]])])
    index = today
    if exact.index.height < hard.height:
        index = pl.concat([today[pairs["today"].filter(agree)], new, exact.index])
    counts = Counter(unchanged=pairs.height - differ.height, new=new.height, deleted=deleted.height)
    none = pl.lit(None, pl.UInt64)
    candidates = [_candidates(new, NEW, none), _candidates(deleted, DELETED, pl.col("row")), exact.candidates]
    return Diff(exact.counts + counts, pl.concat(candidates), index)


def _candidates(rows: pl.DataFrame, change: int, previous_row: pl.Expr) -> pl.DataFrame:
    """As Diff.candidates, of rows that changed in one way."""
    return rows.select(*_IDENTITY, "row", pl.lit(change, pl.UInt8).alias("change"), previous_row=previous_row)


_Sides = tuple[pl.Series, pl.Series]
"""Positions of rows of today, and of the baseline."""


def _neighbours(today: pl.DataFrame, baseline: pl.DataFrame) -> tuple[pl.DataFrame, _Sides, _Sides]:
    """Pairs of rows, one of each side, that alone share the high bits of h; rows alone with theirs; and the rest.

    Rows are given by their positions. To sort one column of numbers is cheaper than to join or sort frames: their high
    bits are those of h, below these stand the side and the position. So rows of equal h become neighbours, and end
    together in a pair or in the rest.
    """
    position_bits = max(today.height, baseline.height).bit_length()
    of_baseline, step = 1 << position_bits, 1 << (position_bits + 1)
    low = pl.lit(step - 1, pl.UInt64)
    sides = (
        frame.select((pl.col("h") & ~low) + pl.int_range(side, pl.len() + side, dtype=pl.UInt64)).to_series()
        for frame, side in ((today, 0), (baseline, of_baseline))
    )
    tagged = pl.concat(sides).sort(multithreaded=False).rename("tagged").to_frame()
    rows = tagged.select(
        tag=pl.col("tagged") & low,
        like_next=((pl.col("tagged") ^ pl.col("tagged").shift(-1)) < step).fill_null(value=False),
    )
    like_next, next_tag = pl.col("like_next"), pl.col("tag").shift(-1)
    alone_with_next = like_next & ~like_next.shift(1, fill_value=False) & ~like_next.shift(-1, fill_value=False)
    rows = rows.select(
        "tag",
        first=alone_with_next & (pl.col("tag") < of_baseline) & (next_tag >= of_baseline),
        alone=~like_next & ~like_next.shift(1, fill_value=False),
        baseline=next_tag - of_baseline,
    )
    pairs = rows.filter("first").select("baseline", today="tag")
    alone = rows.filter("alone")["tag"]
    rest = rows.filter(~pl.col("first") & ~pl.col("first").shift(1, fill_value=False) & ~pl.col("alone"))["tag"]
    alone_sides, rest_sides = (
        (tags.filter(tags < of_baseline), tags.filter(tags >= of_baseline) - of_baseline) for tags in (alone, rest)
    )
    return pairs, alone_sides, rest_sides


def _digests(fingerprints: pl.DataFrame) -> pl.Series:
    """Of rows that share the high bits of h: alike where content and the filters' verdict are, else with 2^-64.

    One column, since to gather the rows of pairs costs more than to compute it. Where h and k are alike, only f and the
    verdict are left to differ; where k isn't, h collides already, and k times an odd number is another number.
    """
    h, k = pl.col("h") * _FACTORS[0], pl.col("k").cast(pl.UInt64) * _FACTORS[1]
    return fingerprints.select(h ^ k ^ pl.col("f") ^ (pl.col("row") // ADMITTED_BIT * _FACTORS[2])).to_series()


def _exact(today: pl.DataFrame, baseline: pl.DataFrame) -> Diff:
    """The definition, for rows of which nothing is assumed."""
    # Of equal contents the largest row is kept: an admitted one, if there is any, and the last in the delivery.
    contents = today.group_by(_CONTENT).agg(pl.col("row").max()).select(FINGERPRINT_SCHEMA.names())
    known = baseline.group_by(_IDENTITY).agg(was_admitted=admitted().any(), previous_row=pl.col("row").max())
    known_contents = baseline.select(_CONTENT).unique().with_columns(known_content=pl.lit(value=True))
    identities = (
        contents.join(known_contents, on=_CONTENT, how="left")
        .group_by(_IDENTITY)
        .agg(
            last_row=pl.col("row").max(),
            last_unknown=pl.col("row").filter(pl.col("known_content").is_null()).max(),
        )
        .join(known, on=_IDENTITY, how="left")
        .with_columns(_change().alias("change"))
    )
    deleted = known.join(contents, on=_IDENTITY, how="anti")
    of = dict(identities.group_by("change").len().iter_rows())
    counts = Counter(
        {
            "new": of.get(NEW, 0),
            "changed": of.get(CHANGED, 0),
            "newly_admitted": of.get(NEWLY_ADMITTED, 0),
            "unchanged": of.get(None, 0),
            "deleted": deleted.height,
            "duplicates": today.height - identities.height,
        }
    )
    row = pl.when(pl.col("change") == CHANGED).then("last_unknown").otherwise("last_row")
    candidates = pl.concat(
        [
            identities.filter(pl.col("change").is_not_null()).select(
                *_IDENTITY, row.alias("row"), "change", "previous_row"
            ),
            _candidates(deleted.with_columns(row="previous_row"), DELETED, pl.col("previous_row")),
        ]
    )
    return Diff(counts, candidates, contents)


def _change() -> pl.Expr:
    """The code of an identity's change; null for an unchanged one."""
    return (
        pl.when(pl.col("was_admitted").is_null())
        .then(NEW)
        .when(~pl.col("was_admitted") & (pl.col("last_row") >= ADMITTED_BIT))
        .then(NEWLY_ADMITTED)
        .when(pl.col("last_unknown").is_not_null())
        .then(CHANGED)
        .cast(pl.UInt8)
    )


def run(worker: Worker, number: int) -> TaskReport:
    """Diffs one partition, and writes its candidates and the new index's part.

    Raises:
        IntegrityError: A part of the baseline's index isn't what its meta.json says.
    """
    run = worker.run
    with worker.computing:
        result = diff(_spilled(run, range(len(run.plan.batches)), number), _baseline(worker, number))
        selected = _selected(run, result.candidates)
        unknown = selected.join(_spilled(run, run.plan.known_tasks, number), on=_IDENTITY, how="anti")
    counts = result.counts + Counter(selected=unknown.height, known=selected.height - unknown.height)
    outputs = (
        _write_candidates(run, number, unknown),
        write_part(run.index_store, number, result.index),
    )
    return TaskReport(Stage.DIFF, number, counts, outputs)


def done(run: Run, report: TaskReport) -> bool:
    """Whether an earlier attempt's outputs are still there, whole."""
    candidates, part = report.outputs
    return run.store.size(candidates.name) == candidates.size and run.index_store.size(part.name) == part.size


def candidates_name(number: int) -> str:
    """The name of a partition's candidates in the run's folder."""
    return f"candidates/{number:05d}.arrow"


def _baseline(worker: Worker, number: int) -> pl.DataFrame:
    run, index = worker.run, worker.baseline_index
    if index is None or run.baseline is None:
        return _spilled(run, run.plan.previous_tasks, number)
    return read_part(run.pipeline_store, run.baseline.index, index, number, partition_bits=run.plan.partition_bits)


def _spilled(run: Run, tasks: range, number: int) -> pl.DataFrame:
    paths = [spill_path(run, task) for task in tasks]
    return read_partition(paths, number, partition_bits=run.plan.partition_bits)


def _selected(run: Run, candidates: pl.DataFrame) -> pl.DataFrame:
    """The candidates that are sent, by position: `row` in their own delivery, `other_row` in the other one."""
    codes = {Change.NEW: NEW, Change.CHANGED: CHANGED, Change.DELETED: DELETED}
    wanted = [codes[change] for change in run.selected_changes] + [NEWLY_ADMITTED] * run.sends_newly_admitted
    other_row = pl.when(pl.col("change") == CHANGED).then(pl.col("previous_row") % ADMITTED_BIT)
    return (
        candidates.filter(admitted() & pl.col("change").is_in(wanted))
        .select(*_IDENTITY, position().alias("row"), "change", other_row=other_row)
        .sort("row")
    )


def _write_candidates(run: Run, number: int, selected: pl.DataFrame) -> Output:
    """Writes one record batch for each current batch, then one for each previous batch.

    The latter hold what is deleted and, where the run recalls that, what was before a change.
    """
    name = candidates_name(number)
    replaced = [selected.clear()]
    if Change.CHANGED in run.plan.recalls:
        changed = selected.filter(pl.col("change") == CHANGED)
        replaced = [changed.with_columns(row="other_row", other_row="row")]
    sides = (
        (selected.filter(pl.col("change") != DELETED), run.plan.batches),
        (
            pl.concat([selected.filter(pl.col("change") == DELETED), *replaced]).sort("row"),
            run.plan.previous_batches if run.plan.recalls else (),
        ),
    )
    with run.store.write_file(name) as path:
        with pa.ipc.new_file(str(path), _CANDIDATES) as writer:
            for candidates, batches in sides:
                starts = [row_base(batch[0]) for batch in batches]
                for piece in cut(candidates.select(CANDIDATE_SCHEMA.names()), "row", starts, _CANDIDATES):
                    writer.write_batch(piece)
        size = path.stat().st_size
    return Output(name, size, selected.height)


def read_candidates(run: Run, number: int) -> pl.DataFrame:
    """The candidates of an enqueue task (or, past the current batches, of a recall task), by position.

    Raises:
        IntegrityError: A partition's file is missing or damaged.
        OSError: There is no room for a copy of it.
    """
    batches = []
    for partition in range(run.plan.partitions):
        name = candidates_name(partition)
        try:
            path = run.store.local(name)
        except FileNotFoundError as error:
            raise IntegrityError("the run's candidates are gone", where=run.store.where(name)) from error
        try:
            with pa.OSFile(str(path), "rb") as file, pa.ipc.open_file(file) as reader:
                batches.append(reader.get_batch(number))
        except (pa.ArrowException, OSError) as error:
            raise IntegrityError(f"the run's candidates can't be read: {error}", where=run.store.where(name)) from error
    return from_batches(batches, _CANDIDATES).sort("row")
