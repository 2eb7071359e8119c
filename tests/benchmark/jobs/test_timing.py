"""How attacks are timed, on a clock that goes as we say."""

import io
import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from rich.console import Console

from attacks import AutoLeak, GaussNewton
from benchmark.jobs import timing as timing_module
from benchmark.jobs.blocks import Block, Workbench, plan
from benchmark.jobs.timing import (
    LONG,
    TIMED_EVALUATIONS,
    Spent,
    Timing,
    attacks_of,
    kind,
    rounds_of,
    short,
    timing,
    timings,
)
from benchmark.suite.suite import Suite, parse

pytestmark = pytest.mark.usefixtures("nothing_of_the_developers")

TRUE = Timing(block=0.5, victim=0.25, step=0.125, evaluation=0.0625, mean=2, room=0)
SCORED = 0.03125


@pytest.fixture
def bench() -> Workbench:
    return Workbench(torch.device("cpu"), no_perceptual="no weights")


def suite(attacks: Any = "IDLG", victims: int = 5, **more: Any) -> Suite:
    attacks = attacks if isinstance(attacks, list) else [{"class": attacks, "max_evaluations": 60}]
    given = {"scenarios": [{"data": "Digits", "model": "LeNet"}], "attacks": attacks, "victims": victims}
    return parse(given | {"block_size": 2} | more, "mine")


def silent() -> Console:
    return Console(file=io.StringIO())


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[Any, ...]]]:
    """Attacks take the time of ``TRUE``, the first one much more, and scores ``SCORED`` a victim; yields the sizes and
    budgets of those that are run, and what of an ensemble. None of them is long.
    """
    now, ran = [0.0], list[tuple[Any, ...]]()

    def attacked(block: Block, bench: Workbench, name: str = "") -> tuple[float, list[int]]:
        before = now[0]
        count, budget = len(block.victims), block.cell.attack.args.get("max_evaluations", 0)
        now[0] += TRUE.seconds(block, Spent(budget, budget), 1) + 100 * (not ran)
        ran.append((count, budget, name) if name else (count, budget))
        return now[0] - before, [budget] * count

    def run_block(block: Block, bench: Workbench) -> None:
        attacked(block, bench)
        now[0] += SCORED * len(block.victims)

    monkeypatch.setattr(timing_module, "attacked", attacked)
    monkeypatch.setattr(timing_module, "run_block", run_block)
    monkeypatch.setattr(timing_module, "LONG", 1e9)
    monkeypatch.setattr(timing_module, "TIMED_EVALUATIONS", (2, 6, 50))
    for name in ("perf_counter", "thread_time"):
        monkeypatch.setattr(timing_module.time, name, lambda: now[0])
    yield ran


def parts(found: Timing) -> tuple[float, ...]:
    return found.block, found.victim, found.step, found.evaluation


@pytest.mark.parametrize(
    ("long", "ran"),
    [
        # The first one takes 1.125 s: as many victims as take so long, four at least; and of evaluations, of which one
        # takes 0.1875 s, as many more than two as take so long, whatever comes before them.
        (2.5, [(1, 2), (1, 2), (1, 6), (1, 24), (4, 2), (4, 24)]),
        (8.0, [(1, 2), (1, 2), (1, 7), (1, 28), (1, 50), (7, 2), (7, 50)]),
        (1e9, [(1, 2), (1, 2), (1, 50), (8, 2), (8, 50)]),
    ],
)
def test_seconds_are_taken_apart_into_what_they_grow_with(
    bench: Workbench, clock: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch, long: float, ran: list[Any]
) -> None:
    monkeypatch.setattr(timing_module, "LONG", long)
    block = plan(suite(victims=64, block_size=64), bench, rehearse=False)[-1]
    clock.append((0, 0))  # not the first one of all
    found = timing(block, bench)
    assert clock[1:] == [*ran, (1, 2)]  # and one that is scored
    assert parts(found) == pytest.approx((0.5, 0.25 + SCORED, 0.125, 0.0625))
    spent = Spent(mean=3.0, longest=10.0)
    assert found.seconds(block, spent, 64) == pytest.approx(0.5 + (0.25 + SCORED) * 64 + 0.125 * 10 + 0.0625 * 3 * 64)


def test_of_a_slow_attack_one_victim_is_timed_and_shares_nothing_with_others(
    bench: Workbench, clock: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing_module, "LONG", 0.1)
    block = plan(suite(victims=64, block_size=64), bench, rehearse=False)[-1]
    clock.append((0, 0))
    found = timing(block, bench)
    assert clock[1:] == [(1, 2), (1, 2), (1, 6), (1, 2)]
    assert parts(found) == pytest.approx((0.0, 0.5 + 0.25 + SCORED, 0.0, 0.125 + 0.0625))


