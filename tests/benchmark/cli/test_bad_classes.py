"""An own class that cannot be used is one sentence that names it and its line."""

from pathlib import Path

import pytest

from benchmark.suite import registry
from tests.benchmark.cli.conftest import CELL, Refused, cell

pytestmark = pytest.mark.usefixtures("nothing_of_the_developers")

OWN = """
import torch

from attacks import Attack, ConstantImage
from defenses import Defense

class Broken(ConstantImage):
    def __init__(self):
        self.size = self.nowhere

class Abstract(Attack):
    pass

class NotAnAttack:
    pass

number = 3

def make():
    return NotAnAttack()
"""


@pytest.mark.parametrize(
    ("flag", "path", "sentence"),
    [
        (
            "attack",
            "nowhere_at_all.Mine",
            "cannot be imported (ModuleNotFoundError: No module named 'nowhere_at_all')",
        ),
        ("defense", "own_bad.Mine", "the defense 'own_bad.Mine' cannot be imported (AttributeError: module 'own_bad'"),
        ("data", "own_syntax.Mine", "the data set 'own_syntax.Mine' cannot be imported (SyntaxError:"),
        ("model", ".Mine", "the model '.Mine' cannot be imported: give the path of a module and a class in it, as "),
        ("model", "..x.Y", "the model '..x.Y' cannot be imported: give the path of a module and a class in it, as "),
        ("attack", "own_bad.", "the attack 'own_bad.' cannot be imported: give the path of a module and a class in it"),
        ("model", "os.system", "the model 'os.system' must be a torch.nn.Module, or a function that makes one"),
        ("model", "subprocess.run", "'subprocess.run' must be a torch.nn.Module, or a function that makes one"),
        ("attack", "own_bad.number", "the attack 'own_bad.number' is not a class or a function, but an int"),
        ("data", "own_bad.make", "the data set 'own_bad.make' is not a class, but a function ("),
        ("defense", "own_bad.make", "'own_bad.make' takes no argument, but is called with an update ("),
        ("attack", "own_bad.make", "'own_bad.make' takes no argument, but is called with an observation ("),
        ("defense", "os.path.join", "'os.path.join' must be a defenses.Defense with all its methods"),
        ("attack", "own_bad.NotAnAttack", "must be an attacks.Attack with all its methods ("),
        (
            "attack",
            "own_bad.Abstract",
            "must be an attacks.Attack with all its methods, and lacks reconstruct (",
        ),
        ("attack", "X" * 5000, f"unknown attack 'X{'X' * 20}"),
        ("defense", "a." + "X" * 5000, "' cannot be imported (ModuleNotFoundError"),
        ("defense", "own_bad.NotAnAttack", "must be a defenses.Defense"),
        ("data", "own_bad.NotAnAttack", "must be a datamodules.PrivateData"),
        ("model", "own_bad.NotAnAttack", "must be a torch.nn.Module, or a function that makes one"),
        (
            "attack",
            "own_bad.Broken",
            "own_bad.Broken cannot be made (AttributeError: 'Broken' object has no",
        ),
    ],
)
def test_an_own_class_that_cannot_be_used_is_one_sentence(
    refused: Refused, tmp_path: Path, flag: str, path: str, sentence: str
) -> None:
    (tmp_path / "own_bad.py").write_text(OWN)
    (tmp_path / "own_syntax.py").write_text("def f(:\n")
    said = refused("run", *cell(f"--{flag}", path, "--victims", "2", of=CELL[:6]))
    assert sentence in said and len(said) < 400
    if sentence.endswith("("):  # and the line of the class or function
        line = OWN.splitlines()[int(said.rpartition("own_bad.py, line ")[2].rstrip(")\n")) - 1]
        assert line.startswith(("class", "def")) and path.rpartition(".")[2] in line


def test_every_kind_of_class_says_what_an_own_one_must_be() -> None:
    assert set(registry.KINDS) == set(registry._MUST_BE)
