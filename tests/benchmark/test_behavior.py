"""What an own class does is in the key of its records, whatever it depends on, and nothing else is."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmark.behavior import Behaviors
from benchmark.blocks import Workbench, plan
from benchmark.held import digest_of
from benchmark.registry import Spec
from benchmark.suite import parse
from benchmark.training import plan as training_plan
from benchmark.training import suite as training_suite
from datamodules import Digits

IMPORTS = """
import importlib
import json
import os
from pathlib import Path

import torch
from torch import nn

from attacks import IDLG, ConstantImage
from benchmark.models import LeNet
from defenses import Defense, KnownDefense

HERE = Path(__file__).parent
"""

READERS = {
    "a default argument": "def number(file='bh_number.txt'):\n    return float(open(file).read())\n",
    "a class attribute": (
        "class Held:\n    FILE = os.path.join(str(HERE), 'bh_' + 'number.txt')\n\n"
        "def number():\n    with open(Held.FILE) as file:\n        return float(file.read())\n"
    ),
    "an f-string": "def number(name='number'):\n    return float((HERE / f'bh_{name}.txt').read_text())\n",
    "a list of files": "def number():\n    return float(sorted(HERE.glob('bh_*.txt'))[0].read_text())\n",
    "a tensor beside it": "def number():\n    return torch.load(Path(__file__).parent / 'bh_number.pt').item()\n",
    "a computed module": "def number(which='module'):\n    return importlib.import_module(f'bh_{which}').NUMBER\n",
    "the environment": "def number():\n    return float(os.environ.get('BH_NUMBER', '1'))\n",
}

CLASSES = """

class D(Defense):
    def protect(self, update, generators):
        return {n: v * number() for n, v in update.items()}

    def known_to_attacker(self):
        return KnownDefense()


class HeadOnly(D):
    # what only the very network of the cell shows
    def protect(self, update, generators):
        return {n: v * number() if n == "7.bias" and v.shape[1:] == (10,) else v for n, v in update.items()}


class Told(D):
    # protect is the same, the attacker is told another thing
    def protect(self, update, generators):
        return {n: v + 0.1 * torch.stack([torch.randn(v.shape[1:], generator=g) for g in generators]).to(v)
                for n, v in update.items()}

    def known_to_attacker(self):
        return KnownDefense(noise_std=0.1 * number())


class A(IDLG):
    def reconstruct(self, observation, callbacks=()):
        found = super().reconstruct(observation, callbacks)
        found.images.mul_(number())
        return found


class Guess(ConstantImage):
    def reconstruct(self, observation, callbacks=()):
        found = super().reconstruct(observation, callbacks)
        return type(found)(found.images * number(), found.labels, found.loss, found.evaluations, found.status)


class M(LeNet):
    # another function of the same weights
    def forward(self, images):
        return super().forward(images * number())


class Float32Only(M):
    def forward(self, images):
        return super().forward((images.float() * torch.tensor(number()))).float()


class InTraining(LeNet):
    def forward(self, images):
        return super().forward(images * (number() if self.training else 1))
"""


@pytest.fixture(autouse=True)
def own_modules(nothing_of_the_developers: None) -> Iterator[None]:
    yield
    forget()


def forget() -> None:
    """As in a new process."""
    for name in [name for name in sys.modules if name.startswith("bh_")]:
        del sys.modules[name]
    from benchmark.registry import arguments

    arguments.cache_clear()


def written(number: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number that all classes read, in all places."""
    Path("bh_number.txt").write_text(str(number))
    Path("bh_module.py").write_text(f"NUMBER = {number}\n")
    torch.save(torch.tensor(number), "bh_number.pt")
    monkeypatch.setenv("BH_NUMBER", str(number))
    forget()


def does(train: bool = False, **parts: str) -> str:
    """The digest of some classes, of which those of the user's are given without their module."""
    given = {"model": "LeNet"} | {kind: f"bh_mine.{name}" for kind, name in parts.items()}
    specs = {kind: Spec(name) for kind, name in given.items()}
    return Behaviors().of(Digits(), specs, 1 if "attack" in parts else 2, train)


def mine(reader: str) -> None:
    Path("bh_mine.py").write_text(IMPORTS + READERS[reader] + CLASSES)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("part", ["defense=D", "attack=A", "model=M"])
