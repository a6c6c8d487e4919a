"""How a run's work is cut into tasks, and whatever else is settled before it starts."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from inventory_enqueue.aws.s3 import bucket_region, inventory_filter
from inventory_enqueue.aws.session import queue_region
from inventory_enqueue.config import FirstRun, RunConfig, Sizes, SqsQueue
from inventory_enqueue.delivery.finding import manifest_location
from inventory_enqueue.delivery.landing import Landing
from inventory_enqueue.errors import RefusedError
from inventory_enqueue.fingerprints import CONTENT_COLUMNS, Scheme
from inventory_enqueue.index import IndexMeta
from inventory_enqueue.manifest import InventoryFile
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


_BYTES_PER_ROW: Final = 60
"""A row of a real delivery in Parquet takes 66 to 76 bytes; fewer here, so that the estimate errs upwards."""
_MAX_PARTITION_BITS: Final = 16


def plan_run(job: Job, baseline: Baseline | None) -> Run:
    """Makes a run, without writing anything.

    Raises:
        InventoryUnavailableError, IntegrityError: The previous delivery or the baseline's index can't be used.
        RefusedError: The previous delivery is of another bucket.
    """
    config, delivery, landing = job.config, job.delivery, job.landing
    previous = None if config.previous is None else landing.open(manifest_location(config.previous))
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
        scope=_scope(job),
        kind=config.kind,
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
        content_columns=_content_columns(delivery, previous),
        excluded_prefixes=tuple(prefix for prefix in (delivery.manifest.own_prefix,) if prefix),
    )


def _content_columns(delivery: Delivery, previous: Delivery | None) -> tuple[str, ...]:
    """What both deliveries have of the columns that tell changed objects, where both are read."""
    if previous is None:
        return CONTENT_COLUMNS
    both = delivery.manifest.columns & previous.manifest.columns
    return tuple(name for name in CONTENT_COLUMNS if name in both)


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


def _scope(job: Job) -> dict[str, str | None]:
    """What part of the bucket the delivery lists, as far as that can be known."""
    manifest = job.delivery.manifest
    inventory_prefix = None
    if isinstance(job.delivery.location, S3Url) and manifest.inventory_id is not None:
        inventory_prefix = inventory_filter(job.landing.client, manifest.source_bucket, manifest.inventory_id)
    return {
        "prefix": "",
        "versions": job.config.versions,
        "inventory_id": manifest.inventory_id,
        "inventory_prefix": inventory_prefix,
    }


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
