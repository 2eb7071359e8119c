"""Training suites: from YAML to runs, records and the table; resumed, refused, and told what is wrong."""

import csv
import json
import math
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from benchmark.cli.main import main
from benchmark.errors import UsageError
from benchmark.federation.recipe import Federation
from benchmark.federation.server import State
from benchmark.jobs.blocks import Workbench
from benchmark.jobs.conductor import Conductor
from benchmark.jobs.job import Watch, work
from benchmark.metrics.intervals import t_interval
from benchmark.store.store import TRAININGS, Record, Store
from benchmark.store.store import read_trainings as read_all
from benchmark.suite.registry import arguments
from benchmark.thresholds.strengths import DefenseThresholds, Thresholds, defenses_at
from benchmark.training import record as training
from benchmark.training.plan import Run, plan, training_data
from benchmark.training.suite import parse
from benchmark.training.table import as_csv, as_markdown, best_rate, note, of_one_code, rows
from benchmark.training.tracking import TrainingTracker, is_of
from benchmark.training.work import Trainings, carry_out

pytestmark = pytest.mark.usefixtures("nothing_of_the_developers")

SCENARIO: dict[str, Any] = {
    "data": "Digits",
    "model": {"class": "ConvNet", "width": 4},
    "clients": 4,
    "rounds": 4,
    "batch_size": 8,
    "learning_rate": 0.1,
    "train_images": 100,
    "test_images": 40,
}
MASKING = {"class": "Masking", "ratio": 0.5}


def suite(*defenses: Any, seeds: Any = (0, 1), scenarios: Any = None, **changed: Any) -> dict[str, Any]:
    return {"seeds": list(seeds), "scenarios": scenarios or [SCENARIO | changed], "defenses": list(defenses)}


def carried_out(folder: Path, given: dict[str, Any]) -> str:
    conductor = Conductor(["cpu"], None, 1, Workbench(torch.device("cpu")), folder, None)
    return carry_out(parse(given, "mine"), conductor)[0]


def results(folder: Path) -> dict[str, Any]:
    """What each record says but when and how fast."""
    return {r["key"]: {k: v for k, v in r.items() if k not in ("provenance", "cost")} for r in read_all(folder)}


Leakboard = Callable[..., tuple[int, str, str]]


