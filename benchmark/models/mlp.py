"""Multilayer perceptrons."""

import itertools

import torch
from torch import Tensor, nn

from benchmark.models.draw import Model, Shape, draw_default
from benchmark.models.normalize import Normalize, normalization

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid}


class MLP(nn.Sequential, Model):
    """A multilayer perceptron with ReLU or sigmoid, in torch's default initialization.

    Args:
        image_shape: (C, H, W), given by the data.
        num_classes: given by the data.
        hidden: width of the hidden layers, at least 1.
        depth: number of hidden layers, at least 1.
        activation: "relu" or "sigmoid"; DLG needs a smooth one.
        mean: subtracted from the images' channels, one for each; None for images in [0, 1].
        std: that the channels are then divided by, one for each, above 0; given with ``mean``.
    """

    def __init__(
        self,
        image_shape: Shape,
        num_classes: int,
        hidden: int = 128,
        depth: int = 1,
        activation: str = "sigmoid",
        mean: list[float] | None = None,
        std: list[float] | None = None,
    ) -> None:
        if hidden < 1 or depth < 1:
            raise ValueError(f"hidden is {hidden} and depth is {depth}, but both must be at least 1")
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation is {activation!r}, but must be one of {', '.join(ACTIVATIONS)}")
        channels, height, width = image_shape
        sizes = [channels * height * width] + [hidden] * depth
        normalized = normalization(channels, mean, std, trained=False)
        layers: list[nn.Module] = [normalized] if isinstance(normalized, Normalize) else []
        layers.append(nn.Flatten())
        for size_in, size_out in itertools.pairwise(sizes):
            layers += [nn.Linear(size_in, size_out), ACTIVATIONS[activation]()]
        super().__init__(*layers, nn.Linear(hidden, num_classes))

    def draw(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Random weights of one network."""
        return draw_default(self, generator)
