"""Cells that an attack does not take: on the board with their reason, and no more where it takes them."""

from pathlib import Path
from typing import Any

import pytest

from benchmark.cli.main import main
from benchmark.errors import UsageError
from benchmark.jobs.attacks import Attacks
from benchmark.store.declined import FILE, Declined, declined_in, keep_declined

SUITE = """
victims: 2
scenarios:
  - {data: Digits, model: LeNet, batch_size: 2, attacks: [RGAP, {class: DLG, max_evaluations: 3}]}
  - {data: Digits, model: ResNet, attacks: [RGAP, {class: DLG, max_evaluations: 3}], defenses: [Clipping]}
"""


def ran(*arguments: str) -> int | str | None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return ended.value.code


def test_cells_that_an_attack_does_not_take_stand_on_the_board_with_the_reason_of_their_scenario(
    nothing_of_the_developers: None, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("mine.yaml").write_text(SUITE)
    assert not ran("run", "mine.yaml", "--out", "here", "--devices", "cpu")
    page = Path("here/leaderboard.md").read_text()
    of_resnet, of_batches = sorted(page.split("\n## ")[1:], key=lambda board: "ResNet" not in board.splitlines()[0])
    assert "ResNet is not" in of_resnet and "one image" in of_batches and "ResNet" not in of_batches
    for board in (of_resnet, of_batches):
        (row,) = (line for line in board.splitlines() if "| not applicable |" in line)
        assert "RGAP" in row and "DLG" not in row
    assert "No rank for no defense" not in of_batches or "RGAP" not in of_batches.split("No rank")[1].split("\n")[0]
    capsys.readouterr()
    assert not ran("show", "here", "--format", "json")
    captured = capsys.readouterr()
    assert "RGAP" not in captured.out and captured.err.count("Not applicable: RGAP") == 2
    assert not ran("publish", "here", "there")
    assert declined_in(Path("there")) == declined_in(Path("here"))
    assert len(declined_in(Path("here"))) == 4  # on ResNet without a defense, and twice with one


def test_an_attack_that_takes_other_cells_of_the_board_is_told_with_the_defense(
    nothing_of_the_developers: None, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("mine.yaml").write_text(
        "victims: 2\nattacks: [RGAP]\nscenarios: [{data: Digits, model: LeNet}]\ndefenses: [Clipping, PRECODE]\n"
    )
    assert not ran("run", "mine.yaml", "--out", "here", "--devices", "cpu")
    page = Path("here/leaderboard.md").read_text()
    rows = [[text.strip() for text in line.split("|")] for line in page.splitlines() if "| not applicable |" in line]
    assert [[text for text in row if text not in ("", "-")] for row in rows] == [
        ["PRECODE", "beta=0.001, size=256", "RGAP", "not applicable"],
        ["PRECODE", "beta=0.001, size=256", "RGAP adaptive", "not applicable"],
    ]
    assert "Not applicable: RGAP on PRECODE" in page and "Not applicable: RGAP (" not in page


def test_alone_it_is_one_sentence(nothing_of_the_developers: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert ran("run", "--data", "Digits", "--model", "ResNet", "--attack", "RGAP", "--victims", "2") == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("leakboard: R-GAP solves a chain") and "\n" not in said
    assert not Path("runs").exists()


def test_cells_that_were_not_run_stand_on_the_board(
    nothing_of_the_developers: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    attacks = "attacks: [{class: DLG, max_evaluations: 3}]"
    more = f"  - {{data: Digits, model: MLP, {attacks}, defenses: [Clipping]}}\n"
    Path("mine.yaml").write_text(SUITE + more)
    killed, do = [], Attacks.do

    def killed_soon(*given: Any) -> Any:
        killed.append(1)
        if len(killed) > 8:
            raise KeyboardInterrupt
        return do(*given)

    with monkeypatch.context() as patched:
        patched.setattr(Attacks, "do", killed_soon)
        assert ran("run", "mine.yaml", "--out", "here", "--devices", "cpu") == 130
    capsys.readouterr()
    assert not ran("show", "here", "--format", "markdown")
    page = capsys.readouterr().out
    rows = [[text.strip() for text in line.split("|")] for line in page.splitlines() if "| not run |" in line]
    assert [[text for text in row if text not in ("", "-")] for row in rows] == [
        ["Clipping", "max_norm=1.0", "DLG", "not run"],
        ["Clipping", "max_norm=1.0", "DLG adaptive", "not run"],
    ]
    assert "Not run: Digits MLP (6 cells)." in page
    assert not ran("report", "here")
    assert Path("here/report.html").read_text().count("not run") >= 2
    assert not ran("run", "mine.yaml", "--out", "here", "--devices", "cpu")
    page = Path("here/leaderboard.md").read_text()
    assert "| not run |" not in page and "Not run" not in page
    assert all(one.reason for one in declined_in(Path("here")))


def test_what_an_attack_takes_by_now_is_forgotten(tmp_path: Path) -> None:
    one, other = (Declined(name, {"attack": {"class": "RGAP"}}, "no") for name in "ab")
    keep_declined(tmp_path, [one, other], ())
    assert declined_in(tmp_path) == [one, other]
    keep_declined(tmp_path, [], {"a"})
    assert declined_in(tmp_path) == [other]
    keep_declined(tmp_path, [], {"b"})
    assert not (tmp_path / FILE).exists() and declined_in(tmp_path) == []


@pytest.mark.parametrize("content", ["{", "[1]", '[{"cell": "a", "config": {}}]', "\xff"])
def test_a_damaged_file_is_one_sentence(content: str, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(content, encoding="latin-1")
    with pytest.raises(UsageError, match="is damaged: remove it, and run the suite again"):
        declined_in(tmp_path)
