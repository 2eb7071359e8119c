"""What one point of accuracy buys, by hand: what is between two strengths, and which end does not reach it."""

from typing import Any

import pytest

from benchmark.tradeoff.one_point import sentences, sweeps
from benchmark.tradeoff.points import Point
from tests.benchmark.tradeoff.conftest import masking, point


def said(*points: Point) -> str:
    (sentence,) = sentences(points)
    return sentence


def noise(std: float, leaking: int, cost: float, **more: Any) -> Point:
    return point({"class": "GaussianNoise", "std": std}, leaking, cost, **more)


def test_between_two_strengths_it_is_interpolated() -> None:
    # a quarter of the way from 0.2 (0.5 points) to 0.6 (2.5 points)
    assert said(point(), masking(0.2, 12, 0.005), masking(0.6, 4, 0.025)) == (
        "Masking costs one point of accuracy at about ratio=0.3, where about 62 % of the victims leak (12 of 16 at "
        "ratio=0.2, 4 of 16 at ratio=0.6)."
    )


def test_strengths_that_span_a_factor_of_100_are_interpolated_on_a_logarithmic_scale() -> None:
    points = [noise(0.001, 16, 0.0), noise(0.1, 8, 0.02), noise(1.0, 0, 0.3)]
    assert "at about std=0.01, where about 75 % of the victims leak (16 of 16 at std=0.001, 8" in said(*points)


def test_a_smaller_argument_can_be_the_stronger_defense() -> None:
    def clipping(norm: float, leaking: int, cost: float) -> Point:
        return point({"class": "Clipping", "max_norm": norm}, leaking, cost)

    points = [clipping(1.0, 8, 0.015), clipping(2.0, 16, 0.005), clipping(0.5, 0, 0.03)]
    assert "at about max_norm=1.5, where about 75 % of the victims leak (16 of 16 at max_norm=2, 8 of" in said(*points)
    assert "at its strongest, max_norm=0.5, it costs 0.30" in said(clipping(2.0, 16, 0.0), clipping(0.5, 9, 0.003))


def test_a_strength_that_is_infinite_is_an_end_like_any_other() -> None:
    def clipping(norm: Any, leaking: int, cost: float, **more: Any) -> Point:
        return point({"class": "Clipping", "max_norm": norm}, leaking, cost, **more)

    points = [clipping("inf", 16, 0.0), clipping(2.0, 8, 0.02), clipping(1.0, 0, 0.03)]
    assert said(*points) == (
        "Clipping costs one point of accuracy between max_norm=inf and max_norm=2, where about 75 % of the victims "
        "leak (16 of 16 at max_norm=inf, 8 of 16 at max_norm=2)."
    )
    idle = said(clipping("inf", 16, 0.0, void="did not act"), points[1])
    assert "at the only strength that can be judged: at max_norm=2" in idle and "Of its 2 strengths 1 cannot" in idle


def test_the_end_is_named_where_the_strengths_do_not_span_one_point() -> None:
    # t(0.975, 2 degrees of freedom) = 4.303 times 0.1 / sqrt 3
    assert said(masking(0.1, 16, 0.001), masking(0.9, 12, (0.002, 0.004, 0.003))) == (
        "Masking costs less than one point of accuracy at every strength tried: at its strongest, ratio=0.9, it "
        "costs 0.30 ± 0.25 points, and 12 of 16 victims still leak."
    )
    assert said(masking(0.1, 3, (0.071, 0.071, 0.071)), masking(0.9, 0, 0.2)) == (
        "Masking costs more than one point of accuracy at every strength tried: at its weakest, ratio=0.1, it costs "
        "7.10 ± 0.00 points, and 3 of 16 victims leak."
    )
    assert said(masking(0.1, 16, (0.071,))) == (
        "Masking costs more than one point of accuracy at the only strength tried: at ratio=0.1 it costs 7.10 points, "
        "and 16 of 16 victims leak."
    )
    assert "it gains 0.30 ± 0.00 points, and 0 of 16 victims leak" in said(masking(0.1, 0, -0.003))


def test_one_point_exactly_is_at_that_strength() -> None:
    sentence = said(masking(0.2, 12, (0.0, 0.0)), masking(0.6, 4, (0.0125, 0.0075)), masking(0.8, 2, (0.5, 0.5)))
    assert "at about ratio=0.6, where about 25 % of the victims leak" in sentence


