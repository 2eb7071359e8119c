"""Intervals: known values, edges, and whether they cover what they say they cover."""

import math
import warnings

import numpy as np
import pytest
from scipy.stats import binom, binomtest

from benchmark.metrics import intervals
from benchmark.metrics.intervals import (
    RESAMPLES,
    SEED,
    bootstrap_mean,
    equivalent,
    holm,
    mcnemar,
    median_interval,
    paired_p,
    rate_difference,
    wilson,
)


def closed_form(successes: int, trials: int, z: float) -> tuple[float, float]:
    rate = successes / trials
    middle = rate + z * z / (2 * trials)
    half = z * math.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials))
    return (middle - half) / (1 + z * z / trials), (middle + half) / (1 + z * z / trials)


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (3, 10), (10, 10), (1, 1), (950, 1000)])
def test_wilson_is_the_closed_form(successes: int, trials: int) -> None:
    expected = closed_form(successes, trials, z=1.959963984540054)
    assert wilson(successes, trials) == pytest.approx(expected, abs=1e-9)


def test_wilson_and_mcnemar_are_those_of_scipy_stats() -> None:
    """Which is too slow to import for a table."""
    for trials in (1, 2, 7, 16, 64, 1000):
        for successes in {*range(0, trials + 1, max(1, trials // 16)), trials}:
            for confidence in (0.9, 0.95):
                theirs = binomtest(successes, trials).proportion_ci(confidence, method="wilson")
                assert wilson(successes, trials, confidence) == pytest.approx((theirs.low, theirs.high), abs=1e-15)
            other = trials - successes
            assert mcnemar(successes, other) == pytest.approx(binomtest(successes, trials).pvalue, rel=1e-12)


def test_wilson_by_hand() -> None:
    # No success in n trials: the upper end is z^2 / (n + z^2) = 3.8415 / 13.8415.
    assert wilson(0, 10) == pytest.approx((0.0, 0.27753), abs=1e-5)


def test_wilson_is_exact_at_the_ends_for_any_size() -> None:
    for trials in range(1, 60):
        assert wilson(0, trials)[0] == 0.0
        assert wilson(trials, trials)[1] == 1.0


def test_wilson_widens_with_confidence() -> None:
    low, high = wilson(5, 10, confidence=0.99)
    assert (low, high) == pytest.approx(closed_form(5, 10, z=2.5758293035489004), abs=1e-9)
    assert low < wilson(5, 10)[0] < wilson(5, 10)[1] < high


@pytest.mark.parametrize(("successes", "trials"), [(0, 0), (-1, 5), (6, 5)])
def test_wilson_refuses_impossible_counts(successes: int, trials: int) -> None:
    with pytest.raises(ValueError):
        wilson(successes, trials)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0])
def test_confidence_is_a_fraction(confidence: float) -> None:
    with pytest.raises(ValueError, match="confidence"):
        wilson(1, 2, confidence)
    with pytest.raises(ValueError, match="confidence"):
        bootstrap_mean([1.0, 2.0], confidence)


@pytest.mark.parametrize("values", [[0.1], [0.1, 0.1, 0.1], [0.0] * 50])
def test_bootstrap_of_values_without_spread(values: list[float]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert bootstrap_mean(values) == (values[0], values[0])


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [1.0, math.inf]])
def test_bootstrap_refuses_what_has_no_mean(values: list[float]) -> None:
    with pytest.raises(ValueError):
        bootstrap_mean(values)


def test_bootstrap_depends_on_the_values_alone() -> None:
    values = np.random.default_rng(1).normal(size=40).tolist()
    state = np.random.get_state()[1].tolist()  # a tuple
    first = bootstrap_mean(values)
    assert bootstrap_mean(values) == first == bootstrap_mean(values[::-1])
    assert np.random.get_state()[1].tolist() == state  # a tuple


def test_bootstrap_of_two_values_by_hand() -> None:
    # A resample's mean is 0, 0.5 or 1 with probabilities 1/4, 1/2, 1/4.
    assert bootstrap_mean([0.0, 1.0], confidence=0.95) == (0.0, 1.0)
    assert bootstrap_mean([0.0, 1.0], confidence=0.4) == (0.5, 0.5)


