"""Why an attack misses: hand-worked verdicts, and masks of which it is known what they leave."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmark.cli.main import main
from benchmark.jobs.blocks import Workbench
from benchmark.store.study_schema import Run
from benchmark.studies.diagnosis import (
    DOUBLE,
    NEAR,
    OWN,
    RUNS,
    TRUTH,
    Diagnoses,
    diagnose,
    verdicts_of,
    without_restarts,
)
from benchmark.suite.registry import Spec, spec
from benchmark.suite.suite import Cell, Scenario


def run(leaked: bool, objective: float | None, **changed: Any) -> dict[str, Any]:
    """What one run made of one victim."""
    found = {"leaked": leaked, "status": "exhausted", "label_right": True, "objective": objective} | changed
    return {key: [value] for key, value in found.items()}


def row(**changed: dict[str, Any]) -> dict[str, Any]:
    """A row of one victim that is missed, with the true image at a lower objective, near which the attack ends too."""
    runs = {OWN: run(False, 1.0), DOUBLE: run(False, 1.0), TRUTH: run(True, 0.5), NEAR: run(True, 0.5)}
    for name, change in changed.items():
        place = {"own": OWN, "double": DOUBLE, "truth": TRUTH, "near": NEAR}[name]
        runs[place] |= {key: [value] for key, value in change.items()}
    return {"runs": runs, "attack": {"class": "IDLG", "tolerance": 1e-6}}


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        ({"own": {"leaked": True}}, "found"),
        ({"own": {"label_right": False}}, "label"),
        ({"double": {"leaked": True}, "near": {"leaked": False}}, "optimizer"),
        ({}, "optimizer"),
        ({"own": {"objective": None}}, "optimizer"),  # it was never finite
        ({"truth": {"objective": 1.0}}, "ambiguous"),  # no lower than where the attack ends
        ({"truth": {"objective": 0.9995}}, "ambiguous"),  # but for rounding
        ({"truth": {"objective": 0.99}}, "optimizer"),  # one part in a hundred is no rounding
        ({"truth": {"leaked": False}}, "ambiguous"),  # it leaves the image, for a lower objective
        ({"truth": {"leaked": False, "status": "diverged"}, "near": {"leaked": False}}, "open"),
        ({"own": {"objective": None}, "truth": {"objective": None}, "near": {"leaked": False}}, "open"),
        ({"near": {"leaked": False}}, "open"),
        # Little is left behind a mask, and so is the loss; that alone is no other image that fits as well.
        ({"own": {"objective": 5e-7}, "truth": {"objective": 0.0}}, "optimizer"),
        ({"own": {"objective": 5e-7, "status": "converged"}, "truth": {"objective": 0.0}}, "tolerance"),
        ({"own": {"objective": 5e-7, "status": "converged"}, "truth": {"objective": 5e-7}}, "ambiguous"),
        ({"own": {"objective": 5e-7, "size": 1e4}, "truth": {"objective": 0.0}}, "ambiguous"),  # relative to 10,000
        ({"own": {"objective": 5e-7, "size": 1e3}, "truth": {"objective": 0.0}}, "optimizer"),
        ({"own": {"objective": 5e-7, "status": "converged"}, "truth": {"objective": 0.0}, "double": {"leaked": True}},
         "tolerance"),
    ],
)  # fmt: skip
def test_the_verdicts(changed: dict[str, Any], verdict: str) -> None:
    assert verdicts_of(row(**changed)) == [verdict]


def older(found: dict[str, Any]) -> dict[str, Any]:
    """The row as older versions wrote it, which did not say how an attack ended unless it diverged."""
    runs = {
        name: {key: value for key, value in run.items() if key != "status"}
        | {"diverged": [status == "diverged" for status in run["status"]]}
        for name, run in found["runs"].items()
    }
    return found | {"runs": runs}


def test_rows_of_an_older_version_say_what_they_carry() -> None:
    assert verdicts_of(older(row(own={"objective": 5e-7}, truth={"objective": 0.0}))) == ["tolerance"]
    assert verdicts_of(older(row(own={"objective": 2e-6}, truth={"objective": 0.0}))) == ["optimizer"]
    assert verdicts_of(older(row(truth={"leaked": False, "status": "diverged"}))) == ["optimizer"]
    gauss_newton = {"attack": {"class": "GaussNewton"}}
    assert verdicts_of(older(row()) | gauss_newton) == ["not judged"]  # its other runs were of another attack
    assert verdicts_of(older(row(own={"leaked": True})) | gauss_newton) == ["found"]
    assert verdicts_of(older(row(own={"label_right": False})) | gauss_newton) == ["label"]
    assert verdicts_of(row() | gauss_newton) == ["optimizer"]
    about = {"where": "Digits LeNet", "defense": "Masking(ratio=0.9)"}
    page = Diagnoses().page([older(row()) | gauss_newton | about])
    assert "| 1 | 0 | 0 | - | - | 0 | 0 | 0 | 0 | 0 | 1 |" in page and "- **not judged**:" in page
    assert "not judged" not in Diagnoses().page([row() | about])


def cell(ratio: float, attack: Spec, victims: int = 2) -> Cell:
    scenario = Scenario(spec("data", "Digits", {}), spec("model", "LeNet", {}), 1, 0, victims)
    return Cell(scenario, spec("defense", "Masking", {"ratio": ratio}), attack, adaptive=True)


@pytest.fixture
def bench() -> Workbench:
    return Workbench(torch.device("cpu"))


def runs_of(of: Cell, bench: Workbench) -> dict[str, Run]:
    return dict(diagnose(of, *bench.victims(of.scenario, range(of.scenario.victims)), bench))


def verdicts(of: Cell, bench: Workbench) -> list[str]:
    return verdicts_of(row_from(of, bench))


def row_from(of: Cell, bench: Workbench) -> dict[str, Any]:
    return {"attack": of.attack.as_dict(), "runs": runs_of(of, bench)}


def test_too_few_steps_are_the_optimizers_fault_and_few_entries_leave_other_images(bench: Workbench) -> None:
    hurried = spec("attack", "IDLG", {"max_evaluations": 15})
    found = runs_of(cell(0.2, hurried), bench)
    assert set(found) == set(RUNS)
    assert found[OWN]["leaked"] == [False, False]
    assert found[TRUTH]["leaked"] == found[NEAR]["leaked"] == [True, True]
    assert max(found[TRUTH]["objective"]) < 1e-6 < min(found[OWN]["objective"])
    assert found[DOUBLE]["objective"] != found[OWN]["objective"]
    assert verdicts_of({"attack": hurried.as_dict(), "runs": found}) == ["optimizer", "optimizer"]
    assert verdicts(cell(0.2, spec("attack", "IDLG", {"max_evaluations": 2})), bench) == ["open", "open"]

    patient = spec("attack", "IDLG", {"max_evaluations": 100, "start": "mean"})
    assert not {"found", "optimizer"} & set(verdicts(cell(0.9995, patient), bench))  # about 4 entries are left


def test_a_wrong_label_is_told(bench: Workbench) -> None:
    attack = spec("attack", "IDLG", {"max_evaluations": 2})
    assert verdicts(cell(0.995, attack, 8), bench).count("label") >= 1  # about 40 of 8,026 entries are left


def test_noise_that_the_prior_outweighs_makes_the_attack_leave_the_image(bench: Workbench) -> None:
    attack = spec("attack", "IDLG", {"max_evaluations": 50, "start": "mean", "total_variation": 1e-5})
    noisy = replace(cell(0.5, attack), defense=spec("defense", "GaussianNoise", {"std": 0.3}))
    found = row_from(noisy, bench)
    assert found["runs"][TRUTH]["leaked"] == [False, False]
    assert set(verdicts_of(found)) <= {"ambiguous", "label"}


def test_the_runs_from_the_image_are_of_the_same_attack() -> None:
    given = without_restarts(spec("attack", "IDLG", {"restarts": 3, "start": "rgap", "tolerance": 0.1})).args
    assert given == spec("attack", "IDLG", {"start": "rgap", "tolerance": 0.1}).args
    gauss_newton = spec("attack", "GaussNewton", {"total_variation": 1e-2})
    assert without_restarts(gauss_newton) == gauss_newton  # with the weights that it always has


@pytest.mark.parametrize("attack", ["IDLG", "GaussNewton"])
def test_the_run_from_the_true_image_ends_no_higher_than_there(attack: str, bench: Workbench) -> None:
    """Though Gauss-Newton smooths it away at first: without noise or priors its objective there is next to nothing."""
    found = runs_of(cell(0.5, spec("attack", attack, {}), 1), bench)
    assert found[TRUTH]["leaked"] == [True] and found[TRUTH]["objective"][0] is not None
    assert found[TRUTH]["objective"][0] < 1e-8


def test_gauss_newton_gets_where_steps_are_too_few_and_finds_other_images_where_little_is_left(
    bench: Workbench,
) -> None:
    attack = spec("attack", "GaussNewton", {})
    assert verdicts(cell(0.9, attack, 1), bench) == ["found"]
    little = verdicts(cell(0.9995, attack, 2), bench)
    assert "found" not in little and "ambiguous" in little


@pytest.mark.parametrize(
    ("attack", "batch", "sentence"),
    [
        ("RGAP", 1, "RGAP cannot be started at the true image: give IDLG or GaussNewton"),
        ("DLG", 1, "DLG cannot be started at the true image: give IDLG or GaussNewton"),
        ("IDLG", 2, "one image"),
    ],
)
def test_what_cannot_be_diagnosed_is_refused_before_any_work(
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
    suite, out = tmp_path / "mine.yaml", tmp_path / "out"
    text = (
        "scenarios: [{data: Digits, model: LeNet}]\nattacks: [RGAP, DLG, {class: IDLG, max_evaluations: 4}]\n"
        "defenses: [{class: Masking, sweep: {ratio: [0.5, 0.9]}}]"
    )
    suite.write_text(text)

    def call(*more: str) -> int:
        with pytest.raises(SystemExit) as ended:
            main(["diagnose", str(suite), "--victims", "1", "--out", str(out), *more])
        return int(str(ended.value.code))

    def rows() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(path.read_text())["rows"]
        return found

    def ratios() -> list[str]:
        return [row["defense"].removeprefix("Masking(ratio=").removesuffix(", rescale=False)") for row in rows()]

    path = out / "diagnosis.json"
    assert call() == 0
    said = capsys.readouterr()
    assert "not diagnosed, since they cannot be started at the true image: DLG and RGAP\n" in said.err
    last = "Masking(ratio=0.9, rescale=False), IDLG(max_evaluations=4) that knows it"
    assert f"2/2 cells: Digits LeNet, {last}" in said.err
    first = rows()
    assert {row["attack"]["class"] for row in first} == {"IDLG"} and ratios() == ["0.5", "0.9"]
    assert said.out.startswith((out / "diagnosis.md").read_text()) and "\n2 of 2 cells run\nrecords: " in said.out
    assert "| Digits LeNet | Masking(ratio=0.9, rescale=False) | IDLG max_evaluations=4 | 1 |" in Diagnoses().page(
        first
    )

    assert call() == 0 and "everything was done already" in capsys.readouterr().out
    assert rows() == first
    record = next((out / "diagnosis").glob("*.json"))
    record.write_bytes(record.read_bytes().replace(b"0.0", b"0.1", 1)[:-9])
    assert call() == 0
    said = capsys.readouterr()
    assert "1 of 2 cells run" in said.out and "set aside" in said.err

    suite.write_text(text.replace("[0.5, 0.9]", "[0.6, 0.9]"))  # what was done is taken over, and other cells stay
    assert call() == 0 and "1 of 2 cells run" in capsys.readouterr().out
    assert ratios() == ["0.5", "0.6", "0.9"]
    written = [{key: value for key, value in row.items() if key != "cell"} for row in rows()]
    path.write_text(json.dumps({"rows": written}))  # as older versions did, without records
    suite.write_text(text)
    assert call() == 0 and "everything was done already" in capsys.readouterr().out
    assert ratios() == ["0.6", "0.5", "0.9"]
    assert ["cell" in row for row in rows()] == [False, True, True]

    for damaged in ('{"rows": [1]}', "{", "[]", '{"rows": [{"defense": "Masking"}]}', '{"rows": 1}'):
        path.write_text(damaged)
        assert call() == 2 and "cannot be read: delete it" in capsys.readouterr().err
    suite.write_text("scenarios: [{data: Digits, model: LeNet}]\nattacks: [IDLG]")
    assert call() == 2 and "has no attack on a defense that it knows" in capsys.readouterr().err
