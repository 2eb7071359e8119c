"""Where leakage stops, and how surely: curves that are known, binomial tails, and the coverage of the intervals."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import binom, binomtest

from benchmark.thresholds import crossing
from benchmark.thresholds.crossing import (
    Curve,
    bracket,
    rises,
    split,
    surely_above,
    surely_at_most,
    victims_to_certify,
)


def curve(*points: tuple[float, int], victims: int = 20) -> Curve:
    """At each strength the first so many victims leak."""
    return {strength: np.arange(victims) < leaking for strength, leaking in points}


def interval(found: Curve, stop: float) -> tuple[float | None, float | None]:
    """Where every attack has done what it could."""
    return crossing.interval(found, {strength: leaking & False for strength, leaking in found.items()}, stop)


def test_the_bracket_is_the_last_strength_that_leaks_and_the_next_one() -> None:
    found = curve((0.0, 20), (0.5, 12), (0.75, 2), (1.0, 0))
    assert bracket(found, 0.1) == (0.5, 0.75)  # 2 of 20 are no more than a tenth
    assert bracket(found, 0.05) == (0.75, 1.0)
    assert bracket(curve((100.0, 20), (1.0, 3), (0.01, 0)), 0.1) == (1.0, 0.01)  # a smaller number is stronger
    assert bracket(curve((0.0, 20), (0.25, 0), (0.5, 10), (1.0, 0)), 0.0) == (0.5, 1.0)  # it came back
    assert bracket(curve((0.0, 0), (1.0, 0)), 0.05) == (None, 0.0)
    assert bracket(curve((0.0, 20), (1.0, 5)), 0.05) == (1.0, None)
    assert split({}, lambda leaking: True) == (None, None)


def test_of_whom_nothing_is_known_may_leak_where_a_threshold_is_certified() -> None:
    found = curve((0.0, 100), (0.5, 50), (0.8, 0), (0.9, 0), victims=100)
    for unknown, ends in ((0, (0.5, 0.8)), (1, (0.5, None)), (100, (0.5, None))):
        assert crossing.interval(found, curve(*((at, unknown) for at in found), victims=100), 0.05) == ends
    failed = curve((0.0, 0), (0.5, 0), (0.8, 100), (0.9, 0), victims=100)
    assert crossing.interval(found, failed, 0.05) == (0.5, 0.9)


def test_sixteen_victims_certify_nothing_and_73_do() -> None:
    assert interval(curve((0.0, 16), (0.5, 2), (1.0, 0), victims=16), 0.05) == (0.0, None)
    assert interval(curve((0.0, 72), (0.5, 2), (1.0, 0), victims=72), 0.05)[1] is None
    assert interval(curve((0.0, 73), (0.5, 2), (1.0, 0), victims=73), 0.05) == (0.0, 1.0)
    assert victims_to_certify(0.05) == 73
    assert victims_to_certify(0.5) == 6  # the exact test asks for one more than Wilson's 4: 0.5 ** 5 is 3 %
    assert victims_to_certify(0.0) is None


@pytest.mark.parametrize("stop", [0.01, 0.05, 0.2, 0.3, 0.5, 0.9])
def test_so_many_victims_are_just_enough(stop: float) -> None:
    needed = victims_to_certify(stop)
    assert needed is not None
    assert surely_at_most(0, needed, stop) and (needed == 1 or not surely_at_most(0, needed - 1, stop))


@pytest.mark.parametrize("victims", [1, 4, 16, 40, 73, 100, 331])
@pytest.mark.parametrize("stop", [0.05, 0.1, 0.3])
def test_a_rate_that_is_just_the_stop_rate_is_seldom_surely_on_one_side(victims: int, stop: float) -> None:
    chance = binom.pmf(range(victims + 1), victims, stop)
    for surely in (surely_above, surely_at_most):
        wrong = sum(chance[leaking] for leaking in range(victims + 1) if surely(leaking, victims, stop))
        assert wrong <= 0.025 + 1e-12
    assert surely_above(4, 16, 0.05) and not surely_above(3, 16, 0.05)


def test_the_high_end_does_not_pass_a_strength_that_may_leak() -> None:
    found = curve((0.0, 100), (0.2, 0), (0.4, 3), (0.6, 0), (1.0, 0), victims=100)
    assert bracket(found, 0.05) == (0.0, 0.2)
    assert interval(found, 0.05) == (0.0, 0.6)
    assert interval(curve((0.0, 100), (0.5, 0), (1.0, 3), victims=100), 0.05) == (0.0, None)
    assert interval(curve((0.0, 0), (1.0, 0), victims=100), 0.05) == (None, 0.0)  # stopped at the weak end already
    assert interval(curve((0.0, 100), (1.0, 50), victims=100), 0.05) == (1.0, None)
    assert interval(curve((0.0, 1), (1.0, 1), victims=16), 0.05) == (None, None)


def test_many_strengths_make_a_chance_find_no_leak() -> None:
    few = curve((0.0, 16), (0.5, 4), (1.0, 0), victims=16)
    many = few | curve(*((0.5 + 0.01 * step, 0) for step in range(1, 20)), victims=16)
    assert interval(few, 0.05)[0] == 0.5 and interval(dict(sorted(many.items())), 0.05)[0] == 0.0


def logistic(middle: float, slope: float) -> Callable[[float], float]:
    return lambda strength: 1 / (1 + math.exp((strength - middle) * slope))


SHAPES: dict[str, tuple[Callable[[float], float], float]] = {
    "steep": (logistic(0.6, 60), 0.6 + math.log(19) / 60),
    "flat": (logistic(0.4, 7), 0.4 + math.log(19) / 7),
    "step": (lambda strength: 0.9 if strength < 0.37 else 0.0, 0.37),
    "step to just below": (lambda strength: 0.9 if strength < 0.37 else 0.045, 0.37),
    "long tail just above": (lambda strength: 1.0 if strength < 0.1 else 0.06 if strength < 0.97 else 0.0, 0.97),
    "straight": (lambda strength: 0.12 * (1 - strength), 1 - 0.05 / 0.12),
}
"""Leak rate of the population by strength, and where it falls to 5 %."""


def searched(leaks_at: Callable[[float], np.ndarray], steps: int) -> Curve:
    """Bisection between 0 and 1."""
    found = {strength: leaks_at(strength) for strength in (0.0, 1.0)}
    for _ in range(steps):
        ends = bracket(found, 0.05)
        if None not in ends:
            middle = sum(end for end in ends if end is not None) / 2
            found = dict(sorted((found | {middle: leaks_at(middle)}).items()))
    return found


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_interval_holds_the_threshold_of_the_population_as_often_as_it_says(shape: str, paired: bool) -> None:
    """At the sizes that are published: 5 and 7 halvings, a stop rate of 5 %, 16 victims; and with 100.

    Paired victims leak up to a strength of their own; unpaired ones toss a coin at each strength.
    """
    rate, threshold = SHAPES[shape]
    generator = np.random.default_rng(0)
    for victims, steps in ((16, 5), (16, 7), (100, 5), (100, 7)):
        held = certified = 0
        for _ in range(150):
            toughness = generator.uniform(size=victims)
            found = searched(
                lambda strength: (
                    (toughness if paired else generator.uniform(size=victims)) < rate(strength)  # noqa: B023, called within its turn
                ),
                steps,
            )
            low, high = interval(found, 0.05)
            held += (low is None or low <= threshold) and (high is None or high >= threshold)
            certified += high is not None
        assert held >= 0.95 * 150 - 3  # a standard deviation of what 95 % would give is 2.7
        assert not certified if victims == 16 else shape not in ("steep", "step") or certified == 150


def test_a_rise_by_more_than_chance_is_told() -> None:
    assert rises(curve((0.0, 20), (0.25, 0), (0.5, 10), (1.0, 0))) == [(0.25, 0.5)]
    assert rises(curve((0.0, 20), (0.5, 0), (1.0, 1))) == []  # one victim of 20 is chance
    assert rises(curve((1.0, 20), (0.5, 0), (0.1, 15))) == [(0.5, 0.1)]  # a smaller number is stronger
    assert rises(curve((0.0, 5), (1.0, 5))) == []


def test_a_rise_is_judged_among_all_pairs() -> None:
    """5 victims more, none less: 1 in 32 by chance, which is below 5 % of one pair, but not of four."""
    assert binomtest(5, 5, alternative="greater").pvalue == 1 / 32
    assert rises(curve((0.0, 0), (1.0, 5))) == [(0.0, 1.0)]
    assert rises(curve((0.0, 20), (0.2, 10), (0.4, 5), (0.6, 0), (1.0, 5))) == []
    assert rises(curve((0.0, 20), (0.2, 10), (0.4, 5), (0.6, 0), (1.0, 7))) == [(0.6, 1.0)]
