"""What a practitioner asks first: at which strength a defense costs one point of accuracy, and what leaks there."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from benchmark.boards.outcome import strength
from benchmark.suite.nesting import Path, is_composed, leaves, value_as_text, without
from benchmark.tradeoff.points import Point

ONE_POINT = 0.01
"""Of accuracy, as a share."""

LOG_FROM = 100
"""Strengths whose ends are further apart than this factor are interpolated between on a logarithmic scale."""


@dataclass(frozen=True)
class Sweep:
    """A defense at all its strengths.

    Attributes:
        name: for people.
        differing: the arguments in which its points differ, with those of the defenses that it is made of.
        argument: the only one of these, if it is a number; else there is no scale of strengths.
        points: those whose cost is known, from the weakest to the strongest; by cost where there is no scale.
        left_out: the others.
    """

    name: str
    differing: tuple[Path, ...]
    argument: Path | None
    points: list[Point]
    left_out: list[Point]

    def value(self, point: Point) -> float:
        """The strength of a point."""
        assert self.argument
        return float(leaves(point.defense or {})[self.argument])

    def at(self, point: Point) -> str:
        """The strength of a point, for people."""
        return f"{self.argument[-1]}={self.value(point):g}" if self.argument else point.strength or "as it is"

    def mark(self, point: Point) -> str:
        """The same without names, as in "0.5", for a point of a figure that tells which sweep it is of."""
        values = leaves(point.defense or {})
        own = (values[path] for path in self.differing)
        return ", ".join(f"{value:g}" if isinstance(value, float) else value_as_text(value) for value in own)

    def between(self, one: Point, other: Point, share: float) -> str:
        """The strength at a share of the way from one point to another, for people."""
        low, high = (self.value(one), self.value(other)) if self.argument else (-math.inf, math.inf)
        if math.isinf(low) or math.isinf(high):
            return f"between {self.at(one)} and {self.at(other)}"
        ends = [value for value in sorted(map(self.value, self.points)) if math.isfinite(value)]
        is_logarithmic = ends[0] > 0 and ends[-1] >= LOG_FROM * ends[0]
        value = low * (high / low) ** share if is_logarithmic else low + share * (high - low)
        return f"at about {self.argument[-1] if self.argument else ''}={value:.3g}"


def sentences(points: Sequence[Point]) -> list[str]:
    """One for each defense, the one that leaks least for one point of accuracy first.

    Args:
        points: of one trade-off.
    """
    said = map(sentence, sweeps(points))
    return [text for _, text in sorted(said, key=lambda one: (one[0] is None, one[0] or 0.0, one[1]))]


def sweeps(points: Sequence[Point]) -> list[Sweep]:
    """The defenses of a trade-off, each with its strengths: classes, apart by the arguments that are no strength."""
    groups: dict[str, list[Point]] = defaultdict(list)
    for point in points:
        if point.defense:
            all_of_it = {str(path): None if is_strength(v) else v for path, v in leaves(point.defense).items()}
            groups[json.dumps(all_of_it, sort_keys=True)].append(point)
    kinds = [group[0].kind for group in groups.values()]
    found = []
    for group in groups.values():
        each = [leaves(point.defense or {}) for point in group]
        differing = tuple(path for path in each[0] if len({json.dumps(one[path]) for one in each}) > 1)
        is_scale = len(differing) == 1 and all(is_number(one[differing[0]]) for one in each)
        known = [point for point in group if not point.void]
        sweep = Sweep(
            name_of(group[0], differing, kinds.count(group[0].kind) == 1),
            differing,
            differing[0] if is_scale else None,
            known,
            [one for one in group if one not in known],
        )
        found.append(in_order(sweep))
    return found


def name_of(point: Point, differing: Collection[Path], is_alone: bool) -> str:
    """What a sweep is called: its class, what it is made of, and what tells it from others of that class.

    Args:
        point: one of it.
        differing: arguments in which its points differ.
        is_alone: whether no other sweep is of that class.
    """
    defense = point.defense or {}
    outer = {path for path, value in leaves(defense).items() if len(path) == 1 and is_strength(value)}
    same = without(defense, {*differing, *outer})
    if is_alone:
        same = {key: value for key, value in same.items() if is_composed(value)}
    return f"{point.kind} {strength(same)}".rstrip()


def is_strength(value: object) -> bool:
    """Whether an argument tells strengths of one defense apart: a number, or a list of names, as of layers."""
    return is_number(value) or isinstance(value, list)


def is_number(value: object) -> bool:
    """Whether an argument is a number, as records have it."""
    return value == "inf" or (isinstance(value, int | float) and not isinstance(value, bool))


def in_order(sweep: Sweep) -> Sweep:
    """The same, its points from the weakest to the strongest: that end which costs more accuracy and leaks less."""
    points = sorted(sweep.points, key=sweep.value if sweep.argument else cost)
    if len(points) > 1:
        first, last = points[0], points[-1]
        if sweep.argument and cost(last) - cost(first) + first.leak - last.leak < 0:
            points.reverse()
    return replace(sweep, points=points)


def cost(point: Point) -> float:
    """Of a point whose cost is known."""
    assert point.cost is not None
    return point.cost


def sentence(sweep: Sweep) -> tuple[float | None, str]:
    """What leaks for one point of accuracy: a share, None where a defense costs more or nothing is known; in words."""
    tried, name, points = len(sweep.points) + len(sweep.left_out), sweep.name, sweep.points
    if not points:
        which = "its only strength" if tried == 1 else f"its {tried} strengths"
        return None, f"{name}: {which} cannot be judged ({why(sweep.left_out)})."
    leak, said = judged(sweep)
    if sweep.left_out:
        said += f" Of its {tried} strengths {len(sweep.left_out)} cannot be judged ({why(sweep.left_out)})."
    return leak, said


def judged(sweep: Sweep) -> tuple[float | None, str]:
    """:func:`sentence` of the points whose cost is known, of which there is one."""
    name, points = sweep.name, sweep.points
    crossing = next(((a, b) for a, b in pairwise(points) if (cost(a) < ONE_POINT) != (cost(b) < ONE_POINT)), None)
    if crossing:
        one, other = crossing
        share = (ONE_POINT - cost(one)) / (cost(other) - cost(one))
        leak, most = (a + share * (b - a) for a, b in ((one.leak, other.leak), (may_leak(one), may_leak(other))))
        rate = f"{leak:.0%}" if most == leak else f"{100 * leak:.0f} to {most:.0%}"
        said = (
            f"{name} costs one point of accuracy {sweep.between(one, other, share)}, where about {rate} of the "
            f"victims leak ({leaking(one)} at {sweep.at(one)}, {leaking(other)} at {sweep.at(other)})."
        ).replace("%", " %")
        again = [
            point for point in points[points.index(other) + 1 :] if (cost(point) < ONE_POINT) == (cost(one) < ONE_POINT)
        ]
        return leak, said + (f" But at {sweep.at(again[0])} it {costs(again[0])}." if again else "")
    is_cheap, only = cost(points[0]) < ONE_POINT, len(points) == 1
    end = points[-1] if is_cheap else points[0]
    which = f"{'the only' if only else 'every'} strength {'that can be judged' if sweep.left_out else 'tried'}"
    still = "still " if is_cheap and end.leaking else ""
    return (
        end.leak if is_cheap else None,
        f"{name} costs {'less' if is_cheap else 'more'} than one point of accuracy at {which}: at "
        f"{'' if only else 'its strongest, ' if is_cheap else 'its weakest, '}{sweep.at(end)}{'' if only else ','} it "
        f"{costs(end)}, and {leaking(end)} victims {still}leak.",
    )


def costs(point: Point) -> str:
    """As in "costs 0.31 ± 0.80 points"."""
    low, high = point.row["difference_low"], point.row["difference_high"]
    half = "" if low is None else f" ± {50 * (high - low):.2f}"
    return f"{'gains' if cost(point) < 0 else 'costs'} {100 * abs(cost(point)):.2f}{half} points"


def may_leak(point: Point) -> float:
    """Share of the victims that leak or of whom nothing is known."""
    return len(point.leaking | point.unknown) / len(point.victims)


def leaking(point: Point) -> str:
    """As in "3 of 16", or "3 to 5 of 16" where nothing is known of 2."""
    most = f" to {len(point.leaking | point.unknown)}" if point.unknown else ""
    return f"{len(point.leaking)}{most} of {len(point.victims)}"


def why(points: Sequence[Point]) -> str:
    """Why points cannot be judged: the reasons of all."""
    return "; ".join(dict.fromkeys(point.void for point in points))
