"""What the benchmarks have in common: a scratch folder, environments, fresh processes, and what they took."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
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


def programs_of(folder: Path, name: str, requirements: Sequence[str]) -> Path:
    """The folder of an environment's programs, which is made where it doesn't have just that yet; or of ours."""
    if not requirements:
        return Path(sys.executable).parent
    environment = folder / "venvs" / name
    programs, done = environment / "bin", environment / "installed"
    if not done.exists() or done.read_text(encoding="utf-8").split() != list(requirements):
        shutil.rmtree(environment, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)  # noqa: S603 - a fresh environment
        install = [str(programs / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*install, *requirements], check=True)  # noqa: S603 - what stands in a benchmark's list of peers
        done.write_text("\n".join(requirements), encoding="utf-8")
    return programs


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
