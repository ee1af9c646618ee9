"""What staged sales must be like before readers see them."""

from __future__ import annotations

import great_expectations.expectations as gxe

# Each is a measure of gate_measures.sql that must be zero; gate_violations.sql names the rows of some.
ZERO = {
    "unmatched_lines": "Every invoice line has an order and an exchange rate",
    "lines_without_customer": "Every customer that an order names exists (an order may name none)",
    "negative_prices": "No price is negative",
    "future_lines": "No order lies after the end of the interval",
    "duplicate_lines": "No invoice line occurs twice",
    "wrong_amounts": "Every amount is quantity times price times rate, rounded to cents",
    "daily_difference": "Sales by day add up to the sum over all invoice lines, to the cent",
    "weekly_difference": "Sales by week add up to the sum over all invoice lines, to the cent",
    "lines_not_arrived": "Every line that was loaded into the source has arrived, once",
    "control_difference": "Quantity times price over these lines is what was loaded, to the last digit",
}


def staged_sales(max_age_minutes: str) -> list[gxe.Expectation]:
    """Return the expectations; ``max_age_minutes`` is how old the newest change may be at the interval's end."""
    return [
        *(
            gxe.ExpectColumnValuesToBeBetween(
                column=measure, min_value=0, max_value=0, description=description, meta={"rule": measure}
            )
            for measure, description in ZERO.items()
        ),
        gxe.ExpectColumnValuesToBeBetween(
            column="minutes_since_change",
            min_value=0,
            max_value=int(max_age_minutes),
            description="The newest change is recent: the source is alive and the extraction keeps up",
        ),
    ]
