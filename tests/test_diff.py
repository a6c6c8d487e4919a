"""The diff against its definition in plain Python."""

from collections import Counter, defaultdict
from dataclasses import dataclass

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inventory_enqueue.fingerprints import ADMITTED_BIT, FINGERPRINT_SCHEMA, Scheme, partition
from inventory_enqueue.stages.diff import CHANGED, DELETED, NEW, NEWLY_ADMITTED, diff

# Few values: every kind of duplicate, collision and change occurs again and again. Some h differ in their high bits,
# others in their low ones alone.
fingerprint_rows = st.lists(
    st.tuples(
        st.sampled_from([0, 1, 1 << 62, (1 << 62) + 1, 5 << 61, (1 << 64) - 1]),
        st.integers(0, 2),
        st.integers(0, 3),
        st.booleans(),
    ),
    max_size=30,
)


@dataclass(frozen=True)
class Row:
    """A live object row, as far as the diff looks at it."""

    key: str
    e_tag: str | None
    size: int | None
    admitted: bool


keys = st.sampled_from(["a", "b", "c/", "d e", "0012", "é", "é", "k" * 1024, "\x01", "😀", "NULL", ""])
object_rows = st.builds(
    Row, keys, st.sampled_from([None, "", "e1", "e2"]), st.sampled_from([None, 0, 1]), st.booleans()
)
days = st.lists(st.lists(object_rows, max_size=25), min_size=3, max_size=3)


def frame(rows: list[tuple[int, int, int, bool]]) -> pl.DataFrame:
    numbered = [(h, k, f, number + (ADMITTED_BIT if ok else 0)) for number, (h, k, f, ok) in enumerate(rows)]
    return pl.DataFrame(numbered, schema=FINGERPRINT_SCHEMA, orient="row")


@given(fingerprint_rows, fingerprint_rows)
@settings(max_examples=500)
def test_each_identity_is_classified_as_the_definition_says(
    today: list[tuple[int, int, int, bool]], baseline: list[tuple[int, int, int, bool]]
) -> None:
    result = diff(frame(today), frame(baseline))
    contents: dict[tuple[int, int], set[int]] = defaultdict(set)
    admitted: dict[tuple[int, int], bool] = defaultdict(bool)
    for h, k, f, ok in baseline:
        contents[h, k].add(f)
        admitted[h, k] |= ok
    last = {(h, k): row for row, h, k in sorted(frame(baseline).select("row", "h", "k").iter_rows())}
    gone = contents.keys() - {(h, k) for h, k, _, _ in today}
    expected: Counter[str] = Counter(deleted=len(gone))
    candidates = {(DELETED, last[identity], last[identity]) for identity in gone}
    for identity in {(h, k) for h, k, _, _ in today}:
        ours = [(n, f, ok) for n, (h, k, f, ok) in enumerate(today) if (h, k) == identity]
        expected["duplicates"] += len(ours) - 1
        unknown = [row for row in ours if row[1] not in contents[identity]] if identity in contents else ours
        if identity not in contents or not contents[identity]:
            kind, code, pool = "new", NEW, ours
        elif any(ok for _, _, ok in ours) and not admitted[identity]:
            kind, code, pool = "newly_admitted", NEWLY_ADMITTED, ours
        elif unknown:
            kind, code, pool = "changed", CHANGED, unknown
        else:
            expected["unchanged"] += 1
            continue
        expected[kind] += 1
        number, _, ok = max(pool, key=lambda row: (row[2], row[0]))
        candidates.add((code, number + (ADMITTED_BIT if ok else 0), last.get(identity)))
    assert +result.counts == +expected
    assert set(result.candidates.select("change", "row", "previous_row").iter_rows()) == candidates
    assert result.candidates.height == len(candidates)


