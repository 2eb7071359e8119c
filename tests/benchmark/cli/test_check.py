"""``leakboard check``: what it takes, what it prints, and its exit code."""

import re
import sys
from pathlib import Path

import pytest

from benchmark.cli.main import main

pytestmark = pytest.mark.usefixtures("nothing_of_the_developers")

OWN = """
import torch
from torch import nn

from attacks import Observation
from defenses import Update


def halve(update, factor: float = 0.5):
    return {n: factor * g for n, g in update.items()}


def typed(given: Update) -> dict:
    return given


def gray(observation):
    return torch.full((observation.num_victims, *observation.image_shape), 0.5)


def find(seen: "Observation"):
    return gray(seen)


def unclear(it):
    return it


def network(image_shape, num_classes, width: int = 4) -> nn.Module:
    features = image_shape[0] * image_shape[1] * image_shape[2]
    return nn.Sequential(nn.Flatten(), nn.Linear(features, width), nn.Tanh(), nn.Linear(width, num_classes))


def small(*, num_classes=10) -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))


def cut(update):
    return {n: g[:1] for n, g in update.items()}


class Picky:
    pass


number = 3
"""


def check(words: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> tuple[int, list[str], str]:
    (tmp_path / "chk_mine.py").write_text(OWN)
    sys.modules.pop("chk_mine", None)
    with pytest.raises(SystemExit) as stop:
        main(["check", *words.split()])
    told = capsys.readouterr()
    return int(stop.value.code or 0), told.out.splitlines(), told.err


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("chk_mine.halve --model MLP", "a defense (chk_mine.py, line 9)"),
        ("--defense chk_mine.halve --defense.factor 0.25 --model MLP", "a defense (chk_mine.py, line 9)"),
        ("chk_mine.gray --model MLP", "an attack (chk_mine.py, line 17)"),
        ("chk_mine.network --model.width 3", "a model (chk_mine.py, line 29)"),
        ("chk_mine.small", "a model (chk_mine.py, line 34)"),
        ("Digits", "a data set"),
        ("ConstantImage --model MLP", "an attack"),
    ],
)
def test_what_keeps_its_contracts_is_told_line_by_line(
    words: str, kind: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, lines, told = check(words, capsys, tmp_path)
    assert (code, told) == (0, "")
    assert f" is {kind}, tried on " in lines[0] and re.search(r" keeps \d+ contracts?$", lines[-1])
    assert all(line.startswith(("holds   ", "skipped ")) for line in lines[1:-1]) and len(lines) > 4
    assert len([line for line in lines if line.startswith("holds")]) >= int(lines[-1].split()[-2])


@pytest.mark.parametrize("name", ["typed", "find"])
def test_a_type_tells_a_kind_too(name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    _, lines, _ = check(f"chk_mine.{name} --model MLP", capsys, tmp_path)
    assert (" is a defense" if name == "typed" else " is an attack") in lines[0]


def test_what_fails_is_told_where_and_ends_with_2(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, lines, told = check("chk_mine.cut", capsys, tmp_path)
    assert (code, told, lines[-1]) == (2, "", "chk_mine.cut breaks 1 contract")
    failed = [line for line in lines if line.startswith("fails")]
    assert failed and all("(chk_mine.py, line 38)" in line for line in failed)
    for network in ("sigmoid", "ReLU", "batch norm"):
        assert any(network in line for line in failed)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("", "give the import path of what is to be checked, as in leakboard check my_attack.Mine"),
        (
            "chk_mine.unclear",
            "it cannot be seen what 'chk_mine.unclear' is: call it by its kind, as in leakboard check",
        ),
        ("chk_mine.Picky", "it cannot be seen what 'chk_mine.Picky' is"),
        ("chk_mine.number", "it cannot be seen what 'chk_mine.number' is"),
        ("chk_mine.nothing", "the class 'chk_mine.nothing' cannot be imported (AttributeError: "),
        ("nowhere.Mine", "the class 'nowhere.Mine' cannot be imported (ModuleNotFoundError: "),
        ("IDLX", "unknown class 'IDLX': did you mean IDLG"),
        ("--attack.steps 3", "give the import path of what is to be checked"),
        ("chk_mine.halve --defense.factr 3", "unknown argument of chk_mine.halve 'factr': did you mean factor"),
        ("chk_mine.halve --defense Masking", "give either chk_mine.halve or --defense, not both"),
        ("chk_mine.halve --attack IDLG", "one thing is checked at a time: leave --attack out"),
        ("chk_mine.halve --defense.sweep {factor:[1,2]}", "one thing is checked at a time: leave --defense.sweep out"),
        ("chk_mine.halve --model.width 3", "--model.ARGUMENT needs --model NAME"),
        ("RGAP --model ResNet", "RGAP was tried nowhere: give a network that it takes, as in --model MLP"),
        ("a b", "unexpected argument 'b'"),
    ],
)
def test_a_mistake_is_one_sentence(
    words: str, sentence: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, _, told = check(words, capsys, tmp_path)
    assert code == 2 and sentence in told and told.count("\n") == 1
