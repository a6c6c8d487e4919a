"""ORC files are decoded by a process of their own: whatever becomes of it, the run ends with an error that says so."""

from __future__ import annotations

import base64
import os
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pyarrow as pa
import pytest

from inventory_enqueue.delivery.landing import LandedFile
from inventory_enqueue.delivery.reading import columns_of, read_rows
from inventory_enqueue.errors import IntegrityError, StoppedError
from inventory_enqueue.manifest import FileFormat
from tests.support import data_files
from tests.support.deliveries import SOURCE
from tests.support.reader import ROOM, Reader

if TYPE_CHECKING:
    from collections.abc import Iterator

    from inventory_enqueue.schema import Rows

DEADLY: Final = zlib.decompress(
    base64.b85decode(
        b"c%1VOa^_+aV&UKkVBpf_Vq#zrQs>}NQsm+-&Mz%WPSs5+P0mg&5klok>|g>amjNpm11cBbV$Dvi)HM(SQ<f4n0SpJY85mIXxG`LC<7RYC?_8}6"
        b"Rtq8w!32Z}W*dPBV-R5iB1}Pq8Hg|k5f)(6-IznuSXsH)IM@UjBsjn{ql7+~W|EKt(u_bp3y@|8(!4;L2}m=8#hJkBnSrz&Se!`$<aGuC1|bfh"
        b"=zkz!2lAN(c%+!!eM7k1xgg;}bco;x3!sTpn54LXRH#IPLb3*rk|YO@5ECPl6dOdh6f;n*0)qyF0fQ0;2Rk~;fX52#5G!IGVuiyY4io%57?W6y"
        b"^nj3KDkCub8X8!Xm>768JPp{IzA!WU2RTas0JMy6d;"
    )
)
"""12 rows of bucket and key; its stripe footer claims a dictionary of 2 ** 31 - 1 values. Where memory for these can't
be had, Apache ORC writes to address 0."""

ROWS: Final = 200_000
"""More than a pipe holds: the process is still at it when the first rows are seen."""


def landed(path: Path) -> LandedFile:
    return LandedFile(path, FileFormat.ORC, "", SOURCE, "data/file")


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("orc") / "file"
    table = pa.table({"bucket": [SOURCE] * ROWS, "key": [f"key-{number}" for number in range(ROWS)]})
    path.write_bytes(data_files.write_orc_tables([table]))
    return path


def children() -> set[int]:
    """The processes that this one started, and that haven't ended."""
    lists = Path("/proc/self/task").glob("*/children")
    return {int(pid) for path in lists for pid in path.read_text(encoding="ascii").split()}


def begun(path: Path) -> tuple[Iterator[Rows], int]:
    """The rest of a file's rows, and the process that decodes them."""
    if not Path("/proc/self/task").exists():
        pytest.skip("this system doesn't tell the children of a process")
    rows = read_rows(landed(path), ["key"], ROOM)
    next(rows)
    (decoder,) = (pid for pid in children() if b"orc_process.py" in Path(f"/proc/{pid}/cmdline").read_bytes())
    return rows, decoder


def test_a_file_that_kills_the_library_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(DEADLY)
    with Reader() as reader:  # its memory is limited
        outcome = reader.read(landed(path))
    assert outcome.died is None
    assert outcome.refused is not None
    assert outcome.refused.startswith("data/file")


def test_a_run_over_such_a_file_ends_with_the_exit_code_of_damaged_data(tmp_path: Path) -> None:
    schema = data_files.file_schema(FileFormat.ORC, ["bucket", "key"])
    manifest = data_files.deliver(tmp_path / "inventory", 1, FileFormat.ORC, schema, [DEADLY])
    command = [sys.executable, "-m", "inventory_enqueue", "--manifest", str(manifest), "--first-run", "seed"]
    places = {"--state": "state", "--work-dir": "work", "--output": "messages.jsonl"}
    folders = [word for option, name in places.items() for word in (option, str(tmp_path / name))]
    limited = ["sh", "-c", 'ulimit -v 6000000; exec "$@"', "sh", *command, *folders]
    done = subprocess.run(limited, capture_output=True, text=True, check=False)
    assert done.returncode == 7
    assert "can't be decoded" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("fault", [signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS])
def test_a_decoder_that_dies_of_a_fault_is_the_files_fault(fault: signal.Signals, large: Path) -> None:
    rows, decoder = begun(large)
    os.kill(decoder, fault)
    with pytest.raises(IntegrityError, match=rf"data/file.*the ORC reader died on it \({fault.name}\)"):
        list(rows)
    assert columns_of(landed(large)) == {"bucket", "key"}


@pytest.mark.parametrize("ended_by", [signal.SIGKILL, signal.SIGTERM])
def test_a_decoder_that_somebody_ends_stops_the_run_for_now(ended_by: signal.Signals, large: Path) -> None:
    rows, decoder = begun(large)
    os.kill(decoder, ended_by)
    with pytest.raises(StoppedError, match=f"ended by {ended_by.name}"):
        list(rows)


def test_a_decoder_that_ended_while_it_was_idle_is_replaced(large: Path) -> None:
    rows, decoder = begun(large)
    assert sum(piece.frame.height for piece in rows) < ROWS
    os.kill(decoder, signal.SIGKILL)
    os.waitid(os.P_PID, decoder, os.WEXITED | os.WNOWAIT)
    assert columns_of(landed(large)) == {"bucket", "key"}


def test_one_decoder_reads_file_after_file(large: Path) -> None:
    rows, decoder = begun(large)
    list(rows)
    again, other = begun(large)
    assert other == decoder
    again.close()  # type: ignore[attr-defined]  # a generator
    assert decoder not in children()


READS: Final = """
import os, sys, time
from pathlib import Path
from inventory_enqueue.delivery.landing import LandedFile
from inventory_enqueue.delivery.reading import Room, read_rows
from inventory_enqueue.manifest import FileFormat
rows = read_rows(LandedFile(Path(sys.argv[1]), FileFormat.ORC, "", "source-bucket", "file"), ["key"], Room(0))
next(rows)
print(Path("/proc/self/task", str(os.getpid()), "children").read_text(), flush=True)
time.sleep(60)
"""


def test_the_decoder_ends_with_its_parent(large: Path) -> None:
    if not Path("/proc/self/task").exists():
        pytest.skip("this system doesn't tell the children of a process")
    with subprocess.Popen([sys.executable, "-c", READS, str(large)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        decoder = Path("/proc", parent.stdout.readline().strip())
        assert b"orc_process.py" in (decoder / "cmdline").read_bytes()
        parent.kill()
    deadline = time.monotonic() + 10
    while decoder.exists() and b"orc_process.py" in (decoder / "cmdline").read_bytes():
        assert time.monotonic() < deadline
        time.sleep(0.05)
