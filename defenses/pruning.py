from collections.abc import Sequence

import torch
from torch import Tensor

from defenses.base import Defense, KnownDefense, Update, flattened, sparse_bytes


class Pruning(Defense):
    """Zeroes the smallest magnitudes of each tensor of the update (Zhu et al. 2019, arXiv 1906.08935, section 5.3).

    Also known as top-k, with k the entries that are not zeroed.

    An attacker who knows it counts the zeros of a tensor. Where there are more than were pruned, as behind a ReLU, the
    pruned ones are among the true zeros, and all of the gradient was shared. Else the zeros are the pruned entries, of
    which the smallest that was kept is a bound: no more than what a dummy entry exceeds it by is held against it.

    Args:
        ratio: share of the entries of each tensor that is zeroed, from 0 up to but not including 1; 0 is no defense.
    """

    def __init__(self, ratio: float = 0.9) -> None:
        if not 0 <= ratio < 1:
            raise ValueError(f"ratio is {ratio}, but must be at least 0 and below 1")
        self.ratio = ratio

    def protect(self, update: Update, generators: Sequence[torch.Generator]) -> Update:
        return {name: self._prune(value) for name, value in update.items()}

    def bytes_sent(self, shared: Update) -> Tensor:
        return sparse_bytes(shared)

    def _pruned(self, entries: int) -> int:
        return round(self.ratio * entries)

    def _prune(self, value: Tensor) -> Tensor:
        flat = flattened(value)
        smallest = flat.abs().argsort(dim=1, stable=True)[:, : self._pruned(flat.shape[1])]
        return flat.scatter(1, smallest, 0.0).view_as(value)

    def known_to_attacker(self) -> KnownDefense:
        if self.ratio == 0:
            return KnownDefense()
        return KnownDefense(simulate=self._simulate, kept=self._kept)

    def _kept(self, observed: Update) -> Update:
        return {name: ((value != 0) | (self._bound(value) == 0)).to(value) for name, value in observed.items()}

    def _simulate(self, dummy: Update, observed: Update) -> Update:
        simulated = {}
        for name, value in dummy.items():
            bound = self._bound(observed[name])
            simulated[name] = torch.where(observed[name] == 0, value - value.clamp(-bound, bound), value)
        return simulated

    @torch.no_grad()
    def _bound(self, observed: Tensor) -> Tensor:
        """What no pruned entry of the tensor exceeds, ``[V, 1, ...]``; 0 where nothing was lost."""
        flat = flattened(observed)
        smallest = torch.where(flat == 0, torch.inf, flat.abs()).amin(1)
        lost = (flat == 0).sum(1) <= self._pruned(flat.shape[1])
        return torch.where(lost, smallest, 0.0).view(-1, *[1] * (observed.dim() - 1))
