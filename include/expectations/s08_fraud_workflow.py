"""What all decisions on a load of card payments must be like."""

from __future__ import annotations

import great_expectations.expectations as gxe

# Each is counted by the audit in atlas.scenarios and must be zero; the violations name payments and cards.
ZERO = {
    "missing_outcomes": "Every payment has an outcome",
    "altered_outcomes": "Card, amount and currency of the outcome are those of the payment",
    "pending_outcomes": "No outcome is left undecided",
    "wrong_numbers": "Every card's payments were applied once each: their numbers have neither gaps nor repeats",
    "wrong_scores": "Every score is that of replaying the card's payments one by one",
    "wrong_decisions": "Every decision is one that its score allows, made by whom it may be made",
    "blocks_without_outcome": "Every block on the list was caused by a payment whose outcome is BLOCKED",
    "outcomes_without_block": "Every card with a BLOCKED or REFUSED payment is on the block list",
    "passed_while_blocked": "No payment passed to approval or review once its card was on the block list",
    "blocks_without_notice": "The customer and the analysts were told of every blocked card",
    "missing_executions": "Every suspicious payment started its workflow",
    "needless_executions": "No other payment started one",
    "failed_executions": "No workflow failed",
    "open_reviews": "No review is left open",
    "missed_cards": "Every stolen card was noticed",
    "false_alarms": "No ordinary payment was suspected",
}


def decisions() -> list[gxe.Expectation]:
    """Return the expectations."""
    return [
        gxe.ExpectColumnPairValuesToBeEqual(
            column_A="payments", column_B="outcomes", description="There are as many outcomes as payments"
        ),
        gxe.ExpectColumnPairValuesToBeEqual(
            column_A="suspicious",
            column_B="executions",
            description="There are as many workflows as suspicious payments",
        ),
        gxe.ExpectColumnPairValuesToBeEqual(
            column_A="blocked_cards", column_B="notices", description="There is one notice for each blocked card"
        ),
        *(
            gxe.ExpectColumnValuesToBeBetween(
                column=measure, min_value=0, max_value=0, description=description, meta={"rule": measure}
            )
            for measure, description in ZERO.items()
        ),
    ]
