"""What must be true of idempotent consumers once a load has been processed."""

from __future__ import annotations

import great_expectations.expectations as gxe

STRATEGIES = {"natural": "natural key", "powertools": "Powertools Idempotency", "inbox": "inbox transaction"}

# Each is a measure that must be zero, of every strategy.
ZERO = {
    "effects_difference": "As many effects as distinct payments",
    "balance_difference": "Every account's balance is the sum of its payments (difference in cents)",
    "wrong_receipts": "Every payment has a receipt, of the amount that came first",
    "expired_effects": "No expired payment had an effect",
    "quarantine_difference": "What was expired, forged or damaged is in quarantine, and nothing else",
}


def effects(control: str, repeated: str) -> list[gxe.Expectation]:
    """Return the expectations.

    Args:
        control: ``True`` if a consumer without idempotency got the same load.
        repeated: how many messages came after the first one of their payment.
    """
    expectations: list[gxe.Expectation] = [
        gxe.ExpectColumnValuesToBeBetween(
            column=f"{strategy}_{measure}",
            min_value=0,
            max_value=0,
            description=f"{name}: {description}",
            meta={"rule": f"{strategy}_{measure}"},
        )
        for strategy, name in STRATEGIES.items()
        for measure, description in ZERO.items()
    ]
    if control == "True":
        expectations.append(
            gxe.ExpectColumnValuesToBeBetween(
                column="control_excess",
                min_value=int(repeated),
                description="The load puts idempotency to the test: the control, which has none, counts it all",
                meta={"rule": "control_excess"},
            )
        )
    return expectations
