"""Names what changed between two days with duckdb's full outer join, in 2 GB.

python duckdb_join.py YESTERDAY TODAY OUT SCRATCH
"""

import sys
from typing import Final

import duckdb  # type: ignore[import-not-found]  # it lives in an environment of its own

CHANGES: Final = """
SELECT
    coalesce(today.key, yesterday.key) AS key,
    CASE WHEN yesterday.key IS NULL THEN 'new' WHEN today.key IS NULL THEN 'deleted' ELSE 'changed' END AS change
FROM yesterday FULL OUTER JOIN today ON yesterday.key = today.key
WHERE yesterday.key IS NULL OR today.key IS NULL
    OR yesterday.e_tag IS DISTINCT FROM today.e_tag OR yesterday.size IS DISTINCT FROM today.size
"""


def main(yesterday: str, today: str, out: str, scratch: str) -> None:
    """Joins the Parquet files of two folders into one file: a row a key, with its change."""
    limits = {"memory_limit": "2GB", "temp_directory": scratch, "preserve_insertion_order": "false"}
    with duckdb.connect(config=limits) as connection:
        connection.read_parquet(f"{yesterday}/*.parquet").create_view("yesterday")
        connection.read_parquet(f"{today}/*.parquet").create_view("today")
        connection.sql(CHANGES).write_parquet(out)


if __name__ == "__main__":
    main(*sys.argv[1:])
