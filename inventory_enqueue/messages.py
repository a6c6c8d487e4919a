"""Message bodies from object rows, in bulk. Pure.

Bodies are ASCII, so that SQS takes every one of them, and a body's length in characters is its size in bytes. Rows stay
columns up to the finished text; only values that need an escape which no expression makes go through Python.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from urllib.parse import quote_plus

import polars as pl

from inventory_enqueue.config import Change, MessageFormat

MESSAGE_COLUMNS: Final = ("key", "version_id", "size", "last_modified_date", "e_tag")
"""The columns of schema.OBJECT_SCHEMA that a message is made of."""

JSON_SCHEMA_VERSION: Final = 1

# What quote_plus leaves as it is, with "/": S3 writes keys so in its notifications.
_KEY_AS_IT_IS: Final = r"^[A-Za-z0-9_.\-~/]*$"
_ASCII: Final = r"^[\x00-\x7F]*$"
_JSON_AS_IT_IS: Final = r"^[ !#-\[\]-~]*$"
_ESCAPED_ASCII: Final = [chr(code) for code in range(128) if quote_plus(chr(code), safe="/") != chr(code)]
_HEX_PAIRS: Final = pl.Series([f"{byte:02X}" for byte in range(256)])


@dataclass(frozen=True)
class MessageContext:
    """What all messages of a run have in common."""

    bucket: str
    source_region: str
    run_id: str
    created: datetime
    """The delivery's creation timestamp: the time of rows that have none of their own."""


def bodies(rows: pl.DataFrame, message_format: MessageFormat, context: MessageContext) -> pl.Series:
    """The messages of rows, in their order.

    Args:
        rows: MESSAGE_COLUMNS, and `change`: new, changed or deleted.
        message_format: One of FORMATS.
        context: The run.

    Returns:
        ASCII texts, one a row.
    """
    return rows.select(FORMATS[message_format](context)).to_series()


def _s3_event(context: MessageContext) -> pl.Expr:
    """S3's event notification, with all its fields, since strict consumers refuse a smaller one.

    https://docs.aws.amazon.com/AmazonS3/latest/userguide/notification-content-structure.html
    """
    is_deleted = pl.col("change") == Change.DELETED
    # Nobody knows when an object was deleted; it was by the time of the delivery.
    created = pl.lit(context.created).dt.cast_time_unit("ms")
    moment = pl.when(is_deleted).then(created).otherwise(_modified(context))
    name = pl.when(is_deleted).then(pl.lit("ObjectRemoved:Delete")).otherwise(pl.lit("ObjectCreated:Put"))
    size_and_e_tag = pl.concat_str(
        pl.lit(',"size":'),
        pl.col("size").fill_null(0).cast(pl.String),
        pl.lit(',"eTag":'),
        _json_text_or("e_tag", '""'),
    )
    version = (
        pl.when(pl.col("version_id").is_null())
        .then(pl.lit(""))
        .otherwise(pl.concat_str(pl.lit(',"versionId":'), _json_text("version_id")))
    )
    head = (
        '{"Records":[{"eventVersion":"2.1","eventSource":"aws:s3","awsRegion":'
        f'{json.dumps(context.source_region)},"eventTime":"'
    )
    middle = (
        '","userIdentity":{"principalId":"AWS:inventory-enqueue"},'
        '"requestParameters":{"sourceIPAddress":"127.0.0.1"},"responseElements":{"x-amz-request-id":'
        f'{json.dumps(context.run_id)},"x-amz-id-2":{json.dumps(context.run_id)}}},'
        '"s3":{"s3SchemaVersion":"1.0","configurationId":"inventory-enqueue","bucket":{"name":'
        f'{json.dumps(context.bucket)},"ownerIdentity":{{"principalId":"inventory-enqueue"}},'
        f'"arn":{json.dumps("arn:aws:s3:::" + context.bucket)}}},"object":{{"key":"'
    )
    return pl.concat_str(
        pl.lit(head),
        _iso(moment),
        pl.lit('","eventName":"'),
        name,
        pl.lit(middle),
        _form_encoded("key"),
        pl.lit('"'),
        # S3 tells neither of a deleted object.
        pl.when(is_deleted).then(pl.lit("")).otherwise(size_and_e_tag),
        version,
        pl.lit(',"sequencer":"'),
        _sequencer(moment),
        pl.lit('"}}}]}'),
    )


