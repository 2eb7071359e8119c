from collections.abc import Sequence

import torch
from torch import Tensor

from defenses.base import Defense, KnownDefense, Update

CHANCE = 1e-3
"""Of rows or columns that a mask has wholly taken, among all of a tensor: below it they were zero before."""


class Masking(Defense):
    """Zeroes each entry of the update at random (our reading of Kim and Park 2024, arXiv 2408.08430).

    An attacker who knows it matches only what the mask left. A zero is not always the mask's: a unit that is silent
    behind a ReLU, or a pixel that is black, leaves a whole row or column of zeros, and so does a mask with a chance of
    ratio to the number of its entries. Where that is next to none, the zeros are the gradient's own, and are matched.

    Args:
        ratio: probability that an entry is zeroed, from 0 up to but not including 1; 0 is no defense.
        rescale: divide what is kept by 1 - ratio, so that the update is right on average.
    """

    def __init__(self, ratio: float = 0.5, rescale: bool = False) -> None:
        if not 0 <= ratio < 1:
            raise ValueError(f"ratio is {ratio}, but must be at least 0 and below 1")
        self.ratio = ratio
        self.rescale = rescale

    @property
    def _scale(self) -> float:
        return 1 / (1 - self.ratio) if self.rescale else 1.0

    def protect(self, update: Update, generators: Sequence[torch.Generator]) -> Update:
        masked = {}
        for name, value in update.items():
            uniform = torch.stack([torch.rand(value.shape[1:], generator=g) for g in generators])
            masked[name] = value * (uniform >= self.ratio).to(value) * self._scale
        return masked

    def known_to_attacker(self) -> KnownDefense:
        if self.ratio == 0:
            return KnownDefense()

        def simulate(dummy: Update, observed: Update) -> Update:
            kept = self._kept(observed)
            return {name: value * kept[name] * self._scale for name, value in dummy.items()}

        return KnownDefense(simulate=simulate, kept=self._kept)

    @torch.no_grad()
    def _kept(self, observed: Update) -> Update:
        silent = {name: self._true_zeros(value) for name, value in observed.items() if value.dim() > 2}
        kept = {}
        for name, value in observed.items():
            true_zeros = silent.get(name)
            weight = silent.get(f"{name.removesuffix('bias')}weight")
            if true_zeros is None and name.endswith("bias") and weight is not None:
                true_zeros = weight.flatten(2).all(2)  # a bias is silent with its row
            known = value != 0 if true_zeros is None else (value != 0) | true_zeros
            kept[name] = known.to(value)
        return kept

    def _true_zeros(self, observed: Tensor) -> Tensor:
        """Entries ``[V, O, I, ...]`` of rows or columns in which there are more zeros than a mask would leave."""
        zero = (observed == 0).flatten(3) if observed.dim() > 3 else (observed == 0).unsqueeze(3)
        rows, columns = zero.flatten(2).all(2), zero.all(3).all(1)  # [V, O], [V, I]
        # A row is empty by chance with the power of what it has outside empty columns, and the other way round.
        inside_row = zero.shape[3] * (~columns).sum(1).clamp(min=1)
        inside_column = zero.shape[3] * (~rows).sum(1).clamp(min=1)
        silent_rows = rows & (self.ratio**inside_row * zero.shape[1] < CHANCE)[:, None]
        silent_columns = columns & (self.ratio**inside_column * zero.shape[2] < CHANCE)[:, None]
        silent = silent_rows[:, :, None, None] | silent_columns[:, None, :, None]
        return silent.expand_as(zero).reshape(observed.shape)
