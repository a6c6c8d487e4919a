"""A synthetic bucket, day by day, that takes no memory: each object is a function of its number and the seed.

The live objects of a day are a range of numbers: a day deletes the lowest ones, adds new ones at the top, and rewrites
a slice in the middle that no other day touches. All that is visible of an object comes from hashes of its number, so
nothing in keys, sizes or dates betrays that order; and the order of a listing is a permutation, another one each day.
"""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property

import polars as pl
import polars_hash as plh

FIRST_DELIVERY = datetime(2026, 3, 2, 1, 0, tzinfo=UTC)
HISTORY_HOURS = 365 * 24
MAX_DAYS = 60
MAX_OBJECTS = 2**31  # the shuffle multiplies two numbers below the count: their product has to fit 64 bits

_ODD_SOURCES = (
    "web access",
    "c++ build",
    "100% sampled",
    "café & bar",
    "東京-リージョン",
    "q=1;r#2?",
    "naïve/🪣 emoji",
)
_PLAIN_SOURCES = tuple(
    "-".join((app, tier, region)[:parts])
    for app in ("api", "checkout", "clickstream-enriched", "cdn", "fraud-detection-model-inference", "iot-gateway")
    for parts, tier, region in (
        (1, "", ""),
        (2, "prod", ""),
        (3, "staging", "eu-central-1"),
        (3, "prod", "us-east-1"),
        (3, "canary-release", "ap-southeast-2"),
    )
)
_SOURCES = pl.Series(_PLAIN_SOURCES * 8 + _ODD_SOURCES)


