import math
from collections.abc import Sequence

import torch
from torch import Tensor

from defenses.base import Defense, KnownDefense, Update, flattened, global_norm


def norms(value: Tensor) -> Tensor:
    """L2 norms ``[V]`` of V tensors ``[V, ...]``, with the slope 0 at a tensor of zeros."""
    squares = flattened(value).square().sum(1)
    return torch.where(squares == 0, 0.0, torch.where(squares == 0, 1.0, squares).sqrt())


def clip_tensors(update: Update, max_norm: float | Tensor) -> Update:
    """Each tensor times ``min(1, max_norm / norm)`` of its own norm, ``max_norm`` being a number or ``[V]``."""
    shortened = {}
    for name, value in update.items():
        norm, limit = norms(value), torch.as_tensor(max_norm).to(value)
        factor = torch.where(norm > limit, limit / torch.where(norm > limit, norm, 1.0), 1.0)
        shortened[name] = value * factor.view(-1, *[1] * (value.dim() - 1))
    return shortened


class TensorClipping(Defense):
    """Clipping of each parameter's gradient to an L2 norm of its own (McMahan et al. 2018, arXiv 1710.06963).

    An attacker who knows it sees which tensors were clipped, and holds against those their direction, and their length
    as far as it is short of the limit. Of the others he does not clip his own: their length tells how wrong it is.

    Args:
        max_norm: largest norm of a tensor that is shared, above 0; infinity (.inf) is no defense. A limit by the norms
            of public updates is a number like any other.
    """

    def __init__(self, max_norm: float = 1.0) -> None:
        if not max_norm > 0:
            raise ValueError(f"max_norm is {max_norm}, but must be above 0")
        self.max_norm = max_norm

    def protect(self, update: Update, generators: Sequence[torch.Generator]) -> Update:
        return clip_tensors(update, self.max_norm)

    def known_to_attacker(self) -> KnownDefense:
        if self.max_norm == math.inf:
            return KnownDefense()
        return KnownDefense(simulate=self._simulate, weight=self._weight)

    def _is_clipped(self, observed: Tensor) -> Tensor:
        """Whether the norm of a tensor is the largest one, ``[V]``."""
        return ~(norms(observed) < self.max_norm * (1 - 1e-5))

    def _simulate(self, dummy: Update, observed: Update) -> Update:
        clipped = clip_tensors(dummy, self.max_norm)
        return {
            name: torch.where(self._is_clipped(observed[name]).view(-1, *[1] * (value.dim() - 1)), clipped[name], value)
            for name, value in dummy.items()
        }

    def _weight(self, observed: Update) -> Tensor:
        """What was clipped is matched on the unit sphere, however short it was made."""
        is_clipped = torch.stack([self._is_clipped(value) for value in observed.values()]).any(0)
        return torch.where(is_clipped, global_norm(observed) ** -2, 1.0)
