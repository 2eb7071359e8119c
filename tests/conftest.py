"""What the tests share: one thread, and victims made of scikit-learn's digits."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from attacks import Observation
from benchmark.client import observe
from benchmark.models import LeNet, Model
from datamodules import Digits
from defenses import Defense


class Victims(NamedTuple):
    """Private batches, and what is seen of them."""

    images: Tensor
    labels: Tensor
    observation: Observation


MakeVictims = Callable[..., Victims]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """For each test anew: a command that was called with more leaves them behind, and slows what comes after."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def digits() -> Digits:
    data = Digits()
    data.setup()
    return data


@pytest.fixture(scope="session")
def victims_of(digits: Digits) -> MakeVictims:
    """Victims of the digits: ``victims_of(count)`` and what differs from one image, a LeNet and no defense."""

    def make(
        count: int,
        batch_size: int = 1,
        model: type[Model] = LeNet,
        dtype: torch.dtype = torch.float32,
        defense: Defense | None = None,
        adaptive: bool = False,
        first: int = 0,
    ) -> Victims:
        images, labels = digits.victims(count, batch_size, first)
        network = model(digits.image_shape, digits.num_classes).to(dtype)
        public = digits.mean_image(), digits.class_means(), digits.mean_step()
        numbers = range(first, first + count)
        seen = observe(network, images, labels, digits.num_classes, defense, adaptive, *public, 0, numbers)
        return Victims(images, labels, seen)

    return make


@pytest.fixture
def nothing_of_the_developers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder to be in, without data or weights; own modules in it are found and forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    monkeypatch.delenv("LEAKBOARD_DATA", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
