"""Points of a trade-off, and the records they come from, made by hand."""

from collections.abc import Callable, Collection, Sequence
from statistics import fmean
from typing import Any

import pytest

from benchmark.metrics.intervals import t_interval
from benchmark.tradeoff.points import Point, TradeOff
from tests.benchmark.training.conftest import trained
from tests.conftest import MakeRecord

CONTROL = (0.9, 0.91, 0.92)
"""Accuracies without a defense, by seed."""


def point(
    defense: dict[str, Any] | None = None,
    leaking: int | Collection[int] = 16,
    cost: float | Sequence[float] = 0.0,
    unknown: Collection[int] = (),
    void: str = "",
    victims: int = 16,
    **more: Any,
) -> Point:
    """The first so many victims leak, or those that are given; the cost is that of each seed."""
    costs = [cost] * len(CONTROL) if isinstance(cost, float) else list(cost)
    accuracies = {seed: CONTROL[seed % len(CONTROL)] - lost for seed, lost in enumerate(costs)}
    row: dict[str, Any] = {"defense": "", "accuracies": accuracies, "seeds": len(costs), "void": void, "privacy": ""}
    row |= {"learning_rate": 0.3, "learning_rates": "0.1 0.3", "rate_chosen_on": "validation"}
    for key, values in (("accuracy", list(accuracies.values())), ("difference", [-lost for lost in costs])):
        known = values if key == "accuracy" or defense else []
        low, high = t_interval(known)
        row |= {key: fmean(known) if known else None, f"{key}_low": low, f"{key}_high": high}
    found = frozenset(range(leaking) if isinstance(leaking, int) else leaking)
    row |= dict.fromkeys(("bytes", "client_seconds", "epsilon", "delta"))
    rank = None if void else 1
    return Point(defense, frozenset(range(victims)), found, frozenset(unknown), rank, row | more, void)


def trade_off(*points: Point) -> TradeOff:
    return TradeOff("Digits with LeNet", "Digits, LeNet", [], sorted(points, key=lambda one: -one.accuracy))


def masking(
    ratio: float, leaking: int | Collection[int] = 16, cost: float | Sequence[float] = 0.0, **more: Any
) -> Point:
    return point({"class": "Masking", "ratio": ratio}, leaking, cost, **more)


Made = Callable[..., list[Any]]


@pytest.fixture
def attacked(made_record: MakeRecord) -> Made:
    """Records of a board: without a defense all of 8 victims leak, with it the first 4, to an attacker who knows it."""

    def make(defense: dict[str, Any], knows: tuple[bool, ...] = (False, True), **of: Any) -> list[Any]:
        of = {"data": {"class": "Digits"}, "model": {"class": "ConvNet", "width": 4}, "batch_size": 8} | of
        records = [made_record(count=8, **of)]
        for adaptive in knows:
            records.append(made_record(count=8, defense=defense, adaptive=adaptive, **of))
            for victim in records[-1]["victims"][4 if adaptive else 0 :]:
                victim |= {"leaked_any": False, "leaked_all": False, "psnr": [12.0], "mse": [0.06]}
        return records

    return make


def trainings(**config: Any) -> list[Any]:
    """Two seeds without a defense, and two with Masking."""
    accuracies = {None: (0.9, 0.8), "Masking": (0.7, 0.5)}
    made = [trained(seed, value, name) for name, values in accuracies.items() for seed, value in enumerate(values)]
    return [one | {"config": one["config"] | config, "key": f"{i}{config}"} for i, one in enumerate(made)]


MASKED = trained(0, 0.9, "Masking")["config"]["defense"]
