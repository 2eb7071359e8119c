"""Every attack tells while it works how much of the work is done."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

import attacks
from attacks import Attack, SurrogateModel
from attacks.update import FedAvg, Protocol
from benchmark.models import MLP, LeNet
from tests.attacks.test_isolation import IN_TURN, OF_FIRST_LAYER, ON_PUBLIC_IMAGES

MakeVictims = Callable[..., Any]


def told_by(attack: Attack, seen: attacks.Observation) -> tuple[list[float], attacks.Reconstruction]:
    shares: list[float] = []
    attack.told = shares.append
    found = attack.reconstruct(seen)
    assert shares == sorted(shares) and all(0 < share <= 1 for share in shares)
    return shares, found


@pytest.mark.parametrize(("name", "arguments"), IN_TURN)
def test_each_attack_of_several_evaluations_tells_several_times(
    name: str, arguments: dict[str, Any], victims_of: MakeVictims
) -> None:
    model = partial(MLP, activation="relu") if name in OF_FIRST_LAYER else LeNet
    public = {"shared": True, "public_images": 20} if name in ON_PUBLIC_IMAGES else {}
    shares, found = told_by(getattr(attacks, name)(**arguments), victims_of(4, model=model, **public).observation)
    if name in ON_PUBLIC_IMAGES:
        assert shares == [step / arguments["training_steps"] for step in range(1, arguments["training_steps"] + 1)]
    if int(found.evaluations.max()) >= 4:
        assert len(set(shares)) >= 4 and shares[0] <= 0.5 and shares[-1] == pytest.approx(1)


def test_trials_of_surrogate_weights_are_told_of(victims_of: MakeVictims) -> None:
    seen = replace(victims_of(2).observation, protocol=Protocol(FedAvg(0.1, epochs=2)))
    shares, found = told_by(SurrogateModel(max_evaluations=30), seen)
    assert found.evaluations.tolist() == [30, 30]
    assert [round(30 * share) for share in shares] == list(range(1, 31))


@pytest.mark.parametrize("name", ["RGAP", "Peeling"])
def test_closed_forms_tell_of_layers_and_of_victims(name: str, victims_of: MakeVictims) -> None:
    model = partial(MLP, activation="relu") if name in OF_FIRST_LAYER else LeNet
    assert told_by(getattr(attacks, name)(), victims_of(4, model=model).observation)[0]
