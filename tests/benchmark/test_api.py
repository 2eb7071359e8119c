"""``from benchmark import run, show, board``: the commands in Python."""

import json
import random
import subprocess
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from attacks import IDLG, Observation
from benchmark import UsageError, board, run, show
from benchmark.cli.main import main
from defenses import Masking

pytestmark = pytest.mark.usefixtures("nothing_of_the_developers")

FAST = {"class": "IDLG", "max_evaluations": 4}
ONE: dict[str, Any] = {"data": "Digits", "model": "MLP", "attack": FAST, "victims": 2, "out": "out"}


def halve(update: dict[str, Tensor], factor: float = 0.5) -> dict[str, Tensor]:
    return {name: factor * g for name, g in update.items()}


def gray(observation: Observation, level: float = 0.5) -> Tensor:
    return torch.full((observation.num_victims, *observation.image_shape), level)


def command(*words: str) -> None:
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 0


def outcome(folder: str) -> dict[str, Any]:
    """What the records of a folder say, but when and how fast."""
    found = {}
    for path in Path(folder, "records").glob("*.json"):
        record = json.loads(path.read_text())
        found[path.stem] = [record["config"], record["code_sha256"], record["victims"]]
    return found


def test_importing_it_does_not_import_torch() -> None:
    code = "import sys, benchmark; from benchmark import UsageError; assert 'torch' not in sys.modules; dir(benchmark)"
    root = str(Path(__file__).parents[2])
    subprocess.run([sys.executable, "-c", f"import sys; sys.path[:0] = [{root!r}]; {code}"], check=True, timeout=60)
    with pytest.raises(ImportError, match="nothing"):
        from benchmark import nothing  # type: ignore[attr-defined] # noqa: F401, there is none


def test_it_writes_what_the_command_writes(capsys: pytest.CaptureFixture[str]) -> None:
    words = (
        "run --data Digits --model MLP --attack IDLG --attack.max_evaluations 4 --defense Masking --defense.ratio 0.5"
    )
    command(*words.split(), "--victims", "2", "--out", "typed")
    capsys.readouterr()
    found = run(**ONE | {"out": "called", "defense": {"class": Masking, "ratio": 0.5}})
    assert outcome("typed") == outcome("called")
    assert capsys.readouterr() == ("", "")
    assert found.ran == "6 of 6 blocks run" and len(found.records) == 6
    assert run(**ONE | {"out": "typed", "defense": {"class": "Masking", "ratio": 0.5}}).ran.startswith("everything was")


def test_what_it_returns_shows_itself(capsys: pytest.CaptureFixture[str]) -> None:
    found = run(**ONE)
    command("show", "out")
    said = capsys.readouterr().out
    again, rows = board("out"), show("out")
    for one in (found, found.table, again, rows):
        assert repr(one).split("\n\n")[0] == repr(again).split("\n\n")[0]
    assert repr(again).strip() == said.strip()
    assert isinstance(rows, list) and all(type(row) is dict for row in rows)
    assert {row["attack"] for row in rows} == {"IDLG", "ConstantImage", "MeanImage", "ClassMeanImage"}
    command("show", "out", "--format", "json")
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(list(rows)))
    command("show", "out", "--format", "markdown")
    assert capsys.readouterr().out == again._repr_markdown_() == rows._repr_markdown_()
    html = again._repr_html_()
    assert html.count("<tr>") == 1 + len(rows) and "IDLG" in html and html == found._repr_html_() == rows._repr_html_()


def test_a_value_of_a_record_is_no_markup_in_a_notebook() -> None:
    def evil(update: dict[str, Tensor]) -> dict[str, Tensor]:
        return update

    evil.__qualname__ = "<script>alert(1)</script>"
    found = run(**ONE | {"defense": evil})
    assert "<script>" not in found._repr_html_() and "&lt;script&gt;" in found._repr_html_()


@pytest.mark.parametrize("given", ["path", "dict", "named"])
def test_a_suite_can_be_a_file_or_what_it_holds(given: str) -> None:
    held: dict[str, Any] = {"victims": 2, "scenarios": [{"data": "Digits", "model": "MLP"}], "attacks": [FAST]}
    Path("mine.yaml").write_text(json.dumps(held))
    if given == "named":
        held["attacks"] = [{"class": IDLG, "max_evaluations": 4}]
    found = run(Path("mine.yaml") if given == "path" else held, out="out")
    assert {row["attack"] for row in found.table.rows} >= {"IDLG"}
    assert {record["config"]["attack"].get("max_evaluations") for record in found.records} == {4, None}


def test_functions_are_attacks_and_defenses() -> None:
    several = [{"class": halve, "factor": 0.25}, lambda update: halve(update, 0.25), partial(halve, factor=0.25)]
    rows = run(**ONE | {"attack": {"class": gray, "level": 0.25}, "defense": halve}).table.rows
    assert [row["attack_args"] for row in rows if "gray" in row["attack"]] == [{"level": 0.25}] * 3
    rows = run(**ONE | {"defense": several, "out": "several"}).table.rows
    assert len({row["defense"] for row in rows}) == 4
    of_idlg = [row for row in rows if row["attack"] == "IDLG" and not row["adaptive"] and row["defense"] != "none"]
    assert len(of_idlg) == 3 and len({row["psnr_mean"] for row in of_idlg}) == 1


def made(factor: float) -> Callable[..., Any]:
    def scaled(update: dict[str, Tensor]) -> dict[str, Tensor]:
        return halve(update, factor)

    return scaled


