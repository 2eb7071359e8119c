"""The examples in the documents work as they stand."""

import json
import re
import shlex
import shutil
from functools import cache
from pathlib import Path

import pytest

from benchmark.boards import leaderboard, table
from benchmark.cli.main import main
from benchmark.cli.page import PAPERS
from benchmark.papers import overview
from benchmark.papers.sources import trainings
from benchmark.store.store import Record, read_all
from benchmark.studies import performance_page
from benchmark.suite.suite import load
from benchmark.thresholds import search as threshold
from benchmark.training import suite as training_suite
from benchmark.training import table as training_table

ROOT = Path(__file__).parent.parent


def code_blocks(document: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)


@pytest.mark.parametrize("index", [0, 1], ids=["defense", "attack"])
def test_the_examples_of_contributing_run(index: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    name = ["my_defense", "my_attack"][index]
    (tmp_path / f"{name}.py").write_text(code_blocks("CONTRIBUTING.md", "python")[index])
    monkeypatch.chdir(tmp_path)
    (line,) = (line for line in text.splitlines() if "leakboard run" in line and name in line)
    arguments = shlex.split(line)[4:]
    arguments[arguments.index("--victims") + 1] = "2"
    with pytest.raises(SystemExit) as stop:
        main(["run", *arguments, "--attack.max_evaluations", "60"])
    assert stop.value.code == 0
    (folder,) = (tmp_path / "runs").iterdir()
    records = [json.loads(path.read_text()) for path in (folder / "records").iterdir()]
    classes = {(r["config"]["attack"]["class"], (r["config"]["defense"] or {}).get("class")) for r in records}
    assert any(name in str(pair) for pair in classes)


def test_the_suite_of_the_readme_is_a_suite(tmp_path: Path) -> None:
    blocks = [block for block in code_blocks("README.md", "yaml") if "scenarios:" in block]
    whole, scenario = sorted(blocks, key=lambda block: "attacks:" not in block)
    path = tmp_path / "mine.yaml"
    path.write_text(whole)
    assert len(load(path).cells) > 10
    path.write_text(f"{scenario}attacks: [IDLG]\n")
    assert load(path).cells


def test_every_suite_in_configs_is_a_suite() -> None:
    paths = sorted((ROOT / "configs").glob("*.yaml"))
    assert {"quick", "idlg", "dlg_fb", "masking", "masking_training", "federated"} <= {path.stem for path in paths}
    for path in paths:
        if path.stem in ("federated", "masking_training"):
            assert training_suite.load(path).trainings
        elif path.stem == "masking":
            assert threshold.load(path, None, None)
        else:
            assert load(path).cells


@cache
def records_of(name: str) -> list[Record]:
    """The published records, which are read once."""
    return read_all(ROOT / "results" / name)


@pytest.mark.parametrize("name", overview.FOLDERS)
def test_the_published_tables_are_what_their_records_say(name: str) -> None:
    folder = ROOT / "results" / name
    found = leaderboard.of_records(records_of(name), intervals=name != "masking")  # whose intervals take seconds
    assert (folder / "leaderboard.md").read_text() == table.as_markdown(found, name, None)
    if name != "masking":
        assert (folder / "leaderboard.csv").read_text() == table.as_csv(found)


def test_the_published_trainings_are_what_their_records_say() -> None:
    folder = ROOT / "results" / "masking"
    found = training_table.rows(trainings(folder))
    assert (folder / "training.csv").read_text() == training_table.as_csv(found)
    assert (folder / "training.md").read_text() == training_table.as_markdown(found, "masking_training")


@pytest.mark.parametrize("paper", PAPERS)
def test_the_published_page_is_what_its_records_say(paper: str, tmp_path: Path) -> None:
    published, copy = ROOT / "results" / paper, tmp_path / paper
    shutil.copytree(published, copy, ignore=shutil.ignore_patterns("records*"))
    figures = re.findall(r"!\[.*?\]\((.*?)\)", (published / "README.md").read_text())
    assert figures
    others = [copy / name for name in ("thresholds.md", "spectrum.md", "diagnosis.md") if (copy / name).exists()]
    for made_anew in (copy / "README.md", *(copy / figure for figure in figures), *others):
        made_anew.unlink()
    made = PAPERS[paper](records_of(paper), copy)
    assert (published / "README.md").read_text() == made
    for path in (*(copy / figure for figure in figures), *others, *copy.glob("thresholds.json")):
        assert path.read_bytes() == (published / path.name).read_bytes(), path.name


def test_the_page_of_all_results_is_what_the_folders_say() -> None:
    folder = ROOT / "results"
    made = overview.page(folder, lambda run: records_of(run.name))
    assert (folder / "README.md").read_text() == made
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
