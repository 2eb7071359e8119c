"""The figure of the trade-off: each defense with both intervals, its strength beside it, and the front."""

import math
from collections.abc import Iterator, Sequence
from textwrap import fill
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.boards.figure import as_pdf, as_png, blank
from benchmark.tradeoff.points import FRONT, Point, TradeOff

WIDTH, HEIGHT, DPI = 10, 7.5, 100
"""Of a panel in inches: 1,000 pixels wide."""

SIZE, LETTER, LINE = 9, 8.5, 14.0
"""Points of a label's letters, and pixels that a letter takes at most."""

MARKERS = "oD^vP<>pX*dhH8"


def figure(found: Sequence[TradeOff]) -> dict[str, bytes]:
    """A panel for each trade-off.

    Returns:
        The same figure as "png" and "pdf".
    """
    drawn = blank(WIDTH, HEIGHT * len(found), DPI)
    panels = list(zip(drawn.subplots(len(found), squeeze=False)[:, 0], found, strict=True))
    for axes, one in panels:
        panel(axes, one)
    drawn.draw_without_rendering()  # from here on points have their places
    for axes, one in panels:
        name_points(axes, one)
    return {"png": as_png(drawn), "pdf": as_pdf(drawn)}


def panel(axes: Any, found: TradeOff) -> None:
    """Points with both intervals, hollow where they are not on the front, and the front as a line."""
    for kind, (color, marker) in styles(found).items():
        points = [point for point in found.judged if point.kind == kind]
        for filled in (True, False):
            shown = [point for point in points if (found.standing(point) == FRONT) == filled]
            if shown:
                axes.errorbar(
                    [100 * point.accuracy for point in shown],
                    [100 * point.leak for point in shown],
                    xerr=np.transpose([bars(point.accuracy, point.accuracy_interval) for point in shown]),
                    yerr=np.transpose([bars(point.leak, point.leak_interval) for point in shown]),
                    fmt=marker,
                    color=color,
                    markerfacecolor=color if filled else "white",
                    elinewidth=0.6,
                    markersize=7,
                    label=kind if filled or len(shown) == len(points) else None,
                )
    front = found.front
    axes.step(
        [100 * point.accuracy for point in front],
        [100 * point.leak for point in front],
        where="pre",
        color="black",
        linewidth=1.2,
        zorder=1,
        label="front",
    )
    axes.set_ylim(-9, 109)
    axes.margins(x=0.06)
    axes.grid(alpha=0.25)
    silent = len(found.points) - len(found.judged)
    left_out = f"\nleft out, for the reasons in the table: {silent} of {len(found.points)} points" if silent else ""
    axes.set_title(fill(found.attacked, 110) + left_out, fontsize=10)
    axes.set_xlabel("accuracy after federated training, %")
    axes.set_ylabel("victims that leak, worst case, %")
    spread(axes, found)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=9)


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


def styles(found: TradeOff) -> dict[str, tuple[Any, str]]:
    """A color and a marker for each class of defense."""
    from matplotlib import color_sequences

    bright = [np.array(color) for color in color_sequences["tab10"]]
    colors = [*(0.85 * color for color in bright), *(0.5 * color for color in bright)]  # legible as letters, too
    kinds = sorted({point.kind for point in found.judged if point.defense})
    own = {kind: (colors[i % len(colors)], MARKERS[i % len(MARKERS)]) for i, kind in enumerate(kinds)}
    return {"no defense": ("black", "s"), **own}


def bars(value: float, interval: tuple[float, float]) -> tuple[float, float]:
    """How far an interval reaches down and up, in percent."""
    return 100 * (value - interval[0]), 100 * (interval[1] - value)


def name_points(axes: Any, found: TradeOff) -> None:
    """The strength of each point beside it, where no other one and no point is, with a line to it where it is far."""
    points, drawn = found.judged, styles(found)
    at = axes.transData.transform([(100 * point.accuracy, 100 * point.leak) for point in points]).reshape(-1, 2)
    frame = axes.get_window_extent()
    texts = [short(point) for point in points]
    boxes = places(at, texts, ((frame.x0, frame.y0), (frame.x1, frame.y1)))
    for point, text, (x, y), box in zip(points, texts, at, boxes, strict=True):
        if box is not None:
            far = math.hypot(box[0] - x, box[1] - y) > 2 * LINE
            axes.annotate(
                text,
                (x, y),
                box,
                "figure pixels",
                "figure pixels",
                ha="center",
                va="center",
                fontsize=SIZE,
                color=drawn[point.kind][0],
                arrowprops={"arrowstyle": "-", "linewidth": 0.5, "color": "gray"} if far else None,
                zorder=3,
            ).set_in_layout(False)


def short(point: Point) -> str:
    """The values of a defense's arguments, as in "0.5", since its class has a color; cut where they are long."""
    values = [f"{v:.3g}" if isinstance(v, float) else str(v) for k, v in (point.defense or {}).items() if k != "class"]
    text = ", ".join(value for value in values if value != "False") or point.kind
    return text if len(text) <= 24 else f"{text[:23]}…"


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
