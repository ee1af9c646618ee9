"""Promote staged objects to the place readers look at."""

from __future__ import annotations

from airflow.providers.amazon.aws.hooks.s3 import S3Hook


def promote(s3: S3Hook, bucket: str, staging: str, published: str) -> int:
    """Make the objects below ``published/`` those below ``staging/``; returns how many there are.

    Objects get the names ``part-00000.parquet`` and on, in the order of their staged names, so promoting the same data
    again leaves the same objects. Each object is replaced at once; what is left over from before goes last. An empty
    ``staging/`` empties ``published/``. Both prefixes are without a trailing slash.
    """
    staged = sorted(key for key in s3.list_keys(bucket, f"{staging}/") if _is_data(key))
    before = s3.list_keys(bucket, f"{published}/")
    after = [f"{published}/part-{number:05d}.parquet" for number in range(len(staged))]
    for source, target in zip(staged, after, strict=True):
        s3.copy_object(source, target, bucket, bucket)
    s3.delete_objects(bucket, sorted(set(before) - set(after)))
    return len(after)


def _is_data(key: str) -> bool:
    """Spark's own markers (``_SUCCESS``) and hidden files are not data."""
    return not key.rsplit("/", 1)[-1].startswith(("_", "."))
