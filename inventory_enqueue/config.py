"""What a run is asked to do: frozen values, with every default and limit in one place."""

import hashlib
import json
import os
import re
from dataclasses import asdict, dataclass, field
from datetime import date, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, Literal, TypedDict
from urllib.parse import urlsplit

from inventory_enqueue.filters import Filters
from inventory_enqueue.fingerprints import Versions
from inventory_enqueue.uris import Location

MAX_CONCURRENCY: Final = 256
DEFAULT_CONCURRENCY: Final = 16
"""SendMessageBatch requests in flight. Each holds a thread and at most 1 MiB of messages, twice while it is sent."""

_PIPELINE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class FirstRun(StrEnum):
    """What to do where there is no baseline."""

    SEED = "seed"
    ALL = "all"


class Change(StrEnum):
    """What can have happened to an object between two deliveries."""

    NEW = "new"
    CHANGED = "changed"
    DELETED = "deleted"


class OnLate(StrEnum):
    """What to do with keys that reappear: new by the diff, but last modified long before the baseline."""

    SEND = "send"
    SKIP = "skip"
    """They are written to late.jsonl instead."""
    REPORT = "report"
    """As skip, with a warning that says how many there are."""


class MessageFormat(StrEnum):
    """The shape of a message's body."""

    S3_EVENT = "s3-event"
    JSON = "json"


@dataclass(frozen=True)
class SqsQueue:
    """Messages go to a queue."""

    queue_url: str

    def __post_init__(self) -> None:
        """Checks the URL.

        Raises:
            ValueError: It is none.
        """
        try:
            url = urlsplit(self.queue_url)
            valid = url.scheme in {"http", "https"} and bool(url.hostname) and url.port != 0
        except ValueError:
            valid = False
        if not valid:
            raise ValueError(f"{self.queue_url!r} is no queue's URL, https://sqs.REGION.amazonaws.com/ACCOUNT/NAME")


@dataclass(frozen=True)
class JsonLinesFile:
    """Messages are appended to a file, one a line."""

    path: Path


@dataclass(frozen=True)
class StandardOutput:
    """Messages are written to standard output, one a line; such a run can't be resumed."""


@dataclass(frozen=True)
class LatestDelivery:
    """The newest complete delivery of an inventory configuration."""

    inventory: Location
    """The configuration's folder."""
    day: date | None = None
    """Only deliveries whose label is of this UTC day."""


SinkConfig = SqsQueue | JsonLinesFile | StandardOutput


class S3Arguments(TypedDict, total=False):
    """Arguments that all reading calls of S3 have in common."""

    RequestPayer: Literal["requester"]
    ExpectedBucketOwner: str


@dataclass(frozen=True)
class AwsSettings:
    """How AWS is reached, as in the AWS CLI. Credentials come from the SDK's own chain and are never kept."""

    profile: str | None = None
    region: str | None = None
    s3_endpoint_url: str | None = None
    sqs_endpoint_url: str | None = None
    sqs_region: str | None = None
    no_sign_request: bool = False
    """S3 is read without credentials: for public buckets."""
    request_payer: bool = False
    """We pay for the requests to S3: for requester-pays buckets."""
    expected_bucket_owner: str | None = None
    """The account that must own the buckets which are read."""

    def s3_arguments(self) -> "S3Arguments":
        """What each request to S3 says beside its own arguments."""
        arguments: S3Arguments = {}
        if self.request_payer:
            arguments["RequestPayer"] = "requester"
        if self.expected_bucket_owner is not None:
            arguments["ExpectedBucketOwner"] = self.expected_bucket_owner
        return arguments


