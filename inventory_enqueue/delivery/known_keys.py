"""Keys that somebody handled already, from a file: Parquet, CSV with a header, or JSON Lines, with a column `key`.

A column `version_id` is read where versions count. Keys are taken as they are: nothing is URL-decoded.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import polars as pl

from inventory_enqueue.delivery.landing import Landing
from inventory_enqueue.errors import IntegrityError
from inventory_enqueue.uris import Location

_ROWS: Final = 262_144
_LINES_LOOKED_AT: Final = 1000
_SUFFIXES: Final = {".parquet": "parquet", ".csv": "csv", ".jsonl": "ndjson", ".ndjson": "ndjson", ".json": "ndjson"}
_SCHEMA: Final = {"key": pl.String, "version_id": pl.String}
MANIFEST: Final = "manifest.json"


def is_key_file(location: Location) -> bool:
    """Whether a location is, by its name, a file of keys; anything else is a delivery."""
    name = _name(location)
    return name != MANIFEST and any(name.endswith(suffix) for suffix in _SUFFIXES)


def read_known_keys(landing: Landing, location: Location, *, with_versions: bool) -> Iterator[pl.DataFrame]:
    """Streams the keys of a file.

    Args:
        landing: Fetches the file.
        location: A file for which is_key_file holds.
        with_versions: Whether version_id is needed.

    Yields:
        key and version_id, strings; a null version_id is the null version. Keys that are null or empty are left out.

    Raises:
        InventoryUnavailableError: It isn't there.
        IntegrityError: It can't be read, or a column is missing.
    """
    path = landing.fetch(location)
    columns = ["key", "version_id"] if with_versions else ["key"]
    try:
        _check_columns(path, _name(location), columns)
        for frame in (
            _scan(path, _name(location))
            .select(pl.col(columns).cast(pl.String))
            .collect_batches(chunk_size=_ROWS, maintain_order=False, engine="streaming")
        ):
            keys = frame.filter(pl.col("key").str.len_bytes() > 0)
            versions = (
                pl.col("version_id").replace({"": None, "null": None}) if with_versions else pl.lit(None, pl.String)
            )
            yield keys.with_columns(versions.alias("version_id"))
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)[:200]
        raise IntegrityError(
            f"the known keys can't be read ({reason}): a file with the column {' and '.join(columns)} was expected",
            where=str(location),
        ) from error


def _scan(path: Path, name: str) -> pl.LazyFrame:
    match _SUFFIXES[Path(name).suffix]:
        case "parquet":
            return pl.scan_parquet(path, glob=False, hive_partitioning=False)
        case "csv":
            # Nothing is guessed: a key 0012 is no number, and an empty one no null.
            return pl.scan_csv(path, infer_schema=False, glob=False)
        case _:
            return pl.scan_ndjson(path, schema=_SCHEMA)


def _check_columns(path: Path, name: str, columns: list[str]) -> None:
    """JSON Lines are read by names that we give: what no line has would be null in silence.

    Raises:
        pl.exceptions.ColumnNotFoundError: None of the first lines has a column.
    """
    if _SUFFIXES[Path(name).suffix] == "ndjson" and path.stat().st_size:
        present = pl.scan_ndjson(path, infer_schema_length=_LINES_LOOKED_AT).collect_schema()
        for column in columns:
            if column not in present:
                raise pl.exceptions.ColumnNotFoundError(column)


def _name(location: Location) -> str:
    return location.name if isinstance(location, Path) else location.key.rpartition("/")[2]
