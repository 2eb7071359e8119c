import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from defenses.base import HookDefense, KnownDefense


def shares_of(concentration: Sequence[float], generator: torch.Generator) -> Tensor:
    """A draw from the Dirichlet distribution, float64, that sums to 1; of two numbers the first is Beta distributed."""
    return torch._sample_dirichlet(torch.tensor(concentration, dtype=torch.double), generator=generator)


class MixUp(HookDefense):
    """Mixes each image and its label with another of the same batch (Zhang et al. 2018, arXiv 1710.09412).

    As in the authors' code each batch draws one share from Beta(alpha, alpha). Each image's partner is another image:
    the next in a random circle of all. What is scored against are the private images as they were.

    An attacker who knows it finds mixed images, and looks for their mixed labels together with them: the share and the
    partners are unknown to him.

    Args:
        alpha: of the Beta distribution, at least 0; 0 is no defense.
    """

    def __init__(self, alpha: float = 1.0) -> None:
        if not 0 <= alpha < math.inf:
            raise ValueError(f"alpha is {alpha}, but must be 0 or greater")
        self.alpha = alpha

    @property
    def hooks(self) -> frozenset[str]:
        return super().hooks if self.alpha else frozenset()

    def check_clients(
        self, model: nn.Module, image_shape: tuple[int, int, int, int], local_steps: bool, train: bool
    ) -> None:
        if self.alpha and image_shape[0] < 2:
            raise ValueError("MixUp mixes the images of a batch: give batch_size 2 or more")

    def on_batch(self, images: Tensor, labels: Tensor, generators: Sequence[torch.Generator]) -> tuple[Tensor, Tensor]:
        count = images.shape[1]
        shares, partners = [], []
        for generator in generators:
            shares.append(shares_of([self.alpha] * 2, generator)[0])
            circle = torch.randperm(count, generator=generator)
            partners.append(circle.roll(-1)[circle.argsort()])
        share = torch.stack(shares).to(images)
        rows, others = torch.arange(len(images), device=images.device)[:, None], torch.stack(partners).to(images.device)

        def mixed(values: Tensor) -> Tensor:
            own = share.view(-1, *[1] * (values.dim() - 1))
            return own * values + (1 - own) * values[rows, others]

        return mixed(images), mixed(labels)

    def known_to_attacker(self) -> KnownDefense:
        return KnownDefense(soft_labels=self.alpha > 0)
