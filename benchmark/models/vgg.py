"""VGG-11."""

from torch import Tensor, nn
from torchvision.models import VGG
from torchvision.models.vgg import cfgs, make_layers

from benchmark.models.draw import Model, Shape

HEADS = ("cifar", "imagenet")


class VGG11(Model):
    """VGG-11: eight 3x3 convolutions with ReLU, five max poolings, and linear layers; no BatchNorm.

    Simonyan & Zisserman 2015 (arXiv 1409.1556, table 1, column A), of torchvision's layers, with its names of
    parameters and its initialization: 9.23 million for ten classes with the head for CIFAR, and 132.9 million for a
    thousand classes as in the paper. A pooling rounds odd sides up, so that images smaller than 32 pixels pass through.
    Dropout is off, as clients compute in evaluation mode.

    Args:
        image_shape: (C, H, W), given by the data.
        num_classes: given by the data.
        head: "cifar" for a single linear layer on the 512 mean features, as is usual for small images, or "imagenet"
            for the paper's three linear layers (4096, 4096, classes) on 7x7 features.
    """

    def __init__(self, image_shape: Shape, num_classes: int, head: str = "cifar") -> None:
        if head not in HEADS:
            raise ValueError(f"head is {head!r}, but must be one of {', '.join(HEADS)}")
        super().__init__()
        features = make_layers(cfgs["A"])
        features[0] = nn.Conv2d(image_shape[0], 64, 3, padding=1)
        for layer in features:
            if isinstance(layer, nn.MaxPool2d):
                layer.ceil_mode = True
        if head == "imagenet":
            whole = VGG(features, num_classes)
            self.features, self.avgpool, self.classifier = whole.features, whole.avgpool, whole.classifier
        else:
            self.features, self.avgpool = features, nn.AdaptiveAvgPool2d(1)
            self.classifier = nn.Sequential(nn.Linear(512, num_classes))
            self.apply(initialize)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[N, K]`` of images ``[N, C, H, W]``."""
        return self.classifier(self.avgpool(self.features(images)).flatten(1))


def initialize(layer: nn.Module) -> None:
    """What torchvision's VGG starts with."""
    if isinstance(layer, nn.Conv2d):
        nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(layer, nn.Linear):
        nn.init.normal_(layer.weight, 0, 0.01)
    if isinstance(layer, nn.Conv2d | nn.Linear) and layer.bias is not None:
        nn.init.zeros_(layer.bias)