def _json(context: MessageContext) -> pl.Expr:
    """Our own plain shape: the inventory's column names, nulls where it has none."""
    size = pl.col("size").cast(pl.String).fill_null("null")
    modified = (
        pl.when(pl.col("last_modified_date").is_null())
        .then(pl.lit("null"))
        .otherwise(pl.concat_str(pl.lit('"'), _iso(pl.col("last_modified_date")), pl.lit('"')))
    )
    return pl.concat_str(
        pl.lit(f'{{"schema_version":{JSON_SCHEMA_VERSION},"change":"'),
        pl.col("change"),
        pl.lit(f'","bucket":{json.dumps(context.bucket)},"key":'),
        _json_text("key"),
        pl.lit(',"version_id":'),
        _json_text_or("version_id", "null"),
        pl.lit(',"size":'),
        size,
        pl.lit(',"e_tag":'),
        _json_text_or("e_tag", "null"),
        pl.lit(',"last_modified_date":'),
        modified,
        pl.lit(f',"run_id":{json.dumps(context.run_id)}}}'),
    )


FORMATS: Final[Mapping[MessageFormat, Callable[[MessageContext], pl.Expr]]] = {
    MessageFormat.S3_EVENT: _s3_event,
    MessageFormat.JSON: _json,
}


def _modified(context: MessageContext) -> pl.Expr:
    created = pl.lit(context.created).dt.cast_time_unit("ms")
    return pl.col("last_modified_date").fill_null(created)


def _iso(moment: pl.Expr) -> pl.Expr:
    return moment.dt.strftime("%Y-%m-%dT%H:%M:%S%.3fZ")


def _sequencer(moment: pl.Expr) -> pl.Expr:
    """Eight hex digits of the second between zeros: after genuine events of older seconds, before those of the same."""
    seconds = moment.dt.epoch("s").clip(0, (1 << 32) - 1)
    pairs = [pl.lit(_HEX_PAIRS).gather(seconds // (1 << shift) % 256) for shift in (24, 16, 8, 0)]
    return pl.concat_str(pl.lit("00"), *pairs, pl.lit("00000000"))


def _form_encoded(name: str) -> pl.Expr:
    """The column as S3 writes keys in notifications: form-encoded UTF-8, space as +, "/" as it is."""
    column = pl.col(name)
    return (
        pl.when(column.str.contains(_KEY_AS_IT_IS))
        .then(column)
        .when(column.str.contains(_ASCII))
        .then(
            column.str.replace_many(_ESCAPED_ASCII, [quote_plus(character, safe="/") for character in _ESCAPED_ASCII])
        )
        .otherwise(_where(~column.str.contains(_ASCII), column, lambda text: quote_plus(text, safe="/")))
    )


def _json_text(name: str) -> pl.Expr:
    """The column as JSON strings with their quotes; null stays null."""
    column = pl.col(name)
    plain = column.str.contains(_JSON_AS_IT_IS)
    return (
        pl.when(plain)
        .then(pl.concat_str(pl.lit('"'), column, pl.lit('"')))
        .otherwise(_where(~plain, column, json.dumps))
    )


def _json_text_or(name: str, null: str) -> pl.Expr:
    return pl.when(pl.col(name).is_null()).then(pl.lit(null)).otherwise(_json_text(name))


def _where(condition: pl.Expr, column: pl.Expr, convert: Callable[[str], str]) -> pl.Expr:
    """convert(text), called only for the rows of the condition; null elsewhere."""
    return pl.when(condition).then(column).map_elements(convert, return_dtype=pl.String)
