import math
from collections.abc import Sequence

import torch
from torch import Tensor

from defenses.base import Defense, KnownDefense, Update, global_norm


def clip(update: Update, max_norm: float) -> Update:
    """``update * min(1, max_norm / norm)`` for each of the V updates."""
    if max_norm == math.inf:  # infinity over the norm has no gradient
        return update
    factor = max_norm / global_norm(update).clamp(min=max_norm)
    return {name: value * factor.view(-1, *[1] * (value.dim() - 1)) for name, value in update.items()}


class Clipping(Defense):
    """Clipping of the whole update to a global L2 norm (our reading of Kim and Park 2024, arXiv 2408.08430).

    Args:
        max_norm: largest norm of a shared update, above 0; infinity (.inf) is no defense.
    """

    def __init__(self, max_norm: float = 1.0) -> None:
        if not max_norm > 0:
            raise ValueError(f"max_norm is {max_norm}, but must be above 0")
        self.max_norm = max_norm

    def protect(self, update: Update, generators: Sequence[torch.Generator]) -> Update:
        return clip(update, self.max_norm)

    def known_to_attacker(self) -> KnownDefense:
        if self.max_norm == math.inf:
            return KnownDefense()

        def weight(observed: Update) -> Tensor:
            """The direction alone is shared where the norm is the largest one: it is matched on the unit sphere."""
            norm = global_norm(observed)
            return torch.where(norm < self.max_norm * (1 - 1e-5), 1.0, norm**-2)

        return KnownDefense(simulate=lambda dummy, observed: clip(dummy, self.max_norm), weight=weight)
