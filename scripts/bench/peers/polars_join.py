"""Names what changed between two days with polars' streaming full join.

python polars_join.py YESTERDAY TODAY OUT SCRATCH
"""

import sys

import polars as pl


def main(yesterday: str, today: str, out: str, _scratch: str) -> None:
    """Joins the Parquet files of two folders into one file: a row a key, with its change."""
    columns = ("key", "e_tag", "size")
    before = pl.scan_parquet(f"{yesterday}/*.parquet").select(pl.col(columns).name.suffix("_before"))
    now = pl.scan_parquet(f"{today}/*.parquet").select(columns)
    change = (
        pl.when(pl.col("key_before").is_null())
        .then(pl.lit("new"))
        .when(pl.col("key").is_null())
        .then(pl.lit("deleted"))
        .when(pl.col("e_tag").ne_missing(pl.col("e_tag_before")) | pl.col("size").ne_missing(pl.col("size_before")))
        .then(pl.lit("changed"))
    )
    (
        now.join(before, left_on="key", right_on="key_before", how="full", coalesce=False)
        .select(key=pl.coalesce("key", "key_before"), change=change)
        .filter(pl.col("change").is_not_null())
        .sink_parquet(out, engine="streaming")
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
