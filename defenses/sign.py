from collections.abc import Sequence

import torch
from torch import Tensor

from defenses.base import Defense, KnownDefense, Update, coded_bytes, flattened
from defenses.interval import held_to, per_client


class Sign(Defense):
    """Shares of the smallest magnitudes of each tensor the signs, times their mean (Karimireddy et al. 2019).

    With a ratio of 1 it is the scaled sign of arXiv 1901.09847: signSGD (Bernstein et al. 2018, arXiv 1802.04434) with
    the mean magnitude of the tensor, without which the server could not average updates of different size. With less,
    the largest magnitudes are shared as they are. An entry that is exactly 0 stays 0.

    An attacker who knows it holds against a dummy entry what it is beyond 0 with the wrong sign, or beyond the smallest
    magnitude that was shared as it is, and against all together that their mean magnitude is another.

    Args:
        ratio: share of the entries of each tensor of which the sign alone is shared, from 0 to 1; 0 is no defense.
    """

    def __init__(self, ratio: float = 1.0) -> None:
        if not 0 <= ratio <= 1:
            raise ValueError(f"ratio is {ratio}, but must be from 0 to 1")
        self.ratio = ratio

    def protect(self, update: Update, generators: Sequence[torch.Generator]) -> Update:
        return {name: self._signs(value) for name, value in update.items()} if self.ratio else update

    def bytes_sent(self, shared: Update) -> Tensor:
        """A bit for each entry that is a sign; where others are not, another bit says which are."""
        if not self.ratio:
            return super().bytes_sent(shared)
        whole = 0.0 if self.ratio == 1 else 1 + 32 * (1 - self.ratio)
        return coded_bytes(shared, self.ratio + whole)

    def known_to_attacker(self) -> KnownDefense:
        return KnownDefense(simulate=self._simulate, kept=self._exact) if self.ratio else KnownDefense()

    def _signs(self, value: Tensor) -> Tensor:
        coarse = self._coarse(value)
        return torch.where(coarse, value.sign() * mean_magnitude(value, coarse), value)

    def _count(self, flat: Tensor) -> int:
        """Of how many entries of a tensor ``[V, D]`` the sign alone is shared."""
        return round(self.ratio * flat.shape[1])

    def _coarse(self, value: Tensor) -> Tensor:
        """Whether an entry is among the smallest magnitudes of its tensor."""
        flat = flattened(value)
        smallest = flat.abs().argsort(dim=1, stable=True)[:, : self._count(flat)]
        return torch.zeros_like(flat, dtype=torch.bool).scatter(1, smallest, True).view_as(value)

    def _seen_as_coarse(self, shared: Tensor) -> Tensor:
        """The same of what was shared, where their mean is the largest of these; none where that is 0, as they are."""
        sizes = flattened(shared.abs())
        if not self._count(sizes):
            return torch.zeros_like(shared, dtype=torch.bool)
        largest = per_client(sizes.kthvalue(self._count(sizes), dim=1).values, shared)
        return (shared.abs() <= largest) & (largest > 0)

    def _exact(self, observed: Update) -> Update:
        """1 for each entry that was shared as it is; for all of a tensor of which there are only signs."""
        kept = {}
        for name, value in observed.items():
            exact = ~self._seen_as_coarse(value)
            kept[name] = (exact | ~per_client(flattened(exact).any(1), value)).to(value)
        return kept

    def _simulate(self, dummy: Update, observed: Update) -> Update:
        simulated = {}
        for name, value in dummy.items():
            shared = observed[name]
            coarse, sign = self._seen_as_coarse(shared), shared.sign()
            bound = flattened(torch.where(coarse, torch.inf, shared.abs())).amin(1)
            farthest = sign * per_client(bound, shared).nan_to_num(posinf=torch.finfo(shared.dtype).max)
            held = held_to(value, shared, farthest.clamp(max=0), farthest.clamp(min=0), pull=0.0)
            # All are off by what the mean magnitude is: one equation, with the weight of as many. It is all that pulls
            # at an entry inside, as some are many times as large as the mean.
            scale = sign * (
                mean_magnitude(value, coarse) - per_client(flattened(shared.abs() * coarse).amax(1), shared)
            )
            simulated[name] = torch.where(coarse, held + scale, value)
        return simulated


def mean_magnitude(value: Tensor, chosen: Tensor) -> Tensor:
    """Of the chosen entries of each client's tensor, ``[V, 1, ...]``."""
    total, count = flattened(value.abs() * chosen).sum(1), flattened(chosen).sum(1)
    return per_client(total / count.clamp(min=1), value)
