"""What the tests of labels share: networks, and how many labels were found."""

from collections import Counter

import torch
from torch import Tensor, nn

from attacks import Observation
from attacks.update import Network, Protocol, local_update
from benchmark.models import MLP
from benchmark.models.draw import Model
from defenses import (
    DPSGD,
    QSGD,
    Clipping,
    Compose,
    CountSketch,
    GaussianNoise,
    Masking,
    Pruning,
    Sign,
    TruncatedSVD,
    ValueClipping,
)

SHAPE = (1, 8, 8)


class ReLUs(MLP):
    """The network of iLRG, smaller."""

    def __init__(self, image_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__(image_shape, num_classes, hidden=64, depth=2, activation="relu")


class Headed(nn.Sequential):
    """A network whose last layer is given."""

    def __init__(self, activation: nn.Module, last: nn.Module) -> None:
        super().__init__(nn.Flatten(), nn.Linear(64, 12), activation, last)


class Signed(Model):
    """A network whose features may be negative."""

    def __init__(self, image_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__()
        self.layers = Headed(nn.Tanh(), nn.Linear(12, num_classes))

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


class Tempered(nn.Module):
    """Its last layer does not make the logits alone."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.last(images.flatten(1)) / 2


def of_images(network: nn.Module, images: Tensor, labels: Tensor, protocol: Protocol = Protocol()) -> Observation:  # noqa: B008 # frozen
    """What is seen of victims that share a network."""
    weights = {name: value.detach() for name, value in network.named_parameters()}
    one_hot = nn.functional.one_hot(labels, 10).to(images)
    update = local_update(Network(network, weights), protocol, images, one_hot, create_graph=False)
    mean = torch.full(SHAPE, 0.5).to(images)
    public = mean, mean.expand(10, *SHAPE), 0.06, torch.ones(1)
    seeds = list(range(len(images)))
    return Observation(network, weights, update, (*images.shape[1:],), 10, seeds, None, *public, protocol)


def sorted_labels(labels: Tensor) -> Tensor:
    return labels.sort(1).values


def hits(found: Tensor, labels: Tensor) -> float:
    """The share of the labels ``[V, N]`` that were found, as often as each is there."""
    pairs = zip(found.tolist(), labels.tolist(), strict=True)
    return sum(sum((Counter(one) & Counter(other)).values()) for one, other in pairs) / labels.numel()


DEFENDED = [
    Clipping(0.01),
    ValueClipping(1e-3),
    DPSGD(0.01, 0.0),
    DPSGD(0.1, 0.1),
    Pruning(0.9),
    Masking(0.7),
    GaussianNoise(0.01),
    Sign(1.0),
    QSGD(2),
    Compose([Clipping(0.01), Masking(0.5)]),
    CountSketch(4.0),
    TruncatedSVD(0.5),
]