@pytest.fixture
def leakboard(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Leakboard:
    """Runs a command on a suite: exit code, output, errors."""

    def run(given: Any, *words: Any) -> tuple[int, str, str]:
        (tmp_path / "mine.yaml").write_text(given if isinstance(given, str) else yaml.safe_dump(given))
        with pytest.raises(SystemExit) as stopped:
            main(["train", "mine.yaml", *map(str, words)])
        said = capsys.readouterr()
        assert isinstance(stopped.value.code, int)
        return stopped.value.code, said.out, said.err

    return run


# The command.


def test_the_strengths_that_were_found_are_trained_too(leakboard: Leakboard, tmp_path: Path) -> None:
    def search(adaptive: bool, strength: float | None, dataset: str = "Digits") -> dict[str, Any]:
        found = {
            "stopped": "never" if strength is None else "within",
            "strength": strength,
            "note": "",
            "rates": [1.0, 0.5],
        }
        what = {"dataset": dataset, "where": dataset, "scenario": {}, "defense": "Masking", "argument": "ratio"}
        what |= {"adaptive": adaptive, "model": "LeNet", "victims": 4}
        given = {"attack": {"class": "IDLG"}, "strengths": [0.0, 0.99], "ssim": found, "fixed": {"rescale": True}}
        return what | given

    def write(*searches: dict[str, Any]) -> None:
        (tmp_path / "thresholds.json").write_text(json.dumps({"ssim": 0.5, "stop": 0.05, "thresholds": searches}))

    write(search(False, 0.12345), search(True, 0.23456), search(False, None, "CIFAR10"))
    given = suite(MASKING, seeds=[0], rounds=1)
    code, _, err = leakboard(given, "--at", tmp_path, "--out", tmp_path / "out")
    assert code == 0, err
    trained = [record["config"]["defense"] for record in read_all(tmp_path / "out")]
    ratios = sorted((defense["ratio"], defense["rescale"]) for defense in trained if defense)
    assert ratios == [(0.12345, True), (0.23456, True), (0.5, False)] and None in trained

    given = given | {"scenarios": [SCENARIO | {"data": "CIFAR10JPEG"}]}
    code, _, err = leakboard(given, "--at", tmp_path)
    assert code == 2 and "has no strength that stops an attacker on CIFAR10JPEG" in err
    code, _, err = leakboard(given, "--at", tmp_path / "nowhere")
    assert code == 2 and "cannot be read: delete it if it is damaged, and run leakboard threshold" in err


def test_a_data_set_may_be_trained_on_as_itself_or_as_jpeg() -> None:
    found = {"stopped": "within", "strength": 0.5}
    one = DefenseThresholds(
        "CIFAR10", "CIFAR10 LeNet", {}, "Masking", "ratio", {}, [], {"oblivious": {"ssim": found, "strengths": [0.0]}}
    )
    for name, count in (("CIFAR10", 1), ("CIFAR10JPEG", 1), ("MNIST", 0)):
        assert len(defenses_at(Thresholds(0.5, 0.05, [], [one]), name)) == count


def test_a_suite_is_trained_tabled_and_not_trained_again(leakboard: Leakboard, tmp_path: Path) -> None:
    quick = {"model": {"class": "MLP", "hidden": 32, "activation": "relu"}, "rounds": 12, "learning_rate": 0.5}
    quick |= {"evaluate_every": 8}
    given = suite({"class": "Masking", "sweep": {"ratio": [0.9, 0.1]}}, "Clipping", **quick)
    code, out, err = leakboard(given)
    folder = tmp_path / "runs" / "mine"
    assert code == 0 and "8 of 8 runs trained" in out and "no defense" in out
    assert "8/8 runs: Digits MLP FedSGD, Clipping(max_norm=1.0), learning rate 0.5, seed 1, accuracy " in err
    table = list(csv.DictReader((folder / "training.csv").open()))
    assert [row["defense"].partition(",")[0] for row in table] == [
        "no defense",
        "Clipping(max_norm=1.0)",
        "Masking(ratio=0.1",
        "Masking(ratio=0.9",
    ]
    assert {row["seeds"] for row in table} == {"2"} and [row["pairs"] for row in table] == ["0", "2", "2", "2"]
    assert "± is half the width" in (folder / "training.md").read_text()
    for record in read_all(folder):
        assert record["curve"]["round"] == [0, 8, 12] and len(record["curve"]["loss"]) == 3
        assert record["accuracy"] == record["curve"]["accuracy"][-1]
        assert record["status"] == ("done" if record["accuracy"] > record["majority"] else "collapsed")
        ratio = (record["config"]["defense"] or {}).get("ratio")
        if ratio:  # what a mask removes, but for entries that were zero anyway
            assert record["clients_changed"] == 1 and 0.2 * ratio < record["entries_changed"] < ratio + 0.01
        assert (record["entries_changed"] is None) == (record["config"]["defense"] is None)
        assert record["provenance"]["versions"]["torch"] == torch.__version__.partition("+")[0]
        assert all(value == float(f"{value:.6g}") for value in record["curve"]["loss"])
        assert set(record["validation"]) == {"accuracy", "loss"} and 0.1 < record["majority"] < 0.3
    assert sorted({path.suffix for path in (folder / "training").iterdir()}) == [".json"]  # nothing half done is left
    before = results(folder)
    code, again, _ = leakboard(given)
    assert code == 0 and "everything was done already: nothing to train" in again
    assert results(folder) == before and again.partition("\neverything")[0] == out.partition("\n8 of 8")[0]


def test_workers_do_what_one_process_does(
    leakboard: Leakboard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def launch(workers: list[Any]) -> Iterator[list[Callable[[], str]]]:
        assert len(workers) == 2
        yield [partial(pickle.loads(pickle.dumps(worker)), 0) for worker in workers]  # when they are asked after

    given = suite(MASKING, seeds=[0])
    assert leakboard(given, "--out", tmp_path / "alone")[0] == 0
    monkeypatch.setattr("benchmark.jobs.executors.local.launch", launch)
    code, out, err = leakboard(given, "--out", tmp_path / "two", "--workers", 2)
    assert code == 0 and "2 of 2 runs trained" in out, err
    assert results(tmp_path / "two") == results(tmp_path / "alone")


def test_what_every_worker_died_of_is_told(
    leakboard: Leakboard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def launch(workers: list[Any]) -> Iterator[list[Callable[[], str]]]:
        yield [lambda: "it was ended" for _ in workers]

    monkeypatch.setattr("benchmark.jobs.executors.local.launch", launch)
    code, _, error = leakboard(suite(seeds=[0, 1]), "--workers", 3)
    assert code == 2
    assert "all workers ended, and 2 of 2 runs are left (it was ended): the same command resumes" in error


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The real package, in an environment that says nothing."""
    module = pytest.importorskip("wandb", reason="the core runs without wandb, its tracking does not")
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    module.teardown()
    yield module
    module.teardown()


def tracked(folder: Path) -> dict[str, tuple[dict[str, Any], list[dict[str, Any]]]]:
    """By id: what W&B's own reader says of a run, and the points of its curve."""
    found = {}
    for run in (folder / "wandb").glob("offline-run-*"):
        said = [
            subprocess.run(
                [sys.executable, "-m", "wandb", "leet", "inspect", *more, "--json", str(run)],
                check=True,
                capture_output=True,
                text=True,
                timeout=30,
            ).stdout
            for more in (["--summary"], [])
        ]
        lines = map(json.loads, said[1].splitlines())
        points = [line["history"]["item"] for line in lines if line["type"] == "history"]
        about = json.loads(said[0])
        assert about["run_id"] not in found
        found[about["run_id"]] = about, [{k: v for k, v in p.items() if not k.startswith("_")} for p in points]
    return found


def test_each_run_is_tracked_with_its_curve(leakboard: Leakboard, tmp_path: Path, wandb: Any) -> None:
    given = suite(MASKING, seeds=[0], evaluate_every=2)
    code, _, err = leakboard(given, "--wandb", "offline")
    assert code == 0 and "W&B" not in err
    found, told = results(tmp_path / "runs" / "mine"), tracked(tmp_path / "runs" / "mine")
    assert set(told) == set(found) and len(told) == 2
    for key, (about, points) in told.items():
        config, curve = found[key]["config"], found[key]["curve"]
        assert about["tags"] == ["Digits", "ConvNet", "FedSGD", "Masking" if config["defense"] else "no defense"]
        assert about["name"].endswith("learning rate 0.1 seed 0") and about["state"] == "finished"
        assert {k: v for k, v in about["config"].items() if k != "provenance"} == config
        assert points == [
            {"round": number, "accuracy": accuracy, "loss": pytest.approx(loss)}
            for number, accuracy, loss in zip(curve["round"], curve["accuracy"], curve["loss"], strict=True)
        ]
        assert [point["round"] for point in points] == [0, 2, 4]
        for name in ("status", "accuracy", "loss"):
            assert about["summary"][name] == found[key][name]


def test_a_sweep_has_one_run_of_means_over_seeds(
    leakboard: Leakboard, tmp_path: Path, wandb: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    learns: dict[str, Any] = {"model": {"class": "MLP", "hidden": 32, "activation": "relu"}, "rounds": 12}
    learns |= {"learning_rate": 0.5, "evaluate_every": 4}
    assert leakboard(suite("Clipping", **learns))[0] == 0  # another run of the sweep, in the same folder
    (tmp_path / "params.yaml").write_text("wandb_version: 1\nratio:\n  value: 0.5\n")
    for name, value in {"SWEEP_ID": "abc", "RUN_ID": "theirs", "SWEEP_PARAM_PATH": "params.yaml"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    code, _, err = leakboard(suite(MASKING, **learns), "--wandb", "offline")
    assert code == 0 and "W&B" not in err
    folder = tmp_path / "runs" / "mine"
    ((name, (about, points)),) = tracked(folder).items()
    assert name == "theirs" and about["tags"] == ["Digits", "MLP", "FedSGD", "Masking"]
    records = [record for record in read_all(folder) if (record["config"]["defense"] or {}).get("class") == "Masking"]
    controls = [record for record in read_all(folder) if record["config"]["defense"] is None]
    assert len(records) == len(controls) == 2
    mean = {key: sum(record[key] for record in records) / 2 for key in ("accuracy", "loss")}
    control = sum(record["accuracy"] for record in controls) / 2
    assert about["summary"]["accuracy"] == pytest.approx(mean["accuracy"])
    assert about["summary"]["control_accuracy"] == pytest.approx(control)
    assert about["summary"]["difference"] == pytest.approx(mean["accuracy"] - control)
    assert about["config"]["ratio"] == 0.5 and about["config"]["defense"]["ratio"] == 0.5
    for place, point in enumerate(points):
        for key in ("accuracy", "loss"):
            assert point[key] == pytest.approx(sum(record["curve"][key][place] for record in records) / 2)
    assert [point["round"] for point in points] == records[0]["curve"]["round"]


def test_what_chose_a_learning_rate_is_not_in_the_means_of_a_sweep() -> None:
    reported, chose = record(0, 0.9), record(1000, 0.8)
    chose["config"] |= {"tuning": True}
    (row,) = rows([reported, chose])
    assert is_of(reported, row) and not is_of(chose, row)


def test_the_run_of_a_sweep_has_the_configuration_of_its_own_scenario(monkeypatch: pytest.MonkeyPatch) -> None:
    curve = {"round": [0, 4], "accuracy": [0.1, 0.5], "loss": [2.0, 1.0]}
    well, worse = record(0, 0.9, "Masking", curve=curve), record(0, 0.5, "Masking", curve=curve)
    worse["config"] |= {"rounds": 9}
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(TrainingTracker, "write", lambda self, *about: told.append(about[4]))
    tracker = object.__new__(TrainingTracker)
    tracker.has_one_run = True
    tracker.finish([well, worse], rows([well, worse]), [well["config"], worse["config"]])
    assert [(config["rounds"], config["seed"], config["learning_rate"]) for config in told] == [(9, None, 0.1)]


# Resume.


class Stop(Watch[Run]):
    """Stops after so many rounds of a run, and remembers where it began."""

    def __init__(self, after: int) -> None:
        self.after, self.began = after, -1

    def reached(self, job: Run, steps: int, said: str = "") -> None:
        self.began = steps if self.began < 0 else self.began
        if steps == self.after:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    "changed",
    [
        {"server_momentum": 0.9, "clients_per_round": 2, "decay": "cosine"},
        {"algorithm": "FedAvg", "model": {"class": "ResNet", "width": 2}, "batch_norm": "include", "batch_size": 20},
    ],
)
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any]
) -> None:
    given = suite({"class": "GaussianNoise", "std": 0.001}, seeds=[3], evaluate_every=2, **changed)
    carried_out(tmp_path / "whole", given)
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    bench, store = Workbench(torch.device("cpu")), Store(tmp_path / "stopped", TRAININGS)
    runs = plan(parse(given, "mine"), bench)
    for after, begins in ((3, 0), (4, 3)):  # state 3 is not saved, as it was reached within Stop
        stop = Stop(after)
        with pytest.raises(KeyboardInterrupt):
            work(runs[1:], Trainings(), store, bench, stop)
        assert stop.began == begins
        assert (tmp_path / "stopped" / "training" / f"{runs[1].key}.pt").exists()
    carried_out(tmp_path / "stopped", given)
    assert results(tmp_path / "stopped") == results(tmp_path / "whole")


def test_a_damaged_checkpoint_is_begun_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = suite(seeds=[0])
    carried_out(tmp_path / "whole", given)
    (key,) = results(tmp_path / "whole")
    (tmp_path / "out" / "training").mkdir(parents=True)
    (tmp_path / "out" / "training" / f"{key}.pt").write_bytes(b"PK\3\4 half a file")
    carried_out(tmp_path / "out", given)
    assert capsys.readouterr().err.count(f"the checkpoint {key}.pt is damaged") == 1
    assert results(tmp_path / "out") == results(tmp_path / "whole")


def test_a_damaged_record_is_set_aside_and_run_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = suite(seeds=[0])
    carried_out(tmp_path, given)
    before = results(tmp_path)
    (path,) = (tmp_path / "training").glob("*.json")
    path.write_bytes(path.read_bytes()[:200])
    assert carried_out(tmp_path, given) == "1 of 1 runs trained"
    assert "set aside as" in capsys.readouterr().err and results(tmp_path) == before
    assert path.with_suffix(".json.damaged").exists()


def test_seeds_and_defenses_may_be_added(tmp_path: Path) -> None:
    carried_out(tmp_path, suite(seeds=[0]))
    assert carried_out(tmp_path, suite(MASKING, seeds=[0, 1])) == "3 of 4 runs trained"
    assert carried_out(tmp_path, suite(seeds=[1])).startswith("everything was done already")


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"learning_rate": 0.2}, "(learning_rate is 0.1 there and 0.2 here): give another --out"),
        ({"algorithm": "FedAvg"}, "(algorithm is FedSGD there and FedAvg here, local_epochs is none there and 1 here)"),
        ({"split": {"dirichlet": 5.0}}, "(split is iid there and dirichlet=5.0 here)"),
        (
            {"model": "MLP"},
            "(model is ConvNet(width=4) there and MLP(activation=sigmoid, depth=1, hidden=128, mean=None, std=None) "
            "here)",
        ),
        ({"train_images": 99}, "(train_images is 100 there and 99 here, data_sha256 is "),
    ],
)
def test_another_configuration_is_refused(
    tmp_path: Path, changed: dict[str, Any], sentence: str, leakboard: Leakboard
) -> None:
    assert leakboard(suite(seeds=[0]))[0] == 0
    code, _, error = leakboard(suite(seeds=[0], **changed))
    assert code == 2 and error.startswith("leakboard: runs/mine holds runs of another configuration (")
    assert sentence in error and error.count("\n") == 1


