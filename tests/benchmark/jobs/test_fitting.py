"""What a user gives Lightning's Trainer reaches the attacks of a run, and the live curves in W&B."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import wandb

from attacks.engine.step import COMPILED
from benchmark.cli.main import main
from benchmark.jobs.blocks import Workbench, plan
from benchmark.jobs.fitting import Fitting
from benchmark.jobs.live import LiveCurves
from benchmark.jobs.tracking import Tracker
from benchmark.store.schema import attack_record
from benchmark.store.store import read_all
from benchmark.suite.suite import parse

pytestmark = pytest.mark.usefixtures("nothing_of_the_developers")

CELL = "run --data Digits --model MLP --attack IDLG --attack.max_evaluations 12 --attack.tolerance 0 --victims 2"

OWN = """
from lightning.pytorch.callbacks import Callback


class Notes(Callback):
    def on_train_end(self, trainer, pl_module):
        open("notes.txt", "a").write(f"{pl_module.ledger.status} {len(trainer.loggers)}\\n")


class Enough(Callback):
    def on_train_batch_end(self, trainer, pl_module, *args):
        trainer.should_stop = True


class Meddler(Callback):
    def __init__(self, hook: str, what: str, after: int = 3):
        self.calls, self.what, self.after = 0, what, after
        setattr(self, hook, self.meddle)

    def meddle(self, trainer, pl_module, *args):
        self.calls += 1
        if self.calls < self.after:
            return
        if self.what == "images":
            pl_module.images.data.clamp_(0, 1)
        elif pl_module.images.grad is not None:
            pl_module.images.grad.mul_(0.5)
