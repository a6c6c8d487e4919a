"""Three days of a bucket, and a pipeline that has the first one behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.pipelines import Days, Pipeline, seeded_state, three_days

if TYPE_CHECKING:
    from pathlib import Path

    from types_boto3_sqs import SQSClient


NEW = [*(f"new/{number:03}" for number in range(60)), "new/a b", "new/c+d", "new/é%"]
FILES = 3


@pytest.fixture(scope="package")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that stands for the bucket of the deliveries."""
    return tmp_path_factory.mktemp("bucket")


@pytest.fixture(scope="package")
def days(root: Path) -> Days:
    return three_days(root, NEW, FILES)


@pytest.fixture(scope="package")
def first_day(tmp_path_factory: pytest.TempPathFactory, days: Days) -> Path:
    return seeded_state(tmp_path_factory.mktemp("seeded"), days)


@pytest.fixture
def seeded(tmp_path: Path, sqs_client: SQSClient, queue_url: str, first_day: Path) -> Pipeline:
    """A pipeline whose baseline is the first day."""
    pipeline = Pipeline(tmp_path, sqs_client, queue_url)
    pipeline.begin_with(first_day)
    return pipeline
