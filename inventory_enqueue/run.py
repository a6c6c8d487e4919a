"""A run as a file: whatever a task needs to know, beside its stage and number. No clients, no credentials."""

import json
import os
import secrets
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from inventory_enqueue import documents
from inventory_enqueue.config import AwsSettings, Change, MessageFormat, SinkConfig, Sizes, sink_from_identity
from inventory_enqueue.filters import Filters
from inventory_enqueue.fingerprints import CONTENT_COLUMNS, Scheme, Versions
from inventory_enqueue.manifest import Manifest
from inventory_enqueue.report import Stage, TaskReport, iso
from inventory_enqueue.store import LocalStore
from inventory_enqueue.uris import Location, parse_location
from inventory_enqueue.version import __version__


@dataclass(frozen=True)
class Delivery:
    """A manifest that was read and verified, and where it was found."""

    location: Location
    manifest: Manifest
    data: bytes
    """manifest.json itself: kept with the run and with the index, since its path may be overwritten."""


@dataclass(frozen=True)
class Baseline:
    """baseline.json: the delivery that was committed last, and its index."""

    run_id: str
    committed: datetime
    manifest_uri: str
    manifest_md5: str
    creation_timestamp: datetime
    source_bucket: str
    scope: Mapping[str, str | None]
    """What the index holds: prefix, of the bucket's keys; versions, what an identity is; inventory_id and
    inventory_prefix, the inventory's configuration and its filter, null where they couldn't be known."""
    filters: Mapping[str, Any]
    identities: int
    kind: str
    """How the delivery was found: manifest or inventory."""

    @property
    def index(self) -> str:
        """The index's folder in the state, under the pipeline."""
        return index_folder(self.run_id)

    def to_json(self) -> dict[str, Any]:
        """As baseline.json and run.json hold it."""
        return {**asdict(self), "committed": iso(self.committed), "creation_timestamp": iso(self.creation_timestamp)}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> "Baseline":
        """Reads what to_json wrote.

        Raises:
            KeyError, TypeError, ValueError: It is something else.
        """
        values = {name: document[name] for name in cls.__dataclass_fields__}
        for name in ("committed", "creation_timestamp"):
            values[name] = datetime.fromisoformat(values[name])
        if not isinstance(values["identities"], int):
            raise TypeError("identities is no number")
        return cls(**values)


def index_folder(run_id: str) -> str:
    """The folder of the index that a run makes, under the pipeline's: it counts once baseline.json points to it."""
    return f"indexes/{run_id}"


@dataclass(frozen=True)
class Plan:
    """How the work is cut into tasks. An index task and an enqueue task take one batch, a diff task one partition."""

    scheme: Scheme
    partition_bits: int
    batches: tuple[tuple[int, ...], ...]
    """Numbers of the current delivery's files."""
    previous_batches: tuple[tuple[int, ...], ...]
    """Numbers of the previous delivery's files, where it is read instead of an index."""
    content_columns: tuple[str, ...] = CONTENT_COLUMNS
    """What f looks at: less than all where the previous delivery and the current one don't both have it."""
    excluded_prefixes: tuple[str, ...] = ()
    """Keys that are no news: the inventory's own files, where they lie in the bucket that it lists."""

    @property
    def partitions(self) -> int:
        """Number of partitions."""
        return 1 << self.partition_bits

    def tasks(self, stage: Stage) -> int:
        """Number of tasks of a stage. Index tasks past the current batches are those of the previous delivery."""
        match stage:
            case Stage.INDEX:
                return len(self.batches) + len(self.previous_batches)
            case Stage.DIFF:
                return self.partitions
            case Stage.ENQUEUE:
                return len(self.batches)

    def to_json(self) -> dict[str, Any]:
        """As run.json holds it."""
        return {
            "scheme": self.scheme.to_json(),
            "partition_bits": self.partition_bits,
            "batches": self.batches,
            "previous_batches": self.previous_batches,
            "content_columns": self.content_columns,
            "excluded_prefixes": self.excluded_prefixes,
        }

    @classmethod
    def from_json(cls, document: dict[str, Any], *, where: str) -> "Plan":
        """Reads what to_json wrote."""
        return cls(
            Scheme.from_json(document["scheme"], where=where),
            document["partition_bits"],
            tuple(tuple(batch) for batch in document["batches"]),
            tuple(tuple(batch) for batch in document["previous_batches"]),
            tuple(document["content_columns"]),
            tuple(document["excluded_prefixes"]),
        )


