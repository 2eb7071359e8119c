"""The figure of the trade-off: each defense with both intervals, its strengths beside it, and the front.

Points where every victim leaks would all lie on one line. They stand in rows above the others, one for each defense.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.boards.figure import as_pdf, as_png, blank
from benchmark.tradeoff.one_point import sweeps
from benchmark.tradeoff.points import FRONT, Point, TradeOff, as_key

WIDTH, HEIGHT, DPI = 10, 5.5, 100
"""Of the part of a panel where not all leaks, in inches: 1,000 pixels wide."""

ROW, NAME = 0.22, 26
"""Inches of a row, and letters in a line of a defense's name beside it."""

SIZE, LETTER, LINE = 9, 8.5, 14.0
"""Points of a label's letters, and pixels that a letter takes at most."""

APART = 7.0
"""Pixels from a point in a row to its strength."""

PAPER = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.5}
"""Behind letters, so that lines do not strike them through."""

READING = "Down and right is better. Black line: the front, whose points are filled. Bars: 95 % intervals."


@dataclass(frozen=True)
class Series:
    """The points of a defense that are drawn.

    Attributes:
        name: of the defense.
        points: in the order of their strengths.
        marks: the strength of each; empty where there is one alone.
        color: of all of it.
    """

    name: str
    points: list[Point]
    marks: list[str]
    color: Any

    def where(self, leaks_wholly: bool) -> "Series":
        """Of it what leaks all victims, or the rest."""
        kept = [place for place, point in enumerate(self.points) if (point.leak == 1) == leaks_wholly]
        return Series(self.name, [self.points[i] for i in kept], [self.marks[i] for i in kept], self.color)

    @property
    def most_accurate(self) -> float:
        """The highest accuracy of its points."""
        return max(point.accuracy for point in self.points)


def series(found: TradeOff) -> list[Series]:
    """The defenses of a trade-off that have a point, no defense first."""
    from matplotlib import color_sequences

    bright = [np.array(color) for color in color_sequences["tab10"]]
    colors = [*(0.85 * color for color in bright), *(0.5 * color for color in bright)]  # legible as letters, too
    control = [point for point in found.judged if not point.defense]
    drawn = [Series("no defense", control, [""], "black")] if control else []
    for number, sweep in enumerate(sorted(sweeps(found.points), key=lambda one: one.name)):
        if sweep.points:
            name, marks = sweep.name.removeprefix("Compose "), [sweep.mark(point) for point in sweep.points]
            drawn.append(Series(name, sweep.points, marks, colors[number % len(colors)]))
    return drawn


def parts_of(drawn: Sequence[Series], leaks_wholly: bool) -> list[Series]:
    """What of defenses leaks all victims, or the rest, without those of which nothing is left."""
    return [part for one in drawn if (part := one.where(leaks_wholly)).points]


def labels(found: TradeOff) -> dict[str, str]:
    """The defense of each judged point and its strength, as short as they can be, by :func:`as_key`."""
    return {
        as_key(point.defense): f"{one.name} {mark}".rstrip()
        for one in series(found)
        for point, mark in zip(one.points, one.marks, strict=True)
    }


def figure(found: Sequence[TradeOff]) -> dict[str, bytes]:
    """A panel for each trade-off.

    Returns:
        The same figure as "png" and "pdf".
    """
    each = [series(one) for one in found]
    rows = [sorted(parts_of(drawn, True), key=lambda one: one.most_accurate) for drawn in each]
    heights = [HEIGHT + ROW * (len(of_panel) + 2) for of_panel in rows]
    drawn = blank(WIDTH, sum(heights), DPI)
    parts = drawn.subfigures(len(found), height_ratios=heights, squeeze=False)[:, 0]
    others = [parts_of(of_panel, False) for of_panel in each]
    panels = [panel(*one) for one in zip(parts, found, rows, others, strict=True)]
    drawn.draw_without_rendering()  # from here on points have their places
    for (above, below), of_rows, of_others in zip(panels, rows, others, strict=True):
        if above is not None:
            name_rows(above, of_rows)
        name_points(below, of_others)
    return {"png": as_png(drawn), "pdf": as_pdf(drawn)}