@pytest.mark.parametrize("size", [2, 16, 64])
def test_bootstrap_is_that_of_drawing_victims_with_replacement(size: int) -> None:
    values = np.sort(np.random.default_rng(4).normal(size=size))
    drawn = values[np.random.default_rng(SEED).integers(size, size=(RESAMPLES, size))].mean(axis=1)
    assert bootstrap_mean(values.tolist()) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])))


def test_bootstrap_is_near_the_normal_interval_when_there_are_many() -> None:
    # 3,000 values also take the chunked path.
    values = np.random.default_rng(2).exponential(size=3000)
    half = 1.96 * values.std() / math.sqrt(values.size)
    expected = (values.mean() - half, values.mean() + half)
    assert bootstrap_mean(values.tolist()) == pytest.approx(expected, abs=0.1 * half)


def test_bootstrap_covers() -> None:
    # 200 samples of 50; 95 % nominal. The percentile bootstrap runs a little short at this size:
    # at least 90 % is what a table may rely on, and 100 % would mean it is too wide.
    generator = np.random.default_rng(3)
    hits = 0
    for _ in range(200):
        low, high = bootstrap_mean(generator.normal(loc=7.0, size=50).tolist())
        hits += low <= 7.0 <= high
    assert 180 <= hits < 200


def test_the_difference_of_two_rates_is_that_of_newcombe_1998() -> None:
    # His table II, method 10: 56/70 - 48/80 and 10/10 - 0/10 and 0/10 - 0/10.
    assert rate_difference(56, 70, 48, 80) == pytest.approx((0.0524, 0.3339), abs=1e-4)
    assert rate_difference(10, 10, 0, 10) == pytest.approx((0.6075, 1.0), abs=1e-4)
    assert rate_difference(0, 10, 0, 10) == pytest.approx((-0.2775, 0.2775), abs=1e-4)


def outcomes(both: int, only_first: int, only_second: int, neither: int) -> tuple[list[bool], list[bool]]:
    first = [True] * (both + only_first) + [False] * (only_second + neither)
    second = [True] * both + [False] * only_first + [True] * only_second + [False] * neither
    return first, second


@pytest.mark.parametrize(
    ("only_first", "only_second", "p"),
    [
        (0, 0, 1.0),
        (1, 1, 1.0),
        (3, 0, 2 / 8),  # both tails of three tosses: 2 (1/2)^3
        (5, 0, 2 / 32),  # the most that five can say: not significant
        (6, 0, 2 / 64),  # the fewest that are
        (1, 9, 2 * (1 + 10) / 1024),
        (2, 9, 2 * (1 + 11 + 55) / 2048),
    ],
)
def test_a_paired_test_counts_the_victims_that_differ(only_first: int, only_second: int, p: float) -> None:
    for both, neither in [(0, 0), (7, 0), (0, 40)]:  # those that agree have no say
        first, second = outcomes(both, only_first, only_second, neither)
        assert paired_p(first, second) == pytest.approx(p) == paired_p(second, first)


def test_a_paired_test_needs_pairs() -> None:
    assert paired_p([], []) == 1.0
    with pytest.raises(ValueError, match="3 outcomes cannot be paired with 2"):
        paired_p([True, False, True], [True, False])


def test_a_paired_test_calls_equal_rates_different_in_at_most_one_of_twenty() -> None:
    for differing in range(1, 60):  # the exact probability, summed over all outcomes
        wrong = sum(
            binom.pmf(first, differing, 0.5)
            for first in range(differing + 1)
            if paired_p(*outcomes(0, first, differing - first, 0)) <= 0.05
        )
        assert wrong <= 0.05


def test_holm_by_hand() -> None:
    # Sorted: 0.005 x 4, 0.01 x 3, 0.03 x 2, 0.04 x 1 -> raised to the one before it.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.02]) == [0.02]
    assert holm([0.9, 0.8, 0.0]) == [1.0, 1.0, 0.0]
    assert holm([0.02, 0.02]) == pytest.approx([0.04, 0.04])


