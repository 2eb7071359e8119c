"""Why an attack misses: hand-worked verdicts, and masks of which it is known what they leave."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmark.blocks import Workbench
from benchmark.cli import main
from benchmark.diagnosis import DOUBLE, NEAR, OWN, RUNS, TRUTH, as_markdown, diagnose, once, row_of, verdicts_of
from benchmark.registry import Spec, spec
from benchmark.suite import Cell, Scenario


def row(**changed: Any) -> dict[str, Any]:
    """A row of one victim that is missed, with the true image at a lower objective, near which the attack ends too."""
    missed, found = (
        {"leaked": [leaked], "diverged": [False], "label_right": [True], "objective": [objective]}
        for leaked, objective in ((False, 1.0), (True, 0.5))
    )
    runs = {OWN: missed, DOUBLE: missed, TRUTH: found, NEAR: found}
    for name, change in changed.items():
        run = {"own": OWN, "double": DOUBLE, "truth": TRUTH, "near": NEAR}[name]
        runs[run] = runs[run] | {key: [value] for key, value in change.items()}
    return {"runs": runs, "attack": {"class": "IDLG", "tolerance": 1e-6}}


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        ({"own": {"leaked": True}}, "found"),
        ({"own": {"label_right": False}}, "label"),
        ({"double": {"leaked": True}, "near": {"leaked": False}}, "optimizer"),
        ({}, "optimizer"),
        ({"own": {"objective": None}}, "optimizer"),  # it was never finite
        ({"truth": {"objective": 0.995}}, "information"),  # the same objective elsewhere
        ({"own": {"objective": 5e-7}, "truth": {"objective": 0.0}}, "information"),  # content with another image
        ({"truth": {"leaked": False}}, "information"),  # it leaves the image
        ({"truth": {"leaked": False, "diverged": True}, "near": {"leaked": False}}, "open"),
        ({"own": {"objective": 5e-7}, "double": {"leaked": True}}, "information"),  # it is found by luck
        ({"near": {"leaked": False}}, "open"),
    ],
)
def test_the_verdicts(changed: dict[str, Any], verdict: str) -> None:
    assert verdicts_of(row(**changed)) == [verdict]


def cell(ratio: float, attack: Spec, victims: int = 2) -> Cell:
    scenario = Scenario(spec("data", "Digits", {}), spec("model", "LeNet", {}), 1, 0, victims)
    return Cell(scenario, spec("defense", "Masking", {"ratio": ratio}), attack, adaptive=True)


@pytest.fixture
def bench() -> Workbench:
    return Workbench(torch.device("cpu"))


def verdicts(of: Cell, bench: Workbench) -> list[str]:
    return verdicts_of(row_of(of, bench))


def test_too_few_steps_are_the_optimizers_fault_and_few_entries_the_informations(bench: Workbench) -> None:
    hurried = spec("attack", "IDLG", {"max_evaluations": 15})
    found = diagnose(cell(0.2, hurried), bench)
    assert set(found) == set(RUNS)
    assert found[OWN].leaked == [False, False]
    assert found[TRUTH].leaked == found[NEAR].leaked == [True, True]
    assert max(found[TRUTH].objective) < 1e-6 < min(found[OWN].objective)
    assert found[DOUBLE].objective != found[OWN].objective
    assert verdicts(cell(0.2, hurried), bench) == ["optimizer", "optimizer"]
    assert verdicts(cell(0.2, spec("attack", "IDLG", {"max_evaluations": 2})), bench) == ["open", "open"]

    patient = spec("attack", "IDLG", {"max_evaluations": 300, "start": "mean"})
    assert not {"found", "optimizer"} & set(verdicts(cell(0.9995, patient, 4), bench))  # about 4 entries are left


def test_a_wrong_label_is_told(bench: Workbench) -> None:
    attack = spec("attack", "IDLG", {"max_evaluations": 2})
    assert verdicts(cell(0.995, attack, 8), bench).count("label") > 2  # about 40 of 8,026 entries are left


def test_noise_that_the_prior_outweighs_makes_the_attack_leave_the_image(bench: Workbench) -> None:
    attack = spec("attack", "IDLG", {"max_evaluations": 100, "start": "mean", "total_variation": 1e-5})
    noisy = replace(cell(0.5, attack), defense=spec("defense", "GaussianNoise", {"std": 0.3}))
    found = row_of(noisy, bench)
    assert found["runs"][TRUTH]["leaked"] == [False, False]
    assert set(verdicts_of(found)) <= {"information", "label"}


def test_restarts_do_not_lead_away_from_the_start_that_is_given() -> None:
    given = once(spec("attack", "IDLG", {"restarts": 3, "start": "rgap", "tolerance": 0.1})).args
    assert given == spec("attack", "IDLG", {"tolerance": 0.1}).args
    given = once(spec("attack", "GaussNewton", {})).args
    assert given == spec("attack", "GaussNewton", {"start": "noise", "total_variation": 1e-14}).args


def test_gauss_newton_gets_where_steps_are_too_few_and_finds_other_images_where_little_is_left(
    bench: Workbench,
) -> None:
    attack = spec("attack", "GaussNewton", {})
    assert verdicts(cell(0.9, attack), bench) == ["found", "found"]
    assert "found" not in verdicts(cell(0.9995, attack, 4), bench)
    assert "information" in verdicts(cell(0.9995, attack, 4), bench)


@pytest.mark.parametrize(
    ("attack", "batch", "sentence"),
    [
        ("RGAP", 1, "RGAP can not be started at the true image: give IDLG or GaussNewton"),
        ("DLG", 1, "DLG can not be started at the true image: give IDLG or GaussNewton"),
        ("IDLG", 2, "one image"),
    ],
)
def test_what_can_not_be_diagnosed_is_refused_before_any_work(
    attack: str, batch: int, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = tmp_path / "mine.yaml"
    suite.write_text(
        f"scenarios: [{{data: Digits, model: LeNet, batch_size: {batch}}}]\nattacks: [{attack}]\ndefenses: [Masking]"
    )
    with pytest.raises(SystemExit) as ended:
        main(["diagnose", str(suite), "--out", str(tmp_path / "out")])
    assert ended.value.code == 2 and sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


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
    first = json.loads(path.read_text())["rows"]
    assert (tmp_path / "out" / "diagnosis.md").read_text() == capsys.readouterr().out
    assert "| Digits LeNet | Masking(ratio=0.9, rescale=False) | IDLG max_evaluations=4 | 1 |" in as_markdown(first)
    first[1]["where"] = "as it was"  # what was done is taken over, other cells are not
    path.write_text(json.dumps({"rows": first}))
    suite.write_text(text.replace("[0.5, 0.9]", "[0.6, 0.9]"))
    assert call() == 0
    second = json.loads(path.read_text())["rows"]
    assert [r["defense"] for r in second] == [f"Masking(ratio={ratio}, rescale=False)" for ratio in (0.6, 0.9)]
    assert second[1]["where"] == "as it was"

    path.write_text('{"rows": [1]}')
    assert call() == 2 and "can not be read: delete it" in capsys.readouterr().err
    path.write_text("{")
    assert call() == 2 and "can not be read: delete it" in capsys.readouterr().err
    suite.write_text("scenarios: [{data: Digits, model: LeNet}]\nattacks: [IDLG]")
    assert call() == 2 and "has no attack on a defense that it knows" in capsys.readouterr().err
