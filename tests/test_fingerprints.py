"""Fingerprints: stable, seeded, and proved against their golden vector."""

from typing import Any

import polars as pl
import pytest

from inventory_enqueue.errors import IntegrityError
from inventory_enqueue.fingerprints import FINGERPRINT_SCHEMA, Scheme, row_base

ROWS = pl.DataFrame(
    {"key": ["a", "b", "a"], "e_tag": ["x", None, "x"], "size": [1, None, 2]},
    schema={"key": pl.String, "e_tag": pl.String, "size": pl.Int64},
)


def hashed(scheme: Scheme, rows: pl.DataFrame = ROWS) -> pl.DataFrame:
    return rows.select(scheme.expressions())


def test_the_scheme_is_frozen_an_index_of_today_can_be_read_in_years() -> None:
    # Computed by another implementation, the xxhash package: xxh3_64_intdigest(key, 1), the low half of
    # xxh3_64_intdigest(key, 2), and xxh3_64_intdigest(e_tag, 3) ^ size.
    assert hashed(Scheme(1, 2, 3)).rows() == [
        (15201566949650179872, 2866796327, 7978746023998908244),
        (11024971560246387488, 3560171096, 2823405624385680978),
        (15201566949650179872, 2866796327, 7978746023998908247),
    ]


def test_columns_have_the_types_of_the_lasting_format() -> None:
    assert hashed(Scheme()).schema == {name: FINGERPRINT_SCHEMA[name] for name in ("h", "k", "f")}


def test_each_state_has_its_own_seeds() -> None:
    one, other = Scheme(), Scheme()
    assert not set(hashed(one)["h"]) & set(hashed(other)["h"])
    assert len({one.seed_h, one.seed_k, one.seed_f}) == 3


def test_null_and_empty_e_tag_are_one_content_since_csv_cannot_tell_them_apart() -> None:
    rows = pl.DataFrame({"key": ["a", "a"], "e_tag": [None, ""], "size": [5, 5]})
    assert hashed(Scheme(), rows).n_unique() == 1


def test_a_missing_size_differs_from_zero() -> None:
    rows = pl.DataFrame({"key": ["a", "a"], "e_tag": ["x", "x"], "size": [None, 0]})
    assert hashed(Scheme(), rows)["f"].n_unique() == 2


def test_a_scheme_survives_its_json() -> None:
    scheme = Scheme(identity_bits=8)
    assert Scheme.from_json(scheme.to_json(), where="meta.json") == scheme


@pytest.mark.parametrize(
    ("change", "says"),
    [({"id": "xxh3-2"}, "scheme is 'xxh3-2'"), ({"seed_h": 1}, "golden vectors differ")],
)
def test_another_scheme_or_another_hash_is_refused(change: dict[str, Any], says: str) -> None:
    document = {**Scheme().to_json(), **change}
    with pytest.raises(IntegrityError, match=says):
        Scheme.from_json(document, where="meta.json")


def test_row_numbers_never_reach_the_admitted_bit() -> None:
    assert row_base((1 << 27) - 1) + (1 << 36) - 1 == (1 << 63) - 1