@dataclass(frozen=True)
class Bucket:
    """A bucket whose objects, changes and listings are all computed from a seed.

    Args:
        name: The bucket's name.
        objects: Objects on day 1.
        seed: Other seeds give other keys, contents and orders.
        new_ratio: Objects that a day adds, as a share of `objects`.
        changed_ratio: Objects that a day overwrites, as a share of `objects`.
        deleted_ratio: Objects that a day deletes, as a share of `objects`.
    """

    name: str
    objects: int
    seed: int = 1
    new_ratio: float = 0.01
    changed_ratio: float = 0.005
    deleted_ratio: float = 0.003

    def __post_init__(self) -> None:
        """Refuse sizes that the arithmetic can't hold."""
        if not 0 < self.objects <= MAX_OBJECTS:
            raise ValueError(f"objects: {self.objects} is not within 1 and {MAX_OBJECTS}")

    @property
    def last_day(self) -> int:
        """The last day that can be told: deletions and changes have to stay in their own halves of the first day."""
        busiest = max(self._changed, self._deleted)
        return min(MAX_DAYS, 1 + self.objects // 2 // busiest) if busiest else MAX_DAYS

    def created(self, day: int) -> datetime:
        """When the delivery of a day was begun (its folder's label), with day 1 as the first."""
        return FIRST_DELIVERY + timedelta(days=self._checked(day) - 1)

    def rows(self, day: int) -> int:
        """The number of objects on a day."""
        return len(self._live(day))

    def new(self, day: int) -> range:
        """The numbers of the objects that a day lists and the day before doesn't; on day 1 all of them."""
        return self._live(day) if day == 1 else range(self._live(day - 1).stop, self._live(day).stop)

    def changed(self, day: int) -> range:
        """The numbers of the objects that were overwritten since the day before."""
        start = self._changes_start + self._changed * (self._checked(day) - 2)
        return range(0) if day == 1 else range(start, start + self._changed)

    def deleted(self, day: int) -> range:
        """The numbers of the objects that the day before listed and this day doesn't."""
        return range(0) if day == 1 else range(self._live(day - 1).start, self._live(day).start)

    def keys(self, numbers: range) -> pl.Series:
        """The keys of objects by number; slice the range to keep the memory bounded."""
        frame = pl.select(number=pl.int_range(numbers.start, numbers.stop, dtype=pl.UInt64))
        return frame.with_columns(hash=self._hash()).select(key=self._key()).to_series()

    def new_keys(self, day: int) -> pl.Series:
        """The keys of `new(day)`."""
        return self.keys(self.new(day))

    def changed_keys(self, day: int) -> pl.Series:
        """The keys of `changed(day)`."""
        return self.keys(self.changed(day))

    def deleted_keys(self, day: int) -> pl.Series:
        """The keys of `deleted(day)`."""
        return self.keys(self.deleted(day))

    def frame(self, day: int, start: int, stop: int) -> pl.DataFrame:
        """The rows of a day's listing from position `start` up to, without, `stop`, in the columns of S3 Inventory."""
        stop = min(stop, self.rows(day))
        numbers = pl.select(number=self._number_at(day, start, stop))
        hashed = numbers.with_columns(hash=self._hash(), version=self._version(day))
        return hashed.select(
            bucket=pl.lit(self.name),
            key=self._key(),
            size=((pl.col("hash") // 2**33) % 2**23 + pl.col("version")).cast(pl.Int64),
            last_modified_date=self._last_modified(),
            e_tag=self._hex("/v", pl.col("version")).str.slice(0, 32),
            storage_class=pl.when(pl.col("hash") // 2**57 % 8 == 0)
            .then(pl.lit("STANDARD_IA"))
            .otherwise(pl.lit("STANDARD")),
            is_multipart_uploaded=pl.lit(value=False),
            replication_status=pl.lit(None, dtype=pl.String),
            encryption_status=pl.lit("SSE-S3"),
        )

    def files(self, day: int, rows_per_file: int, rows_per_group: int = 250_000) -> Iterator[Iterator[pl.DataFrame]]:
        """A day's listing cut into data files, and those into row groups, each computed when it is asked for."""
        for start in range(0, self.rows(day), rows_per_file):
            yield self._groups(day, range(start, min(start + rows_per_file, self.rows(day))), rows_per_group)

    @property
    def _new(self) -> int:
        return round(self.objects * self.new_ratio)

    @property
    def _changed(self) -> int:
        return round(self.objects * self.changed_ratio)

    @property
    def _deleted(self) -> int:
        return round(self.objects * self.deleted_ratio)

    @property
    def _changes_start(self) -> int:
        return self.objects // 2

    @cached_property
    def _hours(self) -> pl.Series:
        start = FIRST_DELIVERY - timedelta(hours=HISTORY_HOURS)
        stop = FIRST_DELIVERY + timedelta(days=MAX_DAYS)
        return pl.datetime_range(start, stop, "1h", eager=True).dt.strftime("dt=%Y-%m-%d/hr=%H")

    def _groups(self, day: int, positions: range, rows_per_group: int) -> Iterator[pl.DataFrame]:
        for start in positions[::rows_per_group]:
            yield self.frame(day, start, min(start + rows_per_group, positions.stop))

    def _checked(self, day: int) -> int:
        if not 1 <= day <= self.last_day:
            raise ValueError(f"day: {day} is not within 1 and {self.last_day}")
        return day

    def _live(self, day: int) -> range:
        past = self._checked(day) - 1
        return range(self._deleted * past, self.objects + self._new * past)

    def _number_at(self, day: int, start: int, stop: int) -> pl.Expr:
        """The object numbers at these positions: (step * position + offset) modulo count is a bijection if gcd is 1."""
        live = self._live(day)
        step, offset = self._shuffle(day)
        position = pl.int_range(start, stop, dtype=pl.UInt64)
        return (position * step + offset) % len(live) + live.start

    def _shuffle(self, day: int) -> tuple[int, int]:
        count = self.rows(day)
        random = int.from_bytes(hashlib.blake2b(f"{self.seed}/order/{day}".encode(), digest_size=8).digest())
        # A step of about half the count: neighbours in a file are far apart in number.
        step = max(1, count // 3 + random % max(1, count // 3))
        while math.gcd(step, count) != 1:
            step += 1
        return step, random % count

    def _hash(self) -> pl.Expr:
        return plh.concat_str(pl.col("number")).nchash.xxh3_64(seed=self.seed)

    def _hex(self, *salt: pl.Expr | str) -> pl.Expr:
        """64 hex digits for each object."""
        parts = [pl.lit(part) if isinstance(part, str) else part.cast(pl.String) for part in salt]
        return plh.concat_str(pl.lit(f"{self.seed}/"), pl.col("number").cast(pl.String), *parts).chash.blake3()

    def _hour(self) -> pl.Expr:
        """The hour of an object's creation, counted from the start of the history."""
        born = (pl.col("number") - self.objects) // max(1, self._new)
        within = pl.col("hash") // 2**7
        return (
            pl.when(pl.col("number") < self.objects)
            .then(within % HISTORY_HOURS)
            .otherwise(HISTORY_HOURS + born * 24 + within % 24)
        )

    def _key(self) -> pl.Expr:
        return pl.concat_str(
            pl.lit("logs/"),
            pl.lit(_SOURCES).gather(pl.col("hash") % len(_SOURCES)),
            pl.lit("/"),
            pl.lit(self._hours).gather(self._hour()),
            pl.lit("/part-"),
            self._hex().str.slice(0, 16 + pl.col("hash") // 2**60 * 2),
            pl.lit(".json.gz"),
        )

    def _version(self, day: int) -> pl.Expr:
        """How often the object was overwritten up to a day: 0 or 1."""
        touched = range(self._changes_start, self.changed(day).stop)
        return pl.col("number").is_between(touched.start, touched.stop, closed="left").cast(pl.UInt64)

    def _last_modified(self) -> pl.Expr:
        created = self._hour() * 3600 + pl.col("hash") // 2**20 % 3600
        change_day = (pl.col("number") - self._changes_start) // max(1, self._changed)
        changed = (HISTORY_HOURS + change_day * 24) * 3600 + pl.col("hash") // 2**20 % 86_400
        seconds = pl.when(pl.col("version") == 0).then(created).otherwise(changed)
        start = int((FIRST_DELIVERY - timedelta(hours=HISTORY_HOURS)).timestamp())
        return ((seconds + start) * 1000).cast(pl.Int64).cast(pl.Datetime("ms", "UTC"))
