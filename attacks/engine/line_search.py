"""The line search of one problem, as a dialogue: it says where to look, and is told what is there."""

import math
from collections.abc import Generator
from typing import NamedTuple

from torch import Tensor

DECREASE = 1e-4
"""Share of the expected decrease that a step must bring: the first Wolfe condition."""

CURVATURE = 0.9
"""Share of the slope that may be left after a step: the second, in its strong form."""

MOST = 25
"""Evaluations of a search, after which the lowest point that was found is taken."""


class Point(NamedTuple):
    """A point on the line.

    Attributes:
        step: length of the step to it.
        loss: there; infinite where it is not a number.
        slope: along the line.
        gradient: in all dimensions, ``[D]``.
    """

    step: float
    loss: float
    slope: float
    gradient: Tensor


Search = Generator[float, Point, Point]
"""Yields the step that is to be evaluated, is sent the point there, and returns the point that is taken."""


def strong_wolfe(start: Point, step: float, longest: float, least: float) -> Search:
    """The search of ``torch.optim.LBFGS(line_search_fn="strong_wolfe")``, step by step.

    It brackets a point where both Wolfe conditions hold, and narrows the bracket by cubic interpolation (Nocedal and
    Wright 2006, algorithms 3.5 and 3.6). A loss that is not finite is one that is too high.

    Args:
        start: where the line begins, with step 0.
        step: the first one to try.
        longest: largest entry of the direction.
        least: change of an entry below which a bracket is not narrowed.
    """
    previous, found = start, (yield step)
    evaluations = 0  # torch's count, which leaves out the first one
    while evaluations < MOST:
        if _too_high(found, start) or (evaluations > 1 and found.loss >= previous.loss):
            break
        if abs(found.slope) <= -CURVATURE * start.slope:
            return found
        if found.slope >= 0:
            break
        bounds = found.step + 0.01 * (found.step - previous.step), 10 * found.step
        step = cubic_minimum(previous, found, bounds)
        previous, found = found, (yield step)
        evaluations += 1
    else:
        previous = start
    bracket = [previous, found]
    low = 0 if previous.loss <= found.loss else 1
    is_slow = False
    while evaluations < MOST and not abs(bracket[1].step - bracket[0].step) * longest < least:
        step, is_slow = _inside(bracket, is_slow)
        found = yield step
        evaluations += 1
        high = 1 - low
        if _too_high(found, start) or found.loss >= bracket[low].loss:
            bracket[high] = found
            low = 0 if bracket[0].loss <= bracket[1].loss else 1
            continue
        if abs(found.slope) <= -CURVATURE * start.slope:
            return found
        if found.slope * (bracket[high].step - bracket[low].step) >= 0:
            bracket[high] = bracket[low]
        bracket[low] = found
    return bracket[low]


def _too_high(found: Point, start: Point) -> bool:
    return found.loss > start.loss + DECREASE * found.step * start.slope


def _inside(bracket: list[Point], is_slow: bool) -> tuple[float, bool]:
    """The next step to try in a bracket, and whether it is close to an end of it, which twice in turn is too slow."""
    step = cubic_minimum(bracket[0], bracket[1])
    first, last = sorted(point.step for point in bracket)
    margin = 0.1 * (last - first)
    if min(last - step, step - first) >= margin:
        return step, False
    if is_slow or step >= last or step <= first:
        return (last - margin if abs(step - last) < abs(step - first) else first + margin), False
    return step, True


def cubic_minimum(one: Point, other: Point, bounds: tuple[float, float] | None = None) -> float:
    """Where the cubic through two points with their slopes is lowest, or the middle where it has no minimum.

    Args:
        one, other: the points.
        bounds: the least and the greatest step; those of the points where there are none.
    """
    left, right = sorted((one, other), key=lambda point: point.step)
    least, most = bounds or (left.step, right.step)
    try:
        mean = left.slope + right.slope - 3 * (left.loss - right.loss) / (left.step - right.step)
        root = math.sqrt(mean**2 - left.slope * right.slope)
        width = right.step - left.step
        step = right.step - width * ((right.slope + root - mean) / (right.slope - left.slope + 2 * root))
    except (ValueError, ZeroDivisionError, OverflowError):
        step = math.nan
    return (least + most) / 2 if math.isnan(step) else min(max(step, least), most)
