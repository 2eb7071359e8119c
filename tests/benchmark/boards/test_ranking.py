"""Void cells and ranks, worked out by hand from which victims leaked."""

import itertools
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from scipy.stats import binom

from benchmark.boards.outcome import Outcome
from benchmark.boards.ranking import (
    DIVERGED,
    NOT_ADAPTIVE,
    SAFE_CONTROL,
    UNCONTROLLED,
    UNEXPLAINED,
    UNKNOWN_ORDER,
    UNTESTED,
    WEAK_CONTROL,
    Standing,
    leaks_more,
    ranked,
    ranks,
    void,
)


def outcome(
    leaked: int | set[int],
    victims: int = 16,
    attack: str = "DLG",
    defense: str | None = None,
    adaptive: bool = False,
    diverged: int = 0,
    broken: str | None = None,
    unconverged: int = 0,
    unexplained: int = 0,
) -> Outcome:
    """The first so many victims leaked, or those that are given; on the last so many the attack failed."""
    found = set(range(leaked)) if isinstance(leaked, int) else leaked
    config = {
        "data": {"class": "Digits"},
        "model": {"class": "LeNet"},
        "batch_size": 1,
        "seed": 0,
        "defense": {"class": defense} if defense else None,
        "attack": {"class": attack},
        "adaptive": adaptive,
    }
    of_victims = {
        index: {
            "leaked_any": index in found,
            "leaked_all": index in found,
            "status": "diverged" if index >= victims - diverged else "converged",
            "misfit": 0.9 if index >= victims - unconverged else 0.0,
            "misfit_of_truth": 0.0,
            **({"explained": index < victims - unexplained} if adaptive or (unexplained and not defense) else {}),
        }
        for index in range(victims)
    }
    return Outcome(repr(config), config, of_victims, ({"void": broken},))


def both(leaked: int | set[int], adaptive: int | set[int] | None = None, **more: Any) -> list[Outcome]:
    """An attack that does not know the defense, and one that does."""
    known = leaked if adaptive is None else adaptive
    return [outcome(leaked, **more), outcome(known, adaptive=True, **more)]


def by_name(standings: list[Standing]) -> dict[str, Standing]:
    return {(one.outcomes[0].config["defense"] or {"class": "none"})["class"]: one for one in standings}


def rank_of(board: list[Outcome]) -> dict[str, int | None]:
    return {name: one.rank for name, one in by_name(ranked(board)).items()}


def test_a_defense_is_ranked_by_the_victims_that_leak_to_any_attack_on_it() -> None:
    # Six victims leak to the one attack and six others to the other: as a whole it is worse than ten to both.
    board = [outcome(16), *both(set(range(6)), set(range(6, 12)), defense="Spread"), *both(10, defense="Same")]
    standings = by_name(ranked(board))
    assert len(standings["Spread"].worst) == 12 and len(standings["Same"].worst) == 10
    assert [len(one.worst) for one in ranked(board)] == [10, 12, 16]


def test_six_victims_that_leak_to_one_only_tell_two_defenses_apart_and_five_do_not() -> None:
    """Both tails of tosses of a fair coin: 2 (1/2)^6 = 0.031, 2 (1/2)^5 = 0.0625."""
    assert rank_of([outcome(16), *both(10, defense="Six")]) == {"Six": 1, "none": 2}
    assert rank_of([outcome(16), *both(11, defense="Five")]) == {"Five": 1, "none": 1}


def test_as_many_victims_that_leak_to_the_other_only_take_the_difference_away() -> None:
    # 10 and 16 of 20 victims: of those that differ, 8 leak to the second only and 2 to the first only: p = 0.109.
    first, second = set(range(10)), set(range(2, 18))
    assert leaks_more(outcome(16, 20), outcome(10, 20))
    assert not leaks_more(outcome(second, 20), outcome(first, 20))


def test_a_rank_is_one_plus_the_number_of_defenses_that_leak_significantly_less() -> None:
    # 0, 4, 8 and 16 of 16, each among the next: 4 differ, 4 differ, 8 differ; 0 and 8 are told apart.
    board = [outcome(16), *both(0, defense="A"), *both(4, defense="B"), *both(8, defense="C")]
    assert rank_of(board) == {"A": 1, "B": 1, "C": 2, "none": 4}


