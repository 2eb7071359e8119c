from collections.abc import Sequence

import torch
from torch import Tensor

from defenses.base import Update, flattened, layer_of
from defenses.masking import Masking


class LayerMasking(Masking):
    """Zeroes whole layers of the update at random, others in each round.

    A layer is what has its parameters under one name, as a weight and its bias. An attacker who knows it matches the
    layers that were left; in several rounds they are soon all of them. A zero in a layer that was left is true.

    Args:
        ratio: probability that a layer is zeroed, from 0 up to but not including 1; 0 is no defense.
        rescale: divide what is kept by 1 - ratio, so that the update is right on average.
    """

    def protect(self, update: Update, generators: Sequence[torch.Generator]) -> Update:
        layers = list(dict.fromkeys(map(layer_of, update)))
        uniform = torch.stack([torch.rand(len(layers), generator=g) for g in generators])
        kept = {layer: uniform[:, place] >= self.ratio for place, layer in enumerate(layers)}
        return {name: value * along(kept[layer_of(name)], value) * self._scale for name, value in update.items()}

    def bytes_sent(self, shared: Update) -> Tensor:
        """Those of the layers that were left, entry by entry."""
        kept = self._kept(shared)
        each = [flattened(value).sum(1) * shared[name].element_size() for name, value in kept.items()]
        return torch.stack(each).sum(0).long().cpu()

    def _kept(self, observed: Update) -> Update:
        """1 for each entry of the layers in which something was shared, ``[V, ...]``."""
        seen: dict[str, Tensor] = {}
        for name, value in observed.items():
            seen[layer_of(name)] = seen.get(layer_of(name), torch.tensor(False)) | (flattened(value) != 0).any(1)
        return {name: torch.ones_like(value) * along(seen[layer_of(name)], value) for name, value in observed.items()}


def along(chosen: Tensor, value: Tensor) -> Tensor:
    """1 or 0 for each of V clients ``[V]``, to multiply ``[V, ...]`` with."""
    return chosen.to(value).view(-1, *[1] * (value.dim() - 1))
