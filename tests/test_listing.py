"""The live listing: every key once, whatever the keys are and whatever the store does; and not many requests more."""

from __future__ import annotations

import itertools
import json
import random
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inventory_enqueue.aws.list_objects import PageReply, PageRequest
from inventory_enqueue.delivery.listing import Lister, UnorderedError
from inventory_enqueue.delivery.ranges import Alphabets, Checkpoint, KeyRange, middle, rungs
from inventory_enqueue.errors import InventoryEnqueueError, PreflightError, StoppedError
from inventory_enqueue.pacing import RetryPolicy
from inventory_enqueue.uris import S3Url
from inventory_enqueue.watch import Watch
from tests.support.layouts import LAYOUTS
from tests.support.pages import CUT, DENIED, NO_ANSWER, SLOW_DOWN, MemoryBucket, page_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import pyarrow as pa

AT_ONCE: Final = RetryPolicy(base=0.0)
HOPELESS: Final = RetryPolicy(base=0.0, patience=0.0)

# Any Unicode but surrogates, and the characters that break things more often than others.
_CHARACTERS: Final = st.one_of(
    st.sampled_from("/ab01\n\r\x01+ %&<>\"'\\\x7f\u0080\ud7ff\ue000\uffff\U00010000\U0010ffff"),
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"),
)
_TEXTS: Final = st.text(_CHARACTERS, min_size=1, max_size=8)
KEYS: Final = st.one_of(
    st.sets(_TEXTS, max_size=60),
    # Clustered: few folders with many alike.
    st.builds(
        lambda folders, names: {folder + name for folder in folders for name in names},
        st.sets(st.text(_CHARACTERS, max_size=4), min_size=1, max_size=6),
        st.sets(st.text("0123456789abcdef/-", min_size=1, max_size=3), min_size=1, max_size=30),
    ),
    # Skewed: numbers without gaps, with others around them.
    st.builds(
        lambda count, others: {f"n/{number:05d}" for number in range(count)} | others,
        st.integers(1, 200),
        st.sets(_TEXTS, max_size=10),
    ),
)


def lister(bucket: MemoryBucket, prefix: str = "", *, name: str = "bucket", **options: Any) -> Lister:  # noqa: ANN401
    defaults: dict[str, Any] = {"policy": AT_ONCE, "rows_per_batch": 1, "watch": Watch(), **options}
    return Lister(bucket, S3Url(name, prefix), **defaults)


def keys_of(batches: Iterable[pa.RecordBatch]) -> list[str]:
    return [str(key) for batch in batches for key in batch.column("key").to_pylist()]


def listed(listing: Lister) -> list[str]:
    return keys_of(listing.batches())


def taken(listing: Lister, *, most: int = 1_000_000, then: Callable[[], None] = lambda: None) -> list[str]:
    """List until an error ends it; call something once there are so many keys."""
    keys: list[str] = []
    with suppress(InventoryEnqueueError):
        for batch in listing.batches():
            keys += keys_of([batch])
            if len(keys) >= most:
                then()
    return keys


def made(layout: str, count: int) -> set[str]:
    return LAYOUTS[layout](count, random.Random(1))  # noqa: S311 - no secret


class TestEachKeyOnce:
    @settings(max_examples=400)
    @given(keys=KEYS, seed=st.integers(), page_size=st.integers(1, 40), concurrency=st.integers(1, 20))
    def test_whatever_the_keys_are(self, keys: set[str], seed: int, page_size: int, concurrency: int) -> None:
        bucket = MemoryBucket(keys, page_size, random.Random(seed))  # noqa: S311 - no secret
        assert sorted(listed(lister(bucket, concurrency=concurrency))) == sorted(keys)
        assert bucket.most <= concurrency
        assert bucket.closed

    @settings(max_examples=400)
    @given(keys=KEYS, seed=st.integers(), page_size=st.integers(1, 20), short=st.booleans(), ignores=st.booleans())
    def test_whatever_the_store_does(
        self, keys: set[str], seed: int, page_size: int, *, short: bool, ignores: bool
    ) -> None:
        bucket = MemoryBucket(
            keys,
            page_size,
            random.Random(seed),  # noqa: S311 - no secret
            faults=0.2,
            empty=0.2,
            short=short,
            ignores_start_after=ignores,
        )
        assert sorted(listed(lister(bucket, concurrency=10))) == sorted(keys)

    @settings(max_examples=300)
    @given(keys=KEYS, seed=st.integers(), stop=st.integers(0, 30), page_size=st.integers(1, 20))
    def test_in_two_runs_that_are_cut_anywhere(self, keys: set[str], seed: int, stop: int, page_size: int) -> None:
        source = random.Random(seed)  # noqa: S311 - no secret
        first = lister(MemoryBucket(keys, page_size, source, faults=0.1, empty=0.1), concurrency=10)
        batches = first.batches()
        before = keys_of(itertools.islice(batches, stop))
        start = Checkpoint.from_json(first.checkpoint().to_json())
        del batches
        after = listed(lister(MemoryBucket(keys, page_size, source), concurrency=10, start=start))
        assert sorted(before + after) == sorted(keys)

    @settings(max_examples=100)
    @given(keys=KEYS, prefix=_TEXTS, page_size=st.integers(1, 20))
    def test_under_a_prefix_and_none_beside_it(self, keys: set[str], prefix: str, page_size: int) -> None:
        wanted = {prefix + key for key in keys} | {prefix}
        bucket = MemoryBucket(wanted | keys, page_size)
        expected = sorted(key for key in wanted | keys if key.startswith(prefix))
        assert sorted(listed(lister(bucket, prefix))) == expected

    def test_in_thousands_of_random_cases(self) -> None:
        for seed in range(3000):
            source = random.Random(seed)  # noqa: S311 - no secret
            alphabet = source.choice(["01", "0123456789abcdef", "ab/", "é\U0010ffff\ud7ff\ue000", "a%+& \n<"])
            keys = {"".join(source.choices(alphabet, k=source.randint(1, 7))) for _ in range(source.randint(0, 120))}
            bucket = MemoryBucket(
                keys, source.randint(1, 9), source, faults=source.choice([0, 0.3]), empty=source.choice([0, 0.3])
            )
            assert sorted(listed(lister(bucket, concurrency=source.randint(1, 12)))) == sorted(keys), seed


