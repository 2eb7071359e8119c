"""Why an attack misses: hand-worked verdicts, and masks of which it is known what they leave."""

import json
from pathlib import Path

import pytest
import torch

from benchmark.blocks import Workbench
from benchmark.cli import main
from benchmark.diagnosis import RUNS, Found, as_markdown, diagnose, faults, row
from benchmark.errors import UsageError
from benchmark.registry import Spec, spec
from benchmark.suite import Cell, Scenario


def test_the_verdicts_of_a_hand_worked_case() -> None:
    found = {
        "as it is": Found([True, False, False, False, False], [1e-3, 1.0, 1.0, 1.0, 5e-7]),
        "from near it": Found([True, True, True, False, True], [1e-3, 0.5, 0.995, 0.5, 0.0]),
    }
    # found; a lower objective at the image; the same; it does not come back; content already
    assert faults(found, 1e-6) == ["found", "optimizer", "information", "information", "information"]


def cell(ratio: float, attack: Spec, victims: int = 2) -> Cell:
    scenario = Scenario(spec("data", "Digits", {}), spec("model", "LeNet", {}), 1, 0, victims)
    return Cell(scenario, spec("defense", "Masking", {"ratio": ratio}), attack, adaptive=True)


@pytest.fixture
def bench() -> Workbench:
    return Workbench(torch.device("cpu"))


def test_too_few_steps_are_the_optimizers_fault_and_few_entries_the_informations(bench: Workbench) -> None:
    hurried = spec("attack", "IDLG", {"max_evaluations": 15})
    found = diagnose(cell(0.2, hurried), bench)
    assert set(found) == set(RUNS)
    assert found["as it is"].leaked == [False, False]
    assert found["from the true image"].leaked == found["from near it"].leaked == [True, True]
    assert max(found["from the true image"].objective) < 1e-6 < min(found["as it is"].objective)
    assert faults(found, 1e-6) == ["optimizer", "optimizer"]

    patient = spec("attack", "IDLG", {"max_evaluations": 300, "start": "mean"})
    assert faults(diagnose(cell(0.9995, patient), bench), 1e-6) == ["information", "information"]  # about 4 entries


def test_an_attack_without_a_start_is_refused(bench: Workbench) -> None:
    with pytest.raises(UsageError, match="RGAP has no start that could be the true image: give DLG or IDLG"):
        diagnose(cell(0.5, spec("attack", "RGAP", {})), bench)


def test_a_row_shows_how_many_each_run_found() -> None:
    attack = spec("attack", "IDLG", {"max_evaluations": 3})
    found = {name: Found([True, number > 0], [0.0, 1.0]) for number, name in enumerate(RUNS)}
    assert (
        "| Digits | Masking(ratio=0.5, rescale=False) | IDLG max_evaluations=3 | 2 | 1 | 2 | 2 | 2 | 0 | 1 |"
    ) in as_markdown([row(cell(0.5, attack), found)])


def test_the_command_goes_on_where_it_was_stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    suite = tmp_path / "mine.yaml"
    text = (
        "scenarios: [{data: Digits, model: LeNet}]\nattacks: [{class: IDLG, max_evaluations: 4}]\n"
        "defenses: [{class: Masking, sweep: {ratio: [0.5, 0.9]}}]"
    )
    suite.write_text(text)

    def call(*more: str) -> int:
        with pytest.raises(SystemExit) as ended:
            main(["diagnose", str(suite), "--victims", "1", "--out", str(tmp_path / "out"), *more])
        return int(str(ended.value.code))

    path = tmp_path / "out" / "diagnosis.json"
    assert call() == 0
    first = json.loads(path.read_text())
    assert (tmp_path / "out" / "diagnosis.md").read_text() == capsys.readouterr().out
    first["rows"][1]["faults"] = ["found"]  # what was done is taken over, other cells are not
    path.write_text(json.dumps(first))
    suite.write_text(text.replace("[0.5, 0.9]", "[0.6, 0.9]"))
    assert call() == 0
    second = json.loads(path.read_text())["rows"]
    assert [r["defense"] for r in second] == [f"Masking(ratio={ratio}, rescale=False)" for ratio in (0.6, 0.9)]
    assert second[1]["faults"] == ["found"]

    path.write_text("{")
    assert call() == 2 and "can not be read: delete it" in capsys.readouterr().err
    suite.write_text("scenarios: [{data: Digits, model: LeNet}]\nattacks: [IDLG]")
    assert call() == 2 and "has no attack on a defense that it knows" in capsys.readouterr().err
