"""A pipeline in this process whose messages go to a file."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from inventory_enqueue import pipeline
from inventory_enqueue.config import AwsSettings, FirstRun, JsonLinesFile, MessageFormat, RunConfig
from inventory_enqueue.errors import InventoryEnqueueError
from inventory_enqueue.report import RunReport, Status

if TYPE_CHECKING:
    from pathlib import Path

Message = dict[str, Any]


class FilePipeline:
    """The daily command with JSON messages, and what it has sent."""

    def __init__(self, folder: Path) -> None:
        """Make it; the folder is its own."""
        self.home = folder / "state" / "p"
        self.report = RunReport()
        """The last run's, of a refused one, too."""
        self._output = folder / "messages.jsonl"
        self._config = RunConfig(
            manifest=folder,
            sink=JsonLinesFile(self._output),
            state=folder / "state",
            pipeline="p",
            message_format=MessageFormat.JSON,
            work_dir=folder / "work",
            aws=AwsSettings(region="us-east-1"),
        )

    def run(self, manifest: Path, **options: Any) -> list[Message]:  # noqa: ANN401 - any field of RunConfig
        """Run the command and return the messages that it wrote."""
        before = len(self.messages())
        self.report = RunReport()
        try:
            pipeline.run(replace(self._config, manifest=manifest, **options), self.report)
        except InventoryEnqueueError as error:
            self.report.fail(error)  # as the command line does
            raise
        return self.messages()[before:]

    def seed(self, manifest: Path, **options: Any) -> None:  # noqa: ANN401 - as above
        """Make a delivery the baseline."""
        assert self.run(manifest, first_run=FirstRun.SEED, **options) == []
        assert self.report.status is Status.SEEDED

    def everything(self, manifest: Path, **options: Any) -> list[Message]:  # noqa: ANN401 - as above
        """Run for the first time, and send all that is listed."""
        return self.run(manifest, first_run=FirstRun.ALL, **options)

    def messages(self) -> list[Message]:
        """All messages so far."""
        lines = self._output.read_text(encoding="ascii").splitlines() if self._output.exists() else []
        return [json.loads(line) for line in lines]

    def baseline(self) -> bytes | None:
        """What baseline.json holds, if it is there."""
        path = self.home / "baseline.json"
        return path.read_bytes() if path.exists() else None

    @property
    def run_folder(self) -> Path:
        """The last run's folder in the state."""
        assert self.report.run_id is not None
        return self.home / "runs" / self.report.run_id

    def quarantine(self) -> list[dict[str, Any]]:
        """The rows that the last run named."""
        lines = [line for path in self.quarantine_files() for line in path.read_text(encoding="ascii").splitlines()]
        return [json.loads(line) for line in lines]

    def quarantine_files(self) -> list[Path]:
        """The files in which the last run named rows."""
        return sorted((self.run_folder / "quarantine").glob("*"))


def keys(messages: list[Message]) -> Counter[str]:
    """Count the keys of messages."""
    return Counter(message["key"] for message in messages)


def refused(daily: FilePipeline, manifest: Path, **options: Any) -> InventoryEnqueueError:  # noqa: ANN401 - of RunConfig
    """Run to an error, before which nothing was sent and by which nothing moved."""
    sent, baseline = daily.messages(), daily.baseline()
    with pytest.raises(InventoryEnqueueError) as caught:
        daily.run(manifest, **options)
    assert (daily.messages(), daily.baseline()) == (sent, baseline)
    return caught.value
