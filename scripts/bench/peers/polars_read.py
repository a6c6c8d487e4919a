"""Reads columns of Parquet files with polars, and does nothing with them: nobody who reads them takes less.

    python polars_read.py COLUMN,COLUMN FOLDER...

File by file. polars' streaming engine (scan_parquet and sink_batches) took a tenth more CPU over 4 M rows, and in both
ways it is polars' own decoder.
"""

import sys
from pathlib import Path

import polars as pl


def main(columns: str, *folders: str) -> None:
    """Reads the Parquet files of the folders."""
    for folder in folders:
        for path in sorted(Path(folder).glob("*.parquet")):
            pl.read_parquet(path, columns=columns.split(","))


if __name__ == "__main__":
    main(*sys.argv[1:])
