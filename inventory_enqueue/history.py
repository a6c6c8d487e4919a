"""What a pipeline's runs have done, as their files in the state tell."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
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
    exit_code: int | None
    manifest: str
    """The delivery's."""
    listed: int | None
    new: int | None
    selected: int | None
    """Rows and keys, as the report counts them; None where the run didn't come so far."""
    sent: int | None
    failed: int | None
    seconds: float | None
    """That the command took which ended it."""
    failures_file: str | None
    resume: str | None
    """The command that goes on with it, for one that is unfinished."""

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
            report = {} if ended is None else documents.parse(ended.data, dict, where=store.where("report.json"))
            yield _past(documents.parse(begun.data, dict, where=store.where("run.json")), report)


def _past(run: dict[str, Any], report: dict[str, Any]) -> PastRun:
    counts, sent = report.get("counts", {}), report.get("sent", {})
    return PastRun(
        run_id=run["run_id"],
        pipeline=run["pipeline"],
        created=datetime.fromisoformat(run["created"]),
        status=report.get("status", UNFINISHED),
        exit_code=report.get("exit_code"),
        manifest=run["current"],
        listed=counts.get("listed"),
        new=counts.get("new"),
        selected=counts.get("selected"),
        sent=sent.get("keys"),
        failed=sent.get("failed"),
        seconds=report.get("seconds", {}).get("total"),
        failures_file=sent.get("failures_file"),
        resume=None if report else run["command"],
    )