def test_what_comes_back_is_told() -> None:
    points = [masking(0.1, 16, 0.0), masking(0.3, 8, 0.02), masking(0.5, 4, 0.004), masking(0.9, 0, 0.3)]
    assert said(*points).endswith("But at ratio=0.5 it costs 0.40 ± 0.00 points.")


def test_strengths_that_say_nothing_are_left_out_and_counted() -> None:
    points = [masking(0.1, 16, 0.0, void="did not act"), masking(0.5, 16, 0.005), masking(0.9, 8, 0.015)]
    assert said(*points).endswith("Of its 3 strengths 1 cannot be judged (did not act).")
    assert "at about ratio=0.7, where about 75 %" in said(*points)
    assert said(points[0]) == "Masking: its only strength cannot be judged (did not act)."
    assert said(points[0], masking(0.2, 16, 0.0, void="no attack")) == (
        "Masking: its 2 strengths cannot be judged (did not act; no attack)."
    )


def test_victims_of_whom_nothing_is_known_are_named() -> None:
    assert "and 0 to 3 of 16 victims leak." in said(masking(0.9, 0, 0.001, unknown=(1, 2, 3)))
    points = [masking(0.2, 8, 0.0, unknown=(8, 9, 10, 11)), masking(0.4, 4, 0.02)]
    assert "about 38 to 50 % of the victims leak (8 to 12 of 16 at ratio=0.2, 4 of 16 at ratio=0.4)" in said(*points)


def test_arguments_that_are_no_numbers_make_another_defense_and_several_numbers_are_no_scale() -> None:
    def clipped(norm: float, std: float, leaking: int, cost: float, kind: str = "gaussian") -> Point:
        return point({"class": "DPSGD", "norm": norm, "std": std, "kind": kind}, leaking, cost)

    found = sentences([clipped(1.0, 0.1, 12, 0.005), clipped(2.0, 0.2, 4, 0.02), clipped(1.0, 0.1, 0, 0.0, "laplace")])
    assert found[0].startswith("DPSGD kind=laplace costs less than one point of accuracy at the only strength tried:")
    assert found[1].startswith(
        "DPSGD kind=gaussian costs one point of accuracy between norm=1.0, std=0.1, kind=gaussian and norm=2.0,"
    )
    assert len(sweeps([point(), masking(0.1), masking(0.2)])) == 1


def test_lists_of_names_are_strengths_of_one_defense_without_a_scale() -> None:
    def kept(layers: list[str], cost: float) -> Point:
        return point({"class": "KeptAtHome", "layers": layers}, 16, cost)

    (sweep,) = sweeps([kept(["first", "last"], 0.3), kept(["first"], 0.1), kept(["last"], 0.2)])
    assert (sweep.name, sweep.argument) == ("KeptAtHome", None)
    assert [sweep.mark(one) for one in sweep.points] == ["first", "last", "first + last"]
    assert "at its weakest, layers=first, it costs 10.00" in said(*sweep.points)


def test_the_strengths_of_a_defense_that_is_one_of_several_are_those_of_all() -> None:
    def composed(std: float, leaking: int, cost: float, first: str = "Clipping") -> Point:
        parts = [{"class": first, "max_norm": 1.0}, {"class": "GaussianNoise", "std": std}]
        return point({"class": "Compose", "defenses": parts}, leaking, cost)

    points = [composed(0.1, 16, 0.005), composed(0.2, 8, 0.015)]
    assert said(*points) == (
        "Compose Clipping(max_norm=1.0) + GaussianNoise costs one point of accuracy at about std=0.15, where about "
        "75 % of the victims leak (16 of 16 at std=0.1, 8 of 16 at std=0.2)."
    )
    assert len(sweeps([*points, composed(0.1, 16, 0.0, first="TensorClipping")])) == 2


def test_what_leaks_least_for_one_point_stands_first() -> None:
    points = [masking(0.1, 16, 0.0), noise(0.1, 2, 0.001), point({"class": "Sign"}, 0, 0.3)]
    assert [one.partition(" ")[0] for one in sentences(points)] == ["GaussianNoise", "Masking", "Sign"]


@pytest.mark.parametrize("order", [1, -1])
def test_the_order_of_the_points_makes_no_difference(order: int) -> None:
    points = [noise(0.1, 12, 0.005), noise(0.2, 4, 0.02), noise(0.3, 0, 0.1), noise(0.05, 16, 0.0)]
    assert sentences(points[::order]) == sentences(sorted(points, key=lambda one: one.leak))
