"""``leakboard report`` on folders as they are."""

import json
import os
from pathlib import Path

import pytest

from benchmark.cli import report as command
from benchmark.cli.main import main
from benchmark.report import page as pages
from benchmark.store.sealing import sealed
from tests.benchmark.report.conftest import MakeCell


@pytest.fixture(autouse=True)
def no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """The JavaScript of the plots takes seconds to bundle."""
    monkeypatch.setattr(pages, "library", lambda: "")


@pytest.fixture
def run(tmp_path: Path, cell: MakeCell) -> Path:
    """The folder of a run with one record."""
    folder = tmp_path / "run"
    (folder / "records").mkdir(parents=True)
    record = cell(30.0, 12.0)
    (folder / "records" / f"{record['key']}.json").write_bytes(sealed(record))
    return folder


def called(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[object, str, str]:
    with pytest.raises(SystemExit) as stopped:
        main(["report", *map(str, words)])
    said = capsys.readouterr()
    return stopped.value.code, said.out, said.err


def test_the_page_is_written_beside_the_records_or_where_one_asks(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert called(capsys, run)[0] == 0
    written = (run / "report.html").read_text()
    assert "<h1>run: what leaks</h1>" in written and "1 of 2 victims leak" in written
    code, out, _ = called(capsys, run, "--out", tmp_path / "deep" / "mine.html")
    assert code == 0 and (tmp_path / "deep" / "mine.html").read_text() == written and "mine.html" in out


def test_what_publish_writes_has_neither_the_page_nor_a_private_image(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    called(capsys, run)
    assert "This page shows private images" in (run / "report.html").read_text()
    with pytest.raises(SystemExit):
        main(["publish", str(run), str(tmp_path / "to")])
    assert not list((tmp_path / "to").rglob("*.html"))
    assert called(capsys, tmp_path / "to")[0] == 0
    page = (tmp_path / "to" / "report.html").read_text()
    assert "<img" not in page and "private images" not in page.lower()


def test_damaged_records_are_named_on_the_page_and_in_the_terminal(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "records" / "aaaa.json").write_text("{")
    (run / "records" / "<b>.json").write_text(json.dumps({"foreign": True}))
    (run / "training").mkdir()
    (run / "training" / "bbbb.json").write_text("[]")
    code, _, err = called(capsys, run)
    page = (run / "report.html").read_text()
    assert code == 0 and err.count("it is left out") == 3
    assert page.count("it is left out.</li>") == 3 and "the record aaaa.json" in page and "bbbb.json" in page
    assert "holds no usable records of federated trainings" in page
    assert "&lt;b&gt;.json" in page and "<b>.json" not in page


@pytest.mark.parametrize("kind", ["missing", "empty", "file", "damaged"])
def test_a_folder_without_records_is_told_in_a_sentence(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "it"
    if kind == "file":
        place.write_text("")
    elif kind != "missing":
        (place / "records").mkdir(parents=True)
    if kind == "damaged":
        (place / "records" / "aaaa.json").write_text("{}")
    code, out, err = called(capsys, place)
    assert code == 2 and not out
    last = err.splitlines()[-1]
    assert last.startswith("leakboard: ") and str(place) in last and "Traceback" not in err
    assert ("can be used" if kind == "damaged" else "there are no records in") in last
    assert not list(tmp_path.rglob("*.html"))


def test_a_page_that_cannot_be_written_is_told_in_a_sentence(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = called(capsys, run, "--out", run)
    assert code == 2 and "is a folder: give --out the name of a file" in err and len(err.splitlines()) == 1
    (tmp_path / "file").write_text("")
    code, _, err = called(capsys, run, "--out", tmp_path / "file" / "page.html")
    assert code == 2 and "cannot be written" in err and len(err.splitlines()) == 1
    code, _, err = called(capsys, run, "--out", "/proc/page.html")  # where no file can be made, not even a lock
    assert code == 2 and "/proc cannot be written" in err and len(err.splitlines()) == 1
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize("content", ["scenarios: []\n", "\0", "<p>", "# <!doctype html>"])
def test_only_a_page_is_replaced(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(content)
    (run / "report.html").write_text(content)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("nowhere")
    for words in (["--out", mine], [], ["--out", tmp_path / "pipe"], ["--out", tmp_path / "link"]):
        code, _, err = called(capsys, run, *words)
        assert code == 2 and "is no page in HTML" in err and "give --out another name" in err
        assert len(err.splitlines()) == 1
    assert mine.read_text() == (run / "report.html").read_text() == content
    for old in ("", "<!DOCTYPE HTML><p>old", "\n<html>"):
        mine.write_text(old)
        assert called(capsys, run, "--out", mine)[0] == 0 and "what leaks" in mine.read_text()


def test_the_page_is_not_of_the_tables_that_publish_copies() -> None:
    from benchmark.cli.publish import TABLES

    assert not any(Path(command.FILE).match(pattern) for pattern in TABLES)
