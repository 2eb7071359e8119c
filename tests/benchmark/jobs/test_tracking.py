"""W&B runs are read back from the disk; without network they are offline within seconds."""

import csv
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from benchmark.cli.flags import parsers
from benchmark.cli.main import main
from benchmark.cli.parts import take_parts
from benchmark.cli.run import asked_for
from benchmark.errors import UsageError
from benchmark.jobs.attack_tracking import AttackTracker, curve, tags_of, worst
from benchmark.jobs.tracking import Tracked, Tracker
from benchmark.suite.suite import CONFIGS, SWEEP

wandb = pytest.importorskip("wandb", reason="the core runs without wandb, its tracking does not")

CELL, BASELINE = "0123456789abcdef", "fedcba9876543210"
ROW = {
    "leak_rate": 0.5,
    "psnr_mean": 25.0,
    "lpips_mean": None,
    "attack_args": {"lr": 1.0},
    "diverged": 0,
    "void": False,
}
CONFIG = {
    "schema": 1,
    "data": {"class": "Digits"},
    "model": {"class": "LeNet", "width": 12},
    "batch_size": 1,
    "seed": 0,
    "defense": {"class": "Pruning", "share": 0.9},
    "attack": {"class": "IDLG"},
    "adaptive": True,
}


def record(victims: list[int], loss: list[Any], psnr: list[Any], evaluations: list[int]) -> dict[str, Any]:
    return {
        "key": f"{victims}",
        "provenance": {"commit": "abc", "versions": {"torch": "2.11"}},
        "victims": [{"index": index} for index in victims],
        "curve": {"evaluations": evaluations, "loss": loss, "psnr": psnr},
    }


RECORDS = [
    record([0, 1], [[None, 4.0, 2.0], [None, 6.0, 4.0]], [[5.0, 10.0, 20.0], [5.0, 12.0, 22.0]], [0, 10, 20]),
    record([2], [[1.0, None, 9.0]], [[5.0, 14.0, 24.0]], [0, 10, 20]),
]
POINTS = [  # the median of the losses at 0 is infinite
    {"evaluations": 0, "psnr": 5.0},
    {"evaluations": 10, "matching_loss": 6.0, "psnr": 12.0},
    {"evaluations": 20, "matching_loss": 4.0, "psnr": 22.0},
]


POINTS_OF_PLOT = [
    {
        "attacked": "Digits with LeNet",
        "trained": "FedSGD",
        "defense": name,
        "leak_rate": leak,
        "accuracy": 0.9,
        "void": void,
    }
    for name, leak, void in (("none", 1.0, ""), ("Masking", 0.25, ""), ("Clipping", 0.0, "did not act"))
]


def test_curve_is_median_loss_and_mean_psnr_over_all_victims() -> None:
    assert curve(RECORDS) == POINTS
    assert curve([*RECORDS, record([1], [[0.0] * 3], [[99.0] * 3], [0, 10, 20])]) == POINTS, "victim 1 counts once"
    assert curve([record([0, 1], [[1.0], [3.0]], [[5.0], [None]], [0])]) == [{"evaluations": 0, "matching_loss": 2.0}]
    assert curve([record([0, 1], [], [], [])]) == [], "a baseline has no curve"


def test_tags_say_what_the_attacker_knows() -> None:
    assert tags_of(CONFIG) == ["Digits", "LeNet", "Pruning", "IDLG", "adaptive"]
    assert tags_of(CONFIG | {"adaptive": False})[-1] == "oblivious"
    assert tags_of(CONFIG | {"adaptive": False, "defense": None})[-3:] == ["none", "IDLG", "control"]
    own = tags_of(CONFIG | {"attack": {"class": f"{'package.' * 10}MyAttack"}})[3]
    assert len(own) == 64 and own.endswith(".MyAttack"), "W&B refuses longer ones"