"""


def run(*more: str, code: int = 0) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*CELL.split(), *more])
    assert ended.value.code == code


def victims(folder: str) -> Any:
    found = {record["key"]: record["victims"] for record in read_all(Path(folder), attack_record)}
    return found


def test_callbacks_loggers_and_a_profiler_reach_the_attack_and_change_nothing(tmp_path: Path) -> None:
    Path("notes_of.py").write_text(OWN)
    run("--out", "plain")
    own = '[{"class_path": "notes_of.Notes"}]'
    watched = ["--trainer.profiler", "simple", "--trainer.logger=true", "--trainer.log_every_n_steps", "4"]
    run("--out", "watched", *watched, f"--trainer.callbacks={own}")
    assert victims("plain") == victims("watched")
    assert len(Path("notes.txt").read_text().splitlines()) == 1  # baselines are not fitted
    (curves,) = Path("watched").glob("curves/*/metrics.csv")
    rows = curves.read_text().splitlines()
    assert [row.split(",")[-1] for row in rows] == ["step", "3", "7", "11"] and rows[0].startswith("active,converged")
    (profile,) = Path("watched").glob("profiles/*.txt")
    assert "optimizer_step" in profile.read_text()


def test_a_callback_that_ends_an_attack_early_ends_the_run_with_its_place(capsys: pytest.CaptureFixture[str]) -> None:
    Path("notes_of2.py").write_text(OWN)
    run("--out", "early", '--trainer.callbacks=[{"class_path": "notes_of2.Enough"}]', code=2)
    told = capsys.readouterr().err.splitlines()[-1]
    assert "the callback Enough ends attacks early" in told and "(notes_of2.py, line 10)" in told
    attacks = {record["config"]["attack"]["class"] for record in read_all(Path("early"), attack_record)}
    assert "IDLG" not in attacks


@pytest.mark.parametrize(
    ("hook", "what"),
    [
        ("on_train_batch_start", "images"),
        ("on_train_batch_end", "images"),
        ("on_before_zero_grad", "images"),
        ("on_after_backward", "gradients"),
        ("on_before_optimizer_step", "gradients"),
    ],
)
def test_a_callback_that_changes_what_is_fitted_ends_the_run_before_there_is_a_record(
    hook: str, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("notes_of.py").write_text(OWN)
    own = f'[{{"class_path": "notes_of.Meddler", "init_args": {{"hook": "{hook}", "what": "{what}"}}}}]'
    run("--out", "meddled", f"--trainer.callbacks={own}", code=2)
    said = capsys.readouterr().err.splitlines()[-1]
    assert "the callback Meddler changes what is fitted" in said and "notes_of.py" in said
    attacks = {record["config"]["attack"]["class"] for record in read_all(Path("meddled"), attack_record)}
    assert "IDLG" not in attacks


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--step", "graph"], "step graph needs a GPU: on a CPU choose compiled or eager"),
        (["--trainer", "simple"], "--trainer needs an argument, as in --trainer.profiler simple"),
        (["--trainer.max_time", "00:00:01:00"], "max_time ends attacks early"),
    ],
)
def test_a_wrong_flag_is_told_before_any_work(
    more: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run("--out", "none", *more, code=2)
    assert sentence in capsys.readouterr().err and not Path("none/records").exists()


def test_help_on_the_trainer_needs_no_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["run", "--trainer.help"])
    assert ended.value.code == 0 and "--trainer.profiler" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("attack", "more", "sentence"),
    [
        ("MeanImage", "--trainer.profiler simple", "is fitted by Lightning's Trainer: leave trainer out"),
        ("AutoLeak", "--trainer.profiler simple", "is fitted by Lightning's Trainer: leave trainer out"),
        ("RGAP", "--step compiled", "no attack of the suite takes steps: leave --step compiled out"),
    ],
)
def test_what_no_attack_of_a_suite_can_take_is_refused(
    attack: str, more: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["run", "--data", "Digits", "--model", "MLP", "--attack", attack, *more.split()])
    assert ended.value.code == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(("attack", "takes"), [("IDLG", True), ("AutoLeak", True), ("GaussNewton", False)])
def test_an_attack_that_takes_steps_is_told_how(attack: str, takes: bool) -> None:
    cell = {"scenarios": [{"data": "Digits", "model": "MLP"}], "attacks": [attack], "defenses": []}
    blocks = plan(parse(cell, "steps", 1), Workbench(torch.device("cpu")))
    with Fitting(step=COMPILED).of([one for one in blocks if one.cell.attack.name == attack]) as (watchers, of_fit):
        assert not watchers and of_fit == ({"step": COMPILED} if takes else {})


# Live curves.


@pytest.fixture
def stopped() -> Iterator[None]:
    yield
    wandb.teardown()


def history(run: Path) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(run)]
    lines = subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout.splitlines()
    return [line["history"]["item"] for line in map(json.loads, lines) if line["type"] == "history"]


@pytest.mark.usefixtures("stopped")
def test_the_running_cell_has_live_curves_without_a_network() -> None:
    run("--out", "tracked", "--wandb", "offline", "--trainer.log_every_n_steps", "4")
    (live,) = Path("tracked/wandb").glob("offline-run-*-live")  # of the attack; baselines are not fitted
    points = history(live)
    assert [point["trainer/global_step"] for point in points] == [3, 7, 11]
    assert [point["active"] for point in points] == [2, 2, 0] and all(point["loss"] > 0 for point in points)
    assert {"converged", "epoch"} < set(points[0])
    run("--out", "plain")
    assert victims("plain") == victims("tracked")


def test_a_failure_of_wandb_does_not_reach_the_attack(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = Tracker("offline", "mine", tmp_path)
    config = {"data": {"class": "D"}, "model": {"class": "M"}, "attack": {"class": "A"}, "defense": None}

    def broken(*_: Any) -> Any:
        raise ConnectionResetError("the service is gone\nfor good")

    monkeypatch.setattr(tracker, "begin", broken)
    curves = LiveCurves(tracker, config, "id", range(2, 5))
    curves.log_metrics({"loss": 1.0}, 3)
    curves.log_metrics({"loss": 0.5}, 4)
    curves.finalize("success")
    curves.end()
    told = capsys.readouterr().err.splitlines()
    assert told == [
        "leakboard: W&B failed for the live curves of D M none A control, victims 2 to 4 (the service is gone): "
        "continuing without them"
    ]
