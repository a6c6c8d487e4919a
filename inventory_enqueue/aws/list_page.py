"""How a page of ListObjectsV2 is read: bytes to Arrow columns. Pure.

Stores write it in many ways, AWS in one: a regular expression for that way reads a page in a tenth of an XML parser's
time, and another one reads an object's elements in any order.
https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html#API_ListObjectsV2_ResponseSyntax
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote_to_bytes

import pyarrow as pa

_FIELDS: list["pa.Field[Any]"] = [
    pa.field("key", pa.string()),
    pa.field("size", pa.int64()),
    pa.field("e_tag", pa.string()),
    pa.field("last_modified_date", pa.timestamp("ms", tz="UTC")),
    pa.field("storage_class", pa.string()),
]
PAGE_SCHEMA: Final = pa.schema(_FIELDS)
"""Of a page's rows: types and names as in OBJECT_SCHEMA. What an object's element lacks is null."""

_QUOTE: Final = rb"(?:&quot;|&#34;|\")?"
_ROW: Final = re.compile(
    rb"<Contents>\s*<Key>([^<]+)</Key>\s*<LastModified>([^<]*)</LastModified>\s*"
    rb"<ETag>" + _QUOTE + rb"([^<&\"]*)" + _QUOTE + rb"</ETag>\s*"
    rb"(?:<Checksum(?:Algorithm|Type)>[^<]*</Checksum(?:Algorithm|Type)>\s*)*"
    rb"<Size>([0-9]+)</Size>\s*(?:<StorageClass>([^<]*)</StorageClass>\s*)?</Contents>"
)
"""As AWS writes an object, and most stores."""
_OBJECT: Final = re.compile(rb"<Contents>(.*?)</Contents>", re.DOTALL)
_ELEMENT: Final = re.compile(rb"<(Key|LastModified|ETag|Size|StorageClass)(?:\s[^>]*)?>([^<]*)</\1\s*>")
_NAMES: Final = (b"Key", b"LastModified", b"ETag", b"Size", b"StorageClass")
_ENCODED: Final = re.compile(rb"<EncodingType>\s*url\s*</EncodingType>")
_TRUNCATED: Final = re.compile(rb"<IsTruncated>\s*(true|false)\s*</IsTruncated>", re.IGNORECASE)
_TOKEN: Final = re.compile(rb"<NextContinuationToken>([^<]*)</NextContinuationToken>")
_PREFIX: Final = re.compile(rb"<CommonPrefixes>\s*<Prefix>([^<]*)</Prefix>\s*</CommonPrefixes>")
_ERROR: Final = re.compile(rb"<Error[\s>]")
_CODE: Final = re.compile(rb"<Code>([^<]*)</Code>")
_MESSAGE: Final = re.compile(rb"<Message>([^<]*)</Message>")
_END: Final = b"</ListBucketResult>"
_BYTES: Final = {code.encode(): bytes([value]) for value in range(256) for code in {f"{value:02X}", f"{value:02x}"}} | {
    code.encode(): bytes.fromhex(code) for low in "abcdef" for high in "ABCDEF" for code in (high + low, low + high)
}
"""A byte by its two hex digits: S3 writes upper ones, others may mix them."""
_FEW: Final = 32
"""Different escapes that are replaced one after the other: more are dearer than a pass over all of them."""
_RAW_LINE: Final = frozenset({b"0A", b"0a"})

_Row = Sequence[bytes | None]


class BrokenPageError(Exception):
    """The answer isn't a whole page: it is to be asked for again."""

    def __init__(self, message: str, code: str = "") -> None:
        """Makes it.

        Args:
            message: What is wrong.
            code: Of the error that S3 sent with status 200.
        """
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Page:
    """A page of a listing."""

    keys: list[str]
    """In the store's order."""
    rows: pa.RecordBatch
    """Of PAGE_SCHEMA, in the same order."""
    prefixes: list[str]
    """Common prefixes, where the request had a delimiter."""
    is_truncated: bool
    """Whether there is more: a page may hold fewer keys than it could, or none, and still not be the last."""
    token: str
    """Of the next page; "" where there is none."""


def parse_page(body: bytes) -> Page:
    """Reads an answer with status 200.

    Raises:
        BrokenPageError: It is an error, which S3 can send after its status, or cut, or no listing.
    """
    if not body.endswith(_END) and not body.rstrip().endswith(_END):
        if _ERROR.search(body[:1000]):
            code, message = parse_error(body)
            raise BrokenPageError(f"{code}: {message}", code)
        raise BrokenPageError(f"an answer of {len(body):,} bytes without its end")
    columns = _columns(body)
    is_encoded = _ENCODED.search(body) is not None
    keys = _texts(columns[0], is_encoded=is_encoded)
    truncated = _TRUNCATED.search(body)
    token = _TOKEN.search(body)
    return Page(
        keys=keys,
        rows=_rows(keys, *columns[1:]),
        prefixes=_texts(_PREFIX.findall(body), is_encoded=is_encoded),
        is_truncated=truncated[1].lower() == b"true" if truncated else token is not None,
        token=unescape_xml(token[1].decode()) if token else "",
    )


