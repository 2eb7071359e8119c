"""Attacks and trainings of one suite: one plan, one run, one folder."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmark import UsageError, run
from benchmark.cli.main import main
from benchmark.jobs import timing
from benchmark.store.store import read_all, read_trainings
from benchmark.suite.suite import parse
from benchmark.training.suite import beside

pytestmark = pytest.mark.usefixtures("nothing_of_the_developers")

TRAINING = {"clients": 4, "rounds": 2, "learning_rate": 0.1, "train_images": 60, "test_images": 20, "seeds": [0]}
SUITE: dict[str, Any] = {
    "victims": 2,
    "lpips": False,
    "scenarios": [{"data": "Digits", "model": "MLP", "batch_size": 2}],
    "attacks": [{"class": "DLG", "max_evaluations": 2}],
    "defenses": [{"class": "Masking", "ratio": 0.5}],
    "training": TRAINING,
}

Leakboard = Callable[..., tuple[int, str, str]]


@pytest.fixture
def leakboard(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Leakboard:
    def command(name: str, *words: str, given: Any = SUITE) -> tuple[int, str, str]:
        Path("mine.yaml").write_text(yaml.safe_dump(given))
        with pytest.raises(SystemExit) as stopped:
            main([name, "mine.yaml", *words])
        said = capsys.readouterr()
        assert isinstance(stopped.value.code, int)
        return stopped.value.code, said.out, said.err

    return command


def of(scenarios: list[dict[str, Any]], **changed: Any) -> list[tuple[Any, ...]]:
    """What is trained: model, algorithm, batch, local epochs, rate, defense, seed."""
    made = beside(parse(SUITE | {"scenarios": scenarios} | changed, "mine"))
    found = []
    for training in made.trainings if made else ():
        how = training.scenario.federation
        what = training.scenario.model.name, how.algorithm, how.batch_size, how.local_epochs, how.learning_rate
        found.append((*what, training.defense and training.defense.name, training.seed))
    return found


def test_a_training_has_the_network_batch_protocol_and_defenses_of_its_scenario() -> None:
    digits = {"data": "Digits", "model": "MLP"}
    averaged = {"class": "FedAvg", "learning_rate": 0.02, "epochs": 3, "batch_size": 2}
    scenarios = [
        digits | {"batch_size": 2},
        digits | {"batch_size": 4, "protocol": averaged, "defenses": ["Clipping"]},
        digits | {"batch_size": 8, "protocol": averaged | {"batch_size": None}, "training": {"learning_rate": 0.5}},
        digits | {"model": "LeNet", "training": None},
    ]
    assert of(scenarios) == [
        ("MLP", "FedSGD", 2, 1, 0.1, None, 0),
        ("MLP", "FedSGD", 2, 1, 0.1, "Masking", 0),
        ("MLP", "FedAvg", 2, 3, 0.02, None, 0),
        ("MLP", "FedAvg", 2, 3, 0.02, "Clipping", 0),
        ("MLP", "FedAvg", 8, 3, 0.5, None, 0),
        ("MLP", "FedAvg", 8, 3, 0.5, "Masking", 0),
    ]
    assert not of([digits | {"training": None}])
    assert beside(parse({key: value for key, value in SUITE.items() if key != "training"}, "mine")) is None


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"training": 3}, "training must be as in {clients: 10, rounds: 100, learning_rate: 0.1}, not 3"),
        ({"training": TRAINING | {"round": 3}}, "mine: training: unknown key of a scenario 'round': did you"),
        ({"training": {"clients": 4}}, "mine: training: a scenario needs rounds and learning_rate"),
        ({"training": TRAINING | {"seeds": 0}}, "mine: training: seeds must be a list of whole numbers"),
        ({"lpips": "no"}, "lpips must be true or false, not 'no'"),
    ],
)
def test_a_mistake_is_one_sentence_before_any_attack(
    changed: dict[str, Any], sentence: str, leakboard: Leakboard, tmp_path: Path
) -> None:
    for command in ("run", "plan"):
        code, out, err = leakboard(command, given=SUITE | changed)
        assert (code, out) == (2, "") and sentence in err and err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]


@pytest.mark.parametrize(
    ("scenario", "sentence"),
    [
        ({"training": {"seeds": [1]}}, "seeds of a training are those of all scenarios"),
        ({"training": [1]}, "training must be as in"),
        (
            {"protocol": {"class": "FedAvg", "learning_rate": 0.1, "momentum": 0.5}},
            "clients of a federated training have no momentum",
        ),
    ],
)
def test_a_scenario_that_cannot_be_trained_is_told(scenario: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        of([SUITE["scenarios"][0] | scenario])


def test_one_run_does_both_and_resumes_both(leakboard: Leakboard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "TIMED_EVALUATIONS", (1, 2, 2))
    code, out, err = leakboard("plan")
    assert code == 0, err
    assert "Digits MLP FedSGD, batches of 2" in out and "Attacks and trainings take" in out
    assert not Path("runs").exists()

    code, out, err = leakboard("run")
    assert code == 0, err
    assert "6 of 6 blocks run; 2 of 2 runs trained" in out and "LPIPS is unavailable" not in err
    folder = Path("runs/mine")
    assert len(read_all(folder)) == 6 and len(read_trainings(folder)) == 2
    assert {record["config"]["batch_size"] for record in read_trainings(folder)} == {2}
    assert {record["provenance"]["lpips"] for record in read_all(folder)} == {
        "the suite does without it, so that its records are the same everywhere"
    }
    assert (folder / "training.csv").is_file() and "Masking" in (folder / "tradeoff.md").read_text()
    assert f"leak rate over accuracy: {folder / 'tradeoff.md'}" in out
    _, out, _ = leakboard("run")
    assert "everything was done already: nothing to run; everything was done already: nothing to train" in out
    done = next(line for line in leakboard("plan")[1].splitlines() if line.startswith(" Digits MLP FedSGD"))
    assert done.split()[-2:] == ["0", "0:00:00"]


def test_a_defense_is_added_to_a_suite_whose_other_cells_are_there_already(leakboard: Leakboard) -> None:
    own = SUITE["scenarios"][0] | {"defenses": [{"class": "Clipping", "max_norm": 0.1}], "batch_size": 1}
    given = SUITE | {"scenarios": [*SUITE["scenarios"], own]}
    assert leakboard("run", given=given)[0] == 0
    code, out, err = leakboard("run", "--defense", "GaussianNoise", "--defense.sweep", "{std: [0.1, 1]}", given=given)
    assert code == 0, err
    assert "8 of 20 blocks run; 4 of 8 runs trained" in out
    added = [record for record in read_all(Path("runs/mine")) if record["config"]["defense"]]
    assert sum(record["config"]["defense"]["class"] == "GaussianNoise" for record in added) == 8
    found = run(given, defense={"class": "GaussianNoise", "std": 0.1}, out="runs/mine")  # and in Python
    assert found.ran.startswith("everything was done already")