def panel(part: Any, found: TradeOff, rows: Sequence[Series], others: Sequence[Series]) -> tuple[Any, Any]:
    """The rows where all leaks, None where there are none, and the rest over accuracy, with the front as a line.

    Args:
        part: of the figure.
        found: what is drawn.
        rows: from the lowest.
        others: where not all leaks.
    """
    above = None
    if rows:
        above, below = part.subplots(2, sharex=True, height_ratios=[ROW * (len(rows) + 1), HEIGHT])
        for height, one in enumerate(rows):
            draw(above, found, one, [float(height)] * len(one.points))
        above.set_yticks(range(len(rows)), [fill(one.name, NAME) for one in rows], fontsize=SIZE - 1, linespacing=0.85)
        for label, one in zip(above.get_yticklabels(), rows, strict=True):
            label.set_color(one.color)
        above.set_ylim(-0.7, len(rows) - 0.3)
        above.set_title("every victim leaks", loc="left", fontsize=SIZE)
        above.grid(alpha=0.25)
    else:
        below = part.subplots()
    for one in others:
        draw(below, found, one, [100 * point.leak for point in one.points], leaks=True)
    front = found.front
    below.step(
        [100 * point.accuracy for point in front],
        [100 * point.leak for point in front],
        where="pre",
        color="black",
        linewidth=1.5,
        zorder=1,
    )
    below.set_ylim(-9, 104)
    below.margins(x=0.06)
    below.grid(alpha=0.25)
    silent = len(found.points) - len(found.judged)
    left_out = f"\nleft out, for the reasons in the table: {silent} of {len(found.points)} points" if silent else ""
    part.suptitle(f"{fill(found.attacked, 110)}{left_out}\n{READING}", fontsize=10)
    below.set_xlabel("accuracy after federated training, %")
    below.set_ylabel("victims that leak, worst case, %")
    spread(below, found)
    return above, below


def draw(axes: Any, found: TradeOff, one: Series, heights: Sequence[float], leaks: bool = False) -> None:
    """The points of a defense, filled where they are on the front, with their intervals and a line through them.

    Args:
        axes: to draw on.
        found: what the defense is of.
        one: the defense.
        heights: of its points.
        leaks: whether the intervals of leak rates are drawn.
    """
    at = [100 * point.accuracy for point in one.points]
    axes.plot(at, heights, color=one.color, linewidth=1, alpha=0.5, zorder=1)
    for point, x, y in zip(one.points, at, heights, strict=True):
        _, _, lines = axes.errorbar(
            [x],
            [y],
            xerr=np.transpose([bars(point.accuracy, point.accuracy_interval)]),
            yerr=np.transpose([bars(point.leak, point.leak_interval)]) if leaks else None,
            fmt="o",
            color=one.color,
            markerfacecolor=one.color if found.standing(point) == FRONT else "white",
            elinewidth=0.8,
            markersize=6,
        )
        for line in lines:
            line.set_alpha(0.4)


LOST = (0, 1, 2, 5, 10, 20, 50)
"""Points of accuracy below the best one at which the axis has ticks, where it is logarithmic."""

WIDE = 10
"""Points between the best accuracy and the worst beyond which the axis is logarithmic in what is lost."""


def spread(axes: Any, found: TradeOff) -> None:
    """Where accuracies are far apart, an axis on which one point lost near the best is as far as a factor elsewhere."""
    accuracies = [100 * point.accuracy for point in found.judged]
    if not accuracies or max(accuracies) - min(accuracies) < WIDE:
        return
    best, (low, _) = max(accuracies), axes.get_xlim()

    def forward(x: NDArray[np.float64]) -> NDArray[np.float64]:
        return -np.arcsinh(best - x)

    def backward(x: NDArray[np.float64]) -> NDArray[np.float64]:
        return best + np.sinh(x)

    axes.set_xscale("function", functions=(forward, backward))
    axes.set_xlim(low, 0.5 + max(100 * point.accuracy_interval[1] for point in found.judged))
    ticks = [best - lost for lost in LOST if best - lost > low]
    axes.set_xticks(ticks, [f"{tick:.1f}" for tick in ticks])
    axes.set_xlabel("accuracy after federated training, %, on a logarithmic scale of what is lost")


