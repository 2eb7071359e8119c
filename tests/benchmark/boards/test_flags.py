"""The flags of AutoAttack, carried over: each from runs that earn it and from runs that do not."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from attacks import MeanImage
from benchmark.boards.caveats import below_truth, constant_objectives, only_late_states, random_updates
from benchmark.boards.outcome import Names, Outcome, outcomes
from benchmark.jobs.blocks import Block, Keys, Workbench
from benchmark.jobs.records import draws_anew, not_adaptive, run_block, seen_by
from benchmark.metrics.misfit import misfits
from benchmark.store.schema import attack_record
from benchmark.store.sealing import sealed
from benchmark.suite.suite import Cell, parse
from tests.benchmark.boards.test_caveats import MASKING, outcome

DEFENSES = """
import torch
from defenses import KnownDefense, Pruning
from defenses.base import Defense, HookDefense

class Seldom(HookDefense):
    '''Turns every second batch around.'''
    def on_batch(self, images, labels, generators):
        turned = [image.flip(-1) if torch.rand(1, generator=g) < 0.5 else image for image, g in zip(images, generators)]
        return torch.stack(turned), labels
    def known_to_attacker(self):
        return KnownDefense()

class Idle(Defense):
    '''Draws, and makes no use of it.'''
    def protect(self, update, generators):
        [torch.rand(3, generator=g) for g in generators]
        return update
    def known_to_attacker(self):
        return KnownDefense()

class Rounded(Pruning):
    '''Its attacker rounds as it does, which has no slope.'''
    def __init__(self):
        super().__init__(0.0)
    def protect(self, update, generators):
        return {name: (value * 100).round() / 100 for name, value in update.items()}
    def known_to_attacker(self):
        return KnownDefense(simulate=lambda dummy, shared: self.protect(dummy, []))

class Parrot(Rounded):
    '''Its attacker says what he has seen.'''
    def known_to_attacker(self):
        return KnownDefense(simulate=lambda dummy, shared: {n: shared[n] + 0 * dummy[n] for n in dummy})

class Noisy(Rounded):
    '''Rounds with noise.'''
    def protect(self, update, generators):
        noisy = {name: value.clone() for name, value in update.items()}
        for row, generator in enumerate(generators):
            for value in noisy.values():
                value[row] += 0.1 * torch.randn(value[row].shape, generator=generator)
        return {name: (value * 100).round() / 100 for name, value in noisy.items()}

class NotFinite(Pruning):
    '''Shares what is no number.'''
    def protect(self, update, generators):
        return {name: value / 0 for name, value in update.items()}

class Read(Rounded):
    '''Its attacker goes by what is left of an update without its tenth.'''
    def known_to_attacker(self):
        def read(model, weights, shared):
            return weights, {name: 0.9 * value for name, value in shared.items()}
        return KnownDefense(simulate=lambda dummy, shared: {n: 0.9 * v for n, v in dummy.items()}, read=read)

class Near(Rounded):
    '''His images are lost in the rounding of what he has seen.'''
    def known_to_attacker(self):
        return KnownDefense(simulate=lambda dummy, shared: {n: shared[n] + 1e6 + 1e-4 * dummy[n] for n in dummy})
"""


@pytest.fixture(autouse=True)
def alone(nothing_of_the_developers: None) -> None:
    """An empty folder with defenses of the user's own."""
    Path("at_flags.py").write_text(DEFENSES)


@pytest.fixture
def bench() -> Workbench:
    return Workbench(torch.device("cpu"), no_perceptual="no weights")


def cells(defense: Any, **scenario: Any) -> list[Cell]:
    """Of one step of DLG that does not know the defense, and of one that does."""
    given = {"data": "Digits", "model": "LeNet", "victims": 2} | scenario
    attack = {"class": "DLG", "max_evaluations": 1}
    made = parse({"scenarios": [given], "attacks": [attack], "defenses": [defense]}, "mine")
    return [cell for cell in made.cells if cell.defense]


def redrawn(bench: Workbench, defense: Any, **scenario: Any) -> bool:
    cell = cells(defense, **scenario)[1]
    some = range(cell.scenario.victims)
    seen = seen_by(cell, *bench.victims(cell.scenario, some), some, bench, public_images=0)(some)
    return draws_anew(seen, Block(cell, some, "", "", "", ("", ""), ()), bench)


@pytest.mark.parametrize(
    ("defense", "is_random"),
    [
        ({"class": "Masking", "ratio": 0.5}, True),
        ({"class": "Masking", "ratio": 0.0}, False),
        ({"class": "Pruning", "ratio": 0.9}, False),
        ({"class": "GaussianNoise", "std": 1e-4}, True),
        ({"class": "Compose", "defenses": [{"class": "Sign"}, {"class": "GaussianNoise", "std": 1e-3}]}, True),
        ("at_flags.Seldom", True),
        ("at_flags.Idle", False),
        ("at_flags.NotFinite", False),
        ("at_flags.Read", False),
    ],
)
def test_a_defense_that_shares_another_update_of_the_same_batch_is_told(
    defense: Any, is_random: bool, bench: Workbench
) -> None:
    assert redrawn(bench, defense, victims=8) == is_random


