"""Messages as plain Python makes them, one row at a time: what the bulk expressions are compared with."""

from __future__ import annotations

import json
import math
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote_plus

import polars as pl
import pyarrow as pa

from inventory_enqueue.config import MessageFormat
from inventory_enqueue.messages import MESSAGE_COLUMNS, MessageContext, bodies
from inventory_enqueue.schema import OBJECT_SCHEMA

if TYPE_CHECKING:
    from collections.abc import Mapping

CREATED: Final = datetime(2026, 11, 24, 1, tzinfo=UTC)
MODIFIED: Final = datetime(2026, 11, 23, 12, 34, 56, 789000, tzinfo=UTC)
CONTEXT: Final = MessageContext("a-bucket", "eu-west-1", "20261124T010000Z-00000000", CREATED)
ROW: Final[Mapping[str, Any]] = {
    "key": "logs/2026/part-0001.json.gz",
    "version_id": None,
    "size": 42,
    "last_modified_date": MODIFIED,
    "e_tag": "9b2cf535f27731c974343645a3985328",
    "change": "new",
}
_FIELDS: Final = [OBJECT_SCHEMA.field(name) for name in MESSAGE_COLUMNS]
_SCHEMA: Final = pl.Schema(pa.schema([*_FIELDS, pa.field("change", pa.string())]))


def frame(*rows: Mapping[str, Any]) -> pl.DataFrame:
    """Rows as the functions for messages take them; what a row lacks is taken from ROW."""
    return pl.DataFrame([{**ROW, **row} for row in rows], schema=_SCHEMA)


def build(message_format: MessageFormat, *keys: str, **values: Any) -> list[str]:  # noqa: ANN401 - any column's value
    """Make the messages of these keys; the other columns are the same for all."""
    return bodies(frame(*({**values, "key": key} for key in keys)), message_format, CONTEXT).to_list()


def reference(row: Mapping[str, Any], message_format: MessageFormat, context: MessageContext = CONTEXT) -> str:
    """Make one row's record."""
    if message_format is MessageFormat.KEY:
        return str(row["key"])
    documents = {
        MessageFormat.S3_EVENT: _s3_event,
        MessageFormat.EVENTBRIDGE: _eventbridge,
        MessageFormat.JSON: _json,
    }
    return json.dumps(documents[message_format](row, context), separators=(",", ":"))


def _s3_event(row: Mapping[str, Any], context: MessageContext) -> dict[str, Any]:
    content = {} if _is_deleted(row) else {"size": row["size"] or 0, "eTag": row["e_tag"] or ""}
    version = {} if row["version_id"] is None else {"versionId": row["version_id"]}
    return {
        "eventVersion": "2.1",
        "eventSource": "aws:s3",
        "awsRegion": context.source_region,
        "userIdentity": {"principalId": "-"},
        "requestParameters": {"sourceIPAddress": "127.0.0.1"},
        "responseElements": {"x-amz-request-id": context.run_id, "x-amz-id-2": "-"},
        "s3": {
            "s3SchemaVersion": "1.0",
            "configurationId": "inventory-enqueue",
            "bucket": {
                "name": context.bucket,
                "ownerIdentity": {"principalId": "-"},
                "arn": f"arn:aws:s3:::{context.bucket}",
            },
            "object": {
                "key": quote_plus(row["key"], safe="/"),
                **content,
                **version,
                "sequencer": _sequencer(row, context),
            },
        },
        "eventName": "ObjectRemoved:Delete" if _is_deleted(row) else "ObjectCreated:Put",
        "eventTime": _iso(context.now or _moment(row, context), "milliseconds"),
    }


def _eventbridge(row: Mapping[str, Any], context: MessageContext) -> dict[str, Any]:
    content = {} if _is_deleted(row) else {"size": row["size"] or 0, "etag": row["e_tag"] or ""}
    version = {} if row["version_id"] is None else {"version-id": row["version_id"]}
    deletion = {"reason": "DeleteObject", "deletion-type": "Permanently Deleted"}
    identity = [context.run_id, context.bucket, row["change"], row["version_id"] or "", row["e_tag"] or "", row["key"]]
    return {
        "version": "0",
        "id": str(uuid.uuid3(uuid.UUID(bytes=b"inventoryenqueue"), "\n".join(identity))),
        "detail-type": "Object Deleted" if _is_deleted(row) else "Object Created",
        "source": "aws.s3",
        "account": "000000000000",
        "time": _iso(context.now or _moment(row, context), "seconds"),
        "region": context.source_region,
        "resources": [f"arn:aws:s3:::{context.bucket}"],
        "detail": {
            "version": "0",
            "bucket": {"name": context.bucket},
            "object": {"key": row["key"], **content, **version, "sequencer": _sequencer(row, context)},
            "request-id": context.run_id,
            "requester": "inventory-enqueue",
            "source-ip-address": "127.0.0.1",
            **(deletion if _is_deleted(row) else {"reason": "PutObject"}),
        },
    }


def _json(row: Mapping[str, Any], context: MessageContext) -> dict[str, Any]:
    modified = row["last_modified_date"]
    return {
        "schema_version": 1,
        "change": row["change"],
        "bucket": context.bucket,
        "key": row["key"],
        "version_id": row["version_id"],
        "size": row["size"],
        "e_tag": row["e_tag"],
        "last_modified_date": None if modified is None else _iso(modified, "milliseconds"),
        "run_id": context.run_id,
    }


def _is_deleted(row: Mapping[str, Any]) -> bool:
    return bool(row["change"] == "deleted")


def _moment(row: Mapping[str, Any], context: MessageContext) -> datetime:
    moment = context.created if _is_deleted(row) else row["last_modified_date"] or context.created
    assert isinstance(moment, datetime)
    return moment


def _iso(moment: datetime, timespec: str) -> str:
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec=timespec) + "Z"


def _sequencer(row: Mapping[str, Any], context: MessageContext) -> str:
    seconds = math.floor(_moment(row, context).timestamp())
    return f"00{min(max(seconds, 0), 0xFFFFFFFF):08X}00000000"
