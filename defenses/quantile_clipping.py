from collections.abc import Sequence

import torch
from torch import Tensor

from defenses.base import Defense, KnownDefense, Update
from defenses.tensor_clipping import clip_tensors, norms


class QuantileClipping(Defense):
    """Clipping of each tensor to a quantile of the norms of the client's own tensors, which levels its layers.

    The limit is one of these norms, that of the largest share ``quantile`` of the tensors that are not zero, and so
    needs no other client and no unit. A limit by the norms of public updates is ``TensorClipping`` with that number.

    Args:
        quantile: from 0, where all tensors get the norm of the smallest, to 1, which is no defense.
    """

    def __init__(self, quantile: float = 0.5) -> None:
        if not 0 <= quantile <= 1:
            raise ValueError(f"quantile is {quantile}, but must be from 0 to 1")
        self.quantile = quantile

    def protect(self, update: Update, generators: Sequence[torch.Generator]) -> Update:
        return clip_tensors(update, self._limit(update))

    def _limit(self, update: Update) -> Tensor:
        """The quantile ``[V]`` of the norms of each client's tensors; NaN where all of them are zero."""
        each = torch.stack([norms(value) for value in update.values()], 1)
        found = torch.where(each == 0, torch.nan, each).nanquantile(self.quantile, 1, interpolation="lower")
        return found.to(each)

    def known_to_attacker(self) -> KnownDefense:
        """The same of the dummy update, whose limit is then a norm of its own: it must be right, too."""
        if self.quantile == 1:
            return KnownDefense()
        return KnownDefense(simulate=lambda dummy, observed: clip_tensors(dummy, self._limit(dummy)))
