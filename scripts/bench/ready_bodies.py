"""What the senders' benchmark sends: the same messages for all contenders, as ours makes them of rows."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

import polars as pl
from deliveries import SOURCE

from inventory_enqueue import messages
from inventory_enqueue.config import MessageFormat
from inventory_enqueue.messages import MessageContext

RUN_ID: Final = "20260201T000000Z-00000000"
REGION: Final = "us-east-1"
_CREATED: Final = datetime(2026, 2, 1, tzinfo=UTC)
_CONTEXT: Final = MessageContext(SOURCE, REGION, RUN_ID, _CREATED)
_ROWS: Final = 100_000


def frames(rows: int) -> Iterator[pl.DataFrame]:
    """So many rows of new objects, no two of them equal, as the enqueue stage has them."""
    for start in range(0, rows, _ROWS):
        number = pl.int_range(start, min(start + _ROWS, rows), dtype=pl.UInt64)
        yield pl.select(
            row=number,
            change=pl.lit(1, pl.UInt8),
            key=pl.format("data/year=2026/month=01/part-{}.parquet", number),
            version_id=pl.lit(None, pl.String),
            size=(number % 4_000_000_000).cast(pl.Int64),
            last_modified_date=pl.lit(_CREATED).dt.cast_time_unit("ms"),
            e_tag=pl.lit("d41d8cd98f00b204e9800998ecf8427e"),
        )


def bodies(count: int, records_per_message: int = 1) -> Iterator[str]:
    """The messages of so many rows."""
    envelope = messages.ENVELOPES[MessageFormat.S3_EVENT]
    for frame in frames(count):
        rows = frame.with_columns(change=pl.lit("new"))
        records = messages.records(rows, MessageFormat.S3_EVENT, _CONTEXT).to_list()
        for start in range(0, len(records), records_per_message):
            held = records[start : start + records_per_message]
            yield f"{envelope.head}{envelope.separator.join(held)}{envelope.tail}"
