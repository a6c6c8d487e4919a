"""The index task for a file of known keys: their fingerprints, so that the diff can leave these keys out."""

from collections import Counter

import polars as pl

from inventory_enqueue.delivery.known_keys import read_known_keys
from inventory_enqueue.fingerprints import FINGERPRINT_SCHEMA, Versions
from inventory_enqueue.report import Stage, TaskReport
from inventory_enqueue.stages.spills import SpillWriter
from inventory_enqueue.stages.worker import Worker


def run(worker: Worker, number: int) -> TaskReport:
    """Fingerprints the keys of the file.

    Raises:
        InventoryUnavailableError, IntegrityError: The file isn't there, or can't be read.
    """
    run = worker.run
    assert run.known is not None  # noqa: S101 - a run without any has no such task
    h, k, _ = run.plan.scheme.expressions(run.versions)
    nothing = pl.lit(0, pl.UInt64)
    counts: Counter[str] = Counter()
    with SpillWriter(run, number) as writer:
        keys = read_known_keys(worker.landing, run.known.location, with_versions=run.versions is Versions.ALL)
        for frame in keys:
            worker.watch.check()
            counts["known_listed"] += frame.height
            rows = frame.select(h, k, f=nothing, row=nothing)
            writer.add(rows.match_to_schema(FINGERPRINT_SCHEMA))
    return TaskReport(Stage.INDEX, number, counts, (writer.output,))
