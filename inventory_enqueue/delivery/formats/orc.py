"""ORC data files, streamed by stripe, and decoded by a process of their own.

Apache ORC's C++ reader trusts what it reads: of files that are damaged at random, one in some 20,000 ends its process
(where a dictionary's length is damaged, it doesn't look whether memory for it could be had, and writes to address 0).
The MD5 tells of damage that was done later, not that the writer was broken.
"""

import atexit
import json
import signal
import subprocess
import sys
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, cast

import pyarrow as pa

from inventory_enqueue.delivery.formats import BATCH_ROWS, unique
from inventory_enqueue.errors import StoppedError

if TYPE_CHECKING:
    import io

_PROGRAM: Final = Path(__file__).with_name("orc_process.py")
_FAULTS: Final = {signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL}
"""How a library dies of what it reads. By other signals somebody else ended it: the kernel, where memory is short."""


class OrcSource:
    """An open ORC file. A stripe is decoded whole: AWS's hold 64 MB."""

    keys_are_encoded = False

    def __init__(self, path: Path) -> None:
        """Opens the file and reads its footer."""
        self._decoder = Decoder.idle()
        try:
            footer = self._decoder.ask({"path": str(path)})
            self.columns = unique(footer["columns"], source="its footer")
        except BaseException:
            self._decoder.release()
            raise
        self.rows = footer["rows"]

    def batches(self, columns: Collection[str]) -> Iterator[pa.RecordBatch]:
        """Streams these columns, stripe by stripe."""
        return self._decoder.stream({"columns": list(columns), "batch_rows": BATCH_ROWS})

    def __enter__(self) -> Self:
        """The file, open."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Closes the file."""
        self._decoder.release()


class Decoder:
    """A process that decodes one file at a time. It takes a tenth of a second to start, and so is used again."""

    _idle: Final[list["Decoder"]] = []

    def __init__(self) -> None:
        """Starts it, in a group of its own: Ctrl-C is for this process to act on."""
        try:
            self._process = subprocess.Popen(  # noqa: S603 - our own program
                [sys.executable, "-P", str(_PROGRAM)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, process_group=0
            )
        except OSError as error:
            raise StoppedError(f"no process can be started to read ORC files ({error.strerror}); try again") from error
        self._requests = cast("io.BufferedWriter", self._process.stdin)
        self._answers = cast("io.BufferedReader", self._process.stdout)
        self._answering = False

    @classmethod
    def idle(cls) -> "Decoder":
        """One that has nothing to do, or a new one."""
        for decoder in cls._taken():
            if decoder.is_alive():
                return decoder
            decoder.end()
        return cls()

    @classmethod
    def end_all(cls) -> None:
        """Ends those that are idle."""
        for decoder in cls._taken():
            decoder.end()

    @classmethod
    def _taken(cls) -> Iterator["Decoder"]:
        """Takes idle ones, one by one, until there are no more: another thread may be faster."""
        with suppress(IndexError):
            while True:
                yield cls._idle.pop()

    @classmethod
    def pids(cls) -> list[int]:
        """The processes that are idle."""
        return [decoder._process.pid for decoder in cls._idle]  # noqa: SLF001 - of this class

    def is_alive(self) -> bool:
        """Whether the process is still there."""
        return self._process.poll() is None

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Sends a request, and returns the answer's line.

        Raises:
            pa.ArrowInvalid: The file can't be decoded, or the process died on it.
            StoppedError: Somebody ended the process.
        """
        self._send(request)
        return self._answer()

    def stream(self, request: dict[str, Any]) -> Iterator[pa.RecordBatch]:
        """Sends a request, and streams the answer's batches. Raises as ask()."""
        self._send(request)
        try:
            yield from pa.ipc.open_stream(pa.PythonFile(self._answers, "r"))
        except (pa.ArrowException, OSError) as error:  # it is cut short
            raise self._death() from error
        self._answer()

    def release(self) -> None:
        """Makes it idle; in the midst of an answer that nobody wants any more, it is ended."""
        if self._answering:
            self._process.kill()
            self.end()
        else:
            self._idle.append(self)

    def end(self) -> None:
        """Ends the process, as soon as it has nothing to do."""
        with suppress(BrokenPipeError):
            self._requests.close()
        self._answers.close()
        self._process.wait()

    def _send(self, request: dict[str, Any]) -> None:
        self._answering = True
        try:
            self._requests.write(json.dumps(request).encode() + b"\n")
            self._requests.flush()
        except BrokenPipeError as error:
            raise self._death() from error

    def _answer(self) -> dict[str, Any]:
        line = self._answers.readline()
        if not line.endswith(b"\n"):
            raise self._death()
        self._answering = False
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise pa.ArrowInvalid(answer["error"])
        return answer

    def _death(self) -> Exception:
        """What the end of the process means."""
        code = self._process.wait()
        if code >= 0:
            return RuntimeError(f"the process that reads ORC files ended with exit code {code}")
        name = signal.Signals(-code).name
        if -code in _FAULTS:
            return pa.ArrowInvalid(f"the ORC reader died on it ({name})")
        return StoppedError(f"the process that reads ORC files was ended by {name}; run the same command again")


atexit.register(Decoder.end_all)
