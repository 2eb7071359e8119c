"""A client that is observed in several rounds: every gradient-matching attack takes them all."""

from typing import Any

import pytest
from torch import Tensor

from attacks.gradient_matching import GradientMatching
from attacks.update import FedAvg
from benchmark.federation.client import PublicData, observe
from benchmark.federation.setting import Setting
from benchmark.models import MLP
from benchmark.suite.registry import classes
from datamodules import Digits
from defenses import Masking

MATCHING = {name: one for name, one in classes("attack").items() if issubclass(one, GradientMatching)}

SHORT: dict[str, dict[str, Any]] = {
    "GradInversion": {"batch_norm": 0.0, "trials": 2},
    "SurrogateModel": {"position": 0.5},
}
"""What an attack is given beside a small budget."""

OF_LOCAL_STEPS = ("FedAvgInversion", "SurrogateModel")

BUDGET = 30


def error(attack: type[GradientMatching], name: str, digits: Digits, rounds: int) -> Tensor:
    """Squared error of what is found of each of three clients, whose mask is known and anew in each round."""
    images, labels = digits.victims(3, 1)
    network = MLP(digits.image_shape, digits.num_classes, hidden=24, activation="sigmoid").double()
    local = FedAvg(0.1, epochs=2) if name in OF_LOCAL_STEPS else None
    setting = Setting(rounds=rounds, labels="known", local=local)
    public = PublicData.of(digits, rounds)
    seen = observe(network, images, labels, public, Masking(0.9), True, 0, range(3), setting)
    found = attack(max_evaluations=BUDGET, **SHORT.get(name, {})).reconstruct(seen)
    return (found.images.clamp(0, 1) - images).square().mean((1, 2, 3, 4))


@pytest.mark.parametrize("name", MATCHING)
def test_five_rounds_behind_a_mask_tell_more_than_one(name: str, digits: Digits) -> None:
    one, five = (error(MATCHING[name], name, digits, rounds).mean() for rounds in (1, 5))
    assert five < one, (five, one)


@pytest.mark.parametrize("labels", ["known", "hidden"])
@pytest.mark.parametrize("name", [name for name, one in MATCHING.items() if not one.one_image_only])
def test_two_images_of_one_class_are_not_taken_for_one(name: str, labels: str, digits: Digits) -> None:
    """From one start they would have one gradient, and stay the same."""
    images, classes_of = digits.victims(2, 2, same_class=2)
    network = MLP(digits.image_shape, digits.num_classes, hidden=24, activation="sigmoid").double()
    local = FedAvg(0.1, epochs=2) if name in OF_LOCAL_STEPS else None
    setting = Setting(labels=labels, local=local)
    seen = observe(network, images, classes_of, PublicData.of(digits), None, False, 0, range(2), setting)
    for start in ({}, {"start": "mean"}, {"start": "constant"}, {"start": "class_mean"}):
        given = SHORT.get(name, {}) | ({"trials": 1} | start if start and MATCHING[name]().trials > 1 else start)
        found = MATCHING[name](max_evaluations=BUDGET, **given).reconstruct(seen)
        assert ((found.images[:, 0] - found.images[:, 1]).abs().amax((1, 2, 3)) > 0.02).all()
