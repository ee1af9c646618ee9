"""What the warehouse must be like after a load."""

from __future__ import annotations

import great_expectations.expectations as gxe

# Each is a measure of gate_measures.sql that must be zero; gate_violations.sql names the rows of some.
ZERO = {
    "missing_lines": "Every line that was sent has arrived",
    "unexpected_lines": "No transaction has a line that was not sent",
    "amount_difference": "The sent transactions add up to the ground truth, to the cent",
    "changed_lines": "Every sent line has its amount, quantity and time",
    "duplicate_lines": "No line is there twice, however often it was delivered",
    "wrong_amounts": "Every amount is quantity times price times rate, rounded to cents",
    "missing_minutes": "Every minute in which something was sold has its bucket",
    "minute_difference": "The minutes add up to the lines, to the cent",
    "basket_difference": "The baskets add up to the lines, to the cent",
    "future_lines": "No transaction lies in the future",
}


def warehouse() -> list[gxe.Expectation]:
    """Return the expectations."""
    return [
        gxe.ExpectColumnValuesToBeBetween(
            column=measure, min_value=0, max_value=0, description=description, meta={"rule": measure}
        )
        for measure, description in ZERO.items()
    ]
