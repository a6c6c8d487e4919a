"""Before a run: may it start, and how is its work cut into tasks?"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from inventory_enqueue.aws.s3 import bucket_region
from inventory_enqueue.aws.session import queue_region
from inventory_enqueue.config import Change, FirstRun, RunConfig, Sizes, SqsQueue
from inventory_enqueue.delivery.landing import Landing
from inventory_enqueue.errors import RefusedError
from inventory_enqueue.fingerprints import MAX_FILES, Scheme
from inventory_enqueue.index import IndexMeta
from inventory_enqueue.manifest import InventoryFile
from inventory_enqueue.report import iso
from inventory_enqueue.run import Baseline, Delivery, Plan, Run, Runtime, new_run_id
from inventory_enqueue.store import LocalStore
from inventory_enqueue.uris import S3Url

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """What a run is planned from."""

    config: RunConfig
    runtime: Runtime
    landing: Landing
    delivery: Delivery
    pipeline: str

    @property
    def state(self) -> Path:
        """The pipeline's folder in the state."""
        return self.config.state.absolute() / self.pipeline


SCOPE: Final = {"prefix": "", "versions": "current"}
"""What of a bucket the index holds: all of it, and of each key the current version."""

_BYTES_PER_ROW: Final = 60
"""A row of a real delivery in Parquet takes 66 to 76 bytes; fewer here, so that the estimate errs upwards."""
_MAX_PARTITION_BITS: Final = 16


def nothing_to_do(job: Job, baseline: Baseline | None) -> str | None:
    """Why the delivery needs no run, or None if it does."""
    delivery = job.delivery
    if baseline is None or job.config.previous is not None:
        return None
    if delivery.manifest.md5 == baseline.manifest_md5:
        return f"this delivery was committed before, by run {baseline.run_id}: nothing is sent"
    if delivery.manifest.creation_timestamp < baseline.creation_timestamp:
        return (
            f"this delivery ({iso(delivery.manifest.creation_timestamp)}) is older than the one committed last "
            f"({iso(baseline.creation_timestamp)}): nothing is sent"
        )
    return None


def check_guards(job: Job, baseline: Baseline | None) -> None:
    """Stops a run that would surprise its user.

    Raises:
        RefusedError: There is no baseline and no word on what to do then, the delivery is empty, or of another bucket.
    """
    config, delivery = job.config, job.delivery
    where = str(delivery.location)
    if not delivery.manifest.files:
        raise RefusedError(
            "the delivery has no data files, so every known key would count as deleted; wait for the next delivery",
            where=where,
        )
    if len(delivery.manifest.files) > MAX_FILES:
        raise RefusedError(f"the delivery has more than {MAX_FILES} data files", where=where)
    if baseline is None:
        if config.first_run is None and config.previous is None:
            raise RefusedError(
                "this pipeline has no baseline yet: choose --first-run seed (record what is there, send nothing), "
                "--first-run all (send every object), or --previous MANIFEST (send what is new since that delivery)",
                where=where,
            )
        return
    if baseline.source_bucket != delivery.manifest.source_bucket:
        raise RefusedError(
            f"it lists the bucket {delivery.manifest.source_bucket!r}, this pipeline's baseline "
            f"{baseline.source_bucket!r}; use another --pipeline for another bucket",
            where=where,
        )
    if dict(baseline.scope) != SCOPE:
        raise RefusedError(
            f"this pipeline's baseline has the scope {dict(baseline.scope)}, this run {SCOPE}; use another --pipeline",
            where=where,
        )


def check_content(run: Run, content_columns: tuple[str, ...]) -> None:
    """Warns where an overwrite is invisible, and stops where only the config's columns changed.

    Raises:
        RefusedError: Changed keys are asked for, and the two deliveries don't have the same columns to tell them by.
    """
    if not content_columns:
        _log.warning("the inventory has neither ETag nor Size: an overwritten object can't be seen")
    if run.baseline is None or Change.CHANGED not in run.selected_changes:
        return
    known = IndexMeta.load(run.pipeline_store, run.baseline.index).content_columns
    if known != content_columns:
        raise RefusedError(
            f"this delivery has {' and '.join(content_columns) or 'neither e_tag nor size'}, the baseline "
            f"{' and '.join(known) or 'neither'}: every object would look changed; run once with --changes new",
            where=str(run.current.location),
        )