@given(fingerprint_rows, fingerprint_rows)
def test_the_index_holds_each_content_once_and_is_unchanged_against_itself(
    today: list[tuple[int, int, int, bool]], baseline: list[tuple[int, int, int, bool]]
) -> None:
    index = diff(frame(today), frame(baseline)).index
    assert index.schema == FINGERPRINT_SCHEMA
    assert sorted(index.select("h", "k", "f").iter_rows()) == sorted({(h, k, f) for h, k, f, _ in today})
    again = diff(frame(today), index)
    assert again.candidates.is_empty()
    assert again.counts["unchanged"] == len({(h, k) for h, k, _, _ in today})
    assert again.counts["deleted"] == again.counts["new"] == again.counts["changed"] == 0


def fingerprints(rows: list[Row], scheme: Scheme) -> pl.DataFrame:
    columns = {name: [getattr(row, name) for row in rows] for name in ("key", "e_tag", "size", "admitted")}
    schema = {"key": pl.String, "e_tag": pl.String, "size": pl.Int64, "admitted": pl.Boolean}
    bit = pl.when("admitted").then(pl.lit(ADMITTED_BIT, pl.UInt64)).otherwise(pl.lit(0, pl.UInt64))
    row = pl.int_range(pl.len(), dtype=pl.UInt64) + bit
    return pl.DataFrame(columns, schema=schema).select(*scheme.expressions(), row.alias("row"))


def oracle(today: list[Row], baseline: list[Row]) -> dict[str, set[str]]:
    """Sets of keys, by a plain reading of what new, changed and deleted mean."""

    def content(row: Row) -> tuple[str, int | None]:
        return row.e_tag or "", row.size

    known: dict[str, set[tuple[str, int | None]]] = defaultdict(set)
    was_admitted: dict[str, bool] = defaultdict(bool)
    for row in baseline:
        known[row.key].add(content(row))
        was_admitted[row.key] |= row.admitted
    new = {row.key for row in today if row.key not in known}
    newly_admitted = {row.key for row in today if row.key in known and row.admitted and not was_admitted[row.key]}
    changed = {row.key for row in today if row.key in known and content(row) not in known[row.key]} - newly_admitted
    return {
        "new": new,
        "changed": changed,
        "newly_admitted": newly_admitted,
        "deleted": known.keys() - {row.key for row in today},
    }


@pytest.mark.parametrize("identity_bits", [64, 8, 1])
@given(days=days)
@settings(max_examples=150)
def test_chains_of_three_days_give_the_exact_sets_even_when_h_collides(
    days: list[list[Row]], identity_bits: int
) -> None:
    scheme = Scheme(1, 2, 3, identity_bits)
    index, before = pl.DataFrame(schema=FINGERPRINT_SCHEMA), list[Row]()
    for today in days:
        result = diff(fingerprints(today, scheme), index)
        expected = oracle(today, before)
        rows = {
            code: [
                (before if code == DELETED else today)[row % ADMITTED_BIT].key
                for row, change in result.candidates.select("row", "change").iter_rows()
                if change == code
            ]
            for code in (NEW, CHANGED, NEWLY_ADMITTED, DELETED)
        }
        for code, name in zip(rows, ("new", "changed", "newly_admitted", "deleted"), strict=True):
            assert sorted(rows[code]) == sorted(expected[name])
        assert result.counts["deleted"] == len(expected["deleted"])
        index, before = result.index, today


def test_an_unchanged_duplicate_is_never_news_and_a_new_key_twice_is_one_candidate() -> None:
    twice = frame([(1, 1, 1, True), (1, 1, 2, True), (2, 2, 2, True)])
    assert diff(twice, twice).candidates.is_empty()
    result = diff(frame([(7, 7, 1, True), (7, 7, 2, False), (7, 7, 1, True)]), twice)
    found = result.candidates.filter(pl.col("change") == NEW).select("h", "row").rows()
    assert found == [(7, ADMITTED_BIT + 2)]


@given(st.lists(st.integers(0, 2**64 - 1)), st.integers(0, 16))
def test_partitions_are_the_top_bits_of_h(hashes: list[int], bits: int) -> None:
    numbers = pl.DataFrame({"h": hashes}, schema={"h": pl.UInt64}).with_columns(p=partition(bits))["p"]
    assert numbers.to_list() == [h >> (64 - bits) for h in hashes]
