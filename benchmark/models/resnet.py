"""Residual networks with BatchNorm: a small one, and those of the literature.

They are made in evaluation mode, and so attacked with fixed running statistics; training switches modes by itself.
"""

from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torchvision.models import resnet
from torchvision.models.resnet import BasicBlock

from benchmark.models.checkpoint import load_checkpoint
from benchmark.models.draw import Model, Shape
from benchmark.models.normalize import normalization

STEMS = ("cifar", "imagenet")


class ResNet(Model):
    """A ResNet-8 for small images: three stages of one residual block each, BatchNorm and ReLU.

    He et al. 2015 (arXiv 1512.03385, section 4.2) with n = 1, and a 1x1 convolution where a block changes the shape.

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


class ResNet18(resnet.ResNet, Model):  # type: ignore[misc] # torchvision has no types
    """ResNet-18, torchvision's, with its stem for ImageNet or the usual one for small images.

    He et al. 2015 (arXiv 1512.03385, table 1), with torchvision's names of parameters and initialization. 11.69 million
    parameters with the stem for ImageNet and a thousand classes, 11.17 million with the one for CIFAR and ten.

    Args:
        image_shape: (C, H, W), given by the data.
        num_classes: given by the data.
        stem: "cifar" for a 3x3 convolution with stride 1, or "imagenet" for a 7x7 one with stride 2 and a max pooling.
        checkpoint: file of trained weights, a state dict under torchvision's names, by itself or in what a training
            script saves; every victim then has this network. By default each victim has random weights of its own.
        mean: mean of each channel, with which images in [0, 1] are normalized before the first layer; by default that
            of ImageNet with a checkpoint, and no normalization without.
        std: standard deviation of each channel, likewise.
        data_root: given by the data; where there is no checkpoint from here, its path is taken from there.
    """

    def __init__(
        self,
        image_shape: Shape,
        num_classes: int,
        stem: str = "cifar",
        checkpoint: str | None = None,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        data_root: Path | None = None,
    ) -> None:
        if stem not in STEMS:
            raise ValueError(f"stem is {stem!r}, but must be one of {', '.join(STEMS)}")
        channels = image_shape[0]
        super().__init__(BasicBlock, [2, 2, 2, 2], num_classes=num_classes)
        if stem == "cifar":
            self.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
            self.maxpool = nn.Identity()
        else:
            self.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        if checkpoint is not None:
            load_checkpoint(self, checkpoint, data_root)
        self.normalize = normalization(channels, mean, std, trained=checkpoint is not None)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[N, K]`` of images ``[N, C, H, W]``."""
        logits: Tensor = super().forward(self.normalize(images))
        return logits


class ResNet20(Model):
    """The ResNet-20 for CIFAR: three stages of three residual blocks, 0.27 million parameters.

    He et al. 2015 (arXiv 1512.03385, section 4.2), with shortcuts without parameters (type A). The names of the
    parameters are those of akamaster/pytorch_resnet_cifar10, so that its checkpoints load. Convolutions start
    with He's normal weights (arXiv 1502.01852, eq. 10), the last layer with torch's default.

    Args:
        image_shape: (C, H, W), given by the data.
        num_classes: given by the data.
        checkpoint: file of trained weights, a state dict, by itself or in what a training script saves; every victim
            then has this network. By default each victim has random weights of its own.
        mean: mean of each channel, with which images in [0, 1] are normalized before the first layer; by default that
            of ImageNet with a checkpoint, and no normalization without.
        std: standard deviation of each channel, likewise.
        data_root: given by the data; where there is no checkpoint from here, its path is taken from there.
    """

    blocks: ClassVar[int] = 3
    """Residual blocks in each stage."""

    def __init__(
        self,
        image_shape: Shape,
        num_classes: int,
        checkpoint: str | None = None,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        data_root: Path | None = None,
    ) -> None:
        super().__init__()
        channels = image_shape[0]
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self.stage(16, 16)
        self.layer2 = self.stage(16, 32)
        self.layer3 = self.stage(32, 64)
        self.linear = nn.Linear(64, num_classes)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        if checkpoint is not None:
            load_checkpoint(self, checkpoint, data_root)
        self.normalize = normalization(channels, mean, std, trained=checkpoint is not None)
        self.eval()

    def stage(self, inputs: int, outputs: int) -> nn.Sequential:
        """Residual blocks of so many channels; where these grow, the first block halves the sides."""
        grows = outputs > inputs
        first = BasicBlock(inputs, outputs, 2, Subsample(outputs - inputs)) if grows else BasicBlock(inputs, outputs)
        return nn.Sequential(first, *(BasicBlock(outputs, outputs) for _ in range(self.blocks - 1)))

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[N, K]`` of images ``[N, C, H, W]``."""
        x = torch.relu(self.bn1(self.conv1(self.normalize(images))))
        return self.linear(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))


class ResNet32(ResNet20):
    """The ResNet-32 for CIFAR: ResNet20 with five blocks in each stage, 0.46 million parameters."""

    blocks = 5


class ResNet44(ResNet20):
    """The ResNet-44 for CIFAR: ResNet20 with seven blocks in each stage, 0.66 million parameters."""

    blocks = 7


class ResNet56(ResNet20):
    """The ResNet-56 for CIFAR: ResNet20 with nine blocks in each stage, 0.85 million parameters."""

    blocks = 9


class Subsample(nn.Module):
    """A shortcut without parameters (type A): every second pixel, and channels of zeros around those that there are.

    Args:
        more: channels that are added.
    """

    def __init__(self, more: int) -> None:
        super().__init__()
        self.before, self.after = more // 2, more - more // 2

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C + more, H / 2, W / 2]``, rounded up, from ``[N, C, H, W]``."""
        return pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.before, self.after))
