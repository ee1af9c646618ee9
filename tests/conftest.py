"""Fixtures shared by every test: an embedded AWS that is started once and stopped whatever happens."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config

from local import runner
from local.launcher import embedded, layout

# Airflow reads its settings when it is first imported, so they are made here, before any test module is.
_AIRFLOW_HOME = tempfile.TemporaryDirectory(prefix="atlas-airflow-")
runner.configure(Path(_AIRFLOW_HOME.name))


class Aws:
    """The embedded AWS as a test sees it: boto3 clients, for the root or for other credentials."""

    def __init__(self, running: embedded.EmbeddedAws) -> None:
        self.endpoint = running.endpoint
        self.state = running.state
        self.log = running.log
        self.process = running.process

    def client(self, service: str, credentials: dict[str, Any] | None = None, **config: Any) -> Any:
        """Return a client of ``service``; ``credentials`` are those of an STS answer, root by default."""
        access_key, secret_key, token = layout.ROOT_KEYS[0], layout.ROOT_KEYS[1], None
        if credentials:
            access_key, secret_key = credentials["AccessKeyId"], credentials["SecretAccessKey"]
            token = credentials.get("SessionToken")
        return boto3.client(
            service,  # type: ignore[call-overload]
            endpoint_url=self.endpoint,
            region_name=layout.REGION,
            aws_access_key_id=access_key,
            aws_secret_access_key=secret_key,
            aws_session_token=token,
            config=Config(**{"retries": {"mode": "standard", "max_attempts": 2}, **config}),
        )


@contextmanager
def embedded_aws(state: Path, **settings: Any) -> Iterator[Aws]:
    """Start an embedded AWS on a free port, with IAM enforced and ``settings`` in its environment, and stop it.

    ``ATLAS_BARE=1`` takes the emulator as it comes, for the comparison of ``make capabilities``.
    """
    running = embedded.start(state, embedded.free_port(), bare="ATLAS_BARE" in os.environ, **settings)
    try:
        yield Aws(running)
    finally:
        running.stop()


@pytest.fixture(scope="session")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aws]:
    """An embedded AWS for the whole test session; who changes it for everybody starts one of its own."""
    with embedded_aws(tmp_path_factory.mktemp("embedded-aws")) as running:
        yield running


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the scenarios, which take longest: all else runs beside and after them."""
    items.sort(key=lambda item: "scenarios" not in item.path.parts)
