"""What it means that a private image has leaked: one definition for boards, thresholds, benches, diagnoses and pages.

An image has leaked where its reconstruction reaches 20 dB **and** is better than every null baseline on that image.
What needs no update at all (gray, the mean image, that of a class) has not been leaked by the update: scans of forms
are nearly white, and a white page is within 20 dB of any of them.

Whatever only reads records needs this file and not torch, which takes seconds to import.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

LEAKED_PSNR = 20.0
"""PSNR in dB from which on an image can have leaked: an MSE of 0.01."""

PSNR_CAP = 100.0
"""PSNR of identical images in dB. The true value is infinite, and one such image would make every mean infinite; 100 dB
is an MSE of 1e-10, far below the step of an 8-bit pixel (48 dB) and about where float32 pixels end. Everything better
is cut to this value."""

THRESHOLDS = (0.01, 0.005, 0.001, 0.0005, 0.0001)
"""MSE thresholds of figure 1 of iDLG (Zhao et al. 2020, arXiv 2001.02610), loosest first."""

BASELINES = ("ConstantImage", "MeanImage", "ClassMeanImage")
"""The null baselines: attacks that do not look at the update."""


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
