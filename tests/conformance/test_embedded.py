"""The embedded AWS as a whole."""

from __future__ import annotations

from tests.conftest import Aws


def test_it_answers_and_knows_its_account(aws: Aws) -> None:
    identity = aws.client("sts").get_caller_identity()
    assert identity["Arn"] == f"arn:aws:iam::{identity['Account']}:root"
