"""The ranges that are left of a listing: which one is next, what a page of it means, where one more begins. Pure."""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence
from math import ceil
from typing import Final, Protocol

import pyarrow as pa

from inventory_enqueue.aws.list_page import Page
from inventory_enqueue.delivery.ranges import Alphabets, Checkpoint, KeyRange, estimate, middle, place_of, rungs

_WORTH: Final = 1.5
"""Pages that must be left of a range for another pager to take a part: one is under way."""
_FILL: Final = 0.92
"""Of a page: estimates are so near where keys are spread evenly."""
_LARGE: Final = 1024.0
"""Pages: half is half."""
_UNKNOWN: Final = 64
"""A range that is estimated to hold so many times what was listed of it is one of which nothing is known."""


_SPARE: Final = 6.0
_SHARE: Final = 0.4
"""Pages that may be asked for in vain: so many, and this share of those that weren't. Guesses at where keys are stop
there; what is known to be left goes on."""

_FEW: Final = 8
"""Pagers that are at work at least, even if it takes twice as many guesses."""


class Work(Protocol):
    """What is left to list."""

    @property
    def is_done(self) -> bool:
        """Whether nothing is left."""

    @property
    def left(self) -> float:
        """About how many keys are; inf where nobody knows."""

    def next(self, room: int) -> KeyRange | None:
        """What a page may be asked of now; None while there is nothing.

        Args:
            room: Requests that may begin now, this one among them.
        """

    def take(self, span: KeyRange, page: Page) -> pa.RecordBatch:
        """Takes a page of what next() gave, and says which of its rows are new."""

    def checkpoint(self) -> Checkpoint:
        """What is left."""


