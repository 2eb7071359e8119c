"""The optimization loop that DLG and its successors share, for many victims at once."""

import logging
import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import count
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from attacks.base import Attack, Observation, Reconstruction, Trajectory
from attacks.batch_lbfgs import BatchLBFGS, rearrange
from attacks.objective import Objective
from attacks.rgap import RGAP
from attacks.slots import refill
from attacks.starts import STARTS, draw_starts

SNAPSHOTS = 25
"""Moments of a trajectory that are kept, over the whole budget."""

PROGRESS = 1e-3
"""Share by which the lowest loss of a victim must fall within its patience, or the attack has stopped improving."""

LEVELS = (0.09, 0.03)
"""Losses whose first passing is noted: success for DLG-FB on CIFAR-100 and on MNIST (arXiv 2409.17767, the code)."""

_STATE = (
    "_observation",
    "_objective",
    "_found",
    "_found_best",
    "_trajectory",
    "_starts",
    "_attempts",
)
_ROWS = (
    "_best",
    "_best_loss",
    "_to_beat",
    "_improved_at",
    "losses",
)
"""What a reconstruction holds of its victims, and of those that are active."""

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)  # a line for each Trainer, and there are thousands


class GradientMatching(LightningModule, Attack):
    """Finds the images whose gradient is the observed update, with L-BFGS, V victims at once.

    The parameters of this module are the dummy images (and what else a subclass optimizes) of the victims that are
    under attack now: ``at_once`` at most. One Lightning step is one evaluation of all of them. A victim that has
    converged, stalled, diverged or spent its budget leaves, and a waiting one takes its place.

    Args:
        max_evaluations: gradient evaluations for each victim, at least 1; published are 300 steps of 20.
        tolerance: stop when the matching loss is below this, as published; at least 0. Where a known defense makes what
            is matched smaller than a gradient, it is smaller in proportion, and nowhere more than a hundred thousandth
            of the loss at a start that owes nothing to the update.
        at_once: victims under attack at the same time, at least 1; None for all of them.
        history_size: pairs that L-BFGS keeps, at least 1.
        start: "noise", as published; "constant", "mean" or "class_mean", the null baselines; or "rgap", the solution of
            R-GAP (one image per victim), and noise for those victims that do not converge from there.
        total_variation: weight of the total variation of the images, at least 0, as published; above 0 a pixel outside
            [0, 1] costs too, and the loss does not fall to the tolerance. For an attacker who has lost a part of the
            gradient: natural images are smooth, which stands in for the equations that are missing.
        restarts: how often a victim that has stalled or diverged starts again from new noise within its budget, at
            least 0, as published.
        prior_scale: against known noise, scale of the Laplace prior on the differences of neighboring pixels, above 0,
            in parts of their mean size in public images, which is its maximum-likelihood estimate. The larger, the
            less the prior smooths.
        patience: evaluations after which a victim has stalled whose lowest loss has not fallen by a thousandth
            meanwhile, at least 1; None, as published, for no such rule.
        line_search: whether the length of each step is searched for by the strong Wolfe conditions; as published it is
            1. Where the loss rises steeply or is flat far from the images, a step of 1 leads away for good.
    """

    def __init__(
        self,
        max_evaluations: int = 6000,
        tolerance: float = 1e-6,
        at_once: int | None = None,
        history_size: int = 100,
        start: str = "noise",
        total_variation: float = 0.0,
        restarts: int = 0,
        prior_scale: float = 1.0,
        patience: int | None = None,
        line_search: bool = False,
    ) -> None:
        for name, value, least in (
            ("patience", 1 if patience is None else patience, 1),
            ("max_evaluations", max_evaluations, 1),
            ("at_once", 1 if at_once is None else at_once, 1),
            ("history_size", history_size, 1),
            ("restarts", restarts, 0),
        ):
            if value < least:
                raise ValueError(f"{name} is {value}, but must be at least {least}")
        if start not in (*STARTS, "rgap"):
            raise ValueError(f"start is {start!r}, but must be one of {', '.join(STARTS)}, rgap")
        for name, weight in (("tolerance", tolerance), ("total_variation", total_variation)):
            if not weight >= 0:
                raise ValueError(f"{name} is {weight}, but must be 0 or greater")
        if not 0 < prior_scale < math.inf:
            raise ValueError(f"prior_scale is {prior_scale}, but must be above 0 and finite")
        super().__init__()
        self.solver: BatchLBFGS | None = None
        self.max_evaluations = max_evaluations
        self.tolerance = tolerance
        self.at_once = at_once
        self.history_size = history_size
        self.start = start
        self.total_variation = total_variation
        self.restarts = restarts
        self.prior_scale = prior_scale
        self.patience = patience
        self.line_search = line_search

    # What a subclass is: its labels.

    @abstractmethod
    def start_labels(self, observation: Observation, generators: Sequence[torch.Generator]) -> tuple[Tensor, bool]:
        """Logits ``[V, N, K]`` of the labels at the start, and whether the attack optimizes them."""

    # The attack loop.

    def check(self, model: nn.Module, image_shape: tuple[int, int, int, int]) -> None:
        super().check(model, image_shape)
        if self.start == "rgap":
            RGAP().check(model, image_shape)

    def reconstruct(
        self, observation: Observation, callbacks: Sequence[Callback] = (), start_images: Tensor | None = None
    ) -> Reconstruction:
        """Attacks all V victims, from ``start_images`` ``[V, N, C, H, W]`` where they are given."""
        index = observation.device.index
        trainer = Trainer(
            accelerator="cpu" if observation.device.type == "cpu" else "gpu",
            devices=1 if observation.device.type == "cpu" else [index or 0],
            max_steps=-1,
            max_epochs=1,
            callbacks=[ActiveSet(), *callbacks],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        self.check(observation.model, observation.image_shape)
        try:
            self._begin(observation, start_images)
            trainer.fit(self, train_dataloaders=Steps())
            for row in range(len(self.victims)):  # left where a callback of the user's has ended the fit
                self._store(row, "exhausted")
            probabilities = self._found_best["label_logits"].softmax(-1)
            return replace(self._found, trajectory=self._trajectory, label_probabilities=probabilities)
        except SystemExit as stop:
            if isinstance(stop.__context__, KeyboardInterrupt):  # how Lightning passes on Ctrl-C
                raise KeyboardInterrupt from stop
            raise
        finally:
            self._forget()

    def training_step(self, batch: int, batch_idx: int) -> Tensor:
        """The matching losses ``[A]`` of the active victims, independent terms of one sum."""
        losses = self._objective.losses(self.images, self.label_logits, self.evaluations == 0)
        with torch.no_grad():
            self._remember(losses)
        return losses

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        loss.sum().backward(inputs=list(self._optimized()))

    def configure_optimizers(self) -> BatchLBFGS:
        self.solver = BatchLBFGS(list(self._optimized()), history_size=self.history_size, line_search=self.line_search)
        return self.solver

    def _optimized(self) -> Iterator[nn.Parameter]:
        return (p for p in (self.images, self.label_logits) if p.requires_grad)

    # Bookkeeping of the victims.

    def _begin(self, observation: Observation, start_images: Tensor | None) -> None:
        like = next(iter(observation.update.values()))
        victims = observation.num_victims
        self._observation = observation
        self._starts, optimize_labels = draw_starts(
            observation, self.start, self.restarts, self.at_once, self.start_labels
        )
        self._attempts = [0] * victims
        _, first = self._starts[0]
        if start_images is not None:
            first["images"] = start_images.to(like)
        self._objective = Objective(
            observation,
            **first,
            tolerance=self.tolerance,
            owes_nothing=start_images is None and self.start != "rgap",
            smoothness=self.total_variation,
            prior_scale=self.prior_scale,
        )
        self._found = Reconstruction(
            images=first["images"].clone(),
            labels=first["label_logits"].argmax(-1),
            loss=like.new_full((victims,), torch.inf),
            evaluations=torch.zeros(victims, dtype=torch.long),
            status=["exhausted"] * victims,
            starts=[self.start] * victims,
        )
        self._found_best = {"images": self._found.images, "label_logits": first["label_logits"].clone()}
        self._every = max(1, self.max_evaluations // SNAPSHOTS)
        times = list(range(0, self.max_evaluations + 1, self._every))
        self._trajectory = Trajectory(
            times,
            torch.full((victims, len(times)), torch.inf),
            first["images"].cpu().unsqueeze(1).repeat(1, len(times), 1, 1, 1, 1),
            LEVELS,
            torch.full((victims, len(LEVELS)), -1),
        )
        self.images = nn.Parameter(first["images"][:0])
        self.label_logits = nn.Parameter(first["label_logits"][:0], requires_grad=optimize_labels)
        self.victims: list[int] = []
        """The victims under attack, one for each row of the parameters."""
        self._waiting = list(range(victims))
        self.evaluations = torch.zeros(0, dtype=torch.long)
        self.losses = self._best_loss = self._to_beat = like.new_zeros(0)
        self._improved_at = torch.zeros(0, dtype=torch.long, device=like.device)
        self._best: dict[str, Tensor] = {name: start[:0] for name, start in first.items()}
        self.solver = None
        self._replace([])

    def _remember(self, losses: Tensor) -> None:
        """Keeps for each active victim the iterate of the lowest loss, and the trajectory."""
        moment = self.evaluations % self._every == 0
        self._snapshot(moment.nonzero().flatten().tolist())
        self.evaluations += 1
        self.losses = losses.detach()
        better = losses < self._best_loss  # False for NaN
        self._best_loss = torch.where(better, losses, self._best_loss)
        improved = ~(self._best_loss > self._to_beat)
        self._to_beat = torch.where(improved, self._best_loss * (1 - PROGRESS), self._to_beat)
        self._improved_at = torch.where(improved, self.evaluations.to(improved.device), self._improved_at)
        below = (self._objective.unscaled(self._best_loss)[:, None] <= losses.new_tensor(LEVELS)).cpu()
        passed = self._trajectory.passed[self.victims]
        new = below & (passed < 0)
        self._trajectory.passed[self.victims] = torch.where(new, self.evaluations[:, None], passed)
        for name, best in self._best.items():
            rows = better.view(-1, *[1] * (best.dim() - 1))
            self._best[name] = torch.where(rows, getattr(self, name), best)

    def _snapshot(self, rows: list[int]) -> None:
        if rows:
            victims = [self.victims[row] for row in rows]
            times = (self.evaluations[rows] // self._every).tolist()
            self._trajectory.loss[victims, times] = self._objective.unscaled(self._best_loss)[rows].cpu().float()
            self._trajectory.images[victims, times] = self._best["images"][rows].cpu()

    def retire(self) -> bool:
        """Lets the victims go that are done and waiting ones in; True when nobody is left."""
        assert self.solver is not None
        diverged = ~self.losses.isfinite() & ~self.solver.on_trial
        converged = self._objective.unscaled(self.losses) < self._objective.tolerances
        stalled = self.solver.stalled
        if self.patience is not None:
            stalled = stalled | (self.evaluations.to(stalled.device) - self._improved_at >= self.patience)
        exhausted = (self.evaluations >= self.max_evaluations).to(diverged.device)
        done = diverged | converged | stalled | exhausted
        if not done.any():
            return False
        reasons = {"diverged": diverged.tolist(), "converged": converged.tolist(), "stalled": stalled.tolist()}
        leaving: list[int] = done.nonzero().flatten().tolist()
        for row in leaving:
            status = next((name for name, is_so in reasons.items() if is_so[row]), "exhausted")
            self._store(row, status)
            victim = self.victims[row]
            starts_left = self._attempts[victim] + 1 < len(self._starts)
            if status in ("stalled", "diverged") and starts_left and self.evaluations[row] < self.max_evaluations:
                self._attempts[victim] += 1
                self._waiting.append(victim)
        self._replace(leaving)
        return not self.victims

    def _store(self, row: int, status: str) -> None:
        """Writes down what was found for the active victim in that row."""
        victim = self.victims[row]
        if status != "diverged" or self._attempts[victim] == 0:  # what an earlier attempt found is not lost
            self._found.status[victim] = status
        best_loss = self._objective.unscaled(self._best_loss)[row]
        if best_loss < self._found.loss[victim]:
            self._found.starts[victim] = self._starts[self._attempts[victim]][0]
        for name, best in self._found_best.items():
            best[victim] = self._best[name][row]
        self._found.labels[victim] = self._best["label_logits"][row].argmax(-1)
        self._found.loss[victim] = best_loss
        self._found.evaluations[victim] = self.evaluations[row]
        after = int(self.evaluations[row] - 1) // self._every + 1
        self._trajectory.loss[victim, after:] = best_loss.cpu().float()
        self._trajectory.images[victim, after:] = self._best["images"][row].cpu()

    def _replace(self, done: list[int]) -> None:
        """Takes the rows in ``done`` out of everything that has a row for each active victim, and fills up."""
        most = self.at_once or len(self._attempts)
        rows, self.victims, entering = refill(self.victims, done, self._waiting, most)
        self._waiting = self._waiting[len(entering) :]

        def first_states(name: str) -> Tensor:
            states = [self._starts[self._attempts[victim]][1][name][victim] for victim in entering]
            return torch.stack(states) if states else self._found_best[name][:0]

        for name, best in self._found_best.items():
            parameter = getattr(self, name)
            parameter.data = rearrange(parameter.data, rows, first_states(name))
            parameter.grad = None
            self._best[name] = rearrange(self._best[name], rows, best[entering])
        scales = self._objective.scales[entering]
        self._best_loss = rearrange(self._best_loss, rows, self._found.loss[entering] * scales)
        self.evaluations = rearrange(self.evaluations, rows, self._found.evaluations[entering])
        self._to_beat = rearrange(self._to_beat, rows, torch.full_like(self._found.loss[entering], torch.inf))
        self._improved_at = rearrange(self._improved_at, rows, self._found.evaluations[entering].to(self._improved_at))
        self._objective.replace(rows, self.victims, entering)
        if self.solver is not None:
            self.solver.reindex(rows)

    def _forget(self) -> None:
        """Lets go of all victims, the optimizer's history first of all: memory may have run out."""
        self.solver = self.trainer = None
        for name in ("images", "label_logits"):
            self._parameters.pop(name, None)
        for name in [*_STATE, *_ROWS]:
            self.__dict__.pop(name, None)

    @property
    def finished(self) -> int:
        """Victims of this reconstruction that are done."""
        return self._observation.num_victims - len(self.victims) - len(self._waiting)


class ActiveSet(Callback):
    """Ends the fit when no victim is left."""

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Tensor | Mapping[str, Any] | None,
        batch: Any,
        batch_idx: int,
    ) -> None:
        assert isinstance(pl_module, GradientMatching)
        if pl_module.retire():
            trainer.should_stop = True


class Steps:
    """A loader of step numbers without end: the data of an attack are its parameters."""

    def __iter__(self) -> Iterator[int]:
        return count()