@pytest.mark.parametrize("chance", range(8))
def test_a_start_that_takes_longer_than_a_step_does_not_hide_what_a_block_takes(
    bench: Workbench, clock: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch, chance: int
) -> None:
    """As that of AutoLeak on a ConvNet in batches of 8: with three evaluations an estimate was off five times."""
    true, noise = Timing(0.03, 0.03, 0.004, 0.003, 0, 0), random.Random(chance)
    block = plan(suite(victims=32, block_size=32), bench, rehearse=False)[-1]

    def attacked(block: Block, bench: Workbench, name: str = "") -> tuple[float, list[int]]:
        count, budget = len(block.victims), block.cell.attack.args["max_evaluations"]
        return true.seconds(block, Spent(budget, budget), 1) + noise.uniform(-0.01, 0.01), [budget] * count

    monkeypatch.setattr(timing_module, "LONG", LONG)
    monkeypatch.setattr(timing_module, "TIMED_EVALUATIONS", TIMED_EVALUATIONS)
    monkeypatch.setattr(timing_module, "attacked", attacked)
    monkeypatch.setattr(timing_module, "scoring", lambda *_: 0.0)
    spent = Spent(mean=500.0, longest=500.0)
    assert timing(block, bench).seconds(block, spent, 32) == pytest.approx(true.seconds(block, spent, 32), rel=0.2)


