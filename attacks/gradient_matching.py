"""The optimisation loop that DLG and its successors share, for many victims at once."""

import logging
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
from attacks.batch_lbfgs import BatchLBFGS
from attacks.gradients import batch_gradients, squared_distance
from defenses.base import Update, unchanged

SNAPSHOTS = 25
"""Moments of a trajectory that are kept, over the whole budget."""

BOX_EDGE = 0.1
"""How far outside [0, 1] an attacker who must fight noise lets a pixel be: the edge of a soft uniform prior."""

_STATE = ("_observation", "_simulate", "_all_loss_weights", "_found", "_trajectory", "_starts")
_ROWS = ("_networks", "_target", "_loss_weights", "_best", "_best_loss", "losses")
"""What a reconstruction holds of its victims, and of those that are active."""

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)  # a line for each Trainer, and there are thousands


class GradientMatching(LightningModule, Attack):
    """Finds the images whose gradient is the observed update, with L-BFGS, V victims at once.

    The parameters of this module are the dummy images (and what else a subclass optimises) of the victims that are
    under attack now: ``at_once`` at most. One Lightning step is one evaluation of all of them. A victim that has
    converged, stalled, diverged or spent its budget leaves, and a waiting one takes its place.

    Args:
        max_evaluations: gradient evaluations for each victim, at least 1; published are 300 steps of 20.
        tolerance: stop when the matching loss is below this, as published; at least 0.
        at_once: victims under attack at the same time, at least 1; less needs less memory.
        history_size: pairs that L-BFGS keeps, at least 1.
    """

    def __init__(
        self, max_evaluations: int = 6000, tolerance: float = 1e-6, at_once: int = 64, history_size: int = 100
    ) -> None:
        for name, value in (
            ("max_evaluations", max_evaluations),
            ("at_once", at_once),
            ("history_size", history_size),
        ):
            if value < 1:
                raise ValueError(f"{name} is {value}, but must be at least 1")
        if not tolerance >= 0:
            raise ValueError(f"tolerance is {tolerance}, but must be 0 or greater")
        super().__init__()
        self.solver: BatchLBFGS | None = None
        self.max_evaluations = max_evaluations
        self.tolerance = tolerance
        self.at_once = at_once
        self.history_size = history_size

    # What a subclass is: its labels.

    @abstractmethod
    def start_labels(self, observation: Observation, generators: Sequence[torch.Generator]) -> tuple[Tensor, bool]:
        """Logits ``[V, N, K]`` of the labels at the start, and whether the attack optimises them."""

    # The attack loop.

    def reconstruct(self, observation: Observation, callbacks: Sequence[Callback] = ()) -> Reconstruction:
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
        try:
            self._begin(observation)
            trainer.fit(self, train_dataloaders=Steps())
            for row in range(len(self.victims)):  # left where a callback of the user's has ended the fit
                self._store(row, "exhausted")
            return replace(self._found, trajectory=self._trajectory)
        except SystemExit as stop:  # how Lightning passes on Ctrl-C
            raise KeyboardInterrupt from stop
        finally:
            self._forget()

    def training_step(self, batch: int, batch_idx: int) -> Tensor:
        """The matching losses ``[A]`` of the active victims, independent terms of one sum."""
        labels = self.label_logits.softmax(-1)
        dummy = batch_gradients(self._observation.model, self._networks, self.images, labels, create_graph=True)
        losses = squared_distance(self._simulate(dummy, self._target), self._target)
        if self._prior > 0:
            outside = self.images - self.images.clamp(0, 1)
            losses = losses + self._prior * outside.flatten(1).square().sum(1)
        losses = self._loss_weights * losses
        with torch.no_grad():
            self._remember(losses)
        return losses

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        loss.sum().backward(inputs=list(self._optimised()))

    def configure_optimizers(self) -> BatchLBFGS:
        self.solver = BatchLBFGS(list(self._optimised()), history_size=self.history_size)
        return self.solver

    def _optimised(self) -> Iterator[nn.Parameter]:
        return (p for p in (self.images, self.label_logits) if p.requires_grad)

    # Bookkeeping of the victims.

    def _begin(self, observation: Observation) -> None:
        generators = [torch.Generator().manual_seed(seed) for seed in observation.seeds]
        like = next(iter(observation.update.values()))
        images = torch.stack([torch.randn(observation.image_shape, generator=g) for g in generators]).to(like)
        label_logits, optimise_labels = self.start_labels(observation, generators)
        victims = observation.num_victims
        known = observation.defense
        self._observation = observation
        self._simulate = known.simulate if known else unchanged
        self._all_loss_weights = known.weight(observation.update) if known else like.new_ones(victims)
        # With Gaussian noise the matching loss is 2 std^2 times the negative log likelihood, and this the weight of
        # the prior beside it: the Bayesian attack (Balunovic et al. 2022, arXiv 2111.04706).
        self._prior = (known.noise_std / BOX_EDGE) ** 2 if known else 0.0
        self._found = Reconstruction(
            images=images.clone(),
            labels=label_logits.argmax(-1),
            loss=like.new_full((victims,), torch.inf),
            evaluations=torch.zeros(victims, dtype=torch.long),
            status=["exhausted"] * victims,
        )
        self._every = max(1, self.max_evaluations // SNAPSHOTS)
        times = list(range(0, self.max_evaluations + 1, self._every))
        self._trajectory = Trajectory(
            times,
            torch.full((victims, len(times)), torch.inf),
            images.cpu().unsqueeze(1).repeat(1, len(times), 1, 1, 1, 1),
        )
        self._starts = {"images": images, "label_logits": label_logits.to(like)}
        self.images = nn.Parameter(images[:0])
        self.label_logits = nn.Parameter(label_logits[:0].to(like), requires_grad=optimise_labels)
        self.victims: list[int] = []
        """The victims under attack, one for each row of the parameters."""
        self._waiting = list(range(victims))
        self.evaluations = torch.zeros(0, dtype=torch.long)
        self.losses = self._best_loss = like.new_zeros(0)
        self._best: dict[str, Tensor] = {name: start[:0] for name, start in self._starts.items()}
        self.solver = None
        self._replace(torch.zeros(0, dtype=torch.bool))

    def _remember(self, losses: Tensor) -> None:
        """Keeps for each active victim the iterate of the lowest loss, and the trajectory."""
        moment = self.evaluations % self._every == 0
        self._snapshot(moment.nonzero().flatten().tolist())
        self.evaluations += 1
        self.losses = losses.detach()
        better = losses < self._best_loss  # False for NaN
        self._best_loss = torch.where(better, losses, self._best_loss)
        for name, best in self._best.items():
            rows = better.view(-1, *[1] * (best.dim() - 1))
            self._best[name] = torch.where(rows, getattr(self, name), best)

    def _snapshot(self, rows: list[int]) -> None:
        if rows:
            victims = [self.victims[row] for row in rows]
            times = (self.evaluations[rows] // self._every).tolist()
            self._trajectory.loss[victims, times] = self._best_loss[rows].cpu().float()
            self._trajectory.images[victims, times] = self._best["images"][rows].cpu()

    def retire(self) -> bool:
        """Lets the victims go that are done and waiting ones in; True when nobody is left."""
        assert self.solver is not None
        diverged = ~self.losses.isfinite()
        converged = self.losses < self.tolerance
        stalled = self.solver.stalled
        exhausted = (self.evaluations >= self.max_evaluations).to(diverged.device)
        done = diverged | converged | stalled | exhausted
        if not done.any():
            return False
        reasons = {"diverged": diverged.tolist(), "converged": converged.tolist(), "stalled": stalled.tolist()}
        for row in done.nonzero().flatten().tolist():
            self._store(row, next((name for name, is_so in reasons.items() if is_so[row]), "exhausted"))
        self._replace(done.cpu())
        return not self.victims

    def _store(self, row: int, status: str) -> None:
        """Writes down what was found for the active victim in that row."""
        victim = self.victims[row]
        self._found.status[victim] = status
        self._found.images[victim] = self._best["images"][row]
        self._found.labels[victim] = self._best["label_logits"][row].argmax(-1)
        self._found.loss[victim] = self._best_loss[row]
        self._found.evaluations[victim] = self.evaluations[row]
        after = int(self.evaluations[row] - 1) // self._every + 1
        self._trajectory.loss[victim, after:] = self._best_loss[row].cpu().float()
        self._trajectory.images[victim, after:] = self._best["images"][row].cpu()

    def _replace(self, done: Tensor) -> None:
        """Takes the rows in ``done`` out of everything that has a row for each active victim, and fills up."""
        kept = (~done).nonzero().flatten()
        entering = self._waiting[: self.at_once - len(kept)]
        self._waiting = self._waiting[len(entering) :]
        device = self.images.device
        for name, start in self._starts.items():
            parameter, fresh = getattr(self, name), start[entering]
            parameter.data = torch.cat([parameter.data[kept.to(device)], fresh])
            parameter.grad = None
            self._best[name] = torch.cat([self._best[name][kept.to(device)], fresh])
        self._best_loss = torch.cat(
            [self._best_loss[kept.to(device)], self._best_loss.new_full((len(entering),), torch.inf)]
        )
        self.evaluations = torch.cat([self.evaluations[kept], torch.zeros(len(entering), dtype=torch.long)])
        self.victims = [self.victims[row] for row in kept.tolist()] + entering
        rows = torch.tensor(self.victims, dtype=torch.long, device=device)
        self._networks: Update = {name: value[rows] for name, value in self._observation.parameters.items()}
        self._loss_weights = self._all_loss_weights[rows]
        self._target: Update = {name: value[rows] for name, value in self._observation.update.items()}
        if self.solver is not None:
            self.solver.reindex(torch.cat([kept, torch.full((len(entering),), -1)]).to(device))

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
