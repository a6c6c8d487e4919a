"""The demo, and that the README shows what it prints."""

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support.cli import clean_environment, run_cli

README = Path(__file__).parent.parent / "README.md"


def shape(text: str) -> list[str]:
    """The lines with every figure as 0."""
    return [re.sub(r"[0-9][0-9,.]*", "0", line).strip() for line in text.strip().splitlines()]


def test_the_demo_succeeds_and_prints_what_the_readme_shows() -> None:
    result = run_cli("demo", "--objects", "10000")
    assert result.exit_code == 0, result
    transcript = re.search(r"`make demo` prints:\n\n(.+?)\n\n## ", README.read_text(encoding="utf-8"), re.DOTALL)
    assert transcript is not None
    assert shape(result.stdout) == shape(transcript[1])
    assert "their keys equal the 100 new keys, byte for byte, each once" in result.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_demo_with_its_exit_code_and_leaves_neither_server_nor_folder(
    number: signal.Signals, tmp_path: Path
) -> None:
    environment = clean_environment(tmp_path) | {"TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "inventory_enqueue", "demo", "--objects", "300000"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        started = process.stdout.readline()
        assert "server runs at" in started
        os.killpg(process.pid, number)
        assert process.wait(30) == 128 + number
    url = urlsplit(started.split()[-1].rstrip("."))
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((url.hostname, url.port), timeout=5).close()
    assert list(tmp_path.glob("inventory-enqueue-demo-*")) == []
