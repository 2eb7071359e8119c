"""The examples in the documents work as they stand."""

import json
import re
import shlex
import shutil
from functools import cache
from pathlib import Path

import pytest
import torch

from attacks.network.gradients import trained_names
from benchmark.boards import leaderboard, table
from benchmark.cli.main import main
from benchmark.cli.page import PAPERS
from benchmark.federation.protect import check_can_defend, network_of
from benchmark.jobs.blocks import Workbench, applicable
from benchmark.papers import overview
from benchmark.papers.sources import trainings
from benchmark.rehearsal import contracts
from benchmark.rehearsal.hooks import check_fits
from benchmark.store.declined import declined_in
from benchmark.store.store import Record, read_all
from benchmark.studies import performance_page
from benchmark.suite import suite
from benchmark.suite.registry import build
from benchmark.suite.suite import load
from benchmark.thresholds import search as threshold
from benchmark.training import suite as training_suite
from benchmark.training import table as training_table
from benchmark.training.plan import training_model
from benchmark.training.rows import rows
from benchmark.training.suite import beside

ROOT = Path(__file__).parent.parent


def code_blocks(document: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)


EXAMPLES = {"my_defense": (0, 1, 2), "my_attack": (3, 4), "my_model": (5,), "my_data": (6,)}
"""Files that CONTRIBUTING.md asks to save, and the blocks of code that belong into each."""

CHECKED_TOO = ("my_defense.Rounded", "my_defense.Negative", "my_attack.SureLabel")
"""What it does not check itself."""


