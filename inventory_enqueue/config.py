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

GRACE: Final = 10.0
MAX_CONCURRENCY: Final = 256
DEFAULT_CONCURRENCY: Final = 64
"""SendMessageBatch requests in flight, at most. Each holds a connection (about 100 KB), and its messages once more
while they are sent: 7 KB for ten ordinary ones, 1 MiB at most."""
MAX_RECORDS_PER_MESSAGE: Final = 10_000

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
    """As S3 notifies a queue."""
    EVENTBRIDGE = "eventbridge"
    """As S3 notifies EventBridge."""
    JSON = "json"
    """A plain object with the inventory's column names."""
    KEY = "key"
    """The bare key."""


class EventTime(StrEnum):
    """What time an event in the shape of S3's says it has."""

    LAST_MODIFIED = "last-modified"
    """The object's last modification; of a deleted object, the delivery's creation."""
    NOW = "now"
    """The run's: for consumers that skip old events."""


class SendTransport(StrEnum):
    """How requests to SQS are made."""

    CURL = "curl"
    """By libcurl, all from one thread."""
    BOTO3 = "boto3"
    """By the AWS SDK, with a thread for each request in flight: the reference, at more than ten times the CPU."""


class Verify(StrEnum):
    """What of an answer is checked beside its ids."""

    MD5 = "md5"
    """The MD5 of each message's body."""
    COUNT = "count"
    """Nothing."""


@dataclass(frozen=True)
class Sending:
    """How messages are sent: none of it changes which keys are sent, and it may differ when a run is resumed."""

    concurrency: int = DEFAULT_CONCURRENCY
    """Requests in flight, at most."""
    rate: float | None = None
    """Messages a second, at most."""
    pause_above: int | None = None
    """Nothing is sent while more messages than these wait in the queue."""
    records_per_message: int = 1
    """Records in a message, at most: for formats with Records."""
    transport: SendTransport | None = None
    """By default curl, and boto3 where pycurl is missing."""
    verify: Verify = Verify.MD5
    checkpoint_interval: float = 5.0
    """Seconds between two times at which what the queue acknowledged is made durable: on a local disk a power loss
    repeats what was sent in this time, with a state in S3 a killed process does."""

    def __post_init__(self) -> None:
        """Checks the values.

        Raises:
            ValueError: One is out of its range.
        """
        if not 1 <= self.concurrency <= MAX_CONCURRENCY:
            raise ValueError(f"concurrency {self.concurrency}: 1 to {MAX_CONCURRENCY} requests in flight are possible")
        if self.rate is not None and not self.rate > 0:
            raise ValueError(f"rate {self.rate}: a number of messages a second above 0 was expected")
        if self.pause_above is not None and self.pause_above < 0:
            raise ValueError(f"pause_above {self.pause_above}: a number of messages was expected")
        if not 1 <= self.records_per_message <= MAX_RECORDS_PER_MESSAGE:
            raise ValueError(
                f"records_per_message {self.records_per_message}: 1 to {MAX_RECORDS_PER_MESSAGE} are possible"
            )
        if not self.checkpoint_interval > 0:
            raise ValueError(f"checkpoint_interval {self.checkpoint_interval}: seconds above 0 were expected")

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> "Sending":
        """Reads what asdict made."""
        transport = document["transport"]
        return cls(
            **{
                **document,
                "transport": None if transport is None else SendTransport(transport),
                "verify": Verify(document["verify"]),
            }
        )


@dataclass(frozen=True)
class Locking:
    """How a pipeline is kept to one run at a time."""

    lease: float = 60.0
    """Seconds for which a holder that isn't heard of keeps the lock of a state in S3. That of a local state needs none:
    it is free when its holder dies."""
    patience: float | None = None
    """Seconds to wait for a lock that another run holds; by default one lease, and what clocks may differ by."""

    def __post_init__(self) -> None:
        """Checks the values.

        Raises:
            ValueError: One is out of its range.
        """
        if self.lease < MIN_LEASE or (self.patience is not None and self.patience < 0):
            raise ValueError(f"a lease of {MIN_LEASE} s or more and a wait of 0 s or more were expected")

    @property
    def wait(self) -> float:
        """Seconds to wait."""
        # A killed holder's lease has a whole one to run, at most; servers tell the time in whole seconds.
        return self.lease + _CLOCKS if self.patience is None else self.patience


