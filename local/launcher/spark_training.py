"""What a job typically does in Spark, so that the classes it needs are recorded; run by ``spark.ensure`` only.

It takes local files through shuffles, windows and joins. S3 and PostgreSQL are asked where nobody listens: most of
their clients' classes are loaded before the connection is refused.
"""

from __future__ import annotations

import sys
from pathlib import Path

from py4j.protocol import Py4JJavaError
from pyspark.sql import SparkSession, Window
from pyspark.sql import functions as F  # noqa: N812 - the name every Spark program uses

NOBODY = "127.0.0.1:9"


def main() -> None:
    """Run the training in the folder given on the command line."""
    folder = Path(sys.argv[1])
    spark = (
        SparkSession.builder.config("spark.hadoop.fs.s3a.endpoint", f"http://{NOBODY}")
        .config("spark.hadoop.fs.s3a.access.key", "nobody")
        .config("spark.hadoop.fs.s3a.secret.key", "nobody")
        .config("spark.hadoop.fs.s3a.attempts.maximum", "1")
        .config("spark.hadoop.fs.s3a.retry.limit", "0")
        .getOrCreate()
    )
    rows = "".join(f"{i},2024-01-{i % 3 + 1:02d},{i % 7},{i}.50\n" for i in range(100))
    (folder / "sales.csv").write_text(f"id,day,customer,price\n{rows}")
    sales = spark.read.csv(
        f"{folder}/sales.csv", header=True, schema="id long, day date, customer long, price decimal(10, 2)"
    )
    newest_first = Window.partitionBy("customer").orderBy(F.desc("day"))
    ranked = sales.withColumn("rank", F.row_number().over(newest_first))
    days = sales.groupBy("day").agg(F.sum("price").alias("revenue"), F.countDistinct("customer").alias("customers"))
    ranked.join(days, "day").write.partitionBy("day").parquet(f"{folder}/parquet")
    spark.read.parquet(f"{folder}/parquet").orderBy("id").write.json(f"{folder}/json")
    spark.read.json(f"{folder}/json").createOrReplaceTempView("sales")
    spark.sql("SELECT day, count(*) FROM sales GROUP BY day").collect()
    database = spark.read.format("jdbc").option("url", f"jdbc:postgresql://{NOBODY}/nothing").option("dbtable", "t")
    for load in (lambda: spark.read.text("s3a://nothing/here"), database.load):
        try:
            load()
        except Py4JJavaError as error:
            print("Refused, as it should be:", error.java_exception.getClass().getName())


main()
