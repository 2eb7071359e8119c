"""Errors of a user's own code: one sentence with the cause and the user's own line."""

import importlib
import math
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from benchmark.errors import UsageError, as_given, is_users, users_code, users_fault, written
from datamodules import DataError
from defenses import Masking

pytestmark = pytest.mark.usefixtures("nothing_of_the_developers")


def own(source: str, name: str) -> Any:
    """A module of the user's."""
    Path(f"{name}.py").write_text(source)
    importlib.invalidate_caches()
    return importlib.import_module(name)


def test_the_last_line_of_the_users_own_is_named_though_a_library_raised() -> None:
    mine = own("import torch\n\n\ndef f(x):\n    return g(x)\n\n\ndef g(x):\n    return torch.cat(x)\n", "own_deep")
    with pytest.raises(UsageError) as caught, users_code("the defense own_deep.Mine cannot protect an update"):
        mine.f([torch.zeros(1, 2), torch.zeros(3, 4)])
    said = str(caught.value)
    assert said.startswith("the defense own_deep.Mine cannot protect an update (RuntimeError: Sizes of tensors must")
    assert said.endswith(", own_deep.py, line 9)") and "\n" not in said


@pytest.mark.parametrize(
    "change",
    [
        lambda x: (x.exp() + 0).add_(1) * x.exp().mul_(2),  # a value that the gradient needs
        lambda x: x.add_(1),  # what the gradient is taken of
        lambda x: x[:1].add_(1),  # a view of it
        lambda x: x.unbind()[0].add_(1),  # one of several views
    ],
)
def test_a_change_in_place_is_told_in_plain_words(change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    x = torch.ones(3, requires_grad=True)
    with pytest.raises(UsageError) as caught, users_code("mine cannot be used"):
        change(x).sum().backward()
    assert "(RuntimeError: a tensor that a gradient needs was changed in place: make a new one," in str(caught.value)


def test_an_error_that_leakboards_code_raised_at_the_users_call_names_that_call() -> None:
    mine = own("from defenses import Masking\n\nX = lambda: Masking(ratio=7)\n", "own_call")
    with pytest.raises(UsageError, match=re.escape("x (ValueError: ratio is 7")) as caught, users_code("x"):
        mine.X()
    assert str(caught.value).endswith("own_call.py, line 3)")


def test_a_syntax_error_is_named_with_the_line_it_is_in() -> None:
    with pytest.raises(UsageError, match=re.escape("it (SyntaxError: ")) as caught, users_code("it"):
        own("x = 1\ny = (\nz = 3 4\n", "own_wrong")
    assert re.search(r"own_wrong\.py, line [23]\)$", str(caught.value))


@pytest.mark.parametrize(("code", "said"), [("", "sys.exit()"), ("0", "sys.exit(0)"), ("'enough'", "'enough'")])
def test_an_exit_is_an_error_too(code: str, said: str) -> None:
    name = f"own_exit{len(code)}"
    with pytest.raises(UsageError, match=re.escape(said)) as caught, users_code("it"):
        own(f"\nraise SystemExit({code})\n", name)  # W&B, where a test has used it, has its own sys.exit
    assert str(caught.value).endswith(f"{name}.py, line 2)")


def test_ctrl_c_and_our_own_sentences_pass_through() -> None:
    with pytest.raises(KeyboardInterrupt), users_code("it"):
        raise KeyboardInterrupt
    with pytest.raises(UsageError, match="ours"), users_code("it"):
        raise UsageError("ours")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("raise GeneratorExit", "it (GeneratorExit, own_odd.py, line 1)"),
        ("class B(BaseException): pass\nraise B('odd')", "it (B: odd, own_odd.py, line 2)"),
        ("import asyncio\nraise asyncio.CancelledError('no')", "it (CancelledError: no, own_odd.py, line 2)"),
        (
            "class E(Exception):\n    def __str__(self): raise ValueError\nraise E",
            "it (E, own_odd.py, line 3)",
        ),
        (
            "class C:\n    def __repr__(self): raise ValueError\nraise SystemExit(C())",
            "it (it calls sys.exit(<C instance at ",
        ),
    ],
)
def test_whatever_is_raised_is_one_sentence(source: str, said: str) -> None:
    sys.modules.pop("own_odd", None)
    with pytest.raises(UsageError, match=re.escape(said)), users_code("it"):
        own(source, "own_odd")


def test_what_is_wrong_with_data_is_said_of_the_data_wherever_they_are_read() -> None:
    """Public images are read late, amid what tries the user's network."""
    with pytest.raises(UsageError) as refused, users_code("the gradient of the model Net cannot be computed"):
        raise DataError("mine.Data.images failed", OSError(5, "Input/output error"))
    assert str(refused.value).startswith("mine.Data.images failed (OSError: [Errno 5] Input/output error")


def test_where_functions_and_classes_of_the_users_are_written() -> None:
    mine = own(
        "from functools import partial\n\n\nclass Mine:\n    def f(self):\n        pass\n\n"
        "    g = staticmethod(lambda: 0)\n\n\nh = partial(Mine().f)\n",
        "own_places",
    )
    at = {"own_places.Mine": mine.Mine, "f": mine.Mine.f, "bound": mine.Mine().f, "lambda": mine.Mine.g, "h": mine.h}
    lines = {"own_places.Mine": 4, "f": 5, "bound": 5, "lambda": 8, "h": 5}
    assert {name: written(made) for name, made in at.items()} == {
        name: f" (own_places.py, line {line})" for name, line in lines.items()
    }
    assert {written(made) for made in (Masking, Masking.protect, torch.nn.Linear, len, None, 3)} == {""}


def test_where_no_line_is_the_users_none_is_named_and_long_messages_are_cut() -> None:
    assert str(users_fault(ValueError("a\n\n  b"), "it")) == "it (ValueError: a b)"
    assert str(users_fault(ValueError(), "it")) == "it (ValueError)"
    assert len(str(users_fault(ValueError("x" * 5000), "it"))) < 500


def test_leakboards_files_and_those_of_libraries_are_not_the_users() -> None:
    assert not any(is_users(str(module.__file__)) for module in (torch, re, pytest, importlib.import_module("attacks")))
    assert not is_users(str(importlib.import_module(Masking.__module__).__file__)) and not is_users("<string>")
    assert is_users(str(Path("mine.py").resolve())) and is_users("defenses/mine.py")


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("value", [1.5, -0.1, 4.0, 0.0, 1e300, math.inf, math.nan, "1.5", "-2", "4", " 4_0", "x"])
def test_how_a_value_is_written_is_said_only_where_that_would_be_taken(value: float | str, whole: bool) -> None:
    said = as_given(value, whole, lambda number: 0 < number < 100)
    hint = re.search(r": write (.+)$", said)
    if hint:
        written = value.strip() if hint[1] == "it without quotes" and isinstance(value, str) else hint[1]
        found = yaml.safe_load(written)
        assert type(found) in ((int,) if whole else (int, float)) and 0 < found < 100 and found != str(value)
        assert type(found) is not type(value) or found != value
    assert bool(hint) == (value in ("4", " 4_0") or (whole and value == 4.0) or (not whole and value == "1.5"))