class TestRequests:
    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_are_few_more_than_the_least(self, layout: str) -> None:
        keys = made(layout, 20_000)
        bucket = MemoryBucket(keys, page_size=100)
        listing = lister(bucket, concurrency=64)
        assert sorted(listed(listing)) == sorted(keys)
        least = len(keys) // bucket.page_size
        assert least <= bucket.count()["page"] <= 1.6 * least
        assert bucket.count()["probe"] <= 8
        assert listing.counts["requests"] == len(bucket.requests)
        assert bucket.most > 16

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_of_a_small_bucket_are_few(self, layout: str) -> None:
        bucket = MemoryBucket(made(layout, 20_000))
        assert len(listed(lister(bucket, concurrency=64))) == 20_000
        assert bucket.count()["page"] <= 45

    def test_one_page_takes_one_beside_the_discovery(self) -> None:
        bucket = MemoryBucket(made("hive", 900))
        assert len(listed(lister(bucket))) == 900
        assert bucket.count() == {"page": 1, "probe": 1}

    def test_one_pager_takes_no_more_than_the_least(self) -> None:
        bucket = MemoryBucket(made("hive", 5_000), 100)
        assert len(listed(lister(bucket, concurrency=1))) == 5_000
        assert bucket.count()["page"] == 50


class TestTraps:
    def test_1_a_key_that_is_a_split_point_is_listed_once(self) -> None:
        keys = [f"{number:03d}" for number in range(100)]
        start = Checkpoint([("", "049"), ("049", "0495"), ("0495", "0999"), ("0999", None)])
        assert sorted(listed(lister(MemoryBucket(keys, 7), start=start))) == keys

    @settings(max_examples=300)
    @given(keys=st.lists(_TEXTS, min_size=3, max_size=20, unique=True), share=st.floats(0, 1))
    def test_2_no_cut_is_inside_a_character_or_outside_the_range(self, keys: list[str], share: float) -> None:
        first, cursor, *_, hi = sorted(keys)
        alphabets = Alphabets()
        alphabets.learn(sorted(keys))
        for end in (hi, None):
            span = KeyRange(cursor, end, first=first, listed=2)
            cuts = [middle(span, share, alphabets, "", []), *rungs(span, alphabets, "")]
            for cut in cuts:
                assert cut is None or (cursor < cut and (end is None or cut < end))
                assert cut is None or cursor.encode() < cut.encode()
            assert cuts[1:] == sorted(set(cuts[1:]))  # type: ignore[type-var]  # rungs are no None

    def test_2_the_order_is_that_of_code_points(self) -> None:
        # UTF-16 has the surrogates of U+10000 before U+FFFF.
        keys = ["\ud7ff", "\ue000", "\uffff", "\U00010000", "\U0010ffff"]
        names = [first + second for first in keys for second in keys]
        assert sorted(listed(lister(MemoryBucket(names, 2)))) == sorted(names)

    def test_3_keys_behind_every_bound_are_listed(self) -> None:
        keys = {"p/" + "\U0010ffff" * length for length in range(1, 60)} | {f"p/{number}" for number in range(100)}
        assert sorted(listed(lister(MemoryBucket(keys, 5), "p/"))) == sorted(keys)

    def test_4_keys_are_asked_for_url_encoded(self) -> None:
        request = PageRequest("a b/", start_after="a b/\n+%é")
        assert request.query() == (
            "encoding-type=url&list-type=2&max-keys=1000&prefix=a%20b%2F&start-after=a%20b%2F%0A%2B%25%C3%A9"
        )

    def test_5_a_page_without_keys_is_not_the_end(self) -> None:
        keys = {f"{number:04d}" for number in range(500)}
        bucket = MemoryBucket(keys, 10, empty=0.5)
        assert sorted(listed(lister(bucket))) == sorted(keys)
        assert any(request.token for request in bucket.requests)

    def test_5_a_page_without_keys_or_token_is_asked_for_again(self) -> None:
        answers = [page_of([], is_truncated=True)]
        bucket = MemoryBucket(["a"], fault=lambda _: PageReply(0.0, 0.1, 200, answers.pop()) if answers else None)
        listing = lister(bucket)
        assert listed(listing) == ["a"]

    def test_6_pages_are_chained_by_their_last_key(self) -> None:
        bucket = MemoryBucket(made("flathex", 2_000), 10)
        listed(lister(bucket))
        assert not any(request.token for request in bucket.requests)

    def test_6_a_store_that_ignores_start_after_is_listed_by_token(self) -> None:
        keys = made("flathex", 2_000)
        bucket = MemoryBucket(keys, 10, ignores_start_after=True)
        listing = lister(bucket)
        assert sorted(listed(listing)) == sorted(keys)
        assert all(request.token for request in bucket.requests[-100:])
        assert len(bucket.requests) < 200 + 30

    def test_6_such_a_listing_goes_on_where_it_ended(self) -> None:
        keys = made("flathex", 2_000)
        first = lister(MemoryBucket(keys, 10, ignores_start_after=True))
        batches = first.batches()
        before = keys_of(itertools.islice(batches, 50))
        start = first.checkpoint()
        assert start.token
        after = listed(lister(MemoryBucket(keys, 10, ignores_start_after=True), start=start))
        assert sorted(before + after) == sorted(keys)

    def test_7_a_broken_page_is_asked_for_again(self) -> None:
        keys = made("flathex", 1_000)
        broken: list[str] = []

        def breaks(request: PageRequest) -> PageReply | None:
            if request.start_after in broken:
                return None
            broken.append(request.start_after)
            return CUT

        listing = lister(MemoryBucket(keys, 50, fault=breaks))
        assert sorted(listed(listing)) == sorted(keys)
        assert listing.counts["retries"] >= 20

    def test_7_a_page_that_stays_broken_stops_the_run(self) -> None:
        with pytest.raises(
            StoppedError, match=r"s3://bucket/: S3 can't be listed: BrokenAnswer .*run the same command"
        ):
            listed(lister(MemoryBucket(["a"], fault=lambda _: CUT)))

    def test_8_a_directory_bucket_is_listed_page_by_page(self) -> None:
        keys = made("hive", 1_000)
        bucket = MemoryBucket(keys, 50, shuffled=True)
        assert sorted(listed(lister(bucket, name="base--use1-az4--x-s3"))) == sorted(keys)
        assert bucket.most == 1
        assert not any(request.start_after or request.delimiter for request in bucket.requests)
        assert len(bucket.requests) == 20

    def test_8_a_store_in_no_order_is_listed_page_by_page(self) -> None:
        keys = made("hive", 1_000)
        assert sorted(listed(lister(MemoryBucket(keys, 50, shuffled=True)))) == sorted(keys)

    def test_8_a_store_that_loses_its_order_later_is_refused(self) -> None:
        def out_of_order(request: PageRequest) -> PageReply | None:
            late = request.start_after > "0100"
            return PageReply(0.0, 0.1, 200, page_of(["0999", "0998"], is_truncated=True)) if late else None

        listing = lister(MemoryBucket([f"{number:04d}" for number in range(1_000)], 10, fault=out_of_order))
        with pytest.raises(UnorderedError, match="page by page"):
            listed(listing)

    def test_9_a_discovery_that_is_denied_changes_nothing(self) -> None:
        keys = made("hive", 2_000)
        bucket = MemoryBucket(keys, 20, fault=lambda request: DENIED if request.delimiter else None)
        assert sorted(listed(lister(bucket))) == sorted(keys)
        assert bucket.count()["probe"] == 1

    def test_11_keys_that_come_and_go_meanwhile_harm_no_other(self) -> None:
        keys = [f"{number:04d}" for number in range(1_000)]
        bucket = MemoryBucket(keys, 10)
        passing = random.Random(2)  # noqa: S311 - no secret

        def changes(_: PageRequest) -> None:
            for name in (f"{passing.randrange(1_000):04d}-new", f"{passing.randrange(1_000):04d}-new"):
                if name in bucket._keys:  # noqa: SLF001 - the test's own
                    bucket._keys.remove(name)  # noqa: SLF001
                else:
                    bucket._keys.append(name)  # noqa: SLF001
            bucket._keys.sort()  # noqa: SLF001

        bucket.fault = changes
        found = listed(lister(bucket))
        assert len(found) == len(set(found))
        assert set(keys) <= set(found)


