"""Bad input of every kind: the message says where and what to do, nothing is sent, the baseline stays where it is."""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

from inventory_enqueue.config import AwsSettings, FirstRun, JsonLinesFile, MessageFormat, RunConfig, Sending, SqsQueue
from inventory_enqueue.errors import InventoryEnqueueError, PreflightError
from inventory_enqueue.pipeline import run
from inventory_enqueue.report import RunReport, Status
from tests.support import deliveries
from tests.support.cli import Result, run_cli
from tests.support.proxy import Fault, FaultProxy, Request, deny
from tests.support.queue import drain, keys_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from types_boto3_s3 import S3Client
    from types_boto3_sqs import SQSClient

    from inventory_enqueue.demo.roto import RotoServer

PIPELINE = "nightly"
OLD = [f"logs/{number:02}.json" for number in range(20)]
NEW = ["new/a b", "new/c+d", "new/é", "new/%41"]
LATER = ["later/1", "later/2"]


@dataclass(frozen=True)
class Scene:
    """Three days of a bucket, and the state of a pipeline that has committed the first one."""

    folder: Path

    @property
    def bucket(self) -> Path:
        return self.folder / "bucket"

    def manifest(self, day: int) -> Path:
        return self.bucket / deliveries.SOURCE / "daily" / f"2026-03-{day + 1:02}T01-00Z" / "manifest.json"

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def pipeline(self) -> Path:
        return self.state / PIPELINE

    @property
    def output(self) -> Path:
        return self.folder / "messages.jsonl"

    @property
    def baseline(self) -> bytes:
        return (self.pipeline / "baseline.json").read_bytes()

    @property
    def sent(self) -> list[str]:
        """The keys that were written to the output file."""
        lines = self.output.read_text(encoding="ascii").splitlines() if self.output.exists() else []
        return [json.loads(line)["key"] for line in lines]

    def cli(self, manifest: str | Path, *args: str | Path, queue_url: str | None = None) -> Result:
        """Run the daily command as a process, with `--json`."""
        sink = ("--output", self.output) if queue_url is None else ("--queue-url", queue_url)
        names = ("--state", self.state, "--pipeline", PIPELINE, "--work-dir", self.folder / "work")
        return run_cli("--manifest", manifest, *sink, *names, "--message-format", "json", "--json", *args)

    def run(
        self,
        day: int,
        queue_url: str | None = None,
        *,
        first_run: FirstRun | None = None,
        previous: Path | None = None,
    ) -> RunReport:
        """Run the same command in this process, where a process isn't the point."""
        return run(
            RunConfig(
                manifest=self.manifest(day),
                sink=JsonLinesFile(self.output) if queue_url is None else SqsQueue(queue_url),
                state=self.state,
                pipeline=PIPELINE,
                first_run=first_run,
                previous=previous,
                message_format=MessageFormat.JSON,
                work_dir=self.folder / "work",
                sending=Sending(concurrency=1),
                aws=AwsSettings(region="us-east-1"),
            )
        )


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    scene = Scene(tmp_path_factory.mktemp("scene"))
    deliveries.deliver(scene.bucket, 1, OLD[:10], OLD[10:])
    deliveries.deliver(scene.bucket, 2, OLD[2:10] + NEW[:1], OLD[10:] + NEW[1:])
    deliveries.deliver(scene.bucket, 3, OLD[2:] + NEW, LATER)
    assert scene.run(1, first_run=FirstRun.SEED).status is Status.SEEDED
    return scene


@pytest.fixture
def scene(untouched: Scene, tmp_path: Path) -> Scene:
    """A copy to damage."""
    shutil.copytree(untouched.folder, tmp_path, dirs_exist_ok=True)
    return Scene(tmp_path)


@dataclass(frozen=True)
class Bad:
    """How to damage a delivery, given its manifest's path, and what the program has to say about it."""

    damage: Callable[[Path], object]
    exit_code: int
    error: str
    says: tuple[str, ...]
    where: Callable[[Path], str | Path] = lambda manifest: manifest


def assert_told(result: Result, exit_code: int, error: str, where: str | Path, says: tuple[str, ...]) -> None:
    """The exit code, the report and the message on stderr agree, and the message says where and what to do."""
    report = result.report
    status = {8: "incomplete", 9: "refused"}.get(exit_code, "failed")
    assert (result.exit_code, report["exit_code"], report["status"]) == (exit_code, exit_code, status), result
    assert report["error"]["type"] == error
    assert report["error"]["where"] == str(where)
    assert f"inventory-enqueue: {where}: {report['error']['message']}\n" in result.stderr
    assert [phrase for phrase in says if phrase not in report["error"]["message"]] == [], report["error"]["message"]
    assert "Traceback" not in result.stderr