class Partition:
    """Disjoint ranges, listed side by side."""

    def __init__(self, prefix: str, ranges: Sequence[tuple[str, str | None]] = (("", None),)) -> None:
        """Makes it.

        Args:
            prefix: What all keys begin with.
            ranges: What is left, as in Checkpoint.
        """
        self._prefix = prefix
        self._alphabets = Alphabets()
        self._points: list[str] = []
        self._page_size = 1
        self._useful = 0.0
        self._useless = 0.0
        """Pages so far."""
        spans = [KeyRange(cursor, hi) for cursor, hi in ranges]
        self._waiting = {span.cursor: span for span in spans}
        """Those of which no page is under way, by their cursor, in the order in which they are to be listed."""
        self._busy: set[KeyRange] = set()

    @property
    def is_done(self) -> bool:
        """Whether nothing is left."""
        return not self._waiting and not self._busy

    @property
    def left(self) -> float:
        """About how many keys are; inf where nobody knows."""
        return sum(span.left for spans in (self._waiting.values(), self._busy) for span in spans)

    def checkpoint(self) -> Checkpoint:
        """What is left."""
        spans = sorted([*self._waiting.values(), *self._busy], key=lambda span: span.cursor)
        return Checkpoint([(span.cursor, span.hi) for span in spans])

    def learn(self, points: Sequence[str], *, all_of_them: bool, room: int) -> None:
        """Takes common prefixes, and cuts what is left there.

        Args:
            points: Sorted.
            all_of_them: Whether there are no more of them: the first thousand of many small folders make bad cuts.
            room: Parts that may be listed now.
        """
        self._alphabets.learn(points)
        for point in points:
            insort(self._points, point)
        chosen = points if all_of_them else points[-1:]
        step = max(1.0, len(chosen) / max(1, room))
        for number in range(int(len(chosen) / step)):
            self._cut_at(chosen[int(number * step)])

    def _cut_at(self, point: str) -> None:
        spans = [*self._waiting.values(), *self._busy]
        inside = (span for span in spans if span.cursor < point and (span.hi is None or point < span.hi))
        span = next(inside, None)
        if span is not None:
            self._split(span, point, float("inf"))

    def _split(self, span: KeyRange, cut: str, left: float) -> KeyRange:
        """Makes what is behind a cut another range."""
        assert span.cursor < cut and (span.hi is None or cut < span.hi)  # noqa: S101, PT018 - or keys would be lost
        behind = KeyRange(cut, span.hi, left=left)
        span.hi = cut
        self._waiting[cut] = behind
        return behind

    def next(self, room: int) -> KeyRange | None:
        """A range of which a page may be asked for: one that waits, or a part of one that is being listed."""
        if not self._waiting:
            self._steal(room)
        if not self._waiting:
            return None
        span = self._waiting.pop(next(iter(self._waiting)))
        self._busy.add(span)
        return span

    def _steal(self, room: int) -> None:
        """Cuts the range of which most is left."""
        untried = sum(span.listed == 0 for span in self._busy)
        share = _SHARE if len(self._busy) >= _FEW else 2 * _SHARE
        if self._useless + untried / 2 > _SPARE + share * self._useful:
            return
        worth = _WORTH * self._page_size
        candidates = [span for span in self._busy if span.left >= worth and (span.listed or span.left < float("inf"))]
        for span in sorted(candidates, key=lambda span: -span.left):
            if self._is_unknown(span) and span.listed and self._climb(span, room):
                return
            # Both parts are whole pages that aren't quite full, lest a few keys cost a request.
            pages = ceil(min(_LARGE, span.left / self._page_size / _FILL))
            share = max(1, pages // 2) / pages
            cut = middle(span, share, self._alphabets, self._prefix, self._points)
            if cut is not None:
                self._split(span, cut, span.left * (1 - share))
                span.left *= share
                return
            span.left = 0.0

    def _climb(self, span: KeyRange, room: int) -> bool:
        """Cuts a range of which little is known at each depth of the keys that were listed of it."""
        cuts = rungs(span, self._alphabets, self._prefix)
        step = max(1.0, len(cuts) / max(1, room))
        chosen = [cuts[len(cuts) - 1 - int(number * step)] for number in range(int(len(cuts) / step))]
        # The outermost first: each cuts what is left before the last one.
        for cut in chosen:
            self._split(span, cut, float("inf"))
        if chosen:
            span.left = estimate(span, self._alphabets, self._prefix)
        return bool(chosen)

    def take(self, span: KeyRange, page: Page) -> pa.RecordBatch:
        """Takes a page of a range that next() gave.

        Args:
            span: The range.
            page: Its keys ascend, and are greater than the range's cursor. A truncated one without keys has a token.

        Returns:
            The rows of the range: those of a page may pass its end.
        """
        self._busy.remove(span)
        keys = page.keys
        self._alphabets.learn(keys)
        self._page_size = max(self._page_size, len(keys))
        kept = self._absorb(span, page)
        if not kept and not span.listed and span.cursor:
            self._alphabets.miss(place_of(span.cursor.removesuffix("/")[:-1]))
        if keys and span.first == "":
            span.first = keys[0]
        span.listed += kept
        self._useful += kept / self._page_size
        self._useless += 1 - kept / self._page_size
        if page.is_truncated and (not keys or span.hi is None or keys[-1] < span.hi):
            span.token = "" if keys else page.token
            if keys:
                span.cursor = keys[-1]
                span.left = self._estimate(span, was_wrong=span.left < kept)
            self._waiting[span.cursor] = span
        return page.rows[:kept]

    def _estimate(self, span: KeyRange, *, was_wrong: bool) -> float:
        """About how many keys are left of a range."""
        left = estimate(span, self._alphabets, self._prefix)
        span.outlasts |= was_wrong
        if span.outlasts:
            # What was learned says too little; what has lasted so long may last as long again.
            left = max(left, span.listed)
        # Nor does it say anything of what may come behind it.
        return max(left, self._least) if span.hi is None else left

    @property
    def _least(self) -> float:
        """What is taken to be left of a range without an end."""
        return 3 * self._page_size

    def _is_unknown(self, span: KeyRange) -> bool:
        """Whether nobody knows where the keys of a range are."""
        return span.left > _UNKNOWN * span.listed or (span.hi is None and span.left <= self._least)

    def _absorb(self, span: KeyRange, page: Page) -> int:
        """Adds to a range those behind it that its page reaches, if nobody lists them yet.

        Returns:
            How many of the page's keys are of the range.
        """
        keys = page.keys
        while span.hi is not None and (not page.is_truncated or (keys and keys[-1] >= span.hi)):
            behind = self._waiting.pop(span.hi, None)
            if behind is None:
                break
            span.hi, span.left = behind.hi, span.left + behind.left
        return len(keys) if span.hi is None else bisect_right(keys, span.hi)


class PageByPage:
    """One page after the other by their tokens, where keys can't be started after, or come in no order.

    Of a listing that was begun otherwise, only what is left counts.
    """

    def __init__(self, ranges: Sequence[tuple[str, str | None]] = (("", None),), token: str = "") -> None:
        """Makes it.

        Args:
            ranges: What is left, as in Checkpoint: disjoint and in order.
            token: Of the next page; "" for the first one.
        """
        self._ranges = list(ranges)
        self._cursors = [cursor for cursor, _ in ranges]
        self._all = self._ranges == [("", None)]
        self._token = token
        self._span: KeyRange | None = KeyRange(token=token)
        self.is_done = not self._ranges

    @property
    def left(self) -> float:
        """Nobody knows."""
        return float("inf")

    def checkpoint(self) -> Checkpoint:
        """What is left."""
        return Checkpoint([] if self.is_done else self._ranges, self._token)

    def next(self, room: int) -> KeyRange | None:  # noqa: ARG002 - one at a time
        """The next page, unless it is under way."""
        span, self._span = self._span, None
        return span

    def take(self, span: KeyRange, page: Page) -> pa.RecordBatch:
        """Takes the page, and leaves out what was listed before."""
        self._token = span.token = page.token
        self.is_done = not page.is_truncated
        self._span = span
        if self._all:
            return page.rows
        return page.rows.filter(pa.array([self._is_left(key) for key in page.keys], pa.bool_()))

    def _is_left(self, key: str) -> bool:
        at = bisect_left(self._cursors, key) - 1
        if at < 0:
            return False
        hi = self._ranges[at][1]
        return hi is None or key <= hi
