from collections.abc import Sequence

import torch
from torch import Tensor, nn

from defenses.base import HookDefense, KnownDefense
from defenses.mixup import shares_of

LARGEST_SHARE = 0.65
"""Of one image in a mixture, as in the authors' code."""


class IntraInstaHide(HookDefense):
    """Mixes each image with others of its batch, and flips the signs of pixels (Huang et al. 2020, arXiv 2010.02772).

    An image and others that are drawn anew for each are mixed with random shares that sum to 1, uniform but for none
    above 0.65, and their labels with the same shares. Then each value, of every pixel and channel, has its sign flipped
    with probability 1/2: images here are in [0, 1], so a sign is that of the value on the scale from -1 to 1, and a
    flip turns x into 1 - x. The mask is drawn anew for each image and step. What is scored against are the private
    images as they were.

    An attacker who knows it looks for the mixed labels together with the images. He does not know the mask, and no
    attack on gradients is known that undoes it (that of Carlini et al. 2021, arXiv 2011.05315, needs many encodings of
    the same image).

    Args:
        images: k, in each mixture, itself included, at least 1; 1 is no defense, and leaves the signs, too.
    """

    def __init__(self, images: int = 4) -> None:
        if images < 1:
            raise ValueError(f"images is {images}, but must be at least 1")
        self.images = images

    @property
    def hooks(self) -> frozenset[str]:
        return super().hooks if self.images > 1 else frozenset()

    def check_clients(
        self, model: nn.Module, image_shape: tuple[int, int, int, int], local_steps: bool, train: bool
    ) -> None:
        if self.images > image_shape[0]:
            raise ValueError(
                f"IntraInstaHide mixes {self.images} images of a batch: give batch_size {self.images} or more"
            )

    def on_batch(self, images: Tensor, labels: Tensor, generators: Sequence[torch.Generator]) -> tuple[Tensor, Tensor]:
        shares = torch.stack([self._shares(images.shape[1], generator) for generator in generators]).to(images)
        flips = torch.stack([torch.rand(images.shape[1:], generator=g) < 0.5 for g in generators]).to(images.device)
        mixed = (shares @ images.flatten(2)).view_as(images).clamp(0, 1)
        return torch.where(flips, 1 - mixed, mixed), shares @ labels

    def _shares(self, count: int, generator: torch.Generator) -> Tensor:
        """The share of each image of a batch in each mixture, ``[N, N]``; rows sum to 1."""
        mixed = min(self.images, count)  # the last batch of an epoch can be smaller
        if mixed == 1:
            return torch.eye(count)
        rows = torch.zeros(count, count, dtype=torch.double)
        for row in range(count):
            while (shares := shares_of([1.0] * mixed, generator)).max() > LARGEST_SHARE:
                pass
            others = torch.randperm(count - 1, generator=generator)[: mixed - 1]
            rows[row, [row, *(others + (others >= row)).tolist()]] = shares
        return rows

    def known_to_attacker(self) -> KnownDefense:
        if self.images == 1:
            return KnownDefense()
        return KnownDefense(soft_labels=True, no_adaptive_attack="nobody is known to undo the signs of IntraInstaHide")
