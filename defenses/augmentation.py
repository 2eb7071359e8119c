import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from defenses.base import HookDefense, KnownDefense

GRAY = 0.5
"""What comes in from outside of an image."""


def moved(images: Tensor, matrices: Tensor) -> Tensor:
    """Images ``[N, C, H, W]``, each through an affine map ``[N, 2, 3]`` of coordinates from -1 to 1."""
    grid = affine_grid(matrices, list(images.shape), align_corners=False)
    return grid_sample(images - GRAY, grid, align_corners=False) + GRAY


def affine(cells: Sequence[Sequence[Tensor]]) -> Tensor:
    """Maps ``[N, 2, 3]`` of two rows of three columns of N numbers."""
    return torch.stack([torch.stack(list(row), -1) for row in cells], 1)


def rotated(images: Tensor, draws: Tensor) -> Tensor:
    """By up to 30 degrees."""
    angle, none = draws * math.pi / 6, torch.zeros_like(draws)
    stretch = images.shape[-2] / images.shape[-1]  # a coordinate has the length of its side
    rows = [angle.cos(), -angle.sin() * stretch, none], [angle.sin() / stretch, angle.cos(), none]
    return moved(images, affine(rows))


def translated(images: Tensor, draws: Tensor) -> Tensor:
    """Sideways by up to 45 % of the width."""
    one, none = torch.ones_like(draws), torch.zeros_like(draws)
    return moved(images, affine([[one, none, 0.9 * draws], [none, one, none]]))


def sheared(images: Tensor, draws: Tensor) -> Tensor:
    """Rows sideways, by up to 0.3 of their height over the middle."""
    one, none = torch.ones_like(draws), torch.zeros_like(draws)
    return moved(images, affine([[one, 0.3 * draws, none], [none, one, none]]))


def contrasted(images: Tensor, draws: Tensor) -> Tensor:
    """Differences from an image's mean times 0.1 to 1.9."""
    mean = images.mean((1, 2, 3), keepdim=True)
    return mean + (1 + 0.9 * draws.view(-1, 1, 1, 1)) * (images - mean)


def brightened(images: Tensor, draws: Tensor) -> Tensor:
    """Values times 0.1 to 1.9."""
    return (1 + 0.9 * draws.view(-1, 1, 1, 1)) * images


TRANSFORMS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "rotate": rotated,
    "translate": translated,
    "shear": sheared,
    "contrast": contrasted,
    "brightness": brightened,
}
"""From images ``[N, C, H, W]`` and numbers in [-1, 1], ``[N]``, of which 0 is no change."""


class Augmentation(HookDefense):
    """Transforms each image before it is trained on, as ATS does (Gao et al. 2021, arXiv 2011.12505).

    The transforms are three of those from which Gao et al. search a policy, one after the other, with the ranges of
    AutoAugment; each image and step draws how far each of them goes. The policies that they found, and their search,
    are not ours. Reconstructions are scored against the private images as they were; Gao et al. score against the
    transformed ones.

    Args:
        magnitude: of all transforms, in parts of their ranges, from 0 to 1; 0 is no defense.
        policy: names of transforms, joined by "-": rotate, translate, shear, contrast, brightness.
    """

    def __init__(self, magnitude: float = 1.0, policy: str = "rotate-translate-contrast") -> None:
        if not 0 <= magnitude <= 1:
            raise ValueError(f"magnitude is {magnitude}, but must be from 0 to 1")
        if unknown := [name for name in policy.split("-") if name not in TRANSFORMS]:
            raise ValueError(f"policy has {unknown[0]!r}, but each must be one of {', '.join(TRANSFORMS)}")
        self.magnitude = magnitude
        self.policy = policy

    @property
    def hooks(self) -> frozenset[str]:
        return super().hooks if self.magnitude else frozenset()

    def on_batch(self, images: Tensor, labels: Tensor, generators: Sequence[torch.Generator]) -> tuple[Tensor, Tensor]:
        names = self.policy.split("-")
        draws = torch.stack([torch.rand(len(names), images.shape[1], generator=g) for g in generators], 1)
        made = images.flatten(0, 1)
        for name, of_images in zip(names, (2 * draws - 1).to(images), strict=True):
            made = TRANSFORMS[name](made, self.magnitude * of_images.flatten()).clamp(0, 1)
        return made.view_as(images), labels

    def known_to_attacker(self) -> KnownDefense:
        if not self.magnitude:
            return KnownDefense()
        return KnownDefense(no_adaptive_attack="nobody is known to undo transforms that were drawn anew")