class TestErrors:
    @pytest.mark.parametrize(
        ("code", "status", "message"),
        [
            ("AccessDenied", 403, r"s3://bucket/p: access is denied; allow s3:ListBucket on its bucket \(AccessDenied"),
            ("NoSuchBucket", 404, r"s3://bucket/p: the bucket isn't there"),
            ("InvalidAccessKeyId", 403, r"s3://bucket/p: S3 refuses: InvalidAccessKeyId"),
        ],
    )
    def test_that_no_retry_mends(self, code: str, status: int, message: str) -> None:
        bucket = MemoryBucket(["a"], fault=lambda _: PageReply(0.0, 0.1, status, code=code, message="why"))
        with pytest.raises(PreflightError, match=message):
            listed(lister(bucket, "p"))
        assert bucket.closed

    @pytest.mark.parametrize("fault", [SLOW_DOWN, NO_ANSWER, CUT])
    def test_that_outlast_all_patience_stop_the_run(self, fault: PageReply) -> None:
        with pytest.raises(StoppedError, match="run the same command again"):
            listed(lister(MemoryBucket(["a"], fault=lambda _: fault), policy=HOPELESS))

    def test_that_come_late_leave_what_was_listed(self) -> None:
        keys = [f"{number:04d}" for number in range(1_000)]
        denied = MemoryBucket(keys, 10, fault=lambda request: DENIED if request.start_after > "0500" else None)
        first = lister(denied, concurrency=1)
        before = taken(first)
        after = listed(lister(MemoryBucket(keys, 10), start=first.checkpoint()))
        assert len(before) >= 500
        assert sorted(before + after) == keys

    def test_a_throttled_listing_asks_for_less(self) -> None:
        keys = made("flathex", 20_000)
        bucket = MemoryBucket(keys, 100)
        bucket.fault = lambda _: SLOW_DOWN if len(bucket._in_flight) > 16 else None  # noqa: SLF001 - the test's own
        listing = lister(bucket, concurrency=64)
        assert sorted(listed(listing)) == sorted(keys)
        assert listing.counts["throttled"]

    def test_a_stop_ends_it_and_leaves_a_checkpoint(self) -> None:
        watch = Watch()
        keys = made("flathex", 5_000)
        first = lister(MemoryBucket(keys, 100), watch=watch)
        before = taken(first, most=1_000, then=watch.stop)
        assert 1_000 <= len(before) < 5_000
        after = listed(lister(MemoryBucket(keys, 100), start=first.checkpoint()))
        assert sorted(before + after) == sorted(keys)
        with pytest.raises(StoppedError, match="was stopped"):
            listed(lister(MemoryBucket(keys), watch=watch))


