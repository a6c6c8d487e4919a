"""The main job, end to end, against an embedded S3 and SQS server: what `inventory-enqueue demo` does."""

import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote_plus

import boto3
from boto3.exceptions import Boto3Error
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from inventory_enqueue.delivery.writing import Delivery, InventoryConfig, write_delivery
from inventory_enqueue.demo.bucket import Bucket
from inventory_enqueue.demo.roto import RotoServer
from inventory_enqueue.errors import InventoryEnqueueError, RefusedError

if TYPE_CHECKING:
    from types_boto3_sqs import SQSClient

Echo = Callable[[str], None]

_DAYS: Final = (1, 2)
_MAX_ROWS_PER_FILE: Final = 2_000_000
_THREADS: Final = 8
_RECEIVES_PER_ROUND: Final = 64
_VISIBILITY_SECONDS: Final = 3600


@dataclass(frozen=True)
class Step:
    """One run of the command, and what its report has to say."""

    title: str
    delivery: Delivery
    arguments: tuple[str, ...]
    status: str
    counts: dict[str, int]
    messages: int


def run_demo(objects: int, work_dir: Path | None, echo: Echo) -> int:
    """Runs the demo.

    Args:
        objects: Objects in the synthetic bucket on day one.
        work_dir: An empty folder for the server's data, the deliveries and the state, which stay there; by default a
            temporary one.
        echo: Prints one line.

    Returns:
        The exit code: 0 if each run and the queue's content were exactly as expected.
    """
    folder: AbstractContextManager[str | Path] = (
        nullcontext(work_dir) if work_dir else tempfile.TemporaryDirectory(prefix="inventory-enqueue-demo-")
    )
    try:
        if work_dir and work_dir.exists() and any(work_dir.iterdir()):
            raise RefusedError("an earlier demo's state would be in the way: name an empty folder", where=str(work_dir))
        with folder as path, RotoServer(Path(path) / "server") as server, _aws_environment(server.environment()):
            _tell(Bucket("demo-logs", objects), server, Path(path), echo)
    except InventoryEnqueueError as error:
        echo(f"The demo failed: {error}")
        return error.exit_code
    except (Boto3Error, BotoCoreError, ClientError) as error:
        echo(f"The demo failed: its server doesn't do as it is asked: {error}")
        return InventoryEnqueueError.exit_code
    except KeyboardInterrupt:
        echo("Interrupted: the server is stopped.")
        raise
    return 0


def _tell(bucket: Bucket, server: RotoServer, folder: Path, echo: Echo) -> None:
    echo(f"An S3 and SQS server runs at {server.endpoint_url}.")
    sqs = boto3.client("sqs", config=Config(max_pool_connections=_THREADS))
    queue_url = sqs.create_queue(
        QueueName="demo-new-objects", Attributes={"VisibilityTimeout": str(_VISIBILITY_SECONDS)}
    )["QueueUrl"]
    first, second = _deliver(bucket, folder / "deliveries", echo)
    new = len(bucket.new(2))
    found = {"new": new, "changed": len(bucket.changed(2)), "deleted": len(bucket.deleted(2))}
    for step in (
        Step("day one", first, ("--first-run", "seed"), "seeded", {"listed": bucket.rows(1)}, 0),
        Step("day two", second, (), "committed", {"listed": bucket.rows(2), **found}, new),
        Step("day two again", second, (), "nothing_new", {}, 0),
    ):
        _run(step, queue_url, folder, echo)
    _check_queue(sqs, queue_url, bucket, echo)


