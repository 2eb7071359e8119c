"""A published run: no private image in it, and all that its tables need."""

import errno
import json
import os
import re
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from benchmark.boards import table
from benchmark.boards.leaderboard import of_records
from benchmark.boards.markdown import escaped
from benchmark.cli import publish as publishing
from benchmark.cli import report
from benchmark.cli.flags import parsers
from benchmark.cli.main import main
from benchmark.identity import digest
from benchmark.papers.sources import provenance
from benchmark.store.store import TRAININGS, Record, Store, read_all, read_trainings, write_whole
from benchmark.thresholds import page as threshold_page
from tests.conftest import MakeRecord

ATTACKED = {
    "victims": 2,
    "scenarios": [{"data": "Digits", "model": "MLP"}],
    "attacks": [{"class": "IDLG", "max_evaluations": 3}],
}
TRAINED = {
    "seeds": [0],
    "scenarios": [{"data": "Digits", "model": "MLP", "clients": 2, "rounds": 1, "learning_rate": 0.1}],
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
    assert "published 4 records, without pictures" in capsys.readouterr().out
    before = {record["key"]: record for record in read_all(run)}
    assert all(record["picture"] for record in before.values())
    assert {record["key"]: record | {"picture": before[record["key"]]["picture"]} for record in read_all(to)} == before
    assert not any(record["picture"] for record in read_all(to))
    names = {"leaderboard.csv", "leaderboard.md", "leaderboard.tex", "records.jsonl"}
    assert {path.name for path in to.iterdir()} == names

    assert leakboard("show", run) == 0
    shown = capsys.readouterr().out
    assert leakboard("show", to) == 0 and capsys.readouterr().out == shown
    assert leakboard("run", "mine.yaml", "--out", to, "--devices", "cpu", "--victims", "3") == 0
    assert "4 of 4 blocks run" in capsys.readouterr().out  # the block of two victims is not that of three
    assert leakboard("run", "mine.yaml", "--out", to, "--devices", "cpu") == 0
    assert "everything was done already" in capsys.readouterr().out
    assert len(list((to / "records").glob("*.json"))) == 4  # a run goes on in files of its own
    assert leakboard("publish", run, to) == 0 and len(read_all(to)) == 8  # what is there already stays
    assert leakboard("publish", to, run.parent / "again") == 0
    assert {path.name for path in (run.parent / "again").iterdir()} == names
    assert read_all(run.parent / "again") == [record | {"picture": ""} for record in read_all(to)]


def test_tables_and_figures_are_published_and_nothing_that_shows_private_images(run: Path) -> None:
    shared = {f"tradeoff.{ending}" for ending in ("csv", "md", "png", "pdf", "tex")}
    shared |= {f"leaderboard.{ending}" for ending in ("csv", "md", "tex")}
    for name in (*shared, report.FILE, "mine.html"):
        (run / name).touch()
    for name in ("wandb", "curves", "profiles", "pictures"):
        (run / name).mkdir(exist_ok=True)
        (run / name / "private.png").touch()
    to = run.parent / "published"
    assert leakboard("publish", run, to) == 0
    assert {path.name for path in to.iterdir()} == shared | {"records.jsonl"}


def test_trainings_are_published_too(run: Path) -> None:
    Path("train.yaml").write_text(yaml.safe_dump(TRAINED))
    assert leakboard("train", "train.yaml", "--out", run, "--devices", "cpu") == 0
    to = run.parent / "published"
    assert leakboard("publish", run, to) == 0
    assert read_trainings(to) == read_trainings(run) and (to / "training.md").exists()


def test_what_cannot_be_published_is_said(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert leakboard("publish", "nowhere", "to") == 2 and "there are no records in nowhere" in capsys.readouterr().err
    assert leakboard("publish", run, run) == 2 and "is the run itself" in capsys.readouterr().err
    Path("file").write_text("")
    assert leakboard("publish", run, Path("file") / "to") == 2 and "cannot be written" in capsys.readouterr().err


def test_on_a_full_disk_nothing_is_advised_that_the_command_does_not_take(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    for command, *words in (("publish", run, tmp_path / "to"), ("report", run), ("run", "mine.yaml", "--victims", "3")):
        assert leakboard(command, *words) == 2
        said = capsys.readouterr().err.splitlines()[-1]
        assert "cannot be written (No space left on device): free some space or give another f" in said
        flags = {flag: action for action in parsers()[1][command]._actions for flag in action.option_strings}
        for flag in re.findall(r"--[\w-]+", said):
            assert f"give another {(flags[flag].metavar or '').lower()} with {flag}" in said


def test_links_are_not_followed(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither a file of the run that leads elsewhere, nor one in the target."""
    secret, other = tmp_path / "secret.json", tmp_path / "other.md"
    secret.write_text('{"secret": 1}')
    other.write_text("mine")
    (run / "secret.json").symlink_to(secret)
    records = sorted((run / "records").glob("*.json"))
    elsewhere = tmp_path / records[0].name
    records[0].rename(elsewhere)
    records[0].symlink_to(elsewhere)
    (run / ".private.json").write_text("{}")
    to = run.parent / "published"
    to.mkdir()
    (to / "leaderboard.md").symlink_to(other)
    capsys.readouterr()
    assert leakboard("publish", run, to) == 0
    said = capsys.readouterr().err
    assert f"the record {records[0].name} is a link: it is left out" in said
    assert "secret.json is a link: it is not published" in said
    assert not list(to.glob("*.json")) and not list(to.glob(".*")) and len(read_all(to)) == 3
    assert other.read_text() == "mine" and not (to / "leaderboard.md").is_symlink()


@pytest.mark.parametrize("place", ["run/records", "run/training", "to/records", "to/training", "to/publish.lock"])
def test_folders_that_are_links_are_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    to, elsewhere = run.parent / "published", tmp_path / "elsewhere"
    to.mkdir()
    folder, _, name = place.partition("/")
    link = (run if folder == "run" else to) / name
    if link.exists():
        link.rename(elsewhere)
    else:
        elsewhere.mkdir()
    there = sorted(elsewhere.iterdir())
    link.symlink_to(elsewhere)
    assert leakboard("publish", run, to) == 2
    assert f"{name} is a link, and publish" in capsys.readouterr().err
    assert sorted(elsewhere.iterdir()) == there


@pytest.mark.parametrize("side", ["run", "to"])
def test_published_files_that_are_links_are_refused(
    tmp_path: Path, made_record: MakeRecord, capsys: pytest.CaptureFixture[str], side: str
) -> None:
    for first, name in enumerate(("run", "to")):
        Store(tmp_path / "made").write(made_record(2 * first))
        assert leakboard("publish", tmp_path / "made", tmp_path / name) == 0
    link, elsewhere = tmp_path / side / "records.jsonl", tmp_path / "elsewhere"
    link.rename(elsewhere)
    link.symlink_to(elsewhere)
    before = elsewhere.read_bytes()
    capsys.readouterr()
    assert leakboard("publish", tmp_path / "run", tmp_path / "to") == 2
    assert "records.jsonl is a link" in capsys.readouterr().err
    assert link.is_symlink() and elsewhere.read_bytes() == before


def test_runs_that_are_published_to_one_folder_at_once_are_all_there(
    tmp_path: Path, made_record: MakeRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slowly(path: Path, content: bytes) -> None:
        time.sleep(0.05)
        write_whole(path, content)

    monkeypatch.setattr(publishing, "write_whole", slowly)
    for number in range(4):
        Store(tmp_path / str(number)).write(made_record(2 * number))
    with ThreadPoolExecutor(4) as pool:
        done = [pool.submit(publishing.publish, tmp_path / str(number), tmp_path / "to") for number in range(4)]
    assert [one.result() for one in done] == [1] * 4
    assert len(read_all(tmp_path / "to")) == 4 and not list((tmp_path / "to").glob("*.lock"))


def test_records_of_a_tree_with_changed_files_are_named(
    tmp_path: Path, made_record: MakeRecord, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(tmp_path / "run")
    for first, commit in ((0, "abc"), (2, "abc+"), (4, None)):
        made = made_record(first)
        store.write(made | {"provenance": made["provenance"] | {"commit": commit}})
    assert leakboard("publish", tmp_path / "run", tmp_path / "to") == 0
    assert "1 of 3 records are from a source tree with changed files" in capsys.readouterr().err
    (line,) = [line for line in provenance(read_all(tmp_path / "to")).splitlines() if "changed files" in line]
    assert line.startswith("- 1 of 3 records")


def test_what_a_record_says_is_no_markup_in_a_page(tmp_path: Path, made_record: MakeRecord) -> None:
    bad = "<script>alert(1)</script> | [x](y) `c` *b*\n# x \udcff"
    made = made_record()
    origin = {"commit": bad, "device": bad, "versions": {bad: bad}, "data_notes": [bad]}
    page = provenance([made | {"provenance": made["provenance"] | origin}])
    assert page.count(r"&lt;script&gt;alert(1)&lt;/script&gt; \| \[x\](y) \`c\` \*b\* # x ?") == 5
    assert "<" not in page


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("IDLG(total_variation=1e-05)", "IDLG(total_variation=1e-05)"),
        ("__init__", r"\_\_init\_\_"),
        ("a\x1b[31mb\u202ec", r"a \[31mb c"),
        ("a & b > c", "a &amp; b &gt; c"),
        (r"C:\x", r"C:\\x"),
        (float("nan"), "nan"),
        (None, "None"),
    ],
)
def test_a_value_is_shown_as_it_is(text: object, shown: str) -> None:
    assert escaped(text) == shown


def test_tables_of_several_runs_in_one_folder_are_of_all_of_them(tmp_path: Path, made_record: MakeRecord) -> None:
    to = tmp_path / "published"
    for name, attack in (("first", "DLG"), ("second", "IDLG")):
        run = tmp_path / name
        defended = [{"class": "GaussianNoise", "std": std} for std in (0.1, 1.0)]
        records = [made_record(defense=defense, attack={"class": attack}) for defense in (None, *defended)]
        for record in records:
            Store(run).write(record)
        config = records[0]["config"]
        scenario = {part: config[part] for part in config if part not in ("schema", "defense", "attack", "adaptive")}
        search = {"dataset": "Digits", "model": "LeNet", "where": "Digits LeNet", "scenario": scenario, "victims": 2}
        search |= {"defense": "GaussianNoise", "argument": "std", "fixed": {}, "attack": {"class": attack}}
        search |= {"adaptive": False, "strengths": [0.1, 1.0]}
        threshold_page.write(run, records, [search])
        table.write(run, of_records(records), records)
        assert leakboard("publish", run, to) == 0
    found = json.loads((to / "thresholds.json").read_text())["thresholds"]
    assert [search["attack"]["class"] for search in found] == ["DLG", "IDLG"]
    assert "| DLG |" in (to / "thresholds.md").read_text()
    board = (to / "leaderboard.csv").read_text()
    assert ",DLG," in board and ",IDLG," in board


def dated(record: Record, day: int) -> Record:
    return record | {"provenance": record["provenance"] | {"date": f"2026-01-{day:02}T00:00:00Z"}}


def test_newer_records_of_other_code_replace_older_ones_and_nothing_else(
    tmp_path: Path, made_record: MakeRecord, capsys: pytest.CaptureFixture[str]
) -> None:
    noise, better = {"class": "GaussianNoise", "std": 0.1}, {"class": "DLG", "max_evaluations": 9}
    old = [dated(made_record(first, code="old", defense=noise), 1) for first in (0, 2)]
    others = [dated(made_record(code="old", **other), 1) for other in ({"attack": better}, {"defense": None})]
    new = dated(made_record(code="new", defense=noise), 2)
    to = tmp_path / "to"
    for name, records in (("before", [*old, *others]), ("after", [new])):
        for record in records:
            Store(tmp_path / name).write(record)
        capsys.readouterr()
        assert leakboard("publish", tmp_path / name, to) == 0
    said = capsys.readouterr().err
    assert "1 record of other code was replaced by newer ones of the same cell and victims" in said
    left = {record["key"] for record in (old[1], *others, new)}
    assert {record["key"] for record in read_all(to)} == left
    assert leakboard("publish", tmp_path / "before", to) == 0  # what is older does not come back
    assert "1 record of other code was replaced" in capsys.readouterr().err
    assert {record["key"] for record in read_all(to)} == left


def test_records_in_files_of_their_own_are_replaced_too(tmp_path: Path, made_record: MakeRecord) -> None:
    """As in the folder of an entry, where a run goes on."""
    old, new = dated(made_record(code="old"), 1), dated(made_record(code="new"), 2)
    Store(tmp_path / "to").write(old)
    Store(tmp_path / "run").write(new)
    assert leakboard("publish", tmp_path / "run", tmp_path / "to") == 0
    assert [record["key"] for record in read_all(tmp_path / "to")] == [new["key"]]
    assert not list((tmp_path / "to" / "records").glob("*.json"))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture
def both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of attacks and trainings, in the current folder."""
    monkeypatch.chdir(tmp_path)
    training = {"clients": 2, "rounds": 1, "learning_rate": 0.1, "seeds": [0], "train_images": 60, "test_images": 20}
    defenses = [{"class": "Masking", "sweep": {"ratio": [0.1, 0.5, 0.9]}}, "Sign"]
    given = ATTACKED | {"lpips": False, "defenses": defenses, "training": training}
    (tmp_path / "both.yaml").write_text(yaml.safe_dump(given))
    assert leakboard("run", "both.yaml", "--devices", "cpu") == 0
    return tmp_path / "runs" / "both"


def test_to_publish_what_is_published_changes_no_byte(both: Path, tmp_path: Path) -> None:
    first, copy = tmp_path / "results" / "both", tmp_path / "copy" / "both"
    assert leakboard("publish", both, first) == 0
    before = contents(first)
    assert {"leaderboard.md", "leaderboard.tex", "tradeoff.md", "tradeoff.png", "training.md"} <= before.keys()
    found = of_records(read_all(first))
    assert before["leaderboard.md"].decode() == table.as_markdown(found, "both", table.missing_lpips(read_all(first)))
    shutil.copytree(first, copy)
    for run in (both, first):
        assert leakboard("publish", run, copy) == 0
        assert contents(copy) == before
    assert leakboard("publish", first, tmp_path / "new" / "both") == 0
    assert contents(tmp_path / "new" / "both") == before


def test_trainings_of_other_code_are_replaced_and_the_trade_off_is_of_what_is_left(both: Path, tmp_path: Path) -> None:
    to = tmp_path / "results" / "both"
    assert leakboard("publish", both, to) == 0
    later = []
    for record in read_trainings(both):
        about = record["config"] | {"data_sha256": record["data_sha256"], "code_sha256": "0" * 64}
        newer = record["provenance"] | {"date": "2999-01-01T00:00:00Z"}
        cost = record["cost"] | {"client_seconds": 1.25}
        later.append(record | {"key": digest(about), "code_sha256": "0" * 64, "provenance": newer, "cost": cost})
        Store(tmp_path / "anew", TRAININGS).write(later[-1])
    attacks = contents(to)["leaderboard.md"]
    assert leakboard("publish", tmp_path / "anew", to) == 0
    assert {record["key"] for record in read_trainings(to)} == {record["key"] for record in later}
    assert ",1.25," in (to / "tradeoff.csv").read_text() and contents(to)["leaderboard.md"] == attacks
    assert ",1.25," in (to / "training.csv").read_text()


def test_the_table_of_trainings_that_are_published_in_parts_is_that_of_all(both: Path, tmp_path: Path) -> None:
    to, whole = tmp_path / "parts" / "both", tmp_path / "whole" / "both"
    every = read_trainings(both)
    for number, part in enumerate((every[:2], every[2:])):
        for record in part:
            Store(tmp_path / f"part {number}", TRAININGS).write(record)
        assert leakboard("publish", tmp_path / f"part {number}", to) == 0
    assert leakboard("publish", both, whole) == 0
    for name in ("training.csv", "training.md"):
        assert contents(to)[name] == contents(whole)[name] == (both / name).read_bytes()


def test_trainings_that_no_board_can_be_compared_with_bring_no_trade_off(run: Path, tmp_path: Path) -> None:
    """As where a paper trains networks of its own."""
    to = tmp_path / "published"
    assert leakboard("publish", run, to) == 0
    (to / "leaderboard.tex").unlink()
    Path("train.yaml").write_text(yaml.safe_dump(TRAINED))
    assert leakboard("train", "train.yaml", "--devices", "cpu") == 0
    before = contents(to)
    assert leakboard("publish", Path("runs") / "train", to) == 0
    assert contents(to).keys() - before.keys() == {"training.jsonl", "training.csv", "training.md"}
    assert leakboard("publish", run, to) == 0
    assert contents(to).keys() - before.keys() == {"training.jsonl", "training.csv", "training.md"}
