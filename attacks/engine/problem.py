"""One fit: the dummy images of all victims that are under attack now, as the parameters of a LightningModule."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count
from typing import Any

from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from attacks.base import Reconstruction, unheard
from attacks.engine.fit import fit
from attacks.engine.ledger import Ledger
from attacks.engine.objective import Objective
from attacks.engine.row_optimizer import RowOptimizer
from attacks.engine.slots import rearrange
from attacks.engine.step import EAGER, Step, check_step

WATCHING = (
    *("logger", "log_every_n_steps", "profiler", "max_time", "enable_progress_bar", "enable_model_summary"),
    "default_root_dir",
)
"""Arguments of Lightning's Trainer that are a user's to give: what watches an attack, or ends it early. Others, such as
gradient_clip_val, would let one victim's result depend on the others."""

LOOK = {"cpu": 1, "cuda": 8}
"""Steps after which victims that are done leave. To look makes a GPU wait for Python; what a victim's steps do after it
is done does not count, so that the results are the same."""

MakeOptimizer = Callable[[Iterable[Tensor]], RowOptimizer]


class MatchingProblem(LightningModule):
    """The dummy images and labels of the active victims, which one Lightning step evaluates once and moves.

    A victim that has converged, stalled, diverged or spent its budget leaves, and a waiting one takes its place. Every
    ``log_every_n_steps`` steps of the Trainer, and after the last, the mean matching "loss" of the step is logged, and
    the numbers of "active" and "converged" victims after it. A problem is solved once, and holds no tensor afterwards.

    Args:
        objective: what is minimized.
        ledger: of the victims, before any is under attack.
        optimizer: makes the optimizer of the parameters.
        optimize_labels: whether the labels are optimized beside the images.

    Attributes:
        images: ``[A, N, C, H, W]``, of the active victims.
        label_logits: ``[A, N, K]``, likewise.
    """

    def __init__(self, objective: Objective, ledger: Ledger, optimizer: MakeOptimizer, optimize_labels: bool) -> None:
        super().__init__()
        self.objective, self.ledger, self._optimizer = objective, ledger, optimizer
        rows, entering, states = ledger.replace([])
        objective.replace(rows, self.victims, entering)
        self.images = nn.Parameter(states["images"])
        self.label_logits = nn.Parameter(states["label_logits"], requires_grad=optimize_labels)
        self._step: Step | None = None  # where Lightning's own backward serves
        self._gradients: list[Tensor] = []
        self._steps = 0
        self.told: Callable[[float], None] = unheard

    def solve(self, callbacks: Sequence[Callback] = (), step: str = EAGER, **trainer: Any) -> Reconstruction:
        """Attacks until no victim is left, or a callback ends it.

        Args:
            callbacks: Lightning callbacks, whose module is this one.
            step: one of :data:`attacks.engine.step.STEPS`; the results are the same within rounding.
            trainer: arguments of Lightning's Trainer.

        Raises:
            ValueError: an argument of Lightning's Trainer is given that is not in ``WATCHING``, or the device cannot
                run steps so.
        """
        check_step(step, self.images.device.type)
        objective, rows = self.objective, self.objective.rows_together
        if (step != EAGER or rows < len(self.victims)) and not objective.is_mixed:
            labels_too = self.label_logits.requires_grad
            self._step = Step(step, objective.measure, labels_too, objective.model, objective.key, rows)
        if other := sorted(set(trainer) - set(WATCHING)):
            raise ValueError(f"an attack takes no {other[0]} for its Trainer: choose from {', '.join(WATCHING)}")
        try:
            fit(self, Steps(), self.images.device, callbacks, **trainer)
            return self.ledger.reconstruction()
        finally:
            self._release()

    def training_step(self, batch: int, batch_idx: int) -> Tensor:
        """The matching losses ``[A]`` of the active victims, independent terms of one sum."""
        is_first = self.ledger.evaluations == 0
        self.objective.look(self.images)
        if self._step is None:
            losses = self.objective.losses(self.images, self.label_logits, is_first)
        else:
            losses, *self._gradients = self._step(self.images, self.label_logits, self.objective.held)
            losses = self.objective.scaled(losses, is_first)
        self.note(losses.detach())
        return losses

    def note(self, losses: Tensor) -> None:
        """Keeps what is best so far, given the losses ``[A]`` of where the active victims are."""
        iterates = {"images": self.images.detach(), "label_logits": self.label_logits.detach()}
        self.ledger.note(self.objective.unscaled(losses), iterates)

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        if self._step is None:
            loss.sum().backward(inputs=list(self._optimized()))
            return
        scales = self.objective.scales
        for parameter, gradient in zip(self._optimized(), self._gradients, strict=True):
            parameter.grad = scales.view(-1, *[1] * (gradient.dim() - 1)) * gradient

    def configure_optimizers(self) -> RowOptimizer:
        self.solver = self._optimizer(self._optimized())
        return self.solver

    def on_train_batch_end(self, outputs: Any, batch: int, batch_idx: int) -> None:
        if self.retire():
            self.trainer.should_stop = True
        self.told(self.ledger.share)
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined] # one of its parts sets it
        if self.trainer.should_stop or (every and (batch_idx + 1) % every == 0):
            converged = float(self.ledger.status.count("converged"))
            numbers = {"active": float(len(self.victims)), "converged": converged}
            self.log_dict(numbers | {"loss": self.ledger.losses.mean()}, batch_size=1)

    def retire(self) -> bool:
        """Lets the victims go that are done and waiting ones in; True when nobody is left."""
        losses = self.ledger.losses
        self.ledger.end(
            {
                "diverged": ~losses.isfinite() & ~self.solver.on_trial,
                "converged": losses < self.objective.tolerances,
                "stalled": self.solver.stalled | self.ledger.stalled,
                "exhausted": self.ledger.exhausted,
            }
        )
        self._steps += 1
        if self._steps % LOOK[losses.device.type] or not (leaving := self.ledger.close_ended()):
            return False
        rows, entering, states = self.ledger.replace(leaving)
        for name, state in states.items():
            parameter = getattr(self, name)
            parameter.data, parameter.grad = rearrange(parameter.data, rows, state), None
        self.objective.replace(rows, self.victims, entering)
        self.solver.reindex(rows)
        return not self.victims

    @property
    def victims(self) -> list[int]:
        """The victims under attack, one for each row of the parameters."""
        return self.ledger.victims

    def _optimized(self) -> Iterator[nn.Parameter]:
        return (p for p in (self.images, self.label_logits) if p.requires_grad)

    def _release(self) -> None:
        """Lets go of all tensors: Trainer and module hold each other until Python's garbage collector comes."""
        if self._trainer is not None:
            self._trainer.strategy.optimizers = []
        self.trainer = None
        self._parameters.clear()
        for name in ("objective", "ledger", "solver", "_step", "_gradients"):
            self.__dict__.pop(name, None)


class Steps:
    """A loader of step numbers without end: the data of an attack are its parameters."""

    def __iter__(self) -> Iterator[int]:
        return count()
