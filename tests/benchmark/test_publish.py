"""A published run: no private image in it, and all that its tables need."""

from pathlib import Path

import pytest
import yaml

from benchmark.cli import main
from benchmark.store import read_all
from benchmark.training.store import read_all as read_trainings

ATTACKED = {
    "victims": 2,
    "scenarios": [{"data": "Digits", "model": "LeNet"}],
    "attacks": [{"class": "IDLG", "max_evaluations": 3}],
}
TRAINED = {
    "seeds": [0],
    "scenarios": [{"data": "Digits", "model": "LeNet", "clients": 2, "rounds": 1, "learning_rate": 0.1}],
}


def leakboard(*words: str | Path) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    return int(ended.value.code or 0)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(ATTACKED))
    assert leakboard("run", "mine.yaml", "--devices", "cpu") == 0
    return tmp_path / "runs" / "mine"


def test_the_tables_come_out_again_and_the_run_goes_on_without_a_private_image(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    to = run.parent / "published"
    assert leakboard("publish", run, to) == 0
    assert "4 records without their pictures" in capsys.readouterr().out
    before = {record["key"]: record for record in read_all(run)}
    assert all(record["picture"] for record in before.values())
    assert {record["key"]: record | {"picture": before[record["key"]]["picture"]} for record in read_all(to)} == before
    assert not any(record["picture"] for record in read_all(to))
    assert sorted(path.name for path in to.iterdir()) == ["leaderboard.csv", "leaderboard.md", "records"]

    assert leakboard("show", run) == 0
    shown = capsys.readouterr().out
    assert leakboard("show", to) == 0 and capsys.readouterr().out == shown
    assert leakboard("run", "mine.yaml", "--out", to, "--devices", "cpu", "--victims", "3") == 0
    assert "4 of 4 blocks run" in capsys.readouterr().out  # the block of two victims is not that of three
    assert leakboard("run", "mine.yaml", "--out", to, "--devices", "cpu") == 0
    assert "everything was done already" in capsys.readouterr().out
    assert leakboard("publish", run, to) == 0 and len(read_all(to)) == 8  # what is there already stays


def test_trainings_are_published_too(run: Path) -> None:
    Path("train.yaml").write_text(yaml.safe_dump(TRAINED))
    assert leakboard("train", "train.yaml", "--out", run, "--devices", "cpu") == 0
    to = run.parent / "published"
    assert leakboard("publish", run, to) == 0
    assert read_trainings(to) == read_trainings(run) and (to / "training.md").exists()


def test_what_can_not_be_published_is_said(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert leakboard("publish", "nowhere", "to") == 2 and "there are no records in nowhere" in capsys.readouterr().err
    assert leakboard("publish", run, run) == 2 and "is the run itself" in capsys.readouterr().err
    Path("file").write_text("")
    assert leakboard("publish", run, Path("file") / "to") == 2 and "can not be written" in capsys.readouterr().err
