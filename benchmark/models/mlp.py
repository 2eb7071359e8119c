"""Multilayer perceptrons."""

import itertools
import math

import torch
from torch import Tensor, nn

from benchmark.models.draw import Model, Shape, draw_default
from benchmark.models.normalize import Normalize, normalization

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid}


class MLP(nn.Sequential, Model):
    """A multilayer perceptron with ReLU or sigmoid.

    Args:
        image_shape: (C, H, W), given by the data.
        num_classes: given by the data.
        hidden: width of the hidden layers, at least 1.
        depth: number of hidden layers, at least 1.
        activation: "relu" or "sigmoid"; DLG needs a smooth one.
        mean: subtracted from the images' channels, one for each; None for images in [0, 1].
        std: that the channels are then divided by, one for each, above 0; given with ``mean``.
        first_std: standard deviation of the first layer's weights, above 0, which are normal; the others are then those
            of Glorot and Bengio 2010, uniform, and all biases 0, as in the experiments on Peeling. None for torch's
            default initialization.
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
        first_std: float | None = None,
    ) -> None:
        if hidden < 1 or depth < 1:
            raise ValueError(f"hidden is {hidden} and depth is {depth}, but both must be at least 1")
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation is {activation!r}, but must be one of {', '.join(ACTIVATIONS)}")
        if first_std is not None and not 0 < first_std < math.inf:
            raise ValueError(f"first_std is {first_std}, but must be above 0 and finite")
        channels, height, width = image_shape
        sizes = [channels * height * width] + [hidden] * depth
        normalized = normalization(channels, mean, std, trained=False)
        layers: list[nn.Module] = [normalized] if isinstance(normalized, Normalize) else []
        layers.append(nn.Flatten())
        for size_in, size_out in itertools.pairwise(sizes):
            layers += [nn.Linear(size_in, size_out), ACTIVATIONS[activation]()]
        super().__init__(*layers, nn.Linear(hidden, num_classes))
        self.first_std = first_std

    def draw(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Random weights of one network."""
        if self.first_std is None:
            return draw_default(self, generator)
        drawn: dict[str, Tensor] = {}
        for name, layer in self.named_modules():
            if isinstance(layer, nn.Linear):
                weight, bias = torch.empty(layer.weight.shape), torch.zeros(layer.bias.shape)
                if drawn:
                    nn.init.xavier_uniform_(weight, generator=generator)
                else:
                    nn.init.normal_(weight, std=self.first_std, generator=generator)
                drawn |= {f"{name}.weight": weight, f"{name}.bias": bias}
        return drawn
