"""The trade-off of leak rate and accuracy on a page: its sentences and table, and the points of its plot."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmark.boards.grid import Grid
from benchmark.tradeoff.figure import labels
from benchmark.tradeoff.one_point import sentences
from benchmark.tradeoff.page import grid
from benchmark.tradeoff.points import FRONT, Point, TradeOff, as_key

HEIGHT, LINE, FARTHEST, NEAR = 340, 13, 6, 0.15
"""Pixels of the plot and of a line of text, lines that a label stands away from its point at most, and the share of the
plot that it takes across on a telephone."""


@dataclass(frozen=True)
class TradeOffView:
    """What a page says of a trade-off.

    Attributes:
        found: its headings and notes.
        sentences: on what one point of accuracy buys.
        grid: its table.
        values: of the points of the plot, which has none that says nothing.
    """

    found: TradeOff
    sentences: list[str]
    grid: Grid
    values: list[dict[str, Any]]


def view(found: TradeOff) -> TradeOffView:
    """What a page says of a trade-off."""
    values = [value(point, found) for point in found.judged]
    values = [one | at for one, at in zip(values, places(values), strict=True)]
    return TradeOffView(found, sentences(found.points), grid(found), values)


def value(point: Point, found: TradeOff) -> dict[str, Any]:
    """A point with both intervals; what is lost is in points of accuracy below the best defense."""
    best = max(one.accuracy for one in found.judged)
    (leak_low, leak_high), (low, high) = point.leak_interval, point.accuracy_interval
    return {
        "name": point.name,
        "defense": point.kind,
        "label": labels(found)[as_key(point.defense)],
        "standing": found.standing(point),
        "front": found.standing(point) == FRONT,
        "leak": point.leak,
        "leak_low": leak_low,
        "leak_high": leak_high,
        "accuracy": point.accuracy,
        "lost": 100 * (best - point.accuracy),
        "lost_low": 100 * (best - high),
        "lost_high": 100 * (best - low),
    }


def places(values: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Where the label of each point stands: towards the middle of the plot, and not on another one.

    Where there is no room it is left out; then it is in the tooltip and in the table.
    """
    across = [-math.log1p(one["lost"]) for one in values]
    low, width = min(across, default=0.0), max(across, default=0.0) - min(across, default=0.0) or 1.0
    found, taken = [], list[tuple[float, float]]()
    for one, place in zip(values, across, strict=True):
        y, side = HEIGHT * (1 - one["leak"]), -1 if place - low > width / 2 else 1
        x, away = (place - low) / width + side * NEAR / 2, -LINE if one["leak"] <= 0.5 else LINE
        near = [height for other, height in taken if abs(other - x) < NEAR]
        tried = (0.7 * away + line * away for line in range(FARTHEST))
        down = next((dy for dy in tried if all(abs(y + dy - height) >= LINE for height in near)), None)
        if down is not None:
            taken.append((x, y + down))
        label = {"dy": down} if down is not None else {"dy": 0, "label": ""}
        found.append(label | {"align": "left" if side > 0 else "right", "dx": 8 * side})
    return found
