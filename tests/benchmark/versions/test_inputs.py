"""A number counts that an own class reads, however it does so and wherever it keeps it."""

import importlib
import json
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.benchmark.versions.conftest import IMPORTS, does, forget

pytestmark = pytest.mark.usefixtures("own_modules_forgotten")

BUDGETS = """
import functools
import pickle

import numpy as np

CONFIG = "budget"


def of_json(name=CONFIG):
    return json.loads((HERE / f"bh_{name}.json").read_text())["number"]


def of_yaml(name=CONFIG):
    import yaml
    return yaml.safe_load(open(str(HERE) + "/bh_%s.yaml" % name))["number"]


def of_pickle(name=CONFIG):
    with open(HERE / ("bh_" + name + ".pkl"), "rb") as file:
        return pickle.load(file)["number"]


def of_npz(name=CONFIG):
    return int(np.load(f"bh_{name}.npz")["number"])


def of_descriptor(name=CONFIG):
    file = os.open(f"bh_{name}.txt", os.O_RDONLY)
    try:
        return int(os.read(file, 100))
    finally:
        os.close(file)


def of_code(name=CONFIG):
    said = {}
    exec(open(f"bh_{name}_code.py").read(), said)
    return said["number"]


def of_module(name=CONFIG):
    return getattr(importlib.import_module(f"bh_{name}_code"), "number")


def of_loader(name=CONFIG):
    spec = importlib.util.spec_from_file_location("anything", HERE / f"bh_{name}_code.py")
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made.number


def of_environment(name=CONFIG):
    return int(os.getenv(f"BH_{name.upper()}", "0"))


@functools.lru_cache
def of_cache(name=CONFIG):
    return of_json(name)


class Nested:
    def __init__(self, number):
        self.deep = {"list": [(number,)]}


class Held:
    NUMBER = NUMBER_OF()


GLOBAL = NUMBER_OF()


class InInit(IDLG):
    def __init__(self, max_evaluations: int = 20) -> None:
        super().__init__(max_evaluations=max_evaluations, restarts=NUMBER_OF())


class Lazily(IDLG):
    # of the full budget alone
    def reconstruct(self, observation, callbacks=()):
        patience = NUMBER_OF()
        return super().reconstruct(observation, callbacks)


class OfClass(IDLG):
    patience_of_mine = NUMBER_OF()


class OfGlobal(IDLG):
    def reconstruct(self, observation, callbacks=()):
        self.later = GLOBAL + Held.NUMBER
        return super().reconstruct(observation, callbacks)


class OfNested(IDLG):
    def __init__(self) -> None:
        super().__init__(max_evaluations=20)
        self.nested = Nested(NUMBER_OF())


class Bound(Defense):
    # which bites nowhere near the sizes that are tried
    def __init__(self) -> None:
        self.most = 1e9 * NUMBER_OF()

    def protect(self, update, generators):
        return {n: v.clamp(-self.most, self.most) for n, v in update.items()}

    def known_to_attacker(self):
        return KnownDefense()


class LazyBound(Bound):
    def __init__(self) -> None:
        pass

    @property
    def most(self):
        return 1e9 * NUMBER_OF()


class Net(LeNet):
    def __init__(self, image_shape, num_classes) -> None:
        super().__init__(image_shape, num_classes)
        self.most = 1e9 * NUMBER_OF()

    def forward(self, images):
        return super().forward(images.clamp(-self.most, self.most))
"""
WAYS = ("json", "yaml", "pickle", "npz", "descriptor", "code", "module", "loader", "environment", "cache")
PLACES = {
    "attack": ("InInit", "Lazily", "OfClass", "OfGlobal", "OfNested"),
    "defense": ("Bound", "LazyBound"),
    "model": ("Net",),
}


def budgets(way: str) -> None:
    Path("bh_mine.py").write_text(IMPORTS + "\nimport importlib.util\n" + BUDGETS.replace("NUMBER_OF", f"of_{way}"))


def budget(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number in all ways."""
    Path("bh_budget.json").write_text(json.dumps({"number": number}))
    Path("bh_budget.yaml").write_text(f"number: {number}")
    Path("bh_budget.pkl").write_bytes(pickle.dumps({"number": number}))
    np.savez("bh_budget.npz", number=number)
    Path("bh_budget.txt").write_text(str(number))
    Path("bh_budget_code.py").write_text(f"number = {number}  # of restarts\n")
    monkeypatch.setenv("BH_BUDGET", str(number))
    forget()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", PLACES)
def test_a_number_counts_that_no_short_try_shows(way: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However it is read, and wherever it is kept: each way with one place for each kind, each place with some way."""
    budgets(way)
    place = PLACES[kind][WAYS.index(way) % len(PLACES[kind])]
    found = []
    for number in (3, 30, 3):
        budget(number, monkeypatch)
        found.append(does(**{kind: place}))
    assert found[0] == found[2] != found[1], place


def test_of_a_module_with_a_computed_name_a_comment_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for way, counts in (("module", False), ("loader", False), ("code", True)):
        budgets(way)
        budget(3, monkeypatch)
        before = does(defense="LazyBound")
        Path("bh_budget_code.py").write_text("# another comment\nnumber = 3\n")
        forget()
        assert (does(defense="LazyBound") != before) == counts, way


def test_a_module_that_can_be_imported_only_once_is_seen_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    once = "import sys\nif hasattr(sys, 'bh_once'):\n    raise ImportError('again')\nsys.bh_once = True\n"
    found = []
    for number in (3, 30, 3):
        budgets("json")
        Path("bh_mine.py").write_text(once + Path("bh_mine.py").read_text())
        budget(number, monkeypatch)
        monkeypatch.delattr(sys, "bh_once", raising=False)
        importlib.import_module("bh_mine")
        found.append(does(attack="InInit"))
    assert found[0] == found[2] != found[1]
    monkeypatch.delattr(sys, "bh_once")