@pytest.mark.parametrize(("batch_size", "is_told"), [(1, False), (2, True)])
def test_no_adaptive_attack_is_said_of_the_clients_that_it_is_true_of(
    batch_size: int, is_told: bool, bench: Workbench
) -> None:
    blind, knowing = cells({"class": "OUTPOST", "noise": 0.1}, batch_size=batch_size)
    assert not_adaptive(blind, bench) == {}
    assert bool(not_adaptive(knowing, bench)) == is_told


def test_local_steps_in_another_order_are_no_draw_of_a_defense(bench: Workbench) -> None:
    local = {"class": "FedAvg", "learning_rate": 0.1, "batch_size": 2, "epochs": 2}
    assert not redrawn(bench, {"class": "Pruning", "ratio": 0.5}, batch_size=4, protocol=local)
    assert redrawn(bench, "at_flags.Seldom", batch_size=4, protocol=local)


@pytest.mark.parametrize(
    ("defense", "constant"), [("Rounded", True), ("Parrot", True), ("Near", True), ("Idle", False), ("Seldom", False)]
)
@pytest.mark.parametrize("rounds", [1, 2])
def test_an_objective_that_depends_on_no_image_is_told(
    defense: str, constant: bool, rounds: int, bench: Workbench
) -> None:
    for cell in cells(f"at_flags.{defense}", rounds=rounds):
        some = range(2)
        images, labels = bench.victims(cell.scenario, some)
        seen = seen_by(cell, images, labels, some, bench, public_images=0)(some)
        found = MeanImage().reconstruct(seen)
        assert misfits(seen, found, images, labels).constant.tolist() == [constant and cell.adaptive] * 2


def test_records_and_boards_say_both(bench: Workbench) -> None:
    made = cells("at_flags.Noisy")
    keys = Keys(bench, {cell.scenario.name: bench.model(cell.scenario) for cell in made}, 2)
    records = [run_block(keys.block(cell, range(2)), bench) for cell in made]
    for record in records:
        assert attack_record(sealed(record), record["key"]) == record
    board = outcomes(records)[0]
    assert random_updates(board, Names(board)) == [
        "Update random for a fixed input: at_flags.Noisy. Each client was seen in one round; from more "
        "updates of the same batch, over which the draws average out, more may leak."
    ]
    (said,) = constant_objectives(board, Names(board))
    assert said.startswith("Objective constant at the start: DLG adaptive on at_flags.Noisy (2 of 2 victims)")
    leaking = [replace(one, victims={i: v | {"leaked_any": True} for i, v in one.victims.items()}) for one in board]
    assert constant_objectives(leaking, Names(board)) == []
    known = {"explained": True, "settled": True, "misfit": 0.0, "misfit_of_truth": 0.0}  # where nothing was shared, say
    settled = [replace(one, victims={i: v | known for i, v in one.victims.items()}) for one in board]
    assert constant_objectives(settled, Names(board)) == []
    later = [replace(outcome(0, MASKING, rounds=5), records=({}, {"random_update": True}))]
    (said,) = random_updates(later, Names(later))
    assert "Masking ratio=0.2. Each client was seen in 5 rounds" in said


def with_losses(
    found: Sequence[float | None], true: float | None, leaked: int = 0, status: str = "exhausted"
) -> Outcome:
    """An outcome with these losses."""
    made = outcome(leaked, MASKING, True, victims=len(found))
    for victim, loss in zip(made.victims.values(), found, strict=True):
        victim |= {"loss": loss, "loss_of_truth": true, "status": status}
    return made


@pytest.mark.parametrize(
    ("losses", "true", "leaked", "named"),
    [
        ([0.5, 0.9999, 2.0, None], 1.0, 0, 1),
        ([0.5, 0.5], 1.0, 1, 1),
        ([-2.0, -1.0], -1.5, 0, 1),
        ([-1.5], -1.5, 0, 0),
        ([0.0], 0.0, 0, 0),
        ([0.5], None, 0, 0),
    ],
)
def test_a_loss_below_that_of_the_private_batch_is_named_where_nothing_leaked(
    losses: list[float | None], true: float | None, leaked: int, named: int
) -> None:
    board = [with_losses(losses, true, leaked)]
    said = below_truth(board, Names(board))
    assert [f"({named} of {len(losses)} victims)" in one for one in said] == [True] * bool(named)
    assert below_truth([with_losses(losses, true, leaked, "diverged")], Names(board)) == []
    unaware = [replace(one, config=one.config | {"adaptive": False}) for one in board]
    assert below_truth(unaware, Names(board)) == []
    control = [replace(one, config=one.config | {"defense": None}) for one in unaware]
    assert len(below_truth(control, Names(board))) == bool(named)


def test_a_trained_network_that_was_not_attacked_before_its_training_is_named() -> None:
    late = [outcome(3, state={"epochs": 5}), outcome(0, MASKING, state={"epochs": 5})]
    (said,) = only_late_states(late, late)
    assert said.startswith("Only late states tested")
    assert only_late_states(late, [*late, outcome(3)]) == []
    assert only_late_states([outcome(3)], [*late, outcome(3)]) == []
    for no_help in (
        outcome(3, model={"class": "MLP"}),
        outcome(3, data={"class": "Photos"}),
        outcome(3, state={"epochs": 1}),
        outcome(0, attack={"class": "MeanImage"}),
    ):
        assert only_late_states(late, [*late, no_help]) == [said]
