"""A run as a file: whatever a task needs to know, beside its stage and number. No clients, no credentials."""

import json
import os
import secrets
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from inventory_enqueue import documents
from inventory_enqueue.baseline import Baseline, index_folder
from inventory_enqueue.config import (
    FIFO_GROUPS,
    AwsSettings,
    Change,
    EventTime,
    MessageFormat,
    MessageGroups,
    OnLate,
    Sending,
    SinkConfig,
    Sizes,
    SqsQueue,
    sink_from_identity,
)
from inventory_enqueue.filters import Filters
from inventory_enqueue.fingerprints import Versions
from inventory_enqueue.manifest import Manifest
from inventory_enqueue.plan import Plan
from inventory_enqueue.report import Stage, TaskReport, iso
from inventory_enqueue.store import Store
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
class Runtime:
    """Where and how fast the tasks work: may differ when a run is resumed."""

    work_dir: Path
    sending: Sending
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
            Sending.from_json(document["sending"]),
            AwsSettings(**document["aws"]),
            Sizes(**document["sizes"]),
        )


@dataclass(frozen=True)
class Known:
    """Keys that were handled already."""

    location: Location
    delivery: Delivery | None
    """Where they are those of a delivery; else the location is a file of keys."""

    def to_json(self) -> dict[str, Any]:
        """As run.json holds it."""
        return {"location": str(self.location), "is_delivery": self.delivery is not None}


