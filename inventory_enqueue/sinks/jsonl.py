"""Messages as JSON Lines: in a file, or on standard output."""

import os
import sys
from pathlib import Path
from threading import Lock
from typing import Final

from inventory_enqueue.batching import BatchLimits, MessageBatch
from inventory_enqueue.errors import PreflightError, StoppedError
from inventory_enqueue.sinks import BatchResult

# A batch is one write and one fsync, so it is large: about 6 MB of s3-event messages.
_LIMITS: Final = BatchLimits(max_entries=10_000, max_message_bytes=1 << 30, max_request_bytes=16 * 1024 * 1024)
_TAIL: Final = 16 * 1024 * 1024


class JsonLinesFileSink:
    """Appends messages to a file, one a line. A batch counts as sent when it is on the disk."""

    limits = _LIMITS

    def __init__(self, path: Path) -> None:
        """Opens the file for appending, and makes it.

        A torn last line, as a run leaves that died in a write, is removed: its batch was never acknowledged.

        Raises:
            PreflightError: The file can't be written to.
        """
        self._lock = Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            self._remove_torn_line()
        except OSError as error:
            raise PreflightError(f"messages can't be written there: {error.strerror}", where=str(path)) from error

    def _remove_torn_line(self) -> None:
        size = os.fstat(self._descriptor).st_size
        if not os.path.isfile(f"/dev/fd/{self._descriptor}") or size == 0:  # noqa: PTH113 - a pipe or device has no tail
            return
        start = max(0, size - _TAIL)
        tail = os.pread(self._descriptor, size - start, start)
        if not tail.endswith(b"\n"):
            os.ftruncate(self._descriptor, start + tail.rfind(b"\n") + 1)

    def send(self, batch: MessageBatch) -> BatchResult:
        """Writes the batch and makes it durable.

        Raises:
            StoppedError: The disk is full or fails.
        """
        view = memoryview(_lines(batch))
        try:
            with self._lock:
                while view:
                    view = view[os.write(self._descriptor, view) :]
                os.fsync(self._descriptor)
        except OSError as error:
            raise StoppedError(
                f"messages can't be written: {error.strerror}; mend that and run the same command"
            ) from error
        return BatchResult(sent=tuple(range(len(batch))))

    def close(self) -> None:
        """Closes the file."""
        os.close(self._descriptor)


class StandardOutputSink:
    """Writes messages to standard output, one a line."""

    limits = _LIMITS

    def __init__(self) -> None:
        """Takes standard output as it is."""
        self._lock = Lock()

    def send(self, batch: MessageBatch) -> BatchResult:
        """Writes the batch.

        Raises:
            StoppedError: The reader is gone.
        """
        try:
            with self._lock:
                sys.stdout.buffer.write(_lines(batch))
                sys.stdout.buffer.flush()
        except OSError as error:
            raise StoppedError(f"standard output can't be written: {error.strerror}") from error
        return BatchResult(sent=tuple(range(len(batch))))

    def close(self) -> None:
        """Leaves standard output open: it belongs to the process."""


def _lines(batch: MessageBatch) -> bytes:
    return "".join(message.body + "\n" for message in batch).encode("ascii")
