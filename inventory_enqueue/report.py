"""What was done, as numbers: a run's report is the sum of its tasks' reports."""

import resource
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from inventory_enqueue.errors import InventoryEnqueueError, RefusedError, StoppedError
from inventory_enqueue.version import __version__

SCHEMA_VERSION: Final = 1
RESUME: Final = "run the same command again: it goes on where this one stopped"


class Stage(StrEnum):
    """The stages whose tasks an engine runs."""

    INDEX = "index"
    DIFF = "diff"
    RECALL = "recall"
    ENQUEUE = "enqueue"


@dataclass(frozen=True)
class Output:
    """A file that a task left."""

    name: str
    size: int
    """Bytes."""
    rows: int
    checksum: str | None = None
    """fingerprints.checksum of what it holds, where that is to last."""

    def to_json(self) -> dict[str, Any]:
        """As a task's report and an index's meta.json hold it."""
        return {"name": self.name, "rows": self.rows, "size": self.size, "checksum": self.checksum}


@dataclass(frozen=True)
class TaskReport:
    """What one task did."""

    stage: Stage
    number: int
    counts: Mapping[str, int]
    outputs: tuple[Output, ...] = ()
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """As tasks/<stage>-<number>.json holds it."""
        return {
            "stage": self.stage,
            "number": self.number,
            "counts": dict(self.counts),
            "outputs": [output.to_json() for output in self.outputs],
            "seconds": self.seconds,
        }

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> "TaskReport":
        """Reads what to_json wrote."""
        return cls(
            Stage(document["stage"]),
            document["number"],
            document["counts"],
            tuple(Output(**output) for output in document["outputs"]),
            document["seconds"],
        )


def total(reports: Iterable[TaskReport]) -> Counter[str]:
    """The counts of tasks, added up."""
    counts: Counter[str] = Counter()
    for report in reports:
        counts.update(report.counts)
    return counts


class Status(StrEnum):
    """How a run ended."""

    COMMITTED = "committed"
    NOTHING_NEW = "nothing_new"
    SEEDED = "seeded"
    DRY_RUN = "dry_run"
    INCOMPLETE = "incomplete"
    REFUSED = "refused"
    ABANDONED = "abandoned"
    """Given up with --abandon: only a run in the history has it."""
    FAILED = "failed"


@dataclass
class RunReport:
    """The report of --json, schema_version 1; filled as the run goes on, so that a failed run has one, too."""

    run_id: str | None = None
    pipeline: str | None = None
    status: Status = Status.FAILED
    exit_code: int = 1
    source: dict[str, Any] | None = None
    baseline: dict[str, Any] | None = None
    counts: dict[str, Any] = field(default_factory=dict)
    sent: dict[str, Any] = field(default_factory=dict)
    started: datetime = field(default_factory=lambda: datetime.now(tz=UTC))
    seconds: dict[str, float] = field(default_factory=dict)
    cost_estimate_usd: float | None = None
    resume: str | None = None
    error: dict[str, str | None] | None = None
    sample_message: str | None = None
    finished_first: list[dict[str, Any]] = field(default_factory=list)
    """Reports of unfinished runs of this pipeline that were finished before this one."""
    abandoned: dict[str, Any] | None = None
    """The unfinished run that --abandon gave up: run_id, and how many keys the queue had acknowledged."""

    def fail(self, error: InventoryEnqueueError) -> None:
        """Takes an error over as the run's end."""
        match error:
            case RefusedError():
                self.status = Status.REFUSED
            case StoppedError():
                self.status, self.resume = Status.INCOMPLETE, RESUME
            case _:
                self.status = Status.FAILED
        self.exit_code = error.exit_code
        self.error = {"type": error.kind, "message": error.message, "where": error.where}

    def crash(self, error: Exception) -> None:
        """Takes an error over that nobody expected."""
        self.status, self.exit_code = Status.FAILED, 1
        self.error = {"type": type(error).__name__, "message": str(error), "where": None}

    def interrupt(self, exit_code: int) -> None:
        """Records that a signal ended the run."""
        self.status, self.exit_code, self.resume = Status.INCOMPLETE, exit_code, RESUME

    def to_json(self) -> dict[str, Any]:
        """The report as one JSON object."""
        ended = datetime.now(tz=UTC)
        document: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "run_id": self.run_id,
            "pipeline": self.pipeline,
            "status": self.status,
            "exit_code": self.exit_code,
            "source": self.source,
            "baseline": self.baseline,
            "counts": self.counts,
            "sent": self.sent,
            "started": iso(self.started),
            "ended": iso(ended),
            "seconds": {**self.seconds, "total": round((ended - self.started).total_seconds(), 3)},
            "peak_rss_bytes": peak_rss_bytes(),
            "cost_estimate_usd": self.cost_estimate_usd,
            "resume": self.resume,
            "version": __version__,
        }
        for name in ("error", "sample_message", "finished_first", "abandoned"):
            if getattr(self, name):
                document[name] = getattr(self, name)
        return document


def iso(moment: datetime) -> str:
    """ISO 8601 in UTC with milliseconds and Z, as S3 writes times."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def peak_rss_bytes() -> int:
    """This process's largest resident set so far."""
    status = Path("/proc/self/status")
    if status.exists():
        # getrusage would count the parent's memory at the fork.
        return int(status.read_text(encoding="ascii").partition("VmHWM:")[2].split()[0]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
