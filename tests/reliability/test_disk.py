"""Disks that are full, at any file: a clean stop, and a re-run that works."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from inventory_enqueue.report import Status
from tests.support.killer import FILE_LIMIT, run_killed
from tests.support.running import NEVER

if TYPE_CHECKING:
    from tests.support.pipelines import Days, Pipeline

BATCH = 10


@pytest.mark.parametrize("most", [1, 100, 250, 400, 600, 1_000, 1_500, 2_000, 2_500, 3_000, 4_000, 6_000])
def test_where_a_disk_is_full_the_run_stops_and_the_next_one_goes_on(most: int, seeded: Pipeline, days: Days) -> None:
    """A limit of a file's size stops the run at the first file that is larger: whichever of all it is."""
    before = seeded.baseline
    full = run_killed(NEVER, *seeded.arguments(days.second), env={FILE_LIMIT: str(most)})
    if full.exit_code != 0:
        assert (full.exit_code, full.report["status"]) == (8, "incomplete"), full
        assert "run the same command again" in full.report["error"]["message"]
        assert seeded.baseline == before
    assert not list(seeded.home.rglob("*.tmp")), "half a file is left"
    assert seeded.run(days.second).status in {Status.COMMITTED, Status.NOTHING_NEW}
    received = seeded.received()
    assert received.keys() == days.second_new.keys()
    assert (received - days.second_new).total() <= seeded.concurrency * BATCH
