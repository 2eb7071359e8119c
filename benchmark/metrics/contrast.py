"""Whether an attack has found images but for their contrast, of a network that does not see it.

Then any contrast explains an update as well, and that the images score no better says nothing of what it gives away.
"""

import torch
from torch import Tensor

from attacks.base import Observation
from attacks.engine.contrast import Unseen, unseen_by
from benchmark.metrics.leak import PSNR_CAP, leaked


def found_but_for_contrast(observation: Observation, found: Tensor, images: Tensor) -> Tensor:
    """Whether one of the found images would have leaked with another contrast, ``[V]``, bool, on the CPU.

    That is: with the gain, and offset if that is not seen either, that bring it nearest to a private image, it is
    within 20 dB of that, and nearer than the public mean image comes by the same means.

    Args:
        observation: what the attacker had of V victims.
        found: ``[V, N, C, H, W]``.
        images: private batches of that shape.
    """
    unseen = unseen_by(observation)
    if unseen is None:
        return torch.zeros(len(images), dtype=torch.bool)
    true, mean_image = images.cpu().double(), observation.mean_image.cpu().double()[None, None]
    null = aligned_psnr(unseen, mean_image.expand(len(true), 1, *mean_image.shape[2:]), true)[:, 0]
    return leaked(aligned_psnr(unseen, found.cpu().double(), true), null[:, None]).flatten(1).any(1)


def aligned_psnr(unseen: Unseen, found: Tensor, true: Tensor) -> Tensor:
    """PSNR in dB of M images, with the best contrast of each, for each of N, ``[V, M, N]``.

    Args:
        unseen: what the network does not see; of a gain that all images of a batch have, each may have its own.
        found: ``[V, M, C, H, W]``, float64.
        true: ``[V, N, C, H, W]``, float64.
    """
    first = 3 if 2 not in unseen.dims else 2
    x, y = found.flatten(first)[:, :, None], true.flatten(first)[:, None]
    if unseen.offset:
        x, y = x - x.mean(-1, keepdim=True), y - y.mean(-1, keepdim=True)
    square = x.square().sum(-1, keepdim=True)
    gain = ((x * y).sum(-1, keepdim=True) / square.clamp(min=torch.finfo(square.dtype).tiny)).clamp(min=0)
    mse = (y - gain * x).square().flatten(3).sum(-1) / true[0, 0].numel()
    return (-10 * mse.log10()).clamp(max=PSNR_CAP)