def test_another_configuration_is_refused_before_a_run_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    bench = Workbench(torch.device("cpu"))
    runs = plan(parse(suite(seeds=[0]), "mine"), bench)
    with pytest.raises(KeyboardInterrupt):
        work(runs, Trainings(), Store(tmp_path, TRAININGS), bench, Stop(2))
    with pytest.raises(UsageError, match="rounds is 4 there and 5 here"):
        carried_out(tmp_path, suite(seeds=[0], rounds=5))


# Learning rates.


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
    older = Path(__file__).parents[3] / "results" / "masking" / "training.jsonl"
    (tmp_path / older.name).write_bytes(older.read_bytes().splitlines()[0])
    with pytest.raises(UsageError, match="holds runs of another version of Leakboard: give another --out"):
        carried_out(tmp_path, suite(seeds=[0]))


# Divergence.


def test_a_run_that_diverges_is_recorded_and_the_others_go_on(leakboard: Leakboard, tmp_path: Path) -> None:
    scenarios = [SCENARIO | {"learning_rate": 1e30, "batch_size": 9}, SCENARIO]
    code, out, err = leakboard(suite(scenarios=scenarios))
    assert code == 0 and "diverged in round" in err and "4 of 4 runs trained" in out
    records = read_all(tmp_path / "runs" / "mine")
    lost = [record for record in records if record["status"] == "diverged"]
    assert len(records) == 4 and len(lost) == 2
    for record in lost:
        assert record["accuracy"] is record["loss"] is None and 1 <= record["round"] <= 4
    well, bad = sorted(rows(records), key=lambda row: row["diverged"])
    assert (bad["diverged"], bad["accuracy"], bad["loss"], well["diverged"]) == (2, 0.0, None, 0)
    assert leakboard(suite(scenarios=scenarios))[1].count("everything was done already") == 1


