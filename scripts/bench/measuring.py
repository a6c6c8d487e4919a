"""What the benchmarks have in common: a scratch folder, fresh processes, and what they took."""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


@contextmanager
def scratch_folder(parent: Path, *, keep: bool) -> Iterator[Path]:
    """A folder for what the benchmarks write, the same each time; removed at the end unless it shall be kept."""
    folder = parent / "inventory-enqueue-bench"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield folder
    finally:
        if not keep:
            shutil.rmtree(folder)


def in_process(function: Callable[..., T], *arguments: object) -> T:
    """Calls it in a new process, which has done nothing else."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def peak_rss(process: int | str = "self") -> int:
    """The most memory that a process, by default this one, ever had, in bytes. Linux."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text(encoding="ascii"))
    return int(found[1]) * 1024 if found else 0


def cpu_seconds(process: int) -> float:
    """What another process took so far. Linux."""
    fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def load_note() -> str:
    """How busy the machine is, with what others do on it: what to make of the figures."""
    return f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}"
