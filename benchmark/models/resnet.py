"""A small residual network with BatchNorm."""

import torch
from torch import Tensor, nn

from benchmark.models.networks import Shape


class ResNet(nn.Module):
    """A ResNet-8 for small images: three stages of one residual block each, BatchNorm and ReLU.

    He et al. 2015 (arXiv 1512.03385, section 4.2) with n = 1, and a 1x1 convolution where a block changes the shape.
    It is made in evaluation mode, and so attacked with fixed running statistics; training switches modes by itself.

    Args:
        image_shape: (C, H, W), given by the data.
        num_classes: given by the data.
        width: channels of the first stage, at least 1; the others have twice and four times as many.
    """

    def __init__(self, image_shape: Shape, num_classes: int, width: int = 16) -> None:
        if width < 1:
            raise ValueError(f"width is {width}, but must be at least 1")
        super().__init__()
        self.stem = nn.Sequential(convolution(image_shape[0], width), nn.ReLU())
        self.stages = nn.Sequential(
            ResidualBlock(width, width),
            ResidualBlock(width, 2 * width, stride=2),
            ResidualBlock(2 * width, 4 * width, stride=2),
        )
        self.head = nn.Linear(4 * width, num_classes)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[N, K]`` of images ``[N, C, H, W]``."""
        return self.head(self.stages(self.stem(images)).mean((2, 3)))

    def draw(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Random weights of one network: He's for convolutions, torch's default for the last layer."""
        drawn: dict[str, Tensor] = {}
        for name, p in self.named_parameters():
            if p.dim() == 4:
                drawn[name] = torch.randn(p.shape, generator=generator) * (2 / p[0].numel()) ** 0.5
            elif name.startswith("head."):
                bound = self.head.in_features**-0.5
                drawn[name] = (torch.rand(p.shape, generator=generator) * 2 - 1) * bound
            else:  # BatchNorm scales by 1 and shifts by 0
                drawn[name] = torch.full(p.shape, float(name.endswith(".weight")))
        return drawn


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut.

    Args:
        inputs: channels that come in.
        outputs: channels that go out.
        stride: of the first convolution.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(convolution(inputs, outputs, stride), nn.ReLU(), convolution(outputs, outputs))
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else convolution(inputs, outputs, stride, size=1)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, outputs, H / stride, W / stride]`` from ``[N, inputs, H, W]``."""
        return torch.relu(self.body(x) + self.shortcut(x))


def convolution(inputs: int, outputs: int, stride: int = 1, size: int = 3) -> nn.Sequential:
    """A convolution without bias, which BatchNorm would take away, and BatchNorm."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False), nn.BatchNorm2d(outputs)
    )
