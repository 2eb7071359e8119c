import math
from collections.abc import Sequence

import torch

from defenses.base import Defense, KnownDefense, Update


class GaussianNoise(Defense):
    """Gaussian noise on every entry of the update (Zhu et al. 2019, arXiv 1906.08935, section 5.1).

    No (epsilon, delta) is claimed: nothing bounds what one image contributes.

    Args:
        std: standard deviation of the noise, at least 0; 0 is no defense.
    """

    def __init__(self, std: float = 0.01) -> None:
        if not (0 <= std < math.inf):
            raise ValueError(f"std is {std}, but must be finite and at least 0")
        self.std = std

    def protect(self, update: Update, generators: Sequence[torch.Generator]) -> Update:
        noisy = {}
        for name, value in update.items():
            noise = torch.stack([torch.randn(value.shape[1:], generator=g) for g in generators])
            noisy[name] = value + self.std * noise.to(value)
        return noisy

    def known_to_attacker(self) -> KnownDefense:
        return KnownDefense(noise_std=self.std)
