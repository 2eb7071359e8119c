"""The trade-off of leak rate and accuracy on a page: its sentences and table, and the points of its plot."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmark.boards.grid import Grid
from benchmark.boards.one_point import sentences
from benchmark.boards.tradeoff import FRONT, Point, TradeOff
from benchmark.boards.tradeoff_figure import short
from benchmark.boards.tradeoff_page import grid

HEIGHT, LINE, FARTHEST = 340, 13, 8
"""Pixels of the plot and of a line of text, and lines that a name stands away from its point at most."""


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
    values = [value(point, found) | at for point, at in zip(found.judged, places(found.judged), strict=True)]
    return TradeOffView(found, sentences(found.points), grid(found), values)


def value(point: Point, found: TradeOff) -> dict[str, Any]:
    """A point with both intervals."""
    (leak_low, leak_high), (low, high) = point.leak_interval, point.accuracy_interval
    return {
        "name": point.name,
        "defense": point.kind,
        "standing": found.standing(point),
        "front": found.standing(point) == FRONT,
        "leak": point.leak,
        "leak_low": leak_low,
        "leak_high": leak_high,
        "accuracy": point.accuracy,
        "accuracy_low": low,
        "accuracy_high": high,
    }


def places(points: Sequence[Point]) -> list[dict[str, Any]]:
    """The strength beside each point: towards the middle of the plot, and not on another one.

    Where there is no room it is left out; then it is in the tooltip and in the table.
    """
    accuracies = [point.accuracy for point in points]
    middle = (min(accuracies) + max(accuracies)) / 2 if points else 0.0
    found, taken = [], list[float]()
    for one in points:
        at, away = HEIGHT * (1 - one.leak), -LINE if one.leak <= 0.5 else LINE
        tried = (0.7 * away + line * away for line in range(FARTHEST))
        down = next((dy for dy in tried if all(abs(at + dy - other) >= LINE for other in taken)), None)
        if down is not None:
            taken.append(at + down)
        side = {"align": "right", "dx": -8} if one.accuracy > middle else {"align": "left", "dx": 8}
        found.append({"label": "" if down is None else short(one), "dy": down or 0, **side})
    return found
