"""An optimizer of many independent problems at once."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from attacks.engine.slots import rearrange


class RowOptimizer(torch.optim.Optimizer, ABC):
    """Optimizes V independent problems: the first dimension of every parameter counts them.

    One :meth:`step` is one evaluation and one move, so that problems can leave and enter after any evaluation.

    Args:
        params: tensors ``[V, ...]``.
        lr: length of a step.
    """

    def __init__(self, params: Iterable[Tensor], lr: float) -> None:
        super().__init__(params, {"lr": lr})
        self._params: list[Tensor] = self.param_groups[0]["params"]
        self._rows = self._fresh_rows(len(self._params[0]))

    def _fresh_rows(self, count: int) -> dict[str, Tensor]:
        """The state of ``count`` problems before their first step, each tensor ``[count, ...]``."""
        nothing = torch.zeros(count, dtype=torch.bool, device=self._params[0].device)
        return {"stalled": nothing, "on_trial": nothing.clone()}

    @property
    def size(self) -> int:
        """D, the numbers of a problem."""
        return sum(p.shape[1:].numel() for p in self._params)

    @property
    def stalled(self) -> Tensor:
        """The problems that will not move again, ``[V]``."""
        return self._rows["stalled"]

    @property
    def on_trial(self) -> Tensor:
        """The problems that were last evaluated at a point that a line search may yet reject, ``[V]``."""
        return self._rows["on_trial"]

    def reindex(self, rows: list[int]) -> None:
        """Makes problem i the former one ``rows[i]``, fresh where that is -1, when its parameters have become so."""
        fresh = self._fresh_rows(1)
        for name, value in self._rows.items():
            self._rows[name] = rearrange(value, rows, fresh[name])

    @torch.no_grad()
    def step(self, closure: Callable[[], Any]) -> Any:  # type: ignore[override] # torch allows no closure
        """Moves each problem that has not stalled, and returns the losses before the move.

        Args:
            closure: clears the gradients, computes the losses ``[V]`` and calls backward on their sum.
        """
        with torch.enable_grad():
            losses = closure()
        gradient = torch.cat([p.grad.flatten(1) for p in self._params if p.grad is not None], 1)
        self.move(losses.detach(), gradient)
        return losses

    @abstractmethod
    def move(self, losses: Tensor, gradient: Tensor) -> None:
        """Moves the parameters, given the losses ``[V]`` and the gradient ``[V, D]`` where they are."""

    def _split(self, flat: Tensor) -> list[tuple[Tensor, Tensor]]:
        """The parameters, each with its part of what is ``[V, D]``."""
        parts = flat.split([p.shape[1:].numel() for p in self._params], 1)
        return [(p, part.view_as(p)) for p, part in zip(self._params, parts, strict=True)]