def columns(**arrays: list[Any] | None) -> pa.Table:
    """The rows of the first data file of day two, with columns added, replaced or (None) left out."""
    table = deliveries.rows(OLD[2:10] + NEW[:1])
    for name, values in arrays.items():
        table = table.drop_columns([name]) if name in table.column_names else table
        table = table if values is None else table.append_column(name, pa.array(values))
    return table


def damage_data_file(change: Callable[[Path], object]) -> Callable[[Path], object]:
    return lambda manifest: change(deliveries.data_file(manifest))


def data_file_key(manifest: Path) -> str:
    return str(deliveries.data_file(manifest).relative_to(manifest.parents[3]))


def first_rows(manifest: Path) -> str:
    return f"{data_file_key(manifest)}, rows from 0"


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def rewrite(data: bytes) -> Callable[[Path], object]:
    """Another manifest.json, with the checksum that belongs to it."""
    return lambda manifest: deliveries.write_manifest(manifest, data)


def edit(**fields: object) -> Callable[[Path], object]:
    return lambda manifest: deliveries.edit_manifest(manifest, lambda document: document.update(fields))


def replace(**arrays: list[Any] | None) -> Callable[[Path], object]:
    return lambda manifest: deliveries.replace_data_file(manifest, columns(**arrays))


ABSENT, SPOILT, REFUSED = "InventoryUnavailableError", "IntegrityError", "RefusedError"

QUARANTINE = ("named in ", "/quarantine", "--max-quarantined", "raise it")
NINE = len(OLD[2:10] + NEW[:1])

