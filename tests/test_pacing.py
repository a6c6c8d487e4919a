"""How fast is sent, by a clock that the tests turn: no test waits."""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inventory_enqueue.pacing import RETRY_POLICY, Pace, Pause, Rate, RetryBudget, RetryPolicy, Window

# ---- Window


def answers(window: Window, count: int, seconds: float) -> list[int]:
    """Let so many answers come; the sizes after each of them."""
    sizes = []
    for _ in range(count):
        window.answered(seconds)
        sizes.append(window.size)
    return sizes


@pytest.mark.parametrize("limit", [1, 2, 7, 8, 9, 64, 256])
@pytest.mark.parametrize("seconds", [0.0005, 0.01, 0.2])
def test_the_window_grows_to_its_limit_and_never_beyond_while_latency_holds(limit: int, seconds: float) -> None:
    window = Window(limit)
    assert window.size == min(8, limit)
    sizes = answers(window, 1000, seconds)
    assert sizes == sorted(sizes)
    assert sizes[-1] == limit


def test_the_window_doubles_with_each_round_of_answers() -> None:
    window = Window(256)
    sizes = []
    for _ in range(5):
        answers(window, window.size, 0.01)
        sizes.append(window.size)
    assert sizes == [16, 32, 64, 128, 256]


def test_the_window_grows_to_its_limit_though_latency_wavers() -> None:
    chance = random.Random(7)  # noqa: S311 - a test's jitter
    window = Window(256)
    for _ in range(3000):
        window.answered(0.02 * chance.lognormvariate(0, 0.5))
    assert window.size == 256


def test_the_window_stops_growing_when_latency_more_than_doubles_and_goes_on_when_it_falls_again() -> None:
    window = Window(1024)
    answers(window, 20, 0.05)
    answers(window, 3 * window.size, 0.15)  # it is noticed after one round, which is one doubling
    stopped = window.size
    assert stopped <= 64
    assert set(answers(window, 10 * stopped, 0.15)) == {stopped}
    assert answers(window, 3000, 0.05)[-1] == 1024


def test_another_latency_becomes_the_norm_in_time() -> None:
    window = Window(64)
    answers(window, 20, 0.02)
    assert answers(window, 20_000, 0.06)[-1] == 64


@pytest.mark.parametrize("capacity", [5, 20, 60])
@pytest.mark.parametrize("base", [0.02, 0.1])
def test_a_queue_with_so_many_workers_is_used_to_the_full_and_not_drowned(capacity: int, base: float) -> None:
    """More requests in flight than workers only wait."""
    window = Window(4096)
    free = [0.0] * capacity
    in_flight: list[tuple[float, float]] = []
    now, done, seconds = 0.0, 0, 200 * base
    while now < seconds:
        while len(in_flight) < window.size:
            end = max(now, heapq.heappop(free)) + base
            heapq.heappush(free, end)
            heapq.heappush(in_flight, (end, now))
        now, began = heapq.heappop(in_flight)
        window.answered(now - began)
        done += 1
    assert capacity <= window.size <= 16 * capacity
    assert done >= 0.95 * capacity / base * seconds


def throttle(window: Window, count: int, *, began: float, now: float) -> None:
    for _ in range(count):
        window.throttled(began=began, now=now)


def test_one_throttled_round_halves_the_window_once() -> None:
    window = Window(64)
    answers(window, 200, 0.01)
    throttle(window, 64, began=1.0, now=100.0)
    assert window.size == 32
    throttle(window, 64, began=99.9, now=200.0)
    assert window.size == 32, "they began before the window was halved"
    throttle(window, 1, began=100.5, now=201.0)
    assert window.size == 16


def test_as_long_as_few_requests_are_throttled_the_window_grows() -> None:
    chance = random.Random(7)  # noqa: S311 - a test's server
    window, sizes = Window(64), []
    for now in range(5000):
        if chance.random() < 0.03:
            window.throttled(began=now - 0.5, now=now)
        else:
            window.answered(0.01)
        sizes.append(window.size)
    assert sum(sizes[1000:]) / 4000 > 48


