"""Message bodies from object rows, in bulk. Pure.

A message is an envelope around one or more records, a record tells of one object. Records are ASCII, except for bare
keys: so SQS takes every one of them, and a record's length in characters is its size in bytes. Rows stay columns up to
the finished text; only values that aren't ASCII go through Python.

docs/messages.md shows what the records look like.
"""

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from urllib.parse import quote_plus
from uuid import UUID

import polars as pl
import polars_hash  # noqa: F401 - gives expressions the namespace nchash
import pyarrow as pa
import pyarrow.compute as pc

from inventory_enqueue.config import Change, MessageFormat

MESSAGE_COLUMNS: Final = ("key", "version_id", "size", "last_modified_date", "e_tag")
"""The columns of schema.OBJECT_SCHEMA that a message is made of."""

JSON_SCHEMA_VERSION: Final = 1
"""Of the format json: it rises when a field goes or changes its meaning, not when one is added."""

EVENT_ID_NAMESPACE: Final = UUID(bytes=b"inventoryenqueue")
"""The ids of EventBridge's events are version 3 UUIDs in it. Its 16 bytes are ASCII since polars hashes texts."""

_UNKNOWN_ACCOUNT: Final = "000000000000"
"""An inventory doesn't tell the bucket owner's account, and parsers want twelve digits."""

_UNKNOWN: Final = "-"
"""What parsers want and an inventory doesn't tell. Short, since each record has it three times."""

_ASCII: Final = [chr(code) for code in range(128)]
_FORM: Final = {character: quote_plus(character, safe="/") for character in _ASCII}
"""S3 writes keys so in its notifications: form-encoded, but for the slash."""
_FORM_ESCAPES: Final = {plain: encoded for plain, encoded in _FORM.items() if plain != encoded}
_NEEDLESS_PERCENTS: Final = {
    f"%{ord(plain):02X}": encoded for plain, encoded in _FORM.items() if encoded in {plain, "+"}
}
_JSON_ESCAPES: Final = {plain: json.dumps(plain)[1:-1] for plain in _ASCII if json.dumps(plain)[1:-1] != plain}
_CONTROL: Final = r"[\x00-\x1F]"
_SPECIAL: Final = r"[\x00-\x1F\x22\x5C]"
_NO_SQS_CHARACTER: Final = r"[\x00-\x08\x0B\x0C\x0E-\x1F\x{FFFE}\x{FFFF}]"
_DATE_LENGTH: Final = len("2026-11-23")
_SECONDS_LENGTH: Final = len("2026-11-23T12:34:56")


@dataclass(frozen=True)
class MessageContext:
    """What all messages of a run have in common."""

    bucket: str
    source_region: str
    run_id: str
    created: datetime
    """The delivery's creation timestamp: the time of rows that have none of their own."""
    now: datetime | None = None
    """With EventTime.NOW the time of the run, which every event then has for its own."""


@dataclass(frozen=True)
class Envelope:
    """What stands around the records of a message: head, the records with separators between them, tail."""

    head: str = ""
    separator: str = ""
    tail: str = ""
    holds_several: bool = False
    """Else a message has exactly one record."""


ENVELOPES: Final[Mapping[MessageFormat, Envelope]] = {
    MessageFormat.S3_EVENT: Envelope('{"Records":[', ",", "]}", holds_several=True),
    MessageFormat.EVENTBRIDGE: Envelope(),
    MessageFormat.JSON: Envelope(),
    MessageFormat.KEY: Envelope(),
}


@dataclass(frozen=True)
class Value:
    """A part of a record that differs from row to row."""

    expression: pl.Expr
    """A text, over MESSAGE_COLUMNS and `change`."""
    is_plain: bool = True
    """Whether it never holds a quote, a backslash or a control character: as a JSON string it is as it stands."""


@dataclass(frozen=True)
class IfDeleted:
    """A part of a record that is another one for deleted objects."""

    then: str
    otherwise: "str | Value"


Part = str | Value | IfDeleted
"""A part of a record: a text that all have, or one of those."""


