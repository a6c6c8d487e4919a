"""How a run's work is cut into tasks, and whatever else is settled before it starts."""

import hashlib
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from inventory_enqueue import space
from inventory_enqueue.aws.s3 import bucket_region, inventory_filter
from inventory_enqueue.aws.session import queue_region
from inventory_enqueue.baseline import Baseline
from inventory_enqueue.config import Change, FirstRun, RunConfig, Sizes, SqsQueue
from inventory_enqueue.delivery.finding import manifest_location
from inventory_enqueue.delivery.known_keys import is_key_file
from inventory_enqueue.delivery.landing import Landing
from inventory_enqueue.errors import IntegrityError, InventoryUnavailableError, NewerFormatError, RefusedError
from inventory_enqueue.fingerprints import CONTENT_COLUMNS, Scheme
from inventory_enqueue.index import INDEX_GONE, START_ANEW, IndexMeta, read_manifest_copy
from inventory_enqueue.manifest import InventoryFile, Manifest
from inventory_enqueue.plan import Plan
from inventory_enqueue.run import Delivery, Known, Run, Runtime, new_run_id, run_folder
from inventory_enqueue.store import Store
from inventory_enqueue.stores.local import LocalStore
from inventory_enqueue.uris import S3Url, parse_location
from inventory_enqueue.watch import Watch

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """What a run is planned from."""

    config: RunConfig
    runtime: Runtime
    landing: Landing
    delivery: Delivery
    pipeline: str
    store: Store
    """The pipeline's files in the state."""
    watch: Watch
    """What may end the command early."""


_BYTES_PER_ROW: Final = 60
"""A row of a real delivery in Parquet takes 66 to 76 bytes; fewer here, so that the estimate errs upwards."""
_MAX_PARTITION_BITS: Final = 16


def plan_run(job: Job, baseline: Baseline | None) -> Run:
    """Makes a run, without writing anything.

    Raises:
        InventoryUnavailableError, IntegrityError: The previous delivery or the baseline's index can't be used.
        RefusedError: The previous delivery is of another bucket.
    """
    config, delivery = job.config, job.delivery
    compared = _compared(job, baseline)
    known = _known(job)
    now = datetime.now(tz=UTC)
    run_id = new_run_id(now)
    dry = LocalStore(job.runtime.work_dir / run_id / "dry-run")
    run = Run(
        id=run_id,
        pipeline=job.pipeline,
        created=now,
        pipeline_store=job.store,
        store=dry if config.dry_run else job.store.at(run_folder(run_id)),
        in_state=not config.dry_run,
        config=config.to_json(),
        current=delivery,
        previous=compared.delivery,
        known=known,
        baseline=compared.baseline,
        seeding=compared.delivery is None and not config.replay and config.first_run is FirstRun.SEED,
        source_region=_source_region(job),
        scope=_scope(job),
        kind=config.kind,
        state_prefix=_state_prefix(job),
        command=config.command,
        plan=_plan(job, compared, known),
        runtime=job.runtime,
    )
    _log.debug(
        "plan: %d bytes in %d files, in %d batches; %d partitions; %d index and diff tasks at a time; %s",
        delivery.manifest.total_bytes,
        len(delivery.manifest.files),
        len(run.plan.batches),
        run.plan.partitions,
        job.runtime.sizes.workers,
        "; ".join(map(str, space.needs(run))),
    )
    return run


@dataclass(frozen=True)
class _Compared:
    """What the delivery is compared with."""

    delivery: Delivery | None
    baseline: Baseline | None = None
    index: IndexMeta | None = None
    """The baseline's; where there is none, the delivery is read again."""


def _compared(job: Job, baseline: Baseline | None) -> _Compared:
    config, delivery = job.config, job.delivery
    if config.previous is not None:
        previous = job.landing.open(manifest_location(config.previous))
        if previous.manifest.source_bucket != delivery.manifest.source_bucket:
            raise RefusedError(
                f"it lists the bucket {previous.manifest.source_bucket!r}, {delivery.location} lists "
                f"{delivery.manifest.source_bucket!r}: only deliveries of one bucket can be compared",
                where=str(previous.location),
            )
        return _Compared(previous)
    if baseline is None or config.replay:
        return _Compared(None)
    store = job.store
    try:
        index = IndexMeta.load(store, baseline.index)
        index.check_parts(store, baseline.index)
    except NewerFormatError:
        raise
    except (InventoryUnavailableError, IntegrityError) as error:
        _log.warning("%s: it is made again from %s", error, baseline.manifest_uri)
        index = None
    return _Compared(_baseline_delivery(job, store, baseline), baseline, index)


