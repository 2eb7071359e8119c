"""The fit of an attack: what Lightning's users see of it, what it leaves behind, and its optimizers."""

import gc
import logging
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.func import functional_call

from attacks import DLG, IDLG, Observation
from attacks.engine import ledger, problem
from attacks.engine.ledger import Ledger, thinned
from attacks.engine.problem import MatchingProblem
from attacks.gradient_matching import GradientMatching
from benchmark.models import MLP

MakeVictims = Callable[..., Any]


# What a user of Lightning sees.


def test_a_logger_gets_the_loss_and_the_numbers_of_active_and_converged_victims(
    victims_of: MakeVictims, tmp_path: Path
) -> None:
    seen = victims_of(3).observation
    losses: list[Tensor] = []

    class Seen(Callback):
        def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
            losses.append(loss.detach().clone())

    logger = CSVLogger(tmp_path, name="own", version=0)
    found = IDLG(max_evaluations=80, at_once=2).reconstruct(seen, [Seen()], logger=logger, log_every_n_steps=5)
    header, *lines = (tmp_path / "own" / "version_0" / "metrics.csv").read_text().split()
    rows = [dict(zip(header.split(","), map(float, line.split(",")), strict=True)) for line in lines]
    ends, clock = [], [0, 0]  # two rows, of which each takes the next victim when it is free
    for spent in found.evaluations.tolist():
        row = clock.index(min(clock))
        clock[row] += spent
        ends.append(clock[row])
    assert [row["step"] for row in rows] == [*range(4, max(ends) - 1, 5), max(ends) - 1]
    for row in rows:
        step = int(row["step"])
        assert row["loss"] == pytest.approx(float(losses[step].mean()))
        assert row["active"] == min(2, sum(end > step + 1 for end in ends))
        assert row["converged"] == sum(end <= step + 1 for end in ends)
    assert found.status == ["converged"] * 3
    plain = IDLG(max_evaluations=80, at_once=2).reconstruct(seen)
    assert torch.equal(plain.images, found.images) and torch.equal(plain.loss, found.loss)


def test_a_checkpoint_and_a_profiler_of_the_user_are_made(victims_of: MakeVictims, tmp_path: Path) -> None:
    checkpoint = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=4, save_top_k=-1)
    IDLG(max_evaluations=9).reconstruct(victims_of(2).observation, [checkpoint], profiler="simple")
    held = torch.load(tmp_path / "step=8.ckpt", weights_only=True)["state_dict"]
    assert held["images"].shape == (2, 1, 1, 8, 8)


def test_a_callback_of_the_user_ends_a_fit_with_what_there_is(victims_of: MakeVictims) -> None:
    class Enough(Callback):
        def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
            trainer.should_stop = args[-1] == 6

    found = IDLG(at_once=2).reconstruct(victims_of(3).observation, [Enough()])
    assert found.status == ["exhausted"] * 3 and found.evaluations.tolist() == [7, 7, 0]
    assert found.loss.isfinite().tolist() == [True, True, False] and found.images.isfinite().all()


@pytest.mark.parametrize("argument", ["gradient_clip_val", "accelerator", "max_epochs", "precision", "no_such"])
def test_an_argument_of_the_trainer_that_would_change_the_attack_is_refused(
    argument: str, victims_of: MakeVictims
) -> None:
    with pytest.raises(ValueError, match=f"an attack takes no {argument} for its Trainer: choose from logger, "):
        IDLG().reconstruct(victims_of(1).observation, (), None, **{argument: 1})


# What it leaves behind.


