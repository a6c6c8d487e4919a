"""A delivery goes in, the new keys come out of the queue; again, and nothing comes. For every fixture."""

import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from inventory_enqueue.config import (
    AwsSettings,
    Change,
    FirstRun,
    JsonLinesFile,
    MessageFormat,
    RunConfig,
    Sizes,
    SqsQueue,
)
from inventory_enqueue.demo.roto import RotoServer
from inventory_enqueue.pipeline import run
from inventory_enqueue.report import RunReport, Status
from inventory_enqueue.uris import Location, S3Url
from tests.support.queue import drain, keys_of

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client
    from types_boto3_sqs import SQSClient

FIXTURES = Path(__file__).parent.parent / "fixtures"
NAMES = sorted(folder.name for folder in FIXTURES.iterdir() if folder.is_dir())
ONE_FILE_A_BATCH, ALL_IN_ONE = 1, 1 << 40
CUTS = [(bits, batch) for bits in (0, 2, 6) for batch in (ONE_FILE_A_BATCH, ALL_IN_ONE)]


@dataclass(frozen=True)
class Fixture:
    days: list[Path]
    new: Counter[bytes]
    changed: Counter[bytes]
    deleted: Counter[bytes]


def fixture(name: str) -> Fixture:
    expected = json.loads((FIXTURES / name / "expected.json").read_text(encoding="ascii"))

    def keys(kind: str) -> Counter[bytes]:
        return Counter(key.encode() for key in expected[kind])

    days = [FIXTURES / name / manifest for manifest in expected["manifests"]]
    return Fixture(days, keys("new"), keys("changed"), keys("deleted"))


UNCARRIABLE: Final = re.compile(rb"[\x00-\x08\x0B\x0C\x0E-\x1F]|\xEF\xBF[\xBE\xBF]")
"""What no message can hold."""


def sizes(bits: int, batch: int) -> Sizes:
    return Sizes(partition_bits=bits, bytes_per_batch=batch, rows_per_spill=7)


