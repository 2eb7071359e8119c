import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from attacks.base import Observation
from attacks.bayes import Bayes, mixes
from attacks.engine.row_optimizer import RowOptimizer
from attacks.engine.whitened import Whitened

MOST_VALUES = 4096
"""Of an image: their covariance is a matrix with the square of them, and of more values none is granted."""


@dataclass(eq=False)
class Wiener(Bayes):
    """The most probable images where those of a class are normal, with mean and covariance of public ones.

    For a linear network under Gaussian noise this is Wiener's filter (Wiener 1949), the best guess of all linear ones:
    of each pattern in which images vary it tells as much as the noise lets through. So it finds what strong noise has
    left, where a prior on the differences of neighbors (:class:`Bayes`) prefers a flat image. The likelihood is that of
    Bayes. Where images are small and classes few, each class has a covariance of its own, else all have that of all
    images. L-BFGS descends from the mean image in coordinates in which public images vary alike, and so needs few
    steps.

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
    """Minus the logarithm of the normal density of images of each class, up to a constant.

    Of an image that may be of several classes it is the mean over them where each class has a covariance of its own,
    and else that of the mean of their mean images. One equals another that gives the same values.

    Attributes:
        means: of the classes, ``[K, D]``, of the D values of an image.
        root: L with the covariance L L^T of images of all classes, ``[D, D]``.
        whitening: the inverse of such a factor, of all images ``[D, D]`` or of those of each class ``[K, D, D]``.
        volumes: logarithm of the determinant of each factor ``[K]``, less their mean; 0 where they have one in common.
    """

    means: Tensor
    root: Tensor
    whitening: Tensor
    volumes: Tensor

    @classmethod
    def of(cls, observation: Observation, scale: float) -> "NormalImages":
        """That of public images, whose standard deviations are multiplied by a scale.

        Where their covariance is not granted, each value varies by itself. Images that clients are known to mix are of
        no class.
        """
        means = observation.class_means.flatten(1)
        if observation.covariance is None:
            stds = observation.channel_stds[:, None, None].expand(observation.mean_image.shape).flatten().to(means)
            root, whitening = scale * stds.diag(), (1 / (scale * stds)).diag()
        else:
            root, whitening = (factor.to(means) for factor in factors(observation.covariance))
            root, whitening = scale * root, whitening / scale
        if observation.class_covariances is None or mixes(observation):
            return cls(means, root, whitening, means.new_zeros(len(means)))
        of_classes, whitenings = factors(observation.class_covariances)
        volumes = of_classes.diagonal(dim1=1, dim2=2).log().sum(1)
        return cls(means, root, whitenings.to(means) / scale, (volumes - volumes.mean()).to(means))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, NormalImages) or self.means.device != other.means.device:
            return False
        return all(map(torch.equal, self._tensors, other._tensors))

    def __hash__(self) -> int:
        return hash(self.whitening.shape)

    @property
    def _tensors(self) -> tuple[Tensor, ...]:
        return self.means, self.root, self.whitening, self.volumes

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        """That of each victim's images, ``[A]``."""
        images, labels = images.flatten(2), labels.to(self.means)
        if self.whitening.dim() == 2:
            return ((images - labels @ self.means) @ self.whitening.mT).flatten(1).square().sum(1) / 2
        apart = images[:, :, None] - self.means
        of_classes = torch.einsum("ankd,ked->anke", apart, self.whitening).square().sum(3) / 2 + self.volumes
        return (labels * of_classes).sum((1, 2))


_factors = WeakIdKeyDictionary()


def factors(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """L ``[..., D, D]`` with the covariance L L^T, and its inverse, kept for as long as the covariance is."""
    if covariance not in _factors:
        root = torch.linalg.cholesky(covariance.double())
        inverse = torch.linalg.solve_triangular(root, torch.eye(root.shape[-1]).to(root), upper=False)
        _factors[covariance] = root.to(covariance), inverse.to(covariance)
    found: tuple[Tensor, Tensor] = _factors[covariance]
    return found