@pytest.mark.parametrize("ends", ["well", "badly"])
def test_a_fit_leaves_no_tensor_behind(ends: str, victims_of: MakeVictims, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a look of the garbage collector, which comes late, while the next fit needs the memory."""
    held: list[weakref.ref[Tensor]] = []
    real = MatchingProblem.retire

    def retire(self: MatchingProblem) -> bool:
        assert self.solver is not None
        if not held:
            held.extend(map(weakref.ref, (self.images, self.ledger.losses, *self.solver._rows.values())))
        if ends == "badly":
            raise MemoryError
        return real(self)

    monkeypatch.setattr(MatchingProblem, "retire", retire)
    attack, seen = IDLG(max_evaluations=3), victims_of(2).observation
    level = logging.getLogger("lightning.pytorch").level
    gc.collect()
    gc.disable()
    try:
        try:
            attack.reconstruct(seen)
        except MemoryError:
            assert ends == "badly"
        assert len(held) > 10 and all(one() is None for one in held)
    finally:
        gc.enable()
    assert logging.getLogger("lightning.pytorch").level == level
    assert not isinstance(attack, nn.Module) and not any(isinstance(v, Tensor) for v in vars(attack).values())


# Optimizers.


def plain_adam(seen: Observation, victim: int, steps: int, lr: float, soft: bool) -> list[float]:
    """The losses of one victim by torch.optim.Adam on the squared distance of gradients, as anybody would write it."""
    generator = torch.Generator().manual_seed(seen.seeds[victim])
    image = torch.randn(seen.image_shape, generator=generator).double().requires_grad_()
    logits = torch.randn(1, seen.num_classes, generator=generator).double().requires_grad_()
    network = {n: p[victim].clone().requires_grad_() for n, p in seen.parameters.items()}
    label = list(seen.update.values())[-1][victim].argmin()  # the only negative entry of the last bias
    optimizer = torch.optim.Adam([image, logits] if soft else [image], lr=lr)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        out = functional_call(seen.model, network, (image,))
        target = logits.softmax(-1) if soft else nn.functional.one_hot(label[None], seen.num_classes).double()
        gradient = torch.autograd.grad(-(target * out.log_softmax(-1)).sum(), list(network.values()), create_graph=True)
        off = [((g - seen.update[n][victim]) ** 2).sum() for n, g in zip(network, gradient, strict=True)]
        loss = torch.stack(off).sum()
        loss.backward()
        losses.append(float(loss.detach()))
        optimizer.step()
    return losses


@pytest.mark.parametrize("attack", [DLG, IDLG])
@pytest.mark.parametrize("learning_rate", [None, 0.02])
def test_an_attack_with_adam_is_a_plain_loop_of_it(
    attack: type[GradientMatching], learning_rate: float | None, victims_of: MakeVictims
) -> None:
    seen = victims_of(2, dtype=torch.float64, model=MLP).observation
    paths: dict[int, list[float]] = {0: [], 1: []}

    class Losses(Callback):
        def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
            assert isinstance(pl_module, MatchingProblem)
            for row, victim in enumerate(pl_module.victims):
                paths[victim].append(float(loss[row].detach()))

    made = attack(max_evaluations=60, tolerance=0, optimizer="adam", learning_rate=learning_rate, at_once=1)
    found = made.reconstruct(seen, [Losses()])
    for victim in range(2):
        wanted = plain_adam(seen, victim, 60, learning_rate or 0.1, attack is DLG)
        assert paths[victim] == pytest.approx(wanted, rel=1e-8)
        assert float(found.loss[victim]) == pytest.approx(min(wanted), rel=1e-8)
        assert min(wanted) < 0.6 * wanted[0]
    assert found.status == ["exhausted"] * 2 and found.evaluations.tolist() == [60, 60]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"optimizer": "sgd"}, "optimizer is 'sgd', but must be one of lbfgs, adam"),
        ({"optimizer": "adam", "learning_rate": 0.0}, "learning_rate is 0.0, but must be above 0 and finite"),
        ({"learning_rate": float("nan")}, "learning_rate is nan, but must be above 0 and finite"),
        ({"optimizer": "adam", "line_search": True}, "line_search is for lbfgs: leave it out where optimizer is adam"),
    ],
)
def test_an_optimizer_that_does_not_fit_is_told_in_one_sentence(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as raised:
        IDLG(**given)
    assert ". " not in str(raised.value) and "\n" not in str(raised.value)


# Looking at the device.


@pytest.mark.parametrize("every", [3, 8])
def test_looking_less_often_for_victims_that_are_done_changes_no_result(
    every: int, victims_of: MakeVictims, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, which waits for Python at each look."""
    seen = victims_of(7, dtype=torch.float64).observation
    update = {name: value.clone() for name, value in seen.update.items()}
    update[next(iter(update))][3] = torch.nan
    seen = replace(seen, update=update)
    made = IDLG(max_evaluations=70, at_once=3, restarts=2, patience=9)
    plain = made.reconstruct(seen)
    looks: list[int] = []
    real = Ledger.close_ended

    def close_ended(self: Ledger) -> list[int]:
        looks.append(1)
        return real(self)

    monkeypatch.setattr(Ledger, "close_ended", close_ended)
    monkeypatch.setitem(problem.LOOK, "cpu", every)
    found = made.reconstruct(seen)
    assert len(looks) < sum(plain.evaluations.tolist()) / every
    assert found.status == plain.status and found.starts == plain.starts
    assert {"converged", "diverged"} <= set(plain.status)
    assert torch.equal(found.evaluations, plain.evaluations)
    torch.testing.assert_close(found.loss, plain.loss, rtol=1e-5, atol=1e-12)
    assert found.trajectory is not None and plain.trajectory is not None
    assert torch.equal(found.trajectory.passed, plain.trajectory.passed)
    torch.testing.assert_close(found.trajectory.loss, plain.trajectory.loss, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("budget", [1, 5, 12, 13])
def test_victims_that_spend_their_budget_between_two_looks_leave_no_other_trace(
    budget: int, victims_of: MakeVictims, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU makes up to seven steps more than the budget has."""
    seen = victims_of(3, dtype=torch.float64, model=MLP).observation
    made = IDLG(max_evaluations=budget, tolerance=0)
    plain = made.reconstruct(seen)
    monkeypatch.setitem(problem.LOOK, "cpu", 8)
    found = made.reconstruct(seen)
    assert torch.equal(found.evaluations, plain.evaluations) and found.status == plain.status
    assert torch.equal(found.images, plain.images) and torch.equal(found.loss, plain.loss)
    assert found.trajectory is not None and plain.trajectory is not None
    assert torch.equal(found.trajectory.loss, plain.trajectory.loss)
    assert torch.equal(found.trajectory.images, plain.trajectory.images)


@pytest.mark.parametrize(("most", "kept"), [(100, list(range(6))), (6, list(range(6))), (3, [0, 2, 5]), (2, [0, 5])])
def test_a_trajectory_of_large_images_is_thinned(most: int, kept: list[int]) -> None:
    assert thinned(6, most) == kept
    assert thinned(6, 1) == thinned(6, 0) == []


def test_images_that_are_not_kept_do_not_change_the_others(
    victims_of: MakeVictims, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = victims_of(3).observation
    made = IDLG(max_evaluations=20)
    plain = made.reconstruct(seen).trajectory
    monkeypatch.setattr(ledger, "PICTURES", 5 * 64 * 4 + 3)  # five images of 8 x 8 pixels
    found = made.reconstruct(seen).trajectory
    assert plain is not None and found is not None and found.pictured is not None
    assert found.images.shape[1] == len(found.pictured) == 5
    assert torch.equal(found.images, plain.images[:, list(found.pictured)]) and torch.equal(found.loss, plain.loss)
