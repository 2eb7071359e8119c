"""The rank analysis of R-GAP on random networks, and what it refuses."""

import pytest
import torch
from torch import nn

from attacks import DLG, IDLG, RGAP
from attacks.closed_form.chain import stages
from attacks.closed_form.equations import passed
from benchmark.models import CNN6, ConvNet

CIFAR = (3, 32, 32)


def test_what_is_at_each_output_is_what_autograd_finds_there() -> None:
    network = nn.Sequential(
        nn.Conv2d(2, 3, 3, bias=False), nn.LeakyReLU(0.3), nn.Conv2d(3, 4, 2), nn.ReLU(), nn.Flatten(), nn.Linear(36, 5)
    ).double()
    images = torch.rand(1, 2, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels = nn.functional.one_hot(torch.tensor([3]), 5).double()
    weights = {name: value.detach()[None] for name, value in network.named_parameters()}
    found = passed(stages(network, (2, 6, 6)), weights, images, labels)
    outputs = []
    x = images
    for layer in network:
        x = layer(x)
        if isinstance(layer, nn.Conv2d | nn.Linear):
            outputs.append(x)
    slopes = torch.autograd.grad(nn.functional.cross_entropy(x, torch.tensor([3])), outputs)
    for (slope, _), wanted in zip(found, slopes, strict=True):
        torch.testing.assert_close(slope.view_as(wanted), wanted)
    leaky, relu, last = (told for _, told in found)
    assert leaky.all() and torch.equal(relu, outputs[1] > 0) and not last.any()


def test_a_network_with_too_few_equations_is_refused_with_the_layer_and_the_numbers() -> None:
    """Of CNN6's first 12 x 17 x 17 outputs a ReLU lets about half through, and 16 x 12 weights see each channel."""
    network = CNN6(CIFAR, 10, activation="relu")
    for attack in (RGAP(), IDLG(start="rgap"), DLG(start="rgap")):
        with pytest.raises(ValueError, match=r"CNN6: its layer '0' has about [12],\d{3} equations for 3,072 unknowns"):
            attack.check(network, (1, *CIFAR))


@pytest.mark.parametrize(
    "network",
    [
        CNN6(CIFAR, 10),
        CNN6(CIFAR, 10, bias=True),
        CNN6(CIFAR, 10, activation="sigmoid"),
        CNN6((1, 8, 8), 10, activation="relu"),
        ConvNet(CIFAR, 10),  # tried, however few equations its ReLU leave
        CNN6(CIFAR, 10, activation="relu", bias=True),
    ],
    ids=["published", "biases", "sigmoid", "ReLU on digits", "ConvNet", "ReLU and biases"],
)
def test_a_network_with_enough_or_that_was_always_taken_is_not(network: CNN6 | ConvNet) -> None:
    first = next(layer for layer in network.modules() if isinstance(layer, nn.Conv2d))
    RGAP().check(network, (1, 1, 8, 8) if first.in_channels == 1 else (1, *CIFAR))


@pytest.mark.parametrize("slope", [-0.1, -1.0])
def test_a_leaky_relu_that_folds_cannot_be_inverted(slope: float) -> None:
    with pytest.raises(ValueError, match="chain"):
        stages(nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.LeakyReLU(slope), nn.Linear(3, 2)), (1, 2, 2))


def test_a_frozen_bias_is_not_shared_and_no_chain_is_found() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.LeakyReLU(), nn.Linear(3, 2))
    network[1].bias.requires_grad_(False)
    with pytest.raises(ValueError, match="chain"):
        stages(network, (1, 2, 2))