def called(words: str) -> None:
    """Runs a command that must succeed."""
    with pytest.raises(SystemExit) as stop:
        main(shlex.split(words))
    assert stop.value.code == 0, words


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_examples_of_contributing_pass_the_check_and_run(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, blocks = (ROOT / "CONTRIBUTING.md").read_text(), code_blocks("CONTRIBUTING.md", "python")
    assert sorted(one for numbers in EXAMPLES.values() for one in numbers) == list(range(len(blocks)))
    (tmp_path / f"{name}.py").write_text("".join(blocks[one] for one in EXAMPLES[name]))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(contracts, "SETTINGS", {"": contracts.SETTINGS[""]})  # the others are those of our own classes
    lines = [line for line in text.splitlines() if line.startswith("    uv run leakboard ") and name in line]
    (check,) = (line for line in lines if "leakboard check" in line)
    (run,) = (line for line in lines if "leakboard run" in line)
    short = " --attack.steps 2" if name == "my_attack" else ""
    called(check.partition("leakboard ")[2] + short)
    for own in (one for one in CHECKED_TOO if name in one):
        called(f"check {own} --model MLP")
    short = " --attack.max_evaluations 4" if "IDLG" in run else short
    called(run.partition("leakboard ")[2].replace("--victims 8", "--victims 2") + short)
    (folder,) = (tmp_path / "runs").iterdir()
    records = [json.loads(path.read_text())["config"] for path in (folder / "records").iterdir()]
    parts = {part["class"] for config in records for part in config.values() if isinstance(part, dict)}
    assert any(one.startswith(f"{name}.") for one in parts)


def test_the_attack_and_the_defense_of_contributing_take_20_lines() -> None:
    for block in code_blocks("CONTRIBUTING.md", "python"):
        assert len([line for line in block.splitlines() if line.strip()]) <= 20


def test_the_python_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = code_blocks("README.md", "python")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("benchmark.api.suite_path", lambda name: tmp_path / f"{name}.yaml")
    attacks = [{"class": "IDLG", "max_evaluations": 4}]
    mine = {"scenarios": [{"data": "Digits", "model": "MLP"}], "attacks": attacks}
    (tmp_path / "quick.yaml").write_text(json.dumps(mine))
    names: dict[str, object] = {}
    fast = {
        '"IDLG"': '{"class": "IDLG", "max_evaluations": 4}',
        '"LeNet"': '"MLP"',
        "=8": "=2",
        "workers=2": "workers=1",
    }
    for slow, short in fast.items():
        block = block.replace(slow, short)
    exec(block, names)
    assert names["found"]


NEEDED = {"scenarios": "scenarios: [{data: Digits, model: MLP}]\n", "attacks": "attacks: [DLG]\n"}
"""Keys of a suite, which an example of something else leaves out."""


def test_the_suites_of_the_readme_are_suites(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("mine.py").write_text("from lightning.pytorch import Callback\n\n\nclass MyCallback(Callback):\n    pass\n")
    cells = []
    for block in code_blocks("README.md", "yaml"):
        Path("mine.yaml").write_text(block + "".join(text for key, text in NEEDED.items() if f"{key}:" not in block))
        cells.append(len(load(Path("mine.yaml")).cells))
    assert sorted(cells) == [4, 12]  # controls and baselines, of the whole one with 4 defenses to two attackers


def test_every_suite_in_configs_is_a_suite() -> None:
    paths = sorted(path for path in (ROOT / "configs").glob("*.yaml") if path.stem != suite.SWEEP)
    assert {"quick", "idlg", "dlg_fb", "masking", "masking_training", "federated"} <= {path.stem for path in paths}
    for path in paths:
        if path.stem in ("federated", "masking_training"):
            assert training_suite.load(path).trainings
        elif path.stem == "masking":
            assert threshold.load(path, None, None)
        else:
            assert load(path).cells


FAKE = """
import torch
from datamodules.base import PrivateData, Split, TensorSplit


class Fake(PrivateData):
    image_shape = (3, 32, 32)

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.num_classes = num_classes

    def load(self, train: bool) -> Split:
        return TensorSplit(torch.rand(1000, *self.image_shape), torch.arange(1000) % self.num_classes)
"""


@pytest.mark.parametrize("name", ["attacks", "leaderboard"])
def test_every_cell_of_a_suite_is_taken_by_its_attack_and_trained(
    name: str, nothing_of_the_developers: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each defense fits the clients of both. On noise of the shape of CIFAR, and without the trained weights."""
    Path("fake.py").write_text(FAKE)
    given = suite.read(ROOT / "configs" / f"{name}.yaml")
    for scenario in given["scenarios"]:
        if isinstance(scenario["data"], dict):
            classes = {"CIFAR10": 10, "CIFAR100": 100}[scenario["data"]["class"]]
            scenario["data"] = {"class": "fake.Fake", "num_classes": classes}
        if isinstance(scenario["model"], dict):
            scenario["model"] = {key: value for key, value in scenario["model"].items() if key != "checkpoint"}
    bench, parsed = Workbench(torch.device("cpu")), suite.parse(given, name)
    planned, declined = applicable(parsed, bench)
    assert planned.cells and [one.reason for one in declined] == []
    trained = beside(parsed)
    planned_trainings = trained.trainings if trained else ()
    for training in {(repr(t.scenario.model), repr(t.defense)): t for t in planned_trainings}.values():
        if training.defense is None:
            continue
        how, model = training.scenario.federation, training_model(bench, training.scenario)
        defense, shape = build("defense", training.defense), bench.data(training.scenario.data).image_shape
        local = how.algorithm == "FedAvg"
        check_can_defend(defense, training.label, model, (how.batch_size, *shape), local, train=True)
        shared = trained_names(network_of(defense, model, shape))
        check_fits(defense, shared, training.label, training.scenario.model.label)


@cache
def records_of(name: str) -> list[Record]:
    """The published records, which are read once."""
    return read_all(ROOT / "results" / name)


@pytest.mark.parametrize("name", overview.FOLDERS)
def test_the_published_tables_are_what_their_records_say(name: str) -> None:
    folder = ROOT / "results" / name
    records = records_of(name)
    # Intervals of all the cells of masking take seconds.
    found = leaderboard.of_records(records, intervals=name != "masking", declined=declined_in(folder))
    no_lpips = table.missing_lpips(records) if name in overview.BOARDS else None
    assert (folder / "leaderboard.md").read_text() == table.as_markdown(found, name, no_lpips)
    if name != "masking":
        assert (folder / "leaderboard.csv").read_text() == table.as_csv(found)


@pytest.mark.parametrize(
    "name", [name for name in overview.FOLDERS if (ROOT / "results" / name / "training.md").exists()]
)
def test_the_published_trainings_are_what_their_records_say(name: str) -> None:
    folder = ROOT / "results" / name
    found = rows(trainings(folder))
    assert found and (folder / "training.csv").read_text() == training_table.as_csv(found)
    assert (folder / "training.md").read_text() == training_table.as_markdown(found, name)


@pytest.mark.parametrize("paper", PAPERS)
def test_the_published_page_is_what_its_records_say(paper: str, tmp_path: Path) -> None:
    published, copy = ROOT / "results" / paper, tmp_path / paper
    shutil.copytree(published, copy, ignore=shutil.ignore_patterns("records*"))
    figures = re.findall(r"!\[.*?\]\((.*?)\)", (published / "README.md").read_text())
    assert figures or paper == "attacks"
    others = [copy / name for name in ("thresholds.md", "spectrum.md", "diagnosis.md") if (copy / name).exists()]
    (tmp_path / "masking").mkdir(exist_ok=True)  # whose strengths stand beside a board's
    shutil.copy(ROOT / "results" / "masking" / "thresholds.json", tmp_path / "masking")
    for made_anew in (copy / "README.md", *(copy / figure for figure in figures), *others):
        made_anew.unlink()
    made = PAPERS[paper](records_of(paper), copy)
    assert (published / "README.md").read_text() == made
    for path in (*(copy / figure for figure in figures), *others, *copy.glob("thresholds.json")):
        assert path.read_bytes() == (published / path.name).read_bytes(), path.name


def test_the_page_of_all_results_is_what_the_folders_say() -> None:
    folder = ROOT / "results"
    found = overview.found_in(folder, lambda run: records_of(run.name))
    made, index = overview.page(found), overview.index(found)
    assert (folder / "README.md").read_text() == made
    assert (folder / "index.html").read_text() == index and len(index) < 200_000
    for link in re.findall(r'(?:href|src)="([^"#]+)"', index):
        assert (folder / link).exists(), link
    for paper in PAPERS:
        assert f"| [{paper}]({paper}/README.md) |" in made
    for link in re.findall(r"\]\(([^)]*)\)", made):
        assert (folder / link).exists(), link


def test_the_readme_says_of_speed_what_was_measured() -> None:
    """If not, this is the sentence that belongs there."""
    folder = ROOT / "results"
    said = overview.speed_of(performance_page.read(folder), folder)
    assert said in " ".join((ROOT / "README.md").read_text().split()), said
    for words in ("times less", "7 times"):
        assert words not in (ROOT / "README.md").read_text()


def test_every_folder_of_results_stands_on_the_page_of_all() -> None:
    folders = {path.name for path in (ROOT / "results").iterdir() if path.is_dir()}
    assert folders == set(overview.FOLDERS)
