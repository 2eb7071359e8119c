"""What one point of accuracy buys, by hand: which strengths cost less, which more, and which do not tell."""

from itertools import permutations
from typing import Any

import pytest

from benchmark.tradeoff.one_point import sentences, sweeps
from benchmark.tradeoff.points import Point
from tests.benchmark.tradeoff.conftest import masking, point


def said(*points: Point) -> str:
    (sentence,) = sentences(points)
    return sentence


def noise(std: Any, leaking: int, cost: Any, **more: Any) -> Point:
    return point({"class": "GaussianNoise", "std": std}, leaking, cost, **more)


def test_each_strength_is_judged_by_the_interval_of_its_cost() -> None:
    # t(0.975, 2 degrees of freedom) = 4.303 times 0.1 points / sqrt 3 is 0.25; of 1.5 points it is 3.73
    points = [
        masking(0.1, 12, (0.002, 0.004, 0.003)),
        masking(0.5, 8, (-0.01, 0.005, 0.02)),
        masking(0.9, 4, (0.029, 0.031, 0.030)),
    ]
    assert said(point(), *points) == (
        "Masking: less than a point at ratio=0.1 (0.30, 0.05 to 0.55; 12 of 16 leak); open at ratio=0.5 (0.50, -3.23 "
        "to 4.23; 8 of 16 leak); more than a point at ratio=0.9 (3.00, 2.75 to 3.25; 4 of 16 leak)."
    )


@pytest.mark.parametrize(
    ("costs", "verdict"),
    [
        # Half of the interval is 4.303 times 0.1 points / sqrt 3, which is 0.2484.
        ((0.0065, 0.0075, 0.0085), "less than a point"),  # up to 0.998
        ((0.0066, 0.0076, 0.0086), "open"),  # up to 1.008
        ((0.0114, 0.0124, 0.0134), "open"),  # from 0.992
        ((0.0115, 0.0125, 0.0135), "more than a point"),  # from 1.002
        ((-0.0207, 0.0, -0.0012), "open"),  # from -3.62 to 2.16
        ((0.3,), "open"),  # one seed
    ],
)
def test_less_or_more_than_a_point_is_said_where_the_whole_interval_is_on_that_side(
    costs: tuple[float, ...], verdict: str
) -> None:
    assert said(masking(0.1, 3, costs)).startswith(f"Masking: {verdict} at ratio=0.1 (")


def test_one_seed_has_no_interval() -> None:
    assert said(masking(0.1, 16, (0.071,))) == "Masking: open at ratio=0.1 (7.10; 16 of 16 leak)."


def test_the_order_of_strengths_is_that_of_their_arguments_whatever_was_measured() -> None:
    """Costs and leaks that are noise turn nothing round."""
    costs, leaks = (0.0, 0.002, 0.004), (16, 8, 4)
    for cost, leak in zip(permutations(costs), permutations(leaks), strict=True):
        points = [
            masking(ratio, leak[i], (cost[i] - 0.001, cost[i] + 0.001)) for i, ratio in enumerate((0.9, 0.1, 0.5))
        ]
        (sweep,) = sweeps(points)
        assert [sweep.mark(one) for one in sweep.points] == ["0.1", "0.5", "0.9"]
    (sweep,) = sweeps([noise("inf", 16, 0.0), noise(2.0, 8, 0.02), noise(10.0, 0, 0.03), noise(1, 0, 0.01)])
    assert [sweep.at(one) for one in sweep.points] == ["std=1", "std=2", "std=10", "std=inf"]


def test_strengths_that_are_not_judged_say_why() -> None:
    points = [masking(0.1, 16, 0.0, void="did not act"), masking(0.5, 16, 0.005), masking(0.9, 8, 0.015)]
    assert said(*points).endswith("(1.50, 1.50 to 1.50; 8 of 16 leak); not judged at ratio=0.1 (did not act).")
    assert said(points[0]) == "Masking: not judged at ratio=0.1 (did not act)."
    assert said(points[0], masking(0.2, 16, 0.0, void="no attack")) == (
        "Masking: not judged at ratio=0.1, ratio=0.2 (did not act; no attack)."
    )


def test_victims_of_whom_nothing_is_known_stand_beside_those_that_leak() -> None:
    assert "0 of 16 leak, 3 unknown)." in said(masking(0.9, 0, 0.001, unknown=(1, 2, 3)))


def test_arguments_that_are_no_numbers_make_another_defense_and_several_numbers_are_one_strength() -> None:
    def clipped(norm: float, std: float, leaking: int, cost: float, kind: str = "gaussian") -> Point:
        return point({"class": "DPSGD", "norm": norm, "std": std, "kind": kind}, leaking, cost)

    found = sentences([clipped(1.0, 0.1, 12, 0.005), clipped(2.0, 0.2, 4, 0.02), clipped(1.0, 0.1, 0, 0.0, "laplace")])
    assert found[0].startswith("DPSGD kind=laplace: less than a point at norm=1.0, std=0.1, kind=laplace (")
    assert found[1].startswith("DPSGD kind=gaussian: less than a point at norm=1, std=0.1 (0.50")
    assert "; more than a point at norm=2, std=0.2 (2.00" in found[1]
    assert len(sweeps([point(), masking(0.1), masking(0.2)])) == 1


def test_lists_of_names_are_strengths_of_one_defense() -> None:
    def kept(layers: list[str], cost: float) -> Point:
        return point({"class": "KeptAtHome", "layers": layers}, 16, cost)

    (sweep,) = sweeps([kept(["last"], 0.1), kept(["first", "last"], 0.3), kept(["first"], 0.2)])
    assert sweep.name == "KeptAtHome"
    assert [sweep.mark(one) for one in sweep.points] == ["first", "first + last", "last"]
    assert "more than a point at layers=first (20.00" in said(*sweep.points)


def test_the_strengths_of_a_defense_that_is_one_of_several_are_those_of_all() -> None:
    def composed(std: float, leaking: int, cost: float, first: str = "Clipping") -> Point:
        parts = [{"class": first, "max_norm": 1.0}, {"class": "GaussianNoise", "std": std}]
        return point({"class": "Compose", "defenses": parts}, leaking, cost)

    points = [composed(0.1, 16, 0.005), composed(0.2, 8, 0.015)]
    assert said(*points).startswith(
        "Compose Clipping(max_norm=1.0) + GaussianNoise: less than a point at std=0.1 (0.50"
    )
    assert len(sweeps([*points, composed(0.1, 16, 0.0, first="TensorClipping")])) == 2


def test_what_leaks_least_for_less_than_a_point_stands_first_then_what_may_and_then_what_costs_more() -> None:
    points = [
        masking(0.1, 16, 0.0),
        masking(0.9, 0, 0.3),
        noise(0.1, 2, 0.001),
        point({"class": "Sign"}, 0, 0.3),
        point({"class": "QSGD"}, 3, (0.0, 0.02)),
        point({"class": "Pruning"}, 0, 0.0, unknown=range(9)),
        point({"class": "MixUp"}, 0, void="no attack"),
    ]
    order = ["GaussianNoise", "Pruning", "Masking", "QSGD", "Sign", "MixUp"]
    assert [one.partition(":")[0] for one in sentences(points)] == order


@pytest.mark.parametrize("order", [1, -1])
def test_the_order_of_the_points_makes_no_difference(order: int) -> None:
    points = [noise(0.1, 12, 0.005), noise(0.2, 4, 0.02), noise(0.3, 0, 0.1), noise(0.05, 16, 0.0)]
    assert sentences(points[::order]) == sentences(sorted(points, key=lambda one: one.leak))