@pytest.mark.parametrize("message_format", list(MessageFormat))
@pytest.mark.parametrize("name", NAMES)
def test_the_queue_holds_exactly_the_new_and_changed_keys_and_a_re_run_sends_nothing(
    name: str, message_format: MessageFormat, sqs_client: "SQSClient", queue_url: str, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    expected = fixture(name)

    def day(number: int, first_run: FirstRun | None = None) -> RunReport:
        return run(
            RunConfig(
                manifest=expected.days[number],
                sink=SqsQueue(queue_url),
                state=state,
                first_run=first_run,
                changes=frozenset(Change),
                message_format=message_format,
                work_dir=tmp_path / "work",
                aws=AwsSettings(region="us-east-1", sqs_endpoint_url=sqs_client.meta.endpoint_url),
            )
        )

    assert day(0, FirstRun.SEED).status is Status.SEEDED
    assert drain(sqs_client, queue_url) == []
    report = day(1)
    assert report.status is Status.COMMITTED
    assert report.counts["deleted"] == expected.deleted.total()
    keys = expected.new + expected.changed + expected.deleted
    if message_format is MessageFormat.KEY:
        refused = Counter({key: number for key, number in keys.items() if UNCARRIABLE.search(key)})
        assert (report.sent["failed"], report.exit_code) == (refused.total(), 4 if refused else 0)
        keys -= refused
    assert keys_of(drain(sqs_client, queue_url), message_format) == keys
    again = day(1)
    assert (again.status, again.sent["messages"]) == (Status.NOTHING_NEW, 0)
    assert drain(sqs_client, queue_url) == []
    assert not list((tmp_path / "work").iterdir()), "scratch space is left behind"


@pytest.mark.parametrize("name", NAMES)
def test_the_result_is_the_same_for_any_cut_into_partitions_and_batches(name: str, tmp_path: Path) -> None:
    expected = fixture(name)
    results = []
    for number, (bits, batch) in enumerate(CUTS):
        output = tmp_path / f"{number}.jsonl"
        # The second day is cut otherwise than the first one's index.
        other_bits, other_batch = CUTS[number - 1]
        _, report = (
            run(
                RunConfig(
                    manifest=expected.days[day],
                    sink=JsonLinesFile(output),
                    state=tmp_path / f"state-{number}",
                    first_run=FirstRun.SEED,
                    changes=frozenset(Change),
                    message_format=MessageFormat.JSON,
                    work_dir=tmp_path / "work",
                    sizes=cut,
                )
            )
            for day, cut in enumerate((sizes(other_bits, other_batch), sizes(bits, batch)))
        )
        messages = [json.loads(line) for line in output.read_text(encoding="ascii").splitlines()]
        for message in messages:
            del message["run_id"]
        results.append((sorted(json.dumps(message) for message in messages), report.counts))
        by_change = {change: Counter(m["key"].encode() for m in messages if m["change"] == change) for change in Change}
        assert by_change == {
            Change.NEW: expected.new,
            Change.CHANGED: expected.changed,
            Change.DELETED: expected.deleted,
        }
    assert all(result == results[0] for result in results)


def upload(folder: Path, client: "S3Client", bucket: str) -> None:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != "expected.json":
            client.upload_file(str(path), bucket, path.relative_to(folder).as_posix())


def test_a_delivery_in_s3_is_found_beside_its_manifest_when_it_was_copied(
    roto: RotoServer, s3_client: "S3Client", bucket: str, tmp_path: Path
) -> None:
    """The manifest names another destination bucket: the files are looked for in the bucket that it lies in."""
    expected = fixture("odd-keys")
    upload(FIXTURES / "odd-keys", s3_client, bucket)
    output = tmp_path / "out.jsonl"
    locations: list[Location] = [
        S3Url(bucket, path.relative_to(FIXTURES / "odd-keys").as_posix()) for path in expected.days
    ]
    report = run(
        RunConfig(
            manifest=locations[1],
            previous=locations[0],
            sink=JsonLinesFile(output),
            state=tmp_path / "state",
            work_dir=tmp_path / "work",
            aws=AwsSettings(region="us-east-1", s3_endpoint_url=roto.endpoint_url),
        )
    )
    assert report.status is Status.COMMITTED
    assert keys_of(output.read_text(encoding="ascii").splitlines(), MessageFormat.S3_EVENT) == expected.new
    assert not list((tmp_path / "work").iterdir())


def test_first_run_all_sends_every_live_key_once(tmp_path: Path) -> None:
    for name in NAMES:
        expected = fixture(name)
        outputs = []
        for number in (0, 1):
            output = tmp_path / f"{name}-{number}.jsonl"
            config = RunConfig(
                manifest=expected.days[number],
                sink=JsonLinesFile(output),
                state=tmp_path / f"{name}-{number}",
                first_run=FirstRun.ALL,
                message_format=MessageFormat.JSON,
                work_dir=tmp_path / "work",
            )
            report = run(config)
            keys = keys_of(output.read_text(encoding="ascii").splitlines(), MessageFormat.JSON)
            assert keys.total() == len(keys) == report.counts["selected"]
            outputs.append(keys.keys())
        assert outputs[1] - outputs[0] == expected.new.keys()
        assert outputs[0] - outputs[1] == expected.deleted.keys()


def test_three_days_with_a_missing_one_compare_with_the_delivery_committed_last(tmp_path: Path) -> None:
    """Day one, then day two by another pipeline's name: each pipeline has a baseline of its own."""
    expected = fixture("plain-40")
    counts = []
    for pipeline in ("one", "two"):
        for number in (0, 1, 0):
            config = RunConfig(
                manifest=expected.days[number],
                sink=JsonLinesFile(tmp_path / f"{pipeline}.jsonl"),
                state=tmp_path / "state",
                pipeline=pipeline,
                first_run=FirstRun.SEED,
                work_dir=tmp_path / "work",
            )
            counts.append(run(config).sent["messages"])
    assert counts == [0, expected.new.total(), 0] * 2
    assert sorted(path.name for path in (tmp_path / "state").iterdir()) == ["one", "two"]