class Template:
    """How the records of a format are made: their parts are joined once as they are, and once as JSON strings.

    What differs from row to row is computed once for both.
    """

    def __init__(self, *parts: Part) -> None:
        """Takes the parts, in order."""
        self._parts = parts

    def values(self, rows: pl.DataFrame) -> pl.DataFrame:
        """What the texts of rows are made of: one column for each Value, and _DELETED where there is a deleted row."""
        values = [_value_of(part) for part in self._parts]
        columns = [value.expression.alias(f"{number}") for number, value in enumerate(values) if value is not None]
        is_deleted = rows.select(pl.col("change") == Change.DELETED).to_series()
        if is_deleted.any():
            columns.append(pl.lit(is_deleted).alias(_DELETED))
        return rows.select(columns)

    def most_bytes(self, values: pl.DataFrame) -> pl.Expr:
        """At most so many bytes has the record of each row of values()."""
        fixed = sum(len(text.encode()) for part in self._parts for text in _fixed(part))
        varying = [pl.col(name).str.len_bytes() for name in values.columns if name.isdecimal()]
        return pl.sum_horizontal(pl.lit(fixed), *varying)

    @property
    def head(self) -> str:
        """What all records begin with."""
        return self._parts[0] if isinstance(self._parts[0], str) else ""

    def rest(self, values: pl.DataFrame, *, escaped: bool = False) -> list[pl.Expr]:
        """The texts of records after their head, to be joined by pl.concat_str.

        Args:
            values: What values() gave, perhaps beside other columns.
            escaped: As JSON strings without their quotes.
        """
        parts = list(enumerate(self._parts))[1 if self.head else 0 :]
        return [self._text(f"{number}", part, values, escaped) for number, part in parts]

    def texts(self, values: pl.DataFrame) -> pl.Series:
        """The records of rows, of which values() told what they are made of."""
        return values.select(pl.concat_str(pl.lit(self.head), *self.rest(values))).to_series()

    def _text(self, name: str, part: Part, values: pl.DataFrame, escaped: bool) -> pl.Expr:  # noqa: FBT001
        if isinstance(part, str):
            return pl.lit(json_escaped(part) if escaped else part)
        if isinstance(part, Value):
            # To look costs a tenth of escaping, and few texts need it.
            is_escaped = escaped and not part.is_plain and values[name].str.contains(_SPECIAL).any()
            return _escaped_again(pl.col(name)) if is_escaped else pl.col(name)
        otherwise = self._text(name, part.otherwise, values, escaped)
        if _DELETED not in values.columns:
            return otherwise
        return pl.when(_DELETED).then(pl.lit(json_escaped(part.then) if escaped else part.then)).otherwise(otherwise)


_DELETED: Final = "is_deleted"


def _value_of(part: Part) -> Value | None:
    if isinstance(part, IfDeleted):
        return part.otherwise if isinstance(part.otherwise, Value) else None
    return part if isinstance(part, Value) else None


def _fixed(part: Part) -> tuple[str, ...]:
    if isinstance(part, IfDeleted):
        return (part.then, *_fixed(part.otherwise))
    return (part,) if isinstance(part, str) else ()