def bars(value: float, interval: tuple[float, float]) -> tuple[float, float]:
    """How far an interval reaches down and up, in percent."""
    return 100 * (value - interval[0]), 100 * (interval[1] - value)


def name_rows(axes: Any, rows: Sequence[Series]) -> None:
    """The strengths in each row, right of their points; those of points that leave no room for it stand together."""
    for height, one in enumerate(rows):
        across = axes.transData.transform([(100 * point.accuracy, height) for point in one.points])[:, 0]
        for x, text in together(across.tolist(), one.marks):
            axes.annotate(
                text,
                (axes.transData.inverted().transform((x, 0))[0], height),
                (APART, 0),
                textcoords="offset pixels",
                ha="left",
                va="center",
                fontsize=SIZE - 1,
                color=one.color,
                bbox=PAPER,
            ).set_in_layout(False)


def together(across: Sequence[float], marks: Sequence[str]) -> list[tuple[float, str]]:
    """The texts of a row, each with the pixel of the last point that it is of.

    Args:
        across: pixels of its points.
        marks: their strengths.
    """
    found: list[tuple[float, str]] = []
    for x, mark in sorted(zip(across, marks, strict=True), key=lambda one: one[0]):
        if found and x < found[-1][0] + 2 * APART + LETTER * len(found[-1][1]):
            found[-1] = (x, f"{found[-1][1]}, {mark}")
        else:
            found.append((x, mark))
    return found


def name_points(axes: Any, drawn: Sequence[Series]) -> None:
    """Beside each point its strength, and beside the first one of a defense its name, where no other one and no point
    is, with a line to it where it is far."""
    shown = [
        (point, " ".join(filter(None, ("" if number else one.name, mark))), one.color)
        for one in drawn
        for number, (point, mark) in enumerate(zip(one.points, one.marks, strict=True))
    ]
    at = axes.transData.transform([(100 * point.accuracy, 100 * point.leak) for point, *_ in shown]).reshape(-1, 2)
    frame = axes.get_window_extent()
    boxes = places(at, [text for _, text, _ in shown], ((frame.x0, frame.y0), (frame.x1, frame.y1)))
    for (_, text, color), (x, y), box in zip(shown, at, boxes, strict=True):
        if box is not None:
            far = math.hypot(box[0] - x, box[1] - y) > 2 * LINE + LETTER * len(text) / 2
            axes.annotate(
                text,
                (x, y),
                box,
                "figure pixels",
                "figure pixels",
                ha="center",
                va="center",
                fontsize=SIZE,
                color=color,
                bbox=PAPER,
                arrowprops={"arrowstyle": "-", "linewidth": 0.5, "color": "gray"} if far else None,
                zorder=3,
            ).set_in_layout(False)


def places(
    points: NDArray[np.float64], texts: Sequence[str], frame: tuple[tuple[float, float], tuple[float, float]]
) -> list[tuple[float, float] | None]:
    """The middle of the text of each point: the nearest place in the frame that is free.

    Args:
        points: ``[P, 2]``, pixels.
        texts: P of them.
        frame: its lower left and upper right corner.

    Returns:
        P places; None where there is none.
    """
    middles, halves = points.copy(), np.full(points.shape, 6.0)  # first of what is taken: the markers
    found: list[tuple[float, float] | None] = []
    for point, text in zip(points, texts, strict=True):
        half = np.array([LETTER * len(text) / 2, LINE / 2])
        low, high = np.array(frame[0]) + half, np.array(frame[1]) - half
        for place in around(point, half):
            apart = np.abs(middles - place) >= halves + half
            if (place >= low).all() and (place <= high).all() and apart.any(1).all():
                middles, halves = np.vstack([middles, place]), np.vstack([halves, half])
                found.append((float(place[0]), float(place[1])))
                break
        else:
            found.append(None)
    return found


def around(point: NDArray[np.float64], half: NDArray[np.float64]) -> Iterator[NDArray[np.float64]]:
    """Places of a text around a point, the nearest ones first."""
    for distance in range(9, 400, 6):
        for turn in range(16):
            angle = math.pi * (turn / 8 + 1 / 4)
            direction = np.array([math.cos(angle), math.sin(angle)])
            yield point + direction * distance + half * direction / np.abs(direction).max()
