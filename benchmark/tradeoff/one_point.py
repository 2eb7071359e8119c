"""What a practitioner asks first: at which strengths a defense costs less than a point of accuracy, and what leaks
there."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from benchmark.boards.outcome import strength
from benchmark.suite.nesting import Path, is_composed, leaves, value_as_text, without
from benchmark.tradeoff.points import Point
from benchmark.training.table import LARGE, OPEN, SMALL, costs

COSTS_SAID = (
    "A defense is said to cost less than a point of accuracy, or more, only where the whole 95 % interval of its cost, "
    "paired by seed, does; otherwise that is open. In brackets are this cost in points, negative where accuracy is "
    "gained, and the victims that leak to any attack; of those that are unknown, no attack that knows the defense has "
    "shown whether they leak. First comes what leaks least for less than a point."
)
"""What the sentences mean."""


@dataclass(frozen=True)
class Sweep:
    """A defense at all its strengths.

    Attributes:
        name: for people.
        differing: the arguments in which its points differ, with those of the defenses that it is made of.
        points: those whose cost is known, in the order of these arguments, which no result decides.
        left_out: the others, likewise.
    """

    name: str
    differing: tuple[Path, ...]
    points: list[Point]
    left_out: list[Point]

    def at(self, point: Point) -> str:
        """The strength of a point, for people."""
        values = leaves(point.defense or {})
        own = ", ".join(f"{path[-1]}={as_mark(values[path])}" for path in self.differing)
        return own or point.strength or "the only strength"

    def mark(self, point: Point) -> str:
        """The same without names, as in "0.5", for a point of a figure that tells which sweep it is of."""
        values = leaves(point.defense or {})
        return ", ".join(as_mark(values[path]) for path in self.differing)

    def place(self, point: Point) -> list[tuple[bool, float, str]]:
        """Where a point stands among the others: numbers by size, and lists of names by letter."""
        values = [leaves(point.defense or {})[path] for path in self.differing]
        return [(True, float(one), "") if is_number(one) else (False, 0.0, value_as_text(one)) for one in values]


def as_mark(value: object) -> str:
    """A strength, for people."""
    return f"{value:g}" if isinstance(value, float) else value_as_text(value)


def sentences(points: Sequence[Point]) -> list[str]:
    """One for each defense, the one that leaks least for less than a point of accuracy first.

    Args:
        points: of one trade-off.
    """
    said = [(least(sweep), sentence(sweep)) for sweep in sweeps(points)]
    return [text for _, text in sorted(said)]


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
        sweep = Sweep(name_of(group[0], differing, kinds.count(group[0].kind) == 1), differing, [], [])
        for point in sorted(group, key=sweep.place):
            (sweep.left_out if point.void else sweep.points).append(point)
        found.append(sweep)
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


def least(sweep: Sweep) -> tuple[int, float]:
    """Where a defense stands among the others: what may leak for less than a point, or else where that is open."""
    for place, verdict in enumerate((SMALL, OPEN, LARGE)):
        rates = [point.may_leak for point in sweep.points if costs(point.row) == verdict]
        if rates:
            return place, min(rates)
    return 3, 1.0


def sentence(sweep: Sweep) -> str:
    """At which strengths a defense costs less than a point, at which more, and at which that is open."""
    said = []
    for verdict in (SMALL, OPEN, LARGE):
        at = [described(sweep, point) for point in sweep.points if costs(point.row) == verdict]
        said += [f"{verdict} at {', '.join(at)}"] if at else []
    at = [sweep.at(point) for point in sweep.left_out]
    said += [f"not judged at {', '.join(at)} ({why(sweep.left_out)})"] if at else []
    return f"{sweep.name}: {'; '.join(said)}."


def described(sweep: Sweep, point: Point) -> str:
    """As in "ratio=0.5 (0.31, -0.49 to 1.11; 16 of 16 leak)"."""
    assert point.cost is not None
    low, high = point.row["difference_low"], point.row["difference_high"]
    ends = "" if low is None else f", {-100 * high:z.2f} to {-100 * low:z.2f}"
    return f"{sweep.at(point)} ({100 * point.cost:z.2f}{ends}; {point.found})"


def why(points: Sequence[Point]) -> str:
    """Why points cannot be judged: the reasons of all."""
    return "; ".join(dict.fromkeys(point.void for point in points))
