"""A failures file, sent again; what fails again is written in the same form."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import Any, Final

import polars as pl
import polars_hash  # noqa: F401 - gives expressions the namespaces chash and nchash

from inventory_enqueue import documents
from inventory_enqueue.batching import MessageForm, Messages
from inventory_enqueue.config import FIFO_GROUPS, AwsSettings, MessageFormat, Sending, SqsQueue
from inventory_enqueue.ledger import Failure
from inventory_enqueue.messages import Envelope, Template, Value, carriable
from inventory_enqueue.pacing import Pace, Pause
from inventory_enqueue.sending import Sender
from inventory_enqueue.sinks.sqs import SqsSink
from inventory_enqueue.stores.local import LocalStore
from inventory_enqueue.watch import Watch

_ROWS_AT_ONCE: Final = 1_000
_BODY: Final = Template(Value(pl.col("body"), is_plain=False))


def resend(  # noqa: PLR0913 - what a sender is made of
    failures: Path, still_failing: Path, *, queue: SqsQueue, aws: AwsSettings, sending: Sending, watch: Watch
) -> Counter[str]:
    """Sends the messages of a failures file, or of a file of late keys, each as it stands in it.

    The file itself stays as it is: a command that is stopped sends all of it again.

    Args:
        failures: JSON Lines, as a run wrote them.
        still_failing: Gets the lines of those that fail again, with their new reasons; removed where there are none.
        queue: Where to.
        aws: How AWS is reached.
        sending: How fast.
        watch: What may end it early.

    Returns:
        sent, failed, and what the sender counts.

    Raises:
        IntegrityError: A line isn't what a run writes.
        PreflightError, StoppedError: The queue can't be used, or not any more.
        OSError: A file can't be read or written.
    """
    sink = SqsSink(
        queue.queue_url, aws, connections=sending.concurrency, transport=sending.transport, verify=sending.verify
    )
    try:
        answers = _Answers()
        pause = None if sending.pause_above is None else Pause(sending.pause_above, sink.backlog)
        pace = Pace(sending.concurrency, sending.rate, pause)
        sender = Sender(sink, answers, pace, watch=watch)
        sender.send_all(_chunks(failures, sink, answers, is_fifo=queue.is_fifo))
    finally:
        sink.close()
    _write(failures, still_failing, answers.failed)
    return sender.counts + Counter(sent=sender.counts["messages"], failed=len(answers.failed))


class _Answers:
    """What a queue says of lines, by their numbers: those that fail again."""

    def __init__(self) -> None:
        self.failed: dict[int, dict[str, object]] = {}

    def record(self, _sent: bytes, failures: Sequence[Failure] = ()) -> None:
        """Takes an answer."""
        for failure in failures:
            # What else a failure holds stands in the file, which is read once more at the end.
            said = {"code": failure.code, "message": failure.message, "sender_fault": failure.sender_fault}
            self.failed[failure.row] = said

    def checkpoint(self) -> None:
        """There is nothing to make durable before the end."""


def _lines(failures: Path) -> Iterator[dict[str, Any]]:
    with failures.open("rb") as file:
        for number, line in enumerate(file, start=1):
            yield documents.parse(line, _checked, where=f"{failures}, line {number}")


def _checked(record: dict[str, Any]) -> dict[str, Any]:
    for name, kind in (("run_id", str), ("pipeline", str), ("row", int), ("key", str), ("body", str)):
        if not isinstance(record[name], kind):
            raise TypeError(name)
    return record


def _chunks(failures: Path, sink: SqsSink, answers: _Answers, *, is_fifo: bool) -> Iterator[Messages]:
    start = 0
    # The messages of a request have their attributes in common.
    for attributes, lines in groupby(_lines(failures), key=itemgetter("run_id", "pipeline")):
        form = MessageForm(Envelope(), attributes=dict(zip(("run_id", "pipeline"), attributes, strict=True)))
        while records := list(islice(lines, _ROWS_AT_ONCE)):
            taken = _taken(_rows(records, start), form, sink, answers)
            start += len(records)
            made = taken.select("row", "key", *(_groups() if is_fifo else ())).hstack(_BODY.values(taken))
            if not made.is_empty():
                made = made.sort("group", maintain_order=True) if is_fifo else made
                yield Messages(made, _BODY, form, sink.limits)


def _rows(records: list[dict[str, Any]], start: int) -> pl.DataFrame:
    """Lines as rows, which go by the lines' numbers: rows of several runs may be the same."""
    return pl.DataFrame(
        {
            "row": range(start, start + len(records)),
            "key": [record["key"] for record in records],
            "body": [record["body"] for record in records],
            # For a FIFO queue: of two versions of a key, both bodies may be the same.
            "known_by": [f"{record['run_id']}\0resend\0{record['row']}\0{record['body']}" for record in records],
        },
        schema_overrides={"row": pl.UInt64},
    ).with_columns(change=pl.lit("new"))


def _taken(rows: pl.DataFrame, form: MessageForm, sink: SqsSink, answers: _Answers) -> pl.DataFrame:
    """The rows that the queue could take; the others have failed again."""
    most = sink.limits.max_message_bytes
    fits = rows["body"].str.len_bytes() <= most - form.body_bytes(0)
    # The body is all of the message, as a bare key is.
    good = fits & carriable(rows.select(key="body"), MessageFormat.KEY)
    for row, key, body, does_fit in rows.select("row", "key", "body", fits=fits).filter(~good).iter_rows():
        code, message = (
            ("InvalidMessageContents", "the queue takes no empty message, and not every character")
            if does_fit
            else ("MessageTooLong", f"the message has more bytes than the {most} that the queue takes")
        )
        answers.record(b"", [Failure(row, key, code, message, sender_fault=True, body=body)])
    return rows.filter(good)


def _groups() -> list[pl.Expr]:
    """For a FIFO queue: the group of a message, and what it is known by."""
    group = pl.format("{}", pl.col("key").nchash.xxh3_64() % FIFO_GROUPS.count)  # type: ignore[attr-defined]
    return [group.alias("group"), pl.col("known_by").chash.sha2_256().alias("identity")]  # type: ignore[attr-defined]


def _write(failures: Path, still_failing: Path, failed: dict[int, dict[str, object]]) -> None:
    """Writes the lines of what failed again, with their own rows and what the queue says now."""
    if not failed:
        still_failing.unlink(missing_ok=True)
        return
    with LocalStore(still_failing.parent).write_file(still_failing.name) as path, path.open("wb") as file:
        for number, record in enumerate(_lines(failures)):
            if number in failed:
                file.write((json.dumps({**record, **failed[number]}) + "\n").encode())
