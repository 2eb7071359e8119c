"""Paired differences over few clusters: victims of a sequence depend on each other, sequences do not.

The interval is a t interval over the clusters, the test flips the signs of whole clusters: both hold for ten clusters,
where the percentile bootstrap is too short.
"""

import itertools
import math
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmark.metrics.intervals import SEED

FEW = 5
"""Of fewer clusters that differ there is no interval: those that are rarer than that, ten clusters can lack."""

FLIPS = 10_000
"""Sign patterns that are drawn where there are more of them: from 14 clusters on. Of fewer clusters all are taken."""

Array = NDArray[np.float64]


class Difference(NamedTuple):
    """Of two treatments of the same victims.

    Attributes:
        value: of all victims.
        low, high: ends of its 95 % interval; infinite where too few clusters differ.
        p: two-sided, exact; not corrected.
    """

    value: float
    low: float
    high: float
    p: float

    @property
    def is_bounded(self) -> bool:
        return math.isfinite(self.low)


def of_means(differences: Array, counts: Array) -> Difference:
    """The mean difference of a victim.

    Args:
        differences: sums over the victims of each cluster, ``[S]``.
        counts: victims of each cluster, ``[S]``, above 0.
    """
    value = differences.sum() / counts.sum()
    return of_parts(differences / counts.sum(), (differences - value * counts) / counts.sum())


def of_sums(here: Array, there: Array) -> Difference:
    """The relative difference of two sums, ``sum(here) / sum(there) - 1``; its interval is symmetric in the logarithm.

    Args:
        here: sums over the victims of each cluster, ``[S]``, above 0.
        there: the same of the other treatment, ``[S]``, above 0.
    """
    ratio = here.sum() / there.sum()
    factor = math.exp(half_width(here / here.sum() - there / there.sum()))
    return bounded(here - there, ratio - 1, ratio / factor - 1, ratio * factor - 1)


def of_parts(parts: Array, residuals: Array) -> Difference:
    """A value to which each cluster adds its part.

    Args:
        parts: of the value, of each cluster, ``[S]``.
        residuals: what each part adds to the value's error, ``[S]``, with the mean 0.
    """
    half, value = half_width(residuals), parts.sum()
    return bounded(parts, value, value - half, value + half)


def half_width(residuals: Array) -> float:
    """Half of the 95 % t interval of a sum whose parts come from each cluster, ``[S]``, and have the mean 0."""
    from scipy.stats import t

    count = len(residuals)
    if count < FEW:
        return 0.0  # no interval will be given
    return float(t.ppf(0.975, count - 1) * math.sqrt(count / (count - 1) * (residuals**2).sum()))


def bounded(differences: Array, value: float, low: float, high: float) -> Difference:
    """With its p-value, and with no interval where too few clusters differ."""
    if np.count_nonzero(differences) < FEW:
        low, high = -math.inf, math.inf
    return Difference(float(value), float(low), float(high), sign_flip_p(differences))


def sign_flip_p(differences: Array) -> float:
    """Two-sided p-value of the sign-flip test (Fisher 1935): whether clusters differ from 0 in no direction.

    If two treatments do the same, the difference of each cluster is as likely as its negative, whatever its size. Over
    all sign patterns that is exact, however few clusters there are and however long the tails.

    Args:
        differences: of each cluster, ``[S]``.

    Returns:
        Above 0, at most 1; not below ``2 / 2**S``.
    """
    differing = differences[differences != 0]
    if differing.size < 2:  # either sign of the one that differs is as likely
        return 1.0
    sums = np.abs(_signs(differing.size) @ differing)
    return float(np.mean(sums >= abs(differing.sum()) * (1 - 1e-12)))


@cache
def _signs(count: int) -> Array:
    """Patterns of signs, ``[P, count]``: all of them, or ``FLIPS`` that are drawn and the one without a change."""
    if 2**count <= FLIPS:
        return np.array(list(itertools.product((1.0, -1.0), repeat=count)))
    drawn = np.random.default_rng(SEED).choice((1.0, -1.0), size=(FLIPS, count))
    return np.vstack([np.ones(count), drawn])
