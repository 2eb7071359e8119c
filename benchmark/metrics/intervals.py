"""Statistics over victims: intervals of rates, of their differences and of means, and the tests that compare rates.

- one rate: :func:`wilson`; where some trials are not known: :func:`partly_known`
- two rates of the same victims: :func:`paired_p`
- two rates of different victims: :func:`rate_difference` for how far apart, :func:`equivalent` for near enough
- several tests at once: :func:`holm`
- a mean: :func:`bootstrap_mean`; of a few values, such as seeds: :func:`t_interval`; a median: :func:`median_interval`

The functions of scipy.special suffice: scipy.stats, which has the same intervals and tests, takes a good part of a
second to import.
"""

import math
from collections.abc import Sequence
from functools import cache, lru_cache
from statistics import fmean, stdev

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, ndtri, stdtrit

RESAMPLES = 10_000
"""Bootstrap resamples: the ends of a 95 % interval then move by about 1 % of its width."""

SEED = 20100261
"""Seed of the bootstrap. Fixed, so that a table made again from the same records is the same."""

MANY = 1000
"""Values beyond which the bootstrap of a mean is computed by its expansion: resampling would take half a second."""

_CHUNK = 1_000_000  # weights that are made at a time: 8 MB, however many victims there are


@cache
def wilson(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a rate (Wilson 1927), without continuity correction.

    Unlike the normal approximation it stays inside [0, 1] and keeps a width at 0 and at 100 %,
    which are the rates that a good attack and a good defense reach.

    Args:
        successes: Number of leaked victims, 0 to `trials`.
        trials: Number of victims, at least 1.
        confidence: Nominal coverage, between 0 and 1.

    Returns:
        Lower and upper end, `0 <= lower <= successes / trials <= upper <= 1`.

    Raises:
        ValueError: There are no trials, `successes` is not in 0 to `trials`, or `confidence` is
            not between 0 and 1.
    """
    _check_confidence(confidence)
    if trials < 1:
        raise ValueError("a rate needs at least one trial")
    if not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes in {trials} trials")
    z, p = float(ndtri(0.5 + 0.5 * confidence)), successes / trials
    denominator = 2 * (trials + z**2)
    center = (2 * trials * p + z**2) / denominator
    delta = z / denominator * math.sqrt(4 * trials * p * (1 - p) + z**2)
    # Exact at the ends by definition; the closed form misses them by a rounding error.
    low = 0.0 if successes == 0 else center - delta
    high = 1.0 if successes == trials else center + delta
    return low, high


def partly_known(successes: int, unknown: int, trials: int) -> tuple[float, float]:
    """Wilson's interval of a rate where some trials are open: its low end if all of those failed, its high if none did.

    Args:
        successes: that are known.
        unknown: trials of which nothing is known, no more than the others that did not succeed.
        trials: at least 1.
    """
    return wilson(successes, trials)[0], wilson(successes + unknown, trials)[1]


def rate_difference(
    successes: int, trials: int, other_successes: int, other_trials: int, confidence: float = 0.95
) -> tuple[float, float]:
    """Interval of the difference of two independent rates, first minus other (Newcombe 1998, method 10).

    It is put together from the two Wilson intervals, and so keeps a width where both rates are 0 or 1.

    Args:
        successes: Of the first sample, 0 to `trials`.
        trials: At least 1.
        other_successes: Of the other sample.
        other_trials: At least 1.
        confidence: Nominal coverage, between 0 and 1.

    Returns:
        Lower and upper end, between -1 and 1.

    Raises:
        ValueError: See `wilson`.
    """
    rate, other = successes / max(trials, 1), other_successes / max(other_trials, 1)
    low, high = wilson(successes, trials, confidence)
    other_low, other_high = wilson(other_successes, other_trials, confidence)
    below = ((rate - low) ** 2 + (other_high - other) ** 2) ** 0.5
    above = ((high - rate) ** 2 + (other - other_low) ** 2) ** 0.5
    return rate - other - below, rate - other + above


def equivalent(
    successes: int, trials: int, other_successes: int, other_trials: int, margin: float, level: float = 0.05
) -> bool:
    """Whether two independent rates are shown to be less than a margin apart.

    Two one-sided tests (Schuirmann 1987), each at `level`, by the interval of confidence `1 - 2 level` of the
    difference (Newcombe 1998): it must lie within the margin on both sides. With few trials the answer is no, however
    alike the rates: a difference that was not found is not yet an equality that was shown.

    Args:
        successes: Of the first sample, 0 to `trials`.
        trials: At least 1.
        other_successes: Of the other sample.
        other_trials: At least 1.
        margin: The largest difference of the rates that does not matter, between 0 and 1.
        level: The probability to call rates equivalent that are a margin apart, between 0 and 0.5.

    Returns:
        True where they are shown to be equivalent.

    Raises:
        ValueError: `margin` or `level` is out of range, or a count is impossible.
    """
    if not 0 < margin < 1:
        raise ValueError(f"margin must be between 0 and 1, not {margin}")
    if not 0 < level < 0.5:
        raise ValueError(f"level must be between 0 and 0.5, not {level}")
    low, high = rate_difference(successes, trials, other_successes, other_trials, 1 - 2 * level)
    return -margin < low and high < margin


def paired_p(first: Sequence[bool], second: Sequence[bool]) -> float:
    """Two-sided p-value of the exact McNemar test: whether two rates of the same victims are equal.

    Only victims with different outcomes count. If the rates are equal, either outcome of such a victim is as likely as
    the other (McNemar 1947; exact by the binomial distribution with probability 1/2).

    Args:
        first: One outcome per victim.
        second: The other outcome of the same victims, in the same order.

    Returns:
        Above 0, at most 1. It is 1 where no victim differs, and falls below 0.05 only from 6 differing victims on.

    Raises:
        ValueError: The sequences are not of the same length.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} outcomes cannot be paired with {len(second)}")
    only_first = sum(bool(a) and not b for a, b in zip(first, second, strict=True))
    only_second = sum(bool(b) and not a for a, b in zip(first, second, strict=True))
    return mcnemar(only_first, only_second)