# The table.


def record(seed: int, accuracy: float, defense: str | None = None, date: str = "2026", **changed: Any) -> Record:
    config = parse(suite({"class": defense} if defense else MASKING), "mine").trainings[-1].config()
    config |= {"seed": seed} | ({} if defense else {"defense": None})
    found = {"config": config, "status": "done", "accuracy": accuracy, "loss": 1 - accuracy, "majority": 0.1}
    found |= {"validation": {"accuracy": accuracy, "loss": 1.0}, "curve": {"accuracy": [0.1, accuracy]}}
    found |= dict.fromkeys(("clients_changed", "entries_changed"), 0.5 if defense else None)
    return found | {"provenance": {"date": date}, "cost": {"seconds": 2.0}} | changed


def test_the_difference_is_paired_by_seed() -> None:
    control = [record(seed, accuracy) for seed, accuracy in enumerate((0.9, 0.8, 0.7, 0.5))]
    masked = [record(seed, accuracy, "Masking") for seed, accuracy in enumerate((0.88, 0.79, 0.68))]
    first, second = rows(masked + control)
    assert (first["defense"], first["seeds"], first["pairs"], first["difference"]) == ("no defense", 4, 0, None)
    assert (second["seeds"], second["pairs"]) == (3, 3)
    assert second["difference"] == pytest.approx(-0.05 / 3)
    half = 4.302653 * math.sqrt((2 * (0.01 / 3) ** 2 + (0.02 / 3) ** 2) / 2) / math.sqrt(3)
    assert second["difference_high"] - second["difference"] == pytest.approx(half, rel=1e-5)
    assert "| -1.67 ± 1.43 |" in as_markdown([first, second], "mine")