def test_the_steps_of_an_attack_with_a_long_start_are_told_by_many(
    bench: Workbench, clock: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As that from R-GAP's solution: the difference of few steps would be chance."""
    monkeypatch.setattr(timing_module, "LONG", 1.0)
    monkeypatch.setattr(timing_module, "TIMED_EVALUATIONS", (1, 2, 50))
    block = plan(suite(victims=64, block_size=64), bench, rehearse=False)[-1]
    monkeypatch.setattr(f"{__name__}.TRUE", Timing(block=9.0, victim=0.25, step=0.0, evaluation=0.0625, mean=2, room=0))
    clock.append((0, 0))
    found = timing(block, bench)
    assert clock[1:] == [(1, 1), (1, 1), (1, 2), (1, 8), (1, 32), (1, 1)]
    assert parts(found) == pytest.approx((0.0, 9.25 + SCORED, 0.0, 0.0625))


def test_a_slow_closed_form_is_run_on_one_victim(
    bench: Workbench, clock: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing_module, "LONG", 0.1)
    clock.append((0, 0))
    found = timing(plan(suite(), bench, rehearse=False)[0], bench)
    assert clock[1:] == [(1, 0), (1, 0)]
    assert parts(found) == pytest.approx((0.0, 0.5 + 0.25 + SCORED, 0.0, 0.0))


def test_a_closed_form_takes_its_victims_and_nothing_else(bench: Workbench, clock: list[tuple[Any, ...]]) -> None:
    block = plan(suite(), bench, rehearse=False)[0]
    clock.append((0, 0))
    found = timing(block, bench)
    assert clock[1:] == [(1, 0), (1, 0), (2, 0), (1, 0)]
    assert (found.step, found.evaluation, found.mean) == (0, 0, 0)
    assert found.seconds(block, Spent(0, 0), 2) == pytest.approx(0.5 + (0.25 + SCORED) * 2)


def test_blocks_that_a_gpu_attacks_together_share_their_steps(bench: Workbench) -> None:
    block = plan(suite(victims=8), bench, rehearse=False)[-1]
    spent = Spent(mean=2.0, longest=4.0)
    own = 0.25 * 2 + 0.0625 * 2 * 2
    whole = 0.5 + 0.125 * 4
    assert TRUE.seconds(block, spent, 99) == whole + own
    assert replace(TRUE, room=4).seconds(block, spent, 99) == whole / 2 + own
    assert replace(TRUE, room=1000).seconds(block, spent, 99) == whole / 4 + own  # there are no more victims
    assert replace(TRUE, room=1).seconds(block, spent, 99) == TRUE.seconds(block, spent, 99)
    assert replace(TRUE, room=1000).seconds(block, spent, fair=4) == replace(TRUE, room=4).seconds(block, spent, 99)


def test_an_attack_that_few_victims_meet_takes_less(bench: Workbench) -> None:
    block = plan(suite(victims=8), bench, rehearse=False)[-1]
    spent = Spent(mean=1.0, longest=4.0, victims=0.5, blocks=0.75)
    assert TRUE.seconds(block, spent, 99) == 0.75 * 0.5 + 0.125 * 4 + 0.25 * 2 * 0.5 + 0.0625 * 2 * 1


def test_a_defense_and_a_budget_need_no_timing_of_their_own(
    bench: Workbench, clock: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing_module, "PATIENCE", 1e9)
    attacks = [{"class": "IDLG", "sweep": {"max_evaluations": [7, 9]}}, {"class": "IDLG", "tolerance": 0}]
    blocks = plan(suite(attacks, defenses=["Masking", {"class": "Pruning", "ratio": 0.9}]), bench, rehearse=False)
    assert len({kind(block.cell) for block in blocks}) == 1 + 2  # the null baselines are one
    shown: list[tuple[str, bool]] = []
    original = timing

    def watched(block: Block, bench: Workbench, name: str = "") -> Timing:
        shown.append((block.cell.defense.label if block.cell.defense else "", block.cell.adaptive))
        return original(block, bench, name)

    monkeypatch.setattr(timing_module, "timing", watched)
    assert len(timings(blocks, bench, silent())) == 3
    # Behind the last defense an attack goes on: without one it may be over at its first step.
    assert shown == [("", False), ("Pruning(ratio=0.9)", False), ("Pruning(ratio=0.9)", False)]


def test_when_patience_is_at_its_end_the_first_of_a_sweep_stands_for_the_rest(
    bench: Workbench, clock: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing_module, "PATIENCE", 0.0)
    attacks = [{"class": "IDLG", "sweep": {"tolerance": [0, 1e-3, 1e-2]}}, "DLG"]
    found = timings(plan(suite(attacks), bench, rehearse=False), bench, silent())
    assert len(found) == 1 + 4
    # One to begin with; a baseline; one that takes steps, to begin with; of three tolerances the first one; DLG.
    assert len(clock) == 1 + 4 + 1 + 6 + 6
    assert len({id(timed[""]) for timed in found.values()}) == 3


@pytest.mark.parametrize("patient", [True, False])
def test_each_attack_of_an_ensemble_is_timed_or_one_stands_for_all_that_take_steps(
    bench: Workbench, clock: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch, patient: bool
) -> None:
    monkeypatch.setattr(timing_module, "PATIENCE", 1e9 if patient else 0.0)
    blocks = plan(suite("AutoLeak"), bench, rehearse=False)
    (timed,) = (one for name, one in timings(blocks, bench, silent()).items() if "AutoLeak" in name[-1])
    names = attacks_of(blocks[-1].cell, bench).keys()
    assert names == {
        "RGAP",
        "IDLG from R-GAP",
        "IDLG from the mean",
        "IDLG from a plain match",
        "DLG",
        "Bayes",
        "Wiener",
        "GaussNewton",
        "InvertingGradients",
    }
    assert timed.keys() == {"", *names}  # the empty name has the scores
    steps = {"IDLG from the mean", "IDLG from a plain match", "DLG", "Bayes", "Wiener", "InvertingGradients"}
    alone = {name for *_, name in (one for one in clock[2:] if len(one) == 3)}
    assert alone == (set(names) if patient else set(names) - steps | {"IDLG from the mean"})
    assert all(timed[name] is timed["IDLG from the mean"] for name in steps) != patient
    assert {one[1] for one in clock if one[-1] == "DLG"} == ({2, 50} if patient else set())


def test_iterations_of_gauss_newton_are_alike_and_one_is_timed(bench: Workbench) -> None:
    attacks = [{"class": "GaussNewton", "iterations": 5}]
    block = plan(suite(attacks), bench, rehearse=False)[-1]
    assert short(block, 1, 2).cell.attack.args["iterations"] == 1
    assert rounds_of(attacks_of(block.cell, bench)[""]) == 5
    parts_of_500, parts_of_2 = AutoLeak(500).parts(), AutoLeak(2).parts()
    assert rounds_of(parts_of_500["GaussNewton"]) == 5 and rounds_of(parts_of_2["GaussNewton"]) == 1
    assert isinstance(parts_of_2["GaussNewton"], GaussNewton) and rounds_of(parts_of_500["DLG"]) == 1
    assert TRUE.times(5) == Timing(2.5, 1.25, 0.625, 0.3125, 10, 0)


def test_a_plan_that_is_not_rehearsed_has_the_same_blocks(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    given = suite(victims=3, defenses=["Masking"])
    planned = plan(given, bench)
    assert bench.rehearsal.tried
    monkeypatch.setattr(type(bench.rehearsal), "of", lambda *_: pytest.fail("rehearsed"))
    assert plan(given, bench, rehearse=False) == planned
