"""A command that must fail."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmark.cli.main import main

CELL = ["--data", "Digits", "--model", "LeNet", "--attack", "IDLG", "--attack.max_evaluations", "2", "--victims", "2"]


def cell(*more: str, of: list[str] = CELL) -> list[str]:
    """The flags of a single cell, with those that are given in the place of its own."""
    given = {word.partition("=")[0] for word in more}
    own = zip(of[::2], of[1::2], strict=True)
    return [*(word for pair in own if pair[0] not in given for word in pair), *more]


Refused = Callable[..., str]


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Runs a command that must fail, and returns its sentence."""

    def run(*words: str, begun: bool = False) -> str:
        before = set(tmp_path.rglob("*"))
        out = [] if "--out" in words or words[0] != "run" else ["--out", str(tmp_path / "out")]
        with pytest.raises(SystemExit) as stopped:
            main([*words, *out])
        error = capsys.readouterr().err
        if begun:  # something was done before it came out
            error = error.splitlines(keepends=True)[-1]
            assert not list(tmp_path.rglob("*.tmp"))
        else:
            made = {path for path in set(tmp_path.rglob("*")) - before if "__pycache__" not in path.parts}
            assert not made
        assert stopped.value.code == 2
        assert re.fullmatch(r"leakboard: .+\n", error), error
        return error.removeprefix("leakboard: ").rstrip()

    return run