def test_the_newer_of_two_records_counts_and_one_seed_has_no_interval() -> None:
    (row,) = rows([record(0, 0.9, date="2027"), record(0, 0.8, date="2026")])
    assert (row["accuracy"], row["accuracy_low"], row["seeds"]) == (0.9, None, 1)
    assert t_interval([1.0]) == t_interval([]) == (None, None)
    assert as_csv([row]).count("\n") == 2


def test_a_row_is_of_one_code() -> None:
    old = [record(seed, 0.9, date="2026", code_sha256="a", key=f"old{seed}") for seed in range(3)]
    new = [record(0, 0.5, date="2027", code_sha256="b", key="new0")]
    masked = [record(seed, 0.8, "Masking", date="2025", code_sha256="c", key=f"masked{seed}") for seed in range(3)]
    every = [*new, *old, *masked]
    for current, accuracy, seeds, said in (
        (None, 0.5, 1, "2 runs of no defense left out, because of other code than the newest"),
        ({"new0", "masked0", "masked1", "masked2"}, 0.5, 1, "2 runs of no defense left out, because of other code"),
        ({"old0", "old1", "old2", "masked0", "masked1", "masked2"}, 0.9, 3, ""),
    ):
        kept, left_out = of_one_code(every, current)
        row, other = rows(kept)
        assert (row["accuracy"], row["seeds"], other["seeds"], other["pairs"]) == (accuracy, seeds, 3, seeds)
        assert " ".join(left_out).startswith(said) and len(left_out) == bool(said)
        assert (said in as_markdown([row], "mine", left_out)) and rows(every)[0]["accuracy"] == 0.5


OWN = """
import defenses
class Mine(defenses.Masking):
    def protect(self, update, generators):
        return {name: FACTOR * value for name, value in super().protect(update, generators).items()}
"""