def json_escaped(text: str) -> str:
    """A text as a JSON string without its quotes."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _escaped_again(column: pl.Expr) -> pl.Expr:
    """Any texts as JSON strings without their quotes."""
    quoted = column.str.replace_all("\\", "\\\\", literal=True).str.replace_all('"', '\\"', literal=True)
    has_control = column.str.contains(_CONTROL)
    controlled = pl.when(has_control).then(column).map_elements(json_escaped, return_dtype=pl.String)
    return pl.when(has_control).then(controlled).otherwise(quoted)


@functools.lru_cache(maxsize=16)
def template(message_format: MessageFormat, context: MessageContext) -> Template:
    """How the records of a run are made.

    Args:
        message_format: The shape of a record.
        context: The run.
    """
    # Kept, since to build the expressions takes a millisecond: a tenth of the time for 10,000 rows.
    return _TEMPLATES[message_format](context)


def records(rows: pl.DataFrame, message_format: MessageFormat, context: MessageContext) -> pl.Series:
    """The records of rows, in their order.

    Args:
        rows: MESSAGE_COLUMNS, and `change`: new, changed or deleted.
        message_format: The shape of a record.
        context: The run.

    Returns:
        Texts, one a row: ASCII, except for MessageFormat.KEY.
    """
    made = template(message_format, context)
    return made.texts(made.values(rows))


def bodies(rows: pl.DataFrame, message_format: MessageFormat, context: MessageContext) -> pl.Series:
    """The messages of rows, in their order, with one record each. Arguments as for records."""
    envelope = ENVELOPES[message_format]
    record = records(rows, message_format, context).alias("record")
    return record.to_frame().select(pl.concat_str(pl.lit(envelope.head), "record", pl.lit(envelope.tail))).to_series()


def carriable(rows: pl.DataFrame, message_format: MessageFormat, *, one_line: bool = False) -> pl.Series:
    """Which rows SQS can carry as messages: it takes no empty body, and not every character.

    https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessage.html

    Args:
        rows: With the column key, as for records.
        message_format: Only bare keys can hold what SQS refuses.
        one_line: Whether the message has a line of a file for itself.

    Returns:
        Booleans, one a row.
    """
    if message_format is MessageFormat.KEY:
        key = pl.col("key")
        refused = key.str.contains(_NO_SQS_CHARACTER)
        if one_line:
            refused |= key.str.contains("\n", literal=True)
        return rows.select((key != "") & ~refused).to_series()
    return pl.repeat(value=True, n=rows.height, dtype=pl.Boolean, eager=True)


def _s3_event(context: MessageContext) -> Template:
    """S3's event notification, with all its fields, since strict consumers refuse a smaller one.

    What all messages share comes first, since it is made and hashed once; S3 itself has the event's time and name
    before it.

    https://docs.aws.amazon.com/AmazonS3/latest/userguide/notification-content-structure.html
    """
    head = (
        f'{{"eventVersion":"2.1","eventSource":"aws:s3","awsRegion":{json.dumps(context.source_region)},'
        f'"userIdentity":{{"principalId":"{_UNKNOWN}"}},'
        '"requestParameters":{"sourceIPAddress":"127.0.0.1"},"responseElements":{"x-amz-request-id":'
        f'{json.dumps(context.run_id)},"x-amz-id-2":"{_UNKNOWN}"}},'
        '"s3":{"s3SchemaVersion":"1.0","configurationId":"inventory-enqueue","bucket":{"name":'
        f'{json.dumps(context.bucket)},"ownerIdentity":{{"principalId":"{_UNKNOWN}"}},'
        f'"arn":{json.dumps(_arn(context))}}},"object":{{"key":"'
    )
    return Template(
        head,
        Value(_form_encoded("key")),
        # S3 tells neither size nor ETag of a deleted object.
        IfDeleted('"', '","size":'),
        IfDeleted("", Value(pl.col("size").fill_null(0).cast(pl.String))),
        IfDeleted("", ',"eTag":"'),
        IfDeleted("", Value(_json_escaped("e_tag").fill_null(""), is_plain=False)),
        IfDeleted("", '"'),
        Value(_version_field(',"versionId":"'), is_plain=False),
        ',"sequencer":"',
        Value(_sequencer(_moment(context))),
        IfDeleted('"}},"eventName":"ObjectRemoved:Delete', '"}},"eventName":"ObjectCreated:Put'),
        '","eventTime":"',
        Value(_event_time(context)),
        'Z"}',
    )


def _eventbridge(context: MessageContext) -> Template:
    """The event that S3 sends to EventBridge: its keys aren't URL-encoded.

    https://docs.aws.amazon.com/AmazonS3/latest/userguide/ev-events.html
    """
    time = f'","source":"aws.s3","account":"{_UNKNOWN_ACCOUNT}","time":"'
    middle = (
        f'Z","region":{json.dumps(context.source_region)},"resources":[{json.dumps(_arn(context))}],'
        f'"detail":{{"version":"0","bucket":{{"name":{json.dumps(context.bucket)}}},"object":{{"key":"'
    )
    tail = (
        f'"}},"request-id":{json.dumps(context.run_id)},"requester":"inventory-enqueue",'
        '"source-ip-address":"127.0.0.1","reason":"'
    )
    return Template(
        '{"version":"0","id":"',
        Value(_event_id(context)),
        IfDeleted('","detail-type":"Object Deleted' + time, '","detail-type":"Object Created' + time),
        Value(_event_time(context).str.head(_SECONDS_LENGTH)),
        middle,
        Value(_json_escaped("key"), is_plain=False),
        # S3 tells neither size nor ETag of a deleted object.
        IfDeleted('"', '","size":'),
        IfDeleted("", Value(pl.col("size").fill_null(0).cast(pl.String))),
        IfDeleted("", ',"etag":"'),
        IfDeleted("", Value(_json_escaped("e_tag").fill_null(""), is_plain=False)),
        IfDeleted("", '"'),
        Value(_version_field(',"version-id":"'), is_plain=False),
        ',"sequencer":"',
        Value(_sequencer(_moment(context))),
        IfDeleted(tail + 'DeleteObject","deletion-type":"Permanently Deleted"}}', tail + 'PutObject"}}'),
    )


def _json(context: MessageContext) -> Template:
    """Our own plain shape: the inventory's column names, nulls where it has none."""
    return Template(
        f'{{"schema_version":{JSON_SCHEMA_VERSION},"change":"',
        Value(pl.col("change")),
        f'","bucket":{json.dumps(context.bucket)},"key":"',
        Value(_json_escaped("key"), is_plain=False),
        '","version_id":',
        Value(_or_null(_json_escaped("version_id")), is_plain=False),
        ',"size":',
        Value(pl.col("size").cast(pl.String).fill_null("null")),
        ',"e_tag":',
        Value(_or_null(_json_escaped("e_tag")), is_plain=False),
        ',"last_modified_date":',
        Value(_or_null(pl.concat_str(_iso(pl.col("last_modified_date")), pl.lit("Z"))), is_plain=False),
        f',"run_id":{json.dumps(context.run_id)}}}',
    )


