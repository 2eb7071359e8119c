"""Own classes whose results depend on a number, which each reads in another way."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmark.suite.registry import arguments, spec
from benchmark.versions.behavior import Behaviors
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


@pytest.fixture
def own_modules_forgotten(nothing_of_the_developers: None) -> Iterator[None]:
    """An empty folder; own modules in it are forgotten."""
    yield
    forget()


def forget() -> None:
    """As in a new process."""
    for name in [name for name in sys.modules if name.startswith("bh_")]:
        del sys.modules[name]
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
    specs = {kind: spec(kind, name, {}) for kind, name in given.items()}
    return Behaviors().of(Digits(), specs, 1 if "attack" in parts else 2, train)


def mine(reader: str) -> None:
    Path("bh_mine.py").write_text(IMPORTS + READERS[reader] + CLASSES)
