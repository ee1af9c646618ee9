"""The functions of s08, and payments for them."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from types import ModuleType
from typing import Any

import pytest

from local.launcher import layout
from tests.lambdas.functions import importable

ENVIRONMENT = {
    "AWS_DEFAULT_REGION": layout.REGION,
    "AWS_LAMBDA_FUNCTION_NAME": "score",
    "POWERTOOLS_METRICS_DISABLED": "true",
    "STATE_TABLE": "s08-functions",
    "CONSUMER": "score",
    "INCARNATION": "one",
    "QUARANTINE_BUCKET": "s08-functions",
    "QUARANTINE_PREFIX": "quarantine",
    "STATE_MACHINE_ARN": "arn",
}
NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)


@dataclass(frozen=True)
class Functions:
    """The modules of the functions."""

    contract: ModuleType
    rules: ModuleType
    score: ModuleType
    start_workflow: ModuleType

    def transaction(self, number: int = 1, minutes: float = 0, **changes: Any) -> Any:
        """Return a transaction: 20.00 EUR in Germany, ``minutes`` after noon."""
        fields = {
            "event_id": f"tx-{number}",
            "card": "card-1",
            "amount": Decimal("20.00"),
            "currency": "EUR",
            "country": "DE",
            "category": "groceries",
            "occurred_at": NOON + timedelta(minutes=minutes),
        }
        return self.contract.Transaction(**fields | changes)

    def profile(self, payments: int, **changes: Any) -> dict[str, Any]:
        """Return the profile of a card after so many ordinary payments, the last an hour before noon."""
        profile = dict(self.rules.UNKNOWN)
        for number in range(payments):
            payment = self.transaction(minutes=60 * (number - payments))
            profile = self.rules.learn(profile, payment, self.rules.judge(profile, payment))
        return profile | changes


@pytest.fixture(scope="package")
def functions() -> Iterator[Functions]:
    """The functions, imported as Lambda does, with the environment that the template gives them."""
    with pytest.MonkeyPatch.context() as patch, importable("lambdas/s08_fraud_workflow"):
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        yield Functions(*map(importlib.import_module, ("contract", "rules", "score", "start_workflow")))
