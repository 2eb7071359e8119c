"""The sign rule of iDLG."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from attacks.labels import idlg_labels, last_layer
from benchmark.models import MLP, ConvNet, LeNet, Model
from defenses import Clipping, Defense, Masking, Pruning

MakeVictims = Callable[..., Any]


def test_the_last_layer_is_the_last_weight_matrix_and_not_its_bias() -> None:
    update = {
        "0.weight": torch.zeros(2, 12, 1, 5, 5),
        "1.weight": torch.zeros(2, 7, 6),
        "2.weight": torch.ones(2, 3, 7),
        "2.bias": torch.zeros(2, 3),
    }
    assert last_layer(update) is update["2.weight"]


def test_the_rule_finds_the_label_of_a_gradient_worked_by_hand() -> None:
    """Row i is (softmax_i - 1[i = label]) times the layer's input."""
    softmax = torch.tensor([[0.7, 0.2, 0.1], [0.7, 0.2, 0.1], [0.01, 0.01, 0.98]])
    labels = torch.tensor([0, 1, 2])
    inputs = torch.tensor([[0.5, 0.0, 2.0], [0.1, 0.2, 0.3], [1.0, 0.0, 0.0]])
    weight = (softmax - torch.eye(3)[labels])[:, :, None] * inputs[:, None, :]
    assert weight[0, 0].tolist() == pytest.approx([-0.15, 0.0, -0.6])
    assert idlg_labels({"weight": weight, "bias": torch.zeros(3, 3)}).tolist() == [0, 1, 2]


@pytest.mark.parametrize("model", [LeNet, MLP, ConvNet])
def test_every_digit_is_labelled(model: type[Model], victims_of: MakeVictims) -> None:
    _, labels, observation = victims_of(64, model=model)
    assert torch.equal(idlg_labels(observation.update), labels[:, 0])


@pytest.mark.parametrize("defense", [Clipping(0.1), Pruning(0.9), Masking(0.9), Masking(0.9, rescale=True)])
def test_no_defense_that_keeps_the_signs_hides_a_label(defense: Defense, victims_of: MakeVictims) -> None:
    """Masking leaves nothing of the label's row with a chance of 0.9^48, once in 157 victims."""
    _, labels, observation = victims_of(64, defense=defense)
    assert torch.equal(idlg_labels(observation.update), labels[:, 0])