BAD_FILES = {
    "no manifest": Bad(Path.unlink, 6, ABSENT, ("there is no manifest", "check the path")),
    "no checksum file": Bad(
        lambda manifest: deliveries.checksum_file(manifest).unlink(),
        6,
        ABSENT,
        ("there is no checksum file", "isn't complete yet", "wait"),
        deliveries.checksum_file,
    ),
    "another checksum": Bad(
        lambda manifest: deliveries.checksum_file(manifest).write_text("0" * 32 + "\n"),
        7,
        SPOILT,
        ("its MD5 is ", f"manifest.checksum says '{'0' * 32}'", "fetch the delivery again", "wait"),
    ),
    "an empty checksum file": Bad(
        lambda manifest: deliveries.checksum_file(manifest).write_bytes(b""),
        7,
        SPOILT,
        ("manifest.checksum says ''",),
    ),
    "data file cut short": Bad(
        damage_data_file(truncate),
        7,
        SPOILT,
        (" bytes, the manifest says ", "truncated or was replaced"),
        deliveries.data_file,
    ),
    "a byte flipped": Bad(
        damage_data_file(lambda path: deliveries.flip(path, path.stat().st_size // 2)),
        7,
        SPOILT,
        ("its MD5 is ", "the manifest says ", "damaged or was replaced"),
        deliveries.data_file,
    ),
}
BAD_LOCALLY = BAD_FILES | {
    "data file gone": Bad(
        damage_data_file(Path.unlink), 7, SPOILT, ("names the data file", ".parquet", "isn't under a folder above")
    )
}
BAD_CONTENT = {
    "not JSON": Bad(rewrite(b"<html>Access denied</html>"), 7, SPOILT, ("not JSON", "is this a manifest.json?")),
    "JSON of another kind": Bad(rewrite(b"[1, 2]"), 7, SPOILT, ("a JSON object was expected", "manifest.json?")),
    "unknown fileFormat": Bad(edit(fileFormat="Avro"), 7, SPOILT, ("fileFormat is 'Avro'",)),
    "no key column": Bad(
        replace(key=None), 7, SPOILT, ("the column 'key' is missing", "S3 Inventory file?"), data_file_key
    ),
    "no bucket column": Bad(
        replace(bucket=None), 7, SPOILT, ("the column 'bucket' is missing", "S3 Inventory file?"), data_file_key
    ),
    "no is_latest beside version_id": Bad(
        replace(version_id=["v"] * NINE, is_delete_marker=[False] * NINE),
        7,
        SPOILT,
        ("the column is_latest is missing", "can't be told from old versions"),
        data_file_key,
    ),
    "rows of another bucket": Bad(
        replace(bucket=["other-bucket"] * NINE), 9, REFUSED, ("9 of 22 rows can't be trusted", *QUARANTINE)
    ),
    "one row of another bucket": Bad(
        replace(bucket=[deliveries.SOURCE] * (NINE - 1) + ["other"]), 9, REFUSED, ("1 of 22 rows", *QUARANTINE)
    ),
    "a row without a bucket": Bad(
        replace(bucket=[None] + [deliveries.SOURCE] * (NINE - 1)), 9, REFUSED, ("1 of 22 rows", *QUARANTINE)
    ),
    "a row without a key": Bad(replace(key=[None] + ["k"] * (NINE - 1)), 9, REFUSED, ("1 of 22 rows", *QUARANTINE)),
    "a size that is no number": Bad(
        replace(size=["big"] * NINE), 7, SPOILT, ("the column 'size' can't be read as int64",), first_rows
    ),
    "no Parquet file at all": Bad(
        lambda manifest: deliveries.replace_data_file(manifest, b"PAR1, nearly"),
        7,
        SPOILT,
        ("the file can't be decoded",),
        data_file_key,
    ),
    "no data files": Bad(
        edit(files=[]), 9, REFUSED, ("has no data files", "count as deleted", "wait for the next delivery")
    ),
}
BAD_DELIVERIES = BAD_LOCALLY | BAD_CONTENT


def of(table: dict[str, Bad]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("bad", table.values(), ids=list(table))


VARIANTS = (
    "an empty checksum file",
    "JSON of another kind",
    "no bucket column",
    "one row of another bucket",
    "a row without a bucket",
    "a row without a key",
    "a size that is no number",
    "no Parquet file at all",
)


@of({name: bad for name, bad in BAD_DELIVERIES.items() if name not in VARIANTS})
def test_a_bad_delivery_is_told_of_sends_nothing_and_moves_nothing(bad: Bad, scene: Scene) -> None:
    baseline, manifest = scene.baseline, scene.manifest(2)
    bad.damage(manifest)
    assert_told(scene.cli(manifest), bad.exit_code, bad.error, bad.where(manifest), bad.says)
    assert scene.sent == []
    assert scene.baseline == baseline


@of({name: BAD_DELIVERIES[name] for name in VARIANTS})
def test_every_variant_of_a_bad_delivery_is_told_of_sends_nothing_and_moves_nothing(bad: Bad, scene: Scene) -> None:
    baseline, manifest = scene.baseline, scene.manifest(2)
    bad.damage(manifest)
    with pytest.raises(InventoryEnqueueError) as failed:
        scene.run(2)
    error = failed.value
    assert (error.exit_code, error.kind, error.where) == (bad.exit_code, bad.error, str(bad.where(manifest)))
    assert [phrase for phrase in bad.says if phrase not in error.message] == [], error.message
    assert (scene.sent, scene.baseline) == ([], baseline)


@of(BAD_DELIVERIES)
def test_a_bad_delivery_that_was_mended_goes_through(bad: Bad, scene: Scene, untouched: Scene) -> None:
    bad.damage(scene.manifest(2))
    with pytest.raises(InventoryEnqueueError) as failed:
        scene.run(2)
    assert failed.value.exit_code == bad.exit_code
    shutil.copytree(untouched.bucket, scene.bucket, dirs_exist_ok=True)
    report = scene.run(2)
    assert (report.status, report.counts["new"], report.sent["keys"]) == (Status.COMMITTED, 4, 4)
    assert sorted(scene.sent) == sorted(NEW)
    assert scene.run(2).status is Status.NOTHING_NEW


@of({name: BAD_DELIVERIES[name] for name in ("no checksum file", "data file gone", "rows of another bucket")})
def test_after_a_delivery_that_stays_bad_the_next_one_goes_through(bad: Bad, scene: Scene) -> None:
    bad.damage(scene.manifest(2))
    with pytest.raises(InventoryEnqueueError):
        scene.run(2)
    report = scene.run(3)
    assert (report.status, report.sent["keys"]) == (Status.COMMITTED, 6)
    assert sorted(scene.sent) == sorted(NEW + LATER)


@pytest.mark.parametrize("position", [0, 3, 4, 500, -1, -4, -8, -40])
def test_one_flipped_bit_is_found_wherever_it_is(position: int, scene: Scene) -> None:
    baseline = scene.baseline
    deliveries.flip(deliveries.data_file(scene.manifest(2), 1), position)
    with pytest.raises(InventoryEnqueueError, match="it is damaged or was replaced") as failed:
        scene.run(2)
    assert failed.value.exit_code == 7
    assert (scene.sent, scene.baseline) == ([], baseline)


# ---- In S3


@of({name: bad for name, bad in BAD_FILES.items() if "another" not in name and "empty" not in name})
def test_in_s3_a_bad_delivery_is_told_of_sends_nothing_and_moves_nothing(
    bad: Bad, scene: Scene, roto: RotoServer, s3_client: S3Client, bucket: str
) -> None:
    baseline = scene.baseline
    manifest = deliveries.deliver(scene.folder / "s3", 2, OLD[2:10] + NEW[:1], OLD[10:] + NEW[1:], destination=bucket)
    bad.damage(manifest)
    deliveries.upload(scene.folder / "s3", s3_client, bucket)

    def url(path: str | Path) -> str:
        return f"s3://{bucket}/{Path(path).relative_to(scene.folder / 's3')}"

    result = scene.cli(url(manifest), "--endpoint-url", roto.endpoint_url)
    assert_told(result, bad.exit_code, bad.error, url(bad.where(manifest)), bad.says)
    assert (scene.sent, scene.baseline) == ([], baseline)
    for path in (scene.folder / "work").rglob("data/*/*"):
        assert path.name.partition("-")[0] == hashlib.md5(path.read_bytes()).hexdigest(), "a bad download is left"  # noqa: S324 - the inventory's own checksum


def test_in_s3_a_data_file_that_is_gone_is_named_with_where_it_was_looked_for(
    scene: Scene, roto: RotoServer, s3_client: S3Client, bucket: str
) -> None:
    baseline = scene.baseline
    delivery = deliveries.delivery(scene.folder / "s3", 2, OLD[2:] + NEW, destination=bucket)
    deliveries.upload(scene.folder / "s3", s3_client, bucket)
    s3_client.delete_object(Bucket=bucket, Key=delivery.files[0].key)
    result = scene.cli(delivery.manifest_uri, "--endpoint-url", roto.endpoint_url)
    where = f"s3://{bucket}/{delivery.files[0].key}"
    assert_told(result, 7, SPOILT, where, ("names this data file", "isn't there", "take a newer delivery"))
    assert (scene.sent, scene.baseline) == ([], baseline)


def test_a_bucket_that_does_not_exist_is_no_manifest(scene: Scene, roto: RotoServer) -> None:
    result = scene.cli("s3://no-such-bucket/d/manifest.json", "--endpoint-url", roto.endpoint_url)
    assert result.exit_code in {3, 6}
    assert result.report["error"]["where"] == "s3://no-such-bucket/d/manifest.json"
    assert scene.sent == []


def test_a_bucket_without_a_key_is_no_manifest_and_no_reason_to_run_again(scene: Scene, roto: RotoServer) -> None:
    result = scene.cli("s3://some-bucket", "--endpoint-url", roto.endpoint_url)
    assert result.exit_code in {2, 3, 6}, result
    assert "s3://some-bucket" in result.stderr


# ---- Keys that point elsewhere


def with_foreign_data_file(scene: Scene, key: str) -> Path:
    """A delivery whose second data file is to be found at `key`, with a size and an MD5 that fit the file outside."""
    manifest, secret = scene.manifest(2), scene.folder / "outside" / "secret.parquet"
    secret.parent.mkdir()
    deliveries.data_file(manifest, 1).rename(secret)
    deliveries.edit_manifest(manifest, lambda document: document["files"][1].update(key=key))
    return secret


def test_a_data_file_key_never_climbs_out_of_the_delivery(scene: Scene) -> None:
    key = "../../../../outside/secret.parquet"
    secret = with_foreign_data_file(scene, key)
    manifest = scene.manifest(2)
    assert manifest.parent.joinpath(key).resolve() == secret.resolve()
    assert_told(scene.cli(manifest), 7, SPOILT, manifest, (f"names the data file '{key}'", "isn't under a folder"))
    assert scene.sent == []


@pytest.mark.parametrize(
    "key",
    [
        "../outside/secret.parquet",
        "source-bucket/../../outside/secret.parquet",
        "./../../../../outside/secret.parquet",
        "a/b/../../../../../../outside/secret.parquet",
        "..",
        "../",
        "/",
        "//",
        ".",
        "outside\0/secret.parquet",
        "file:///etc/passwd",
        pytest.param("k" * 300 + "/secret.parquet", id="a part of 300 characters"),
    ],
)
def test_a_data_file_key_that_names_no_file_of_the_delivery_is_refused(key: str, scene: Scene) -> None:
    with_foreign_data_file(scene, key)
    with pytest.raises(InventoryEnqueueError, match="names the data file") as failed:
        scene.run(2)
    assert failed.value.exit_code == 7
    assert scene.sent == []


def test_an_absolute_data_file_key_is_no_path_of_this_machine(scene: Scene) -> None:
    secret = scene.folder / "outside" / "secret.parquet"
    with_foreign_data_file(scene, str(secret))
    assert secret.exists()
    with pytest.raises(InventoryEnqueueError, match="names the data file") as failed:
        scene.run(2)
    assert failed.value.exit_code == 7
    assert scene.sent == []


@pytest.mark.parametrize("key", ["../../../secret.parquet", "\ud800"])
def test_in_s3_a_data_file_key_that_names_no_object_is_refused_and_never_a_local_path(
    key: str, scene: Scene, roto: RotoServer, s3_client: S3Client, bucket: str
) -> None:
    manifest = deliveries.deliver(scene.folder / "s3", 2, OLD, destination=bucket)
    deliveries.edit_manifest(manifest, lambda document: document["files"][0].update(key=key))
    deliveries.upload(scene.folder / "s3", s3_client, bucket)
    before = deliveries.tree(scene.folder).keys()
    url = f"s3://{bucket}/{manifest.relative_to(scene.folder / 's3')}"
    result = scene.cli(url, "--endpoint-url", roto.endpoint_url)
    assert (result.exit_code, result.report["error"]["type"]) == (7, SPOILT)
    assert scene.sent == []
    written = {Path(path).parts[0] for path in deliveries.tree(scene.folder).keys() - before}
    assert written <= {"state", "work", "messages.jsonl"}


# ---- State


def newer(path: Path) -> None:
    """A file of a state as a later version of the program might write it: the first line's format_version is 2."""
    data = path.read_bytes()
    assert data.count(b'"format_version": 1', 0, 30) == 1
    path.write_bytes(data.replace(b'"format_version": 1', b'"format_version": 2', 1))


def only(folder: Path, pattern: str) -> Path:
    (path,) = folder.glob(pattern)
    return path


NEWER = ("its format_version is 2", "this version knows 1", "upgrade this one")
LOST = ("--previous", "--pipeline", "--first-run seed", "sends nothing", "all (sends everything)")
INDEX_PART = "indexes/*/00000.arrow"
RESTORE = ("restore it from a backup", "--previous")


def alter_a_row(path: Path) -> None:
    """Flip a bit in the last quarter of the file: amid the column `row`."""
    deliveries.flip(path, path.stat().st_size // 2)


@dataclass(frozen=True)
class BadState:
    """A file of the pipeline's state, how to damage it, and what the program has to say about it."""

    name: str
    damage: Callable[[Path], object]
    says: tuple[str, ...]
    exit_code: int = 7
    error: str = SPOILT


BAD_STATES = {
    "a newer baseline.json": BadState("baseline.json", newer, NEWER),
    "a newer meta.json": BadState("indexes/*/meta.json", newer, NEWER),
    "half a baseline.json": BadState("baseline.json", truncate, ("no state file", "backup", "--state")),
    "an empty baseline.json": BadState("baseline.json", lambda path: path.write_bytes(b""), ("no state file",)),
    "an index part altered": BadState(INDEX_PART, alter_a_row, ("was altered", *RESTORE)),
}
LOST_INDEXES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "a part cut short": (INDEX_PART, truncate),
    "a part gone": (INDEX_PART, Path.unlink),
    "meta.json gone": ("indexes/*/meta.json", Path.unlink),
    "meta.json spoilt": ("indexes/*/meta.json", lambda path: path.write_bytes(b"spoilt")),
    "meta.json without its fields": ("indexes/*/meta.json", lambda path: path.write_bytes(b'{"format_version": 1}')),
}


@pytest.mark.parametrize("bad", BAD_STATES.values(), ids=list(BAD_STATES))
def test_a_bad_state_is_told_of_sends_nothing_and_is_good_again_once_restored(bad: BadState, scene: Scene) -> None:
    path = only(scene.pipeline, bad.name)
    good, baseline = path.read_bytes(), scene.baseline
    bad.damage(path)
    damaged_baseline = scene.baseline
    assert_told(scene.cli(scene.manifest(2)), bad.exit_code, bad.error, path, bad.says)
    assert (scene.sent, scene.baseline) == ([], damaged_baseline)
    path.write_bytes(good)
    assert scene.baseline == baseline
    assert scene.run(2).status is Status.COMMITTED
    assert sorted(scene.sent) == sorted(NEW)


@pytest.mark.parametrize(("name", "damage"), LOST_INDEXES.values(), ids=list(LOST_INDEXES))
def test_an_index_that_is_lost_is_made_again_from_the_delivery_before(
    name: str, damage: Callable[[Path], object], scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    before = scene.baseline
    damage(only(scene.pipeline, name))
    assert scene.run(2).status is Status.COMMITTED
    assert sorted(scene.sent) == sorted(NEW)
    assert f"it is made again from {json.loads(before)['manifest_uri']}" in caplog.text


def test_a_whole_index_that_is_gone_with_its_delivery_is_told_with_every_way_on(scene: Scene) -> None:
    gone = str(scene.folder / "gone" / "manifest.json")
    path = scene.pipeline / "baseline.json"
    path.write_text(json.dumps({**json.loads(path.read_bytes()), "manifest_uri": gone}))
    baseline = scene.baseline
    shutil.rmtree(scene.pipeline / "indexes")
    assert_told(scene.cli(scene.manifest(2)), 6, ABSENT, gone, ("index is gone", "there is no manifest", *LOST))
    assert (scene.sent, scene.baseline) == ([], baseline)


def test_the_way_on_that_the_message_names_works_when_the_index_is_spoilt(scene: Scene) -> None:
    alter_a_row(only(scene.pipeline, INDEX_PART))
    with pytest.raises(InventoryEnqueueError):
        scene.run(2)
    report = scene.run(2, previous=scene.manifest(1))
    assert report.status is Status.COMMITTED
    assert sorted(scene.sent) == sorted(NEW)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("baseline.json", b'{"format_version": 1}'),
        ("baseline.json", b'{"format_version": 1, "run_id": 7, "committed": "yesterday"}'),
        pytest.param("baseline.json", b"[" * 100_000, id="baseline.json-deep lists"),
    ],
)
def test_a_state_file_without_its_fields_is_damaged_not_a_crash(name: str, content: bytes, scene: Scene) -> None:
    path = only(scene.pipeline, name)
    path.write_bytes(content)
    with pytest.raises(InventoryEnqueueError) as failed:
        scene.run(2)
    assert (failed.value.exit_code, failed.value.where) == (7, str(path))
    assert scene.sent == []


def test_a_state_that_cannot_be_written_is_told_before_anything_is_sent(scene: Scene) -> None:
    shutil.rmtree(scene.pipeline)
    scene.pipeline.write_bytes(b"a file where the pipeline's folder should be")
    result = scene.cli(scene.manifest(2), "--first-run", "all")
    assert_told(result, 3, "PreflightError", scene.pipeline, ("can't be written", "--state", "a file"))
    assert scene.sent == []


def test_a_state_folder_that_cannot_be_made_is_told_before_anything_is_sent(scene: Scene) -> None:
    result = scene.cli(scene.manifest(2), "--first-run", "all", "--state", "/proc/nope")
    assert_told(result, 8, "StoppedError", f"/proc/nope/{PIPELINE}", ("can't be written", "--state", "permissions"))
    assert scene.sent == []


def test_a_state_that_is_a_file_is_told_before_anything_is_sent(scene: Scene) -> None:
    file = scene.folder / "file"
    file.touch()
    result = scene.cli(scene.manifest(2), "--first-run", "all", "--state", file)
    assert result.exit_code in {2, 3}
    assert "--state" in result.stderr
    assert str(file) in result.stderr
    assert scene.sent == []


@pytest.mark.parametrize("output", ["/proc/nope/messages.jsonl", "/proc"])
def test_an_output_that_cannot_be_written_is_told(output: str, scene: Scene) -> None:
    baseline = scene.baseline
    result = scene.cli(scene.manifest(2), "--output", output)
    assert_told(result, 3, "PreflightError", output, ("messages can't be written there",))
    assert scene.baseline == baseline


# ---- An unfinished run


@dataclass(frozen=True)
class Interrupted:
    """A pipeline whose run of day two was stopped after the queue had taken one request of three."""

    scene: Scene
    queue_url: str
    keys: Counter[bytes]

    @property
    def folder(self) -> Path:
        (folder,) = [
            run.parent
            for run in self.scene.pipeline.glob("runs/*/run.json")
            if not (run.parent / "report.json").exists()
        ]
        return folder


def deny_after(requests: int) -> Callable[[Request], Fault | None]:
    denial, seen = deny("SendMessageBatch"), Counter[str | None]()

    def rule(request: Request) -> Fault | None:
        seen[request.action] += 1
        return denial(request) if seen["SendMessageBatch"] > requests else None

    return rule


def through(proxy: FaultProxy, queue_url: str) -> str:
    """The same queue, reached through the proxy."""
    return queue_url.replace(f"//{proxy.upstream}/", f"//{proxy.endpoint_url.removeprefix('http://')}/")


@pytest.fixture
def interrupted(scene: Scene, roto: RotoServer, queue_url: str) -> Iterator[Interrupted]:
    keys = [f"many/{number}" for number in range(25)]
    deliveries.deliver(scene.bucket, 2, OLD + keys)
    with FaultProxy(roto.endpoint_url) as proxy:
        proxy.rules.append(deny_after(1))
        with pytest.raises(PreflightError, match="access is denied"):
            scene.run(2, through(proxy, queue_url))
        proxy.rules.clear()
        yield Interrupted(scene, through(proxy, queue_url), Counter(key.encode() for key in keys))


@pytest.mark.parametrize("name", ["run.json", "acks/*/00000.rows", "tasks/index-00000.json"])
def test_a_newer_file_of_an_unfinished_run_stops_its_resumption_and_repeats_nothing(
    name: str, interrupted: Interrupted, sqs_client: SQSClient, queue_url: str
) -> None:
    scene = interrupted.scene
    path, baseline = only(interrupted.folder, name), scene.baseline
    good = path.read_bytes()
    newer(path)
    assert_told(scene.cli(scene.manifest(2), queue_url=interrupted.queue_url), 7, SPOILT, path, NEWER)
    assert scene.baseline == baseline
    first = drain(sqs_client, queue_url)
    assert len(first) == 10
    path.write_bytes(good)
    assert scene.run(2, interrupted.queue_url).status is Status.COMMITTED
    assert keys_of(first + drain(sqs_client, queue_url), "json") == interrupted.keys


@pytest.mark.parametrize(
    ("name", "line"),
    [
        *[(name, line) for name in ("run.json", "tasks/index-00000.json") for line in (b"spoilt", b"[]", b"{}")],
        ("run.json", b'{"format_version": 1}'),
        ("tasks/index-00000.json", b'{"format_version": 1}'),
        *[
            ("acks/*/00000.rows", line)
            for line in (
                b"spoilt",
                b"[]",
                b"{}",
                b'{"format_version": 1}\nspoilt, too',
                b'{"format_version": 1}\n[[0, 9]]',
            )
        ],
    ],
)
def test_a_spoilt_file_of_an_unfinished_run_is_damage_not_a_crash(
    name: str, line: bytes, interrupted: Interrupted
) -> None:
    path, baseline = only(interrupted.folder, name), interrupted.scene.baseline
    path.write_bytes(line + b"\n")
    with pytest.raises(InventoryEnqueueError) as failed:
        interrupted.scene.run(2, interrupted.queue_url)
    assert (failed.value.exit_code, failed.value.where) == (7, str(path))
    assert interrupted.scene.baseline == baseline


@pytest.mark.parametrize("name", ["manifest.json", "previous-manifest.json"])
def test_a_lost_file_of_an_unfinished_run_is_damage_and_no_reason_to_run_again(
    name: str, interrupted: Interrupted
) -> None:
    path = only(interrupted.folder, name)
    path.unlink()
    with pytest.raises(InventoryEnqueueError) as failed:
        interrupted.scene.run(2, interrupted.queue_url)
    assert (failed.value.exit_code, failed.value.where) == (7, str(path))


def test_an_unfinished_run_is_not_gone_on_with_under_other_flags(interrupted: Interrupted) -> None:
    scene, baseline = interrupted.scene, interrupted.scene.baseline
    result = scene.cli(scene.manifest(2), "--changes", "new,changed", queue_url=interrupted.queue_url)
    says = (interrupted.folder.name, "begun with another value of changes", "the same flags", "--pipeline")
    assert_told(result, 9, REFUSED, interrupted.folder, says)
    assert scene.baseline == baseline


# ---- The queue


def test_a_queue_that_does_not_exist_is_told_and_sends_nothing(scene: Scene, roto: RotoServer) -> None:
    baseline, url = scene.baseline, f"{roto.endpoint_url}/000000000000/no-such-queue"
    result = scene.cli(scene.manifest(2), queue_url=url)
    assert_told(result, 3, "PreflightError", url, ("the queue doesn't exist", "check --queue-url and the region"))
    assert scene.baseline == baseline


def test_after_a_mistyped_queue_url_the_right_one_works(scene: Scene, sqs_client: SQSClient, queue_url: str) -> None:
    with pytest.raises(PreflightError, match="check --queue-url"):
        scene.run(2, queue_url + "-mistyped")
    assert scene.run(2, queue_url).status is Status.COMMITTED
    assert keys_of(drain(sqs_client, queue_url), "json") == Counter(key.encode() for key in NEW)


def test_a_queue_that_denies_is_told_asked_once_and_sends_nothing(
    scene: Scene, roto: RotoServer, sqs_client: SQSClient, queue_url: str
) -> None:
    baseline = scene.baseline
    with FaultProxy(roto.endpoint_url) as proxy:
        proxy.rules.append(deny("SendMessageBatch"))
        url = through(proxy, queue_url)
        result = scene.cli(scene.manifest(2), queue_url=url)
        assert_told(result, 3, "PreflightError", url, ("access is denied", "allow sqs:SendMessage on it"))
        assert [entry for entry in proxy.log if entry.action == "SendMessageBatch"] == [("SendMessageBatch", 4)]
        assert scene.baseline == baseline
        assert drain(sqs_client, queue_url) == []
        proxy.rules.clear()
        assert scene.run(2, url).status is Status.COMMITTED
    assert keys_of(drain(sqs_client, queue_url), "json") == Counter(key.encode() for key in NEW)


def test_where_the_queue_cannot_be_asked_256_kib_are_assumed_and_the_run_commits(
    scene: Scene, roto: RotoServer, sqs_client: SQSClient, queue_url: str
) -> None:
    with FaultProxy(roto.endpoint_url) as proxy:
        proxy.rules.append(deny("GetQueueAttributes"))
        url = through(proxy, queue_url)
        result = scene.cli(scene.manifest(2), queue_url=url)
    assert (result.exit_code, result.report["status"]) == (0, "committed")
    assert f"{url}: MaximumMessageSize can't be read" in result.stderr
    assert "allow sqs:GetQueueAttributes" in result.stderr
    assert "256 KiB are assumed" in result.stderr
    assert keys_of(drain(sqs_client, queue_url), "json") == Counter(key.encode() for key in NEW)


@pytest.mark.parametrize("url", ["queue", "http://[", "ftp://127.0.0.1/1/queue", "http://127.0.0.1:x/1/q"])
def test_a_queue_url_that_is_none_is_told_and_moves_nothing(url: str, scene: Scene) -> None:
    baseline = scene.baseline
    result = scene.cli(scene.manifest(2), queue_url=url)
    assert result.exit_code in {2, 3}, result
    assert url in result.stderr
    assert "Traceback" not in result.stderr
    assert scene.baseline == baseline


# ---- Guards


def test_another_bucket_under_the_same_pipeline_is_refused(scene: Scene) -> None:
    baseline = scene.baseline
    manifest = deliveries.deliver(scene.bucket, 2, OLD, bucket="other-bucket")
    says = ("lists the bucket 'other-bucket'", f"baseline '{deliveries.SOURCE}'", "use another --pipeline")
    assert_told(scene.cli(manifest), 9, REFUSED, manifest, says)
    assert (scene.sent, scene.baseline) == ([], baseline)
    assert scene.run(2).status is Status.COMMITTED


def test_a_previous_delivery_of_another_bucket_is_refused(scene: Scene) -> None:
    baseline = scene.baseline
    other = deliveries.deliver(scene.bucket, 1, OLD, bucket="other-bucket")
    says = ("lists the bucket 'other-bucket'", "only deliveries of one bucket can be compared")
    assert_told(scene.cli(scene.manifest(2), "--previous", other), 9, REFUSED, other, says)
    assert (scene.sent, scene.baseline) == ([], baseline)


def test_a_first_run_stops_asks_and_leaves_nothing_that_counts_as_a_run(scene: Scene) -> None:
    shutil.rmtree(scene.state)
    says = ("has no baseline yet", "--first-run seed", "--first-run all", "--previous")
    assert_told(scene.cli(scene.manifest(2)), 9, REFUSED, scene.manifest(2), says)
    assert scene.sent == []
    assert [path for path in deliveries.tree(scene.state) if Path(path).name not in {PIPELINE, "lock"}] == []
    with pytest.raises(InventoryEnqueueError, match="no baseline"):
        scene.run(2)
    assert scene.run(2, first_run=FirstRun.ALL).sent["keys"] == 22


# ---- The lock


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (
            b'{"pid": 4711, "host": "etl-7", "since": "2026-03-03T02:00:00.000Z"}',
            "process 4711 on etl-7 since 2026-03-03T02:00:00.000Z, for ",
        ),
        (b"", "a process that is just starting"),
    ],
)
def test_while_another_run_holds_the_lock_a_second_one_stops_and_names_it(
    content: bytes, names: str, scene: Scene
) -> None:
    lock, before = scene.pipeline / "lock", deliveries.tree(scene.state)
    with lock.open("wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        held.write(content)
        held.flush()
        says = (f"another run of the pipeline '{PIPELINE}' is under way", names, "wait")
        assert_told(scene.cli(scene.manifest(2), "--lock-wait", "0"), 5, "LockedError", lock, says)
        assert scene.sent == []
        assert deliveries.tree(scene.state) == before | {f"{PIPELINE}/lock": content}
    assert scene.run(2).status is Status.COMMITTED
