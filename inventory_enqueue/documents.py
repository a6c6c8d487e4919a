"""The JSON files of a state: each carries format_version, and a newer one than this version knows is refused."""

import json
from typing import Any, Final

from inventory_enqueue.errors import IntegrityError

FORMAT_VERSION: Final = 1


def encode(document: dict[str, Any]) -> bytes:
    """A state file's bytes."""
    return (json.dumps({"format_version": FORMAT_VERSION, **document}, indent=1) + "\n").encode()


def encode_line(document: dict[str, Any]) -> bytes:
    """One line of a log that starts with, or consists of, such documents."""
    return (json.dumps({"format_version": FORMAT_VERSION, **document}) + "\n").encode()


def decode(data: bytes, *, where: str) -> dict[str, Any]:
    """Reads a state file's bytes.

    Raises:
        IntegrityError: It is no such file, or a newer version of this program wrote it.
    """
    try:
        document = json.loads(data)
        version = document["format_version"]
    except (ValueError, TypeError, KeyError) as error:
        raise IntegrityError(
            "this is no state file of inventory-enqueue, or it is damaged: restore it from a backup, or name another "
            "--state",
            where=where,
        ) from error
    if version != FORMAT_VERSION:
        raise IntegrityError(
            f"its format_version is {version}, this version knows {FORMAT_VERSION}: a newer inventory-enqueue wrote "
            "it; upgrade this one",
            where=where,
        )
    return dict(document)