def parse_error(body: bytes) -> tuple[str, str]:
    """An error's code and message; "" where the body has none, as that of a proxy.

    https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
    """
    code, message = _CODE.search(body), _MESSAGE.search(body)
    texts = (unescape_xml(found[1].decode(errors="replace")) if found else "" for found in (code, message))
    return next(texts), next(texts)


def _columns(body: bytes) -> list[Sequence[Any]]:
    """Each object's key, time, ETag, size and storage class as they are written; b"" or None for what it lacks."""
    count = body.count(b"<Contents>")
    rows: list[_Row] = _ROW.findall(body)
    if len(rows) != count:
        rows = [_row(element) for element in _OBJECT.findall(body)]
        if len(rows) != count:
            raise BrokenPageError("an object's element without its end")
    return list(zip(*rows, strict=True)) if rows else [()] * len(_NAMES)


def _row(element: bytes) -> _Row:
    found: dict[bytes, bytes] = dict(_ELEMENT.findall(element))
    if not found.get(b"Key"):
        raise BrokenPageError("an object without a key")
    if b"ETag" in found:
        found[b"ETag"] = unescape_xml(found[b"ETag"].decode()).strip().strip('"').encode()
    for name in (b"LastModified", b"Size", b"StorageClass"):
        if name in found:
            found[name] = found[name].strip()
    return [found.get(name) for name in _NAMES]


def _texts(values: Sequence[bytes], *, is_encoded: bool) -> list[str]:
    """Keys or prefixes, decoded exactly once and strictly.

    Raises:
        BrokenPageError: One is no UTF-8, or isn't encoded as the page says.
    """
    if not values:
        return []
    joined = b"\n".join(values)
    try:
        if b"&" in joined:
            values = [unescape_xml(value.decode()).encode() for value in values]
            joined = b"\n".join(values)
        if is_encoded and (b"%" in joined or b"+" in joined):
            joined, values = _unquoted(joined, values)
        texts = joined.decode().split("\n")
        # A key may hold a newline itself.
        return texts if len(texts) == len(values) else [value.decode() for value in values]
    except UnicodeDecodeError as error:
        raise BrokenPageError(f"a key that is no UTF-8: {error}") from error


def _unquoted(joined: bytes, values: Sequence[bytes]) -> tuple[bytes, Sequence[bytes]]:
    """Encoded texts without escapes, joined and, where an escape is that of a newline, one by one."""
    codes = {piece[:2] for piece in joined.split(b"%")[1:]}
    if not codes <= _BYTES.keys():
        raise BrokenPageError("a key that isn't URL-encoded, though the answer says so")
    if codes & _RAW_LINE:
        values = [unquote_to_bytes(value.replace(b"+", b" ")) for value in values]
        return b"\n".join(values), values
    joined = joined.replace(b"+", b" ")
    if len(codes) > _FEW:
        return unquote_to_bytes(joined), values
    # Each % begins an escape, so none is found where there is none; a % itself comes last, for it would begin another.
    for code in sorted(codes, key=b"25".__eq__):
        joined = joined.replace(b"%" + code, _BYTES[code])
    return joined, values


_ENTITY: Final = re.compile(r"&(?:(amp|lt|gt|quot|apos)|#([0-9]+)|#[xX]([0-9A-Fa-f]+));")
_ENTITIES: Final = {"amp": "&", "lt": "<", "gt": ">", "quot": '"', "apos": "'"}


def unescape_xml(text: str) -> str:
    """A text without XML's five entities and character references, which html's function changes below 160."""

    def character(match: re.Match[str]) -> str:
        name, decimal, hexadecimal = match.groups()
        return _ENTITIES[name] if name else chr(int(decimal) if decimal else int(hexadecimal, 16))

    return _ENTITY.sub(character, text)


def _rows(
    keys: list[str], times: Sequence[Any], e_tags: Sequence[Any], sizes: Sequence[Any], classes: Sequence[Any]
) -> pa.RecordBatch:
    """The columns in their types, all values of one at a time.

    Raises:
        BrokenPageError: A size is no number, or a time no time.
    """
    try:
        arrays: list[pa.Array[Any]] = [
            pa.array(keys, pa.string()),
            _text(sizes).cast(pa.int64()),
            _text(e_tags),
            _times(_text(times)),
            _text(classes),
        ]
    except pa.ArrowInvalid as error:
        raise BrokenPageError(str(error).splitlines()[0][:200]) from error
    return pa.RecordBatch.from_arrays(arrays, schema=PAGE_SCHEMA)


def _text(values: Sequence[Any]) -> "pa.Array[Any]":
    if b"" in values:
        values = [value or None for value in values]
    return pa.array(values, pa.binary()).cast(pa.string())


def _times(texts: "pa.Array[Any]") -> "pa.Array[Any]":
    """ISO 8601 in UTC: AWS writes milliseconds, others nanoseconds, which are cut off."""
    kind = PAGE_SCHEMA.field("last_modified_date").type
    try:
        return texts.cast(kind)
    except pa.ArrowInvalid:
        return texts.cast(pa.timestamp("ns", tz="UTC")).cast(kind, safe=False)
