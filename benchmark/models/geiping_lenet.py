"""The very network that the authors of Inverting Gradients attack in their examples."""

import torch
from torch import Tensor, nn

from benchmark.models.draw import Model, Shape
from benchmark.models.lenet import LeNet
from benchmark.models.normalize import Normalize

CIFAR10 = (
    (0.4914672374725342, 0.4822617471218109, 0.4467701315879822),
    (0.24703224003314972, 0.24348513782024384, 0.26158785820007324),
)
"""Mean and standard deviation of the channels, as in their code."""

SEED = 43
"""Of their network of seed 42: they add one."""


class GeipingLeNet(nn.Sequential, Model):
    """The LeNet of DLG behind standardized images, with the weights that the code of Inverting Gradients gives it.

    Geiping et al. 2020 (arXiv 2003.14053; commit 1157b61): ``construct_model("LeNetZhu", seed=42)``. It is the same
    network for each victim, so that scores of single images, which others have published, can be compared with ours.

    Args:
        image_shape: (C, H, W), given by the data, of 3 channels.
        num_classes: given by the data.
    """

    def __init__(self, image_shape: Shape, num_classes: int) -> None:
        if image_shape[0] != 3:
            raise ValueError("GeipingLeNet is for images of 3 channels: give data of this kind, or model LeNet")
        super().__init__(Normalize(3, *CIFAR10), *LeNet(image_shape, num_classes))

    def draw(self, generator: torch.Generator) -> dict[str, Tensor]:
        """The weights of that network, whatever the generator."""
        theirs = torch.Generator().manual_seed(SEED)
        for _ in range(2):  # torch's default, which takes as many numbers, comes before their own
            made = {n: torch.empty(p.shape).uniform_(-0.5, 0.5, generator=theirs) for n, p in self.named_parameters()}
        return made
