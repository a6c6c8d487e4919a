"""What keeps a run from surprising its user: each guard refuses, and names the way to go on."""

import logging
import math
from collections import Counter

from inventory_enqueue import space
from inventory_enqueue.baseline import Baseline
from inventory_enqueue.config import MIN_GUARDED, Change
from inventory_enqueue.errors import InventoryUnavailableError, RefusedError
from inventory_enqueue.fingerprints import MAX_FILES
from inventory_enqueue.index import IndexMeta
from inventory_enqueue.ledger import Ledger
from inventory_enqueue.planning import Job
from inventory_enqueue.report import iso
from inventory_enqueue.run import Run

_log = logging.getLogger(__name__)


def nothing_to_do(job: Job, baseline: Baseline | None) -> str | None:
    """Why the delivery needs no run, or None if it does."""
    manifest = job.delivery.manifest
    if baseline is None or job.config.previous is not None or job.config.replay:
        return None
    if manifest.md5 == baseline.manifest_md5:
        return f"this delivery was committed before, by run {baseline.run_id}: nothing is sent"
    if manifest.creation_timestamp < baseline.creation_timestamp:
        return (
            f"this delivery ({iso(manifest.creation_timestamp)}) is older than the one committed last "
            f"({iso(baseline.creation_timestamp)}): nothing is sent"
        )
    return None


def check_state(job: Job, baseline: Baseline | None, ledger: Ledger) -> None:
    """Never takes everything for new because a file was lost.

    Raises:
        InventoryUnavailableError: There are indexes, but no baseline.
    """
    compares = job.config.previous is None and not job.config.replay
    if baseline is None and compares and ledger.store.names("indexes"):
        raise InventoryUnavailableError(
            "this pipeline has an index, but its baseline.json is gone: restore it from a backup, name the delivery to "
            "compare with by --previous, or drop it for good with `inventory-enqueue baseline drop` and start anew "
            "with --first-run",
            where=ledger.store.where("baseline.json"),
        )


def check_delivery(job: Job, baseline: Baseline | None) -> None:
    """Before anything is read.

    Raises:
        RefusedError: There is no baseline and no word on what to do then, or the delivery is empty or another bucket's.
    """
    config, manifest, where = job.config, job.delivery.manifest, str(job.delivery.location)
    if not manifest.files and config.max_shrink < 1:
        raise RefusedError(
            "the delivery has no data files, so every known key would count as deleted: wait for the next delivery, or "
            "go on with --max-shrink 1 if the bucket is empty",
            where=where,
        )
    if len(manifest.files) > MAX_FILES:
        raise RefusedError(f"the delivery has more than {MAX_FILES} data files", where=where)
    if baseline is None and config.first_run is None and config.previous is None and not config.replay:
        raise RefusedError(
            "this pipeline has no baseline yet: choose --first-run seed (record what is there, send nothing), "
            "--first-run all (send every object), or --previous MANIFEST (send what is new since that delivery)",
            where=where,
        )
    if baseline is not None and baseline.source_bucket != manifest.source_bucket:
        raise RefusedError(
            f"it lists the bucket {manifest.source_bucket!r}, this pipeline's baseline {baseline.source_bucket!r}; "
            "use another --pipeline for another bucket",
            where=where,
        )


def check_run(run: Run) -> None:
    """Once the run is planned, before anything is written.

    Raises:
        RefusedError: The baseline's index holds something else than the delivery lists.
        StoppedError: There is too little room for what the run will write.
    """
    _check_scope(run)
    space.check(run)


def _check_scope(run: Run) -> None:
    if run.config["versions"] == "all" and "version_id" not in run.current.manifest.columns:
        raise RefusedError(
            "this inventory lists current versions only: run with --versions current", where=str(run.current.location)
        )
    if run.baseline is None:
        return
    for name, ours in run.scope.items():
        theirs = run.baseline.scope.get(name)
        if ours != theirs and ours is not None and theirs is not None:
            raise RefusedError(
                f"the {name.replace('_', ' ')} of this run is {ours!r}, that of the baseline {theirs!r}; go on with "
                f"--previous {run.baseline.manifest_uri} (that delivery is read again, as this one), or use another "
                "--pipeline",
                where=str(run.current.location),
            )


