"""The command line: its options, what it prints where, and what a run leaves behind."""

from __future__ import annotations

import fcntl
import json
import shutil
import subprocess
import sys
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from inventory_enqueue import __version__
from inventory_enqueue.cli.main import cli
from inventory_enqueue.config import (
    AwsSettings,
    FirstRun,
    JsonLinesFile,
    MessageFormat,
    RunConfig,
    SinkConfig,
    SqsQueue,
    StandardOutput,
)
from inventory_enqueue.errors import InventoryEnqueueError
from inventory_enqueue.pipeline import run
from inventory_enqueue.report import RunReport, Status
from tests.support import deliveries
from tests.support.cli import Result, clean_environment, run_cli
from tests.support.go import query_unescape
from tests.support.proxy import FaultProxy
from tests.support.queue import drain

if TYPE_CHECKING:
    from types_boto3_sqs import SQSClient

    from inventory_enqueue.demo.roto import RotoServer

SAMPLES = Path(__file__).parents[2] / "shared" / "samples" / "umccr_filemanager"

OLD = [f"logs/{number:02}.json" for number in range(20)]
NEW = ["new/a b", "new/c+d", "new/é", "new/%41"]


class Days:
    """Two deliveries of a bucket, and a folder for what runs make of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bucket = folder / "bucket"
        self.first = deliveries.deliver(self.bucket, 1, OLD[:10], OLD[10:])
        self.second = deliveries.deliver(self.bucket, 2, OLD[2:10] + NEW[:1], OLD[10:] + NEW[1:])
        self.state = folder / "state"
        self.work = folder / "work"
        self.output = folder / "out" / "messages.jsonl"

    @property
    def options(self) -> list[str]:
        folders = ["--state", str(self.state), "--work-dir", str(self.work)]
        return [*folders, "--pipeline", "p", "--message-format", "json"]

    def run(  # noqa: PLR0913 - options are what these tests are about
        self,
        manifest: Path,
        sink: SinkConfig | None = None,
        *,
        first_run: FirstRun | None = None,
        previous: Path | None = None,
        dry_run: bool = False,
        message_format: MessageFormat = MessageFormat.JSON,
    ) -> RunReport:
        config = RunConfig(
            manifest=manifest,
            sink=JsonLinesFile(self.output) if sink is None else sink,
            state=self.state,
            pipeline="p",
            first_run=first_run,
            previous=previous,
            dry_run=dry_run,
            message_format=message_format,
            work_dir=self.work,
            aws=AwsSettings(region="us-east-1"),
        )
        return run(config)

    def cli(self, manifest: Path, *args: str | Path) -> Result:
        return run_cli("--manifest", manifest, *self.options, *args)

    @property
    def lines(self) -> list[str]:
        return self.output.read_text(encoding="ascii").splitlines() if self.output.exists() else []

    @property
    def sent(self) -> Counter[str]:
        return keys(self.lines)

    @property
    def baseline(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.state / "p" / "baseline.json").read_bytes())
        return content


def keys(lines: list[str]) -> Counter[str]:
    return Counter(json.loads(line)["key"] for line in lines)


@pytest.fixture
def days(tmp_path: Path) -> Days:
    return Days(tmp_path)


@pytest.fixture
def seeded(days: Days) -> Days:
    assert days.run(days.first, first_run=FirstRun.SEED).status is Status.SEEDED
    return days


def invoke(*args: str, **environment: str | None) -> Result:
    """The command line in this process: enough where it never starts to work, or where only the outcome counts."""
    result = CliRunner().invoke(cli, args, prog_name="inventory-enqueue", env=environment)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Result(result.exit_code, result.stdout, result.stderr)


# ---- Usage

MANIFEST, TO_FILE = ["--manifest", "manifest.json"], ["--output", "out.jsonl"]
TO_QUEUE = ["--queue-url", "http://127.0.0.1:9/1/queue"]
PIPELINE_RULE = "the first a letter or digit"


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ([], "name one of --manifest"),
        (TO_FILE, "name one of --manifest"),
        (MANIFEST, "name one of --queue-url and --output"),
        ([*MANIFEST, *TO_FILE, "--queue-url", "https://sqs.eu-west-1.amazonaws.com/1/q"], "one of --queue-url and"),
        ([*MANIFEST, "--output", "-", "--json"], "both need standard output"),
        *[
            ([*MANIFEST, *TO_FILE, "--changes", text], "a comma list of new, changed")
            for text in ("", "newest", "new,,changed", "new changed", "NEW")
        ],
        *[
            (["--manifest", uri, *TO_FILE], says)
            for uri, says in {
                "http://bucket/manifest.json": "only s3:// URLs and local paths",
                "file:///data/manifest.json": "only s3:// URLs and local paths",
                "S3://bucket/manifest.json": "only s3:// URLs and local paths",
                "s3://": "'' is not a bucket's name",
                "s3:///manifest.json": "'' is not a bucket's name",
                "s3://../manifest.json": "'..' is not a bucket's name",
                "s3://a..b/manifest.json": "'a..b' is not a bucket's name",
                "s3://buck et/manifest.json": "'buck et' is not a bucket's name",
                "": "the path is empty",
            }.items()
        ],
        ([*MANIFEST, *TO_FILE, "--previous", "ftp://host/manifest.json"], "only s3:// URLs and local paths"),
        *[
            ([*MANIFEST, *TO_FILE, f"--pipeline={name}"], PIPELINE_RULE)
            for name in ("", "..", "../up", "a/b", "/abs", ".hidden", "-x", "_x", "a b", "a\n", "ä", "a" * 129)
        ],
        *[([*MANIFEST, *TO_FILE, "--concurrency", number], "--concurrency") for number in ("0", "-1", "257", "many")],
        ([*MANIFEST, *TO_FILE, "--pause-above", "10"], "name a queue"),
        ([*MANIFEST, *TO_FILE, "--message-group-id", "a"], "name a queue"),
        ([*MANIFEST, *TO_QUEUE, "--message-group-id", "a b"], "up to 128 letters, digits and punctuation, or hash:N"),
        ([*MANIFEST, *TO_QUEUE, "--message-group-id", "hash:0"], "hash:N with N from 1 to 20000 was expected"),
        ([*MANIFEST, *TO_QUEUE, "--rate", "0"], "--rate"),
        ([*MANIFEST, *TO_QUEUE, "--records-per-message", "0"], "--records-per-message"),
        (
            [*MANIFEST, *TO_QUEUE, "--message-format", "json", "--records-per-message", "2"],
            "a message of the format json holds one record, not several",
        ),
        ([*MANIFEST, *TO_FILE, "--first-run", "maybe"], "'maybe' is not one of 'seed', 'all'"),
        ([*MANIFEST, *TO_FILE, "--message-format", "xml"], "'xml' is not one of"),
        ([*MANIFEST, *TO_FILE, "--no-such-flag"], "No such option '--no-such-flag'"),
        ([*MANIFEST, *TO_FILE, "stray"], "No such command 'stray'"),
    ],
)
def test_a_wrong_command_line_exits_2_says_what_is_wrong_and_does_nothing(
    args: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = invoke(*args, XDG_STATE_HOME=str(tmp_path / "state"))
    assert (result.exit_code, result.stdout) == (2, "")
    assert says in " ".join(result.stderr.split())
    assert list(tmp_path.iterdir()) == []


def test_help_names_every_option_and_a_wrong_use_names_help() -> None:
    result = invoke("--help")
    assert (result.exit_code, result.stderr) == (0, "")
    options = {option for parameter in cli.params for option in parameter.opts}
    assert {"--manifest", "--queue-url", "--output", "--first-run", "--dry-run", "-n", "--json"} <= options
    assert [option for option in options if option not in result.stdout] == []
    assert "demo" in result.stdout
    assert invoke("-h").stdout == result.stdout
    assert "inventory-enqueue --help" in invoke().stderr


def test_version_is_that_of_the_package() -> None:
    result = invoke("--version")
    assert (result.exit_code, result.stdout) == (0, f"inventory-enqueue, version {__version__}\n")


def test_the_module_is_the_command_too() -> None:
    assert run_cli("--version").stdout == f"inventory-enqueue, version {__version__}\n"


@pytest.mark.parametrize("text", ["new,changed", " new , changed ", "changed,new,new"])
def test_changes_is_a_comma_list_in_any_order(text: str, seeded: Days) -> None:
    result = invoke(
        "--manifest", str(seeded.second), *seeded.options, "--output", str(seeded.output), "--changes", text
    )
    assert result.exit_code == 0
    config = json.loads((seeded.state / "p" / "runs" / seeded.baseline["run_id"] / "run.json").read_bytes())["config"]
    assert config["changes"] == ["changed", "new"]


# ---- Environment


def environment(days: Days) -> dict[str, str]:
    values = {
        "MANIFEST": days.first,
        "OUTPUT": days.output,
        "STATE": days.state,
        "WORK_DIR": days.work,
        "PIPELINE": "from-environment",
        "FIRST_RUN": "all",
        "MESSAGE_FORMAT": "json",
    }
    return {f"INVENTORY_ENQUEUE_{name}": str(value) for name, value in values.items()}


def test_options_come_from_the_environment(days: Days) -> None:
    result = invoke(**environment(days))
    assert result.exit_code == 0, result.stderr
    assert days.sent == Counter(OLD)
    assert (days.state / "from-environment" / "baseline.json").exists()


def test_a_flag_goes_before_the_environment(days: Days) -> None:
    result = invoke("--pipeline", "from-flag", "--first-run", "seed", **environment(days))
    assert result.exit_code == 0, result.stderr
    assert days.sent == Counter()
    assert [path.name for path in days.state.iterdir()] == ["from-flag"]


def test_json_comes_from_the_environment_by_its_flags_name(days: Days) -> None:
    result = invoke(**environment(days), INVENTORY_ENQUEUE_JSON="1")
    assert json.loads(result.stdout)["status"] == "committed"


@pytest.mark.parametrize(("name", "below"), [("XDG_STATE_HOME", "."), ("HOME", ".local/state")])
def test_the_state_is_in_the_xdg_folder_by_default(name: str, below: str, days: Days) -> None:
    home = days.folder / "home"
    work = ["--work-dir", str(days.work)]
    args = ["--manifest", str(days.first), "--output", str(days.output), "--first-run", "seed", *work]
    assert invoke(*args, **{name: str(home)}).exit_code == 0
    (pipeline,) = (home / below / "inventory-enqueue").iterdir()
    assert (pipeline / "baseline.json").exists()


def test_the_default_pipeline_is_one_for_each_bucket_and_sink() -> None:
    url = "https://sqs.eu-west-1.amazonaws.com/1/q"
    sinks: list[SinkConfig] = [SqsQueue(url), SqsQueue(url + "2"), JsonLinesFile(Path("/a")), StandardOutput()]
    configs = [RunConfig(manifest=Path("m"), sink=sink, state=Path("s")) for sink in sinks]
    names = [config.pipeline_name(bucket) for config in configs for bucket in ("bucket-a", "bucket-b", "b" * 255)]
    assert len(set(names)) == len(names)
    assert names == [
        config.pipeline_name(bucket) for config in configs for bucket in ("bucket-a", "bucket-b", "b" * 255)
    ]
    for name in names:
        RunConfig(manifest=Path("m"), sink=sinks[0], state=Path("s"), pipeline=name)  # a legal name, or this raises


# ---- Where messages and texts go


def test_output_dash_writes_messages_to_stdout_and_texts_to_stderr(seeded: Days) -> None:
    result = seeded.cli(seeded.second, "--output", "-")
    assert result.exit_code == 0
    assert keys(result.stdout.splitlines()) == Counter(NEW)
    assert "committed" in result.stderr
    assert "4 new" in result.stderr
    again = seeded.cli(seeded.second, "--output", "-")
    assert (again.exit_code, again.stdout) == (0, "")
    assert "nothing new" in again.stderr


def test_quiet_prints_nothing_but_the_messages(seeded: Days) -> None:
    result = seeded.cli(seeded.second, "--output", "-", "-q")
    assert keys(result.stdout.splitlines()) == Counter(NEW)
    assert (result.exit_code, result.stderr) == (0, "")


def test_a_reader_of_stdout_that_is_gone_stops_the_run_without_a_commit_and_a_re_run_sends_all(seeded: Days) -> None:
    before = seeded.baseline
    args = ["--manifest", str(seeded.second), *seeded.options, "--output", "-"]
    with subprocess.Popen(
        [sys.executable, "-m", "inventory_enqueue", *args],
        env=clean_environment(seeded.folder),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        stderr = process.stderr.read().decode()
    assert process.returncode == 8, stderr
    assert "standard output can't be written" in stderr
    assert "Traceback" not in stderr
    assert seeded.baseline == before
    assert keys(seeded.cli(seeded.second, "--output", "-").stdout.splitlines()) == Counter(NEW)


def test_output_file_is_appended_to(seeded: Days) -> None:
    seeded.output.parent.mkdir()
    seeded.output.write_bytes(b'{"key": "there before"}\n')
    assert seeded.run(seeded.second).sent["keys"] == 4
    assert seeded.lines[0] == '{"key": "there before"}'
    assert seeded.sent == Counter([*NEW, "there before"])


def test_the_text_tells_delivery_baseline_counts_and_time(seeded: Days) -> None:
    result = seeded.cli(seeded.second, "--output", seeded.output)
    assert result.exit_code == 0
    run_id = seeded.baseline["run_id"]
    for text in (
        f"committed  run {run_id}\n",
        f"{seeded.second} of 2026-03-03T01:00:00.000Z, 2 files",
        f"{seeded.first} of 2026-03-02T01:00:00.000Z\n",
        "22: 4 new, 0 changed, 18 unchanged, 2 deleted since\n",
        "4 keys in 4 messages, 1 requests; 0 failed\n",
        "(index ",
    ):
        assert text in result.stdout


def test_what_is_refused_is_told_on_stderr_and_the_text_says_so(days: Days) -> None:
    result = days.cli(days.first, "--output", days.output)
    assert result.exit_code == 9
    assert result.stdout.startswith("refused\n")
    assert f"inventory-enqueue: {days.first}: this pipeline has no baseline yet" in result.stderr


# ---- The report

REPORT: dict[str, type] = {
    "schema_version": int,
    "run_id": str,
    "pipeline": str,
    "status": str,
    "exit_code": int,
    "source": dict,
    "baseline": dict,
    "counts": dict,
    "sent": dict,
    "started": str,
    "ended": str,
    "seconds": dict,
    "peak_rss_bytes": int,
    "cost_estimate_usd": float,
    "resume": type(None),
    "version": str,
}
SOURCE: dict[str, type] = {
    "kind": str,
    "manifest": str,
    "manifest_md5": str,
    "created": str,
    "age_s": int,
    "bucket": str,
    "files": int,
    "bytes": int,
}
COUNTS: dict[str, type] = {
    "listed": int,
    "new": int,
    "changed": int,
    "deleted": int,
    "reappeared": int,
    "filtered": dict,
    "archived": int,
    "quarantined": int,
    "selected": int,
}
SENT: dict[str, type] = {
    "keys": int,
    "messages": int,
    "requests": int,
    "retries": int,
    "throttled": int,
    "failed": int,
    "failures_file": type(None),
}


def wrong(part: dict[str, Any], expected: dict[str, type]) -> dict[str, object]:
    """The keys that are missing or of another type."""
    return {name: part.get(name, "missing") for name, kind in expected.items() if type(part.get(name, ...)) is not kind}


def test_the_report_of_a_committed_run_is_one_json_object_with_every_key(seeded: Days) -> None:
    result = seeded.cli(seeded.second, "--output", seeded.output, "--json")
    report = result.report
    assert result.stdout.count("\n") == 1
    assert wrong(report, REPORT) == {}
    assert wrong(report["source"], SOURCE) == {}
    assert wrong(report["counts"], COUNTS) == {}
    assert wrong(report["sent"], SENT) == {}
    assert (report["schema_version"], report["status"], report["exit_code"]) == (1, "committed", result.exit_code)
    assert "error" not in report
    assert (report["pipeline"], report["version"]) == ("p", __version__)
    source, counts = report["source"], report["counts"]
    assert (source["kind"], source["manifest"], source["bucket"]) == ("manifest", str(seeded.second), "source-bucket")
    assert (source["files"], source["created"]) == (2, "2026-03-03T01:00:00.000Z")
    assert source["manifest_md5"] + "\n" == deliveries.checksum_file(seeded.second).read_text()
    assert source["bytes"] == sum(deliveries.data_file(seeded.second, number).stat().st_size for number in (0, 1))
    assert {name: counts[name] for name in ("listed", "new", "deleted", "unchanged", "selected")} == {
        "listed": 22,
        "new": 4,
        "deleted": 2,
        "unchanged": 18,
        "selected": 4,
    }
    assert (report["sent"]["keys"], report["sent"]["messages"], report["sent"]["requests"]) == (4, 4, 1)
    assert datetime.fromisoformat(report["started"]) <= datetime.fromisoformat(report["ended"])
    assert report["seconds"].keys() == {"index", "diff", "enqueue", "total"}
    assert all(type(seconds) is float for seconds in report["seconds"].values())
    assert 10e6 < report["peak_rss_bytes"] < 10e9


def test_the_report_describes_the_baseline_as_it_describes_the_source(seeded: Days) -> None:
    baseline = seeded.run(seeded.second).to_json()["baseline"]
    assert (baseline["manifest"], baseline["created"]) == (str(seeded.first), "2026-03-02T01:00:00.000Z")
    assert wrong(baseline, SOURCE) == {}


def test_every_good_end_has_a_report_with_the_same_keys(days: Days) -> None:
    reports = [
        days.run(days.first, first_run=FirstRun.SEED).to_json(),
        days.run(days.second, dry_run=True).to_json(),
        days.run(days.second).to_json(),
        days.run(days.second).to_json(),
    ]
    assert [report["status"] for report in reports] == ["seeded", "dry_run", "committed", "nothing_new"]
    assert [REPORT.keys() - report.keys() for report in reports] == [set()] * 4
    assert [report["exit_code"] for report in reports] == [0] * 4
    assert [wrong(report["source"], SOURCE) for report in reports] == [{}] * 4
    assert [report["baseline"] is None for report in reports] == [True, False, False, False]


@pytest.mark.parametrize("end", ["seeded", "dry_run", "committed", "nothing_new"])
def test_a_script_finds_what_was_sent_in_every_good_report(end: str, days: Days) -> None:
    reports = {
        "seeded": days.run(days.first, first_run=FirstRun.SEED).to_json(),
        "dry_run": days.run(days.second, dry_run=True).to_json(),
        "committed": days.run(days.second).to_json(),
        "nothing_new": days.run(days.second).to_json(),
    }
    assert reports[end]["status"] == end
    assert wrong(reports[end]["sent"], SENT) == {}
    assert reports[end]["sent"]["keys"] == (4 if end == "committed" else 0)


# ---- Dry run


def test_a_dry_run_shows_counts_and_a_message_and_touches_neither_queue_nor_state(
    seeded: Days, roto: RotoServer, sqs_client: SQSClient, queue_url: str
) -> None:
    before = deliveries.tree(seeded.state)
    with FaultProxy(roto.endpoint_url) as proxy:
        url = queue_url.replace(roto.endpoint_url, proxy.endpoint_url)
        result = seeded.cli(seeded.second, "--queue-url", url, "--dry-run", "--json")
        assert proxy.log == []
        report = result.report
        assert (result.exit_code, report["status"]) == (0, "dry_run")
        counts = {name: report["counts"][name] for name in ("listed", "new", "unchanged", "deleted", "selected")}
        assert counts == {"listed": 22, "new": 4, "unchanged": 18, "deleted": 2, "selected": 4}
        assert deliveries.tree(seeded.state) == before
        assert list(seeded.work.iterdir()) == []
        # The sample is one of the messages that the real run sends, but for the run's id.
        assert seeded.run(seeded.second, SqsQueue(url)).status is Status.COMMITTED
    sample = json.loads(report["sample_message"])
    messages = {message["key"]: message for message in map(json.loads, drain(sqs_client, queue_url))}
    assert messages[sample["key"]] | {"run_id": sample["run_id"]} == sample


def test_a_dry_run_as_text_shows_the_counts_and_one_whole_message(seeded: Days) -> None:
    args = ("--manifest", seeded.second, "--state", seeded.state, "--pipeline", "p", "--work-dir", seeded.work)
    result = run_cli(*args, "--output", seeded.output, "-n")
    assert result.exit_code == 0
    assert result.stdout.startswith("dry run")
    assert "22: 4 new, 0 changed, 18 unchanged, 2 deleted since\n" in result.stdout
    assert "4 keys; nothing was sent, nothing was recorded\n" in result.stdout
    (sample,) = [line for line in result.stdout.splitlines() if line.startswith("sample ")]
    record = json.loads(sample.removeprefix("sample"))["Records"][0]
    assert query_unescape(record["s3"]["object"]["key"]).decode() in NEW
    assert seeded.lines == []


@pytest.mark.parametrize(("first_run", "selected"), [(FirstRun.SEED, 0), (FirstRun.ALL, 20)])
def test_a_dry_run_without_a_state_makes_none(first_run: FirstRun, selected: int, days: Days) -> None:
    report = days.run(days.first, first_run=first_run, dry_run=True)
    assert (report.status, report.counts["selected"]) == (Status.DRY_RUN, selected)
    assert (report.sample_message is None) == (selected == 0)
    assert not days.state.exists()
    assert not days.output.parent.exists()


def test_a_dry_run_of_a_first_run_stops_and_asks_as_the_real_one_does(days: Days) -> None:
    with pytest.raises(InventoryEnqueueError, match="--first-run seed") as refused:
        days.run(days.first, dry_run=True)
    assert refused.value.exit_code == 9
    assert not days.state.exists()


def test_a_dry_run_needs_no_lock(seeded: Days) -> None:
    with (seeded.state / "p" / "lock").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert seeded.run(seeded.second, dry_run=True).counts["selected"] == 4


def test_a_dry_run_finds_damage_and_leaves_no_trace(seeded: Days) -> None:
    before = deliveries.tree(seeded.state)
    deliveries.flip(deliveries.data_file(seeded.second), 50)
    with pytest.raises(InventoryEnqueueError, match="its MD5 is") as failed:
        seeded.run(seeded.second, dry_run=True)
    assert failed.value.exit_code == 7
    assert deliveries.tree(seeded.state) == before
    assert list(seeded.work.iterdir()) == []


# ---- Which delivery is compared with which


def test_previous_needs_no_state_and_makes_the_baseline(days: Days) -> None:
    report = days.run(days.second, previous=days.first)
    assert (report.status, report.counts["new"], report.counts["deleted"]) == (Status.COMMITTED, 4, 2)
    assert days.sent == Counter(NEW)
    assert days.baseline["manifest_uri"] == str(days.second)
    assert days.run(days.second).status is Status.NOTHING_NEW


def test_with_previous_a_committed_manifest_is_diffed_again(seeded: Days) -> None:
    assert seeded.run(seeded.second).sent["keys"] == 4
    again = seeded.run(seeded.second, previous=seeded.first)
    assert (again.status, again.sent["keys"]) == (Status.COMMITTED, 4)
    assert seeded.sent == Counter(NEW + NEW)
    assert seeded.run(seeded.second).status is Status.NOTHING_NEW


def test_a_delivery_compared_with_itself_has_nothing_new(seeded: Days) -> None:
    report = seeded.run(seeded.first, previous=seeded.first)
    assert (report.status, report.counts["new"], report.counts["unchanged"]) == (Status.COMMITTED, 0, 20)
    assert seeded.sent == Counter()


def test_previous_never_moves_the_baseline_backwards(seeded: Days) -> None:
    seeded.run(seeded.second)
    baseline = seeded.baseline
    report = seeded.run(seeded.first, previous=seeded.second)
    assert (report.status, report.counts["new"]) == (Status.COMMITTED, 2)
    assert seeded.baseline == baseline
    third = deliveries.deliver(seeded.bucket, 3, [*OLD[2:], *NEW, "third"])
    assert seeded.run(third).counts["new"] == 1


@pytest.mark.parametrize("options", [(), ("--first-run", "all"), ("--first-run", "seed")])
def test_an_older_manifest_is_a_no_op(options: tuple[str, ...], seeded: Days) -> None:
    seeded.run(seeded.second)
    before, sent = deliveries.tree(seeded.state / "p" / "runs"), seeded.sent
    args = ["--manifest", str(seeded.first), *seeded.options, "--output", str(seeded.output), "--json", *options]
    result = invoke(*args)
    assert (result.exit_code, result.report["status"], result.report["sent"]["keys"]) == (0, "nothing_new", 0)
    assert seeded.sent == sent
    assert deliveries.tree(seeded.state / "p" / "runs") == before


def test_an_older_manifest_is_said_to_be_older(seeded: Days) -> None:
    seeded.run(seeded.second)
    result = seeded.cli(seeded.first, "--output", seeded.output)
    assert result.exit_code == 0
    assert "is older than the one committed last (2026-03-03T01:00:00.000Z): nothing is sent" in result.stderr


def test_the_same_manifest_is_a_no_op_and_says_by_which_run_it_was_committed(seeded: Days) -> None:
    seeded.run(seeded.second)
    before = deliveries.tree(seeded.state / "p" / "runs")
    result = seeded.cli(seeded.second, "--output", seeded.output, "--json")
    assert (result.exit_code, result.report["status"], result.report["sent"]["messages"]) == (0, "nothing_new", 0)
    assert f"committed before, by run {seeded.baseline['run_id']}: nothing is sent" in result.stderr
    assert deliveries.tree(seeded.state / "p" / "runs") == before
    assert seeded.sent == Counter(NEW)


def test_the_same_manifest_elsewhere_is_known_by_its_md5(seeded: Days) -> None:
    seeded.run(seeded.second)
    moved = seeded.folder / "elsewhere"
    shutil.copytree(seeded.bucket, moved)
    report = seeded.run(moved / seeded.second.relative_to(seeded.bucket))
    assert report.status is Status.NOTHING_NEW


# ---- Where a local delivery's data files are


@pytest.mark.parametrize("place", ["../data", "data", "."])
def test_data_files_of_a_copied_delivery_are_found_near_the_manifest(place: str, seeded: Days) -> None:
    folder = seeded.folder / "copy" / "day"
    (folder / place).mkdir(parents=True)
    for path in (seeded.second, deliveries.checksum_file(seeded.second)):
        shutil.copy(path, folder)
    for number in (0, 1):
        shutil.move(deliveries.data_file(seeded.second, number), folder / place)
    assert seeded.run(folder / "manifest.json").counts["new"] == 4
    assert seeded.sent == Counter(NEW)


def test_data_files_are_found_by_their_whole_key_under_a_folder_above_before_any_other(seeded: Days) -> None:
    folder = seeded.bucket / "mirror" / "2026" / "deep"
    folder.mkdir(parents=True)
    for path in (seeded.second, deliveries.checksum_file(seeded.second)):
        shutil.copy(path, folder)
    (folder / "data").mkdir()
    (folder / "data" / deliveries.data_file(seeded.second).name).write_bytes(b"something else")
    assert seeded.run(folder / "manifest.json").counts["new"] == 4


def test_a_doubled_slash_in_a_data_file_key_is_one_folder(seeded: Days) -> None:
    def double(document: dict[str, Any]) -> None:
        for file in document["files"]:
            file["key"] = file["key"].replace("/daily/", "//daily/")

    deliveries.edit_manifest(seeded.second, double)
    assert seeded.run(seeded.second).counts["new"] == 4


def test_a_manifest_is_found_from_the_current_folder(seeded: Days, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(seeded.second.parent)
    report = seeded.run(Path("manifest.json"))
    assert report.counts["new"] == 4
    assert seeded.baseline["manifest_uri"] == str(seeded.second)


# ---- A delivery that S3 wrote


@pytest.mark.skipif(not SAMPLES.is_dir(), reason=f"{SAMPLES} is not there")
def test_a_parquet_delivery_from_s3_sends_its_live_objects(days: Days) -> None:
    manifest = SAMPLES / "parquet_inventory_manifest.json"
    args = ["--manifest", str(manifest), *days.options, "--first-run", "all", "--output", str(days.output), "--json"]
    result = invoke(*args)
    assert result.exit_code == 0, result.stderr
    messages = [json.loads(line) for line in days.lines]
    for message in messages:
        assert message.pop("run_id") == result.report["run_id"]
    common = {"schema_version": 1, "change": "new", "bucket": "filemanager-inventory-test"}
    assert sorted(messages, key=lambda message: str(message["key"])) == [
        {
            **common,
            "key": "inventory-test/",
            "version_id": None,
            "size": 0,
            "e_tag": "d41d8cd98f00b204e9800998ecf8427e",
            "last_modified_date": "2024-05-06T22:37:48.000Z",
        },
        {
            **common,
            "key": "inventory-test/key1",
            "version_id": "tpinzcbxOfWpZsmjvVgdHEvSohsY4TA0",
            "size": 5,
            "e_tag": "d8e8fca2dc0f896fd7cb4cb0031ba249",
            "last_modified_date": "2024-05-06T22:44:22.000Z",
        },
    ]
    counts = {name: result.report["counts"][name] for name in ("listed", "not_live", "new", "selected")}
    assert counts == {"listed": 5, "not_live": 3, "new": 2, "selected": 2}
    assert result.report["source"]["created"] == "2024-05-07T01:00:00.000Z"
