"""No file of the repository holds a credential."""

from __future__ import annotations

import re

import pytest

from tests.test_repository import files, hits

CREDENTIALS = {
    # https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_identifiers.html#identifiers-unique-ids
    "access key of AWS": r"\b(?:AKIA|ASIA)[A-Z2-7]{16}\b",
    "secret key of AWS": r"(?i)secret_?access_?key\W{1,5}[A-Za-z0-9/+]{40}(?![A-Za-z0-9/+=])",
    "private key": r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY",
    "token of a code host": r"\b(?:gh[pousr]_[A-Za-z0-9]{36}|glpat-[\w-]{20})",
    "token of a chat": r"\bxox[abpr]-[\w-]{10}",
    "login in an address": r"://[^/\s:@{}<>$\"']+:[^/\s:@{}<>$\"']+@",
}


@pytest.mark.parametrize("kind", CREDENTIALS)
def test_there_is_no(kind: str) -> None:
    assert hits(CREDENTIALS[kind], files()) == []


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        pytest.param("access key of AWS", "AKIA" + "ABCDEFGHIJKLMNOP", id="user"),
        pytest.param("access key of AWS", "ASIA" + "ABCDEFGHIJKLMN23", id="role"),
        pytest.param("secret key of AWS", "aws_secret_access_key = " + "a1B2" * 10, id="profile"),
        pytest.param("secret key of AWS", '"SecretAccessKey": "' + "a1B2" * 10 + '"', id="answer"),
        pytest.param("private key", "-----BEGIN " + "RSA PRIVATE KEY-----", id="RSA"),
        pytest.param("private key", "-----BEGIN " + "PRIVATE KEY-----", id="PKCS 8"),
        pytest.param("token of a code host", "ghp_" + "a1B2" * 9, id="code host"),
        pytest.param("token of a chat", "xoxb-" + "1234567890", id="chat"),
        pytest.param("login in an address", "postgresql://airflow" + ":passw0rd@db/airflow", id="database"),
    ],
)
def test_it_is_found(kind: str, text: str) -> None:
    assert re.search(CREDENTIALS[kind], text)