def _deliver(bucket: Bucket, folder: Path, echo: Echo) -> list[Delivery]:
    """Writes and uploads the deliveries of both days."""
    start = time.perf_counter()
    s3 = boto3.client("s3")
    config = InventoryConfig(bucket.name, "demo-inventory", "inventory")
    for name in (config.source_bucket, config.destination_bucket):
        s3.create_bucket(Bucket=name)
    rows_per_file = min(_MAX_ROWS_PER_FILE, -(-bucket.objects // 4))
    deliveries = [
        write_delivery(folder, config, bucket.created(day), bucket.files(day, rows_per_file)) for day in _DAYS
    ]
    for delivery in deliveries:
        for key in delivery.keys:
            s3.upload_file(str(folder / key), delivery.bucket, key)
    size = sum(file.size for delivery in deliveries for file in delivery.files)
    echo(
        f"Wrote and uploaded two days of inventory of a bucket with {bucket.objects:,} objects: "
        f"{size / 1e6:,.0f} MB of Parquet, {time.perf_counter() - start:.1f} s."
    )
    return deliveries


def _run(step: Step, queue_url: str, folder: Path, echo: Echo) -> None:
    """Runs the real command line as a user would, and checks its report."""
    arguments = ["--manifest", step.delivery.manifest_uri, "--queue-url", queue_url, *step.arguments]
    echo("")
    echo(f"$ inventory-enqueue {shlex.join(arguments)}")
    folders = ["--state", str(folder / "state"), "--work-dir", str(folder / "work")]
    start = time.perf_counter()
    command = [sys.executable, "-m", "inventory_enqueue", *arguments, *folders, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    seconds = time.perf_counter() - start
    if done.returncode != 0:
        raise InventoryEnqueueError(f"exit code {done.returncode}\n{done.stderr}{done.stdout}", where=step.title)
    report = json.loads(done.stdout)
    _check_report(step, report)
    counts = ", ".join(f"{report['counts'][name]:,} {name}" for name in step.counts)
    echo(
        f"  {step.title}: {report['status']}; {counts + '; ' if counts else ''}"
        f"sent {report['sent']['messages']:,} messages "
        f"({seconds:.1f} s, peak memory {report['peak_rss_bytes'] / 1e6:,.0f} MB)"
    )


def _check_report(step: Step, report: dict[str, Any]) -> None:
    wanted = {"status": step.status, **step.counts, "messages": step.messages}
    got = {
        "status": report["status"],
        **{name: report["counts"].get(name) for name in step.counts},
        "messages": report["sent"]["messages"],
    }
    if got != wanted:
        raise InventoryEnqueueError(f"the report says {got}, expected {wanted}", where=step.title)


def _check_queue(sqs: "SQSClient", queue_url: str, bucket: Bucket, echo: Echo) -> None:
    """Empties the queue and compares its keys, as a multiset, with those that are new."""
    start = time.perf_counter()
    received = Counter(_receive_all(sqs, queue_url))
    wanted = Counter((bucket.name, key) for key in bucket.new_keys(2))
    if received != wanted:
        missing, surplus = wanted - received, received - wanted
        raise InventoryEnqueueError(
            f"{missing.total()} new keys aren't in the queue (such as {sorted(missing)[:3]}), "
            f"{surplus.total()} are there that shouldn't be (such as {sorted(surplus)[:3]})",
            where=queue_url,
        )
    echo("")
    echo(
        f"Received {received.total():,} messages ({time.perf_counter() - start:.1f} s): "
        f"their keys equal the {wanted.total():,} new keys, byte for byte, each once."
    )


def _receive_all(sqs: "SQSClient", queue_url: str) -> list[tuple[str, str]]:
    """Receives and deletes until a whole round comes back empty."""

    def receive(_: int) -> list[tuple[str, str]]:
        messages = sqs.receive_message(QueueUrl=queue_url, MaxNumberOfMessages=10).get("Messages", [])
        if messages:
            sqs.delete_message_batch(
                QueueUrl=queue_url,
                Entries=[
                    {"Id": str(number), "ReceiptHandle": message["ReceiptHandle"]}
                    for number, message in enumerate(messages)
                ],
            )
        return [object_ for message in messages for object_ in _objects(message["Body"])]

    received: list[tuple[str, str]] = []
    with ThreadPoolExecutor(_THREADS) as pool:
        while batch := [object_ for part in pool.map(receive, range(_RECEIVES_PER_ROUND)) for object_ in part]:
            received += batch
    return received


def _objects(body: str) -> Iterator[tuple[str, str]]:
    """The buckets and keys of an S3 event notification."""
    for record in json.loads(body)["Records"]:
        yield record["s3"]["bucket"]["name"], unquote_plus(record["s3"]["object"]["key"], errors="strict")


@contextmanager
def _aws_environment(variables: dict[str, str]) -> Iterator[None]:
    """Replaces the AWS settings and our own of the environment, for this process and those that it starts."""
    saved = dict(os.environ)
    for name in saved:
        if name.startswith(("AWS_", "INVENTORY_ENQUEUE_")):
            del os.environ[name]
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(saved)
