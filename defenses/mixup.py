import math
from collections.abc import Sequence
from itertools import permutations

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from defenses.base import HookDefense, KnownDefense

LARGEST = 8
"""Images of a batch of which an attacker tries all circles: 5,040."""

SHARES = 50
"""Shares between 1/2 and 1 that he tries."""

TRIED = 64
"""Circles of each share, those whose labels fit best, whose images are looked at."""

EQUAL = 1e-4
"""Errors that differ by less are the same."""


def shares_of(concentration: Sequence[float], generator: torch.Generator) -> Tensor:
    """A draw from the Dirichlet distribution, float64, that sums to 1; of two numbers the first is Beta distributed."""
    return torch._sample_dirichlet(torch.tensor(concentration, dtype=torch.double), generator=generator)


class MixUp(HookDefense):
    """Mixes each image and its label with another of the same batch (Zhang et al. 2018, arXiv 1710.09412).

    As in the authors' code each batch draws one share from Beta(alpha, alpha). Each image's partner is another image:
    the next in a random circle of all. What is scored against are the private images as they were.

    An attacker who knows it finds mixed images, and looks for their mixed labels together with them. The share and the
    partners are unknown to him, but the labels tell of them: of batches of up to 8 images AutoLeak undoes the mixing,
    see :func:`unmixed`. What other attacks do not find, and larger batches, is not taken for protection.

    Args:
        alpha: of the Beta distribution, at least 0; 0 is no defense.
    """

    def __init__(self, alpha: float = 1.0) -> None:
        if not 0 <= alpha < math.inf:
            raise ValueError(f"alpha is {alpha}, but must be finite and at least 0")
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


def unmixed(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor] | None:
    """The private images that mixed ones can have been made of, if each is mixed with the next in a circle.

    For each circle and share, labels of one class each follow from the mixed ones, and images from the mixed images, by
    the inverse of the mixture. That circle and share is taken which explains the mixed labels best, and whose images
    stay in [0, 1]; of those that do so equally, as where all labels are one, the smallest share, which undoes most.
    Shares below 1/2 give the same images in another order.

    Args:
        images: mixed, in [0, 1], ``[V, N, C, H, W]``.
        labels: mixed, ``[V, N, K]``.

    Returns:
        Images of the same shape, in [0, 1], and labels ``[V, N]``; None where N is above ``LARGEST``.
    """
    count = labels.shape[1]
    if count > LARGEST:
        return None
    if count < 2:
        return images, labels.argmax(-1)
    device = images.device
    circles = torch.tensor([(0, *rest) for rest in permutations(range(1, count))], device=device)
    own = torch.eye(count, dtype=torch.double, device=device)
    after = own.roll(1, 1)  # in the order of a circle
    shares = torch.linspace(0.5, 1, SHARES + 1, dtype=torch.double)[1:].tolist()
    found, told = [], []
    for mixed, soft in zip(images.flatten(2).double(), labels.double(), strict=True):
        some = soft.sum(0).argsort(descending=True)[: 2 * count]  # no more classes than that have a part
        ordered = soft[:, some][circles]  # [P, N, at most 2 N]
        tries = [tried(mixed, ordered, circles, share * own + (1 - share) * after) for share in shares]
        errors = torch.stack([error for error, _, _ in tries])
        first = int((errors <= errors.min() + EQUAL).nonzero()[0, 0])
        _, order, classes = tries[first]
        pure = one_hot(classes, len(some)).to(soft)
        gap, share = pure - after @ pure, shares[first]
        if gap.any():  # between the shares that were tried, by least squares
            share = float(((soft[:, some][order] - after @ pure) * gap).sum() / gap.square().sum())
            share = min(1.0, max(shares[0], share))
        made = (share * own + (1 - share) * after).inverse() @ mixed[order]
        found.append(made[order.argsort()].clamp(0, 1))
        told.append(some[classes[order.argsort()]])
    return torch.stack(found).view_as(images).to(images), torch.stack(told)


def tried(mixed: Tensor, ordered: Tensor, circles: Tensor, mixture: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The best circle for a mixture: how far it is off in labels and images, its order ``[N]``, and classes ``[N]``.

    Args:
        mixed: images ``[N, D]``.
        ordered: labels in the order of each circle, ``[P, N, K]``.
        circles: the orders, ``[P, N]``.
        mixture: of the images in that order, ``[N, N]``.
    """
    inverse = mixture.inverse()
    classes = (inverse @ ordered).argmax(-1)
    off = (mixture @ one_hot(classes, ordered.shape[-1]).to(ordered) - ordered).square().sum((1, 2))
    best = off.argsort()[:TRIED]
    made = inverse @ mixed[circles[best]]
    errors = off[best] + (made - made.clamp(0, 1)).square().mean((1, 2))
    one = errors.argmin()
    return errors[one], circles[best[one]], classes[best[one]]
