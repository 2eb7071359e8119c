"""LeNet-5, as experiments on labels have it."""

from torch import nn

from benchmark.models.draw import Model, Shape
from benchmark.models.normalize import normalization

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "silu": nn.SiLU, "leaky_relu": nn.LeakyReLU}

SMALLEST = 16
"""Pixels of a side of which the second pooling leaves one."""


class LeNet5(nn.Sequential, Model):
    """LeNet-5 with max pooling (LeCun et al. 1998) as iLRG has it (Ma et al. 2023).

    Two convolutions of 6 and 16 channels, layers of 120 and 84 units; images of less than 16 x 16 pixels are padded
    with zeros to that size. Convolutions are initialized by He et al. 2015 (fan out), linear layers by torch's default.

    Args:
        image_shape: (C, H, W), given by the data.
        num_classes: given by the data.
        activation: "relu", "silu" or "leaky_relu" (slope 0.01).
        mean: subtracted from the images' channels, one for each; None for images in [0, 1].
        std: that the channels are then divided by, one for each, above 0; given with ``mean``.
    """

    def __init__(
        self,
        image_shape: Shape,
        num_classes: int,
        activation: str = "relu",
        mean: list[float] | None = None,
        std: list[float] | None = None,
    ) -> None:
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation is {activation!r}, but must be one of {', '.join(ACTIVATIONS)}")
        channels, height, width = image_shape
        padding = [max(0, SMALLEST - side) for side in (height, width)]
        sides = [((max(SMALLEST, side) - 4) // 2 - 4) // 2 for side in (height, width)]
        made = ACTIVATIONS[activation]
        super().__init__(
            normalization(channels, mean, std, trained=False),
            nn.ZeroPad2d((0, padding[1], 0, padding[0])),
            *(nn.Conv2d(channels, 6, 5), made(), nn.MaxPool2d(2)),
            *(nn.Conv2d(6, 16, 5), made(), nn.MaxPool2d(2)),
            nn.Flatten(),
            *(nn.Linear(16 * sides[0] * sides[1], 120), made()),
            *(nn.Linear(120, 84), made()),
            nn.Linear(84, num_classes),
        )
        for layer in self:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
