"""Where leakage stops as a defense grows stronger, and how surely: from which victims leak at each tested strength."""

import itertools
import math
from collections.abc import Callable
from functools import cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from benchmark.metrics.intervals import holm, wilson

Curve = dict[float, NDArray[np.bool_]]
"""Strength -> which of the victims leak there, ``[V]``; from the weakest tested strength to the strongest."""

ERROR = 0.025
"""Probability that an end of an interval is on the wrong side of the threshold: a 95 % interval has two ends."""

NORMAL = NormalDist().inv_cdf(1 - ERROR)

SIGNIFICANT = 0.05


def split(curve: Curve, holds: Callable[[NDArray[np.bool_]], bool]) -> tuple[float | None, float | None]:
    """The strongest tested strength at which something holds, and the next stronger one; None where there is none."""
    strengths = list(curve)
    last = max((place for place, strength in enumerate(strengths) if holds(curve[strength])), default=-1)
    return (
        strengths[last] if last >= 0 else None,
        strengths[last + 1] if last + 1 < len(strengths) else None,
    )


def bracket(curve: Curve, stop: float) -> tuple[float | None, float | None]:
    """The strongest tested strength at which more than a share of ``stop`` leaks, and where leakage stops.

    The second is the weakest tested strength from which on no more than that share leaks.
    """
    return split(curve, lambda leaking: bool(leaking.mean() > stop))


def interval(curve: Curve, failed: Curve, stop: float) -> tuple[float | None, float | None]:
    """95 % interval of the strength from which on a share of at most ``stop`` of the population leaks.

    Its low end is the strongest tested strength at which the leak rate is surely above ``stop``: the threshold is
    beyond it. Each of the tested strengths could be above by chance, so the level is divided by their number
    (Bonferroni), which holds for strengths that bisection chooses, too. Its high end is the weakest tested strength
    from which on the rate is surely at most ``stop`` at every tested strength, if all leak of whom nothing is known;
    this takes for granted that leakage does not come back between or beyond them.

    Args:
        curve: which victims leak at each strength.
        failed: of which of them an attack that found nothing tells nothing.
        stop: largest share of victims that may leak where leakage has stopped.

    Returns:
        Both ends. The low one is None where not even the weakest strength is surely above, the high one where not even
        the strongest is surely at most ``stop``: nothing is certified then.
    """
    level = ERROR / len(curve)
    low, _ = split(curve, lambda leaking: surely_above(int(leaking.sum()), len(leaking), stop, level))
    may_leak = {strength: leaking | failed[strength] for strength, leaking in curve.items()}
    _, high = split(may_leak, lambda leaking: not surely_at_most(int(leaking.sum()), len(leaking), stop))
    return low, high


@cache
def surely_above(leaking: int, victims: int, stop: float, level: float = ERROR) -> bool:
    """Whether a leak rate is above ``stop``, by the exact binomial test (Wilson's lower end is too high near 0)."""
    from scipy.stats import binom  # a good part of a second

    return bool(binom.sf(leaking - 1, victims, stop) <= level)


@cache
def surely_at_most(leaking: int, victims: int, stop: float) -> bool:
    """Whether a leak rate is at most ``stop``: by Wilson's upper end, and by the exact binomial test.

    Which of the two is stricter depends on the counts.
    """
    from scipy.stats import binom

    return wilson(leaking, victims)[1] <= stop and bool(binom.cdf(leaking, victims, stop) <= ERROR)


def victims_to_certify(stop: float) -> int | None:
    """With how many victims, none of whom leaks, :func:`surely_at_most` holds; None where with no number."""
    if stop == 0:
        return None
    of_wilson = NORMAL**2 * (1 - stop) / stop  # its upper end at 0 of n is z² / (n + z²)
    exact = math.log(ERROR) / math.log1p(-stop)  # the chance of 0 of n is (1 - stop)^n
    return math.ceil(max(of_wilson, exact))


def rises(curve: Curve) -> list[tuple[float, float]]:
    """Neighboring strengths between which the leak rate rises by more than chance.

    By exact one-sided tests on the victims that differ (McNemar 1947), corrected for the number of pairs (Holm 1979).
    """
    from scipy.stats import binomtest

    pairs = list(itertools.pairwise(curve))
    tested = []
    for weaker, stronger in pairs:
        gained = int((curve[stronger] & ~curve[weaker]).sum())
        lost = int((curve[weaker] & ~curve[stronger]).sum())
        tested.append(binomtest(gained, gained + lost, alternative="greater").pvalue if gained + lost else 1.0)
    return [pair for pair, p in zip(pairs, holm(tested), strict=True) if p <= SIGNIFICANT]