@dataclass(frozen=True)
class Sizes:
    """How the work is cut: none of these changes a result, only memory and speed."""

    partition_bits: int | None = None
    """2 ** bits partitions; by default they follow from the number of rows."""
    rows_per_partition: int = 1_000_000
    """Each diff task that runs at a time holds about DIFF_BYTES_PER_ROW for each of them."""
    bytes_per_batch: int = 128 * 1024 * 1024
    """Data files are grouped up to this size into one index and one enqueue task: AWS's own Parquet files fill one."""
    rows_per_spill: int = 1_000_000
    """Each index task that runs at a time holds SPILL_BYTES_PER_ROW for each of these, then writes them."""
    bytes_decoded: int = 400 * 1024 * 1024
    """Row groups are decoded whole while they fit here together; a larger one is streamed, at twice the cost."""
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)
    """Index or diff tasks at a time."""

    @classmethod
    def within(cls, memory: int) -> "Sizes":
        """The sizes for a memory budget in bytes, beside the 150 MB of the interpreter and its libraries."""
        workers = max(1, min(os.cpu_count() or 1, memory // MEMORY_PER_WORKER))
        share = memory // workers
        # The rest is for columns on their way, and for what was freed: it goes back to the system seconds later.
        return cls(
            rows_per_partition=min(1_000_000, max(1_000, share // DIFF_BYTES_PER_ROW)),
            rows_per_spill=min(1_000_000, max(1_000, share // 5 // SPILL_BYTES_PER_ROW)),
            bytes_decoded=memory * 2 // 5,
            workers=workers,
        )


DIFF_BYTES_PER_ROW: Final = 520
"""Today's and the baseline's fingerprint of a row, sorted and compared: measured."""
SPILL_BYTES_PER_ROW: Final = 112
"""A fingerprint of 28 bytes, collected, joined, partitioned and written."""
MEMORY_PER_WORKER: Final = 192 * 1024 * 1024
"""Below this, fewer tasks run at a time."""
DEFAULT_MEMORY: Final = 1024 * 1024 * 1024
MIN_MEMORY: Final = 64 * 1024 * 1024


@dataclass(frozen=True)
class RunConfig:
    """A run, as it was asked for."""

    manifest: Location | LatestDelivery
    """Where the delivery is: its manifest.json, checksum file or folder; or how it is found."""
    sink: SinkConfig
    state: Path
    max_inventory_age: timedelta | None = None
    wait: timedelta = timedelta(0)
    """How long to wait for a delivery that isn't there, not complete or too old."""
    previous: Location | None = None
    pipeline: str | None = None
    first_run: FirstRun | None = None
    replay: bool = False
    """Everything that the filters admit is sent, whatever the baseline says; the baseline stays as it is."""
    tells_previous_values: bool = False
    """What a changed object was before is read back from the previous delivery: for `diff`."""
    known: Location | None = None
    """Keys that aren't sent, since they were handled already: a file of keys, or a delivery's manifest."""
    on_late: OnLate = OnLate.SEND
    changes: frozenset[Change] = frozenset({Change.NEW})
    versions: Versions = Versions.CURRENT
    filters: Filters = field(default_factory=Filters)
    send_admitted: bool = False
    message_format: MessageFormat = MessageFormat.S3_EVENT
    source_region: str | None = None
    max_shrink: float = 0.5
    """The share of the baseline's objects that may be missing in a delivery."""
    max_quarantined: float = 0.001
    """The share of a delivery's rows that may be unreadable; they are left out."""
    dry_run: bool = False
    concurrency: int = DEFAULT_CONCURRENCY
    work_dir: Path | None = None
    aws: AwsSettings = field(default_factory=AwsSettings)
    sizes: Sizes = field(default_factory=lambda: Sizes.within(DEFAULT_MEMORY))

    def __post_init__(self) -> None:
        """Checks the values that no type can.

        Raises:
            ValueError: One is out of its range.
        """
        if self.pipeline is not None and not _PIPELINE_NAME.fullmatch(self.pipeline):
            raise ValueError(
                f"pipeline {self.pipeline!r}: up to 128 of A-Z a-z 0-9 . _ - are allowed, the first a letter or digit"
            )
        if not 1 <= self.concurrency <= MAX_CONCURRENCY:
            raise ValueError(f"concurrency {self.concurrency}: 1 to {MAX_CONCURRENCY} requests in flight are possible")
        for name, share in (("max_shrink", self.max_shrink), ("max_quarantined", self.max_quarantined)):
            if not 0 <= share <= 1:
                raise ValueError(f"{name} {share}: a share from 0 to 1 was expected")
        if not self.changes:
            raise ValueError("no kind of change is selected")
        if self.replay and (self.previous is not None or self.first_run is not None):
            raise ValueError("a replay compares with nothing: name neither a previous delivery nor a first run with it")

    @property
    def kind(self) -> str:
        """How the delivery is found: manifest or inventory."""
        return "inventory" if isinstance(self.manifest, LatestDelivery) else "manifest"

    def pipeline_name(self, source_bucket: str) -> str:
        """The name in the state: the given one, or one derived from (source bucket, sink)."""
        if self.pipeline is not None:
            return self.pipeline
        identity = json.dumps([source_bucket, sink_identity(self.sink)])
        return f"{source_bucket[:100]}-{hashlib.sha256(identity.encode()).hexdigest()[:8]}"

    def to_json(self) -> dict[str, Any]:
        """What a resumed run must have in common with this one; how fast and where it works may differ."""
        return {
            "previous": None if self.previous is None else str(_absolute(self.previous)),
            "sink": sink_identity(self.sink),
            "first_run": self.first_run,
            "replay": self.replay,
            "known": None if self.known is None else str(_absolute(self.known)),
            "on_late": self.on_late,
            "changes": sorted(self.changes),
            "versions": self.versions,
            "filters": self.filters.to_json(),
            "send_admitted": self.send_admitted,
            "message_format": self.message_format,
            "source_region": self.source_region,
            "max_shrink": self.max_shrink,
            "max_quarantined": self.max_quarantined,
        }


def sink_identity(sink: SinkConfig) -> dict[str, str]:
    """A sink as JSON: the same for the same queue or file."""
    match sink:
        case SqsQueue(queue_url):
            return {"kind": "sqs", "queue_url": queue_url}
        case JsonLinesFile(path):
            return {"kind": "file", "path": str(path.absolute())}
        case StandardOutput():
            return {"kind": "stdout"}


def sink_from_identity(document: dict[str, str]) -> SinkConfig:
    """Reads what sink_identity made."""
    if document["kind"] == "sqs":
        return SqsQueue(document["queue_url"])
    if document["kind"] == "file":
        return JsonLinesFile(Path(document["path"]))
    return StandardOutput()


def aws_settings_json(settings: AwsSettings) -> dict[str, str | None]:
    """The settings as JSON."""
    return asdict(settings)


def _absolute(location: Location) -> Location:
    return location.absolute() if isinstance(location, Path) else location
