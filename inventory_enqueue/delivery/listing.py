"""Lists a bucket with many requests in flight from one thread: disjoint ranges of keys, cut while they are listed.

A listing is no snapshot: keys that are added or deleted meanwhile may or may not show.
https://docs.aws.amazon.com/AmazonS3/latest/userguide/optimizing-performance.html
"""

import heapq
import logging
import time
from collections import Counter
from collections.abc import Iterator
from itertools import count, pairwise
from typing import Final

import pyarrow as pa

from inventory_enqueue.aws.list_objects import BROKEN, PageReply, PageRequest, PageSource
from inventory_enqueue.aws.list_page import PAGE_SCHEMA, Page
from inventory_enqueue.aws.s3 import LIST, AccessDeniedError, ObjectNotFoundError, error_for
from inventory_enqueue.delivery.partition import PageByPage, Partition, Work
from inventory_enqueue.delivery.ranges import Checkpoint, KeyRange
from inventory_enqueue.errors import InventoryEnqueueError, PreflightError, StoppedError
from inventory_enqueue.pacing import RETRY_POLICY, RetryPolicy, Window
from inventory_enqueue.uris import S3Url
from inventory_enqueue.watch import RESUMES, Watch

CONCURRENCY: Final = 64
ROWS_PER_BATCH: Final = 50_000
"""About 10 MB."""
_CHECK: Final = 0.25
"""Seconds after which a waiting loop looks whether the run was stopped."""
_DEPTH: Final = 8
"""Folders that hold one folder alone, one in the other, into which a discovery looks."""
_DIRECTORY: Final = ("--x-s3", "--xa-s3")
"""What directory buckets' names, and those of access points to them, end with."""
_SERVER_ERROR: Final = 500
_OK: Final = 200
_TRANSIENT_STATUS: Final = frozenset({0, 408, 429})
_THROTTLED_STATUS: Final = frozenset({429, 503})
_THROTTLED: Final = frozenset(
    {"SlowDown", "ServiceUnavailable", "Throttling", "ThrottlingException", "RequestLimitExceeded", "TooManyRequests"}
)
_TRANSIENT: Final = frozenset({"RequestTimeout", "InternalError", "OperationAborted", BROKEN})

_log = logging.getLogger(__name__)


class UnorderedError(StoppedError):
    """A store that listed keys in order does so no more: it can be listed page by page alone."""


class _Flight:
    """A request that isn't settled."""

    def __init__(self, request: PageRequest, work: Work | None, span: KeyRange | None) -> None:
        self.request = request
        self.work = work
        """Whose; None for the discovery."""
        self.span = span
        self.attempts = 0
        """In vain."""


