"""Names what is new today with Spark's left_anti join, on two cores.

    spark-submit --driver-memory 8g spark_anti_join.py YESTERDAY TODAY OUT SCRATCH

Started by spark-submit, the JVM is the process, and the driver's Python its child: what both take counts.
"""

import sys

from pyspark.sql import SparkSession  # type: ignore[import-not-found]  # it lives in an environment of its own
from pyspark.sql.functions import lit  # type: ignore[import-not-found]


def main(yesterday: str, today: str, out: str, scratch: str) -> None:
    """Joins the keys of the Parquet files of two folders into a folder: a row a new key, with its change."""
    spark = (
        SparkSession.builder.master("local[2]")
        .config("spark.local.dir", scratch)
        .config("spark.ui.enabled", "false")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .getOrCreate()
    )
    before, now = (spark.read.parquet(folder).select("key") for folder in (yesterday, today))
    now.join(before, "key", "left_anti").withColumn("change", lit("new")).write.parquet(out)
    spark.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
