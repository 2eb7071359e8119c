"""Adam for many independent problems at once."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.engine.row_optimizer import RowOptimizer

Schedule = Callable[[Tensor], Tensor]
"""Factors of a learning rate by numbers of steps."""


@dataclass(frozen=True)
class Cosine:
    """A learning rate that rises evenly for some steps, and then falls to 0 as a cosine does over half its period.

    Args:
        budget: steps in all.
        warm_up: of them, those in which it rises.
    """

    budget: int
    warm_up: int

    def __call__(self, steps: Tensor) -> Tensor:
        """Its factors ``[V]`` after so many steps."""
        falling = (steps - self.warm_up).clamp(min=0) / max(1, self.budget - self.warm_up)
        return ((steps + 1) / (self.warm_up + 1)).clamp(max=1) * (1 + (math.pi * falling.clamp(max=1)).cos()) / 2


class BatchAdam(RowOptimizer):
    """Adam on V independent problems, each following ``torch.optim.Adam`` on its own (Kingma and Ba 2015).

    With ``sign``, ``milestones`` and ``box`` it is the optimizer of Geiping et al. 2020 (arXiv 2003.14053, section 5),
    whose learning rate falls by the steps that the problem itself has made, whenever it entered. No problem stalls.

    Args:
        params: tensors ``[V, ...]``.
        lr: learning rate of the first steps.
        betas: decay of the mean of the gradients, and of that of their squares.
        eps: added to the root of the latter.
        sign: whether the sign of each entry stands in for the gradient.
        milestones: steps of a problem after each of which its learning rate is multiplied by ``decay``.
        decay: factor of the learning rate, as gamma of ``torch.optim.lr_scheduler.MultiStepLR``.
        box: whether each move ends at the nearest point of the first parameter, the images, in [0, 1].
        units: what a move of one is in the first parameter, broadcast to ``[V, ...]``, so that it goes as it would if
            the parameter were divided by them, but for ``eps``; None for 1.
        schedule: factors ``[V]`` of the learning rate by the steps that each problem has made, ``[V]``; None for 1.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 0.1,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        sign: bool = False,
        milestones: Sequence[int] = (),
        decay: float = 0.1,
        box: bool = False,
        units: Tensor | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        super().__init__(params, lr)
        self._betas, self._eps, self._sign, self._decay, self._box = betas, eps, sign, decay, box
        self._units, self._schedule = units, schedule
        self._milestones = torch.tensor(sorted(milestones), dtype=torch.long, device=self._params[0].device)

    def _fresh_rows(self, count: int) -> dict[str, Tensor]:
        zeros = self._params[0].new_zeros(count, self.size)
        steps = torch.zeros(count, dtype=torch.long, device=zeros.device)
        return super()._fresh_rows(count) | {"steps": steps, "mean": zeros, "square": zeros.clone()}

    def move(self, losses: Tensor, gradient: Tensor) -> None:
        gradient = gradient.sign() if self._sign else gradient
        state, (first, second) = self._rows, self._betas
        passed = (self._milestones <= state["steps"][:, None]).sum(1, dtype=torch.double)
        factor = self._schedule(state["steps"].double()) if self._schedule else 1.0
        state["steps"] += 1
        steps = state["steps"].double()
        length = self.param_groups[0]["lr"] * self._decay**passed * factor / (1 - first**steps)
        state["mean"].lerp_(gradient, 1 - first)
        state["square"].mul_(second).addcmul_(gradient, gradient, value=1 - second)
        root = (1 - second**steps).sqrt().to(gradient)[:, None]
        move = length.to(gradient)[:, None] * state["mean"] / (state["square"].sqrt() / root + self._eps)
        for place, (p, of_it) in enumerate(self._split(move)):
            p.sub_(of_it if self._units is None or place else of_it * self._units)
        if self._box:
            self._params[0].clamp_(0, 1)
