"""The program as its users run it."""

import csv
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmark.cli.flags import parsers
from benchmark.cli.main import handler, main
from benchmark.store.store import Store, read_all
from benchmark.suite.registry import KINDS, classes
from datamodules import Digits
from tests.benchmark.cli.conftest import cell
from tests.conftest import MakeRecord

CELL = ["--data", "Digits", "--model", "MLP", "--attack", "IDLG", "--attack.max_evaluations", "5", "--victims", "2"]
DEFENDED = [*CELL, "--defense", "Masking", "--defense.ratio", "0.25"]

PROMISED = {
    "dataset",
    "model",
    "defense",
    "defense_args",
    "attack",
    "attack_args",
    "adaptive",
    "victims",
    "leaked",
    "leak_rate",
    "leak_rate_low",
    "leak_rate_high",
    "mse_median",
    "psnr_mean",
    "ssim_mean",
    "lpips_mean",
    "label_accuracy",
    "evaluations_mean",
    "seconds_per_victim",
    "diverged",
    "void",
}

Leakboard = Callable[..., str]


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No suites, data or weights of the developer's; own modules in the folder are found."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    monkeypatch.delenv("LEAKBOARD_DATA", raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))  # the program adds the folder


@pytest.fixture
def leakboard(capsys: pytest.CaptureFixture[str]) -> Leakboard:
    """Runs a command that must succeed, and returns what it prints."""

    def run(*words: Any) -> str:
        with pytest.raises(SystemExit) as stopped:
            main([str(word) for word in words])
        said = capsys.readouterr()
        assert stopped.value.code == 0, said.err
        return said.out

    return run


def shown(leakboard: Leakboard, folder: Path) -> list[dict[str, Any]]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    rows: list[dict[str, Any]] = json.loads(leakboard("show", folder, "--format", "json"), parse_constant=refuse)
    return rows


def results(folder: Path) -> list[tuple[Any, ...]]:
    """What the records say, but when and how fast it was found."""
    records = sorted(read_all(folder), key=lambda record: record["key"])
    return [(r["key"], r["config"], r["victims"], r["curve"], r["picture"]) for r in records]


def times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (folder / "records").iterdir()}


# Help, which must not wait for torch.