def test_the_table_is_of_the_present_code_also_where_a_change_was_taken_back(
    leakboard: Leakboard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = []
    for factor, seeds in ((1.0, [0, 1]), (0.0, [0]), (1.0, [0, 1])):
        (tmp_path / "mine_defense.py").write_text(OWN.replace("FACTOR", str(factor)))
        monkeypatch.delitem(sys.modules, "mine_defense", raising=False)
        arguments.cache_clear()
        code, out, err = leakboard(suite({"class": "mine_defense.Mine", "ratio": 0.1}, seeds=seeds))
        assert code == 0, err
        assert ("1 run of mine_defense.Mine(ratio=0.1, rescale=False) left out" in err) == (factor == 0.0)
        *_, row = csv.DictReader((tmp_path / "runs" / "mine" / "training.csv").open())
        losses.append((row["seeds"], row["loss"], row["void"]))
    assert "everything was done already" in out
    assert losses[0] == losses[2] and losses[1][0] == "1" and losses[1][1] != losses[0][1]


def test_a_defense_that_was_trained_with_another_network_is_not_compared_with_the_new_one(
    leakboard: Leakboard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = "import benchmark.models as m\n\nclass Net(m.MLP):\n    def forward(self, x):\n"
    for factor, defenses in ((1.0, [MASKING, "Clipping"]), (2.0, ["Clipping"])):
        (tmp_path / "mine_net.py").write_text(f"{source}        return super().forward({factor} * x)\n")
        monkeypatch.delitem(sys.modules, "mine_net", raising=False)
        arguments.cache_clear()
        code, _, err = leakboard(suite(*defenses, seeds=[0], model="mine_net.Net"))
        assert code == 0, err
        table = list(csv.DictReader((tmp_path / "runs" / "mine" / "training.csv").open()))
        assert len(table) == 1 + len(defenses)
    assert "1 run of Masking(ratio=0.5, rescale=False) left out, because of other code than the present" in err


def test_a_diverged_run_counts_as_nothing_known() -> None:
    (row,) = rows([record(0, 0.9), record(1, 0.0) | {"status": "diverged", "accuracy": None, "loss": None}])
    assert (row["accuracy"], row["diverged"], row["loss"]) == (0.45, 1, None)


def test_a_defense_that_never_acted_is_void_and_did_not_cost_nothing() -> None:
    control = [record(seed, accuracy) for seed, accuracy in enumerate((0.9, 0.8))]
    idle = {"entries_changed": 0.0, "clients_changed": 0.0}
    still = [record(seed, accuracy, "Clipping", **idle) for seed, accuracy in enumerate((0.9, 0.8))]
    once = [still[0], record(1, 0.8, "Clipping", clients_changed=1e-6, entries_changed=1e-6)]
    for found, void, difference, cell in (
        (still, "did not act", None, "| void: did not act |"),
        (once, "", 0.0, "| +0.00 ± 0.00 |"),
    ):
        _, row = rows(control + found)
        assert (row["void"], row["difference"], row["pairs"]) == (void, difference, 0 if void else 2)
        assert cell in as_markdown([row], "mine") and ("| 0 % | 0 % |" if void else "| &lt; 0.1 % | &lt; 0.1 % |") in (
            as_markdown([row], "mine")
        )
    assert "clients_changed" in as_csv([row])


def test_a_run_that_ends_like_naming_one_class_has_collapsed(leakboard: Leakboard, tmp_path: Path) -> None:
    assert leakboard(suite(MASKING, seeds=[0], learning_rate=1e-9, model="MLP"))[0] == 0  # learns nothing
    records = read_all(tmp_path / "runs" / "mine")
    for found in records:
        counts = [found["majority"] * 40, found["accuracy"] * 40]
        assert all(abs(count - round(count)) < 1e-3 for count in counts)
        assert found["status"] == ("collapsed" if found["accuracy"] <= found["majority"] else "done")
    control, masked = rows(records)
    assert control["collapsed"] == masked["collapsed"] == 1 and "collapsed in 1 of 1" in masked["void"]
    assert masked["difference"] is None and masked["accuracy"] > 0


@pytest.mark.parametrize("status", ["collapsed", "diverged"])
def test_there_is_no_difference_to_a_control_that_failed_and_one_to_a_defense_that_did(status: str) -> None:
    def failed(found: Record) -> Record:
        lost = {"accuracy": None, "loss": None, "validation": None} if status == "diverged" else {"accuracy": 0.1}
        return found | {"status": status} | lost

    control, masked = [record(0, 0.9), record(1, 0.8)], [record(0, 0.9, "Masking"), record(1, 0.8, "Masking")]
    first, second = rows([control[0], failed(control[1]), *masked])
    assert (first[status], second["void"], second["difference"]) == (1, f"no defense {status} in 1 of 2", None)
    first, second = rows([*control, masked[0], failed(masked[1])])
    assert (second[status], second["void"]) == (1, "")
    assert second["difference"] == pytest.approx(-0.4 if status == "diverged" else -0.35)


def older(found: Record, *curve: float) -> Record:
    """As an older version wrote it."""
    new = ("majority", "validation", "clients_changed", "entries_changed")
    config = {k: v for k, v in found["config"].items() if k not in ("tuning", "validation_images")} | {"schema": 1}
    kept = {key: value for key, value in found.items() if key not in new}
    return kept | {"config": config, "curve": {"accuracy": list(curve), "loss": list(curve)}, "accuracy": curve[-1]}


def test_what_older_records_do_not_say_is_found_in_their_curves_and_noted() -> None:
    control = [older(record(seed, 0.9), 0.1, 0.5, 0.9) for seed in (0, 1)]
    same = [older(record(seed, 0.9, "Clipping"), 0.1, 0.5, 0.9) for seed in (0, 1)]
    one_differs = [same[0], older(record(1, 0.9, "Clipping"), 0.1, 0.4, 0.9)]
    other_seed = [*same, older(record(2, 0.9, "Clipping"), 0.1, 0.5, 0.9)]
    for found, void in ((same, "did not act"), (one_differs, ""), (other_seed, "")):
        first, second = rows(control + found)
        assert (second["void"], second["older"], first["collapsed"]) == (void, 1, 0)
    assert "Records of an older version do not say" in note([first, second]) and "on test" not in note([first])
    first, second = rows([control[0], older(record(1, 0.9), 0.12, 0.3, 0.11), *same])
    assert (first["collapsed"], second["void"]) == (1, "no defense collapsed in 1 of 2")
    slow = older(record(0, 0.9, learning_rate=0.2), 0.1, 0.95)
    slow["config"] |= {"learning_rate": 0.2}
    row, *_ = rows([*control, slow])
    assert (row["learning_rate"], row["rate_chosen_on"]) == (0.2, "test")
    assert "are the best on the very test images" in note([row]) and "0.2 (largest tried) (on test)" in as_markdown(
        [row], ""
    )


def test_the_published_trainings_are_still_read() -> None:
    table = rows(read_all(Path(__file__).parents[3] / "results" / "masking"))
    assert len(table) > 50 and all(row["rate_chosen_on"] == "test" and row["older"] for row in table)
    void = [(row["data"], row["model"], row["defense"]) for row in table if row["void"] == "did not act"]
    assert void == [("CIFAR10JPEG", "ResNet(width=8)", "Clipping(max_norm=4.37144)")]


# Bad input.


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("- a", "must be a mapping with some of the keys name, seeds, tuning_seeds, scenarios, defenses, not a list"),
        (suite() | {"seed": 0}, "unknown key of a training suite 'seed': did you mean seeds or"),
        (suite() | {"attacks": ["IDLG"]}, "attacks is a key of suites for leakboard run: a training has none"),
        (suite(round=3), "unknown key of a scenario 'round': did you mean rounds"),
        (suite("Maskin"), "unknown defense 'Maskin': did you mean Masking"),
        (suite({"class": "Masking", "ratio": 1.5}), "Masking: ratio is 1.5, but must be"),
        (suite(seeds=[]), "seeds must be a list of whole numbers, as in [0, 1, 2], not []"),
        (suite(seeds=[-1]), "a seed must be a whole number of at least 0, not -1"),
        (suite() | {"scenarios": []}, "scenarios must be a list with at least one entry"),
        (suite() | {"scenarios": ["Digits"]}, "a scenario must have the keys data, model, clients, rounds"),
        (suite() | {"scenarios": [{"data": "Digits", "model": "MLP"}]}, "needs clients and rounds and learning_rate"),
        (suite() | {"name": "a/b"}, "name must be usable as a folder name, not 'a/b'"),
        (suite() | {"defenses": 3}, "defenses must be a list"),
        (suite(rounds=0), "rounds must be a whole number of at least 1, not 0"),
        (suite(clients=0), "clients must be a whole number of at least 1, not 0"),
        (suite(clients_per_round=5), "clients_per_round is 5, but there are 4 clients: give 4 or fewer"),
        (suite(algorithm="FedSDG"), "unknown algorithm 'FedSDG': did you mean FedSGD"),
        (suite(local_epochs=2), "local_epochs is for algorithm FedAvg"),
        (suite(learning_rate=0), "learning_rate must be a number above 0, not 0"),
        (suite(learning_rate="fast"), "learning_rate must be a number above 0, not fast"),
        (suite(learning_rate=[]), "learning_rate must be a number, or a list of them of which the best is taken"),
        (suite(learning_rate=[0.1, 0]), "learning_rate must be a number above 0, not 0"),
        (suite(learning_rate=math.nan), "learning_rate must be a number above 0, not nan"),
        (suite(server_momentum=1), "server_momentum must be a number of at least 0 and below 1, not 1"),
        (suite(decay="cosin"), "unknown decay 'cosin': did you mean cosine"),
        (suite(split="random"), "split must be iid or {dirichlet: ALPHA}, not 'random'"),
        (suite(split={}), "split must be iid or {dirichlet: ALPHA}, not {}"),
        (suite(split={"dirichlet": None}), "split must be iid or {dirichlet: ALPHA}, not {'dirichlet': None}"),
        (suite(split={"dirichlet": "1"}), "dirichlet must be a number above 0, not '1': write it without quotes"),
        (suite(clients=4.0), "clients must be a whole number of at least 1, not 4.0: write 4"),
        (suite(clients=True), "clients must be a whole number of at least 1, not true"),
        (suite(split={"dirichlet": -1}), "dirichlet must be a number above 0, not -1"),
        (suite(batch_norm="includ"), "unknown batch_norm 'includ': did you mean include or exclude"),
        (suite(evaluate_every=0), "evaluate_every must be a whole number of at least 1, not 0"),
        (
            suite(train_images=1298),
            "Digits has 1297 images for train_images, not 1298: give train_images 1297 or fewer",
        ),
        (suite(clients=91), "Digits, seed 0: 1 of 91 clients have no image of the 90: give fewer clients or more"),
        (
            suite(clients=50, split={"dirichlet": 0.01}),
            " of 50 clients have no image of the 90: give fewer clients, a larger dirichlet or more train_images",
        ),
        (suite(clients=10**9, clients_per_round=2), f"{10**9 - 90} of 1000000000 clients have no image of the 90"),
        (suite(clients=10**9 + 1), "clients must be a whole number of at most 1,000,000,000, not 1000000001"),
        (suite(rounds=10**20), "rounds must be a whole number of at most 1,000,000,000, not 100000000000000000000"),
        (
            suite(algorithm="FedAvg", local_epochs=1001),
            "local_epochs must be a whole number of at most 1,000, not 1001",
        ),
        (suite(batch_size=10**400), "batch_size must be a whole number of at most 1,000,000,000, not 1000"),
        (suite(learning_rate=10**400), "learning_rate must be at most 3.4e+38, the most that float32 holds, not 1000"),
        (suite(learning_rate=1e39), "learning_rate must be at most 3.4e+38, the most that float32 holds, not 1e+39"),
        (suite(learning_rate=-0.1), "learning_rate must be a number above 0, not -0.1"),
        (suite(learning_rate=[0.1, math.inf]), "learning_rate must be a number above 0, not inf"),
        (suite(learning_rate=[0.1, 0.2, 0.1]), "learning_rate has 0.1 more than once: give each rate once"),
        (suite(learning_rate=[1, 1.0]), "learning_rate has 1 more than once: give each rate once"),
        (suite(server_momentum=-0.1), "server_momentum must be a number of at least 0 and below 1, not -0.1"),
        (suite(server_momentum=math.nan), "server_momentum must be a number of at least 0 and below 1, not nan"),
        (
            suite(split={"dirichlet": 1e-300}),
            "dirichlet must be from 0.001, where a class is with one client, to",
        ),
        (suite(split={"dirichlet": 1e30}), "dirichlet must be from 0.001, where a class is with one client, to"),
        (suite(split={"dirichlet": 1e200}), "dirichlet must be at most 3.4e+38"),
        (suite(split={"dirichlet": math.inf}), "dirichlet must be a number above 0, not inf"),
        (suite(seeds=[0, 1, 0]), "seeds has 0 more than once: give each seed once"),
        (suite() | {"tuning_seeds": [5]}, "tuning_seeds choose among learning rates: give learning_rate as a list"),
        (suite(learning_rate=[1, 2]) | {"tuning_seeds": []}, "tuning_seeds must be a list of whole numbers"),
        (suite(learning_rate=[1, 2]) | {"tuning_seeds": [0]}, "seed 0 is in seeds and chooses learning rates too"),
        (suite(learning_rate=[1, 2], seeds=[1000]), "seed 1000 is in seeds and chooses learning rates too"),
        (suite(validation_images=0), "validation_images must be a whole number of at least 1, not 0"),
        (suite(validation_images=100), "100 images on the clients' side, of which validation_images takes 100"),
        (
            suite(
                model={"class": "ConvNet", "sweep": {"width": list(range(1, 1001))}}, learning_rate=list(range(1, 102))
            ),
            "a scenario makes 101,000 cells, but a suite can have 100,000: sweep fewer values",
        ),
        (suite(data="MNIST"), "which is not there: point --data-root"),
        (suite(data="CIFAR10JPEG"), "cifar-10-jpeg/test.npz is not there: point --data-root"),
    ],
)
def test_a_wrong_suite_is_one_sentence(leakboard: Leakboard, tmp_path: Path, given: Any, sentence: str) -> None:
    code, out, error = leakboard(given)
    assert code == 2 and out == "" and error.startswith("leakboard: ") and error.count("\n") == 1
    assert sentence in error
    assert not (tmp_path / "runs").exists()