def _key(_: MessageContext) -> Template:
    return Template(Value(pl.col("key"), is_plain=False))


_TEMPLATES: Final[Mapping[MessageFormat, Callable[[MessageContext], Template]]] = {
    MessageFormat.S3_EVENT: _s3_event,
    MessageFormat.EVENTBRIDGE: _eventbridge,
    MessageFormat.JSON: _json,
    MessageFormat.KEY: _key,
}


def _arn(context: MessageContext) -> str:
    return f"arn:aws:s3:::{context.bucket}"


def _version_field(name: str) -> pl.Expr:
    """The version after its field's name; nothing where there is no version."""
    return pl.concat_str(pl.lit(name), _json_escaped("version_id"), pl.lit('"')).fill_null("")


def _moment(context: MessageContext) -> pl.Expr:
    """When it happened, as far as anybody knows."""
    # Nobody knows when an object was deleted; it was by the time of the delivery.
    created = pl.lit(context.created).dt.cast_time_unit("ms")
    is_deleted = pl.col("change") == Change.DELETED
    return pl.when(is_deleted).then(created).otherwise(pl.col("last_modified_date").fill_null(created))


def _event_time(context: MessageContext) -> pl.Expr:
    """The time of the event, as _iso writes it."""
    if context.now is None:
        return _iso(_moment(context))
    return pl.lit(context.now.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="milliseconds"))


def _iso(moment: pl.Expr) -> pl.Expr:
    """A moment in UTC to its milliseconds, without the Z."""
    return moment.dt.replace_time_zone(None).map_batches(_iso_texts, return_dtype=pl.String)


