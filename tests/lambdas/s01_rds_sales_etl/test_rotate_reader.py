"""Changing the reader's password, against a real PostgreSQL and a secret of the embedded AWS."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.lambdas.s01_rds_sales_etl.conftest import READER, READER_PASSWORD, Source

STEPS = ("createSecret", "setSecret", "testSecret", "finishSecret")


@pytest.fixture(name="secrets")
def _secrets(source: Source) -> Iterator[Any]:
    """A client of Secrets Manager; at the end the reader has the password that the other tests know."""
    client = source.rotate_reader._secrets
    yield client
    login = json.dumps({"username": READER, "password": READER_PASSWORD})
    client.put_secret_value(SecretId=secret(), SecretString=login)
    source.load_all({})


def secret() -> str:
    return os.environ["READER_SECRET_ARN"]


def rotate(source: Source, *steps: str, version: str) -> None:
    for step in steps:
        event = {"Step": step, "SecretId": secret(), "ClientRequestToken": version}
        source.rotate_reader.handler(event, None)


def password(secrets: Any, **version: str) -> str:
    login: dict[str, str] = json.loads(secrets.get_secret_value(SecretId=secret(), **version)["SecretString"])
    return login["password"]


def can_connect(source: Source, as_reader_with: str) -> bool:
    try:
        source.connect(user=READER, password=as_reader_with).close()
    except psycopg.OperationalError:
        return False
    return True


def test_the_reader_gets_a_new_password(source: Source, secrets: Any) -> None:
    assert can_connect(source, READER_PASSWORD)
    version = str(uuid.uuid4())

    rotate(source, *STEPS, version=version)

    new = password(secrets)
    assert new != READER_PASSWORD
    assert len(new) == 32
    assert can_connect(source, new)
    assert not can_connect(source, READER_PASSWORD)
    assert source.plan()["ranges"] == []
    assert password(secrets, VersionStage="AWSPREVIOUS") == READER_PASSWORD


@pytest.mark.parametrize("done", range(1, len(STEPS) + 1), ids=lambda done: f"after {STEPS[done - 1]}")
def test_an_interrupted_rotation_begins_again(done: int, source: Source, secrets: Any) -> None:
    version = str(uuid.uuid4())
    rotate(source, *STEPS[:done], version=version)
    pending = password(secrets, VersionId=version)

    rotate(source, *STEPS, version=version)

    assert password(secrets) == pending
    assert can_connect(source, pending)


def test_a_login_that_is_refused_does_not_become_the_current_one(source: Source, secrets: Any) -> None:
    version = str(uuid.uuid4())
    rotate(source, "createSecret", version=version)

    with pytest.raises(Exception, match="password authentication failed"):
        rotate(source, "testSecret", version=version)
    assert password(secrets) == READER_PASSWORD


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"SecretId": "arn:of:another"}, "is not the reader's secret", id="another secret"),
        pytest.param({"Step": "deleteSecret"}, "There is no step deleteSecret", id="another step"),
    ],
)
def test_nothing_else_is_done(change: dict[str, str], message: str, source: Source, secrets: Any) -> None:
    event = {"Step": "createSecret", "SecretId": secret(), "ClientRequestToken": str(uuid.uuid4())}
    with pytest.raises(ValueError, match=message):
        source.rotate_reader.handler(event | change, None)
    assert password(secrets) == READER_PASSWORD
