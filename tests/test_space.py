"""A run that has too little room says so before it writes or sends anything."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from inventory_enqueue.errors import StoppedError
from inventory_enqueue.manifest import FileFormat
from tests.support import data_files
from tests.support.deliveries import data_file, edit_manifest
from tests.support.file_pipeline import FilePipeline

if TYPE_CHECKING:
    from pathlib import Path

COLUMNS = ["bucket", "key", "size", "e_tag"]
EXABYTE = 10**18


def deliver(root: Path, day: int, keys: int) -> Path:
    rows = [{"bucket": "source-bucket", "key": f"{number}", "size": 1, "e_tag": "e"} for number in range(keys)]
    content = data_files.write_csv(COLUMNS, [rows])
    return data_files.deliver(root, day, FileFormat.CSV, data_files.file_schema(FileFormat.CSV, COLUMNS), [content])


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return deliver(tmp_path / "inventory", 1, keys=1000)


@pytest.fixture
def pipeline(tmp_path: Path) -> FilePipeline:
    return FilePipeline(tmp_path / "pipeline")


def claim(manifest: Path, size: int) -> None:
    """The manifest says that its file has this size: what is found out when the file is read."""
    edit_manifest(manifest, lambda document: document["files"][0].update(size=size))


@pytest.mark.parametrize("options", [{}, {"dry_run": True}])
def test_a_delivery_for_which_there_is_no_room_stops_the_run_before_it_writes(
    manifest: Path, pipeline: FilePipeline, tmp_path: Path, options: dict[str, bool]
) -> None:
    claim(manifest, EXABYTE)
    with pytest.raises(StoppedError, match=r"will write about [\d,]{20,} bytes here, [\d,]+ are free.*--work-dir"):
        pipeline.everything(manifest, **options)
    assert pipeline.report.exit_code == 8
    assert pipeline.messages() == []
    assert not (pipeline.home / "runs").exists()
    assert list((tmp_path / "pipeline" / "work").iterdir()) == []


def test_once_there_is_room_the_same_command_runs(manifest: Path, pipeline: FilePipeline) -> None:
    size = data_file(manifest).stat().st_size
    claim(manifest, EXABYTE)
    with pytest.raises(StoppedError):
        pipeline.everything(manifest)
    claim(manifest, size)
    assert len(pipeline.everything(manifest)) == 1000


def test_the_next_days_need_follows_from_the_rows_of_the_baseline(
    manifest: Path, pipeline: FilePipeline, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pipeline.seed(manifest)
    caplog.set_level("DEBUG", "inventory_enqueue")
    pipeline.run(deliver(tmp_path / "inventory", 2, keys=1000))
    # A spilled row of 28 bytes, 2 for the recent ones, and 28 in the new index.
    assert f"about {58 * 1000:,} bytes needed in {tmp_path / 'pipeline' / 'work'}, " in caplog.text


def test_another_file_system_is_named_when_it_is_too_small(manifest: Path, tmp_path: Path) -> None:
    """A file system of 1 MiB, in namespaces of its own."""
    small = tmp_path / "small"
    small.mkdir()
    claim(manifest, 100_000_000)
    mount = f'mount -t tmpfs -o size=1m none {small} && exec "$@"'
    sandbox = next(
        (
            way
            for way in (["unshare", flags, "--", "sh", "-c", mount, "sh"] for flags in ("-m", "-rm"))
            if subprocess.run([*way, "true"], capture_output=True, check=False).returncode == 0
        ),
        None,
    )
    if sandbox is None:
        pytest.skip("this machine lets nobody mount a file system")
    for option, other in (("--work-dir", "--state"), ("--state", "--work-dir")):
        command = [sys.executable, "-m", "inventory_enqueue", "--manifest", str(manifest), "--first-run", "seed"]
        folders = [option, str(small / "here"), other, str(tmp_path / other)]
        done = subprocess.run(
            [*sandbox, *command, *folders, "--output", str(tmp_path / "messages.jsonl")],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 8
        assert f"{small / 'here'}" in done.stderr
        assert f"name another place with {option}" in done.stderr
