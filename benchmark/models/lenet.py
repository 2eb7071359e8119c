"""The LeNet of DLG and iDLG."""

from math import ceil, inf

import torch
from torch import Tensor, nn

from benchmark.models.draw import Model, Shape


class LeNet(nn.Sequential, Model):
    """The LeNet of DLG and iDLG: three 5x5 convolutions of 12 channels with sigmoids, one linear layer.

    Strides are 2, 2, 1; all weights and biases are uniform in [-0.5, 0.5] (Zhu et al. 2019, arXiv 1906.08935;
    Zhao et al. 2020, arXiv 2001.02610).

    Args:
        image_shape: (C, H, W), given by the data.
        num_classes: given by the data.
        init_range: weights and biases are uniform between minus and plus this, above 0.
    """

    def __init__(self, image_shape: Shape, num_classes: int, init_range: float = 0.5) -> None:
        if not 0 < init_range < inf:
            raise ValueError(f"init_range is {init_range}, but must be above 0 and finite")
        channels, height, width = image_shape
        super().__init__(
            nn.Conv2d(channels, 12, 5, stride=2, padding=2),
            nn.Sigmoid(),
            nn.Conv2d(12, 12, 5, stride=2, padding=2),
            nn.Sigmoid(),
            nn.Conv2d(12, 12, 5, stride=1, padding=2),
            nn.Sigmoid(),
            nn.Flatten(),
            nn.Linear(12 * ceil(height / 4) * ceil(width / 4), num_classes),
        )
        self.init_range = init_range

    def draw(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Random weights of one network."""
        width = 2 * self.init_range
        return {n: (torch.rand(p.shape, generator=generator) - 0.5) * width for n, p in self.named_parameters()}