@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan])
def test_holm_refuses_what_is_no_probability(value: float) -> None:
    with pytest.raises(ValueError, match="p-values"):
        holm([0.5, value])


def test_holm_is_bonferroni_for_the_smallest_and_never_beyond_it() -> None:
    drawn = np.random.default_rng(5).uniform(size=12).tolist()
    corrected = holm(drawn)
    assert min(corrected) == pytest.approx(min(1.0, 12 * min(drawn)))
    assert all(p <= new <= min(1.0, 12 * p) + 1e-12 for p, new in zip(drawn, corrected, strict=True))
    assert np.argsort(drawn, kind="stable").tolist() == sorted(range(12), key=lambda i: (corrected[i], drawn[i]))


def test_rates_are_equivalent_only_where_there_are_enough_trials() -> None:
    # Equal rates of one half: the interval of 90 % is about +-1.645 sqrt(0.5 / n) wide.
    assert not equivalent(30, 60, 30, 60, margin=0.1)  # +-0.15
    assert not equivalent(130, 260, 130, 260, margin=0.07)  # +-0.0719
    assert equivalent(150, 300, 150, 300, margin=0.07)  # +-0.067
    assert not equivalent(165, 300, 150, 300, margin=0.1)  # 0.05 apart, so the upper end is at 0.117
    assert not equivalent(150, 300, 165, 300, margin=0.1)
    # 0 of n twice: each Wilson interval of 90 % ends at z^2 / (n + z^2), z = 1.645.
    assert equivalent(0, 25, 0, 25, margin=0.1) and not equivalent(0, 24, 0, 24, margin=0.1)


def test_rates_that_are_the_margin_apart_are_called_equivalent_in_about_one_of_twenty() -> None:
    generator = np.random.default_rng(6)
    first, second = generator.binomial(200, 0.55, size=1000), generator.binomial(200, 0.40, size=1000)
    wrong = sum(equivalent(int(a), 200, int(b), 200, margin=0.15) for a, b in zip(first, second, strict=True))
    assert 25 <= wrong <= 75


@pytest.mark.parametrize(("margin", "level"), [(0.0, 0.05), (1.0, 0.05), (0.1, 0.0), (0.1, 0.5)])
def test_an_equivalence_needs_a_margin_and_a_level(margin: float, level: float) -> None:
    with pytest.raises(ValueError):
        equivalent(1, 2, 1, 2, margin, level)


@pytest.mark.parametrize("draw", ["skewed", "psnr", "cap"])
def test_bootstrap_of_many_values_is_that_of_resampling(draw: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source = np.random.default_rng(1)
    values = {
        "skewed": source.exponential(1, intervals.MANY + 1) ** 2,
        "psnr": source.exponential(10, intervals.MANY + 1),
        "cap": np.where(source.random(intervals.MANY + 1) < 0.9, 100.0, 12.0),
    }[draw]
    low, high = intervals.bootstrap_mean(values.tolist())
    monkeypatch.setattr(intervals, "MANY", len(values))
    resampled = intervals.bootstrap_mean(values.tolist())
    width = resampled[1] - resampled[0]
    assert low == pytest.approx(resampled[0], abs=0.03 * width)
    assert high == pytest.approx(resampled[1], abs=0.03 * width)


def test_the_interval_of_a_median_is_of_two_order_statistics_by_the_binomial() -> None:
    """Of 10 values the second and the ninth, with 97.9 %; of 5 none has 95 % (Conover 1999, table A3)."""
    values = [float(one) for one in (7, 3, 9, 1, 5, 10, 2, 8, 4, 6)]
    assert median_interval(values) == (2.0, 9.0)
    assert median_interval(values[:5]) == (-math.inf, math.inf)
    for count in (6, 11, 39, 100):
        low, high = median_interval([float(one) for one in range(count)])
        below = int(low) + 1
        outside = 2 * sum(math.comb(count, k) for k in range(below)) / 2**count
        one_more = outside + 2 * math.comb(count, below) / 2**count
        assert outside <= 0.05 < one_more and high == count - below
