"""The fingerprint of an object row: what an index holds instead of the row, and how it is computed.

A fingerprint is (h, k, f, row), 28 bytes:

| column | type | content |
|---|---|---|
| h | uint64 | xxh3_64 of the identity; its top bits choose the partition |
| k | uint32 | 32 more bits of the identity, under another seed |
| f | uint64 | xxh3_64 of e_tag, XOR size: what "changed" looks at |
| row | uint64 | bit 63: admitted by the filters; bits 36 to 62: number of the data file; 0 to 35: row in the file |

The identity is the key, or (key, version_id): then h and k are hashes of the key, XOR hashes of the version. f takes a
null e_tag as "" and a null size as 2^64 - 1; e_tag alone is hashed, since XOR with the size can't collide for one
e_tag, and is as random as the hash for two. So a change of the size alone is never missed, and one of the e_tag with
probability 2^-64.

The hash is xxh3 from polars-hash, since polars' own Expr.hash changes between its versions and an index outlives them.
xxh3 isn't safe against chosen input, so each state has random seeds.
"""

import secrets
from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Final

import polars as pl
import polars_hash  # noqa: F401 - gives expressions the namespace nchash

from inventory_enqueue.errors import IntegrityError

SCHEME_ID: Final = "xxh3-1"
"""Names the whole computation above; any change to it is another scheme."""

FINGERPRINT_SCHEMA: Final = pl.Schema({"h": pl.UInt64, "k": pl.UInt32, "f": pl.UInt64, "row": pl.UInt64})

CONTENT_COLUMNS: Final = ("e_tag", "size")
"""What f looks at, as far as an inventory has it."""

ADMITTED_BIT: Final = 1 << 63
FILE_SHIFT: Final = 36
MAX_FILES: Final = 1 << (63 - FILE_SHIFT)
MAX_ROWS_PER_FILE: Final = 1 << FILE_SHIFT

_IDENTITY_BITS: Final = 64
_KEPT_OF_K: Final = 1 << 32
FACTORS: Final = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9)
"""Odd, so that a product with one of them is another number for each number."""
_NO_SIZE: Final = (1 << 64) - 1
_GOLDEN_ROWS: Final = pl.DataFrame(
    {
        "key": ["", "a", "logs/2026/11/24/part-0001.json.gz", "é\u0000\U0001f600 +%", "k" * 1024],
        "version_id": [None, "", "3sL4kqtJlcpXroDTDmJ.rmSpXd3dIbrHY", "v", "0"],
        "e_tag": [None, "", "d41d8cd98f00b204e9800998ecf8427e", "9b2cf535f27731c974343645a3985328-12", "e"],
        "size": [None, 0, 1, 5_497_558_138_880, 4096],
    },
    schema={"key": pl.String, "version_id": pl.String, "e_tag": pl.String, "size": pl.Int64},
)


class Versions(StrEnum):
    """What an identity is."""

    CURRENT = "current"
    """The key: of each, the live version."""
    ALL = "all"
    """(key, version_id): every version that is no delete marker."""


def _seed() -> int:
    return secrets.randbits(64)


