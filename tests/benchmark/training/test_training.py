"""Training suites: from YAML to runs and records; tracked, stopped and gone on with."""

import csv
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmark.errors import UsageError
from benchmark.jobs.blocks import Workbench
from benchmark.jobs.job import Watch, work
from benchmark.models.convnet import ConvNet
from benchmark.store.store import TRAININGS, Store
from benchmark.store.store import read_trainings as read_all
from benchmark.thresholds.strengths import DefenseThresholds
from benchmark.training import record as training
from benchmark.training.plan import Run, plan
from benchmark.training.rows import rows
from benchmark.training.suite import parse
from benchmark.training.tracking import TrainingTracker, is_of
from benchmark.training.work import Trainings
from tests.benchmark.training.conftest import MASKING, SCENARIO, Leakboard, carried_out, results, suite, trained

pytestmark = pytest.mark.usefixtures("nothing_of_the_developers")


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
    one = DefenseThresholds("CIFAR10", "CIFAR10 LeNet", {}, "Masking", "ratio", {}, [], {})
    assert [one.is_trained_on(name) for name in ("CIFAR10", "CIFAR10JPEG", "MNIST")] == [True, True, False]


def test_a_record_counts_the_bytes_that_clients_send(leakboard: Leakboard, tmp_path: Path) -> None:
    code, _, err = leakboard(suite({"class": "Masking", "ratio": 0.9}, "HalfPrecision", seeds=[0]))
    assert code == 0, err
    found = {}
    for record in read_all(tmp_path / "runs" / "mine"):
        found[(record["config"]["defense"] or {"class": None})["class"]] = record["cost"]
    whole = found[None]["client_bytes"]
    assert whole == 4 * sum(p.numel() for p in ConvNet((1, 8, 8), 10, width=4).parameters())
    assert found["HalfPrecision"]["client_bytes"] == whole / 2
    # A tenth, each with its position, but for those of silent units, which are zero without a mask.
    assert 0.1 * whole < found["Masking"]["client_bytes"] < 0.22 * whole
    assert all(0 < cost["client_seconds"] < cost["seconds"] for cost in found.values())


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
    assert "as means over n seeds" in (folder / "training.md").read_text()
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
        assert record["images_tested"] == SCENARIO["test_images"]
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
    module.teardown()  # the address of its service would otherwise be put back after the test
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
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
    ((board, _),) = (told.pop(name) for name in set(told) - set(found))
    assert board["name"] == "mine training" and board["summary"]["training"]["nrows"] == 2
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
    reported, chose = trained(0, 0.9), trained(1000, 0.8)
    chose["config"] |= {"tuning": True}
    (row,) = rows([reported, chose])
    assert is_of(reported, row) and not is_of(chose, row)


def test_the_run_of_a_sweep_has_the_configuration_of_its_own_scenario(monkeypatch: pytest.MonkeyPatch) -> None:
    curve = {"round": [0, 4], "accuracy": [0.1, 0.5], "loss": [2.0, 1.0]}
    well, worse = trained(0, 0.9, "Masking", curve=curve), trained(0, 0.5, "Masking", curve=curve)
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
            "(model is ConvNet(width=4) there and MLP(activation=sigmoid, depth=1, first_std=None, hidden=128, "
            "mean=None, std=None) here)",
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
