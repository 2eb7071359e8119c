"""What is known of an image before any update is seen: pixels are in [0, 1], and neighbors are alike.

A prior is what is added to the matching loss of images ``[A, N, C, H, W]`` with class probabilities ``[A, N, K]``
because of these alone, ``[A]``. Most take images of all classes for alike.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from defenses.base import Update, flattened, global_norm

BOX_EDGE = 0.1
"""How far outside [0, 1] an attacker who must fight noise lets a pixel be: the edge of a soft uniform prior."""

BOX = 0.01
"""Weight of the squared distance of pixels from [0, 1] beside the total variation."""

Prior = Callable[[Tensor, Tensor], Tensor | float]
"""A function of images and class probabilities alone, and equal to another one that gives the same values."""


@dataclass(frozen=True)
class NaturalImage:
    """The total variation of Geiping et al. 2020 (arXiv 2003.14053).

    Args:
        smoothness: weight of the total variation; at 0 there is no such prior.
    """

    smoothness: float

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor | float:
        """The prior of each victim's images, ``[A]``."""
        if not self.smoothness:
            return 0.0
        return BOX * outside(images) + self.smoothness * total_variation(images)


@dataclass(frozen=True)
class AgainstNoise:
    """What known noise adds to a prior for each unit of its variance.

    Under Gaussian noise the matching loss is twice the variance times the negative log likelihood, and the weights of
    the priors grow as much: the Bayesian attack (Balunovic et al. 2022, arXiv 2111.04706).

    Args:
        smooth: whether there is a prior on the differences of neighboring pixels.
        step: scale of that Laplace prior.
    """

    smooth: bool
    step: float

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        """The prior of each victim's images, ``[A]``."""
        of_box = outside(images) / BOX_EDGE**2
        return of_box + 2 / self.step * total_variation(images) if self.smooth else of_box


@dataclass(frozen=True)
class MeanVariation:
    """The total variation in the code of Geiping et al. 2020: mean absolute differences in both directions.

    Args:
        weight: of their sum.
        units: what one is in each channel; the standard deviation of its pixels where these are standardized.
    """

    weight: float
    units: tuple[float, ...]

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor | float:
        """The prior of each victim's images, ``[A]``."""
        directions = [dim for dim in (-2, -1) if images.shape[dim] > 1]  # in others there are no neighbors
        if not (self.weight and directions):
            return 0.0
        both = torch.stack([images.diff(dim=dim).abs().mean((1, -2, -1)) for dim in directions]).sum(0)
        channels = [value / unit for value, unit in zip(both.unbind(-1), self.units, strict=True)]
        return self.weight * torch.stack(channels).mean(0)


@dataclass(frozen=True)
class MeanSquare:
    """The mean square of pixels less a mean: images are not brighter or darker than others for no reason.

    Args:
        weight: of it.
        means: of the pixels of each channel.
        units: what one is in each channel; the standard deviation of its pixels where these are standardized.
    """

    weight: float
    means: tuple[float, ...]
    units: tuple[float, ...]

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor | float:
        """The prior of each victim's images, ``[A]``."""
        if not self.weight:
            return 0.0
        channels = zip(images.unbind(2), self.means, self.units, strict=True)
        return self.weight * torch.stack(
            [((x - mean) / unit).flatten(1).square().mean(1) for x, mean, unit in channels]
        ).mean(0)


@dataclass(frozen=True)
class Together:
    """The sum of several priors."""

    terms: tuple[Prior, ...]

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor | float:
        """The prior of each victim's images, ``[A]``."""
        return sum((term(images, labels) for term in self.terms), start=0.0)


def outside(images: Tensor) -> Tensor:
    """Sum of the squared distances of pixels from [0, 1], ``[A]``."""
    return (images - images.clamp(0, 1)).flatten(1).square().sum(1)


def total_variation(images: Tensor) -> Tensor:
    """Sum of the absolute differences of neighboring pixels of each channel, smooth at 0, ``[A]``."""
    steps = (images.diff(dim=-2), images.diff(dim=-1))
    edge = 1e-3  # differences below it, a quarter of a gray level, count as their square
    return torch.stack([((d.square() + edge**2).sqrt() - edge).flatten(1).sum(1) for d in steps]).sum(0)


def cosine_variance(update: Update, variance: Tensor) -> Tensor:
    """The variance ``[V]`` that noise on an update gives half the cosine distance, in parts of both sizes.

    Were the gradient g of the size that is left without the noise, the squared distance of u from it would be
    ``2 |u| |g|`` times their cosine distance, up to a constant.

    Args:
        update: u, with noise on all entries but those that are 0.
        variance: of the noise on each entry, ``[V]``.
    """
    size = global_norm(update).square()
    entries = torch.stack([flattened(value).count_nonzero(1) for value in update.values()]).sum(0)
    least = (2 * entries).sqrt() * variance  # to which the size of noise alone is known
    rest = (size - entries * variance).maximum(least)
    return variance / (2 * (size * rest).sqrt()).clamp(min=torch.finfo(size.dtype).tiny)
