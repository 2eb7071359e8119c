"""Which defense dominates which, and which are on the front: by hand, by scipy, and by simulation."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest, ttest_rel

from benchmark.boards.leaderboard import of_records
from benchmark.tradeoff.one_point import sentences
from benchmark.tradeoff.points import (
    DOMINATED,
    FRONT,
    MISSING,
    NEAR,
    NOTHING_SHARED,
    NOTHING_TRAINED,
    UNPAIRED,
    Point,
    dominates,
    is_better,
    trade_offs,
)
from tests.benchmark.tradeoff.conftest import MASKED, Made, masking, point, trade_off, trainings
from tests.benchmark.training.conftest import trained


def test_a_defense_dominates_another_that_leaks_significantly_more_and_costs_no_less() -> None:
    strong, weak = masking(0.9, 2, 0.01), masking(0.5, 12, 0.01)
    assert dominates(strong, weak) and not dominates(weak, strong)
    assert not dominates(masking(0.9, 2, 0.02), weak)  # it costs more
    # 7 of 7 victims that differ: 2 / 2**7 < 0.025; 6 of 6 are not enough, as there are two tests
    assert dominates(masking(0.9, 5), masking(0.5, 12)) and not dominates(masking(0.9, 6), masking(0.5, 12))


def test_a_defense_dominates_another_that_costs_significantly_more_and_leaks_no_less() -> None:
    cheap, dear = masking(0.1, 8, (0.010, 0.011, 0.012)), masking(0.2, 8, (0.050, 0.052, 0.057))
    assert dominates(cheap, dear) and not dominates(dear, cheap)
    assert not dominates(masking(0.1, 9, (0.010, 0.011, 0.012)), dear)  # it leaks more
    assert not dominates(cheap, masking(0.2, 8, (0.050, 0.002, 0.057)))  # the seeds disagree


def test_seeds_without_a_spread_and_a_single_seed_decide_nothing() -> None:
    assert not dominates(masking(0.1, 8, 0.0), masking(0.2, 8, 0.3))
    assert not dominates(masking(0.1, 8, (0.0,)), masking(0.2, 8, (0.3,)))


def test_a_victim_of_whom_nothing_is_known_does_not_count_for_the_better_defense() -> None:
    strong, weak = masking(0.9, 2), masking(0.5, 12)
    assert dominates(strong, weak)
    assert not dominates(masking(0.9, 2, unknown=range(4, 12)), weak)
    assert dominates(strong, masking(0.5, 12, unknown=range(12, 16)))


def test_the_tests_are_those_of_scipy() -> None:
    draw = np.random.default_rng(0)
    said = {True: 0, False: 0}
    for _ in range(200):
        costs = draw.normal((0.01, 0.02), 0.006, (4, 2))
        leaking = [frozenset(np.flatnonzero(draw.random(16) < rate)) for rate in (0.35, 0.65)]
        one, other = (masking(0.1 + i, leaking[i], costs[:, i]) for i in (0, 1))
        more, fewer = len(leaking[0] - leaking[1]), len(leaking[1] - leaking[0])
        by_leak = binomtest(fewer, more + fewer).pvalue <= 0.025 if more + fewer else False
        mine, its = ([p.row["accuracies"][seed] for seed in range(4)] for p in (one, other))
        by_cost = ttest_rel(mine, its).pvalue <= 0.025
        expected = more <= fewer and np.mean(mine) >= np.mean(its) and (by_leak or by_cost)
        assert dominates(one, other) == bool(expected)
        said[dominates(one, other)] += 1
    assert min(said.values()) > 30


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_of_two_defenses_that_are_equal_one_dominates_the_other_in_at_most_one_of_20_cases(seeds: int) -> None:
    draw, times, found = np.random.default_rng(seeds), 1000, 0
    for _ in range(times):
        hard = draw.random(32)  # some victims leak more easily than others, to either
        pair = [
            masking(i, np.flatnonzero(draw.random(32) < hard).tolist(), draw.normal(0, 0.01, seeds)) for i in (0, 1)
        ]
        found += dominates(*pair) or dominates(*pair[::-1])
    assert found / times <= 0.05 + 3 * (0.05 * 0.95 / times) ** 0.5


def test_the_front_has_what_nothing_beats_and_what_is_not_told_apart_from_it_says_so() -> None:
    control = point(None, 16, (0.0, 0.001, 0.002))
    best, near = masking(0.5, 4, (0.010, 0.011, 0.013)), masking(0.6, 5, (0.011, 0.010, 0.016))
    worse = masking(0.7, 14, (0.05, 0.06, 0.07))
    found = trade_off(control, best, near, worse)
    assert [found.standing(one) for one in (control, best, near, worse)] == [FRONT, FRONT, NEAR, DOMINATED]
    assert found.dominating(worse) == [best, near] and found.dominating(near) == []
    assert found.front == [best, control]


def test_a_void_point_is_not_on_the_front_and_dominates_nothing() -> None:
    silent, weak = masking(0.9, 0, 0.0, void="did not act"), masking(0.5, 12, 0.01)
    found = trade_off(silent, weak)
    assert (found.standing(silent), found.standing(weak)) == ("", FRONT)
    assert found.judged == found.front == [weak] and found.dominating(silent) == found.dominating(weak) == []


def test_a_victim_of_whom_nothing_is_known_counts_as_one_that_leaks() -> None:
    """As in the ranks: or a defense on which attacks fail would stand on the front."""
    control, known, unknown = masking(0.0, 16), masking(0.9, 8, 0.01), masking(0.9, 8, 0.01, unknown=range(8, 16))
    assert unknown.leak == 0.5 and unknown.may_leak == control.may_leak == 1.0 and unknown.leak_interval[1] == 1.0
    assert is_better(control, unknown) and trade_off(control, unknown).standing(unknown) == NEAR
    assert not is_better(control, known) and trade_off(control, known).standing(known) == FRONT
    assert is_better(known, unknown) and not is_better(unknown, known)


def test_what_dominates_is_better_by_the_numbers_so_that_some_point_is_always_on_the_front() -> None:
    draw = np.random.default_rng(1)
    for _ in range(20):
        points = [
            masking(i, np.flatnonzero(draw.random(16) < draw.random()).tolist(), draw.normal(0.02, 0.02, 3))
            for i in range(12)
        ]
        found = trade_off(*points)
        assert all(is_better(one, other) for other in points for one in found.dominating(other))
        front = found.front
        assert front and all(a.leak <= b.leak for a, b in pairwise(front))


def found_in(records: list[Any], runs: list[Any]) -> list[Point]:
    (found,), without, _ = trade_offs(of_records(records).boards, runs)
    assert without is None
    return found.points


def test_a_point_has_the_worst_case_and_the_accuracy_of_the_same_defense(attacked: Made) -> None:
    control, masked = found_in(attacked(MASKED), trainings())
    assert (control.name, control.leak, control.accuracy, control.cost) == (
        "no defense",
        1.0,
        pytest.approx(0.85),
        None,
    )
    assert (masked.kind, masked.leak, masked.accuracy) == ("Masking", 0.5, pytest.approx(0.6))
    assert masked.cost == pytest.approx(0.25) and not masked.void and masked.unknown == {4, 5, 6, 7}
    # Wilson's low end of 4 of 8, and the high end of 8 of 8: the other 4 are unknown.
    assert masked.leak_interval == (pytest.approx(0.2152, abs=1e-3), 1.0) and masked.may_leak == 1.0
    # t(0.975, 1 degree of freedom) = 12.7062 times the standard error 0.1
    assert masked.accuracy_interval == (0.0, 1.0)


def test_a_defense_that_did_not_act_or_has_no_rank_says_why(attacked: Made) -> None:
    idle = [one | ({"entries_changed": 0.0} if one["config"]["defense"] else {}) for one in trainings()]
    assert found_in(attacked(MASKED), idle)[1].void == "training: did not act"
    assert MISSING in found_in(attacked(MASKED, knows=(False,)), trainings())[1].void
    lost = [one | ({} if one["config"]["defense"] else {"status": "diverged", "accuracy": None}) for one in trainings()]
    assert all("diverged" in one.void for one in found_in(attacked(MASKED), lost))


def test_a_defense_whose_cost_is_not_known_yet_is_not_judged_and_not_on_the_front(attacked: Made) -> None:
    """As while a run goes on, or where its control was trained by other code."""
    runs = [one for one in trainings() if one["config"]["defense"]]
    (found,), *_ = trade_offs(of_records(attacked(MASKED)).boards, runs)
    (masked,) = found.points
    assert masked.cost is None and masked.void == UNPAIRED and not found.front
    assert sentences(found.points) == [f"Masking: not judged at ratio=0.5 ({UNPAIRED})."]


def test_without_trainings_or_without_common_defenses_a_sentence_says_so(attacked: Made) -> None:
    boards = of_records(attacked(MASKED)).boards
    assert trade_offs(boards, [])[1] == NOTHING_TRAINED
    assert (
        trade_offs(of_records(attacked({"class": "Masking", "ratio": 0.123})).boards, trainings())[1] == NOTHING_SHARED
    )
    for other in ({"model": {"class": "LeNet"}}, {"data": {"class": "MNIST"}}):
        assert trade_offs(boards, trainings(**other))[1] == NOTHING_SHARED


def test_what_was_attacked_alone_or_trained_with_alone_is_named(attacked: Made) -> None:
    other = trained(0, 0.5, "Pruning", key="p")
    boards = of_records([*attacked(MASKED), *attacked({"class": "Masking", "ratio": 0.123})[1:]]).boards
    (found,), _, _ = trade_offs(boards, [*trainings(), other])
    assert len(found.points) == 2
    assert found.notes[-3] == "Attacked but not trained with: Masking ratio=0.123."
    assert found.notes[-2].startswith("Trained with but not attacked: Pruning ratio=")
    assert found.notes[-1].startswith("A single learning rate was tried for ConvNet FedSGD on Digits, with and without")


def test_of_several_trainings_that_of_the_same_protocol_and_batch_is_taken_and_none_are_mixed(attacked: Made) -> None:
    protocol = {"class": "FedAvg", "epochs": 1, "batch_size": 8, "learning_rate": 0.1}
    averaged = {"algorithm": "FedAvg", "local_epochs": 1}
    runs = [*trainings(), *trainings(batch_size=4), *trainings(**averaged)]
    for of, trained_by, differing in (
        ({}, "FedSGD", ""),
        ({"batch_size": 4}, "batches of 4", ""),
        ({"batch_size": 2}, "FedSGD", "batch size: 2 and"),
        ({"protocol": protocol}, "FedAvg", ""),
        ({"protocol": protocol | {"epochs": 2}}, "FedAvg", "epochs: 2 and 1"),
        ({"protocol": protocol | {"learning_rate": 0.3}}, "FedAvg", "learning rate: 0.3 and 0.1"),
        ({"batch_size": 16, "protocol": protocol}, "FedAvg", ""),
    ):
        found, _, _ = trade_offs(of_records(attacked(MASKED, **of)).boards, runs)
        assert len(found) == (2 if "batch size" in differing else 1)
        for one in found:
            assert trained_by in one.trained and len(one.points) == 2 and all(p.row["seeds"] == 2 for p in one.points)
            *said, of_rates = one.notes
            assert differing in " ".join(said) and bool(differing) == bool(said) and "learning rate was" in of_rates
