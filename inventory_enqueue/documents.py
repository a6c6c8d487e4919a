"""The JSON files of a state: each carries format_version, and a newer one than this version knows is refused."""

import json
from collections.abc import Callable
from typing import Any, Final, TypeVar

from inventory_enqueue.errors import IntegrityError, NewerFormatError

FORMAT_VERSION: Final = 1

T = TypeVar("T")


def encode(document: dict[str, Any]) -> bytes:
    """A state file's bytes."""
    return (json.dumps({"format_version": FORMAT_VERSION, **document}, indent=1) + "\n").encode()


def encode_line(document: dict[str, Any]) -> bytes:
    """One line of a log that starts with, or consists of, such documents."""
    return (json.dumps({"format_version": FORMAT_VERSION, **document}) + "\n").encode()


def parse(data: bytes, build: Callable[[dict[str, Any]], T], *, where: str) -> T:
    """Reads a state file's bytes, or a line of a log.

    Args:
        data: JSON.
        build: Makes a value of the document; raises KeyError, TypeError or ValueError if that can't be done.
        where: The file, for errors.

    Raises:
        NewerFormatError: A newer version of this program wrote it.
        IntegrityError: It is no such file, or it is damaged.
    """
    try:
        document = json.loads(data)
        version = document["format_version"]
        if version == FORMAT_VERSION:
            return build(document)
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError) as error:
        raise damaged(where) from error
    raise NewerFormatError(
        f"its format_version is {str(version)[:20]}, this version knows {FORMAT_VERSION}: a newer inventory-enqueue "
        "wrote it; upgrade this one",
        where=where,
    )


def damaged(where: str) -> IntegrityError:
    """The error for a state file that holds something else than it should."""
    return IntegrityError(
        "this is no state file of inventory-enqueue, or it is damaged: restore it from a backup, or name another "
        "--state",
        where=where,
    )