def test_a_key_covers_what_a_function_of_the_notebook_does_and_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(**ONE | {"defense": made(0.5)}).ran == "6 of 6 blocks run"
    assert run(**ONE | {"defense": made(0.5)}).ran.startswith("everything")
    assert run(**ONE | {"defense": made(0.25)}).ran == "2 of 6 blocks run"
    monkeypatch.setattr(sys.modules[__name__], "halve", lambda update, factor: {n: g * 1.0 for n, g in update.items()})
    assert run(**ONE | {"defense": made(0.5)}).ran == "2 of 6 blocks run"


def scaled_by(factor: float) -> None:
    code = "def scaled(update):\n    return {n: FACTOR * g for n, g in update.items()}\n"
    Path("api_mine.py").write_text(f"FACTOR = {factor}\n\n\n{code}")


def test_a_file_counts_as_it_is_now_and_an_object_as_it_was_imported() -> None:
    """What was imported before a file was changed is not run under the key of the new one, nor the other way round."""
    scaled_by(1.0)
    from api_mine import scaled  # type: ignore[import-not-found] # written above

    scaled_by(0.125)
    for given, changes in ((scaled, False), ("api_mine.scaled", True), (scaled, False)):
        found = run(**ONE | {"defense": given, "out": f"out {changes}"})
        of_idlg = [row for row in found.table.rows if row["attack"] == "IDLG" and not row["adaptive"]]
        psnr = {row["defense"].partition("#")[0]: row["psnr_mean"] for row in of_idlg}
        assert (abs(psnr["none"] - psnr["api_mine.scaled"]) > 0.01) == changes
    assert found.ran.startswith("everything was done")


def test_what_only_this_process_has_is_not_sent_to_workers() -> None:
    for given in (lambda update: update, made(0.5)):
        with pytest.raises(
            UsageError, match="exists in this process alone, so that workers cannot have it: save it in"
        ):
            run(**ONE | {"defense": given, "workers": 2})
    assert not Path("out/records").exists() or not list(Path("out/records").iterdir())


def test_a_process_is_afterwards_as_it_was() -> None:
    torch.set_num_threads(2)
    torch.backends.cudnn.benchmark, shown, filters = True, warnings.formatwarning, list(warnings.filters)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # type: ignore[index] # a tuple by default
    modules = set(sys.modules)
    try:
        run(**ONE | {"threads": 1, "defense": halve})
        assert torch.get_num_threads() == 2 and torch.backends.cudnn.benchmark
    finally:
        torch.backends.cudnn.benchmark = False
    assert random.getstate() == before[0] and np.random.get_state()[1].tolist() == before[1]  # type: ignore[index] # a tuple by default
    assert torch.equal(torch.get_rng_state(), before[2])
    assert warnings.formatwarning is shown and list(warnings.filters) == filters
    assert modules <= set(sys.modules)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"victim": 3}, "unknown argument of run 'victim': did you mean victims"),
        ({"attacks": ["IDLG"]}, "unknown argument of run 'attacks': did you mean attack"),
        ({"victims": 2.5}, "argument --victims: must be a whole number in digits, not '2.5'"),
        ({"victims": 0}, "victims must be a whole number of at least 1, not 0"),
        ({"download": "yes"}, "download must be True or False, not 'yes'"),
        ({"attack": "IDLX"}, "unknown attack 'IDLX': did you mean IDLG"),
        ({"attack": None}, 'a single cell needs attack="NAME"'),
        ({"attack": {"class": "IDLG", "max_evaluation": 3}}, "did you mean max_evaluations"),
        ({"attack": IDLG()}, "'IDLG' was made already: give the class with its arguments, as in"),
        ({"defense": Masking(0.5)}, "'Masking' was made already: give the class with its arguments, as in"),
        ({"model": torch.nn.Linear(2, 2)}, "'Linear' was made already: give the class with its arguments, as in"),
        ({"defense": print}, "must be a defenses.Defense with all its methods"),
        ({"defense": 3}, "defense must be a class name"),
        ({"attack": Masking}, "must be an attacks.Attack with all its methods"),
        ({"scenario": 3}, 'scenario must be a dict, as in {"shared": True}, not an int'),
        ({"scenario": {"batch_size": 3}}, "has no batch_size: give batch_size as an argument of its own"),
        ({"scenario": {"share": True}}, "unknown key of a scenario 'share': did you mean shared"),
        ({"suite": "quick"}, "give either a suite or data, model and attack, not both: defense alone adds to a suite"),
        ({"defense": lambda: 3}, "takes no argument, but is called with an update"),
        ({"defense": lambda update: None}, "protect must return the update as a dict, not None ("),
        ({"defense": lambda update: 1 / 0}, "protect fails (ZeroDivisionError: division by zero, "),
        ({"attack": lambda observation: 3}, "must return a Reconstruction, not an int"),
        ({"attack": lambda observation: sys.exit(0)}, "it calls sys.exit(0)"),
        ({"out": "/proc/nowhere"}, "the folder /proc/nowhere cannot be written"),
    ],
)
def test_a_mistake_is_one_sentence(given: dict[str, Any], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError) as told:
        run(**ONE | given)
    assert sentence in str(told.value) and "\n" not in str(told.value)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("suite", [3, [], {"scenarios": 3}, {"scenario": []}, "nowhere.yaml", Path("nowhere.yaml"), {}])
def test_no_suite_is_one_sentence(suite: Any) -> None:
    with pytest.raises(UsageError) as told:
        run(suite)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("look", [show, board])
def test_no_folder_is_one_sentence(look: Callable[[Any], Any]) -> None:
    for folder, sentence in (("nowhere", "there are no records in nowhere"), (3, "give the folder of a run as a text")):
        with pytest.raises(UsageError, match=sentence):
            look(folder)