def check_index(run: Run, counts: Counter[str], content_columns: tuple[str, ...]) -> None:
    """After the index stage: is this still the bucket that we know?

    Args:
        run: The run.
        counts: Of the index tasks.
        content_columns: What the delivery has of the columns that tell changed objects.

    Raises:
        RefusedError: Far fewer rows than the baseline's, too many rows that can't be trusted, or changed keys are asked
            for and can't be told.
    """
    where = str(run.current.location)
    for side, delivery in (("", run.current), ("previous_", run.previous or run.current)):
        location = str(delivery.location)
        _check_quarantined(run, counts[f"{side}quarantined"], counts[f"{side}listed"], location)
    rows = _counted(counts, "")
    known = _counted(counts, "previous_") if run.baseline is None else run.baseline.identities
    if rows < known * (1 - run.config["max_shrink"]):
        raise RefusedError(
            f"the delivery has {rows} objects, the one before {known}: fewer than --max-shrink "
            f"{run.config['max_shrink']} allows; wait for the next delivery, or raise it to go on",
            where=where,
        )
    if run.baseline is not None and not run.plan.indexes_previous:
        meta = IndexMeta.load(run.pipeline_store, run.baseline.index)
        if run.current.manifest.files:
            _tell_of_versions(meta, lists_versions=counts["files_with_is_latest"] > 0)
        _check_content(run, run.baseline, meta.content_columns, content_columns)
    if not content_columns:
        _log.warning("the inventory has neither ETag nor Size: an overwritten object can't be seen")


def check_selected(run: Run, counts: Counter[str]) -> None:
    """After the diff: is this about as much as a day brings?

    Raises:
        RefusedError: Far more is selected than --max-new-ratio of the baseline's objects.
    """
    if run.previous is None:
        return
    known = _counted(counts, "previous_") if run.baseline is None else run.baseline.identities
    selected = counts["selected"]
    if selected > max(MIN_GUARDED, _share(run.config["max_new_ratio"], known)):
        raise RefusedError(
            f"{selected:,} objects are to be sent, the delivery before has {known:,}: more than "
            f"--max-new-ratio {run.config['max_new_ratio']} allows; nothing was sent. Look at it with --dry-run; to "
            f"send them all, name {_enough(selected, known)} or more",
            where=str(run.current.location),
        )


def _share(ratio: float, known: int) -> float:
    """So many objects; of a bucket that was empty, as if it had had one: else no ratio would let any pass."""
    return ratio * max(known, 1)


def _enough(selected: int, known: int) -> float:
    """A ratio that lets them pass, in hundredths."""
    hundredths = math.ceil(selected * 100 / max(known, 1))
    # Few hundredths are numbers of the machine: 0.57 * 100 is less than 57.
    return (hundredths if _share(hundredths / 100, known) >= selected else hundredths + 1) / 100


def _check_quarantined(run: Run, quarantined: int, listed: int, where: str) -> None:
    if quarantined > run.config["max_quarantined"] * listed:
        raise RefusedError(
            f"{quarantined} of {listed} rows can't be trusted (named in {run.store.where('quarantine')}), more "
            f"than --max-quarantined {run.config['max_quarantined']} allows; raise it to leave them out and go on",
            where=where,
        )


def _counted(counts: Counter[str], side: str) -> int:
    reasons = ("not_live", "excluded", "quarantined")
    return counts[f"{side}listed"] - sum(counts[f"{side}{reason}"] for reason in reasons)


def _tell_of_versions(meta: IndexMeta, *, lists_versions: bool) -> None:
    if lists_versions != meta.lists_versions:
        now = "lists versions now" if lists_versions else "doesn't list versions any more"
        _log.info("the inventory %s: live objects are compared with live objects", now)


def _check_content(run: Run, baseline: Baseline, known: tuple[str, ...], content_columns: tuple[str, ...]) -> None:
    if known == content_columns:
        return
    difference = (
        f"this delivery tells changed objects by {' and '.join(content_columns) or 'nothing'}, the baseline by "
        f"{' and '.join(known) or 'nothing'}"
    )
    if Change.CHANGED in run.selected_changes:
        raise RefusedError(
            f"{difference}, so all would look changed: go on with --previous {baseline.manifest_uri} (both are "
            "compared by what both have), or with --changes new",
            where=str(run.current.location),
        )
    _log.warning("%s: all count as changed in this run; new and deleted ones are exact", difference)
