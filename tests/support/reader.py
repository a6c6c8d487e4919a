"""Reads data files in a process of its own: what damaged bytes do to a library must not end the tests."""

from __future__ import annotations

import itertools
import multiprocessing
import resource
import sys
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import polars as pl

from inventory_enqueue.config import MessageFormat
from inventory_enqueue.delivery.reading import Room, columns_of, read_rows, read_selected
from inventory_enqueue.errors import IntegrityError
from inventory_enqueue.fingerprints import Scheme, Versions
from inventory_enqueue.messages import MessageContext, bodies
from inventory_enqueue.schema import OBJECT_SCHEMA, Rows
from tests.support.deliveries import DAY_1

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from types import TracebackType

    import pyarrow as pa

    from inventory_enqueue.delivery.landing import LandedFile

_MEMORY = 6 << 30  # bytes of address space: a size that is damaged must not take the machine's memory
_SECONDS = 60
_SCHEME = Scheme(1, 2, 3, 4)

ROOM = Room(1 << 30)
"""Enough for any row group of the tests."""


@dataclass(frozen=True)
class Outcome:
    """What became of a file: exactly one of these."""

    rows: list[dict[str, Any]] | None = None
    """All of them, in OBJECT_SCHEMA's columns; a quarantined one has a null key."""
    refused: str | None = None
    """The text of the IntegrityError."""
    broken: str | None = None
    """Any other exception, or a wrong row, as a traceback."""
    died: str | None = None
    """How the process died, or that it hung."""


class Reader:
    """A process that reads files one by one; a new one takes its place when it dies."""

    def __init__(self) -> None:
        """Make it; the process is started when it is needed."""
        self._context = multiprocessing.get_context("spawn")
        self._process: Any = None
        self._connection: Connection[Any, Any] | None = None

    def __enter__(self) -> Self:
        """Give the reader."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the process."""
        self._stop()

    def read(self, landed: LandedFile) -> Outcome:
        """Read a file as the stages do, from its columns to fingerprints and messages."""
        connection = self._connection or self._start()
        connection.send(landed)
        try:
            if not connection.poll(_SECONDS):
                self._stop()
                return Outcome(died=f"it hung for {_SECONDS} s")
            outcome = connection.recv()
        except (EOFError, ConnectionError):
            self._process.join()
            code = self._process.exitcode
            self._stop()
            return Outcome(died=f"exit code {code}")
        assert isinstance(outcome, Outcome)
        return outcome

    def _start(self) -> Connection[Any, Any]:
        ours, theirs = self._context.Pipe()
        self._process = self._context.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()
        self._connection = ours
        return ours

    def _stop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._process.kill()
            self._process.join()
            self._process.close()
        self._connection = None


def _serve(connection: Connection[Any, Any]) -> None:
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    while True:
        try:
            landed = connection.recv()
        except EOFError:
            return
        connection.send(_outcome(landed))


def arrow(rows: Rows) -> pa.Table:
    """Rows as an Arrow table, whose columns must be in OBJECT_SCHEMA's types."""
    assert rows.frame.schema == pl.Schema(OBJECT_SCHEMA)
    return rows.frame.to_arrow().cast(OBJECT_SCHEMA)


def _outcome(landed: LandedFile) -> Outcome:
    try:
        columns_of(landed)
        return Outcome(rows=_rows(landed))
    except IntegrityError as error:
        return Outcome(refused=str(error))
    except BaseException:  # noqa: BLE001 - a panic of polars is no Exception
        return Outcome(broken=traceback.format_exc())


def _rows(landed: LandedFile) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for rows in read_rows(landed, OBJECT_SCHEMA.names, ROOM):
        table = arrow(rows)
        table.validate(full=True)
        records = table.to_pylist()
        unnamed = [position for position, record in enumerate(records) if record["key"] is None]
        assert unnamed == sorted(row.position for row in rows.quarantined)
        frame = rows.frame.filter(pl.col("key").is_not_null())
        for versions in Versions:
            assert frame.select(_SCHEME.expressions(versions)).height == frame.height
        for message_format in MessageFormat:
            sent = bodies(frame.with_columns(change=pl.lit("new")), message_format, _CONTEXT)
            assert sent.null_count() == 0
            assert message_format is MessageFormat.KEY or all(body.isascii() for body in sent)
        found += records
    everything = pl.int_range(len(found), dtype=pl.UInt64, eager=True)
    selected = [arrow(rows).to_pylist() for rows, _ in read_selected(landed, OBJECT_SCHEMA.names, ROOM, everything)]
    assert list(itertools.chain(*selected)) == found
    return found


_CONTEXT = MessageContext("source-bucket", "us-east-1", "run", DAY_1)