def test_without_wandb_the_user_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UsageError, match="install wandb or use --wandb disabled"):
        AttackTracker("offline", "quick", tmp_path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with all runs of a suite, one of them written twice."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "records").mkdir()
    (folder / "records" / "aa.json").write_text("{}")
    (folder / "records" / ".half.tmp").write_text("not whole yet")
    (folder / "training").mkdir()
    (folder / "training" / "bb.json").write_text('{"of": "training"}')
    (folder / "training" / "cc.pt").write_text("a checkpoint")
    (folder / "training.jsonl").write_text('{"of": "a published training"}')
    Image.new("RGB", (16, 8)).save(folder / "picture.png")
    tracker = AttackTracker("offline", "my suite", folder)
    tracker.cell(CELL, CONFIG, RECORDS, ROW, folder / "picture.png")
    baseline = CONFIG | {"defense": None, "adaptive": False, "attack": {"class": "MeanImage"}}
    tracker.cell(BASELINE, baseline, [record([0], [], [], [])], ROW, None)
    board = [{"rank": 1, **ROW, "cell": CELL}, {"rank": None, **ROW, "lpips_mean": 0.2}]
    tracker.leaderboard(board, {CELL: [Image.new("RGB", (16, 8), color) for color in ("red", "blue")]})
    Image.new("RGB", (24, 12)).save(folder / "tradeoff.png")
    tracker.trade_off(POINTS_OF_PLOT)
    tracker.trade_off([])
    time.sleep(1)  # the names of offline runs have seconds
    tracker.cell(CELL, CONFIG, RECORDS, ROW | {"leak_rate": 0.75}, folder / "picture.png")
    yield folder
    wandb.teardown()


@cache
def inspect(run: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "wandb", "leet", "inspect", *arguments, "--json", str(run)]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout


def summary(run: Path) -> dict[str, Any]:
    return dict(json.loads(inspect(run, "--summary")))


def log(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in inspect(run).splitlines()]


def runs(folder: Path, name: str = "*") -> list[Path]:
    return sorted((folder / "wandb").glob(f"offline-run-*-{name}"))


def test_run_of_a_cell_can_be_read_back(folder: Path) -> None:
    run = runs(folder, CELL)[0]
    found = summary(run)
    assert (found["project"], found["run_id"], found["state"]) == ("leakboard", CELL, "finished")
    assert found["name"] == "Digits LeNet Pruning IDLG adaptive"
    assert found["tags"] == tags_of(CONFIG)
    assert found["config"] == CONFIG | {"provenance": RECORDS[0]["provenance"]}
    scalars = {key: value for key, value in found["summary"].items() if not key.startswith("_")}
    picture = scalars.pop("reconstructions")
    assert scalars == {"leak_rate": 0.5, "psnr_mean": 25.0, "diverged": 0, "void": False}
    assert (picture["width"], picture["height"]) == (16, 8)
    assert (run / "files" / picture["path"]).read_bytes() == (folder / "picture.png").read_bytes()

    lines = log(run)
    about = next(line["run"] for line in lines if line["type"] == "run")
    assert (about["run_group"], about["job_type"], about["resume"]) == ("my suite", "cell", True)
    history = [line["history"]["item"] for line in lines if line["type"] == "history"]
    assert [{k: v for k, v in item.items() if k in POINTS[1]} for item in history] == POINTS
    metrics = {line["metric"]["name"]: line["metric"] for line in lines if line["type"] == "metric"}
    assert {metrics[name]["step_metric"] for name in ("matching_loss", "psnr")} == {"evaluations"}


def test_nothing_is_told_about_the_machine(folder: Path) -> None:
    assert runs(folder)
    for run in runs(folder):
        told = [line for line in log(run) if line["type"] != "artifact"]  # an artifact knows where its files are
        assert not {line["type"] for line in told} & {"output", "output_raw", "stats", "environment"}
        assert not [line for line in told if line["type"] == "run" and {"host", "git"} & line["run"].keys()]
        assert str(Path.cwd()) not in json.dumps(told)
        assert [path.name for path in (run / "files").iterdir() if path.name != "media"] == []


def test_cell_that_is_run_again_has_the_same_run(folder: Path) -> None:
    first, second = (summary(run) for run in runs(folder, CELL))
    assert first["run_id"] == second["run_id"] == CELL
    assert second["summary"]["leak_rate"] == 0.75


def test_baseline_has_a_run_without_curve(folder: Path) -> None:
    (run,) = runs(folder, BASELINE)
    assert summary(run)["tags"] == ["Digits", "LeNet", "none", "MeanImage", "control"]
    assert not [line for line in log(run) if line["type"] == "history"]


def of_folder(folder: Path, kind: str) -> Path:
    (run,) = [run for run in runs(folder) if summary(run)["name"] == f"my suite {kind}"]
    return run


def table_of(run: Path, name: str) -> dict[str, Any]:
    return dict(json.loads((run / "files" / summary(run)["summary"][name]["path"]).read_text()))


def contents(run: Path, name: str) -> dict[str, Path]:
    """The files of an artifact of a run, which will be uploaded, by their names in it."""
    (artifact,) = [
        line["artifact"] for line in log(run) if line["type"] == "artifact" and line["artifact"]["name"].endswith(name)
    ]
    return {one["path"]: Path(one["local_path"]) for one in artifact["manifest"]["contents"]}


def test_leaderboard_is_a_table(folder: Path) -> None:
    run = of_folder(folder, "leaderboard")
    about = next(line["run"] for line in log(run) if line["type"] == "run")
    assert (about["display_name"], about["job_type"]) == ("my suite leaderboard", "leaderboard")
    table = table_of(run, "leaderboard")
    assert table["columns"] == ["rank", *ROW, "cell", "true images", "reconstructions"]
    assert [row[:8] for row in table["data"]] == [
        [1, 0.5, 25.0, None, '{"lr": 1.0}', 0, False, CELL],
        [None, 0.5, 25.0, 0.2, '{"lr": 1.0}', 0, False, None],
    ]


def test_leaderboard_shows_true_images_and_reconstructions(folder: Path) -> None:
    files = contents(of_folder(folder, "leaderboard"), "-leaderboard")
    (shown, not_held) = json.loads(files["leaderboard.table.json"].read_text())["data"]
    assert not_held[-2:] == [None, None]
    assert [(one["_type"], one["width"], one["height"]) for one in shown[-2:]] == [("image-file", 16, 8)] * 2
    colors = [Image.open(files[one["path"]]).getpixel((0, 0)) for one in shown[-2:]]
    assert colors == [(255, 0, 0), (0, 0, 255)]


def test_the_trade_off_is_a_table_of_all_and_a_plot_of_what_says_something(folder: Path) -> None:
    run = of_folder(folder, "trade-off")
    table = table_of(run, "trade-off")
    assert [dict(zip(table["columns"], row, strict=True)) for row in table["data"]] == POINTS_OF_PLOT
    assert (summary(run)["summary"]["figure"]["width"], summary(run)["summary"]["figure"]["height"]) == (24, 12)
    (plot,) = [line["config"]["update"] for line in log(run) if "visualize" in json.dumps(line)]
    panel = plot["_wandb.visualize.trade-off 1"]["panel_config"]
    assert panel["fieldSettings"] == {"x": "accuracy", "y": "leak_rate"}
    assert panel["stringSettings"]["title"] == "Attacked: Digits with LeNet. Trained: FedSGD"
    plotted = table_of(run, "trade-off 1_table")
    names = [row[plotted["columns"].index("defense")] for row in plotted["data"]]
    assert names == ["none", "Masking"], "a void point is not plotted"


def test_what_is_downloaded_of_the_artifact_is_the_folder(folder: Path) -> None:
    files = contents(of_folder(folder, "leaderboard"), "my-suite-records")
    assert set(files) == {"records/aa.json", "training/bb.json", "training.jsonl"}
    assert all(path.read_bytes() == (folder / name).read_bytes() for name, path in files.items())


def test_failure_of_wandb_is_one_line_and_the_next_run_is_written(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "picture.png").write_bytes(b"this is no picture")
    tracker = AttackTracker("offline", "quick", tmp_path)
    tracker.cell(CELL, CONFIG, RECORDS, ROW, tmp_path / "picture.png")
    out, err = capfd.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("leakboard: W&B failed for Digits LeNet Pruning")
    tracker.cell(BASELINE, CONFIG, RECORDS, ROW, None)
    assert capfd.readouterr() == ("", "")
    assert len(runs(tmp_path)) == 2 and summary(runs(tmp_path, BASELINE)[0])["state"] == "finished"


# What the environment says


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """W&B reads the environment when its session begins."""
    wandb.teardown()  # the address of its service would otherwise be put back after the test
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    yield monkeypatch
    wandb.teardown()


def test_each_cell_keeps_its_own_id_whatever_the_environment_says(
    environment: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    theirs = {"RUN_ID": "theirs", "NAME": "one", "RUN_GROUP": "our group", "PROJECT": "ours", "RESUME": "must"}
    theirs |= {"JOB_TYPE": "job", "TAGS": "a,b", "DIR": str(tmp_path / "elsewhere"), "MODE": "disabled"}
    for name, value in (theirs | {"SILENT": "false"}).items():
        environment.setenv(f"WANDB_{name}", value)
    environment.setenv("TRAINING_JOB_NAME", "sagemaker")
    tracker = AttackTracker("offline", "quick", tmp_path)
    for name in (CELL, BASELINE):
        tracker.cell(name, CONFIG, RECORDS, ROW, None)
    tracker.leaderboard([{"cell": CELL, **ROW}])
    assert len(runs(tmp_path)) == 3 and not runs(tmp_path, "theirs") and not (tmp_path / "elsewhere").exists()
    (first,), (second,) = (runs(tmp_path, name) for name in (CELL, BASELINE))
    lines = [json.loads(line) for run in (first, second) for line in inspect(run).splitlines()]
    told = [line["run"] for line in lines if line["type"] == "run"]
    assert [about["run_id"] for about in told] == [CELL, BASELINE]
    for about in told:
        assert about["display_name"] == "Digits LeNet Pruning IDLG adaptive" and about["tags"] == tags_of(CONFIG)
        assert (about["project"], about["run_group"], about["job_type"]) == ("ours", "our group", "cell")
    assert capfd.readouterr().err == ""


@pytest.fixture
def sweep(environment: pytest.MonkeyPatch, tmp_path: Path, nothing_of_the_developers: None) -> pytest.MonkeyPatch:
    """What the agent of a sweep sets, of which it sets the last two for each run."""
    parameters = tmp_path / "params.yaml"
    parameters.write_text("wandb_version: 1\ndefense.ratio:\n  value: 0.5\ndata:\n  value: Digits\n")
    theirs = {"SWEEP_ID": "abc123", "PROJECT": "sweeps", "DIR": str(tmp_path)}
    for name, value in (theirs | {"RUN_ID": "theirs", "SWEEP_PARAM_PATH": str(parameters)}).items():
        environment.setenv(f"WANDB_{name}", value)
    return environment


def unreachable_server(self: Tracker) -> None:
    raise ConnectionError("no network")


FLAGS = "--data Digits --model MLP --attack IDLG --attack.max_evaluations 40 --victims 3 --wandb offline --out out"

GIVEN = yaml.safe_load((CONFIGS / f"{SWEEP}.yaml").read_text())
"""The sweep that comes with Leakboard."""


def leakboard(*words: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        main(list(words))
    assert isinstance(stopped.value.code, int)
    return stopped.value.code


def typed_by_the_agent(patch: pytest.MonkeyPatch, **values: Any) -> list[str]:
    """The command line by which W&B's own agent starts a run with these values of parameters, in the environment that
    it makes for it."""
    from wandb import wandb_agent

    started: list[list[str]] = []
    patch.setattr(wandb_agent, "AgentProcess", lambda command, **_: started.append(command) or type("Started", (), {}))
    agent = wandb_agent.Agent(api=None, queue=None, sweep_id="abc123")
    agent._sweep_command = list(GIVEN["command"])
    args = {name: {"value": value} for name, value in values.items()}
    told = agent._process_command({"type": "run", "run_id": "theirs", "program": GIVEN["program"], "args": args})
    assert "exception" not in told, told
    (command,) = started
    return command


def values_of(parameter: dict[str, Any]) -> list[Any]:
    return parameter["values"] if "values" in parameter else [parameter["value"]]


def test_every_run_of_the_sweep_that_comes_with_leakboard_is_a_cell(sweep: pytest.MonkeyPatch) -> None:
    names = list(GIVEN["parameters"])
    chosen = [dict(zip(names, one, strict=True)) for one in product(*map(values_of, GIVEN["parameters"].values()))]
    assert len(chosen) >= 4
    for values in chosen:
        program, *words = typed_by_the_agent(sweep, **values)
        own, parts, _ = take_parts(words)
        options = parsers()[0].parse_args(own)
        assert (program, options.command, options.wandb) == ("leakboard", "run", "online")
        suite = asked_for(options, parts)
        defenses = [cell.defense.as_dict() for cell in suite.cells if cell.defense]
        given = {name.removeprefix("defense."): value for name, value in values.items() if name.startswith("defense.")}
        assert defenses == [{"class": values["defense"], **given}] * 2 and given
        assert {cell.scenario.victims for cell in suite.cells} == {values["victims"]}


def test_a_sweep_has_one_run_of_the_cell_that_was_asked_for(
    sweep: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    small = {"data": "Digits", "model": "MLP", "attack": "IDLG", "attack.max_evaluations": 40, "victims": 3}
    words = typed_by_the_agent(sweep, **{"defense.ratio": 0.3, "defense": "Masking"}, **small)
    assert GIVEN["parameters"].keys() >= small.keys() and "--defense.ratio=0.3" in words
    (out,) = (one.partition("=")[2] for one in words if one.startswith("--out="))
    earlier = [*FLAGS.split(), "--defense", "Clipping"]
    earlier[earlier.index("offline")] = "disabled"  # another run of the sweep, in the same folder: it may leak more
    earlier[earlier.index("out")] = out
    assert leakboard("run", *earlier) == 0
    assert "W&B" not in capfd.readouterr().err
    sweep.setattr(Tracker, "_log_in", unreachable_server)
    assert leakboard(*words[1:]) == 0
    told = [line for line in capfd.readouterr().err.splitlines() if "W&B" in line]
    assert told and all("W&B cannot be reached (no network): continuing offline" in line for line in told)
    (run,) = runs(Path(out))
    about = summary(run)
    found = about["summary"]
    assert (about["run_id"], about["project"], about["state"]) == ("theirs", "sweeps", "finished")
    with Path(out, "leaderboard.csv").open() as file:
        table = list(csv.DictReader(file))
    mine = [row for row in table if row["defense"] == "Masking"]
    (control,) = [row for row in table if row["defense"] == "none" and row["attack"] == "IDLG"]
    assert len(mine) == 2 and len(table) == 8
    leaks = max(float(row["leak_rate"]) for row in mine)
    (chosen,) = [row for row in mine if row["cell"] == found["cell"]]
    assert found["leak_rate"] == float(chosen["leak_rate"]) == leaks
    assert found["defense"] == "Masking" and found["adaptive"] == (chosen["adaptive"] == "True")
    for key in ("leak_rate", "psnr_mean", "worst_leak_rate"):
        assert found[key] == pytest.approx(float(chosen[key])), key
        assert found[f"control_{key}"] == pytest.approx(float(control[key])), key
    config = about["config"]
    assert config["cell"]["defense"] == {"class": "Masking", "ratio": 0.3, "rescale": False}
    assert config["defense.ratio"] == 0.3 and config["data"] == "Digits", "the sweep's own parameters stay"
    assert {**config["cell"], **config} == config and config["cell"]["data"]["class"] == "Digits"
    records = [json.loads(path.read_text()) for path in Path(out, "records").glob("*.json")]
    history = [line["history"]["item"] for line in log(run) if line["type"] == "history"]
    expected = curve([record for record in records if record["cell"] == found["cell"]])
    told = [(item["evaluations"], item["psnr"]) for item in history if "evaluations" in item]
    assert told == [(point["evaluations"], point["psnr"]) for point in expected] and len(told) > 2
    assert {"leaderboard", "reconstructions"} <= found.keys()
    board = table_of(run, "leaderboard")
    of_cell = {row[board["columns"].index("cell")]: row for row in board["data"]}
    assert of_cell.keys() == {row["cell"] for row in table}
    shown = {cell: row[board["columns"].index("reconstructions")] for cell, row in of_cell.items()}
    assert all(shown.values()), "the records of earlier commands hold pictures, too"


@pytest.mark.parametrize(
    ("told", "chosen"),
    [
        ([("A", False, 0.5, 20.0), ("A", True, 0.75, 10.0)], ("A", True)),
        ([("A", False, 0.75, 20.0), ("A", True, 0.5, 30.0)], ("A", False)),
        ([("A", True, 0.5, 20.0), ("A", False, 0.5, 30.0)], ("A", False)),
        ([("A", True, 0.0, None), ("B", False, 0.25, 12.0)], ("B", False)),
        ([], (None, False)),
    ],
)
def test_the_summary_of_a_sweep_is_of_the_worst_defended_cell(
    told: list[tuple[str, bool, float, float | None]], chosen: tuple[str | None, bool]
) -> None:
    def made(defense: str | None, adaptive: bool, rate: float, psnr: float | None, attack: str = "IDLG") -> Tracked:
        config = CONFIG | {"adaptive": adaptive, "attack": {"class": attack}}
        config["defense"] = {"class": defense} if defense else None
        return Tracked(config, [], {"leak_rate": rate, "psnr_mean": psnr, "attack": attack})

    cells = [made(None, False, 1.0, 60.0), made(None, False, 1.0, 99.0, "MeanImage"), *(made(*one) for one in told)]
    found = worst(cells)
    defense = found.config["defense"]
    assert (defense and defense["class"], found.config["adaptive"], found.config["attack"]["class"]) == (
        *chosen,
        "IDLG",
    )
    assert found.control is (cells[0].row if told else None)


def test_a_search_does_not_go_into_a_sweep(sweep: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    Path("mine.yaml").write_text(
        "scenarios: [{data: Digits, model: LeNet}]\nattacks: [{class: IDLG, max_evaluations: 2}]\n"
        "defenses: [{class: Masking, range: {ratio: [0, 0.9]}}]\nvictims: 2\n"
    )
    assert leakboard("threshold", "mine.yaml", "--wandb", "offline") == 2
    assert capfd.readouterr().err.startswith("leakboard: a W&B sweep has one run per command")


def test_attacks_and_trainings_of_a_suite_have_a_trade_off(
    environment: pytest.MonkeyPatch, nothing_of_the_developers: None
) -> None:
    training = {"clients": 2, "rounds": 1, "learning_rate": 0.1, "train_images": 20, "test_images": 20, "seeds": [0]}
    suite: dict[str, Any] = {"victims": 2, "lpips": False, "scenarios": [{"data": "Digits", "model": "MLP"}]}
    suite |= {"attacks": ["AnalyticLinear"], "defenses": ["Masking"], "training": training}
    Path("mine.yaml").write_text(json.dumps(suite))
    told: list[list[dict[str, Any]]] = []
    environment.setattr(Tracker, "write", lambda *_: None)  # what is written is read back above
    environment.setattr(Tracker, "trade_off", lambda self, points: told.append(points))
    assert leakboard("run", "mine.yaml", "--wandb", "offline") == 0
    (points,) = told
    with Path("runs/mine/leaderboard.csv").open() as attacked, Path("runs/mine/training.csv").open() as trained:
        leaks = {row["defense"]: row["worst_leak_rate"] for row in csv.DictReader(attacked) if row["worst_leak_rate"]}
        accuracies = [float(row["accuracy"]) for row in csv.DictReader(trained)]
    assert len(points) == len(leaks) == 2
    assert sorted(point["accuracy"] for point in points) == sorted(accuracies)
    assert sorted(point["leak_rate"] for point in points) == sorted(map(float, leaks.values()))
    assert Path("runs/mine/tradeoff.png").exists() and all({"attacked", "trained", "void"} < set(one) for one in points)


SCRIPT = """
import json, sys, time
from pathlib import Path
import benchmark.jobs.attack_tracking
assert "wandb" not in sys.modules and "torch" not in sys.modules
if sys.argv[1] == "lost":  # the network was there in the beginning
    benchmark.jobs.attack_tracking.Tracker._log_in = lambda self: None
started = time.perf_counter()
tracker = benchmark.jobs.attack_tracking.AttackTracker("online", "quick", Path(sys.argv[2]))
for cell in ("0123456789abcdef", "fedcba9876543210"):
    tracker.cell(cell, json.loads(sys.argv[3]), [], {"leak_rate": 0.5}, None)
print(time.perf_counter() - started)
"""


@pytest.fixture(scope="module")
def unreachable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, tuple[Path, subprocess.Popen[str]]]]:
    """Three processes that try to go online with a server that is not there, at once because they only wait."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # nobody listens, and nobody else can
        clean = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
        clean |= {"WANDB_BASE_URL": f"http://127.0.0.1:{closed.getsockname()[1]}", "NO_PROXY": "127.0.0.1"}
        started = {}
        for name, key in {"no key": "", "key": "0" * 40, "lost": "0" * 40}.items():
            folder = tmp_path_factory.mktemp("online")
            environment = clean | {"NETRC": str(folder / "none"), "WANDB_CONFIG_DIR": str(folder)}
            started[name] = (
                folder,
                subprocess.Popen(
                    [sys.executable, "-c", SCRIPT, name, str(folder), json.dumps(CONFIG)],
                    env=environment | ({"WANDB_API_KEY": key} if key else {}),
                    cwd=Path(__file__).parents[3],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                ),
            )
        yield started
        for _, process in started.values():
            process.kill()


@pytest.mark.parametrize("name", ["no key", "key", "lost"])
def test_online_without_network_is_offline_within_20_seconds(
    name: str, unreachable: dict[str, tuple[Path, subprocess.Popen[str]]]
) -> None:
    folder, process = unreachable[name]
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert err.count("\n") == 1, err
    assert err.startswith("leakboard: W&B cannot be reached (")
    assert err.endswith(f"): continuing offline; to sync later: wandb sync {folder / 'wandb'}\n")
    assert ("no API key" in err) == (name == "no key")
    assert float(out) < 20
    for cell in (CELL, BASELINE):
        (run,) = runs(folder, cell)
        assert summary(run)["state"] == "finished"