@dataclass(frozen=True)
class Runtime:
    """Where and how fast the tasks work: may differ when a run is resumed."""

    work_dir: Path
    concurrency: int
    aws: AwsSettings
    sizes: Sizes

    def to_json(self) -> dict[str, Any]:
        """As run.json holds it."""
        return {**asdict(self), "work_dir": str(self.work_dir)}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> "Runtime":
        """Reads what to_json wrote."""
        return cls(
            Path(document["work_dir"]),
            document["concurrency"],
            AwsSettings(**document["aws"]),
            Sizes(**document["sizes"]),
        )


@dataclass(frozen=True)
class Run:
    """One run of a pipeline: the task functions' whole world, together with a number."""

    id: str
    pipeline: str
    created: datetime
    state: Path
    """The pipeline's folder in the state, which holds the baseline's index. Known from where the run was loaded."""
    folder: Path
    """What the run itself writes: in the state, or in scratch space for a dry run."""
    config: Mapping[str, Any]
    """RunConfig.to_json(): what a resumed run must have in common with the command that resumes it."""
    current: Delivery
    previous: Delivery | None
    baseline: Baseline | None
    seeding: bool
    """A first run that records the delivery and sends nothing."""
    source_region: str
    scope: Mapping[str, str | None]
    """As Baseline.scope."""
    kind: str
    """As Baseline.kind."""
    plan: Plan
    runtime: Runtime

    @cached_property
    def store(self) -> LocalStore:
        """The run's own files."""
        return LocalStore(self.folder)

    @cached_property
    def pipeline_store(self) -> LocalStore:
        """The pipeline's files, among them the baseline's index."""
        return LocalStore(self.state)

    @property
    def index_store(self) -> LocalStore:
        """Where the new index is written: where the baseline will find it, or in a dry run's scratch space."""
        in_state = self.folder.is_relative_to(self.state)
        return LocalStore((self.state if in_state else self.folder) / index_folder(self.id))

    @property
    def scratch(self) -> Path:
        """Disposable files. Those of another boot aren't looked at: not fsynced, they may be spoilt by a power loss."""
        return self.runtime.work_dir / self.id / _boot_id()

    @property
    def sink(self) -> SinkConfig:
        """Where messages go."""
        return sink_from_identity(self.config["sink"])

    @property
    def filters(self) -> Filters:
        """Which objects are sent at all."""
        return Filters.from_json(self.config["filters"])

    @property
    def versions(self) -> Versions:
        """What an identity is."""
        return Versions(self.config["versions"])

    @property
    def message_format(self) -> MessageFormat:
        """The shape of the messages."""
        return MessageFormat(self.config["message_format"])

    @property
    def selected_changes(self) -> frozenset[Change]:
        """Which changes are sent."""
        return frozenset() if self.seeding else frozenset(Change(name) for name in self.config["changes"])

    @property
    def sends_newly_admitted(self) -> bool:
        """Whether known keys that the filters admit only now are sent: where the filters changed, only if asked for."""
        if Change.NEW not in self.selected_changes:
            return False
        same_filters = self.baseline is None or self.baseline.filters == self.filters.to_json()
        return same_filters or bool(self.config["send_admitted"]) or self.previous is not None

    def save(self) -> None:
        """Writes run.json and the manifests' copies; from then on the run exists."""
        self.store.put("manifest.json", self.current.data)
        if self.previous is not None:
            self.store.put("previous-manifest.json", self.previous.data)
        document = {
            "run_id": self.id,
            "pipeline": self.pipeline,
            "created": iso(self.created),
            "version": __version__,
            "config": dict(self.config),
            "current": str(self.current.location),
            "previous": None if self.previous is None else str(self.previous.location),
            "baseline": None if self.baseline is None else self.baseline.to_json(),
            "seeding": self.seeding,
            "source_region": self.source_region,
            "scope": dict(self.scope),
            "kind": self.kind,
            "plan": self.plan.to_json(),
            "runtime": self.runtime.to_json(),
        }
        self.store.put("run.json", documents.encode(document))

    @classmethod
    def load(cls, state: Path, folder: Path) -> "Run":
        """Reads a run from its folder.

        Raises:
            IntegrityError: A file is damaged or of a newer version.
        """
        store = LocalStore(folder)
        where = str(store.path("run.json"))

        def delivery(location: str, copy: str) -> Delivery:
            data = store.get(copy)
            return Delivery(parse_location(location), Manifest.parse(data, where=str(store.path(copy))), data)

        def build(document: dict[str, Any]) -> Run:
            previous, baseline = document["previous"], document["baseline"]
            return cls(
                id=document["run_id"],
                pipeline=document["pipeline"],
                created=datetime.fromisoformat(document["created"]),
                state=state,
                folder=folder,
                config=dict(document["config"]),
                current=delivery(document["current"], "manifest.json"),
                previous=None if previous is None else delivery(previous, "previous-manifest.json"),
                baseline=None if baseline is None else Baseline.from_json(baseline),
                seeding=document["seeding"],
                source_region=document["source_region"],
                scope=dict(document["scope"]),
                kind=document["kind"],
                plan=Plan.from_json(document["plan"], where=where),
                runtime=Runtime.from_json(document["runtime"]),
            )

        return documents.parse(store.get("run.json"), build, where=where)

    def batch(self, number: int) -> tuple[Delivery, tuple[int, ...]]:
        """The delivery and the file numbers of an index task."""
        if number < len(self.plan.batches):
            return self.current, self.plan.batches[number]
        if self.previous is None:
            raise IndexError(f"run {self.id} has no index task {number}")
        return self.previous, self.plan.previous_batches[number - len(self.plan.batches)]

    def has_sent(self) -> bool:
        """Whether a message of it was acknowledged, or refused for good."""
        return any(
            self.store.names(f"{kind}/{task}") for kind in ("acks", "failures") for task in self.store.names(kind)
        )

    def with_runtime(self, runtime: Runtime) -> "Run":
        """The same run, worked on from another place or at another pace."""
        return replace(self, runtime=runtime)

    def save_task_report(self, report: TaskReport) -> None:
        """Records that a task is done, after its outputs."""
        self.store.put(_task_file(report.stage, report.number), documents.encode(report.to_json()))

    def task_report(self, stage: Stage, number: int) -> TaskReport | None:
        """What a task of an earlier attempt reported, or None."""
        name = _task_file(stage, number)
        if not self.store.exists(name):
            return None
        return documents.parse(self.store.get(name), TaskReport.from_json, where=str(self.store.path(name)))


def new_run_id(now: datetime) -> str:
    """Sorts by time, and differs from any other."""
    return f"{now.astimezone(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """The names whose values differ between two RunConfig.to_json()."""
    return sorted(
        name
        for name in ours.keys() | theirs.keys()
        if json.dumps(ours.get(name), sort_keys=True) != json.dumps(theirs.get(name), sort_keys=True)
    )


def _task_file(stage: Stage, number: int) -> str:
    return f"tasks/{stage}-{number:05d}.json"


_THIS_PROCESS = uuid.uuid4().hex


def _boot_id() -> str:
    """Names the time since the machine's start; where the kernel doesn't tell (macOS), the life of this process."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return f"{_THIS_PROCESS}-{os.getpid()}"
