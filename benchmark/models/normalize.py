"""Input normalization, which is the network's own: everywhere else images are in [0, 1]."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and standard deviation of the channels, with which torchvision's networks and many others are trained."""


class Normalize(nn.Module):
    """Subtracts the mean of each channel and divides by its standard deviation.

    Args:
        channels: of the images.
        mean: one for each channel.
        std: one for each channel, above 0.

    Raises:
        ValueError: there are not as many as channels, or one is out of range.
    """

    def __init__(self, channels: int, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != channels or len(std) != channels:
            raise ValueError(
                f"mean has {len(mean)} and std {len(std)} values, but the images have {channels} "
                f"channel{'s' * (channels > 1)}: give one value for each"
            )
        if not all(0 < value < float("inf") for value in std):
            raise ValueError(f"std is {list(std)}, but must be above 0 and finite")
        self.mean, self.std = tuple(mean), tuple(std)

    def forward(self, images: Tensor) -> Tensor:
        """Images ``[N, C, H, W]`` from such in [0, 1]."""
        channels = zip(images.unbind(1), self.mean, self.std, strict=True)
        return torch.stack([(channel - mean) / std for channel, mean, std in channels], 1)


def normalization(channels: int, mean: Sequence[float] | None, std: Sequence[float] | None, trained: bool) -> nn.Module:
    """The normalization that is asked for.

    Args:
        channels: of the images.
        mean: one for each channel, or None.
        std: one for each channel, or None.
        trained: whether the network's weights come from a checkpoint; then ImageNet's is the default, else none.

    Raises:
        ValueError: only one of the two is given, or they do not fit.
    """
    if (mean is None) != (std is None):
        raise ValueError("mean and std belong together: give both, or neither")
    if mean is not None and std is not None:
        return Normalize(channels, mean, std)
    return Normalize(channels, *IMAGENET) if trained else nn.Identity()
