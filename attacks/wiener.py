import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from attacks.base import Observation
from attacks.bayes import Bayes
from attacks.engine.row_optimizer import RowOptimizer
from attacks.engine.whitened import Whitened

MOST_VALUES = 4096
"""Of an image: their covariance is a matrix with the square of them, and of more values none is granted."""


@dataclass(eq=False)
class Wiener(Bayes):
    """The most probable images where images are normal, with the mean and covariance of public ones.

    For a linear network under Gaussian noise this is Wiener's filter (Wiener 1949), the best guess of all linear ones:
    of each pattern in which images vary it tells as much as the noise lets through. So it finds what strong noise has
    left, where a prior on the differences of neighbors (:class:`Bayes`) prefers a flat image. The likelihood is that of
    Bayes. L-BFGS descends from the mean image in coordinates in which public images vary alike, and so needs few steps.

    Args:
        prior_scale: standard deviation of what images are by the prior, in parts of that of public images, above 0.
    """

    def check(self, model: nn.Module, image_shape: tuple[int, int, int, int]) -> None:
        super().check(model, image_shape)
        values = math.prod(image_shape[1:])
        if values > MOST_VALUES:
            raise ValueError(f"Wiener takes images of up to {MOST_VALUES:,} values, not {values:,}: attack with Bayes")

    def prior(self, observation: Observation) -> "NormalImages":
        return NormalImages.of(observation, self.prior_scale)

    def optimizer_of(self, observation: Observation, params: Iterable[Tensor]) -> RowOptimizer:
        def make(coordinates: Iterable[Tensor]) -> RowOptimizer:
            return super(Wiener, self).optimizer_of(observation, coordinates)

        return Whitened(params, self.prior(observation).root, make)


@dataclass(frozen=True, eq=False)
class NormalImages:
    """Minus the logarithm of the normal density of images, up to a constant.

    One equals another that gives the same values.

    Attributes:
        mean: ``[D]``, of the D values of an image.
        root: L with the covariance L L^T, ``[D, D]``.
        whitening: its inverse.
    """

    mean: Tensor
    root: Tensor
    whitening: Tensor

    @classmethod
    def of(cls, observation: Observation, scale: float) -> "NormalImages":
        """That of public images, whose standard deviations are multiplied by a scale.

        Where their covariance is not granted, each value varies by itself.
        """
        mean = observation.mean_image
        if observation.covariance is None:
            stds = observation.channel_stds[:, None, None].expand(mean.shape).flatten().to(mean)
            return cls(mean.flatten(), scale * stds.diag(), (1 / (scale * stds)).diag())
        root, whitening = factors(observation.covariance)
        return cls(mean.flatten(), scale * root.to(mean), whitening.to(mean) / scale)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, NormalImages) or self.mean.device != other.mean.device:
            return False
        return all(map(torch.equal, self._tensors, other._tensors))

    def __hash__(self) -> int:
        return hash(self.root.shape)

    @property
    def _tensors(self) -> tuple[Tensor, ...]:
        return self.mean, self.root, self.whitening

    def __call__(self, images: Tensor) -> Tensor:
        """That of each victim's images, ``[A]``."""
        return ((images.flatten(2) - self.mean) @ self.whitening.mT).flatten(1).square().sum(1) / 2


_factors = WeakIdKeyDictionary()


def factors(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """L ``[D, D]`` with the covariance L L^T, and its inverse, kept for as long as the covariance is."""
    if covariance not in _factors:
        root = torch.linalg.cholesky(covariance.double())
        inverse = torch.linalg.solve_triangular(root, torch.eye(len(root)).to(root), upper=False)
        _factors[covariance] = root.to(covariance), inverse.to(covariance)
    found: tuple[Tensor, Tensor] = _factors[covariance]
    return found