def test_a_folder_that_can_not_be_written_is_told(leakboard: Leakboard, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    code, _, error = leakboard(suite(), "--out", tmp_path / "file")
    assert code == 2
    assert error == f"leakboard: the folder {tmp_path}/file cannot be written (Not a directory): give another folder\n"


def test_a_folder_without_records_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there are no records of training in"):
        read_all(tmp_path)


def test_a_scenario_can_have_defenses_of_its_own() -> None:
    scenarios = [SCENARIO, SCENARIO | {"rounds": 3, "defenses": [{"class": "Clipping", "max_norm": 0.5}]}]
    found = parse(suite("Masking", seeds=[0], scenarios=scenarios), "mine").trainings
    assert [training.defense and training.defense.name for training in found] == [None, "Masking", None, "Clipping"]


def test_the_larger_split_trains(tmp_path: Path) -> None:
    for number in range(8):  # a fourth of a folder's images are public
        (tmp_path / "photos" / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (30 * number, 9, 9)).save(tmp_path / "photos" / "ab"[number % 2] / f"{number}.png")
    data = {"class": "ImageFolder", "path": str(tmp_path / "photos"), "size": 8}
    scenario = parse(suite(data=data), "mine").trainings[0].scenario
    bench = Workbench(torch.device("cpu"))
    found = training_data(bench, replace(scenario, train_images=None, test_images=None))
    assert (len(found.labels), len(found.validation_labels), len(found.test_labels)) == (5, 1, 2)
    for path in sorted((tmp_path / "photos").rglob("[4-7].png")):
        path.unlink()
    with pytest.raises(UsageError, match="ImageFolder has no images for test_images: add images"):
        training_data(Workbench(torch.device("cpu")), replace(scenario, train_images=None, test_images=None))
    digits = training_data(bench, parse(suite(), "mine").trainings[0].scenario)
    assert (len(digits.labels), len(digits.test_labels)) == (90, 40)


def test_a_training_suite_is_no_suite_of_cells(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(suite()))
    with pytest.raises(SystemExit):
        main(["run", "mine.yaml"])
    assert "seeds is a key of suites for leakboard train: give seed here" in capsys.readouterr().err
