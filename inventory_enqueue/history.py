"""What a pipeline's runs have done, as their files in the state tell."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any, Final

from inventory_enqueue import documents
from inventory_enqueue.report import iso
from inventory_enqueue.run import run_folder
from inventory_enqueue.store import Store

UNFINISHED: Final = "unfinished"


@dataclass(frozen=True)
class PastRun:
    """A run that was begun."""

    run_id: str
    pipeline: str
    created: datetime
    status: str
    """One of report.Status, or unfinished."""
    manifest: str
    """The delivery's."""
    resume: str | None
    """The command that goes on with it, for one that is unfinished."""
    exit_code: int | None = None
    listed: int | None = None
    new: int | None = None
    selected: int | None = None
    """Rows and keys, as the report counts them; None where the run didn't come so far."""
    sent: int | None = None
    failed: int | None = None
    seconds: float | None = None
    """That the command took which ended it."""
    failures_file: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As `runs --json` prints it."""
        return {**asdict(self), "created": iso(self.created)}


def runs(pipeline: Store) -> Iterator[PastRun]:
    """The runs whose files are in the state, the last one first.

    Raises:
        IntegrityError: A file is damaged or of a newer version.
    """
    for run_id in reversed(pipeline.folders("runs")):
        store = pipeline.at(run_folder(run_id))
        begun = store.read("run.json")
        if begun is not None:
            ended = store.read("report.json")
            past = documents.parse(begun.data, _begun, where=store.where("run.json"))
            if ended is not None:
                past = documents.parse(ended.data, partial(_ended, past), where=store.where("report.json"))
            yield past


def _begun(run: dict[str, Any]) -> PastRun:
    return PastRun(
        run_id=run["run_id"],
        pipeline=run["pipeline"],
        created=datetime.fromisoformat(run["created"]),
        status=UNFINISHED,
        manifest=run["current"],
        resume=run["command"],
    )


def _ended(run: PastRun, report: dict[str, Any]) -> PastRun:
    counts, sent = report.get("counts", {}), report.get("sent", {})
    return replace(
        run,
        status=report["status"],
        exit_code=report.get("exit_code"),
        listed=counts.get("listed"),
        new=counts.get("new"),
        selected=counts.get("selected"),
        sent=sent.get("keys"),
        failed=sent.get("failed"),
        seconds=report.get("seconds", {}).get("total"),
        failures_file=sent.get("failures_file"),
        resume=None,
    )
