"""A bucket that answers ListObjectsV2 out of memory, in random order and with the faults that it is told to have."""

from __future__ import annotations

import random
from bisect import bisect_left, bisect_right
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from inventory_enqueue.aws.list_objects import PageReply, PageRequest
from inventory_enqueue.aws.list_page import PAGE_SCHEMA, Page

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

SLOW_DOWN = PageReply(0.0, 0.1, 503, code="SlowDown", message="Please reduce your request rate.")
NO_ANSWER = PageReply(0.0, 0.1, 0, message="the connection failed")
CUT = PageReply(0.0, 0.1, 200, code="BrokenAnswer", message="an answer of 5 bytes without its end")
DENIED = PageReply(0.0, 0.1, 403, code="AccessDenied", message="Access Denied")
TRANSIENT = (SLOW_DOWN, NO_ANSWER, CUT, PageReply(0.0, 0.1, 500, code="InternalError"))


def page_of(keys: Sequence[str], prefixes: Iterable[str] = (), *, is_truncated: bool = False, token: str = "") -> Page:
    arrays: list[pa.Array[Any]] = [pa.array(keys, pa.string())]
    arrays += [pa.array([None] * len(keys), kind) for kind in PAGE_SCHEMA.types[1:]]
    rows = pa.RecordBatch.from_arrays(arrays, schema=PAGE_SCHEMA)
    return Page(list(keys), rows, list(prefixes), is_truncated, token)


@dataclass
class MemoryBucket:
    """Implements PageSource."""

    keys: Iterable[str]
    page_size: int = 1000
    random: random.Random = field(default_factory=lambda: random.Random(0))  # noqa: S311 - no secret
    faults: float = 0.0
    """Of requests, this share fails for once."""
    empty: float = 0.0
    """Of pages, this share has no key and still isn't the last."""
    short: bool = False
    """Whether pages hold fewer keys than they could."""
    ignores_start_after: bool = False
    shuffled: bool = False
    """Whether keys come in no order."""
    fault: Callable[[PageRequest], PageReply | None] = lambda _: None
    requests: list[PageRequest] = field(default_factory=list)
    most: int = 0
    """Requests in flight."""
    closed: bool = False

    def __post_init__(self) -> None:
        self.keys = self._keys = sorted(self.keys)
        if self.shuffled:
            self.random.shuffle(self._keys)
        self._in_flight: list[PageRequest] = []

    def begin(self, request: PageRequest) -> None:
        self.requests.append(request)
        self._in_flight.append(request)
        self.most = max(self.most, len(self._in_flight))

    def finished(self, timeout: float) -> list[tuple[PageRequest, PageReply]]:
        assert timeout >= 0
        self.random.shuffle(self._in_flight)
        count = self.random.randint(1, len(self._in_flight)) if self._in_flight else 0
        done, self._in_flight = self._in_flight[:count], self._in_flight[count:]
        return [(request, self._reply(request)) for request in done]

    def close(self) -> None:
        self.closed = True

    def _reply(self, request: PageRequest) -> PageReply:
        fault = self.fault(request)
        if fault is None and self.random.random() < self.faults:
            fault = self.random.choice(TRANSIENT)
        return fault or PageReply(0.0, 0.1, 200, self._page(request))

    def _page(self, request: PageRequest) -> Page:
        if request.delimiter:
            return self._folders(request)
        start = self._start(request)
        size = self.random.randint(1, self.page_size) if self.short else self.page_size
        if self.random.random() < self.empty:
            size = 0
        keys = [key for key in self._keys[start : start + size] if key.startswith(request.prefix)]
        end = start + size
        more = end < len(self._keys) and (self.shuffled or self._keys[end].startswith(request.prefix))
        return page_of(keys, is_truncated=more, token=f"{end} {len(self.requests)}" if more else "")

    def _start(self, request: PageRequest) -> int:
        if request.token:
            return int(request.token.split()[0])
        if self.shuffled:
            return 0
        first = bisect_left(self._keys, request.prefix)
        after = request.start_after
        return first if self.ignores_start_after or not after else max(first, bisect_right(self._keys, after))

    def _folders(self, request: PageRequest) -> Page:
        names: dict[str, None] = {}
        for key in sorted(key for key in self._keys if key.startswith(request.prefix)):
            cut = key.find(request.delimiter, len(request.prefix))
            names[key[: cut + 1] if cut >= 0 else key] = None
            if len(names) > self.page_size:
                break
        listed = list(names)[: self.page_size]
        folders = [name for name in listed if name.endswith(request.delimiter)]
        more = len(names) > self.page_size
        return page_of([], folders, is_truncated=more, token="more" if more else "")

    def count(self) -> Counter[str]:
        return Counter("probe" if request.delimiter else "page" for request in self.requests)
