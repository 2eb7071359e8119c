"""Recipes of trained networks, as a suite gives them."""

import math
from typing import Any

import pytest

from benchmark.errors import UsageError
from benchmark.federation.state import TrainingState

recipe = TrainingState.from_dict


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (None, r"state must be a recipe, as in {epochs: 1} or {rounds: 20}, not None"),
        ("random", r"state must be a recipe, .*, not a str"),
        ([{"epochs": 1}], r"state must be a recipe, .*, not a list"),
        ({}, r"state: give either epochs, of central training, or rounds"),
        ({"learning_rate": 0.1}, r"state: give either epochs"),
        ({"epochs": 1, "rounds": 1}, r"state: give either epochs"),
        ({"epochs": 0}, r"state: epochs must be a whole number from 1 to 1,000,000,000, not 0"),
        ({"epochs": -1}, r"state: epochs must be a whole number"),
        ({"epochs": True}, r"state: epochs must be a whole number .*, not true"),
        ({"epochs": 1.0}, r"state: epochs must be a whole number .*, not 1.0"),
        ({"epochs": "1"}, r"state: epochs must be a whole number .*, not '1'"),
        ({"epochs": 10**30}, r"state: epochs must be a whole number"),
        ({"epochs": [1, 2]}, r"state: epochs must be a whole number"),
        ({"epoch": 1}, r"unknown key of a state 'epoch': did you mean epochs"),
        ({1: 2}, r"unknown key of a state '1'"),
        ({"epochs": 1, "learning_rate": 0}, r"state: learning_rate must be a finite number above 0, not 0"),
        ({"epochs": 1, "learning_rate": math.nan}, r"state: learning_rate must be a finite number"),
        ({"epochs": 1, "learning_rate": math.inf}, r"state: learning_rate must be a finite number"),
        ({"epochs": 1, "learning_rate": 10**400}, r"state: learning_rate must be a finite number"),
        ({"epochs": 1, "learning_rate": None}, r"state: learning_rate must be a finite number .*, not null"),
        ({"epochs": 1, "momentum": 1}, r"state: momentum must be a number of at least 0 and below 1, not 1"),
        ({"epochs": 1, "weight_decay": -0.1}, r"state: weight_decay must be a number from 0 to 1"),
        ({"epochs": 1, "batch_size": 0}, r"state: batch_size must be a whole number"),
        ({"epochs": 1, "train_images": 0}, r"state: train_images must be a whole number"),
        ({"epochs": 1, "clients": 4}, r"state: clients is for rounds: leave it out"),
        ({"epochs": 1, "algorithm": "FedSGD"}, r"state: algorithm is for rounds"),
        ({"rounds": 1, "weight_decay": 0.1}, r"state: weight_decay is for epochs"),
        ({"rounds": 1, "algorithm": "fedavg"}, r"state: algorithm must be FedAvg or FedSGD, not 'fedavg'"),
        ({"rounds": 1, "clients_per_round": 11}, r"state: clients_per_round is 11, but there are 10 clients"),
        ({"rounds": 1, "dirichlet": 0}, r"state: dirichlet must be a number from 0.001"),
        ({"rounds": 1, "algorithm": "FedSGD", "local_epochs": 2}, r"state: local_epochs is for FedAvg"),
    ],
)
def test_a_wrong_recipe_is_one_sentence(given: Any, said: str) -> None:
    with pytest.raises(UsageError, match=f"^{said}"):
        recipe(given)


def test_recipes_in_python_are_checked_too() -> None:
    with pytest.raises(ValueError, match="give either epochs"):
        TrainingState()
    assert TrainingState(epochs=1) == recipe({"epochs": 1}) != TrainingState(rounds=1)


@pytest.mark.parametrize(
    ("given", "label"),
    [
        ({"epochs": 1}, "after 1 epoch"),
        ({"epochs": 1, "learning_rate": 0.1}, "after 1 epoch"),
        ({"epochs": 12, "momentum": 0.9, "learning_rate": 1}, "after 12 epochs (learning_rate=1, momentum=0.9)"),
        ({"epochs": 1, "learning_rate": 0.12345678}, "after 1 epoch (learning_rate=0.12345678)"),
        ({"epochs": 1, "train_images": 12345678}, "after 1 epoch (train_images=12345678)"),
        ({"rounds": 1}, "after 1 round of FedAvg"),
        ({"rounds": 20, "algorithm": "FedSGD", "clients": 4}, "after 20 rounds of FedSGD (clients=4)"),
        (
            {"rounds": 20, "dirichlet": 0.5, "train_images": 100},
            "after 20 rounds of FedAvg (train_images=100, dirichlet=0.5)",
        ),
    ],
)
def test_a_recipe_is_told_by_what_is_not_usual(given: dict[str, Any], label: str) -> None:
    state = recipe(given)
    assert state.label == label
    assert recipe(state.config()) == state  # it says everything
    assert recipe(given | {"batch_size": 32}).config() == state.config()
    assert recipe(given | {"batch_size": 33}).config() != state.config()
