"""The least a Glue job does with Spark; its first line says when it ran, in seconds since 1970."""

import time

print(time.time())

from pyspark.sql import SparkSession  # noqa: E402 - what it takes is measured

print(SparkSession.builder.getOrCreate().range(1000).selectExpr("sum(id)").first()[0])
