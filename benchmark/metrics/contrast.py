"""Whether an attack has found images but for their contrast, of a network that does not see it.

Then any contrast explains an update as well, and that the images score no better says nothing of what it gives away.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from attacks.base import Observation
from attacks.engine.contrast import Unseen, unseen_by
from benchmark.metrics.leak import PSNR_CAP, leaked

EXPLAINED = 0.5
"""Of the variance of a private image, what may be left where it was found."""


def found_but_for_contrast(observation: Observation, found: Sequence[Tensor], images: Tensor) -> Tensor:
    """Whether one of the images that were found would have leaked with another contrast, ``[V]``, bool, on the CPU.

    That is: with the gain, and offset if that is not seen either, that bring it nearest to a private image, it is
    within 20 dB of that, nearer than the public mean image comes by the same means, and explains half of its variance,
    of which anything is within 20 dB where it is small.

    Args:
        observation: what the attacker had of V victims.
        found: by one attack or several, ``[V, N, C, H, W]`` each, finite.
        images: private batches of that shape.
    """
    mean_image = observation.mean_image.cpu().double()[None]
    told = []
    every = torch.cat([one.cpu().double() for one in found], 1)
    for kind, own, true in zip(unseen_by(observation), every, images.cpu().double(), strict=True):
        if kind is None:
            told.append(False)
            continue
        mse = aligned_mse(kind, own, true)
        is_explained = mse < EXPLAINED * true.flatten(1).var(1, correction=0)
        null = psnr_of(aligned_mse(kind, mean_image, true))
        told.append(bool((leaked(psnr_of(mse), null) & is_explained).any()))
    return torch.tensor(told)


def aligned_mse(kind: Unseen, found: Tensor, true: Tensor) -> Tensor:
    """Mean squared errors of M images, with the best contrast of each, for each of N, ``[M, N]``.

    Args:
        kind: what the network does not see; of a gain that all images of a batch have, each may have its own.
        found: ``[M, C, H, W]``, float64.
        true: ``[N, C, H, W]``, float64.
    """
    x, y = (
        images.flatten(1)[None] if 2 in kind.dims else images.flatten(2).transpose(0, 1) for images in (found, true)
    )
    if kind.offset:
        x, y = x - x.mean(2, keepdim=True), y - y.mean(2, keepdim=True)
    along, square = (x @ y.mT).clamp(min=0), x.square().sum(2)[..., None]
    explained = along.square() / square.clamp(min=torch.finfo(square.dtype).tiny)
    return (y.square().sum(2)[:, None] - explained).clamp(min=0).sum(0) / true[0].numel()


def psnr_of(mse: Tensor) -> Tensor:
    """In dB, of images in [0, 1]."""
    return (-10 * mse.log10()).clamp(max=PSNR_CAP)
