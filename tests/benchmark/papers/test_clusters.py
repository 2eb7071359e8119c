"""Paired differences over few clusters: against hand-worked cases, scipy, and simulations with ten clusters."""

import math

import numpy as np
import pytest
from scipy import stats

from benchmark.papers.clusters import of_means, of_parts, of_sums, sign_flip_p


def test_with_clusters_of_one_size_the_interval_is_that_of_the_t_test() -> None:
    differences = np.array([3.0, -1, 2, 5, 4, 0, 1, 2, -2, 6])
    found = of_means(differences, np.full(10, 4.0))
    low, high = stats.ttest_1samp(differences / 4, 0).confidence_interval(0.95)
    assert found.value == 0.5  # 20 of 40
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))


def test_the_interval_of_a_ratio_is_symmetric_in_the_logarithm() -> None:
    here, there = np.array([10.0, 30, 20, 15, 25]), np.array([100.0, 80, 120, 90, 110])
    found = of_sums(here, there)
    assert found.value == pytest.approx(100 / 500 - 1)
    assert (1 + found.low) * (1 + found.high) == pytest.approx((1 + found.value) ** 2)
    residuals = here / 100 - there / 500
    half = 2.776445 * math.sqrt(5 / 4 * (residuals**2).sum())  # t with 4 degrees of freedom
    assert 1 + found.high == pytest.approx(0.2 * math.exp(half), rel=1e-6)


def test_where_few_clusters_differ_there_is_no_interval() -> None:
    few, enough = np.zeros(10), np.zeros(10)
    few[:4], enough[:5] = 1.0, 1.0
    assert of_means(few, np.ones(10))[:3] == (0.4, -math.inf, math.inf)
    assert not of_means(few, np.ones(10)).is_bounded and of_means(enough, np.ones(10)).is_bounded
    assert not of_sums(np.array([1.0, 2, 3, 4]), np.ones(4)).is_bounded


@pytest.mark.parametrize(
    ("differences", "p"),
    [
        ([0.0] * 10, 1.0),
        ([3.0], 1.0),
        ([1.0] * 10, 2 / 1024),  # both patterns without a change of sign, of 2**10
        ([1.0] * 5 + [0.0] * 5, 2 / 32),
        ([1.0, 1.0, 1.0, -1.0], 10 / 16),  # as far as 2 or -2: all of them but the 6 that come to 0
    ],
)
def test_the_sign_flip_test_counts_patterns(differences: list[float], p: float) -> None:
    assert sign_flip_p(np.array(differences)) == pytest.approx(p)


@pytest.mark.parametrize("count", [7, 13, 30])
def test_the_sign_flip_test_is_that_of_scipy(count: int) -> None:
    """All patterns up to 13 clusters; of 30 those that are drawn, which tell p to about a hundredth."""
    values = np.random.default_rng(0).normal(0.3, 1, count).round(1)
    options = {"permutation_type": "samples", "vectorized": True, "n_resamples": 20_000, "rng": 0}
    expected = stats.permutation_test((values,), lambda x, axis: x.sum(axis), **options).pvalue
    assert sign_flip_p(values) == pytest.approx(expected, abs=1e-9 if count < 14 else 0.02)


def drawn(rng: np.random.Generator, gain: float) -> tuple[np.ndarray, np.ndarray]:
    """Ten sequences of 5 to 8 victims whose chances to be found go together: differences, and victims of each."""
    counts = rng.integers(5, 9, 10)
    shared = rng.normal(0, 0.15, 10)
    here = rng.binomial(counts, np.clip(0.6 + gain + shared, 0, 1))
    there = rng.binomial(counts, 0.6)
    return (here - there).astype(float), counts.astype(float)


def percentile_bootstrap(rng: np.random.Generator, differences: np.ndarray, counts: np.ndarray) -> tuple[float, float]:
    picked = rng.integers(10, size=(400, 10))
    low, high = np.quantile(differences[picked].sum(1) / counts[picked].sum(1), [0.025, 0.975])
    return float(low), float(high)


def test_ten_clusters_are_covered_as_the_interval_says_and_the_bootstrap_does_not() -> None:
    rng = np.random.default_rng(1)
    covered = {"t": 0, "bootstrap": 0, "bounded": 0}
    trials = 600
    for _ in range(trials):
        differences, counts = drawn(rng, 0.1)
        found = of_means(differences, counts)
        covered["bounded"] += found.is_bounded
        covered["t"] += found.low <= 0.1 <= found.high
        low, high = percentile_bootstrap(rng, differences, counts)
        covered["bootstrap"] += low <= 0.1 <= high
    assert covered["bounded"] > 0.98 * trials
    assert 0.93 < covered["t"] / trials < 0.98
    assert covered["bootstrap"] / trials < 0.92


def test_the_sign_flip_test_calls_five_of_a_hundred_falsely_also_where_a_few_victims_cost_nearly_all() -> None:
    """Evaluations: 70 where an attack finds its image, 2000 where it fails, which few do."""
    rng = np.random.default_rng(2)
    here, there = (np.where(rng.random((300, 10, 7)) < 0.03, 2000.0, 70.0).sum(2) for _ in range(2))
    jitter = rng.normal(0, 5, (300, 10))
    false = np.mean([sign_flip_p(d) <= 0.05 for d in here - there + jitter])
    assert false < 0.08


def test_a_sum_of_parts_is_as_unsure_as_its_clusters() -> None:
    residuals = np.array([0.1, -0.1, 0.2, -0.2, 0.0, 0.3, -0.3])
    found = of_parts(residuals + 0.1, residuals)
    half = stats.t.ppf(0.975, 6) * math.sqrt(7 / 6 * (residuals**2).sum())
    assert found.value == pytest.approx(0.7)
    assert (found.low, found.high) == (pytest.approx(0.7 - half), pytest.approx(0.7 + half))
