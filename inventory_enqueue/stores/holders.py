"""Which process holds a lock, as others can tell: whether it is on their machine, and whether it is dead."""

import os
import socket
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Self

_ZOMBIE_OR_DEAD: Final = frozenset("ZX")


@dataclass(frozen=True)
class Holder:
    """A process, named so that no other one is taken for it."""

    pid: int
    host: str
    since: str
    """When it took the lock, by its own clock: for people."""
    boot_id: str | None
    """Names one boot of one machine's kernel; None where there is no such thing, as on macOS."""
    pid_namespace: str | None
    """Where pid counts: containers on one machine have their own. https://man7.org/linux/man-pages/man7/pid_namespaces.7.html"""
    started: str | None
    """When the process began, in clock ticks since the boot: a pid is used again."""

    @classmethod
    def this_process(cls) -> Self:
        """The one that runs this."""
        return cls(
            pid=os.getpid(),
            host=socket.gethostname(),
            since=datetime.now(tz=UTC).isoformat(timespec="seconds"),
            boot_id=_boot_id(),
            pid_namespace=_pid_namespace(),
            started=_state_and_start("self")[1],
        )

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Self:
        """Reads what to_json made; raises KeyError or TypeError for something else."""
        return cls(**{name: document[name] for name in cls.__dataclass_fields__})

    def to_json(self) -> dict[str, Any]:
        """All of it."""
        return asdict(self)

    def is_dead(self) -> bool:
        """Whether it surely is. False also where nobody can tell: on another machine, or without /proc."""
        here = (socket.gethostname(), _boot_id(), _pid_namespace())
        if None in here or here != (self.host, self.boot_id, self.pid_namespace) or self.started is None:
            return False
        try:
            # /proc alone may hide the processes of other users: https://man7.org/linux/man-pages/man5/proc.5.html
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass
        state, started = _state_and_start(str(self.pid))
        return state is not None and (state in _ZOMBIE_OR_DEAD or started != self.started)

    def __str__(self) -> str:
        """For people."""
        return f"process {self.pid} on {self.host}"


def _boot_id() -> str | None:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return None


def _pid_namespace() -> str | None:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return None


def _state_and_start(pid: str) -> tuple[str, str] | tuple[None, None]:
    """A process's fields 3 and 22 of /proc/<pid>/stat; its name, field 2, may hold spaces and parentheses."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None, None
    return fields[0].decode(), fields[19].decode()
