"""Object keys that have broken a tool somewhere: S3 allows any UTF-8 of 1 to 1,024 bytes."""

from typing import Final

MAX_KEY_BYTES: Final = 1024
"""The longest key that S3 takes, in bytes of UTF-8."""

_URL_ENCODING = (
    "with space.json",
    "two  spaces",
    " leading space",
    "trailing space ",
    "a+b",
    "a%20b",
    "100%",
    "%",
    "%zz",
    "a%2Bb+c d",
    "a&b",
    "a;b",
    "a#b",
    "a?b=c",
    "a=b",
    "~user/*.txt",
    "!$()@:,[]{}|^`",
)
_QUOTING = (
    '"',
    'say "hi".csv',
    "'",
    "it's",
    "\\",
    "back\\slash",
    "\\u0041",
    "<>",
    "<key>&amp;</key>",
    "comma,comma",
    "${HOME} $(id)",
)
_CONTROL = (
    "new\nline",
    "\n",
    "carriage\rreturn",
    "crlf\r\n",
    "tab\tbed",
    *(f"control-{code:02x}-{chr(code)}" for code in range(0x01, 0x20)),
    "delete-\x7f",
    "next-line-\x85",
    "line-separator-\u2028",
)
_UNICODE = (
    "emoji/🪣🚀.png",
    "family/👩‍👩‍👧‍👦",
    "replacement-\ufffd",
    "byte-order-mark-\ufeff",
    "noncharacter-\uffff",
    "highest-\U0010ffff",
    "before-surrogates-\ud7ff",
    "caf\u00e9",  # NFC
    "cafe\u0301",  # NFD: another key, though it looks the same
    "東京/データ/한국어",
    "עברית/العربية",
    "zero\u200bwidth",
)
_PATHS = (
    "/leading/slash",
    "//two/leading",
    "double//slash",
    "triple///slash",
    "folder/",
    "folder//",
    "/",
    "//",
    ".",
    "..",
    "a/./b",
    "a/../b",
    "../../etc/passwd",
    "./a",
)
_TYPES = ("0012", "12", "1e5", "0x10", "NULL", "null", "nan", "NaN", "N/A", "None", "true", "-", "\u0660")
_LENGTHS = (
    "x",
    "k" * MAX_KEY_BYTES,
    "é" * (MAX_KEY_BYTES // 2),
    " " * MAX_KEY_BYTES,
    "🪣" * (MAX_KEY_BYTES // 4),  # URL-encoded three times as long
)

ODD_KEYS: Final = (*_URL_ENCODING, *_QUOTING, *_CONTROL, *_UNICODE, *_PATHS, *_TYPES, *_LENGTHS)
"""All of them, each once."""
