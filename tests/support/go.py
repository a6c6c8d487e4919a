"""The decoding rule of the Go consumers (Filebeat, OpenTelemetry, Redpanda Connect), written down in Python."""

import re

_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")
_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")


def query_unescape(text: str) -> bytes:
    """Decode an object key as Go's `url.QueryUnescape` does.

    The rules are those of `unescape(s, encodeQueryComponent)` in Go's src/net/url/url.go:

    - every "%" must be followed by two hex digits of either case, else the whole text is an `EscapeError`, whose
      message quotes the "%" and the at most two bytes after it: here a ValueError;
    - "%XX" becomes the byte 0xXX, whatever stands around it: the result needn't be UTF-8;
    - "+" becomes a space;
    - every other byte stays as it is, non-ASCII ones and control characters included; nothing is decoded twice.

    Python's `unquote_plus` is no stand-in: it keeps a bad "%" where Go refuses the text.
    """
    data = text.encode()
    if bad := _BAD_ESCAPE.search(data):
        escape = data[bad.start() : bad.start() + 3].decode(errors="replace")
        raise ValueError(f'invalid URL escape "{escape}"')
    return _ESCAPE.sub(lambda escape: bytes.fromhex(escape[1].decode()), data.replace(b"+", b" "))
