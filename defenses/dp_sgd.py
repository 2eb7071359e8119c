import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from defenses.base import HookDefense, KnownDefense, Update, global_norm
from defenses.clipping import clip


def clipped_mean(gradients: Update, max_norm: float) -> Update:
    """``[V, *shape]``: the mean of gradients ``[V, N, *shape]``, each of which is clipped to a global L2 norm."""
    victims, images = next(iter(gradients.values())).shape[:2]
    norms = global_norm({name: value.flatten(0, 1) for name, value in gradients.items()}).view(victims, images)
    factors = max_norm / norms.clamp(min=max_norm) / images
    return {name: torch.einsum("vn,vn...->v...", factors, value) for name, value in gradients.items()}


class DPSGD(HookDefense):
    """DP-SGD (Abadi et al. 2016, arXiv 1607.00133, algorithm 1).

    The gradient of each image is clipped to an L2 norm of all parameters together; to the sum of a batch is added
    Gaussian noise, and it is divided by the number of its images. It takes FedSGD, in which an update is one step, and
    networks in which an image's gradient does not depend on the others: no BatchNorm in train mode.

    What is private is one image: two data sets are neighbors if one has one image more. Epsilon and delta are stated
    of a training, for a client and whoever sees all its updates. They assume that each step takes each of the client's
    images with the same probability, by itself (Poisson sampling). The clients here take shuffled batches of a fixed
    size instead, as most implementations do; for these the numbers are the usual ones to state, and no proof (Chua et
    al. 2024, arXiv 2403.17673). What choosing a learning rate gives away is not in them.

    An attacker who knows it clips the gradients of his own images, and knows the size of the noise.

    Args:
        max_norm: C, largest norm of an image's gradient, above 0; infinity (.inf) clips none.
        noise_multiplier: sigma, the standard deviation of the noise on the sum in parts of C, at least 0; 0 adds none.
            Without both it is no defense.
        delta: at which epsilon is stated, above 0 and below 1; it should be below 1 over the images of a client.
    """

    def __init__(self, max_norm: float = 1.0, noise_multiplier: float = 1.0, delta: float = 1e-5) -> None:
        if not max_norm > 0:
            raise ValueError(f"max_norm is {max_norm}, but must be above 0")
        if not 0 <= noise_multiplier < math.inf:
            raise ValueError(f"noise_multiplier is {noise_multiplier}, but must be finite and at least 0")
        if noise_multiplier and max_norm == math.inf:
            raise ValueError("noise_multiplier is in parts of max_norm: give max_norm a number, or noise_multiplier 0")
        if not 0 < delta < 1:
            raise ValueError(f"delta is {delta}, but must be above 0 and below 1")
        self.max_norm = max_norm
        self.noise_multiplier = noise_multiplier
        self.delta = delta

    @property
    def hooks(self) -> frozenset[str]:
        return super().hooks if self.max_norm < math.inf else frozenset()

    def check_clients(
        self, model: nn.Module, image_shape: tuple[int, int, int, int], local_steps: bool, train: bool
    ) -> None:
        if local_steps:
            raise ValueError("DPSGD takes updates of one step, and those of FedAvg have more: give FedSGD")
        if train and any(isinstance(layer, _BatchNorm) for layer in model.modules()):
            raise ValueError(
                "DPSGD needs the gradient of each image, which BatchNorm in train mode mixes: give a network without it"
            )

    def on_example_gradients(self, gradients: Update, generators: Sequence[torch.Generator]) -> Update:
        images = next(iter(gradients.values())).shape[1]
        std = self.noise_multiplier * self.max_norm / images
        noisy = {}
        for name, value in clipped_mean(gradients, self.max_norm).items():
            noise = torch.stack([torch.randn(value.shape[1:], generator=g) for g in generators])
            noisy[name] = value + std * noise.to(value)
        return noisy

    def known_to_attacker(self) -> KnownDefense:
        if self.max_norm == math.inf:
            return KnownDefense()
        std = self.noise_multiplier * self.max_norm
        of_one_image = KnownDefense(
            simulate=lambda dummy, observed: clip(dummy, self.max_norm),  # no mean of clipped ones is longer
            gradients=lambda gradients: clipped_mean(gradients, self.max_norm),
            noise_std=std,
        )
        return replace(of_one_image, of_clients=lambda _, shape: replace(of_one_image, noise_std=std / shape[0]))

    def privacy(self, sample_rate: float, steps: int) -> tuple[float, float]:
        """Epsilon and delta of a client, by the Renyi accountant of Opacus (Mironov et al. 2019, arXiv 1908.10530).

        Args:
            sample_rate: share of the client's images in each step.
            steps: in which the client took part.
        """
        if not steps:
            return 0.0, self.delta
        if not self.noise_multiplier:
            return math.inf, self.delta
        from opacus.accountants import RDPAccountant  # takes seconds

        accountant = RDPAccountant()
        accountant.history = [(self.noise_multiplier, sample_rate, steps)]
        return float(accountant.get_epsilon(self.delta)), self.delta
