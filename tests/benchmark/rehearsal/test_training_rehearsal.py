"""A user's own model and defense in ``leakboard train``: what cannot be trained right is told before any work."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmark.cli.main import main

pytestmark = pytest.mark.usefixtures("nothing_of_the_developers")

MINE = """
import sys
import numpy, torch
from torch import nn
from defenses import Defense, KnownDefense

class Base(nn.Module):
    def __init__(self, image_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Tanh())
        self.head = nn.Linear(8, num_classes)
    def forward(self, x):
        return self.head(self.body(x))
    def draw(self, generator):
        return {n: torch.rand(p.shape, generator=generator) - 0.5 for n, p in self.named_parameters()}

class Serving(Base):
    def forward(self, x):
        if self.training:
            raise RuntimeError("for serving only")  # line 20
        return super().forward(x)

class Auxiliary(Base):
    def forward(self, x):
        return (super().forward(x), x) if self.training else super().forward(x)

class Exits(Base):
    def forward(self, x):
        sys.exit(0)

class Hooked(Base):
    def __init__(self, image_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__(image_shape, num_classes)
        self.head.weight.register_hook(lambda slope: 0 * slope)

class Noisy(Base):
    def forward(self, x):
        return super().forward(x + torch.from_numpy(numpy.random.randn(*x.shape)).float())

class AllFrozen(Base):
    def __init__(self, image_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__(image_shape, num_classes)
        self.requires_grad_(False)

class Forgets(Base):
    def draw(self, generator):
        return {n: v for n, v in super().draw(generator).items() if "head" not in n}

class Cut(Defense):
    def protect(self, update, generators):  # line 50
        return {n: v[..., :1] for n, v in update.items()}
    def known_to_attacker(self):
        return KnownDefense()

class Late(Cut):
    def protect(self, update, generators):
        if len(generators) == 4:
            raise ValueError("four are too many")  # line 58
        return update

class WithoutDraw(nn.Module):
    def __init__(self, image_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))
    def forward(self, x):
        return self.body(x)

def factory(image_shape: tuple[int, int, int], num_classes: int):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))
"""

SCENARIO: dict[str, Any] = {"data": "Digits", "model": "MLP", "clients": 4, "rounds": 2, "batch_size": 8}
SCENARIO |= {"learning_rate": 0.1, "train_images": 60, "test_images": 20}

Train = Callable[..., tuple[int, str, str]]


@pytest.fixture
def train(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Train:
    """Trains a suite with classes of mine.py: exit code, output, errors."""
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.delitem(__import__("sys").modules, "mine", raising=False)

    def run(defenses: list[Any], *words: str, **changed: Any) -> tuple[int, str, str]:
        given = {"seeds": [0], "scenarios": [SCENARIO | changed], "defenses": defenses}
        (tmp_path / "suite.yaml").write_text(yaml.safe_dump(given))
        with pytest.raises(SystemExit) as stopped:
            main(["train", "suite.yaml", *words])
        said = capsys.readouterr()
        assert isinstance(stopped.value.code, int)
        return stopped.value.code, said.out, said.err

    return run


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ("Serving", "mine.Serving cannot be trained on Digits (RuntimeError: for serving only, mine.py, line 20)"),
        ("Auxiliary", "mine.Auxiliary cannot be trained on Digits ("),
        ("Exits", "mine.Exits does not take the 1 x 8 x 8 images of Digits (it calls sys.exit(0), mine.py, line 29)"),
        ("Hooked", "the gradients of mine.Hooked differ from those of a plain training step: hooks on parameters"),
        ("Noisy", "the gradients of mine.Noisy differ from one call to the next: draw random numbers with torch"),
        ("AllFrozen", "mine.AllFrozen has no parameter that requires a gradient: nothing can be trained"),
        ("Forgets", "draw of the model Forgets gives no weights for head.weight, head.bias: it must return one tensor"),
    ],
)
def test_a_model_that_cannot_be_trained_is_told(train: Train, tmp_path: Path, model: str, sentence: str) -> None:
    code, out, error = train([], model=f"mine.{model}")
    assert code == 2 and out == "" and error.startswith("leakboard: ") and error.count("\n") == 1
    assert sentence in error
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("model", ["WithoutDraw", "factory"])
def test_a_model_without_draw_and_one_from_a_function_are_trained(train: Train, tmp_path: Path, model: str) -> None:
    """They start with torch's own weights, which the seed decides."""
    for folder in ("one", "two"):
        assert train(["Clipping"], "--out", folder, model=f"mine.{model}")[0] == 0
    one, two = (sorted((tmp_path / folder / "training").glob("*.json")) for folder in ("one", "two"))
    assert len(one) == 2 and [path.name for path in one] == [path.name for path in two]
    ended = [[json.loads(path.read_text())["loss"] for path in paths] for paths in (one, two)]
    assert ended[0] == ended[1]


def test_a_batch_that_is_too_small_is_told_with_its_client(train: Train) -> None:
    assert (
        "seed 0: batch_size is 1, but mine.Base cannot be trained on" in train([], model="mine.Base", batch_size=1)[2]
    )
    code, _, error = train([], model="mine.Base", clients=54)
    assert code == 2 and "Digits, seed 0: client 0 has one image, and mine.Base cannot be trained on a batch" in error
    assert train([], model="mine.Base", clients=27, algorithm="FedAvg", batch_size=2)[0] == 0
    assert train([], "--out", "other", model="MLP", clients=54)[0] == 0


def test_a_defense_that_breaks_its_contract_is_told(train: Train, tmp_path: Path) -> None:
    code, out, error = train(["mine.Cut"])
    assert code == 2 and out == "" and not (tmp_path / "runs").exists()
    assert error == (
        "leakboard: mine.Cut: protect returns the shape [2, 128, 1] for 1.weight, not [2, 128, 64] (mine.py, line 50)\n"
    )


@pytest.mark.parametrize("workers", [(), ("--workers", "2")])
def test_what_a_defense_raises_in_the_middle_is_told(
    train: Train, workers: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    from contextlib import contextmanager
    from functools import partial

    @contextmanager
    def launch(started: list[Any]) -> Any:
        yield [partial(worker, 0) for worker in started]

    monkeypatch.setattr("benchmark.jobs.executors.local.launch", launch)
    code, _, error = train(["mine.Late"], *workers)
    assert code == 2 and "Late: protect fails (ValueError: four are too many, mine.py, line 58)" in error
