"""HTML pages that need nothing but themselves, and where they are stored.

No script, no external style sheet, font or image: a page opens from S3, from a mail attachment or offline.
Every value is escaped by the template engine.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow.providers.amazon.aws.links.base_aws import BASE_AWS_CONSOLE_LINK, BaseAwsLink

if TYPE_CHECKING:
    from airflow.providers.amazon.aws.hooks.s3 import S3Hook
    from airflow.sdk import BaseOperator, Context
    from mypy_boto3_s3 import S3Client


class PageLink(BaseAwsLink):
    """Link from a task to its page in the S3 console, which signs the reader in and serves the page.

    A presigned address would expire and would be a credential in XCom.
    """

    format_str = BASE_AWS_CONSOLE_LINK + "/s3/object/{bucket}?region={region_name}&prefix={object_key}"


def render(template: str, values: Mapping[str, Any]) -> str:
    """Return the HTML of a template that stands beside this module."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(values)


def publish(
    s3: S3Hook,
    folder: str,
    name: str,
    *,
    page: str,
    document: Mapping[str, Any],
    link: type[PageLink],
    context: Context,
    operator: BaseOperator,
) -> dict[str, str]:
    """Write ``<folder>/<name>.html`` and ``.json`` and link the task to the page.

    Args:
        s3: the hook to write with.
        folder: ``s3://bucket/prefix`` of both objects.
        name: file name without its ending.
        page: the HTML text.
        document: the same facts for machines; values JSON does not know (decimals, times) become text.
        link: the operator's link class.
        context: of the running task.
        operator: the running operator.

    Returns:
        The ``s3://`` addresses: ``{"html": ..., "json": ...}``.
    """
    bucket, prefix = s3.parse_s3_url(f"{folder.rstrip('/')}/{name}")
    client: S3Client = s3.get_conn()
    bodies = {
        "html": (page, "text/html; charset=utf-8"),
        "json": (json.dumps(document, indent=2, default=str, allow_nan=False), "application/json"),
    }
    for ending, (body, content_type) in bodies.items():
        client.put_object(Bucket=bucket, Key=f"{prefix}.{ending}", Body=body.encode(), ContentType=content_type)
    link.persist(
        context=context,
        operator=operator,
        region_name=s3.conn_region_name,
        aws_partition=s3.conn_partition,
        bucket=bucket,
        object_key=quote(f"{prefix}.html"),
    )
    return {ending: f"s3://{bucket}/{prefix}.{ending}" for ending in bodies}