@pytest.mark.parametrize(
    "words", [["--help"], ["run", "--help"], ["plan", "--help"], ["show", "--help"], [], ["frob"], ["run", "--frob"]]
)
def test_help_and_typing_errors_do_not_load_torch(words: list[str]) -> None:
    code = (
        f"import sys\nfrom benchmark.cli.main import main\ntry:\n    main({words})\n"
        "finally:\n    assert not {'torch', 'lightning', 'numpy', 'rich'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "Traceback" not in done.stderr
    if "frob" in words[-1:] or "--frob" in words:
        assert done.returncode == 2
    else:
        assert done.returncode == 0 and done.stdout.startswith("usage: leakboard")


def test_what_only_reads_records_does_not_load_torch(tmp_path: Path, made_record: MakeRecord) -> None:
    """Nor scipy.stats, which takes the better part of a second, too."""
    store = Store(tmp_path / "run")
    store.write(made_record())
    store.write(made_record(attack={"class": "MeanImage"}))
    commands = [["show", str(tmp_path / "run")], ["publish", str(tmp_path / "run"), str(tmp_path / "to")]]
    commands += [["show", str(tmp_path / "to"), "--format", style] for style in ("json", "csv", "markdown")]
    code = (
        "import sys\nfrom benchmark.cli.main import main\n"
        f"for words in {commands!r}:\n    try:\n        main(words)\n    except SystemExit as end:\n"
        "        assert end.code == 0, words\n"
        "assert not {'torch', 'lightning', 'torchmetrics', 'matplotlib', 'scipy.stats'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr


def test_every_command_has_a_handler() -> None:
    _, commands = parsers()
    assert len(commands) == 15 and all(callable(handler(name)) for name in commands)


TAKEN = {
    "run": {"data", "model", "defense", "attack", "scenario", "trainer"},
    "plan": {"data", "model", "defense", "attack", "scenario"},
    "bench": {"data", "model", "attack", "scenario"},
    "rank": {"data", "model", "defense"},
    "check": {"data", "model", "defense", "attack"},
}


@pytest.mark.parametrize("command", parsers()[1])
def test_the_help_names_every_kind_of_class_that_a_command_takes(command: str, leakboard: Leakboard) -> None:
    """Among the flags, each on a line of its own, and no other kind."""
    said = leakboard(command, "--help")
    flags = set(re.findall(r"^  --(\w+)(?: CLASS|\.KEY VALUE|\.ARGUMENT VALUE)", said, re.MULTILINE))
    assert flags == TAKEN.get(command, set())
    assert ("--attack.help IDLG" in " ".join(said.split())) == bool(flags)


@pytest.mark.parametrize("command", parsers()[1])
def test_the_help_names_the_defaults_that_a_command_has(command: str) -> None:
    options = parsers()[1][command]
    for flag, action in options._option_string_actions.items():
        said = re.search(r"\(default: ([^)]+)\)", action.help or "")
        own = options.get_default(action.dest)
        if said and isinstance(own, str | float | int) and own != "auto":  # which the help says in words
            assert said[1] == str(own), flag


def test_list_names_every_class_with_a_line_about_it(leakboard: Leakboard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    lines = dict(line.split(maxsplit=1) for line in leakboard("list").splitlines() if line.startswith("  "))
    for kind in KINDS:
        for name, cls in classes(kind).items():
            assert cls.__doc__ and lines[name] == cls.__doc__.strip().splitlines()[0]
    assert {"IDLG", "Masking", "Digits", "LeNet", "MeanImage"} <= set(lines)


def test_list_cuts_its_lines_to_the_terminal(leakboard: Leakboard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    lines = [line for line in leakboard("list").splitlines() if line.startswith("  ")]
    assert max(map(len, lines)) == 60


@pytest.mark.parametrize(
    ("kind", "name", "words"),
    [
        ("attack", "IDLG", ["Improved Deep Leakage", "--attack.max_evaluations", "default: 6000", "300 steps of 20"]),
        ("defense", "Masking", ["--defense.ratio", "probability that an entry is zeroed", "default: 0.5"]),
        ("data", "ImageFolder", ["--data.path", "required", "--data.size"]),
        ("model", "MLP", ["--model.hidden", "width of the hidden layers", "default: 128"]),
    ],
)
def test_every_argument_of_a_class_is_explained(leakboard: Leakboard, kind: str, name: str, words: list[str]) -> None:
    said = " ".join(leakboard("run", f"--{kind}.help", name).split())
    for word in words:
        assert word in said
    assert "configuration file" not in said and "--help" not in said  # these are unavailable


def test_what_the_command_line_or_the_data_give_is_no_argument(leakboard: Leakboard) -> None:
    assert "--data.root" not in leakboard("run", "--data.help", "MNIST")
    assert "num_classes" not in leakboard("run", "--model.help", "LeNet")


# A single cell.


def test_a_cell_is_run_with_control_adaptive_twin_and_baselines(leakboard: Leakboard, tmp_path: Path) -> None:
    out = tmp_path / "out"
    said = leakboard("run", *DEFENDED, "--out", out)
    assert "6 of 6 blocks run" in said and str(out / "records") in said
    found = {(row["attack"], row["defense"], row["adaptive"]) for row in shown(leakboard, out)}
    assert found == {
        ("IDLG", "none", False),
        ("IDLG", "Masking", False),
        ("IDLG", "Masking", True),
        ("ConstantImage", "none", False),
        ("MeanImage", "none", False),
        ("ClassMeanImage", "none", False),
    }
    assert sorted(path.name for path in out.iterdir()) == [
        "leaderboard.csv",
        "leaderboard.md",
        "leaderboard.tex",
        "locks",
        "pictures",
        "records",
    ]
    assert not any((out / "locks").iterdir())
    assert len(list((out / "records").iterdir())) == len(list((out / "pictures").iterdir())) == 6


def test_a_picture_shows_the_private_images_above_those_that_were_found(leakboard: Leakboard, tmp_path: Path) -> None:
    leakboard("run", *CELL, "--out", tmp_path / "out")
    data = Digits()
    data.setup()
    (path,) = (tmp_path / "out" / "pictures").glob("*ConstantImage*.png")
    with Image.open(path) as image:
        pixels = np.asarray(image)
        assert (image.format, image.mode) == ("PNG", "RGB")
    side = 12 * 8 + 4  # an image of 8x8 pixels, 12 times as large, with a gap
    assert pixels.shape[0] == 2 * side + 4 and pixels.shape[1] >= 2 * side + 4
    tiles = pixels[:, -2 * side :, 0]  # what is left of them names the rows
    for place, true in enumerate(data.victims(2)[0][:, 0, 0].numpy()):
        tile = tiles[4:side:12, place * side : (place + 1) * side - 4 : 12]
        assert np.abs(tile / 255 - true).max() < 1 / 255
    assert set(np.unique(tiles[side + 4 : -4])) == {128, 255}  # the baseline's gray, and white gaps


def test_the_tables_on_disk_are_those_that_show_makes(leakboard: Leakboard, tmp_path: Path) -> None:
    out = tmp_path / "own"
    leakboard("run", *DEFENDED, "--out", out)
    assert leakboard("show", out, "--format", "csv") == (out / "leaderboard.csv").read_text()
    page = (out / "leaderboard.md").read_text()
    assert page.startswith("# own\n") and "LPIPS is empty: LPIPS weights" in page
    assert leakboard("show", out, "--format", "markdown") == page
    rows = shown(leakboard, out)
    assert [row["attack"] for row in csv.DictReader(io.StringIO((out / "leaderboard.csv").read_text()))] == [
        row["attack"] for row in rows
    ]
    assert "Digits with MLP" in leakboard("show", out) and "IDLG adaptive" in leakboard("show", out)


def test_every_row_has_the_promised_keys_in_strict_json(leakboard: Leakboard, tmp_path: Path) -> None:
    leakboard("run", *CELL, "--defense", "Clipping", "--defense.max_norm", ".inf", "--out", tmp_path / "out")
    rows = shown(leakboard, tmp_path / "out")
    assert len(rows) == 6
    for row in rows:
        assert set(row) >= PROMISED
        assert (row["dataset"], row["model"], row["victims"]) == ("Digits", "MLP", 2)
        assert 0 <= row["leak_rate_low"] <= row["leak_rate"] <= row["leak_rate_high"] <= 1
        assert row["lpips_mean"] is None
    clipped = [row for row in rows if row["defense"] == "Clipping"]
    assert [row["defense_args"] for row in clipped] == [{"max_norm": "inf"}] * 2
    (control,) = [row for row in rows if row["attack"] == "IDLG" and row["defense"] == "none"]
    for row in clipped:  # an infinite norm is no defense; who knows of it does not match factors, but their product
        assert row["psnr_mean"] == pytest.approx(control["psnr_mean"], rel=1e-4)
    assert control["evaluations_mean"] == 5
    for path in (tmp_path / "out" / "records").iterdir():
        assert "NaN" not in path.read_text() and "Infinity" not in path.read_text()


def test_the_same_command_again_does_nothing_and_says_so(leakboard: Leakboard, tmp_path: Path) -> None:
    out = tmp_path / "out"
    leakboard("run", *CELL, "--out", out)
    before, csv_before = times(out), (out / "leaderboard.csv").read_bytes()
    (out / "leaderboard.md").unlink()
    next((out / "pictures").iterdir()).unlink()
    said = leakboard("run", *CELL, "--out", out)
    assert "everything was done already: nothing to run" in said
    assert times(out) == before
    assert (out / "leaderboard.csv").read_bytes() == csv_before
    assert (out / "leaderboard.md").exists() and len(list((out / "pictures").iterdir())) == 4


def test_a_flag_and_its_value_may_be_one_word(leakboard: Leakboard, tmp_path: Path) -> None:
    leakboard("run", *CELL, "--out", tmp_path / "two")
    flags = [f"{flag}={value}" for flag, value in zip(CELL[::2], CELL[1::2], strict=True)]
    leakboard("run", *flags, f"--out={tmp_path / 'one'}")
    assert results(tmp_path / "one") == results(tmp_path / "two")


def test_values_are_read_as_in_a_suite_and_defaults_are_recorded(leakboard: Leakboard, tmp_path: Path) -> None:
    flags = ["--defense", "Masking", "--defense.rescale", "true", "--attack.tolerance", "1e-3"]
    flags += ["--attack.optimizer", "adam", "--attack.learning_rate", "0.05"]
    flags += ["--model", "LeNet", "--model.init_range", "1"]
    leakboard("run", *cell(*flags, of=CELL), "--out", tmp_path / "out")
    (config,) = [r["config"] for r in read_all(tmp_path / "out") if r["config"]["adaptive"]]
    assert config["defense"] == {"class": "Masking", "ratio": 0.5, "rescale": True}
    assert config["attack"] == {
        "class": "IDLG",
        "at_once": None,
        "history_size": 100,
        "max_evaluations": 5,
        "line_search": False,
        "optimizer": "adam",
        "learning_rate": 0.05,
        "batch_norm": 0.0,
        "distance": "squared",
        "trials": 1,
        "labels": None,
        "patience": None,
        "prior_scale": 1.0,
        "restarts": 0,
        "start": "noise",
        "tolerance": 0.001,
        "total_variation": 0.0,
    }
    assert config["model"] == {"class": "LeNet", "init_range": 1.0}
    assert (config["data"], config["batch_size"], config["seed"]) == ({"class": "Digits"}, 1, 0)


def test_flags_and_a_suite_mean_the_same_records(leakboard: Leakboard, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(
        "scenarios: [{data: Digits, model: MLP}]\nattacks: [{class: IDLG, max_evaluations: 5}]\n"
        "defenses: [{class: Masking, ratio: 0.25}]\nvictims: 2\n"
    )
    leakboard("run", "own.yaml")
    leakboard("run", *DEFENDED)
    assert results(Path("runs/own")) == results(Path("runs/cells"))


def test_the_same_seed_gives_the_same_results_and_another_seed_others(leakboard: Leakboard, tmp_path: Path) -> None:
    for folder, seed in (("first", 7), ("second", 7), ("other", 8)):
        leakboard("run", *DEFENDED, "--seed", seed, "--out", tmp_path / folder)
    first, second, other = (results(tmp_path / folder) for folder in ("first", "second", "other"))
    assert first == second
    psnr = [
        {str(v["psnr"]) for *_, victims, _, _ in found for v in victims if v["evaluations"]} for found in (first, other)
    ]
    assert psnr[0] and not psnr[0] & psnr[1]


def test_more_victims_in_the_same_folder_do_not_count_twice(leakboard: Leakboard, tmp_path: Path) -> None:
    leakboard("run", *CELL, "--out", tmp_path / "grown")
    leakboard("run", *cell("--victims", "4", of=CELL), "--out", tmp_path / "grown")
    leakboard("run", *cell("--victims", "4", of=CELL), "--out", tmp_path / "whole")
    grown, whole = (shown(leakboard, tmp_path / folder) for folder in ("grown", "whole"))
    assert [row["victims"] for row in grown] == [4] * 4
    assert [row["label_accuracy"] for row in grown] == [row["label_accuracy"] for row in whole]
    assert [row["psnr_mean"] for row in grown] == pytest.approx([row["psnr_mean"] for row in whole], rel=1e-3)


def test_progress_is_a_line_for_each_cell_where_it_goes_to_a_file(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with pytest.raises(SystemExit):
        main(["run", *CELL, "--out", str(tmp_path / "out")])
    said = capsys.readouterr().err
    assert "1/4 cells, 2 victims: Digits MLP, no defense, ConstantImage" in said  # a null baseline leaks nothing
    last = r"^4/4 cells, 8 victims: Digits MLP, no defense, IDLG\(max_evaluations=5\), [0-2] of 2 leaked$"
    assert re.search(last, said, re.MULTILINE)


def test_a_line_of_progress_says_what_leaked_in_its_own_cell(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = cell("--attack", "AnalyticLinear", of=[*CELL[:6], *CELL[8:]])
    with pytest.raises(SystemExit):
        main(["run", *words, "--defense", "GaussianNoise", "--defense.std", "100", "--out", str(tmp_path / "out")])
    said = capsys.readouterr().err
    assert "Digits MLP, no defense, AnalyticLinear, 2 of 2 leaked\n" in said
    assert "Digits MLP, GaussianNoise(std=100.0), AnalyticLinear, 0 of 2 leaked\n" in said


@pytest.mark.parametrize(("data", "model"), [("Digits", "MLP"), ("Photos", "MLP"), ("Photos", "ConvNet")])
def test_every_model_fits_every_data_set(leakboard: Leakboard, tmp_path: Path, data: str, model: str) -> None:
    size = ["--data.size", "10"] if data == "Photos" else []
    leakboard("run", *cell("--data", data, *size, "--model", model, of=CELL), "--out", tmp_path / "out")
    assert {(row["dataset"], row["model"]) for row in shown(leakboard, tmp_path / "out")} == {(data, model)}


def test_a_batch_of_two_is_attacked_by_dlg(leakboard: Leakboard, tmp_path: Path) -> None:
    leakboard("run", *cell("--attack", "DLG", of=CELL), "--batch-size", 2, "--out", tmp_path / "out")
    assert [len(v["psnr"]) for record in read_all(tmp_path / "out") for v in record["victims"]] == [2] * 8
    assert {row["batch_size"] for row in shown(leakboard, tmp_path / "out")} == {2}


OWN = '''
import torch

from attacks.baselines import Baseline
from benchmark.models.draw import draw_default
from datamodules import PrivateData
from datamodules.base import TensorSplit
from defenses import Defense, KnownDefense


class Gray(Baseline):
    """An own attack.

    Args:
        level: of gray.
    """

    def __init__(self, level: float = 0.25) -> None:
        self.level = level

    def guess(self, observation, labels):
        return torch.tensor(self.level)


class Zero(Defense):
    """An own defense."""

    def protect(self, update, generators):
        return {name: value * 0 for name, value in update.items()}

    def known_to_attacker(self):
        return KnownDefense()


class Stripes(PrivateData):
    """Own data."""

    num_classes, image_shape = 3, (1, 4, 4)

    def load(self, train):
        return TensorSplit(torch.full((6, 1, 4, 4), 0.25), torch.arange(6) % 3)


class Linear(torch.nn.Sequential):
    """An own model."""

    def __init__(self, image_shape, num_classes):
        channels, height, width = image_shape
        super().__init__(torch.nn.Flatten(), torch.nn.Linear(channels * height * width, num_classes))

    def draw(self, generator):
        return draw_default(self, generator)
'''


def test_own_classes_are_run_by_their_import_path(leakboard: Leakboard, tmp_path: Path) -> None:
    (tmp_path / "own_good.py").write_text(OWN)
    own = [f"--{kind}=own_good.{name}" for kind, name in zip(KINDS, ("Gray", "Zero", "Stripes", "Linear"), strict=True)]
    leakboard("run", *own, "--victims", 2, "--out", tmp_path / "out")
    rows = shown(leakboard, tmp_path / "out")
    (found,) = [row for row in rows if row["attack"] == "own_good.Gray" and row["adaptive"]]
    assert (found["dataset"], found["model"], found["defense"]) == (
        "own_good.Stripes",
        "own_good.Linear",
        "own_good.Zero",
    )
    assert found["attack_args"] == {"level": 0.25}
    assert found["psnr_mean"] == 100 and found["leaked"] == 0  # all images are that gray, and so is their mean
    assert "of gray. (type: float, default: 0.25)" in leakboard("run", "--attack.help", "own_good.Gray")
