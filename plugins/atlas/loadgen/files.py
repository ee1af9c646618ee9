"""Where the files of a batch load are: generated ones and the user's own."""

from __future__ import annotations

from collections.abc import Mapping

from airflow.providers.amazon.aws.hooks.s3 import S3Hook

GZIP_RATIO = 10
"""How many times longer a gzip file's text is at most; tables of text reach five to eight."""


def put_files(s3: S3Hook, bucket: str, prefix: str, files: Mapping[str, bytes]) -> list[str]:
    """Write ``files`` (name to content) below ``prefix`` and return their keys."""
    keys = [f"{prefix}/{name}" for name in files]
    for key, content in zip(keys, files.values(), strict=True):
        s3.load_bytes(content, key, bucket, replace=True)
    return keys


def list_files(s3: S3Hook, bucket: str, source_uri: str) -> list[str]:
    """Return the keys of the CSV files at ``source_uri``: one file, or all below a prefix.

    Raises:
        ValueError: the address is not in ``bucket``, which is all the scenario may read, or holds no CSV file.
    """
    prefix = _prefix(bucket, source_uri)
    keys = sorted(key for key in s3.list_keys(bucket, prefix) if key.endswith((".csv", ".csv.gz")))
    if not keys:
        raise ValueError(f"source_uri {source_uri} holds no .csv or .csv.gz file")
    return keys


def size_of(s3: S3Hook, bucket: str, source_uri: str) -> int:
    """Return how many bytes of text there are at ``source_uri``: one file, or all below a prefix; an upper bound.

    Raises:
        ValueError: the address is not in ``bucket``.
    """
    entries = s3.iter_file_metadata(_prefix(bucket, source_uri), bucket)
    return sum(int(entry["Size"]) * (GZIP_RATIO if entry["Key"].endswith(".gz") else 1) for entry in entries)


def _prefix(bucket: str, source_uri: str) -> str:
    found, prefix = S3Hook.parse_s3_url(source_uri)
    if found != bucket:
        raise ValueError(
            f"source_uri {source_uri} is outside of s3://{bucket}/, which is all that this scenario's functions may "
            f"read. Copy the files to s3://{bucket}/uploads/<name>/ and give that address; `make run` does it for a "
            "local folder."
        )
    return prefix
