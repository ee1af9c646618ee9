"""Strategy Powertools Idempotency: a record around the effect, for effects that no transaction of ours can hold.

Powertools puts a record IN PROGRESS before the effect, on the condition that there is none, and completes it
afterwards: two requests more. The record locks the payment while it is worked on, keeps a hash of its content, and
expires.

Effect and record are not one transaction. A crash between the two leaves a lock that runs out with the invocation, and
then the effect is tried again: by itself at least once, rarely twice. What closes the gap is a receiver that knows the
payment, by a key that is sent along. Here the receiver is DynamoDB, whose transactions take a token and remember it for
ten minutes: https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_TransactWriteItems.html
A crash whose message comes back later than that would still be a second effect.
"""

from __future__ import annotations

import hashlib
import os
import random
import time
from typing import Any

import consumer
import ledger
from aws_lambda_powertools.utilities.idempotency import (
    DynamoDBPersistenceLayer,
    IdempotencyConfig,
    idempotent_function,
)
from aws_lambda_powertools.utilities.idempotency.exceptions import (
    IdempotencyAlreadyInProgressError,
    IdempotencyValidationError,
)
from contract import Payment

from exactly_once.faults import crash

LOCKED_ATTEMPTS = 5
LOCKED_PAUSE = 0.1
"""Seconds; another consumer of the same payment is done within a fraction of that, or has crashed."""

_store = DynamoDBPersistenceLayer(
    os.environ["IDEMPOTENCY_TABLE"], key_attr="pk", expiry_attr="expires_at", boto3_client=ledger.client
)
_config = IdempotencyConfig(
    event_key_jmespath="payment_id",
    payload_validation_jmespath="digest",
    raise_on_no_idempotency_key=True,
    expires_after_seconds=int(os.environ["RETENTION_SECONDS"]),
    response_hook=lambda _response, _record: False,
)


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Consume a batch of messages."""
    _config.register_lambda_context(context)  # the lock runs out when this invocation would have
    return consumer.consume(event, context, capture)


def capture(payment: Payment) -> bool:
    """Capture ``payment`` unless a record says so; return whether this was the first time.

    Raises:
        TamperedError: the record is of something else.
        IdempotencyAlreadyInProgressError: another consumer holds the payment, or died holding it.
    """
    for attempt in range(LOCKED_ATTEMPTS):
        try:
            first: bool = _once(payment, known_by={"payment_id": payment.payment_id, "digest": payment.digest})
        except IdempotencyAlreadyInProgressError:
            if attempt == LOCKED_ATTEMPTS - 1:
                raise
            time.sleep(LOCKED_PAUSE)
        except (IdempotencyValidationError, ledger.client.exceptions.IdempotentParameterMismatchException) as error:
            raise ledger.TamperedError from error
        else:
            break
    return first


def _effect(payment: Payment, *, known_by: dict[str, str]) -> bool:
    ledger.commit(ledger.capture(payment), ClientRequestToken=_token(payment))
    # A batch is at most ten messages: about once a call, like the other point at which a rehearsal may crash.
    if random.random() < 1 / consumer.BATCH_SIZE:  # noqa: S311 - a rehearsal, not a secret
        crash("completion record")
    return True


_once = idempotent_function(_effect, data_keyword_argument="known_by", persistence_store=_store, config=_config)


def _token(payment: Payment) -> str:
    """Return the name under which DynamoDB recognises the effect: 36 characters, for all tables of the account."""
    return hashlib.sha256(f"{ledger.TABLE}\0{payment.payment_id}".encode()).hexdigest()[:36]
