"""What the trials of a victim, which are attacked side by side, have in common."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class GroupConsistency:
    """Each trial of a victim is drawn to the mean of all of them (Yin et al. 2021, arXiv 2104.07586, eq. 11).

    The mean is that of the pixels. The paper registers the trials to it first, by a network for photographs of 224
    pixels (RANSAC-Flow), as what its trials find is shifted by many pixels; in a small image it is by one at most.

    Args:
        weight: of the mean square of the differences, at least 0.
        trials: of each victim, which follow each other.
        units: what one is in each channel; the standard deviation of its pixels where these are standardized.
    """

    weight: float
    trials: int
    units: tuple[float, ...]

    def centers(self, images: Tensor, rows: Tensor) -> Tensor:
        """Where each trial is drawn to: the mean of those of its victim that are finite.

        Args:
            images: ``[A, N, C, H, W]``.
            rows: the number of each trial among all of them, ``[A]``, from which follows whose it is.

        Returns:
            As many images, without a graph.
        """
        flat, victims = images.detach().flatten(1), rows // self.trials
        finite = flat.isfinite().all(1)
        of_victim = ((victims[:, None] == victims) & finite).to(flat)
        sums = of_victim @ torch.where(finite[:, None], flat, 0.0)
        return (sums / of_victim.sum(1, keepdim=True).clamp(min=1)).view_as(images)

    def __call__(self, images: Tensor, centers: Tensor) -> Tensor:
        """What each trial pays for being far from its center, ``[A]``."""
        off = (images - centers) / images.new_tensor(self.units)[:, None, None]
        return self.weight * off.flatten(1).square().mean(1)
