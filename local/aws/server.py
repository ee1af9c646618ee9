"""Entry point of the embedded AWS: ``python -m local.aws.server --port 4566 --state .atlas/aws``."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from pathlib import Path

SERVICES = (
    "athena",
    "glue",
    "ec2",
    "secretsmanager",
    "rds",
    "kinesis",
    "event_sources",
    "firehose",
    "stepfunctions",
    "events",
    "pipes",
    "iot",
    "dynamodb",
    "sqs",
    "cloudwatch",
    "metric_filters",
    "iam",
    "cloudformation",
    "redshift",
    "mwaa",
    "lambda_async",
    "lambda_errors",
    "lambda_logs",
    "lambda_start",
    "notifications",
    "replication",
    "limits",
    "clock",
    "faults",
    "loopback",
)


def main() -> None:
    """Read the command line, load the service modules, serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True, help="port of every service")
    parser.add_argument(
        "--bind", default="127.0.0.1", help="address; another one for a container's private network only"
    )
    parser.add_argument("--state", type=Path, required=True, help="folder for the services' files")
    parser.add_argument("--region", default="us-east-1")
    parser.add_argument("--bare", action="store_true", help="the emulator as it comes, to compare with")
    arguments = parser.parse_args()
    state = arguments.state.resolve()
    state.mkdir(parents=True, exist_ok=True)
    # The emulator reads its settings from the environment when it is imported, so this comes first.
    os.environ.update(
        GATEWAY_PORT=str(arguments.port),
        BIND_HOST=arguments.bind,
        MINISTACK_HOST="127.0.0.1",
        MINISTACK_REGION=arguments.region,
        AWS_DEFAULT_REGION=arguments.region,
        AWS_ACCESS_KEY_ID="test",
        AWS_SECRET_ACCESS_KEY="test",  # noqa: S106 - the emulator's well-known root key
        AUTH="true",
        IOT_MTLS_ENABLED="0",
        SFTP_ENABLED="0",
        S3_DATA_DIR=str(state / "s3"),
        STATE_DIR=str(state / "ministack"),
        TMPDIR=str(state / "tmp"),
        ATLAS_AWS_STATE=str(state),
    )
    (state / "tmp").mkdir(exist_ok=True)
    from local.aws import emulator

    for name in () if arguments.bare else SERVICES:
        importlib.import_module(f"local.aws.{name}")
    sys.argv = sys.argv[:1]  # the emulator parses the command line again
    emulator.serve()


if __name__ == "__main__":
    main()
