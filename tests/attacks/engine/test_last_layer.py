"""Which layer makes the logits, and what comes into it."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attacks.engine.label_rules import label_logits
from attacks.engine.last_layer import last_layer, lost_heads
from benchmark.federation.client import PublicData, observe
from benchmark.federation.setting import Setting
from benchmark.models import ConvNet, LeNet
from benchmark.models.draw import Model
from defenses import Clipping, Defense, GaussianNoise
from tests.attacks.engine.conftest import SHAPE, Headed, Tempered, hits

BIASED = nn.Linear(12, 10)


@pytest.mark.parametrize(
    ("network", "non_negative"),
    [
        (Headed(nn.ReLU(), BIASED), True),
        (Headed(nn.Sigmoid(), nn.Linear(12, 10, bias=False)), True),
        (Headed(nn.Tanh(), BIASED), False),
        (Headed(nn.SiLU(), BIASED), False),
        (Headed(nn.LeakyReLU(0.01), BIASED), False),
        (LeNet(SHAPE, 10), True),
        (ConvNet(SHAPE, 10), True),
    ],
)
def test_the_last_layer_and_what_comes_into_it_are_seen_on_the_network(network: nn.Module, non_negative: bool) -> None:
    found = last_layer(network, SHAPE)
    assert found is not None and found[1] == non_negative
    assert isinstance(network.get_submodule(found[0]), nn.Linear)
    assert len(network.get_submodule(found[0]).weight) == 10


def test_a_layer_that_does_not_make_the_logits_is_no_last_layer() -> None:
    frozen = Headed(nn.ReLU(), nn.Linear(12, 10))
    frozen[3].weight.requires_grad_(False)
    for network in (Tempered(), frozen, nn.Sequential(nn.Conv2d(1, 10, 8), nn.Flatten())):
        assert last_layer(network, SHAPE) is None


@pytest.mark.parametrize("defense", [None, Clipping(1e9), GaussianNoise(1e-4)])
def test_a_last_layer_that_nobody_finds_is_not_lost(defense: Defense | None, digits: Any) -> None:
    """Its weight has a column for each class, where others have a row."""

    class Columns(Model):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(64, 40), nn.Parameter(torch.randn(40, 10) / 7)

        def forward(self, images: Tensor) -> Tensor:
            return self.first(images.flatten(1)).relu() @ self.last

    torch.manual_seed(0)
    images, labels = digits.victims(20, 4)
    seen = observe(Columns(), images, labels, PublicData.of(digits, 1), defense, True, 0, range(20), Setting())
    assert not lost_heads(seen).any()
    generators = [torch.Generator().manual_seed(victim) for victim in range(20)]
    logits, optimized = label_logits("best", seen, generators)
    assert not optimized and hits(logits.argmax(-1), labels) > 0.95