def test_a_window_settles_near_what_the_queue_takes() -> None:
    """A queue that takes 30 requests at a time and throttles the others."""
    window, sizes = Window(256), []
    for now in range(2000):
        sent = window.size
        for number in range(sent):
            if number < 30:
                window.answered(0.01)
            else:
                window.throttled(began=now, now=now + 0.5)
        sizes.append(sent)
    assert 20 < sum(sizes[100:]) / 1900 < 40


def test_after_throttling_the_window_grows_by_one_a_round() -> None:
    window = Window(64)
    answers(window, 200, 0.01)
    throttle(window, 64, began=1.0, now=2.0)
    sizes = answers(window, 33 * 3, 0.01)
    assert 34 <= sizes[-1] <= 35
    assert answers(window, 10_000, 0.01)[-1] == 64


@given(
    limit=st.integers(1, 256),
    events=st.lists(st.one_of(st.none(), st.floats(0, 100)), max_size=300),
)
def test_the_window_is_always_from_1_to_its_limit(limit: int, events: list[float | None]) -> None:
    window = Window(limit)
    for now, seconds in enumerate(events):
        if seconds is None:
            window.throttled(began=now - 0.5, now=float(now))
        else:
            window.answered(seconds)
        assert 1 <= window.size <= limit


def test_a_window_that_is_throttled_without_end_is_1_and_recovers() -> None:
    window = Window(256)
    for now in range(100):
        window.throttled(began=now + 0.5, now=now + 0.6)
    assert window.size == 1
    assert answers(window, 40_000, 0.01)[-1] == 256


# ---- Rate


def sent(rate: Rate, seconds: float, *, sizes: tuple[int, int], jitter: float) -> list[tuple[float, int]]:
    """When requests begin, and of how many messages, by a loop that comes up to `jitter` seconds late each time."""
    chance = random.Random(1)  # noqa: S311 - a test's jitter
    now, begun = 1_000_000.0, []
    end = now + seconds
    while now < end:
        if wait := rate.wait(now):
            now += wait + chance.uniform(0, jitter)
            continue
        messages = chance.randint(*sizes)
        rate.begun(messages, now)
        begun.append((now - 1_000_000.0, messages))
    return begun


RATES = [1, 10, 77.7, 1_000, 12_345]


@pytest.mark.parametrize(
    ("per_second", "sizes"),
    [*itertools.product(RATES, [(1, 1), (1, 10), (10, 10)]), (100_000, (1, 10)), (100_000, (10, 10))],
)
@pytest.mark.parametrize("jitter", [0.0, 0.001, 0.08])
def test_the_rate_is_exact_over_ten_seconds(per_second: float, sizes: tuple[int, int], jitter: float) -> None:
    begun = sent(Rate(per_second), 10, sizes=sizes, jitter=jitter)
    messages = sum(count for _, count in begun)
    # The last request may have begun just before the end.
    assert abs(messages - per_second * 10) <= 0.02 * per_second * 10 + sizes[1]


@pytest.mark.parametrize("per_second", RATES)
def test_no_part_of_a_second_has_a_burst(per_second: float) -> None:
    """What was missed up to 0.1 s ago is made up for; no more."""
    begun = sent(Rate(per_second), 3, sizes=(1, 10), jitter=0.05)
    times = [time for time, _ in begun]
    sums = [0, *itertools.accumulate(count for _, count in begun)]
    for width in (0.05, 0.5, 1.0):
        first = 0
        for last, time in enumerate(times):
            while times[first] < time - width:
                first += 1
            assert sums[last + 1] - sums[first] <= per_second * (width + 0.1) + 10 + 1e-6


def test_a_long_stop_is_not_made_up_for() -> None:
    rate = Rate(100)
    rate.begun(10, 0.0)
    rate.begun(10, 60.0)
    rate.begun(10, 60.0)
    assert rate.wait(60.0) == pytest.approx(0.1)


def test_without_a_rate_nothing_waits() -> None:
    rate = Rate(None)
    for now in (0.0, 0.0, 1.0):
        assert rate.wait(now) == 0
        rate.begun(10, now)


# ---- Retries


