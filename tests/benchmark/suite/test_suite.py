"""What a suite in YAML means: cells in order, each with an identity of its own."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmark.errors import UsageError
from benchmark.identity import digest
from benchmark.metrics.leak import BASELINES
from benchmark.suite.registry import Spec, spec, specs
from benchmark.suite.suite import Suite, entries, load, parse

CONFIGS = Path(__file__).parents[3] / "configs"


def suite(text: str = "", attacks: str = "[IDLG]", scenarios: str = "[{data: Digits, model: LeNet}]") -> Suite:
    return parse(yaml.safe_load(f"scenarios: {scenarios}\nattacks: {attacks}\n{text}"), "mine")


def names(made: Suite) -> list[tuple[Any, ...]]:
    return [(c.defense.label if c.defense else None, c.attack.name, c.adaptive) for c in made.cells]


def test_cells_of_one_class_are_told_apart_by_what_is_not_usual() -> None:
    made = suite(attacks="[IDLG, {class: IDLG, max_evaluations: 6000, start: mean}, {class: IDLG, trials: 2}]")
    assert [cell.label for cell in made.cells if cell.attack.name == "IDLG"] == [
        "Digits LeNet, no defense, IDLG",
        "Digits LeNet, no defense, IDLG(start=mean)",  # 6000 is the default
        "Digits LeNet, no defense, IDLG(trials=2)",
    ]


OF_OTHER_COMMANDS = {
    "masking": "range of Masking is for leakboard threshold",
    "masking_training": "leakboard train",
    "federated": "leakboard train",
    "wandb_sweep": "a sweep of Weights & Biases, not a suite",
}


@pytest.mark.parametrize("name", OF_OTHER_COMMANDS)
def test_a_suite_of_another_command_is_told(name: str) -> None:
    with pytest.raises(UsageError, match=OF_OTHER_COMMANDS[name]):
        load(CONFIGS / f"{name}.yaml")


@pytest.mark.parametrize(
    "path", sorted(p for p in CONFIGS.glob("*.yaml") if p.stem not in OF_OTHER_COMMANDS), ids=lambda path: path.stem
)
def test_every_suite_that_comes_along_is_valid(path: Path) -> None:
    made = load(path)
    assert made.name == path.stem
    assert {cell.attack.name for cell in made.cells} > set(BASELINES) or path.stem == "labels"  # not on images


def test_a_defense_is_run_with_baselines_control_and_adaptive_twin() -> None:
    assert names(suite("defenses: [{class: Masking, ratio: 0.2}]")) == [
        (None, "ConstantImage", False),
        (None, "MeanImage", False),
        (None, "ClassMeanImage", False),
        (None, "IDLG", False),
        ("Masking(ratio=0.2, rescale=False)", "IDLG", False),
        ("Masking(ratio=0.2, rescale=False)", "IDLG", True),
    ]


def test_attacks_on_the_labels_alone_need_no_baselines() -> None:
    assert names(suite(attacks="[LabelInference]")) == [(None, "LabelInference", False)]
    both = [name for _, name, _ in names(suite(attacks="[LabelInference, IDLG]"))]
    assert both == [*BASELINES, "LabelInference", "IDLG"]


def test_each_seed_of_a_scenario_makes_a_scenario_of_its_own() -> None:
    scenarios = "[{data: Digits, model: LeNet, seed: [3, 1]}, {data: Digits, model: MLP}, {data: Digits, model: LeNet}]"
    made = suite("seed: 7", attacks="[LabelInference]", scenarios=scenarios)
    found = [(cell.scenario.model.name, cell.scenario.seed) for cell in made.cells]
    assert found == [("LeNet", 3), ("LeNet", 1), ("MLP", 7), ("LeNet", 7)]
    given = yaml.safe_load(f"scenarios: {scenarios}\nattacks: [LabelInference]")
    instead = [(cell.scenario.model.name, cell.scenario.seed) for cell in parse(given, "mine", seed=2).cells]
    assert instead == [("LeNet", 2), ("MLP", 2)]  # what is the same twice is run once


@pytest.mark.parametrize(
    ("seed", "said"),
    [("[]", "seed must be a list with at least one entry"), ("[1, -1]", "seed must be a whole number"), ("x", "seed")],
)
def test_a_wrong_seed_of_a_scenario_is_refused(seed: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        suite(scenarios=f"[{{data: Digits, model: LeNet, seed: {seed}}}]")


def test_a_sweep_is_a_grid() -> None:
    text = "defenses: [{class: Masking, sweep: {ratio: [0.1, 0.2], rescale: [true, false]}}]"
    found = [c.defense.args for c in suite(text).cells if c.defense and c.adaptive]
    assert found == [{"ratio": r, "rescale": s} for r in (0.1, 0.2) for s in (True, False)]


def test_a_sweep_goes_over_the_argument_beside_it() -> None:
    text = "defenses: [{class: Masking, rescale: true, sweep: {ratio: [0.1]}}]"
    (found,) = [c.defense.args for c in suite(text).cells if c.defense and c.adaptive]
    assert found == {"ratio": 0.1, "rescale": True}


def test_each_entry_is_checked_once_however_many_cells_it_is_in(monkeypatch: pytest.MonkeyPatch) -> None:
    suite()  # the baselines are checked for all suites
    checked: list[str] = []

    def counting(kind: str, name: str, args: dict[str, Any], sweep: dict[str, list[Any]]) -> list[Spec]:
        made = specs(kind, name, args, sweep)
        checked.extend(one.name for one in made)
        return made

    monkeypatch.setattr("benchmark.suite.suite.specs", counting)
    scenarios = "[{data: Digits, model: LeNet}, {data: Photos, model: MLP}]"
    made = suite("defenses: [{class: Masking, sweep: {ratio: [0.1, 0.2, 0.3]}}]", "[IDLG, DLG]", scenarios)
    assert len(made.cells) == 2 * (3 + 2 + 3 * 2 * 2)
    assert sorted(checked) == ["DLG", "Digits", "IDLG", "LeNet", "MLP", "Masking", "Masking", "Masking", "Photos"]


def test_data_and_models_can_be_swept() -> None:
    scenarios = "[{data: {class: Photos, sweep: {size: [8, 16]}}, model: {class: MLP, sweep: {depth: [1, 2]}}}]"
    made = suite(scenarios=scenarios)
    found = {(c.scenario.data.args["size"], c.scenario.model.args["depth"]) for c in made.cells}
    assert found == {(8, 1), (8, 2), (16, 1), (16, 2)}


def test_two_scenarios_that_are_one_have_the_same_victims() -> None:
    with pytest.raises(UsageError, match="Digits LeNet has 3 victims in one scenario and others in another: give one"):
        suite(scenarios="[{data: Digits, model: LeNet, victims: 2}, {data: Digits, model: LeNet, victims: 3}]")


def test_a_scenario_can_have_defenses_of_its_own() -> None:
    own = "[{data: Digits, model: LeNet, defenses: [{class: Masking, ratio: 0.1}]}, {data: Photos, model: LeNet}]"
    made = suite("defenses: [Clipping]", scenarios=own)
    found = dict.fromkeys((c.scenario.data.name, c.defense.name) for c in made.cells if c.defense)
    assert list(found) == [("Digits", "Masking"), ("Photos", "Clipping")]
    with pytest.raises(UsageError, match="defenses must be a list"):
        suite(scenarios="[{data: Digits, model: LeNet, defenses: Masking}]")


def test_a_scenario_can_have_attacks_of_its_own() -> None:
    own = "[{data: Digits, model: LeNet, attacks: [DLG]}, {data: Photos, model: LeNet}]"
    made = suite(scenarios=own)
    found = [(c.scenario.data.name, c.attack.name) for c in made.cells if c.attack.name not in BASELINES]
    assert found == [("Digits", "DLG"), ("Photos", "IDLG")]
    alone = parse({"scenarios": [{"data": "Digits", "model": "LeNet", "attacks": ["DLG"]}]}, "mine")
    assert alone.cells[-1].attack.name == "DLG"
    with pytest.raises(UsageError, match="attacks must be a list with at least one entry"):
        suite(scenarios="[{data: Digits, model: LeNet, attacks: []}]")


def test_a_cell_that_is_named_twice_is_run_once() -> None:
    twice = suite("defenses: [{class: Masking}, {class: Masking, ratio: 0.5}, Masking]", "[IDLG, {class: IDLG}]")
    assert names(twice) == names(suite("defenses: [Masking]"))


def test_an_argument_in_its_default_is_the_same_cell_as_one_left_out() -> None:
    left_out, given = suite(), suite(attacks="[{class: IDLG, max_evaluations: 6000}]")
    assert [c.id for c in left_out.cells] == [c.id for c in given.cells]


@pytest.mark.parametrize(
    "other",
    [
        suite("seed: 1"),
        suite(attacks="[{class: IDLG, tolerance: 0}]"),
        suite(attacks="[DLG]"),
        suite(scenarios="[{data: Photos, model: LeNet}]"),
        suite(scenarios="[{data: Digits, model: {class: LeNet, init_range: 0.1}}]"),
        suite(scenarios="[{data: Digits, model: LeNet, batch_size: 2}]"),
        suite(scenarios="[{data: Digits, model: LeNet, same_class: 2}]"),
    ],
)
def test_whatever_decides_a_result_changes_the_cell(other: Suite) -> None:
    assert other.cells[-1].id != suite().cells[-1].id


def test_the_adaptive_twin_is_another_cell() -> None:
    ids = [cell.id for cell in suite("defenses: [Masking]").cells]
    assert len(set(ids)) == len(ids)


def test_the_number_of_victims_does_not_change_the_cell() -> None:
    assert suite("victims: 3").cells[-1].id == suite("victims: 5").cells[-1].id


def test_the_command_line_goes_over_victims_and_seed() -> None:
    given = yaml.safe_load("{scenarios: [{data: Digits, model: LeNet, victims: 9}], attacks: [IDLG], seed: 3}")
    assert {(c.scenario.victims, c.scenario.seed) for c in parse(given, "mine").cells} == {(9, 3)}
    assert {(c.scenario.victims, c.scenario.seed) for c in parse(given, "mine", 2, 0).cells} == {(2, 0)}


def test_a_scenario_goes_over_the_victims_of_the_suite() -> None:
    made = suite("victims: 7", scenarios="[{data: Digits, model: LeNet, victims: 9}, {data: Photos, model: LeNet}]")
    assert {(c.scenario.data.name, c.scenario.victims) for c in made.cells} == {("Digits", 9), ("Photos", 7)}


def test_the_suite_is_named_by_its_file_unless_it_names_itself(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("scenarios: [{data: Digits, model: LeNet}]\nattacks: [IDLG]\n")
    assert load(path).name == "own"
    path.write_text(path.read_text() + "name: other\n")
    assert load(path).name == "other"


@pytest.mark.parametrize("name", ["..", ".", "a/b", "''", "3", "null"])
def test_a_name_that_is_no_folder_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="name must be usable as a folder name"):
        suite(f"name: {name}")


def test_every_argument_is_in_the_config_with_its_default() -> None:
    made = spec("attack", "IDLG", {"max_evaluations": 7})
    assert made.as_dict() == {
        "class": "IDLG",
        "at_once": None,
        "history_size": 100,
        "max_evaluations": 7,
        "line_search": False,
        "optimizer": "lbfgs",
        "batch_norm": 0.0,
        "distance": "squared",
        "trials": 1,
        "labels": None,
        "learning_rate": None,
        "patience": None,
        "prior_scale": 1.0,
        "restarts": 0,
        "start": "noise",
        "tolerance": 1e-6,
        "total_variation": 0.0,
    }


def test_whole_numbers_become_the_type_of_the_argument() -> None:
    assert spec("defense", "Clipping", {"max_norm": 1}) == spec("defense", "Clipping", {"max_norm": 1.0})


def test_infinity_is_a_value_that_json_can_hold() -> None:
    made = spec("defense", "Clipping", {"max_norm": float("inf")})
    assert made.args == {"max_norm": float("inf")}
    assert json.loads(json.dumps(made.as_dict(), allow_nan=False)) == {"class": "Clipping", "max_norm": "inf"}


def test_equal_values_have_equal_digests_whatever_their_order() -> None:
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1}) != digest({"a": 1, "b": [3]})


def test_an_argument_that_is_given_and_swept_is_told() -> None:
    entry = {"class": "Masking", "ratio": 0.2, "sweep": {"ratio": [0.1]}}
    with pytest.raises(UsageError, match="Masking has ratio and sweeps it too: give one of the two"):
        entries("defense", entry)