def test_whatever_an_own_class_depends_on_is_seen(reader: str, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mine(reader)
    kind, name = part.split("=")
    found = []
    for number in (1.0, 0.5, 1.0):
        written(number, monkeypatch)
        found.append(does(**{kind: name}))
    assert found[0] == found[2] != found[1]


@pytest.mark.parametrize("part", ["defense=HeadOnly", "defense=Told", "attack=Guess", "model=Float32Only"])
def test_what_shows_in_one_place_alone_is_seen(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mine("the environment")
    kind, name = part.split("=")
    written(1.0, monkeypatch)
    before = does(**{kind: name})
    written(0.5, monkeypatch)
    assert before != does(**{kind: name}) != ""


def test_a_model_counts_as_it_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    mine("the environment")
    for train in (False, True):
        written(1.0, monkeypatch)
        before = does(train, model="InTraining")
        written(0.5, monkeypatch)
        assert (before != does(train, model="InTraining")) == train


def test_classes_that_come_with_leakboard_have_none() -> None:
    parts = {"model": Spec("LeNet"), "attack": Spec("IDLG"), "defense": Spec("Masking", {"ratio": 0.5})}
    assert Behaviors().of(Digits(), parts) == ""


def test_a_class_that_does_not_run_alone_has_a_digest_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    mine("the environment")
    with Path("bh_mine.py").open("a") as file:
        file.write(
            "\n\nclass Two(D):\n    def protect(self, update, generators):\n        assert len(generators) == 2\n"
        )
    written(1.0, monkeypatch)
    assert does(defense="Two") == does(defense="Two") != does(defense="D")


def test_an_attack_that_finds_something_else_each_time_keeps_its_records(monkeypatch: pytest.MonkeyPatch) -> None:
    mine("the environment")
    with Path("bh_mine.py").open("a") as file:
        file.write("\n\nimport numpy as np\n\n\ndef number():\n    return np.random.default_rng().random()\n")
    written(1.0, monkeypatch)
    assert does(attack="Guess") == does(attack="Guess")


def test_rounding_changes_no_digest() -> None:
    """Of 100,000 numbers of many sizes, and of a sum that is zero but for rounding."""
    source = torch.Generator().manual_seed(0)
    numbers = torch.randn(100_000, generator=source, dtype=torch.float64)
    numbers *= 10 ** (3 * torch.rand(100_000, generator=source, dtype=torch.float64))
    off = numbers * (1 + 1e-15 * torch.randn(100_000, generator=source, dtype=torch.float64))
    assert not torch.equal(numbers, off)
    cancelled = torch.tensor([1e-17, -3e-16, 0.0], dtype=torch.float64)
    one = digest_of([{"a": numbers, "b": cancelled}])
    assert one == digest_of([{"a": off, "b": cancelled.flip(0)}])
    assert one != digest_of([{"a": numbers * 1.001, "b": cancelled}])
    assert one != digest_of([{"a": -numbers, "b": cancelled}])
    odd = torch.tensor([float("nan"), float("inf"), -float("inf"), 1.0])
    assert len({digest_of([{"a": odd.roll(by)}]) for by in range(4)}) == 4


def test_a_number_of_threads_and_of_calls_changes_no_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    mine("the environment")
    written(0.5, monkeypatch)
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            torch.manual_seed(count)
            found.append([does(model="M"), does(attack="A"), does(defense="D")])
    finally:
        torch.set_num_threads(threads)
    assert found[0] == found[1]


def test_keys_hold_it_and_those_without_an_own_class_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    mine("an f-string")
    given = {
        "victims": 2,
        "scenarios": [{"data": "Digits", "model": "LeNet"}],
        "attacks": [{"class": "IDLG", "max_evaluations": 20}],
        "defenses": ["bh_mine.D"],
    }
    keys = []
    for number in (1.0, 0.5, 1.0):
        written(number, monkeypatch)
        blocks = plan(parse(given, "mine"), Workbench(torch.device("cpu")))
        keys.append({block.cell.label: block.key for block in blocks})
        assert all(bool(block.behavior) == ("bh_mine" in block.cell.label) for block in blocks)
    assert keys[0] == keys[2]
    assert {name for name in keys[0] if keys[0][name] != keys[1][name]} == {n for n in keys[0] if "bh_mine" in n}


def test_trainings_hold_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    mine("a class attribute")
    given = {
        "seeds": [0],
        "defenses": ["bh_mine.D"],
        "scenarios": [
            {"data": "Digits", "model": "LeNet", "algorithm": "FedSGD", "clients": 2, "rounds": 1, "learning_rate": 0.1}
            | {"train_images": 40, "test_images": 10}
        ],
    }
    keys = []
    for number in (1.0, 0.5):
        written(number, monkeypatch)
        suite = training_suite.parse(given, "mine")
        bench = training_plan.TrainingBench(torch.device("cpu"))
        keys.append({run.training.label: run.key for run in training_plan.plan(suite, bench)})
    changed = {name for name in keys[0] if keys[0][name] != keys[1][name]}
    assert changed == {name for name in keys[0] if "bh_mine" in name} != set(keys[0])
