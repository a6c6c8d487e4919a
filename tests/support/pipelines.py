"""A pipeline as its user has it: a command, a state, scratch space, a queue; and three days of a bucket for it."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from inventory_enqueue import pipeline
from inventory_enqueue.config import AwsSettings, FirstRun, JsonLinesFile, RunConfig, Sending, Sizes, SqsQueue
from inventory_enqueue.report import Status
from inventory_enqueue.stores.local import LocalStore
from inventory_enqueue.stores.s3 import S3Store
from inventory_enqueue.uris import S3Url
from tests.support import deliveries
from tests.support.cli import Result, run_cli
from tests.support.killer import KILLED, ONE_FILE_A_TASK, Moment, run_killed
from tests.support.queue import drain, keys_of

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from types_boto3_s3 import S3Client
    from types_boto3_sqs import SQSClient

    from inventory_enqueue.report import RunReport
    from inventory_enqueue.store import Store
    from inventory_enqueue.uris import Location

OLD = [f"old/{number:03}" for number in range(30)]
REGION = "us-east-1"


@dataclass(frozen=True)
class Days:
    """Three deliveries of a bucket; each adds keys, and the second one loses some."""

    first: Path
    second: Path
    third: Path
    second_files: tuple[tuple[str, ...], ...]
    """The keys of the second day's data files, in their order."""
    second_new: Counter[bytes]
    third_new: Counter[bytes]

    def key(self, file: int, position: int) -> bytes:
        """Name the key in a row of the second day."""
        return self.second_files[file][position].encode()


def three_days(root: Path, new: Iterable[str], files: int = 3) -> Days:
    """Write the deliveries; the second day's new keys are `new`, with old ones between them."""
    new = list(new)
    old = OLD[5:]
    step = max(1, len(new) // len(old))
    mixed: list[str] = []
    for number, key in enumerate(new):
        if number % step == 0 and old:
            mixed.append(old.pop())
        mixed.append(key)
    mixed += old
    cut = -(-len(mixed) // files)
    second = tuple(tuple(mixed[start : start + cut]) for start in range(0, len(mixed), cut))
    newer = ["newer/a b", "newer/é"]
    return Days(
        deliveries.deliver(root, 1, OLD[:10], OLD[10:]),
        deliveries.deliver(root, 2, *second),
        deliveries.deliver(root, 3, mixed[3:], newer),
        second,
        count(new),
        count(newer),
    )


def seeded_state(folder: Path, days: Days) -> Path:
    """Make the first day a baseline, and return the pipeline's folder, to be copied: see `Pipeline.begin_with`."""
    config = RunConfig(
        manifest=days.first,
        sink=JsonLinesFile(folder / "nothing.jsonl"),
        state=folder,
        pipeline="p",
        first_run=FirstRun.SEED,
        work_dir=folder / "work",
        sizes=Sizes(**ONE_FILE_A_TASK),
    )
    assert pipeline.run(config).status is Status.SEEDED
    return folder / "p"


def count(keys: Iterable[str]) -> Counter[bytes]:
    """Count keys as bytes."""
    return Counter(key.encode() for key in keys)


class Pipeline:
    """A pipeline into a queue."""

    concurrency = 4

    def __init__(self, folder: Path, client: SQSClient, queue_url: str) -> None:
        self.state = folder / "state"
        self.location: Location = self.state
        """The state, as the command line names it."""
        self.work = folder / "work"
        self.home = self.state / "p"
        self.store: Store = LocalStore(self.home)
        """The pipeline's files in the state, read from outside."""
        self.queue_url = queue_url
        self.endpoint_url = client.meta.endpoint_url
        self._client = client

    def config(self, manifest: Path) -> RunConfig:
        """Make the configuration that `arguments` are."""
        return RunConfig(
            manifest=manifest,
            sink=SqsQueue(self.queue_url),
            state=self.location,
            pipeline="p",
            sending=Sending(concurrency=self.concurrency),
            work_dir=self.work,
            aws=AwsSettings(region=REGION, sqs_endpoint_url=self.endpoint_url, s3_endpoint_url=self.endpoint_url),
            sizes=Sizes(**ONE_FILE_A_TASK),
        )

    def arguments(self, manifest: Path | str, *more: str) -> list[str]:
        """Make the daily command's arguments; those given last win."""
        return [
            *("--manifest", str(manifest), "--queue-url", self.queue_url, "--state", str(self.location)),
            *("--pipeline", "p", "--work-dir", str(self.work), "--concurrency", str(self.concurrency)),
            *("--region", REGION, "--endpoint-url", self.endpoint_url, "--json", *more),
        ]

    def run(self, manifest: Path, report: RunReport | None = None, **options: Any) -> RunReport:  # noqa: ANN401 - any field of RunConfig
        """Run the command in this process."""
        return pipeline.run(replace(self.config(manifest), **options), report)

    def keep_state_in(self, bucket: str, client: S3Client) -> None:
        """Keep the state in S3 from now on."""
        self.location = S3Url(bucket, "states/")
        self.store = S3Store(client, self.location, self.work / "tests").at("p")

    def begin_with(self, seeded: Path) -> None:
        """Take a copy of a pipeline's folder for its own."""
        if self.location == self.state:
            shutil.copytree(seeded, self.home)
            return
        for path in seeded.rglob("*"):
            if path.is_file() and path.name != "lock":
                self.store.put(path.relative_to(seeded).as_posix(), path.read_bytes())

    def seed(self, manifest: Path) -> None:
        """Make a delivery the baseline."""
        assert self.run(manifest, first_run=FirstRun.SEED).status is Status.SEEDED

    def cli(self, manifest: Path | str, *more: str) -> Result:
        """Run the command as a process."""
        return run_cli(*self.arguments(manifest, *more))

    def killed(self, moment: Moment, manifest: Path | str, *more: str) -> None:
        """Run the command as a process that dies at this moment."""
        result = run_killed(moment, *self.arguments(manifest, *more))
        assert result.exit_code == KILLED, (moment, result)

    def received(self) -> Counter[bytes]:
        """Empty the queue and count the keys that were in it."""
        return keys_of(drain(self._client, self.queue_url), "s3-event")

    @property
    def baseline(self) -> dict[str, Any]:
        """What baseline.json says."""
        content: dict[str, Any] = json.loads(self.store.get("baseline.json"))
        return content

    @property
    def unfinished(self) -> Path:
        """The folder of the one run that has no report."""
        (folder,) = (path for path in self.runs if not (path / "report.json").exists())
        return folder

    @property
    def runs(self) -> list[Path]:
        """The folders of all runs, the oldest first."""
        return sorted((self.home / "runs").iterdir())