def test_retries_that_cost_more_than_successes_pay_back_spend_the_budget() -> None:
    budget = RetryBudget()
    for _ in range(100):
        assert not budget.is_spent
        budget.retried()
    assert budget.is_spent
    for _ in range(4):
        budget.succeeded()
        assert budget.is_spent
    budget.succeeded()
    assert not budget.is_spent
    budget.retried()
    assert budget.is_spent


def test_the_budget_holds_while_five_requests_get_on_for_each_retry() -> None:
    budget = RetryBudget()
    for _ in range(1000):
        budget.retried()
        for _ in range(5):
            budget.succeeded()
        assert not budget.is_spent


def test_the_budget_is_neither_overdrawn_nor_overfull() -> None:
    budget = RetryBudget()
    for _ in range(1000):
        budget.retried()
    for _ in range(5):
        budget.succeeded()
    assert not budget.is_spent, "it was overdrawn"
    for _ in range(10_000):
        budget.succeeded()
    for _ in range(100):
        budget.retried()
    assert budget.is_spent, "it was overfull"


@given(attempt=st.integers(0, 60), base=st.floats(0.001, 1), cap=st.floats(0.001, 60))
def test_delays_are_from_0_to_the_base_doubled_with_each_attempt_up_to_the_cap(
    attempt: int, base: float, cap: float
) -> None:
    policy = RetryPolicy(base=base, cap=cap)
    delays = [policy.delay(attempt) for _ in range(20)]
    assert all(0 <= delay <= min(cap, base * 2**attempt) for delay in delays)
    assert len(set(delays)) > 1, "without jitter, all senders come back at once"


def test_delays_take_about_50_seconds_together() -> None:
    whole = sum(sum(RETRY_POLICY.delay(attempt) for attempt in range(1, RETRY_POLICY.attempts)) for _ in range(500))
    assert whole / 500 == pytest.approx(50, rel=0.1)


# ---- Pause


class Backlog:
    """What waits in a queue, and when it was asked for."""

    def __init__(self, waiting: int) -> None:
        self.waiting = waiting
        self.now = 0.0
        self.asked: list[float] = []

    def __call__(self) -> int:
        self.asked.append(self.now)
        return self.waiting

    def wait(self, pause: Pause | Pace, now: float) -> float:
        self.now = now
        return pause.wait(now)


def test_a_pause_begins_above_its_limit_asks_each_five_seconds_and_releases() -> None:
    backlog = Backlog(101)
    pause = Pause(100, backlog)
    for tick in range(200):
        if tick == 120:
            backlog.waiting = 100  # not above any more
        now = tick / 10
        wait = backlog.wait(pause, now)
        if now < 15:
            assert 0 < wait <= 5
            assert now + wait == pytest.approx(backlog.asked[-1] + 5)
        else:
            assert wait == 0
    assert backlog.asked == [0, 5, 10, 15]


def test_a_sender_that_sleeps_as_long_as_it_is_told_asks_once_each_five_seconds() -> None:
    backlog = Backlog(5)
    pause, now = Pause(0, backlog), 0.0
    for _ in range(10):
        now += backlog.wait(pause, now)
    assert backlog.asked == [5.0 * number for number in range(10)]


def test_a_queue_that_is_never_above_stops_nobody_and_is_asked_each_five_seconds() -> None:
    backlog = Backlog(0)
    pause = Pause(0, backlog)
    assert all(backlog.wait(pause, tick / 100) == 0 for tick in range(1000))
    assert backlog.asked == [0, 5]


def test_a_pace_waits_for_the_rate_and_for_the_pause() -> None:
    backlog = Backlog(0)
    pace = Pace(64, rate=10, pause=Pause(10, backlog))
    assert backlog.wait(pace, 0.0) == 0
    pace.begun(10, 0.0)
    pace.begun(10, 1.0)
    assert backlog.wait(pace, 1.25) == pytest.approx(0.75)
    backlog.waiting = 11
    assert backlog.wait(pace, 5.0) == pytest.approx(5.0)
    backlog.waiting = 0
    assert backlog.wait(pace, 10.0) == 0


@pytest.mark.parametrize("concurrency", [1, 64])
def test_a_pace_without_limits_never_waits(concurrency: int) -> None:
    pace = Pace(concurrency)
    waits = Counter(pace.wait(now / 10) for now in range(100))
    assert waits == Counter({0.0: 100})
