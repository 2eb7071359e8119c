from collections.abc import Sequence

import torch
from torch import Tensor

from defenses.base import Defense, KnownDefense, Update


def keep_observed(dummy: Update, observed: Update) -> Update:
    """The dummy gradient where the observed update is not zero: a zeroed entry can be seen, and is not matched."""
    return {name: value * (observed[name] != 0) for name, value in dummy.items()}


class Pruning(Defense):
    """Zeroes the smallest magnitudes of each tensor of the update (Zhu et al. 2019, arXiv 1906.08935, section 5.3).

    Args:
        ratio: share of the entries of each tensor that is zeroed, from 0 up to but not including 1; 0 is no defense.
    """

    def __init__(self, ratio: float = 0.9) -> None:
        if not 0 <= ratio < 1:
            raise ValueError(f"ratio is {ratio}, but must be at least 0 and below 1")
        self.ratio = ratio

    def protect(self, update: Update, generators: Sequence[torch.Generator]) -> Update:
        return {name: self._prune(value) for name, value in update.items()}

    def _prune(self, value: Tensor) -> Tensor:
        flat = value.flatten(1)
        smallest = flat.abs().argsort(dim=1, stable=True)[:, : round(self.ratio * flat.shape[1])]
        return flat.scatter(1, smallest, 0.0).view_as(value)

    def known_to_attacker(self) -> KnownDefense:
        return KnownDefense(simulate=keep_observed)
