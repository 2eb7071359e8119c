"""A small convolutional network."""

from math import ceil

import torch
from torch import Tensor, nn

from benchmark.models.draw import Model, Shape, draw_default


class ConvNet(nn.Sequential, Model):
    """A small convolutional network with ReLU: two 3x3 convolutions with stride 2, one linear layer.

    Args:
        image_shape: (C, H, W), given by the data.
        num_classes: given by the data.
        width: channels of the first convolution, at least 1; the second has twice as many.
    """

    def __init__(self, image_shape: Shape, num_classes: int, width: int = 16) -> None:
        if width < 1:
            raise ValueError(f"width is {width}, but must be at least 1")
        channels, height, width_px = image_shape
        super().__init__(
            nn.Conv2d(channels, width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(2 * width * ceil(height / 4) * ceil(width_px / 4), num_classes),
        )

    def draw(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Random weights of one network."""
        return draw_default(self, generator)