MIN_LEASE: Final = 2.0
_CLOCKS: Final = 3.0


@dataclass(frozen=True)
class MessageGroups:
    """The MessageGroupId of messages: FIFO queues keep the order within one, and fair queues share out by it.

    No order is promised here, since an inventory has none, and a key has one message a run.
    https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/using-messagegroupid-property.html
    """

    name: str | None = None
    """One group for all messages; else many, by a hash of the key."""
    count: int = 64
    """So many: a FIFO queue's throughput grows with its groups."""

    @classmethod
    def parse(cls, text: str) -> "MessageGroups":
        """Reads a group's id, or hash:N for N groups.

        Raises:
            ValueError: It is neither.
        """
        kind, colon, number = text.partition(":")
        if kind == "hash" and colon:
            if not (number.isascii() and number.isdecimal() and 1 <= int(number) <= MAX_MESSAGE_GROUPS):
                raise ValueError(f"{text!r}: hash:N with N from 1 to {MAX_MESSAGE_GROUPS} was expected")
            return cls(count=int(number))
        if not _GROUP_ID.fullmatch(text):
            raise ValueError(f"{text!r}: up to 128 letters, digits and punctuation, or hash:N, were expected")
        return cls(name=text)

    def __str__(self) -> str:
        """As parse reads it."""
        return self.name if self.name is not None else f"hash:{self.count}"


MAX_MESSAGE_GROUPS: Final = 20_000
_GROUP_ID = re.compile(r"[!-~]{1,128}")
FIFO_GROUPS: Final = MessageGroups()
"""Where none were asked for."""


@dataclass(frozen=True)
class SqsQueue:
    """Messages go to a queue."""

    queue_url: str

    @property
    def is_fifo(self) -> bool:
        """Whether it is a FIFO queue: their names end so."""
        return self.queue_url.endswith(".fifo")

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


MIN_GUARDED: Final = 10_000
"""Fewer objects than these are sent without asking, whatever share of the bucket they are."""
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
    state: Location
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
    event_time: EventTime = EventTime.LAST_MODIFIED
    message_groups: MessageGroups | None = None
    """By default FIFO_GROUPS for a FIFO queue, and none for another one."""
    source_region: str | None = None
    max_shrink: float = 0.5
    """The share of the baseline's objects that may be missing in a delivery."""
    max_quarantined: float = 0.001
    """The share of a delivery's rows that may be unreadable; they are left out."""
    max_new_ratio: float = 0.5
    """How much may be sent, as a share of the baseline's objects: above MIN_GUARDED objects."""
    dry_run: bool = False
    abandon: bool = False
    """An unfinished run isn't gone on with."""
    max_messages: int | None = None
    """The command stops after so many, resumable."""
    max_duration: timedelta | None = None
    """The command stops after this time, resumable."""
    grace: float = GRACE
    """Seconds that a run which is stopped waits for the answers of what is in flight."""
    command: str | None = None
    """The command line that asks for it, so that it can be said how to resume."""
    keep_runs: int = 30
    """Ended runs whose files stay in the state."""
    locking: Locking = field(default_factory=Locking)
    sending: Sending = field(default_factory=Sending)
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
        if not isinstance(self.sink, SqsQueue) and (
            self.sending.pause_above is not None or self.message_groups is not None
        ):
            raise ValueError("a queue's backlog and message groups are nothing that a file has: name a queue")
        if self.sending.records_per_message > 1 and self.message_format is not MessageFormat.S3_EVENT:
            raise ValueError(f"a message of the format {self.message_format} holds one record, not several")
        for name, share in (("max_shrink", self.max_shrink), ("max_quarantined", self.max_quarantined)):
            if not 0 <= share <= 1:
                raise ValueError(f"{name} {share}: a share from 0 to 1 was expected")
        if not self.changes:
            raise ValueError("no kind of change is selected")
        if self.max_new_ratio < 0:
            raise ValueError(f"max_new_ratio {self.max_new_ratio}: 0 or more was expected")
        if self.keep_runs < 1 or (self.max_messages is not None and self.max_messages < 1):
            raise ValueError("keep_runs and max_messages: numbers above 0 were expected")
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
            "event_time": self.event_time,
            "message_groups": None if self.message_groups is None else str(self.message_groups),
            "source_region": self.source_region,
            "max_shrink": self.max_shrink,
            "max_quarantined": self.max_quarantined,
            "max_new_ratio": self.max_new_ratio,
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
