"""What an object holds: each number, text and array, wherever it is, and no address."""

import collections
import decimal
import enum
import functools
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmark.versions.held import held


@dataclass
class Record:
    number: Any


class Slotted:
    __slots__ = ("number",)

    def __init__(self, number: Any) -> None:
        self.number = number


class Color(enum.Enum):
    RED = 1
    BLUE = 2


PLACES: dict[str, Callable[[int], Any]] = {
    "number": lambda n: n,
    "float": lambda n: n / 7,
    "bool": lambda n: n > 1,
    "none": lambda n: None if n > 1 else 0,
    "text": str,
    "bytes": lambda n: bytes([n]),
    "path": lambda n: Path(f"a{n}.txt"),
    "enum": lambda n: Color(n),
    "decimal": lambda n: decimal.Decimal(n),
    "list": lambda n: [1, [n]],
    "length": lambda n: [None] * n,
    "tuple": lambda n: ((n,),),
    "dict": lambda n: {"a": {"b": n}},
    "key": lambda n: {n: 1},
    "set": lambda n: {(n, "a"), "b"},
    "deque": lambda n: collections.deque([n]),
    "mapping": lambda n: types.MappingProxyType({"a": n}),
    "dataclass": lambda n: Record(Record(n)),
    "slots": lambda n: Slotted([n]),
    "namespace": lambda n: types.SimpleNamespace(a=n),
    "partial": lambda n: functools.partial(max, n, key=len),
    "closure": lambda n: lambda: n,
    "tensor": lambda n: torch.tensor([1.0, n]),
    "bfloat16": lambda n: torch.tensor([1.0, n], dtype=torch.bfloat16),
    "sparse": lambda n: torch.tensor([0.0, n]).to_sparse(),
    "complex": lambda n: torch.tensor([1j * n]),
    "whole numbers": lambda n: torch.tensor([10**9 + n]),
    "array": lambda n: np.array([1.0, n]),
    "big endian": lambda n: np.array([1.0, n], dtype=">f4"),
    "array of texts": lambda n: np.array(["a", str(n)]),
    "array of objects": lambda n: np.array([None, [n]], dtype=object),
    "scalar": lambda n: np.float32(n),
    "scalar of whole numbers": lambda n: np.int64(n),
    "module": lambda n: torch.nn.Sequential(torch.nn.Dropout(n / 10)),
    "buffer": lambda n: torch.nn.BatchNorm1d(n),
    "infinite": lambda n: float("inf") if n > 1 else float("nan"),
    "large": lambda n: 10**400 + n,
}


@pytest.mark.parametrize("place", PLACES)
def test_a_number_counts_wherever_it_is(place: str) -> None:
    make = PLACES[place]
    assert held("x", Record(make(1))) == held("x", Record(make(1))) != held("x", Record(make(2)))


@pytest.mark.parametrize("value", [object(), print, iter([1]), torch.Generator(), np.random.default_rng(), torch])
def test_of_what_is_no_data_no_address_counts(value: object) -> None:
    assert not any("0x" in line or str(id(value)) in line for line in held("x", [value]))


def test_a_circle_and_a_great_depth_end() -> None:
    circle: list[Any] = []
    circle.append(circle)
    deep: list[Any] = []
    for _ in range(10_000):
        deep = [deep]
    assert held("x", circle) and held("x", deep)


def test_rounding_of_another_machine_changes_nothing() -> None:
    assert held("x", 0.1 + 0.2) == held("x", 0.3)
    assert held("x", torch.tensor([1.0, 3.0])) == held("x", torch.tensor([1.0, 3.0 + 1e-7]))


def test_the_folder_that_one_is_in_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        found.append(held("x", [Path("c.txt").absolute(), str(Path("d.txt").absolute())]))
    assert found[0] == found[1]
