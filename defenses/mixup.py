import math
from collections.abc import Sequence
from itertools import permutations

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from defenses.base import HookDefense, KnownDefense

LARGEST = 8
"""Images of a batch of which an attacker tries all circles: 5,040."""

SHARES = 100
"""Shares between 1/2 and 1 that he tries."""

TRIED = 64
"""Circles, those whose labels fit best, whose images are looked at."""


def shares_of(concentration: Sequence[float], generator: torch.Generator) -> Tensor:
    """A draw from the Dirichlet distribution, float64, that sums to 1; of two numbers the first is Beta distributed."""
    return torch._sample_dirichlet(torch.tensor(concentration, dtype=torch.double), generator=generator)


class MixUp(HookDefense):
    """Mixes each image and its label with another of the same batch (Zhang et al. 2018, arXiv 1710.09412).

    As in the authors' code each batch draws one share from Beta(alpha, alpha). Each image's partner is another image:
    the next in a random circle of all. What is scored against are the private images as they were.

    An attacker who knows it finds mixed images, and looks for their mixed labels together with them. The share and the
    partners are unknown to him, but the labels tell of them, and with them he undoes the mixing: see :func:`unmixed`.

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
        return KnownDefense(soft_labels=True, undo=unmixed) if self.alpha else KnownDefense()


def unmixed(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The private images that mixed ones can have been made of, if each is mixed with the next in a circle.

    For each circle and share, labels of one class each follow from the mixed ones, and images from the mixed images, by
    the inverse of the mixture. That circle and share is taken which explains the mixed labels best, and whose images
    stay in [0, 1]. Shares below 1/2 give the same images in another order.

    Args:
        images: mixed, in [0, 1], ``[V, N, C, H, W]``.
        labels: mixed, ``[V, N, K]``.

    Returns:
        Images of the same shape, in [0, 1], and labels ``[V, N]``; of a batch above ``LARGEST`` those that were given.
    """
    count, classes = labels.shape[1:]
    if not 1 < count <= LARGEST:
        return images, labels.argmax(-1)
    circles = torch.tensor([(0, *rest) for rest in permutations(range(1, count))], device=images.device)
    own = torch.eye(count, dtype=images.dtype, device=images.device)
    after = own.roll(1, 1)  # in the order of a circle

    def mixture(share: Tensor) -> Tensor:
        """Of the images of a circle, ``[..., N, N]``."""
        return share[..., None, None] * own + (1 - share[..., None, None]) * after

    shares = torch.linspace(0.5, 1, SHARES + 1, dtype=images.dtype, device=images.device)[1:]
    mixtures, inverses = mixture(shares), mixture(shares).inverse()  # [S, N, N]
    found, told = [], []
    for mixed, soft in zip(images.flatten(2), labels.to(images), strict=True):
        ordered = soft[circles]  # [P, N, K]
        classes_of = (inverses[:, None] @ ordered).argmax(-1)  # [S, P, N]
        off = mixtures[:, None] @ one_hot(classes_of, classes).to(soft) - ordered
        errors, best_share = off.square().sum((2, 3)).min(0)
        some = errors.argsort()[:TRIED]
        made = inverses[best_share[some]] @ mixed[circles[some]]
        outside = (made - made.clamp(0, 1)).square().mean((1, 2))
        circle = some[(errors[some] + outside).argmin()]
        order, classes_here, share = circles[circle], classes_of[best_share[circle], circle], shares[best_share[circle]]
        pure = one_hot(classes_here, classes).to(soft)
        gap = pure - after @ pure
        if gap.any():  # between the shares that were tried, by least squares
            share = ((soft[order] - after @ pure) * gap).sum() / gap.square().sum()
        made = mixture(share.clamp(float(shares[0]), 1.0)).inverse() @ mixed[order]
        found.append(made[order.argsort()].clamp(0, 1))
        told.append(classes_here[order.argsort()])
    return torch.stack(found).view_as(images), torch.stack(told)
