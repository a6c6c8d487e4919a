"""Messages as JSON Lines: in a file, or on standard output."""

import os
import stat
import sys
import time
from pathlib import Path
from typing import Final

from inventory_enqueue.batching import BatchLimits, MessageBatch, Messages
from inventory_enqueue.errors import PreflightError, StoppedError
from inventory_enqueue.sinks import BatchResult

# A batch is one write and one fsync, so it is large: about 6 MB of s3-event messages.
_LIMITS: Final = BatchLimits(
    max_entries=10_000, max_message_bytes=1 << 30, max_request_bytes=16 * 1024 * 1024, one_line=True
)
_TAIL: Final = 16 * 1024 * 1024


class _WritingSink:
    """A request is one write: it is answered when it began."""

    limits = _LIMITS

    def __init__(self) -> None:
        self._written: list[tuple[MessageBatch, BatchResult]] = []

    def prepare(self, messages: Messages) -> None:
        """Nothing is to be done: lines are made when they are written."""

    def begin(self, batch: MessageBatch) -> None:
        """Writes the batch; a failure is fatal for the run."""
        began = time.monotonic()
        lines = "".join(f"{body}\n" for body in batch.bodies()).encode()
        try:
            self._write(lines)
        except OSError as error:
            result = BatchResult(retry=tuple(range(batch.length)), fatal=self._failure(error))
        else:
            result = BatchResult(sent=tuple(range(batch.length)), began=began, seconds=time.monotonic() - began)
        self._written.append((batch, result))

    def _write(self, lines: bytes) -> None:
        raise NotImplementedError

    def _failure(self, error: OSError) -> StoppedError:
        raise NotImplementedError

    def finished(self, timeout: float) -> list[tuple[MessageBatch, BatchResult]]:
        """What was written since the last call."""
        del timeout  # nothing is waited for
        written, self._written = self._written, []
        return written


class JsonLinesFileSink(_WritingSink):
    """Appends messages to a file, one a line. A batch counts as sent when it is on the disk."""

    def __init__(self, path: Path, *, begun_at: int | None = None) -> None:
        """Opens the file for appending, and makes it.

        A torn last line, as a run leaves that died in a write, is removed: its batch was never acknowledged. What was
        in the file before the run is never touched.

        Args:
            path: The file.
            begun_at: Its size when this run opened it first; None where it does so now.

        Raises:
            PreflightError: The file can't be written to, or it ends in the middle of a line.
        """
        super().__init__()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            self._is_file = stat.S_ISREG(os.fstat(self._descriptor).st_mode)
            self.begun_at = os.fstat(self._descriptor).st_size if begun_at is None else begun_at
            """The size of the file when the run opened it first."""
            if not self._remove_torn_line():
                raise PreflightError("its last line has no end: end it, or name another file", where=str(path))
        except OSError as error:
            raise PreflightError(f"messages can't be written there: {error.strerror}", where=str(path)) from error

    def _remove_torn_line(self) -> bool:
        """Returns whether the file ends with a line's end now."""
        size = os.fstat(self._descriptor).st_size
        if not self._is_file or size == 0:
            return True
        start = max(0, size - _TAIL)
        tail = os.pread(self._descriptor, size - start, start)
        if tail.endswith(b"\n"):
            return True
        end = start + tail.rfind(b"\n") + 1
        if end < self.begun_at or size == self.begun_at:
            return False
        os.ftruncate(self._descriptor, end)
        return True

    def _write(self, lines: bytes) -> None:
        before = os.fstat(self._descriptor).st_size
        view = memoryview(lines)
        try:
            while view:
                view = view[os.write(self._descriptor, view) :]
            os.fsync(self._descriptor)
        except OSError:
            if self._is_file:
                # Lines of a batch that isn't acknowledged would be written again.
                os.ftruncate(self._descriptor, before)
            raise

    def _failure(self, error: OSError) -> StoppedError:
        return StoppedError(f"messages can't be written: {error.strerror}; mend that and run the same command")

    def close(self) -> None:
        """Closes the file."""
        os.close(self._descriptor)


class StandardOutputSink(_WritingSink):
    """Writes messages to standard output, one a line."""

    def _write(self, lines: bytes) -> None:
        sys.stdout.buffer.write(lines)
        sys.stdout.buffer.flush()

    def _failure(self, error: OSError) -> StoppedError:
        return StoppedError(f"standard output can't be written: {error.strerror}")

    def close(self) -> None:
        """Leaves standard output open: it belongs to the process."""
