"""The process that decodes ORC files for orc.Decoder: what damaged bytes do to Apache ORC's reader ends it alone.

It is run by its path, so that it imports nothing but pyarrow, and ends when its standard input does, so with its
parent. It answers two kinds of requests, JSON objects on a line each:

- path: opens a file. The answer is a line with the names of its columns, and its rows.
- columns, batch_rows: streams these columns of the file that was opened last. The answer is an Arrow IPC stream, and a
  line that says that it is whole.

A line with an error says what the library found wrong instead.
"""

import importlib.resources
import json
import os
import signal
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, cast

import pyarrow as pa
import pyarrow.orc

if TYPE_CHECKING:
    import io

_UNDECODABLE: Final = (pa.ArrowException, OSError, UnicodeDecodeError)
_SYSTEM_ZONES: Final = Path("/usr/share/zoneinfo")


def serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    """Answers requests until there are no more."""
    file: Any = None
    for line in requests:
        request = json.loads(line)
        try:
            if "path" in request:
                file = pyarrow.orc.ORCFile(request["path"])
                answer = {"columns": file.schema.names, "rows": file.nrows}
            else:
                _stream(file, answers, **request)
                answer = {}
        except _UNDECODABLE as error:
            answer = {"error": str(error)}
        answers.write(json.dumps(answer).encode() + b"\n")
        answers.flush()


def _stream(file: Any, answers: IO[bytes], columns: Collection[str], batch_rows: int) -> None:  # noqa: ANN401 - untyped
    schema = pa.schema([field for field in file.schema if field.name in columns])
    with pa.ipc.new_stream(pa.PythonFile(cast("io.IOBase", answers), "w"), schema) as writer:
        for batch in _batches(file, columns, batch_rows):
            writer.write_batch(batch)


def _batches(file: Any, columns: Collection[str], batch_rows: int) -> Iterator[pa.RecordBatch]:  # noqa: ANN401 - as above
    for number in range(file.nstripes):
        stripe = file.read_stripe(number, columns=columns)
        for start in range(0, stripe.num_rows, batch_rows):
            yield stripe.slice(start, batch_rows)
        del stripe  # or it is there while the next one is decoded, twice with what Arrow keeps of it
        pa.default_memory_pool().release_unused()


def _provide_time_zones() -> None:
    """Points the ORC library to the tzdata package where the system has no time zones, as in slim containers.

    It wants them to read timestamps, although these are in UTC.
    """
    if "TZDIR" not in os.environ and not (_SYSTEM_ZONES / "UTC").exists():
        os.environ["TZDIR"] = str(importlib.resources.files("tzdata") / "zoneinfo")


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # nobody reads any more: the parent is gone
    _provide_time_zones()
    with os.fdopen(os.dup(sys.stdout.fileno()), "wb") as answers:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints must not get among the answers
        serve(sys.stdin.buffer, answers)
