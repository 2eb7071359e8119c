"""What it means that a private image has leaked: one definition for boards, thresholds, benches, diagnoses and pages.

An image has leaked where its reconstruction reaches 20 dB **and** is better than every null baseline on that image.
What needs no update at all (gray, the mean image, the mean of the class) has not been leaked by the update: scans of
forms are nearly white, and a white page is within 20 dB of any of them.
"""

from typing import Any

import torch
from torch import Tensor

from benchmark.scores import score

LEAKED_PSNR = 20.0
"""PSNR in dB from which on an image can have leaked: an MSE of 0.01."""


def null_scores(images: Tensor, labels: Tensor, mean_image: Tensor, class_means: Tensor) -> tuple[Tensor, Tensor]:
    """The best that an attacker reaches who does not look at the update, for each image.

    The null baselines are 0.5 everywhere, the public mean image, and the public mean image of the image's true class.

    Args:
        images: private images, ``[V, N, C, H, W]`` in [0, 1].
        labels: their labels, ``[V, N]``.
        mean_image: ``[C, H, W]``.
        class_means: ``[K, C, H, W]``.

    Returns:
        PSNR in dB and SSIM, ``[V, N]`` each, float64.
    """
    guesses = (torch.full_like(images, 0.5), mean_image.expand_as(images), class_means[labels])
    # As victims of one image each, or the matching would pair a guess with another image of the batch.
    alone = images.flatten(0, 1).unsqueeze(1)
    of_one = labels.flatten().unsqueeze(1)
    scores = [score(alone, of_one, guess.to(images).flatten(0, 1).unsqueeze(1), of_one, None) for guess in guesses]
    psnr, ssim = (torch.stack([getattr(one, name) for one in scores]).amax(0) for name in ("psnr", "ssim"))
    return psnr.view(labels.shape), ssim.view(labels.shape)


def leaked(psnr: Tensor, null_psnr: Tensor) -> Tensor:
    """Whether an image has leaked, bool of the same shape; NaN has not.

    Args:
        psnr: of the reconstructions, in dB, any shape.
        null_psnr: of the best null baseline on the same images.
    """
    return (psnr >= LEAKED_PSNR) & (psnr > null_psnr)


def leaks(victim: dict[str, Any]) -> bool:
    """Whether a victim of a record leaks: at least one image of its batch did; a diverged attack found nothing."""
    return bool(victim["leaked_any"])


def leaks_wholly(victim: dict[str, Any]) -> bool:
    """Whether all images of the batch of a victim of a record have leaked."""
    return bool(victim["leaked_all"])
