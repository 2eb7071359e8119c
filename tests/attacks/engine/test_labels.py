"""The sign rule of iDLG."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attacks.engine.labels import idlg_labels, likeliest_labels, lowest_row
from benchmark.models import MLP, ConvNet, LeNet
from benchmark.models.draw import Model
from defenses import Clipping, Defense, KnownDefense, Masking, Pruning, Update

MakeVictims = Callable[..., Any]


def test_the_rule_finds_the_label_of_a_gradient_worked_by_hand() -> None:
    """Row i is (softmax_i - 1[i = label]) times the layer's input."""
    softmax = torch.tensor([[0.7, 0.2, 0.1], [0.7, 0.2, 0.1], [0.01, 0.01, 0.98]])
    labels = torch.tensor([0, 1, 2])
    inputs = torch.tensor([[0.5, 0.0, 2.0], [0.1, 0.2, 0.3], [1.0, 0.0, 0.0]])
    weight = (softmax - torch.eye(3)[labels])[:, :, None] * inputs[:, None, :]
    assert weight[0, 0].tolist() == pytest.approx([-0.15, 0.0, -0.6])
    assert lowest_row(weight).tolist() == [0, 1, 2]
    assert lowest_row(softmax - torch.eye(3)[labels]).tolist() == [0, 1, 2]  # of the bias


@pytest.mark.parametrize("model", [LeNet, MLP, ConvNet])
def test_every_digit_is_labeled(model: type[Model], victims_of: MakeVictims) -> None:
    _, labels, observation = victims_of(64, model=model)
    assert torch.equal(idlg_labels(observation), labels[:, 0])


@pytest.mark.parametrize("defense", [Clipping(0.1), Pruning(0.9), Masking(0.9), Masking(0.9, rescale=True)])
def test_no_defense_that_keeps_the_signs_hides_a_label(defense: Defense, victims_of: MakeVictims) -> None:
    """Masking leaves nothing of the label's row with a chance of 0.9^48, once in 157 victims."""
    _, labels, observation = victims_of(64, defense=defense)
    assert torch.equal(idlg_labels(observation), labels[:, 0])


class Ordered(nn.Module):
    """A network whose layers are registered in an order of our own, behind a layer with as many rows as classes."""

    def __init__(self, first: str, activation: nn.Module, hidden: int = 12, bias: bool = True) -> None:
        super().__init__()
        body = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Sigmoid(), nn.Linear(10, hidden), activation)
        for name, layer in sorted(
            {"head": nn.Linear(hidden, 10, bias=bias), "body": body}.items(), key=lambda item: item[0] != first
        ):
            self.add_module(name, layer)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images))


class Pooled(nn.Module):
    """The last layer is a 1x1 convolution, and its pixels are averaged."""

    def __init__(self) -> None:
        super().__init__()
        self.last, self.first = nn.Conv2d(6, 10, 1), nn.Conv2d(1, 6, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.last(self.first(images).sigmoid()).mean((2, 3))


class Transposed(nn.Module):
    """The last layer's weight has a column for each class: no parameter has a row for each."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.weight = nn.Linear(64, 12), nn.Parameter(torch.randn(12, 10))

    def forward(self, images: Tensor) -> Tensor:
        return self.body(images.flatten(1)).sigmoid() @ self.weight


def labeled(network: nn.Module, victims_of: MakeVictims) -> float:
    """The share of digits that are labeled right from plain gradients of the network."""
    images, labels, seen = victims_of(20)
    weights = {name: p.detach().expand(20, *p.shape).clone() for name, p in network.named_parameters()}
    updates: list[list[Tensor]] = []
    for image, label in zip(images, labels, strict=True):
        loss = nn.functional.cross_entropy(network(image), label)
        updates.append(list(torch.autograd.grad(loss, list(network.parameters()))))
    names = list(weights)
    update = {name: torch.stack(of) for name, of in zip(names, zip(*updates, strict=True), strict=True)}
    seen = replace(seen, model=network, parameters=weights, update=update)
    return float((idlg_labels(seen) == labels[:, 0]).double().mean())


@pytest.mark.parametrize("first", ["head", "body"])
@pytest.mark.parametrize("activation", [nn.Sigmoid(), nn.ReLU(), nn.Tanh(), nn.Identity()])
@pytest.mark.parametrize("hidden", [10, 12])
def test_the_last_layer_is_the_one_that_makes_the_logits(
    first: str, activation: nn.Module, hidden: int, victims_of: MakeVictims
) -> None:
    torch.manual_seed(0)
    assert labeled(Ordered(first, activation, hidden), victims_of) == 1


def test_a_convolution_can_be_the_last_layer(victims_of: MakeVictims) -> None:
    torch.manual_seed(0)
    assert labeled(Pooled(), victims_of) == 1


@pytest.mark.parametrize("activation", [nn.SiLU(), nn.GELU(), nn.LeakyReLU(0.5), nn.LayerNorm(12)])
@pytest.mark.parametrize("bias", [True, False])
def test_labels_are_found_behind_features_of_any_sign(
    activation: nn.Module, bias: bool, victims_of: MakeVictims
) -> None:
    """By the bias, where there is one; else by the gradient at the mean image, which is right most of the time."""
    torch.manual_seed(0)
    assert labeled(Ordered("body", activation, bias=bias), victims_of) >= (1 if bias else 0.75)


class Negated(Defense):
    """Shares what is the opposite of the gradient, which anybody can turn back."""

    def protect(self, update: Update, generators: Any) -> Update:
        return {name: -value for name, value in update.items()}

    def known_to_attacker(self) -> KnownDefense:
        return KnownDefense(simulate=lambda dummy, observed: {name: -value for name, value in dummy.items()})


class WithoutHead(Defense):
    """Shares zeros for the last layer."""

    def protect(self, update: Update, generators: Any) -> Update:
        return {name: value * (not name.startswith("7.")) for name, value in update.items()}

    def known_to_attacker(self) -> KnownDefense:
        return KnownDefense(simulate=lambda dummy, observed: self.protect(dummy, []))


@pytest.mark.parametrize("defense", [Negated(), WithoutHead()])
def test_a_label_is_told_through_the_defense_that_is_known(defense: Defense, victims_of: MakeVictims) -> None:
    _, labels, seen = victims_of(20, defense=defense, adaptive=True)
    assert float((idlg_labels(seen) == labels[:, 0]).double().mean()) >= 0.9


def test_a_network_without_rows_for_classes_is_labeled_by_its_gradient_at_the_mean_image(
    victims_of: MakeVictims,
) -> None:
    torch.manual_seed(0)
    assert labeled(Transposed(), victims_of) >= 0.9
    _, labels, seen = victims_of(20)
    assert float((likeliest_labels(seen) == labels[:, 0]).double().mean()) >= 0.9