class Lister:
    """Lists the keys under a prefix, each once."""

    def __init__(  # noqa: PLR0913 - each has its default but three
        self,
        source: PageSource,
        url: S3Url,
        *,
        watch: Watch,
        concurrency: int = CONCURRENCY,
        start: Checkpoint | None = None,
        page_by_page: bool = False,
        policy: RetryPolicy = RETRY_POLICY,
        rows_per_batch: int = ROWS_PER_BATCH,
    ) -> None:
        """Makes it; nothing is asked yet.

        Args:
            source: Of pages of the bucket; it must take `concurrency` requests at a time. It is closed at the end.
            url: The bucket, and the prefix as its key.
            watch: Whether to go on.
            concurrency: Requests in flight, at most.
            start: What is left of an earlier listing of the same bucket and prefix.
            page_by_page: By one pager, as stores need that list in no order.
            policy: When to give up: its patience is that without any page.
            rows_per_batch: Rows are handed over when there are so many, at least.
        """
        self._source = source
        self._url = url
        self._watch = watch
        self._policy = policy
        self._rows_per_batch = rows_per_batch
        self._window = Window(concurrency)
        begun = start or Checkpoint([("", None)])
        self._work: Work
        if page_by_page or begun.token is not None or url.bucket.endswith(_DIRECTORY):
            self._work = PageByPage(begun.ranges, begun.token or "")
        else:
            self._work = Partition(url.key, begun.ranges)
        self._discovers = start is None and isinstance(self._work, Partition)
        self._in_flight: dict[PageRequest, _Flight] = {}
        self._delayed: list[tuple[float, int, _Flight]] = []
        """When, in which order, what."""
        self._probes: list[str] = []
        """Prefixes to look for folders under."""
        self._found: tuple[PageRequest, Page] | None = None
        """What a discovery brought before the first page."""
        self._order = count()
        self._got_on = time.monotonic()
        self._batches: list[pa.RecordBatch] = []
        self._rows = 0
        self.keys = 0
        """Listed by this object."""
        self.counts: Counter[str] = Counter()
        """requests, pages, probes (those of the discovery), retries, throttled."""

    @property
    def pagers(self) -> int:
        """Requests in flight."""
        return len(self._in_flight)

    @property
    def share_done(self) -> float | None:
        """About which share of the keys that this object is to list it has; None where nobody knows."""
        total = self.keys + self._work.left
        if self._work.is_done:
            return 1.0
        return None if total in {0, float("inf")} else self.keys / total

    def checkpoint(self) -> Checkpoint:
        """What is left, as of the last batch that batches() gave: all rows before it count as taken."""
        return self._work.checkpoint()

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Lists. Call it once.

        Yields:
            Rows of PAGE_SCHEMA, in no order, each key once.

        Raises:
            PreflightError: The bucket isn't there, or may not be listed; or there are no credentials.
            StoppedError: The run was stopped, or the store gives no answers. What is left is in checkpoint().
            UnorderedError: The store doesn't list keys in order, which showed too late.
        """
        try:
            while not self._work.is_done:
                self._watch.check()
                self._begin()
                self._settle()
                if self._rows >= self._rows_per_batch:
                    yield self._flush()
                    # Whoever takes the rows may have taken his time, too.
                    self._got_on = time.monotonic()
        except InventoryEnqueueError:
            # A page's rows are taken off the checkpoint when it comes.
            if self._rows:
                yield self._flush()
            raise
        finally:
            self._source.close()
        if self._rows:
            yield self._flush()

    def _flush(self) -> pa.RecordBatch:
        table = pa.Table.from_batches(self._batches, PAGE_SCHEMA).combine_chunks()
        self._batches, self._rows = [], 0
        return table.to_batches()[0]

    def _begin(self) -> None:
        """Begins what may begin now."""
        now = time.monotonic()
        while len(self._in_flight) < self._window.size:
            if self._delayed and self._delayed[0][0] <= now:
                flight = heapq.heappop(self._delayed)[2]
                if flight.work in {None, self._work}:
                    self.counts["retries"] += 1
                    self._send(flight)
                continue
            if self._probes:
                self._probe(self._probes.pop())
                continue
            span = self._work.next(self._window.size - len(self._in_flight) - len(self._delayed))
            if span is None:
                return
            start_after = "" if isinstance(self._work, PageByPage) else span.cursor
            request = PageRequest(self._url.key, start_after=start_after, token=span.token)
            self._send(_Flight(request, self._work, span))
            if self._discovers:
                self._discovers = False
                self._probes.append(self._url.key)

    def _probe(self, prefix: str) -> None:
        self.counts["probes"] += 1
        self._send(_Flight(PageRequest(prefix, delimiter="/"), None, None))

    def _send(self, flight: _Flight) -> None:
        self.counts["requests"] += 1
        self._source.begin(flight.request)
        self._in_flight[flight.request] = flight

    def _settle(self) -> None:
        """Takes the answers that have come.

        Raises:
            PreflightError, StoppedError: One of them says that it is of no use to go on, or patience is at its end.
        """
        wait = _CHECK
        if self._delayed:
            wait = min(wait, max(0.0, self._delayed[0][0] - time.monotonic()))
        if not self._in_flight:
            time.sleep(wait)
            return
        fatal: InventoryEnqueueError | None = None
        for request, reply in self._source.finished(wait):
            flight = self._in_flight.pop(request)
            if flight.work not in {None, self._work}:
                continue  # of ranges that were given up
            try:
                self._answered(flight, reply)
            except InventoryEnqueueError as error:
                fatal = fatal or error
        if fatal is not None:
            raise fatal

    def _answered(self, flight: _Flight, reply: PageReply) -> None:
        page = reply.page
        if page is None or _leads_nowhere(flight, page):
            self._failed(flight, reply)
            return
        self._window.answered(reply.seconds)
        self._got_on = time.monotonic()
        if flight.span is None:
            self._discovered(flight.request, page)
        else:
            self._listed(flight.span, page)

    def _discovered(self, request: PageRequest, page: Page) -> None:
        """Common prefixes are where to cut; one alone is looked into."""
        work = self._work
        if not isinstance(work, Partition):
            return
        if not self.counts["pages"]:
            self._found = request, page
            return
        if len(page.prefixes) == 1 and not page.is_truncated and request.prefix.count("/") < _DEPTH:
            self._probes.append(page.prefixes[0])
            return
        room = self._window.size - len(self._in_flight)
        work.learn(sorted(page.prefixes), all_of_them=not page.is_truncated, room=room)

    def _listed(self, span: KeyRange, page: Page) -> None:
        keys = page.keys
        if keys and isinstance(self._work, Partition):
            ascends = all(one < other for one, other in pairwise(keys))
            # A range goes on after its cursor, by a token or not.
            if not ascends or keys[0] <= span.cursor:
                self._fall_back(ascends=ascends)
                return
        self.counts["pages"] += 1
        rows = self._work.take(span, page)
        if rows.num_rows:
            self._batches.append(rows)
            self._rows += rows.num_rows
            self.keys += rows.num_rows
        found, self._found = self._found, None
        if found is not None:
            self._discovered(*found)

    def _fall_back(self, *, ascends: bool) -> None:
        """Goes on page by page.

        Args:
            ascends: Whether the page that shows it is in order, so that the ones before it may be trusted.

        Raises:
            UnorderedError: It is too late: keys may be missing from what was listed.
        """
        if self.keys and not ascends:
            raise UnorderedError(
                "the store doesn't list keys in order, which showed too late; list it page by page, from the beginning",
                where=str(self._url),
            )
        _log.warning("%s: the store can't start after a key, or lists in no order; going on page by page", self._url)
        self._work = PageByPage(self._work.checkpoint().ranges)
        self._delayed.clear()
        self._probes.clear()

    def _failed(self, flight: _Flight, reply: PageReply) -> None:
        """Asks again, later.

        Raises:
            PreflightError: It would be of no use.
            StoppedError: It was of no use often enough.
        """
        now = time.monotonic()
        code = reply.code or (BROKEN if reply.status == _OK else "")
        throttled = reply.status in _THROTTLED_STATUS or code in _THROTTLED
        if throttled:
            self.counts["throttled"] += 1
            self._window.throttled(began=reply.began, now=now)
        elif not _is_transient(reply, code):
            if flight.span is None:
                # A policy may allow to list without a delimiter, or some prefixes alone.
                _log.info("%s: no discovery of folders: %s %s", self._url, code, reply.message)
                return
            raise self._refused(code, reply.message)
        flight.attempts += 1
        is_over = now - self._got_on > self._policy.patience
        if is_over or (flight.attempts >= self._policy.attempts and not throttled):
            why = f"{code} {reply.message}".strip()
            raise StoppedError(f"S3 can't be listed: {why}; {RESUMES}", where=str(self._url))
        delay = 0.0 if reply.may_work_again and flight.attempts == 1 else self._policy.delay(flight.attempts)
        heapq.heappush(self._delayed, (now + delay, next(self._order), flight))

    def _refused(self, code: str, message: str) -> InventoryEnqueueError:
        error = error_for(code, message, self._url, LIST)
        where = str(self._url)
        if isinstance(error, AccessDeniedError):
            return PreflightError(f"access is denied; allow {LIST} on its bucket ({code}: {message})", where=where)
        if isinstance(error, ObjectNotFoundError):
            return PreflightError(f"the bucket isn't there ({code}: {message})", where=where)
        return error


def _leads_nowhere(flight: _Flight, page: Page) -> bool:
    """Whether there is more after a page, and no way to it."""
    if flight.span is None or not page.is_truncated:
        return False
    by_token = isinstance(flight.work, PageByPage) or not page.keys
    return by_token and page.token in {"", flight.request.token}


def _is_transient(reply: PageReply, code: str) -> bool:
    """Whether the same request may work another time."""
    return (
        reply.status >= _SERVER_ERROR
        # An error that comes with this status came up after the answer was begun.
        or reply.status == _OK
        or reply.status in _TRANSIENT_STATUS
        or code in _TRANSIENT
        or reply.may_work_again
    )
