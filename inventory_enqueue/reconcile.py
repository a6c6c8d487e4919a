"""Counts that must agree before the baseline moves: each pair was counted in two places."""

from collections import Counter

from inventory_enqueue.errors import IntegrityError
from inventory_enqueue.index import IndexMeta
from inventory_enqueue.run import Run

_TODAY = ("unchanged", "new", "changed", "newly_admitted")


def check_listed(run: Run, counts: Counter[str]) -> None:
    """Every row that was listed, and every identity of the baseline, is in exactly one class of the diff.

    Raises:
        IntegrityError: One is in none, or in two.
    """
    classified = sum(counts[name] for name in (*_TODAY, "duplicates", "not_live", "excluded", "quarantined"))
    _agree(run, "rows listed", counts["listed"], "rows classified", classified)
    known = counts["unchanged"] + counts["changed"] + counts["newly_admitted"] + counts["deleted"]
    if run.baseline is not None:
        _agree(run, "keys in the baseline", run.baseline.identities, "baseline keys classified", known)


def check_sent(run: Run, counts: Counter[str], sent: Counter[str]) -> None:
    """Every selected key was acknowledged, or stands in the files of failures or late keys, or can't be named any more.

    Raises:
        IntegrityError: One is missing.
    """
    settled = sent["sent"] + sent["failed"] + sent["late"] + sent["deleted_gone"]
    _agree(run, "keys selected", counts["selected"], "keys acknowledged, failed, late or gone", settled)


def content_columns(run: Run, counts: Counter[str]) -> tuple[str, ...]:
    """What f could look at in this run: columns that the plan names, and every file of the delivery has.

    A delivery without files doesn't tell: what the baseline had is taken.
    """
    manifest = run.current.manifest
    files = len(manifest.files)
    if not files and run.baseline is not None and not run.plan.indexes_previous:
        return IndexMeta.load(run.pipeline_store, run.baseline.index).content_columns
    if not files:
        return tuple(name for name in run.plan.content_columns if name in manifest.columns)
    return tuple(name for name in run.plan.content_columns if counts[f"files_with_{name}"] == files)


def _agree(run: Run, one: str, number: int, other: str, other_number: int) -> None:
    if number != other_number:
        raise IntegrityError(
            f"the counts don't reconcile: {number} {one}, {other_number} {other}; nothing was committed. Run it again "
            "with another --work-dir; if it stays so, report it with this run's tasks/ folder",
            where=run.store.where(),
        )
