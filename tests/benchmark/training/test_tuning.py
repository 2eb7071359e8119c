"""Learning rates: chosen on validation images and seeds that are not reported."""

import csv
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmark.errors import UsageError
from benchmark.federation.recipe import Federation
from benchmark.federation.server import State
from benchmark.jobs.blocks import Workbench
from benchmark.store.store import Record
from benchmark.store.store import read_trainings as read_all
from benchmark.training import record as training
from benchmark.training.plan import training_data
from benchmark.training.rows import best_rate
from benchmark.training.suite import parse
from tests.benchmark.training.conftest import MASKING, SCENARIO, Leakboard, carried_out, results, suite

pytestmark = pytest.mark.usefixtures("nothing_of_the_developers")


def pretend(monkeypatch: pytest.MonkeyPatch, validation: Callable[[float, int, str | None], float]) -> None:
    """Trainings that end with these accuracies on validation images, by rate, seed and defense, and another on test."""

    def train(model: Any, data: Any, federation: Federation, defense: Any, seed: int, state: Any) -> Iterator[State]:
        rate = federation.learning_rate
        accuracy = validation(rate, seed, type(defense).__name__ if defense else None)
        tested = (0.3 + 0.001 * seed,) if seed < 100 else (1 - accuracy,)  # the test likes what validation dislikes
        acted = {"defended": 4, "changed": 4, "entries": 8, "entries_changed": 4} if defense else {}
        found = State(4, {}, {}, torch.zeros(4), (4,), tested, (1.0,), (accuracy, 1.0))
        yield replace(found, **acted)

    monkeypatch.setattr(training, "train", train)


def test_each_defense_takes_the_rate_that_is_best_on_validation_images_and_seeds_that_are_not_reported(
    leakboard: Leakboard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    best = {None: 0.1, "Masking": 0.01}

    def validation(rate: float, seed: int, defense: str | None) -> float:
        if rate == 1:  # likes the first seed alone
            return 0.95 if seed == 1000 else 0.1
        return 0.9 if rate == best[defense] else 0.45

    pretend(monkeypatch, validation)
    given = suite(MASKING, seeds=[0, 1, 2], learning_rate=[0.1, 0.01, 1])
    code, out, err = leakboard(given)
    assert code == 0 and "all are trained with one tuning seed" in err
    # Of two defenses each: three rates with one seed, two more seeds of two rates, three reported seeds of one rate.
    assert "20 of 20 runs trained" in out
    free, masked = csv.DictReader((tmp_path / "runs" / "mine" / "training.csv").open())
    assert (free["learning_rate"], free["seeds"], masked["learning_rate"], masked["seeds"]) == ("0.1", "3", "0.01", "3")
    assert (free["accuracy"], free["validation_accuracy"], masked["pairs"], masked["difference"]) == (
        "0.301",
        "0.9",
        "3",
        "0",
    )
    assert (free["learning_rates"], free["rate_chosen_on"]) == ("0.01 0.1 1", "validation")
    written = (tmp_path / "runs" / "mine" / "training.md").read_text()
    assert "| 0.01 (smallest tried) | 3 |" in written and "validation images belong to no" in written
    for record in read_all(tmp_path / "runs" / "mine"):
        assert record["config"]["tuning"] == (record["config"]["seed"] in (1000, 1001, 1002))
        assert record["validation"]["accuracy"] != record["accuracy"]
    assert leakboard(given)[1].count("everything was done already") == 1
    more = suite(MASKING, seeds=[0, 1, 2, 3], learning_rate=[0.1, 0.01, 1, 3])
    assert "4 of 24 runs trained" in leakboard(more)[1]  # a look at the new rate, and the new seed, of each


def test_rates_that_are_equal_on_validation_are_told_apart_by_its_loss_then_the_smaller_is_taken() -> None:
    def looked(accuracy: float, loss: float) -> dict[int, Record]:
        return {1000: {"status": "done", "validation": {"accuracy": accuracy, "loss": loss}, "accuracy": 0.0}}

    lost = {1000: {"status": "diverged", "validation": None, "accuracy": None, "loss": None}}
    assert best_rate({0.1: looked(0.9, 0.5), 1.0: looked(0.9, 0.4), 3.0: lost}) == 1.0
    assert best_rate({0.3: looked(0.9, 0.4), 0.1: looked(0.9, 0.4)}) == 0.1
    assert best_rate({0.3: lost, 0.1: lost}) == 0.1


def test_one_learning_rate_of_a_list_trains_as_it_does_alone(tmp_path: Path) -> None:
    carried_out(tmp_path / "alone", suite(learning_rate=0.1))
    carried_out(tmp_path / "list", suite(learning_rate=[1e30, 0.1]) | {"tuning_seeds": [7]})
    found, alone = results(tmp_path / "list"), results(tmp_path / "alone")
    assert len(found) == 4 and sum(record["status"] == "diverged" for record in found.values()) == 1
    assert {key: record for key, record in found.items() if not record["config"]["tuning"]} == alone


def test_validation_images_are_of_no_client_and_not_of_the_test() -> None:
    scenario = parse(suite(), "mine").trainings[0].scenario
    bench = Workbench(torch.device("cpu"))
    whole = bench.data(scenario.data)
    side = whole.train_split.images(0, 100)
    for validation, kept in ((None, 10), (30, 30)):
        data = training_data(bench, replace(scenario, validation_images=validation))
        assert (len(data.labels), len(data.validation_labels)) == (100 - kept, kept)
        both = torch.cat([data.images, data.validation_images]).flatten(1)
        assert sorted(map(tuple, both.tolist())) == sorted(map(tuple, side.flatten(1).tolist()))
        assert torch.equal(data.test_images, whole.test_split.images(0, 40))
    with pytest.raises(UsageError, match="100 images on the clients' side, of which validation_images takes 100"):
        training_data(bench, replace(scenario, validation_images=100))


@pytest.mark.parametrize(
    ("before", "after", "sentence"),
    [
        (suite(seeds=[0]) | {"tuning_seeds": [7, 8]}, suite(seeds=[0]) | {"tuning_seeds": [7]}, "add it to the suite"),
        (suite(seeds=[0]) | {"tuning_seeds": [7]}, suite(seeds=[7]) | {"tuning_seeds": [8]}, "seed 7 chooses learning"),
        (suite(seeds=[7]) | {"tuning_seeds": [8]}, suite(seeds=[0]) | {"tuning_seeds": [7, 8]}, "seed 7 is reported"),
    ],
)
def test_no_seed_both_chooses_a_rate_and_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: Any, after: Any, sentence: str
) -> None:
    pretend(monkeypatch, lambda rate, seed, defense: 0.5 + 0.1 * rate)
    rates = {"scenarios": [SCENARIO | {"learning_rate": [0.1, 0.2]}]}
    carried_out(tmp_path, before | rates)
    with pytest.raises(UsageError, match=sentence):
        carried_out(tmp_path, after | rates)


def test_a_folder_of_an_older_version_is_told(tmp_path: Path) -> None:
    older = Path(__file__).parent / "older" / "training.jsonl"
    (tmp_path / older.name).write_bytes(older.read_bytes().splitlines()[0])
    with pytest.raises(UsageError, match="holds runs of another version of Leakboard: give another --out"):
        carried_out(tmp_path, suite(seeds=[0]))
