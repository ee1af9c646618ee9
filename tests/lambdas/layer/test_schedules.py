"""The fold under random schedules: what is applied equals one delivery of each event, and controls are found out."""

from __future__ import annotations

import os
import random

import pytest

from exactly_once import fold, outbox, table
from tests.lambdas.layer.world import Rules, World, unguarded_keys

SCHEDULES = 20_000 if os.environ.get("ATLAS_TEST_SIZE") == "full" else 1_000


class NoMetrics:
    """Takes counts and prints none: there are too many invocations."""

    def __init__(self, **settings: str) -> None:
        pass

    def add_metric(self, **metric: object) -> None:
        pass

    def flush_metrics(self) -> None:
        pass


@pytest.fixture
def patch(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A layer whose transactions are so small that chunks and records have to be split, and without output."""
    monkeypatch.setattr(fold, "MAX_ACTIONS", 4)
    monkeypatch.setattr(fold, "Metrics", NoMetrics)
    monkeypatch.setattr(fold.logger, "warning", lambda *message, **extra: None)
    return monkeypatch


def live(seed: int, rules: Rules, patch: pytest.MonkeyPatch) -> World:
    """Live through the schedule of a seed."""
    world = World(seed, rules)
    random.seed(seed)
    for module in (fold, outbox, table):
        patch.setattr(module, "time", world)
    world.run()
    return world


def test_every_schedule_ends_as_one_delivery_of_each_event(patch: pytest.MonkeyPatch) -> None:
    for seed in range(SCHEDULES):
        assert not live(seed, Rules(), patch).wrong(), f"seed {seed}"


@pytest.mark.parametrize(
    ("control", "at_least"),
    [
        pytest.param(Rules(no_proof=True), 0.9, id="without any proof"),
        pytest.param(Rules(checkpoint_only_smaller=True), 0.05, id="checkpoint only has to be smaller"),
        pytest.param(Rules(window=0.001), 0.5, id="without a window"),
        pytest.param(Rules(window_lags=1), 0.5, id="window read eventually consistently"),
        pytest.param(Rules(no_ancestors=True), 0.1, id="without the windows of ancestors"),
        pytest.param(Rules(keys=unguarded_keys), 0.03, id="shared items without a version"),
        pytest.param(Rules(one_incarnation=True), 0.05, id="recreated stream under the old name"),
    ],
)
def test_a_layer_with_one_rule_less_is_found_out(control: Rules, at_least: float, patch: pytest.MonkeyPatch) -> None:
    wrong = sum(bool(live(seed, control, patch).wrong()) for seed in range(80))

    assert wrong > 80 * at_least