class TestProgress:
    def test_is_told(self) -> None:
        listing = lister(MemoryBucket(made("flathex", 20_000), 100))
        shares = [listing.share_done for _ in listing.batches()]
        known = [share for share in shares if share is not None]
        assert known
        assert all(0 <= share <= 1 for share in known)
        assert listing.share_done == 1
        assert listing.keys == 20_000
        assert listing.pagers == 0 or listing.pagers < 64

    def test_batches_are_of_a_bounded_size(self) -> None:
        listing = lister(MemoryBucket(made("flathex", 20_000), 100), rows_per_batch=1_000, concurrency=8)
        sizes = [batch.num_rows for batch in listing.batches()]
        assert all(1_000 <= size < 1_000 + 8 * 100 for size in sizes[:-1])


class TestCheckpoint:
    def test_is_json(self) -> None:
        start = Checkpoint([("", "a\n\U0010ffff"), ("b", None)], "token")
        text = start.to_json()
        assert json.loads(text) == {"ranges": [["", "a\n\U0010ffff"], ["b", None]], "token": "token"}
        assert text.isascii()
        assert Checkpoint.from_json(text) == start

    @pytest.mark.parametrize("text", ["", "{}", "[]", '{"ranges": [["a"]], "token": null}'])
    def test_nothing_else_is_taken_for_one(self, text: str) -> None:
        with pytest.raises(ValueError, match=r"."):
            Checkpoint.from_json(text)

    def test_of_a_listing_that_is_done_is_empty(self) -> None:
        listing = lister(MemoryBucket(["a"]))
        listed(listing)
        assert listing.checkpoint() == Checkpoint([])
        again = MemoryBucket(["a"])
        assert listed(lister(again, start=listing.checkpoint())) == []
        assert not again.requests