@dataclass(frozen=True)
class Run:
    """One run of a pipeline: the task functions' whole world, together with a number."""

    id: str
    pipeline: str
    created: datetime
    pipeline_store: Store
    """The pipeline's files, among them the baseline's index. Known from where the run was loaded."""
    store: Store
    """What the run itself writes: in the state, or in scratch space for a dry run."""
    in_state: bool
    """Whether it is in the state."""
    config: Mapping[str, Any]
    """RunConfig.to_json(): what a resumed run must have in common with the command that resumes it."""
    current: Delivery
    previous: Delivery | None
    """The delivery compared with: the baseline's, or another one that was named."""
    known: Known | None
    baseline: Baseline | None
    """The baseline compared with, if it isn't another delivery."""
    seeding: bool
    """A first run that records the delivery and sends nothing."""
    source_region: str
    scope: Mapping[str, str | None]
    """As Baseline.scope."""
    kind: str
    """As Baseline.kind."""
    state_prefix: str | None
    """Of the state's own objects, where it lies in the source bucket."""
    command: str | None
    """What was typed to begin it: the same again goes on with it."""
    plan: Plan
    runtime: Runtime

    @property
    def index_store(self) -> Store:
        """Where the new index is written: where the baseline will find it, or in a dry run's scratch space."""
        return (self.pipeline_store if self.in_state else self.store).at(index_folder(self.id))

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
    def message_groups(self) -> MessageGroups | None:
        """The groups of messages, if they have any."""
        text = self.config["message_groups"]
        if text is not None:
            return MessageGroups.parse(text)
        return FIFO_GROUPS if self.is_fifo else None

    @property
    def is_fifo(self) -> bool:
        """Whether messages go to a FIFO queue."""
        return isinstance(self.sink, SqsQueue) and self.sink.is_fifo

    @property
    def event_time(self) -> EventTime:
        """What time events have."""
        return EventTime(self.config["event_time"])

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
        return same_filters or bool(self.config["send_admitted"])

    @property
    def replay(self) -> bool:
        """Whether the baseline stays where it is."""
        return bool(self.config["replay"])

    @property
    def on_late(self) -> OnLate:
        """What to do with keys that reappear."""
        return OnLate(self.config["on_late"])

    def filters_of(self, delivery: Delivery) -> tuple[Filters, datetime]:
        """The filters for one side of the comparison, and what ages in them are counted back from.

        Of the previous delivery: those of its own run where it was the baseline; else ours, as they were at its time,
        so that a key which is old enough only now is known, but wasn't admitted then.
        """
        if delivery is self.current or self.previous is None:
            return self.filters, self.created
        if self.baseline is not None:
            return Filters.from_json(dict(self.baseline.filters)), self.baseline.filtered_at
        earlier = self.current.manifest.creation_timestamp - self.previous.manifest.creation_timestamp
        return self.filters, self.created - earlier

    def save(self) -> None:
        """Writes run.json and the manifests' copies; from then on the run exists."""
        self.store.put("manifest.json", self.current.data)
        if self.previous is not None:
            self.store.put("previous-manifest.json", self.previous.data)
        if self.known is not None and self.known.delivery is not None:
            self.store.put("known-manifest.json", self.known.delivery.data)
        document = {
            "run_id": self.id,
            "pipeline": self.pipeline,
            "created": iso(self.created),
            "version": __version__,
            "config": dict(self.config),
            "current": str(self.current.location),
            "previous": None if self.previous is None else str(self.previous.location),
            "known": None if self.known is None else self.known.to_json(),
            "baseline": None if self.baseline is None else self.baseline.to_json(),
            "seeding": self.seeding,
            "source_region": self.source_region,
            "scope": dict(self.scope),
            "kind": self.kind,
            "state_prefix": self.state_prefix,
            "command": self.command,
            "plan": self.plan.to_json(),
            "runtime": self.runtime.to_json(),
        }
        self.store.put("run.json", documents.encode(document))

    @classmethod
    def load(cls, pipeline_store: Store, run_id: str) -> "Run":
        """Reads a run from the state.

        Raises:
            IntegrityError: A file is damaged or of a newer version.
        """
        store = pipeline_store.at(run_folder(run_id))
        where = store.where("run.json")

        def delivery(location: str, copy: str) -> Delivery:
            try:
                data = store.get(copy)
            except FileNotFoundError as error:
                raise documents.damaged(store.where(copy)) from error
            return Delivery(parse_location(location), Manifest.parse(data, where=store.where(copy)), data)

        def build(document: dict[str, Any]) -> Run:
            previous, known, baseline = document["previous"], document["known"], document["baseline"]
            return cls(
                id=document["run_id"],
                pipeline=document["pipeline"],
                created=datetime.fromisoformat(document["created"]),
                pipeline_store=pipeline_store,
                store=store,
                in_state=True,
                config=dict(document["config"]),
                current=delivery(document["current"], "manifest.json"),
                previous=None if previous is None else delivery(previous, "previous-manifest.json"),
                known=None
                if known is None
                else Known(
                    parse_location(known["location"]),
                    delivery(known["location"], "known-manifest.json") if known["is_delivery"] else None,
                ),
                baseline=None if baseline is None else Baseline.from_json(baseline),
                seeding=document["seeding"],
                source_region=document["source_region"],
                scope=dict(document["scope"]),
                kind=document["kind"],
                state_prefix=document["state_prefix"],
                command=document["command"],
                plan=Plan.from_json(document["plan"], where=where),
                runtime=Runtime.from_json(document["runtime"]),
            )

        return documents.parse(store.get("run.json"), build, where=where)

    def batch(self, number: int) -> tuple[Delivery, tuple[int, ...]]:
        """The delivery and the file numbers of an index task that reads one."""
        plan = self.plan
        if number < len(plan.batches):
            return self.current, plan.batches[number]
        if self.previous is not None and number in plan.previous_tasks:
            return self.previous, plan.previous_batches[number - plan.previous_tasks.start]
        if self.known is not None and self.known.delivery is not None and number in plan.known_tasks:
            return self.known.delivery, plan.known_batches[number - plan.known_tasks.start]
        raise IndexError(f"run {self.id} has no index task {number} that reads a delivery")

    @property
    def delivery_tasks(self) -> int:
        """How many index tasks, the first ones, read a delivery; the others read a file of known keys."""
        of_deliveries = self.known is None or self.known.delivery is not None
        return self.plan.tasks(Stage.INDEX) if of_deliveries else self.plan.known_tasks.start

    @property
    def bytes_to_read(self) -> int:
        """Of all data files that the run reads."""
        deliveries = [self.current]
        if self.previous is not None and (self.plan.indexes_previous or self.plan.recalls):
            deliveries.append(self.previous)
        if self.known is not None and self.known.delivery is not None:
            deliveries.append(self.known.delivery)
        return sum(delivery.manifest.total_bytes for delivery in deliveries)

    def has_sent(self) -> bool:
        """Whether a message of it was acknowledged, or refused for good."""
        return any(
            self.store.names(f"{kind}/{task}")
            for kind in ("acks", "failures", "late")
            for task in self.store.names(kind)
        )

    def output_size(self) -> int | None:
        """The size of the output file when the run opened it first; None where it didn't yet."""
        found = self.store.read(_OUTPUT)
        if found is None:
            return None
        return documents.parse(found.data, lambda document: int(document["size"]), where=self.store.where(_OUTPUT))

    def save_output_size(self, size: int) -> None:
        """Records what was in the output file before the run."""
        self.store.put(_OUTPUT, documents.encode({"size": size}))

    def with_runtime(self, runtime: Runtime) -> "Run":
        """The same run, worked on from another place or at another pace."""
        return replace(self, runtime=runtime)

    def save_task_report(self, report: TaskReport) -> None:
        """Records that a task is done, after its outputs."""
        self.store.put(_task_file(report.stage, report.number), documents.encode(report.to_json()))

    def task_report(self, stage: Stage, number: int) -> TaskReport | None:
        """What a task of an earlier attempt reported, or None."""
        name = _task_file(stage, number)
        found = self.store.read(name)
        if found is None:
            return None
        return documents.parse(found.data, TaskReport.from_json, where=self.store.where(name))


def run_folder(run_id: str) -> str:
    """The folder of a run, under the pipeline's."""
    return f"runs/{run_id}"


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


_OUTPUT: Final = "output.json"


def _task_file(stage: Stage, number: int) -> str:
    return f"tasks/{stage}-{number:05d}.json"


_THIS_PROCESS = uuid.uuid4().hex


def _boot_id() -> str:
    """Names the time since the machine's start; where the kernel doesn't tell (macOS), the life of this process."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return f"{_THIS_PROCESS}-{os.getpid()}"
