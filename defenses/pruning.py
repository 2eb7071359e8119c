from collections.abc import Sequence
from typing import get_args

import torch
from torch import Tensor

from defenses.base import Defense, KnownDefense, Update, flattened, sparse_bytes
from defenses.clipping import Scope


class Pruning(Defense):
    """Zeroes the smallest magnitudes of the update (Zhu et al. 2019, arXiv 1906.08935, section 5.3).

    Also known as top-k, with k the entries that are not zeroed.

    An attacker who knows it counts the zeros. Where there are more than were pruned, as behind a ReLU, the pruned ones
    are among the true zeros, and all of the gradient was shared. Else the zeros are the pruned entries, of which the
    smallest that was kept is a bound: no more than what a dummy entry exceeds it by is held against it.

    Args:
        ratio: share of the entries that is zeroed, from 0 up to but not including 1; 0 is no defense.
        scope: among which entries the smallest are looked for: "tensor", those of each parameter by itself, or
            "global", those of all parameters together.
    """

    def __init__(self, ratio: float = 0.9, scope: Scope = "tensor") -> None:
        if not 0 <= ratio < 1:
            raise ValueError(f"ratio is {ratio}, but must be at least 0 and below 1")
        if scope not in get_args(Scope):
            raise ValueError(f"scope is {scope!r}, but must be one of {', '.join(get_args(Scope))}")
        self.ratio = ratio
        self.scope = scope

    def protect(self, update: Update, generators: Sequence[torch.Generator]) -> Update:
        if self.scope == "tensor":
            return {name: self._prune(flattened(value)).view_as(value) for name, value in update.items()}
        sizes = [value[0].numel() for value in update.values()]
        parts = self._prune(torch.cat([flattened(value) for value in update.values()], 1)).split(sizes, 1)
        return {name: part.reshape(value.shape) for (name, value), part in zip(update.items(), parts, strict=True)}

    def bytes_sent(self, shared: Update) -> Tensor:
        return sparse_bytes(shared)

    def _pruned(self, entries: int) -> int:
        return round(self.ratio * entries)

    def _prune(self, flat: Tensor) -> Tensor:
        smallest = flat.abs().argsort(dim=1, stable=True)[:, : self._pruned(flat.shape[1])]
        return flat.scatter(1, smallest, 0.0)

    def known_to_attacker(self) -> KnownDefense:
        if self.ratio == 0:
            return KnownDefense()
        return KnownDefense(simulate=self._simulate, kept=self._kept)

    def _kept(self, observed: Update) -> Update:
        bounds = self._bounds(observed)
        return {name: ((value != 0) | (bounds[name] == 0)).to(value) for name, value in observed.items()}

    def _simulate(self, dummy: Update, observed: Update) -> Update:
        simulated, bounds = {}, self._bounds(observed)
        for name, value in dummy.items():
            bound = bounds[name]
            simulated[name] = torch.where(observed[name] == 0, value - value.clamp(-bound, bound), value)
        return simulated

    @torch.no_grad()
    def _bounds(self, observed: Update) -> Update:
        """What no pruned entry of a tensor exceeds, ``[V, 1, ...]``; 0 where nothing was lost."""
        flat = {name: flattened(value) for name, value in observed.items()}
        if self.scope == "tensor":
            found = {name: self._bound(value) for name, value in flat.items()}
        else:
            found = dict.fromkeys(flat, self._bound(torch.cat([*flat.values()], 1)))
        return {name: found[name].view(-1, *[1] * (value.dim() - 1)) for name, value in observed.items()}

    def _bound(self, flat: Tensor) -> Tensor:
        smallest = torch.where(flat == 0, torch.inf, flat.abs()).amin(1)
        lost = (flat == 0).sum(1) <= self._pruned(flat.shape[1])
        return torch.where(lost, smallest, 0.0)
