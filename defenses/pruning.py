from collections.abc import Sequence

import torch
from torch import Tensor

from defenses.base import Defense, KnownDefense, Update, flattened, remembered, sparse_bytes
from defenses.interval import per_client


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
        lost = remembered(self._lost)

        def simulate(dummy: Update, observed: Update) -> Update:
            known, simulated = lost(observed), {}
            for name, value in dummy.items():
                is_zero, bound = known[name]
                simulated[name] = torch.where(is_zero, value - value.clamp(-bound, bound), value)
            return simulated

        def kept(observed: Update) -> Update:
            known = lost(observed)
            return {name: (~known[name][0] | (known[name][1] == 0)).to(value) for name, value in observed.items()}

        return KnownDefense(simulate=simulate, kept=kept)

    def _lost(self, observed: Update) -> dict[str, tuple[Tensor, Tensor]]:
        """Which entries of each tensor are zero, and what no pruned one exceeds, ``[V, 1, ...]``; 0 if none is lost."""
        found = {}
        for name, value in observed.items():
            is_zero, sizes = value == 0, flattened(value.abs())
            smallest = sizes.masked_fill(flattened(is_zero), torch.inf).amin(1)
            some = flattened(is_zero).sum(1) <= self._pruned(sizes.shape[1])
            found[name] = is_zero, per_client(torch.where(some, smallest, 0.0), value)
        return found