def _baseline_delivery(job: Job, store: Store, baseline: Baseline) -> Delivery:
    """The delivery that was committed last: its manifest's copy in the index, or the manifest itself.

    Raises:
        InventoryUnavailableError: Both are gone.
    """
    copy = read_manifest_copy(store, baseline.index)
    location = parse_location(baseline.manifest_uri)
    if copy is not None and hashlib.md5(copy, usedforsecurity=False).hexdigest() == baseline.manifest_md5:
        return Delivery(location, Manifest.parse(copy, where=baseline.manifest_uri), copy)
    try:
        found = job.landing.open(location)
    except (InventoryUnavailableError, IntegrityError) as error:
        raise InventoryUnavailableError(
            f"{INDEX_GONE}, and so is the manifest that it was made from ({error.message}): {START_ANEW}",
            where=baseline.manifest_uri,
        ) from error
    if found.manifest.md5 != baseline.manifest_md5:
        raise InventoryUnavailableError(
            f"{INDEX_GONE}, and its manifest was overwritten since: {START_ANEW}", where=baseline.manifest_uri
        )
    return found


def _known(job: Job) -> Known | None:
    location = job.config.known
    if location is None:
        return None
    if is_key_file(location):
        return Known(location.absolute() if isinstance(location, Path) else location, None)
    delivery = job.landing.open(manifest_location(location))
    if delivery.manifest.source_bucket != job.delivery.manifest.source_bucket:
        raise RefusedError(
            f"it lists the bucket {delivery.manifest.source_bucket!r}, not {job.delivery.manifest.source_bucket!r}",
            where=str(delivery.location),
        )
    return Known(delivery.location, delivery)


def _plan(job: Job, compared: _Compared, known: Known | None) -> Plan:
    sizes, delivery, previous = job.runtime.sizes, job.delivery, compared.delivery
    indexes_previous = previous is not None and compared.index is None
    return Plan(
        scheme=Scheme() if compared.index is None else compared.index.scheme,
        partition_bits=_partition_bits(job, compared),
        batches=_batches(delivery.manifest.files, sizes.bytes_per_batch),
        previous_batches=() if previous is None else _batches(previous.manifest.files, sizes.bytes_per_batch),
        known_batches=_known_batches(known, sizes),
        indexes_previous=indexes_previous,
        recalls=frozenset() if previous is None else _recalls(job.config),
        content_columns=_content_columns(delivery, previous if indexes_previous else None),
    )


def _recalls(config: RunConfig) -> frozenset[Change]:
    """Of which changes the rows of the previous delivery are needed."""
    return config.changes & {Change.DELETED} | ({Change.CHANGED} if config.tells_previous_values else set())


def _known_batches(known: Known | None, sizes: Sizes) -> tuple[tuple[int, ...], ...]:
    if known is None:
        return ()
    return ((0,),) if known.delivery is None else _batches(known.delivery.manifest.files, sizes.bytes_per_batch)


def _content_columns(delivery: Delivery, previous: Delivery | None) -> tuple[str, ...]:
    """What both deliveries have of the columns that tell changed objects, where both are read."""
    if previous is None:
        return CONTENT_COLUMNS
    both = delivery.manifest.columns & previous.manifest.columns
    return tuple(name for name in CONTENT_COLUMNS if name in both)


def _partition_bits(job: Job, compared: _Compared) -> int:
    sizes = job.runtime.sizes
    if sizes.partition_bits is not None:
        return sizes.partition_bits
    rows = estimated_rows(job.delivery)
    if compared.delivery is not None:
        rows = max(rows, estimated_rows(compared.delivery))
    if compared.baseline is not None:
        rows = max(rows, compared.baseline.identities)
    return min(_MAX_PARTITION_BITS, max(0, math.ceil(math.log2(max(rows, 1) / sizes.rows_per_partition))))


def estimated_rows(delivery: Delivery) -> int:
    """About how many rows a delivery has, from its size: rather too many."""
    return delivery.manifest.total_bytes // _BYTES_PER_ROW


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


def _state_prefix(job: Job) -> str | None:
    """The prefix of the state's own objects in the source bucket.

    Raises:
        RefusedError: They can't be told from others.
    """
    state, bucket = job.config.state, job.delivery.manifest.source_bucket
    if not isinstance(state, S3Url) or state.bucket != bucket:
        return None
    if not state.key:
        raise RefusedError(
            "the state has the root of the bucket that is read, so its own objects would be sent: name a --state "
            f"with a prefix, such as s3://{bucket}/inventory-enqueue/, or in another bucket",
            where=str(state),
        )
    return state.key if state.key.endswith("/") else f"{state.key}/"


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