@cache
def mcnemar(only_first: int, only_second: int) -> float:
    """:func:`paired_p` by the numbers of victims that differ, one way and the other: as tosses of a fair coin."""
    if only_first == only_second:
        return 1.0
    return 2 * float(bdtr(min(only_first, only_second), only_first + only_second, 0.5))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number (Holm 1979).

    Where those are called significant that are at most `a`, the probability of even one false call is at most `a`,
    however the tests depend on each other.

    Args:
        p_values: One for each test, from 0 to 1, in any order.

    Returns:
        The corrected ones in the order of the given ones, each at least as large as its own, at most 1.

    Raises:
        ValueError: One is not from 0 to 1.
    """
    if not all(0 <= p <= 1 for p in p_values):  # NaN neither
        raise ValueError("p-values must be from 0 to 1")
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = largest
    return corrected


def bootstrap_mean(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Percentile bootstrap interval of a mean (Efron 1979); of more than 1,000 values by its expansion.

    Give one value for each victim: images of one batch are not independent, victims are.

    Args:
        values: One finite score per victim, in any order; the order does not change the result.
        confidence: Nominal coverage, between 0 and 1.

    Returns:
        Lower and upper end. With one value, or with equal ones, that value twice: the bootstrap
        then knows of no spread, which is not the same as there being none.

    Raises:
        ValueError: There are no values, one is not finite, or `confidence` is not between 0 and 1.
    """
    _check_confidence(confidence)
    # Sorted, because the same seed over another order would draw other resamples.
    scores = np.sort(np.asarray(values, dtype=np.float64))
    if scores.ndim != 1 or scores.size == 0:
        raise ValueError("a mean needs a flat list of at least one value")
    if not np.isfinite(scores).all():
        raise ValueError("a mean needs finite values; say what a diverged victim counts as first")
    if scores[0] == scores[-1]:  # a mean of equal values can miss the value by a rounding error
        return float(scores[0]), float(scores[0])
    if scores.size > MANY:
        low, high = _expanded(scores, ndtri([(1 - confidence) / 2, (1 + confidence) / 2]))
        return float(low), float(high)
    rows = max(1, _CHUNK // scores.size)
    means = np.concatenate(
        [np.einsum("rv,v->r", _weights(scores.size, first, rows), scores) for first in range(0, RESAMPLES, rows)]
    )
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def t_interval(
    values: Sequence[float], confidence: float = 0.95, resolution: float = 0.0
) -> tuple[float | None, float | None]:
    """Student's interval of the mean of independent values, such as those of a few seeds.

    Args:
        values: Finite ones, in any order.
        confidence: Nominal coverage, between 0 and 1.
        resolution: What the values are multiples of, at least 0, as one image is of an accuracy. Values that agree are
            then taken to vary as much as a number does between two multiples: by the resolution over the square root
            of 12.

    Returns:
        Lower and upper end; None for fewer than two values.
    """
    _check_confidence(confidence)
    if len(values) < 2:
        return None, None
    spread = max(stdev(values), resolution / math.sqrt(12))
    half = float(stdtrit(len(values) - 1, (1 + confidence) / 2)) * spread / math.sqrt(len(values))
    return fmean(values) - half, fmean(values) + half


def median_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Interval of the median of independent values: two order statistics, which hold whatever the distribution.

    Of n values the number below the median is binomial with probability 1/2.

    Args:
        values: Finite ones, in any order.
        confidence: Nominal coverage, between 0 and 1; the interval's own is as much or more.

    Returns:
        Lower and upper end, infinite where there are too few values.
    """
    _check_confidence(confidence)
    count = len(values)
    below = 0
    while bdtr(below, count, 0.5) <= (1 - confidence) / 2:
        below += 1
    if below == 0:
        return -math.inf, math.inf
    ordered = sorted(values)
    return ordered[below - 1], ordered[count - below]


def _expanded(scores: NDArray[np.float64], z: NDArray[np.float64]) -> NDArray[np.float64]:
    """Quantiles of the bootstrap distribution of the mean of many scores, those of the normal distribution being z.

    The expansion of Cornish and Fisher (1938) with the skewness of the scores: what it leaves out is less than another
    seed would change.
    """
    centered = scores - scores.mean()
    std = float(np.sqrt(np.mean(centered**2)))
    skewness = float(np.mean(centered**3)) / std**3
    root = math.sqrt(scores.size)
    quantiles: NDArray[np.float64] = scores.mean() + std / root * (z + skewness * (z**2 - 1) / (6 * root))
    return quantiles


@lru_cache(maxsize=12)
def _weights(size: int, first: int, rows: int) -> NDArray[np.float64]:
    """Resamples `first` and up to `rows - 1` after it, as the weight of each of `size` values in their mean.

    They depend on the number of values alone, and most cells of a table have as many victims: they are kept, up to
    100 MB.
    """
    rows = min(rows, RESAMPLES - first)
    drawn = np.random.default_rng(SEED + first).integers(size, size=(rows, size))
    places = drawn + size * np.arange(rows)[:, None]
    return np.bincount(places.ravel(), minlength=rows * size).reshape(rows, size) / size


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, not {confidence}")
