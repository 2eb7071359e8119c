import math
from collections.abc import Sequence

import torch
from torch import Tensor

from defenses.base import Defense, KnownDefense, Update, global_norm


class GaussianNoise(Defense):
    """Gaussian noise on every entry of the update (Zhu et al. 2019, arXiv 1906.08935, section 5.1).

    No (epsilon, delta) is claimed: nothing bounds what one image contributes.

    Args:
        std: standard deviation of the noise, at least 0; 0 is no defense.
        relative: whether std is in parts of the root mean square of the client's D entries, which is the norm of the
            update over the square root of D: the noise is then about std times as long as the update.
    """

    def __init__(self, std: float = 0.01, relative: bool = False) -> None:
        if not (0 <= std < math.inf):
            raise ValueError(f"std is {std}, but must be 0 or greater")
        self.std = std
        self.relative = relative

    def protect(self, update: Update, generators: Sequence[torch.Generator]) -> Update:
        noisy = {}
        for name, value in update.items():
            noise = torch.stack([torch.randn(value.shape[1:], generator=g) for g in generators])
            size = root_mean_square(update).view(-1, *[1] * (value.dim() - 1)) if self.relative else 1.0
            noisy[name] = value + self.std * size * noise.to(value)
        return noisy

    def known_to_attacker(self) -> KnownDefense:
        if self.std == 0 or not self.relative:
            return KnownDefense(noise_std=self.std)

        def std(observed: Update) -> Tensor:
            """The noise has lengthened the update: its square by 1 + std ** 2, on average."""
            return self.std * root_mean_square(observed) / math.sqrt(1 + self.std**2)

        return KnownDefense(noise_std=std)


def root_mean_square(update: Update) -> Tensor:
    """Of the entries of all parameters together, ``[V]``."""
    return global_norm(update) / math.sqrt(sum(value[0].numel() for value in update.values()))