def test_a_mask_that_leaks_on_one_victim_less_is_not_ranked_before_no_defense() -> None:
    """The quick suite as it was once published: 15 and 16 of 16."""
    assert rank_of([outcome(16), *both(15, defense="Masking"), *both(8, defense="Noise")]) == {
        "Noise": 1,
        "Masking": 2,
        "none": 2,
    }


@cache
def critical(differing: int) -> int:
    """The smallest net number of victims that is significant among so many that differ; more than all where none is."""
    return next(
        (
            net
            for net in range(differing % 2, differing + 1, 2)
            if 2 * binom.cdf((differing - net) // 2, differing, 0.5) <= 0.05 and net
        ),
        differing + 2,
    )


def test_a_rank_never_contradicts_a_test() -> None:
    """ "Leaks significantly less" is transitive, whichever victims differ: nets of differences add up, and no critical
    value is greater than the sum of those of its parts."""
    for first, second in itertools.combinations_with_replacement(range(6, 70), 2):
        if critical(first) > first or critical(second) > second:
            continue
        nets = critical(first) + critical(second)
        assert all(critical(whole) <= nets for whole in range(nets, first + second + 1, 2))


def test_defenses_that_are_told_apart_have_different_ranks_in_that_order() -> None:
    generator = np.random.default_rng(0)
    for _ in range(40):
        rates = generator.uniform(size=(7, 1))
        leaked = generator.uniform(size=(7, 24)) < rates
        found = ranks(leaked)
        outcomes = [outcome(set(np.flatnonzero(row).tolist()), 24) for row in leaked]
        assert found == [1 + sum(leaks_more(one, other) for other in outcomes) for one in outcomes]
        for (i, one), (j, other) in itertools.permutations(enumerate(outcomes), 2):
            if leaks_more(one, other):
                assert found[i] > found[j]


def test_ranks_follow_rates_where_the_victims_of_one_are_among_those_of_the_next() -> None:
    leaked = np.tri(25, 24, -1, dtype=bool)  # 0 to 24 victims
    assert ranks(leaked) == sorted(ranks(leaked))
    assert ranks(leaked)[5:8] == [1, 2, 3]


@pytest.mark.parametrize(
    "leaked", [np.zeros((0, 0), bool), np.zeros((1, 3), bool), np.ones((3, 5), bool), np.eye(5, dtype=bool)]
)
def test_where_nothing_is_told_apart_all_ranks_are_one(leaked: np.ndarray) -> None:
    assert ranks(leaked) == [1] * len(leaked)


def test_a_cell_is_void_where_its_control_does_not_leak_or_is_not_there() -> None:
    assert void(outcome(0, defense="A"), outcome(0)) == SAFE_CONTROL
    assert void(outcome(0, defense="A"), None) == UNCONTROLLED
    assert void(outcome(0, defense="A"), outcome(1)) is None
    assert void(outcome(0, victims=4, defense="A"), outcome({5})) == SAFE_CONTROL  # on other victims only


def test_a_cell_is_void_where_it_leaks_more_than_its_control_ever_does() -> None:
    assert void(outcome(12, defense="A"), outcome(2)) == WEAK_CONTROL
    assert void(outcome(6, defense="A"), outcome(2)) is None  # four victims: may be chance


def test_a_cell_is_void_where_most_victims_diverged() -> None:
    assert void(outcome(0, diverged=9, defense="A"), outcome(16)) == DIVERGED
    assert void(outcome(0, diverged=8, defense="A"), outcome(16)) is None
    assert void(outcome(0, diverged=16), None) == DIVERGED


def test_a_cell_is_void_where_its_update_or_that_of_its_control_was_not_finite() -> None:
    said = "the update of 16 of 16 victims was not finite"
    assert void(outcome(0, broken=said + ".", defense="A"), outcome(16)) == said
    assert void(outcome(0, defense="A"), outcome(0, broken=said)) == f"control is void: {said}"
    assert void(outcome(0, broken=said), None) == said


def test_a_defense_whose_update_is_not_finite_has_no_rank_and_the_others_keep_theirs() -> None:
    board = [
        outcome(16),
        *both(0, diverged=16, broken="the update was not finite", defense="NaN"),
        *both(4, defense="A"),
    ]
    standings = by_name(ranked(board))
    assert {name: one.rank for name, one in standings.items()} == {"A": 1, "none": 2, "NaN": None}
    assert standings["NaN"].unranked == "the update was not finite"
    assert ranked(board)[-1] is not standings["none"]


def test_one_broken_cell_is_enough_to_have_no_rank() -> None:
    board = [outcome(16), outcome(0, defense="A"), outcome(0, adaptive=True, broken="not finite", defense="A")]
    assert rank_of(board) == {"none": 1, "A": None}


def test_an_attack_that_diverged_both_ways_leaves_no_rank_and_one_that_diverged_one_way_does() -> None:
    whole = [outcome(16), outcome(16, attack="RGAP")]
    assert rank_of([*whole, *both(2, defense="A"), *both(0, attack="RGAP", diverged=16, defense="A")])["A"] is None
    one_way = [
        outcome(0, attack="RGAP", diverged=16, defense="A"),
        outcome(0, attack="RGAP", adaptive=True, defense="A"),
    ]
    assert rank_of([*whole, *both(2, defense="A"), *one_way])["A"] == 1


def test_a_wrong_model_of_the_defense_leaves_no_rank_unless_most_victims_leaked_to_it() -> None:
    def rank(leaked: int, unexplained: int) -> str | int | None:
        cell = outcome(leaked, defense="A", adaptive=True, unexplained=unexplained)
        standing = by_name(ranked([outcome(16), outcome(0, defense="A"), cell]))["A"]
        return standing.rank or standing.unranked

    assert rank(0, 16) == rank(0, 9) == rank(7, 16) == UNEXPLAINED
    assert rank(0, 8) == rank(9, 16) == 1


def test_an_unknown_order_of_local_steps_leaves_no_rank_to_any_defense() -> None:
    blind = [outcome(0, unexplained=16), *both(0, defense="A", unexplained=16)]
    standings = by_name(ranked(blind))
    assert standings["none"].unranked == standings["A"].unranked == UNKNOWN_ORDER
    assert standings["A"].void == (SAFE_CONTROL, UNKNOWN_ORDER)  # who does not know the defense had no control either


@pytest.mark.parametrize("failed", ["unconverged", "diverged"])
def test_a_defense_has_no_rank_where_no_attack_that_knows_it_converged_on_most_victims(failed: str) -> None:
    def rank(adaptive: Outcome, *others: Outcome) -> str | int | None:
        standing = by_name(ranked([outcome(16), outcome(0, defense="A"), adaptive, *others]))["A"]
        return standing.rank or standing.unranked

    knows: dict[str, Any] = {"defense": "A", "adaptive": True}
    assert rank(outcome(0, **knows, **{failed: 9})) == UNTESTED
    assert rank(outcome(0, **knows, **{failed: 8})) == 1
    assert rank(outcome(7, **knows, **{failed: 9})) == UNTESTED
    # What was found settles a victim, whichever attack found it.
    assert rank(outcome(0, **knows, **{failed: 9}), outcome({15}, attack="IDLG", defense="A")) is None
    # Another attack did converge: the update was tried.
    another = [outcome(16, attack="IDLG"), *both(0, attack="IDLG", defense="A")]
    assert rank(outcome(0, **knows, **{failed: 9}), *another) == 1


@pytest.mark.parametrize("failed", ["unconverged", "diverged"])
def test_a_victim_of_whom_nothing_is_known_counts_as_one_that_leaks(failed: str) -> None:
    """Or a defense on which attacks fail would stand above one on which they do not."""
    control, open_ones = outcome(16), {failed: 8}
    board = [control, *both(8, defense="Found"), *both(0, defense="Failed", **open_ones), *both(0, defense="Safe")]
    assert rank_of(board) == {"Safe": 1, "Found": 2, "Failed": 2, "none": 4}
    failed_one = by_name(ranked(board))["Failed"]
    assert failed_one.unknown == failed_one.may_leak == frozenset(range(8, 16)) and not failed_one.worst
    # Half of them leaked to it and of the others nothing is known: nobody was shown to be protected.
    assert rank_of([control, *both(8, defense="Half", **open_ones)]) == {"none": 1, "Half": 1}


def test_a_defense_that_nobody_knows_how_to_attack_has_no_rank_unless_every_victim_leaked() -> None:
    def rank(leaked: int) -> str | int | None:
        oblivious, knowing = both(leaked, defense="A")
        record = {**knowing.records[0], "no_adaptive_attack": "nobody knows how"}
        standing = by_name(ranked([outcome(16), oblivious, replace(knowing, records=(record,))]))["A"]
        return standing.rank or standing.unranked

    assert rank(0) == rank(9) == rank(15) == NOT_ADAPTIVE
    assert rank(16) == 1


def test_what_leaked_in_a_void_cell_has_leaked() -> None:
    board = [outcome(16), outcome(2, attack="IDLG"), *both(3, defense="A"), *both(14, attack="IDLG", defense="A")]
    standing = by_name(ranked(board))["A"]
    assert set(standing.void) == {None, WEAK_CONTROL} and len(standing.worst) == 14


def test_no_defense_has_a_rank_where_it_leaks() -> None:
    assert rank_of([outcome(0), *both(0, defense="A")]) == {"none": None, "A": None}
    assert by_name(ranked([outcome(0)]))["none"].unranked == "no attack found anything without a defense"


def test_every_attack_of_the_board_must_have_met_a_defense_before_it_has_a_rank() -> None:
    whole = [outcome(16), outcome(16, attack="IDLG"), *both(4, defense="A"), *both(4, attack="IDLG", defense="A")]
    assert rank_of(whole) == {"A": 1, "none": 2}
    for place in range(len(whole)):
        left = by_name(ranked(whole[:place] + whole[place + 1 :]))
        lacks = "none" if place < 2 else "A"
        assert left[lacks].rank is None
        ((attack, adaptive, there),) = left[lacks].missing
        assert (attack.attack, adaptive, there) == (whole[place].attack, whole[place].adaptive, 0)
    fewer = [*whole[:-1], outcome(2, victims=4, attack="IDLG", adaptive=True, defense="A")]
    assert [(knows, there) for _, knows, there in by_name(ranked(fewer))["A"].missing] == [(True, 4)]


def test_baselines_are_not_ranked_and_decide_no_rank() -> None:
    board = [outcome(16), outcome(16, attack="MeanImage"), *both(4, defense="A")]
    assert rank_of(board) == {"A": 1, "none": 2}
    assert not any(one.is_baseline for standing in ranked(board) for one in standing.outcomes)


def test_noise_does_not_hide_that_the_order_of_local_steps_is_unknown() -> None:
    control, behind = outcome(2, unconverged=14, unexplained=14), both(0, defense="GaussianNoise")
    (noise,) = [one for one in ranked([control, *behind]) if one.outcomes[0].defended]
    assert noise.rank is None and noise.unranked == UNKNOWN_ORDER


def settled(one: Outcome) -> Outcome:
    """The same, of an attack that found of each victim what fits its update as the private images do."""
    victims = {index: victim | {"settled": True, "misfit": 0.0} for index, victim in one.victims.items()}
    return replace(one, victims=victims)


def test_no_other_attack_says_that_nothing_leaks_where_autoleak_says_nothing() -> None:
    """One without a prior fits the noise, and is as near to the update as the private images are."""
    control = [outcome(16), outcome(16, attack="AutoLeak")]
    failed = both(0, attack="AutoLeak", defense="Noise", unconverged=16)
    fits = [settled(one) for one in both(0, defense="Noise")]
    alone, beside = (by_name(ranked([*control, *failed, *more]))["Noise"] for more in ([], fits))
    assert len(alone.unknown) == len(beside.unknown) == 16
    assert beside.rank is None and beside.unranked == UNTESTED
    half = both(0, attack="AutoLeak", defense="Noise", unconverged=4)
    known = by_name(ranked([*control, *half, *fits]))["Noise"]
    assert len(known.unknown) == 4 and known.rank == 1
    without = by_name(ranked([outcome(16), *fits, *both(0, attack="IDLG", defense="Noise", unconverged=16)]))["Noise"]
    assert not without.unknown  # where AutoLeak was not run the others count, and the board says what is lacking


def test_an_attack_on_one_defense_alone_puts_it_before_none_that_leaks_less() -> None:
    board = [outcome(16), *both(0, defense="Strong"), *both(16, defense="Weak")]
    assert rank_of(board) == {"Strong": 1, "Weak": 2, "none": 2}
    more = [outcome(16, attack="IDLG"), *both(16, attack="IDLG", defense="Weak")]
    assert rank_of([*board, *more]) == {"Strong": None, "Weak": 2, "none": 2}
