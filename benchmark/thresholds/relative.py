"""Strengths in parts of an update: what stops an attacker of one network, carried over to another.

The norm to which an update is clipped and the size of its noise mean nothing without the size of the update, which
differs between networks. So both keep their proportion to it: for updates that are three times as large, a strength is
three times as large. Ratios of masking and pruning are shares already.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt

from benchmark.suite.registry import Spec, spec

DIGITS = 3
"""Of a strength that was carried over: machines differ in later ones, and every training hangs on it."""


@dataclass(frozen=True)
class Size:
    """The size of the updates of some clients.

    Attributes:
        norm: their median L2 norm.
        entries: numbers in each.
    """

    norm: float
    entries: int

    @property
    def root_mean_square(self) -> float:
        """Of the entries of an update of that norm."""
        return self.norm / sqrt(self.entries)


def norm(size: Size) -> float:
    """What the norm of a whole update is measured by."""
    return size.norm


def root_mean_square(size: Size) -> float:
    """What something on each entry is measured by."""
    return size.root_mean_square


UNITS: dict[tuple[str, str], Callable[[Size], float]] = {
    ("Clipping", "max_norm"): norm,
    ("GaussianNoise", "std"): root_mean_square,
    ("LaplaceNoise", "scale"): root_mean_square,
    ("ValueClipping", "max_value"): root_mean_square,
}
"""What of an update a strength is compared with, by class and argument; other strengths stay as they are."""


def is_absolute(defense: str, argument: str) -> bool:
    """Whether a strength means nothing without the size of the update."""
    return (defense, argument) in UNITS


def carried_over(defense: Spec, argument: str, attacked: Size, trained: Size) -> Spec:
    """A defense that is as strong for updates of another size.

    Args:
        defense: at a strength for the updates that were attacked.
        argument: what the strength is called.
        attacked: their size.
        trained: that of the others.
    """
    if not is_absolute(defense.name, argument):
        return defense
    unit = UNITS[defense.name, argument]
    strength = defense.args[argument] * unit(trained) / unit(attacked)
    return spec("defense", defense.name, defense.args | {argument: float(f"{strength:.{DIGITS}g}")})