@dataclass(frozen=True)
class Scheme:
    """How a state's fingerprints are computed: kept in each index, and taken over by the runs that follow."""

    seed_h: int = field(default_factory=_seed)
    seed_k: int = field(default_factory=_seed)
    seed_f: int = field(default_factory=_seed)
    seed_v: int = field(default_factory=_seed)
    identity_bits: int = _IDENTITY_BITS
    """How many top bits of h are kept: 64, fewer only in tests that force collisions of h."""
    id: str = SCHEME_ID

    def expressions(
        self, versions: Versions = Versions.CURRENT, content_columns: Collection[str] = CONTENT_COLUMNS
    ) -> list[pl.Expr]:
        """Gives h, k and f as expressions over identity_columns(versions) and content_columns."""
        h, k = _xxh3_64(pl.col("key"), self.seed_h), _xxh3_64(pl.col("key"), self.seed_k)
        if versions is Versions.ALL:
            version = pl.col("version_id").fill_null("")
            h, k = h ^ _xxh3_64(version, self.seed_v), k ^ _xxh3_64(version, self.seed_k)
        if self.identity_bits < _IDENTITY_BITS:
            step = 1 << (_IDENTITY_BITS - self.identity_bits)
            h = h // step * step
        f = pl.col("size").cast(pl.UInt64).fill_null(pl.lit(_NO_SIZE, pl.UInt64))
        if "size" not in content_columns:
            f = pl.lit(_NO_SIZE, pl.UInt64)
        e_tag = pl.col("e_tag").fill_null("") if "e_tag" in content_columns else pl.lit("")
        return [
            h.alias("h"),
            (k % _KEPT_OF_K).cast(pl.UInt32).alias("k"),
            (_xxh3_64(e_tag, self.seed_f) ^ f).alias("f"),
        ]

    def golden(self) -> list[list[int]]:
        """h, k and f of fixed rows under these seeds: they tell whether this machine hashes as another did."""
        return [
            list(row) for versions in Versions for row in _GOLDEN_ROWS.select(self.expressions(versions)).iter_rows()
        ]

    def to_json(self) -> dict[str, Any]:
        """As meta.json and run.json hold it."""
        return {**asdict(self), "golden": self.golden()}

    @classmethod
    def from_json(cls, document: dict[str, Any], *, where: str) -> "Scheme":
        """Reads what to_json wrote, and proves that this machine computes the same fingerprints.

        Raises:
            IntegrityError: It is another scheme, or the golden vector differs.
        """
        if document["id"] != SCHEME_ID:
            raise IntegrityError(
                f"the fingerprint scheme is {document['id']!r}, this version knows {SCHEME_ID!r}: use the version that "
                "wrote it, or start a new baseline with another --pipeline or --state",
                where=where,
            )
        scheme = cls(
            document["seed_h"], document["seed_k"], document["seed_f"], document["seed_v"], document["identity_bits"]
        )
        if scheme.golden() != document["golden"]:
            raise IntegrityError(
                "this machine computes other fingerprints than the one that wrote this (the golden vectors differ): "
                "install the version of polars-hash that was used then",
                where=where,
            )
        return scheme


def _xxh3_64(text: pl.Expr, seed: int) -> pl.Expr:
    # polars-hash hangs its namespace on every expression, where no type checker sees it.
    return text.nchash.xxh3_64(seed=seed)  # type: ignore[attr-defined,no-any-return]


def checksum(fingerprints: pl.DataFrame) -> str:
    """64 bits over a frame of FINGERPRINT_SCHEMA, in hex, whatever the order of its rows: tells damaged ones.

    The sum of a product of each row's values: four times as fast as a hash over the bytes, and enough against decay. It
    is no protection against somebody who forges rows.
    """
    a, b, c = (pl.lit(factor, pl.UInt64) for factor in FACTORS)
    row = (pl.col("h") * a + pl.col("k").cast(pl.UInt64)) ^ (pl.col("f") * b + pl.col("row"))
    return f"{fingerprints.select((row * c).sum()).item():016x}"


def identity_columns(versions: Versions) -> tuple[str, ...]:
    """The columns that an identity is made of."""
    return ("key",) if versions is Versions.CURRENT else ("key", "version_id")


def row_base(file_number: int) -> int:
    """The row value of a data file's first row, not admitted."""
    return file_number << FILE_SHIFT


def partition(bits: int) -> pl.Expr:
    """The partition of a fingerprint: the top bits of h, as uint32."""
    return (pl.col("h") // (1 << (_IDENTITY_BITS - bits))).cast(pl.UInt32) if bits else pl.lit(0, pl.UInt32)


def position() -> pl.Expr:
    """The row column without its admitted bit: file number and row in the file."""
    return pl.col("row") % ADMITTED_BIT


def admitted() -> pl.Expr:
    """The row column's admitted bit, as a boolean."""
    return pl.col("row") >= ADMITTED_BIT