def plan_run(job: Job, baseline: Baseline | None) -> Run:
    """Makes a run, without writing anything.

    Raises:
        InventoryUnavailableError, IntegrityError: The previous delivery or the baseline's index can't be used.
        RefusedError: The previous delivery is of another bucket.
    """
    config, delivery, landing = job.config, job.delivery, job.landing
    previous = None if config.previous is None else landing.open(config.previous)
    if previous is not None and previous.manifest.source_bucket != delivery.manifest.source_bucket:
        raise RefusedError(
            f"it lists the bucket {previous.manifest.source_bucket!r}, {delivery.location} lists "
            f"{delivery.manifest.source_bucket!r}: only deliveries of one bucket can be compared",
            where=str(previous.location),
        )
    now = datetime.now(tz=UTC)
    run_id = new_run_id(now)
    folder = job.runtime.work_dir / run_id / "dry-run" if config.dry_run else job.state / "runs" / run_id
    compared_with = None if previous is not None else baseline
    return Run(
        id=run_id,
        pipeline=job.pipeline,
        created=now,
        state=job.state,
        folder=folder,
        config=config.to_json(),
        current=delivery,
        previous=previous,
        baseline=compared_with,
        seeding=compared_with is None and previous is None and config.first_run is FirstRun.SEED,
        source_region=_source_region(job),
        plan=_plan(job, previous, compared_with),
        runtime=job.runtime,
    )


def _plan(job: Job, previous: Delivery | None, baseline: Baseline | None) -> Plan:
    sizes, delivery = job.runtime.sizes, job.delivery
    scheme = Scheme() if baseline is None else IndexMeta.load(LocalStore(job.state), baseline.index).scheme
    return Plan(
        scheme=scheme,
        partition_bits=_partition_bits(sizes, delivery, previous, baseline),
        batches=_batches(delivery.manifest.files, sizes.bytes_per_batch),
        previous_batches=() if previous is None else _batches(previous.manifest.files, sizes.bytes_per_batch),
    )


def _partition_bits(sizes: Sizes, delivery: Delivery, previous: Delivery | None, baseline: Baseline | None) -> int:
    if sizes.partition_bits is not None:
        return sizes.partition_bits
    rows = delivery.manifest.total_bytes // _BYTES_PER_ROW
    if previous is not None:
        rows = max(rows, previous.manifest.total_bytes // _BYTES_PER_ROW)
    if baseline is not None:
        rows = max(rows, baseline.identities)
    return min(_MAX_PARTITION_BITS, max(0, math.ceil(math.log2(max(rows, 1) / sizes.rows_per_partition))))


def _batches(files: Sequence[InventoryFile], bytes_per_batch: int) -> tuple[tuple[int, ...], ...]:
    """Neighbouring files together up to a size; a larger file makes a batch of its own."""
    batches: list[list[int]] = []
    size = 0
    for number, file in enumerate(files):
        if not batches or size + file.size > bytes_per_batch:
            batches.append([])
            size = 0
        batches[-1].append(number)
        size += file.size
    return tuple(tuple(batch) for batch in batches)


def _source_region(job: Job) -> str:
    """The source bucket's region for awsRegion in messages, or the best guess at it."""
    config, delivery, landing = job.config, job.delivery, job.landing
    if config.source_region is not None:
        return config.source_region
    if isinstance(delivery.location, S3Url):
        # An inventory's destination is in the source's region.
        for bucket in (delivery.manifest.source_bucket, delivery.manifest.destination_bucket):
            region = bucket_region(landing.client, bucket)
            if region is not None:
                return region
    queue = queue_region(config.sink.queue_url) if isinstance(config.sink, SqsQueue) else None
    region = queue or config.aws.region or "us-east-1"
    _log.info("the bucket's region can't be asked; messages say %s (set it with --source-region)", region)
    return region
