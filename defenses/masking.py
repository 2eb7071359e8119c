from collections.abc import Sequence

import torch

from defenses.base import Defense, KnownDefense, Update
from defenses.pruning import keep_observed


class Masking(Defense):
    """Zeroes each entry of the update at random (our reading of Kim and Park 2024, arXiv 2408.08430).

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
        def simulate(dummy: Update, observed: Update) -> Update:
            return {name: value * self._scale for name, value in keep_observed(dummy, observed).items()}

        return KnownDefense(simulate=simulate)