def _iso_texts(moments: pl.Series) -> pl.Series:
    # pyarrow's cast takes a third of the time of polars' strftime, for 2026-11-23 12:34:56.789.
    texts = pc.cast(moments.to_arrow(), pa.string())
    return pl.Series(pc.binary_replace_slice(texts, _DATE_LENGTH, _DATE_LENGTH + 1, "T"))


def _sequencer(moment: pl.Expr) -> pl.Expr:
    """Eight hex digits of the second between zeros: after genuine events of older seconds, before those of the same."""
    seconds = moment.dt.epoch("s").clip(0, (1 << 32) - 1)
    words = [pl.lit(_hex_words()).gather(word) for word in (seconds // (1 << 16), seconds % (1 << 16))]
    return pl.concat_str(pl.lit("00"), *words, pl.lit("00000000"))


@functools.cache
def _hex_words() -> pl.Series:
    # Made at the first use: it takes 13 ms, which --help needn't wait for.
    return pl.Series([f"{word:04X}" for word in range(1 << 16)])


def _event_id(context: MessageContext) -> pl.Expr:
    """A version 3 UUID: the same when the run sends the same message again.

    https://www.rfc-editor.org/rfc/rfc9562#name-uuid-version-3
    """
    name = pl.concat_str(
        pl.lit(f"{EVENT_ID_NAMESPACE.bytes.decode()}{context.run_id}\n{context.bucket}\n"),
        pl.col("change"),
        pl.lit("\n"),
        pl.col("version_id").fill_null(""),
        pl.lit("\n"),
        pl.col("e_tag").fill_null(""),
        pl.lit("\n"),
        pl.col("key"),
    )
    # polars-hash hangs its namespace on every expression, where no type checker sees it.
    digest = name.nchash.md5()  # type: ignore[attr-defined]
    return digest.map_batches(_uuid_texts, return_dtype=pl.String)  # type: ignore[no-any-return]


def _uuid_texts(digests: pl.Series) -> pl.Series:
    digits = pl.col(digests.name).str
    variant = digits.slice(16, 1).replace_strict(list("0123456789abcdef"), list("89ab" * 4), return_dtype=pl.String)
    parts = [digits.slice(8, 4), pl.concat_str(pl.lit("3"), digits.slice(13, 3))]
    last = [pl.concat_str(variant, digits.slice(17, 3)), digits.slice(20, 12)]
    return digests.to_frame().select(pl.concat_str(digits.slice(0, 8), *parts, *last, separator="-")).to_series()


def _form_encoded(name: str) -> pl.Expr:
    """The column as S3 writes keys in notifications: form-encoded UTF-8, space as +, "/" as it is."""
    encoded = _unless_ascii(name, _percent_encoded).str.replace_many(_NEEDLESS_PERCENTS)
    return pl.when(_is_ascii(name)).then(pl.col(name).str.replace_many(_FORM_ESCAPES)).otherwise(encoded)


def _percent_encoded(text: str) -> str:
    # Every byte, which takes a sixth of quote_plus's time; what needn't be is turned back by one expression.
    return "%" + text.encode().hex("%").upper()


def _json_escaped(name: str) -> pl.Expr:
    """The column as JSON strings in ASCII without their quotes; null stays null."""
    escaped = _unless_ascii(name, lambda text: json.dumps(text)[1:-1])
    return pl.when(_is_ascii(name)).then(pl.col(name).str.replace_many(_JSON_ESCAPES)).otherwise(escaped)


def _or_null(content: pl.Expr) -> pl.Expr:
    """JSON strings of their content; null is JSON's null."""
    return pl.concat_str(pl.lit('"'), content, pl.lit('"')).fill_null("null")


def _is_ascii(name: str) -> pl.Expr:
    return pl.col(name).str.len_bytes() == pl.col(name).str.len_chars()


def _unless_ascii(name: str, convert: Callable[[str], str]) -> pl.Expr:
    """convert(text), called only where the column isn't ASCII; null elsewhere."""
    return pl.when(~_is_ascii(name)).then(pl.col(name)).map_elements(convert, return_dtype=pl.String)
