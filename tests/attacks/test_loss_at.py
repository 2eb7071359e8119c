"""The loss that an attack lowers, at the private images."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from attacks import (
    CPL,
    DLG,
    DLGFB,
    SAPAG,
    Attack,
    Bayes,
    FedAvgInversion,
    GaussNewton,
    GradInversion,
    InvertingGradients,
    Peeling,
    SurrogateModel,
)
from attacks.gradient_matching import GradientMatching
from benchmark.metrics.misfit import AT_ONCE, loss_of_truth
from benchmark.models import LeNet
from benchmark.seeds import generators
from defenses import GaussianNoise, Masking, MixUp
from tests.attacks.conftest import See

MakeVictims = Callable[..., Any]

ITERATIVE = [
    DLG(),
    DLG(total_variation=1e-3, start="mean", at_once=1),
    InvertingGradients(total_variation=0.1),
    CPL(label_weight=0.1),
    SAPAG(),
    Bayes(),
    GradInversion(batch_norm=0.0, trials=3),
]


@pytest.mark.parametrize("attack", ITERATIVE, ids=lambda attack: type(attack).__name__)
@pytest.mark.parametrize("defense", [None, GaussianNoise(0.02), Masking(0.5)], ids=lambda one: type(one).__name__)
def test_it_is_what_the_attack_has_when_it_starts_there(
    attack: GradientMatching, defense: Any, victims_of: MakeVictims
) -> None:
    images, labels, seen = victims_of(2, 1, LeNet, torch.float64, defense, adaptive=defense is not None)
    seen = replace(seen, labels=labels)
    at_start = replace(attack, max_evaluations=1, trials=1).reconstruct(seen, start_images=images.double()).loss
    torch.testing.assert_close(attack.loss_at(seen, images, labels), at_start, rtol=1e-9, atol=1e-18)


def test_at_the_private_images_only_the_prior_is_left(victims_of: MakeVictims) -> None:
    images, labels, seen = victims_of(AT_ONCE + 2, 1, LeNet, torch.float64)
    losses = loss_of_truth(DLG(), seen, images, labels)
    assert losses is not None and losses.max() < 1e-20
    rough = (images.diff(dim=-1).abs().mean((1, 2, 3, 4)) + images.diff(dim=-2).abs().mean((1, 2, 3, 4))).double()
    found = loss_of_truth(InvertingGradients(total_variation=0.3), seen, images, labels)
    torch.testing.assert_close(found, 0.3 * rough / seen.channel_stds.double(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("attack", [Peeling(), GaussNewton(), DLGFB()], ids=lambda attack: type(attack).__name__)
def test_an_attack_without_such_a_loss_has_none(attack: Attack, victims_of: MakeVictims) -> None:
    images, labels, seen = victims_of(1)
    assert loss_of_truth(attack, seen, images, labels) is None


def test_where_the_order_of_local_steps_is_hidden_nobody_knows_it(see: See) -> None:
    unknown, known = see(labels="known"), see(labels="known", order="known")
    images, labels = torch.rand(2, 4, 1, 8, 8), torch.zeros(2, 4, dtype=torch.long)
    for attack in (InvertingGradients(), FedAvgInversion(), SurrogateModel()):
        assert attack.loss_at(unknown, images, labels) is None
    assert InvertingGradients().loss_at(known, images, labels) is not None
    assert SurrogateModel().loss_at(known, images, labels) is None


def test_where_labels_are_mixed_it_takes_class_probabilities(victims_of: MakeVictims) -> None:
    images, labels, seen = victims_of(2, 3, LeNet, torch.float64, MixUp(1.0), adaptive=True)
    one_hot = torch.nn.functional.one_hot(labels, seen.num_classes).double()
    mixed, soft = MixUp(1.0).on_batch(images.double(), one_hot, generators(0, range(2), "on_batch"))
    assert DLG().loss_at(seen, mixed, soft).max() < 1e-20 < DLG().loss_at(seen, images, labels).min()
    torch.testing.assert_close(DLG().loss_at(seen, mixed, one_hot), DLG().loss_at(seen, mixed, labels))
    found = DLG(max_evaluations=3).reconstruct(seen)
    torch.testing.assert_close(DLG().loss_at(seen, found.images, found.label_probabilities), found.loss)
