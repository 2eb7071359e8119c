from collections.abc import Sequence

import torch
from torch import Tensor

from defenses.base import Defense, KnownDefense, Update, remembered, sparse_bytes

CHANCE = 1e-3
"""Of rows or columns that a mask has wholly taken, among all of a tensor: below it they were zero before."""


class Masking(Defense):
    """Zeroes each entry of the update at random (our reading of Kim and Park 2024, arXiv 2408.08430).

    An attacker who knows it matches only what the mask left. A zero is not always the mask's: a unit that is silent
    behind a ReLU, or a pixel that is black, leaves a whole row or column of zeros, and so does a mask with a chance of
    ratio to the power of the number of its entries. Where that is next to none, the zeros are the gradient's own, and
    are matched. A zero that stands by itself cannot be told from a removed entry, and is not.

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

    def bytes_sent(self, shared: Update) -> Tensor:
        return sparse_bytes(shared)

    def known_to_attacker(self) -> KnownDefense:
        if self.ratio == 0:
            return KnownDefense()

        kept = remembered(self._kept)

        def simulate(dummy: Update, observed: Update) -> Update:
            known = kept(observed)
            return {name: value * known[name] * self._scale for name, value in dummy.items()}

        return KnownDefense(simulate=simulate, kept=kept)

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
        """Entries ``[V, O, I, ...]`` of rows, columns or taps that are empty, where a mask would leave something.

        A tap is a place in the kernels of a convolution; one that meets nothing but the padding is always zero.
        """
        zero = (observed == 0).flatten(3) if observed.dim() > 3 else (observed == 0).unsqueeze(3)
        empty = [zero.transpose(1, axis).flatten(2).all(2) for axis in (1, 2, 3)]  # [V, O], [V, I], [V, taps]
        silent = torch.zeros_like(zero)
        for axis, slices in enumerate(empty):
            # By chance a slice is empty with the power of what it has outside the empty slices of the other axes.
            others = [(~other).sum(1).clamp(min=1) for place, other in enumerate(empty) if place != axis]
            chance = self.ratio ** (others[0] * others[1]) * slices.shape[1]
            shape = [len(zero), 1, 1, 1]
            shape[1 + axis] = -1
            silent |= (slices & (chance < CHANCE)[:, None]).view(shape)
        return silent.reshape(observed.shape)
