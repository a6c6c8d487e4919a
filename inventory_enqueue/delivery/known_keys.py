"""Keys that somebody handled already, from a file: Parquet, CSV with a header, or JSON Lines, with a column `key`.

A column `version_id` is read where versions count. Keys are taken as they are: nothing is URL-decoded.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import polars as pl
import pyarrow as pa

from inventory_enqueue.delivery.formats.parquet import ParquetSource
from inventory_enqueue.delivery.landing import Landing
from inventory_enqueue.errors import IntegrityError
from inventory_enqueue.uris import Location

_ROWS: Final = 262_144
_LINES_LOOKED_AT: Final = 1000
_SUFFIXES: Final = {".parquet": "parquet", ".csv": "csv", ".jsonl": "ndjson", ".ndjson": "ndjson", ".json": "ndjson"}
_SCHEMA: Final = {"key": pl.String, "version_id": pl.String}
_UNREADABLE: Final = (
    pl.exceptions.PolarsError,
    pl.exceptions.PanicException,
    pa.ArrowException,
    OSError,
    UnicodeDecodeError,
)
"""What reading damaged bytes raises: the last one where a column's name is no UTF-8."""
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
        for frame in _frames(path, _SUFFIXES[Path(_name(location)).suffix], columns):
            keys = frame.filter(pl.col("key").str.len_bytes() > 0)
            versions = (
                pl.col("version_id").replace({"": None, "null": None}) if with_versions else pl.lit(None, pl.String)
            )
            yield keys.with_columns(versions.alias("version_id"))
    except _UNREADABLE as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)[:200]
        raise IntegrityError(
            f"the known keys can't be read ({reason}): a file with the column {' and '.join(columns)} was expected",
            where=str(location),
        ) from error


def _frames(path: Path, kind: str, columns: list[str]) -> Iterator[pl.DataFrame]:
    """These columns of a file, as strings."""
    if kind == "parquet":
        yield from _parquet(path, columns)
        return
    if kind == "csv":
        # Nothing is guessed: a key 0012 is no number, and an empty one no null.
        file = pl.scan_csv(path, infer_schema=False, glob=False)
    else:
        _check_columns(path, columns)
        file = pl.scan_ndjson(path, schema=_SCHEMA)
    yield from file.select(columns).collect_batches(chunk_size=_ROWS, maintain_order=False, engine="streaming")


def _parquet(path: Path, columns: list[str]) -> Iterator[pl.DataFrame]:
    """By pyarrow: polars, where it isn't told that a page's header is damaged, ends the process.

    Raises:
        pl.exceptions.ColumnNotFoundError: The file lacks a column.
        pa.ArrowException: It is damaged, or a text is no UTF-8.
    """
    with ParquetSource(path) as source:
        for column in columns:
            if column not in source.columns:
                raise pl.exceptions.ColumnNotFoundError(column)
        for batch in source.batches(columns):
            batch.validate(full=True)
            # Without the schema's metadata: where a text of it is no UTF-8, polars panics.
            frame = pl.from_arrow(pa.RecordBatch.from_arrays([batch.column(name) for name in columns], columns))
            assert isinstance(frame, pl.DataFrame)  # noqa: S101 - from_arrow's type also covers a single column
            yield frame.cast(pl.String)


def _check_columns(path: Path, columns: list[str]) -> None:
    """JSON Lines are read by names that we give: what no line has would be null in silence.

    Raises:
        pl.exceptions.ColumnNotFoundError: None of the first lines has a column.
    """
    if path.stat().st_size:
        present = pl.scan_ndjson(path, infer_schema_length=_LINES_LOOKED_AT).collect_schema()
        for column in columns:
            if column not in present:
                raise pl.exceptions.ColumnNotFoundError(column)


def _name(location: Location) -> str:
    return location.name if isinstance(location, Path) else location.key.rpartition("/")[2]
