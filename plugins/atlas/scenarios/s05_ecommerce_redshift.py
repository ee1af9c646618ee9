"""Transactions from a stream to the warehouse: the feed and its ground truth."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from airflow.providers.amazon.aws.hooks.s3 import S3Hook

from atlas.loadgen.disturb import Event, disturb
from atlas.loadgen.feed import feed as send
from atlas.loadgen.files import list_files
from atlas.loadgen.retail import generate
from atlas.loadgen.sinks import KinesisSink
from atlas.loadgen.transactions import Shop, Transaction, read_shop

ROOT = "s05_ecommerce_redshift"
PRODUCTS = f"{ROOT}/reference/products.json"
REORDER = 20
"""How many places a transaction may fall back on its way; what falls back behind a published minute is late."""


def feed(lake: str, stream: str, run_prefix: str, params: dict[str, Any]) -> dict[str, Any]:
    """Send the shop's transactions, and some copies and damage with them; without events, only say so.

    The product catalogue and the ground truth are in the lake before the first event is on the stream.

    Returns:
        The manifest's address and counts, ``folder`` (the run's, as s3 address), ``truth`` (s3 address of the
        expected lines), ``transactions``, ``lines`` and ``net_sales`` (text, GBP).

    Raises:
        ValueError: the user's own files have a row that is no sale; names file, line and reason.
    """
    s3 = S3Hook()
    shop = _shop(s3, lake, params)
    known = json.loads(s3.read_key(PRODUCTS, lake)) if s3.check_for_key(PRODUCTS, lake) else {}
    s3.load_string(json.dumps(known | shop.products), PRODUCTS, lake, replace=True)
    truth = f"{run_prefix}/truth.csv.gz"
    bucket, key = S3Hook.parse_s3_url(truth)
    s3.load_bytes(shop.truth(), key, bucket, replace=True)
    totals = {"transactions": len(shop.transactions), "lines": shop.lines, "net_sales": str(shop.net_sales)}
    events = disturb(
        _events(shop.transactions, params["speed"]),
        params["seed"],
        duplicates=params["duplicates_percent"] / 100,
        malformed=params["malformed_percent"] / 100,
        reorder=REORDER,
    )
    manifest = send(events, KinesisSink(stream), truth=totals, rate=params["rate"])
    return {**manifest.store(s3, f"{run_prefix}/feed.json"), "folder": run_prefix, "truth": truth, **totals}


def _shop(s3: S3Hook, lake: str, params: dict[str, Any]) -> Shop:
    if params["source_uri"]:
        keys = list_files(s3, lake, params["source_uri"])
        return read_shop({key: s3.get_key(key, lake).get()["Body"].read() for key in keys})
    return read_shop(generate(params["seed"], params["events"]).files) if params["events"] else Shop([], {})


def _events(transactions: list[Transaction], speed: float | None) -> Iterator[Event]:
    """Yield the transactions in the order of their time, due at ``speed`` seconds of the shop's time per second."""
    for transaction in transactions:
        elapsed = (transaction.occurred_at - transactions[0].occurred_at).total_seconds()
        yield Event(
            transaction.transaction_id,
            transaction.event(),
            transaction.transaction_id,
            due=elapsed / speed if speed else 0.0,
        )
