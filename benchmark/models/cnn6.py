"""The CNN6 of R-GAP."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from benchmark.models.draw import Model, Shape, draw_default

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "leaky_relu": partial(nn.LeakyReLU, 0.2),
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
}


class CNN6(nn.Sequential, Model):
    """The CNN6 of R-GAP: six convolutions without pooling, biases or normalization, and one linear layer.

    Zhu & Blaschko 2021 (arXiv 2010.07733), as their code has it: a 4x4 convolution and five 3x3 ones of 12, 36, 36, 36,
    64 and 128 channels, the first two and the fifth with stride 2, behind each a leaky ReLU of slope 0.2; on 32x32 RGB
    images 122,256 weights in the convolutions, and 3,200 in the last layer for each class. The original has a single
    output and a logistic loss; this one has a logit for each class. Initialized by torch's default.

    Args:
        image_shape: (C, H, W), given by the data.
        num_classes: given by the data.
        activation: "leaky_relu" as published, "relu" or "sigmoid".
        bias: whether the layers have biases; none as published.
    """

    def __init__(
        self, image_shape: Shape, num_classes: int, activation: str = "leaky_relu", bias: bool = False
    ) -> None:
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation is {activation!r}, but must be one of {', '.join(ACTIVATIONS)}")
        channels, height, width = image_shape
        layers: list[nn.Module] = []
        for outputs, size, stride, padding in LAYERS:
            layers += [nn.Conv2d(channels, outputs, size, stride, padding, bias=bias), ACTIVATIONS[activation]()]
            channels = outputs
            height, width = ((side + 2 * padding - size) // stride + 1 for side in (height, width))
        super().__init__(*layers, nn.Flatten(), nn.Linear(channels * height * width, num_classes, bias=bias))

    def draw(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Random weights of one network."""
        return draw_default(self, generator)


LAYERS = ((12, 4, 2, 2), (36, 3, 2, 1), (36, 3, 1, 1), (36, 3, 1, 1), (64, 3, 2, 1), (128, 3, 1, 1))
"""Output channels, kernel size, stride and padding of each convolution."""
