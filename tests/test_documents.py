"""The examples in the documents work as they stand."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from benchmark import leaderboard, table, threshold
from benchmark.cli import main
from benchmark.store import read_all
from benchmark.studies import PAPERS
from benchmark.suite import load
from benchmark.training import suite as training_suite

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
    (block,) = code_blocks("README.md", "yaml")
    path = tmp_path / "mine.yaml"
    path.write_text(block)
    assert len(load(path).cells) > 10


def test_every_suite_in_configs_is_a_suite() -> None:
    for path in sorted((ROOT / "configs").glob("*.yaml")):
        if path.stem in ("federated", "masking_training"):
            assert training_suite.load(path).trainings
        elif path.stem == "masking":
            assert threshold.load(path, None, None)
        else:
            assert load(path).cells


def test_the_published_table_is_what_its_records_say() -> None:
    folder = ROOT / "results" / "quick"
    made = table.as_markdown(leaderboard.of_records(read_all(folder)), "quick", None)
    assert (folder / "leaderboard.md").read_text() == made


@pytest.mark.parametrize("paper", [name for name in PAPERS if (ROOT / "results" / name).is_dir()])
def test_the_published_page_is_what_its_records_say(paper: str, tmp_path: Path) -> None:
    published, copy = ROOT / "results" / paper, tmp_path / paper
    shutil.copytree(published, copy)
    figures = re.findall(r"!\[.*?\]\((.*?)\)", (published / "README.md").read_text())
    for figure in figures:
        (copy / figure).unlink()
    made = PAPERS[paper](read_all(copy), copy)
    assert (published / "README.md").read_text() == made
    assert all((copy / figure).exists() for figure in figures)
