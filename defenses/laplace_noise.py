import math
from collections.abc import Sequence

import torch
from torch import Tensor

from defenses.base import Defense, KnownDefense, Update


class LaplaceNoise(Defense):
    """Laplace noise on every entry of the update (Zhu et al. 2019, arXiv 1906.08935, section 5.1).

    No epsilon is claimed: nothing bounds what one image contributes. An attacker who knows it and writes out the
    likelihood of an update holds absolute differences against a dummy one.

    Args:
        scale: of the distribution, at least 0; its standard deviation is the square root of 2 times as large. 0 is no
            defense.
    """

    def __init__(self, scale: float = 0.01) -> None:
        if not (0 <= scale < math.inf):
            raise ValueError(f"scale is {scale}, but must be finite and at least 0")
        self.scale = scale

    def protect(self, update: Update, generators: Sequence[torch.Generator]) -> Update:
        noisy = {}
        for name, value in update.items():
            noise = torch.stack([standard_laplace(value.shape[1:], g) for g in generators])
            noisy[name] = value + self.scale * noise.to(value)
        return noisy

    def known_to_attacker(self) -> KnownDefense:
        if self.scale == 0:
            return KnownDefense()
        return KnownDefense(noise_std=math.sqrt(2) * self.scale, noise_law="laplace")


def standard_laplace(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Draws of scale 1: the difference of two exponential variables of mean 1."""
    one, other = (torch.empty(*shape).exponential_(generator=generator) for _ in range(2))
    return one - other
