"""URL encoding of keys in form style, as CSV deliveries hold them: a space is `+`, `/` stays. Pure."""

import re
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote_to_bytes

import polars as pl
import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Sequence

_CHARACTERS: Final = [chr(code) for code in range(128)]
# Both cases of the hex digits: S3 writes upper ones, stores that write in its form may not.
_ESCAPES: Final = {f"%{ord(c):{form}}": c for c in _CHARACTERS for form in ("02X", "02x")} | {"+": " "}
_BAD_ESCAPE: Final = re.compile("%(?![0-9A-Fa-f]{2})")


def decode_keys(keys: "pa.Array[Any]") -> "tuple[pa.Array[Any], Sequence[int]]":
    """Decodes keys, exactly once and strictly.

    Args:
        keys: Strings, valid UTF-8; nulls stay null.

    Returns:
        The decoded keys, and the positions of those that can't be decoded (a bad escape, or bytes that are no UTF-8),
        which are null.
    """
    encoded = pl.Series("key", pl.from_arrow(keys), pl.String)
    decoded = encoded.str.replace_many(list(_ESCAPES), list(_ESCAPES.values()))
    # One pass over ASCII escapes shortens a key by two for each %. Where it didn't, there is another kind of escape.
    shortened = (encoded.str.len_bytes() - decoded.str.len_bytes()) // 2
    rest = (shortened != encoded.str.count_matches("%", literal=True)).fill_null(value=False).arg_true().to_list()
    undecodable = []
    if rest:
        slowly = {position: _decode(encoded[position]) for position in rest}
        undecodable = [position for position, key in slowly.items() if key is None]
        decoded = decoded.scatter(rest, list(slowly.values()))
    return decoded.to_arrow().cast(pa.string()), undecodable


def _decode(key: str) -> str | None:
    if _BAD_ESCAPE.search(key):
        return None
    try:
        return unquote_to_bytes(key.replace("+", " ")).decode()
    except UnicodeDecodeError:
        return None
