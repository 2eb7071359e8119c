import math
from collections.abc import Sequence

import torch
from torch import Tensor

from defenses.base import Defense, KnownDefense, Update, global_norm
from defenses.gaussian_noise import GaussianNoise
from defenses.interval import per_client


class RelativeNoise(Defense):
    """Gaussian noise in proportion to the update: about so many times as long as that.

    An update of D entries gets noise of std times its L2 norm over the square root of D on each. No (epsilon, delta) is
    claimed: nothing bounds what one image contributes.

    Args:
        std: standard deviation of the noise, in parts of the root mean square of the client's entries, at least 0; 0 is
            no defense.
    """

    def __init__(self, std: float = 0.1) -> None:
        if not (0 <= std < math.inf):
            raise ValueError(f"std is {std}, but must be finite and at least 0")
        self.std = std

    def protect(self, update: Update, generators: Sequence[torch.Generator]) -> Update:
        size = root_mean_square(update)
        noise = GaussianNoise(self.std).protect({n: torch.zeros_like(v) for n, v in update.items()}, generators)
        return {name: value + per_client(size, value) * noise[name] for name, value in update.items()}

    def known_to_attacker(self) -> KnownDefense:
        return KnownDefense(noise_std=self._noise) if self.std else KnownDefense()

    def _noise(self, observed: Update) -> Tensor:
        """Standard deviation ``[V]``: the noise has lengthened the update, its square by 1 + std ** 2 on average."""
        return self.std * root_mean_square(observed) / math.sqrt(1 + self.std**2)


def root_mean_square(update: Update) -> Tensor:
    """Of the entries of all parameters together, ``[V]``."""
    return global_norm(update) / math.sqrt(sum(value[0].numel() for value in update.values()))
