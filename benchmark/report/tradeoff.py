"""The trade-off of leak rate and accuracy on a page: its sentences and table, and the points of its plot."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.boards.grid import Grid
from benchmark.tradeoff.figure import labels
from benchmark.tradeoff.one_point import sentences
from benchmark.tradeoff.page import grid
from benchmark.tradeoff.points import FRONT, Point, TradeOff, as_key

HEIGHT, EDGE = 340, 15
"""Pixels of the plot, and from its left and right side to the intervals."""

LETTER, LINE, POINT = 6.5, 13.0, 6.0
"""Pixels that a letter and a line of a label take at most, and half a point's mark."""

NARROW, WIDE = (240.0, 300.0, 360.0, 440.0), (440.0, 600.0, 800.0, 1000.0, 1240.0)
"""Pixels of the plot across on a telephone and on wider screens, at each of which labels have to have room."""

AROUND = [(1, -1), (-1, -1), (1, 1), (-1, 1), (0, -1), (0, 1), (1, 0), (-1, 0)]
"""Where a label may stand beside its point, right or left, and below or above; first where no interval strikes it."""

Box = tuple[NDArray[np.float64], NDArray[np.float64], float, float]
"""The left and the right end of what is drawn, at each width of the plot, and its top and its bottom; in pixels."""

VALUES = {
    "rate": "learning_rate",
    "accuracy %": "accuracy",
    "seeds": "seeds",
    "difference": "difference",
    "sent": "bytes",
    "ms / client": "client_seconds",
    "epsilon": "epsilon",
}
"""Columns that sort by a number of the training; the others sort by their texts."""


@dataclass(frozen=True)
class TradeOffView:
    """What a page says of a trade-off.

    Attributes:
        found: its headings and notes.
        sentences: on what one point of accuracy buys.
        grid: its table.
        numbers: of each row, those that its texts sort by, by the names of their columns.
        values: of the points of the plot, which has none that says nothing.
    """

    found: TradeOff
    sentences: list[str]
    grid: Grid
    numbers: list[dict[str, float | None]]
    values: list[dict[str, Any]]


def view(found: TradeOff) -> TradeOffView:
    """What a page says of a trade-off."""
    values = [value(point, found) for point in found.judged]
    placed = zip(values, places(values, NARROW), places(values, WIDE), strict=True)
    values = [one | {"narrow": narrow, "wide": wide} for one, narrow, wide in placed]
    numbers = [{name: point.row[key] for name, key in VALUES.items()} for point in found.points]
    return TradeOffView(found, sentences(found.points), grid(found), numbers, values)


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


def places(values: Sequence[dict[str, Any]], widths: Sequence[float]) -> list[dict[str, Any]]:
    """Where the label of each point stands: beside it, and on no other one and no point; those of the front come first.

    Where there is no room it is left out; then it is in the tooltip and in the table.

    Args:
        values: of the points.
        widths: of the plot, at each of which there has to be room.
    """
    if not values:
        return []
    ends = [as_drawn(one[key]) for one in values for key in ("lost_low", "lost_high")]
    shares = np.array([as_drawn(one["lost"]) - min(ends) for one in values]) / (max(ends) - min(ends) or 1.0)
    across = EDGE + np.outer(1 - shares, np.array(widths) - 2 * EDGE)
    down = [HEIGHT * (1 - one["leak"]) for one in values]
    taken = [(x - POINT, x + POINT, y - POINT, y + POINT) for x, y in zip(across, down, strict=True)]
    found: list[dict[str, Any]] = [{"label": ""} for _ in values]
    for place in sorted(range(len(values)), key=lambda place: not values[place]["front"]):
        text, x, y = values[place]["label"], across[place], down[place]
        wide = LETTER * len(text)
        for side, below in AROUND:
            dx, dy = 8 * side, (11 if side else LINE) * below
            left, top = x + dx - wide * (1 - side) / 2, y + dy - LINE / 2
            box = left, left + wide, top, top + LINE
            inside = (box[0] >= 0).all() and (box[1] <= widths).all() and top >= -LINE / 2 and box[3] <= HEIGHT
            if inside and not any(overlap(box, other) for other in taken):
                taken.append(box)
                found[place] = {"label": text, "align": ("center", "left", "right")[side], "dx": dx, "dy": dy}
                break
    return found


def as_drawn(lost: float) -> float:
    """Where it stands on the symmetric logarithmic axis."""
    return math.copysign(math.log1p(abs(lost)), lost)


def overlap(one: Box, other: Box) -> bool:
    """Whether two boxes touch at any width of the plot."""
    across = (one[0] < other[1]) & (other[0] < one[1])
    return bool(across.any()) and one[2] < other[3] and other[2] < one[3]
