"""Keys as buckets have them."""

from __future__ import annotations

import hashlib
import uuid
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

_TABLES: Final = ("clicks", "orders", "events", "users", "logs", "sessions", "payments", "audit")
_LETTERS: Final = (
    *"東京データ한국어🪣🚀é\U0010ffff\x01\x02+ %&<abcxyz09",
    *map(chr, range(0x4E00, 0x4F00)),
)


def _uuid(source: random.Random) -> str:
    return str(uuid.UUID(int=source.getrandbits(128), version=4))


def hive(count: int, source: random.Random) -> set[str]:
    """Tables of very different sizes, by day and hour."""
    weights = [1 / (rank + 1) ** 1.5 for rank in range(len(_TABLES))]
    keys: set[str] = set()
    while len(keys) < count:
        (table,), day = source.choices(_TABLES, weights), int(min(364, source.expovariate(1 / 60)))
        hour, part = source.randrange(24), source.randrange(200)
        folder = f"warehouse/{table}/dt=2024-{1 + day // 31:02d}-{1 + day % 31:02d}/hr={hour:02d}"
        keys.add(f"{folder}/part-{part:05d}-{_uuid(source)}.c000.snappy.parquet")
    return keys


def flathex(count: int, _: random.Random) -> set[str]:
    return {f"data/{hashlib.sha256(str(number).encode()).hexdigest()}" for number in range(count)}


def flatseq(count: int, _: random.Random) -> set[str]:
    return {f"ids/{number:016d}" for number in range(count)}


def skew(count: int, source: random.Random) -> set[str]:
    """Half in one folder, half in a folder each."""
    return {f"big/{number:012d}.json" for number in range(count // 2)} | {
        f"users/{_uuid(source)}/a.json" for _ in range(count // 2)
    }


def unicode(count: int, source: random.Random) -> set[str]:
    keys: set[str] = set()
    while len(keys) < count:
        folder = source.choices(_LETTERS, k=source.randrange(1, 4))
        keys.add("".join([*folder, "/", *source.choices(_LETTERS, k=source.randrange(1, 12))]))
    return keys


LAYOUTS: Final[dict[str, Callable[[int, random.Random], set[str]]]] = {
    "hive": hive,
    "flathex": flathex,
    "flatseq": flatseq,
    "skew": skew,
    "unicode": unicode,
}
