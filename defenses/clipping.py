import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from defenses.base import Defense, KnownDefense, Update, flattened, global_norm

Scope = Literal["global", "tensor"]


def scaled(value: Tensor, factor: Tensor) -> Tensor:
    """Each of V tensors ``[V, ...]`` times its factor ``[V]``."""
    return value * factor.view(-1, *[1] * (value.dim() - 1))


def clip(update: Update, max_norm: float) -> Update:
    """``update * min(1, max_norm / norm)`` for each of the V updates."""
    if max_norm == math.inf:  # infinity over the norm has no gradient
        return update
    factor = max_norm / global_norm(update).clamp(min=max_norm)
    return {name: scaled(value, factor) for name, value in update.items()}


def norms(value: Tensor) -> Tensor:
    """L2 norms ``[V]`` of V tensors ``[V, ...]``, with the slope 0 at a tensor of zeros."""
    squares = flattened(value).square().sum(1)
    return torch.where(squares == 0, 0.0, torch.where(squares == 0, 1.0, squares).sqrt())


def clip_tensors(update: Update, max_norm: float | Tensor) -> Update:
    """Each tensor times ``min(1, max_norm / norm)`` of its own norm, ``max_norm`` being a number or ``[V]``."""
    shortened = {}
    for name, value in update.items():
        norm, limit = norms(value), torch.as_tensor(max_norm).to(value)
        shortened[name] = scaled(value, torch.where(norm > limit, limit / torch.where(norm > limit, norm, 1.0), 1.0))
    return shortened


class Clipping(Defense):
    """Clipping to a largest L2 norm, of the whole update (our reading of Kim and Park 2024, arXiv 2408.08430).

    Or of each tensor by itself. A norm that is chosen by those of public updates is a number like any other.

    Args:
        max_norm: largest norm of a shared update, above 0; infinity (.inf) is no defense.
        scope: of what it is the norm: "global", all parameters together, or "tensor", each parameter by itself.
    """

    def __init__(self, max_norm: float = 1.0, scope: Scope = "global") -> None:
        if not max_norm > 0:
            raise ValueError(f"max_norm is {max_norm}, but must be above 0")
        if scope not in get_args(Scope):
            raise ValueError(f"scope is {scope!r}, but must be one of {', '.join(get_args(Scope))}")
        self.max_norm = max_norm
        self.scope = scope

    def protect(self, update: Update, generators: Sequence[torch.Generator]) -> Update:
        return self._clip(update)

    def _clip(self, update: Update) -> Update:
        return clip(update, self.max_norm) if self.scope == "global" else clip_tensors(update, self.max_norm)

    def known_to_attacker(self) -> KnownDefense:
        if self.max_norm == math.inf:
            return KnownDefense()
        return KnownDefense(simulate=self._simulate, weight=self._weight)

    def _simulate(self, dummy: Update, observed: Update) -> Update:
        """Of a tensor that was not clipped, the dummy one is not clipped either: its length tells how wrong it is."""
        clipped = self._clip(dummy)
        if self.scope == "global":
            return clipped
        return {
            name: torch.where(self._is_clipped(norms(observed[name])).view(-1, *[1] * (value.dim() - 1)), value, full)
            for (name, value), full in zip(clipped.items(), dummy.values(), strict=True)
        }

    def _is_clipped(self, norm: Tensor) -> Tensor:
        return ~(norm < self.max_norm * (1 - 1e-5))

    def _weight(self, observed: Update) -> Tensor:
        """What was clipped shares its direction alone, and is matched on the unit sphere, however short it was made."""
        each = [norms(value) for value in observed.values()] if self.scope == "tensor" else [global_norm(observed)]
        is_clipped = torch.stack([self._is_clipped(norm) for norm in each]).any(0)
        return torch.where(is_clipped, global_norm(observed) ** -2, 1.0)
