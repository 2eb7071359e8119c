"""The page of every attack: its rows, what they are compared with, and what is said of those that were not run."""

import math
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import binomtest, t

from benchmark.cli.main import main
from benchmark.errors import UsageError
from benchmark.metrics.intervals import rate_difference
from benchmark.metrics.leak import BASELINES
from benchmark.papers import attacks
from benchmark.papers.attacks import Line, Mean, Row, has, lines, rows_of
from benchmark.papers.sources import paper
from benchmark.suite.registry import classes
from benchmark.suite.suite import load
from tests.benchmark.papers.test_papers import record

CONFIG = Path(__file__).parents[3] / "configs" / "attacks.yaml"
ROWS = rows_of(paper("attacks"))
DLG: dict[str, Any] = {"cell": {"attack": {"class": "DLG"}}, "published": "in words"}
IDLG: dict[str, Any] = {"cell": {"attack": {"class": "IDLG"}}, "published": "in words"}


def rows(*given: dict[str, Any]) -> list[Row]:
    return rows_of({"rows": list(given)})


def found(mses: list[float], *given: dict[str, Any], tmp_path: Path = Path("runs")) -> list[Line]:
    """The lines of rows, of DLG with these scores, IDLG that finds nothing, and a null baseline of 10 dB."""
    records = [record("MNIST", {"class": "DLG"}, mses), record("MNIST", {"class": "IDLG"}, [1.0] * len(mses))]
    return lines([*records, record("MNIST", {"class": "MeanImage"}, [0.1] * len(mses))], rows(*given), tmp_path)


def test_every_attack_but_the_null_baselines_and_the_ensemble_of_all_has_a_row() -> None:
    assert {row.attack for row in ROWS} == classes("attack").keys() - {*BASELINES, "AutoLeak"}


def test_each_row_fits_one_cell_of_the_suite() -> None:
    cells = load(CONFIG).cells
    for row in ROWS:
        (cell,) = [one for one in cells if has(one.config(), row.cell)]
        if row.than is not None:
            beside = [one for one in cells if (one.scenario, one.defense) == (cell.scenario, cell.defense)]
            (other,) = [o for o in beside if o.adaptive == cell.adaptive and has(o.config(), row.than)]
            assert other.attack != cell.attack


def test_a_run_through_the_command_line_gives_the_page(
    nothing_of_the_developers: None, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("attacks.yaml").write_text(
        "scenarios: [{data: Digits, model: LeNet}]\nvictims: 2\ndefenses: [{class: Masking, ratio: 0.9}]\n"
        "attacks: [{class: Bayes, max_evaluations: 2}, {class: IDLG, max_evaluations: 2}]\n"
    )
    with pytest.raises(SystemExit, match="0"):
        main(["run", "attacks.yaml"])
    capsys.readouterr()
    with pytest.raises(SystemExit, match="0"):
        main(["page", "runs/attacks"])
    written = capsys.readouterr().out
    assert Path("runs/attacks/README.md").read_text() == written
    table = [line.split(" | ") for line in written.splitlines() if line.startswith("| ")]
    ran = [row for row in ROWS if row.cell.get("defense") == {"class": "Masking"} and row.attack == "Bayes"]
    verdicts = {row[1]: row[9] for row in table if len(row) == 10 and row[1] != "attack"}
    assert len([row for row in table if len(row) == 10]) == 2 + len(ROWS)  # a table for each kind of comparison
    beside = written.index("## Beside another attack here")
    for number, row in enumerate(ROWS, 1):
        assert (written.index(f"\n| {number} | ") > beside) == (row.than is not None)
    assert "Bayes" in " ".join(verdicts)
    for number, row in enumerate(ROWS, 1):
        of_row = [cells for cells in table if cells[0] == f"| {number}"]
        assert [len(cells) for cells in of_row] == [10, 6, 8]
        was_run = row in ran
        compared = was_run and row.than == {"attack": {"class": "IDLG"}}
        assert ("dB" in of_row[0][2]) == (row.metric in ("psnr", "median"))
        assert (of_row[0][5] == "not run") != was_run and (of_row[1][4] == "not run") != was_run
        assert (of_row[0][6] == "-") != was_run
        assert (of_row[0][8] == "-") != compared
        assert ("not run" in of_row[0][9]) != compared
    assert "2 images of Digits, LeNet, Masking ratio=0.9, known, 2 evaluations" in written


def test_without_records_of_any_row_one_sentence_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds none of the attacks' cells: run configs/attacks\.yaml into it first"):
        attacks.page([record("MNIST", {"class": "MeanImage"}, [0.1])], tmp_path)


def test_two_cells_of_one_row_are_refused(tmp_path: Path) -> None:
    records = [record("MNIST", {"class": "DLG", "max_evaluations": budget}, [0.1]) for budget in (10, 20)]
    with pytest.raises(UsageError, match="holds 2 cells of DLG where one is wanted: keep one seed"):
        lines(records, rows(DLG), tmp_path)


@pytest.mark.parametrize(
    ("mses", "reference", "verdict"),
    [
        ([1e-3] * 4, {"value": 30.2, "tolerance": 0.5}, "agrees"),
        ([1e-3] * 4, {"value": 30.6, "tolerance": 0.5}, "differs"),
        ([1e-3] * 4, {"value": 29.4, "tolerance": 0.5}, "differs"),
        ([1e-3] * 4, {"value": 29.4, "tolerance": 0.5, "at_least": True}, "as much or more"),
        ([1e-3] * 4, {"value": 30.6, "at_least": True}, "differs"),
        ([1e-3] * 4, {"value": 30.0, "ours": "easier"}, "another setting"),
        ([1e-3, 1e-1], {"value": 23.0, "tolerance": 0.5}, "open"),  # 20 dB on average, of two that say little
        ([1e-3] * 4, {"value": 31.0, "spread": 4.0, "trials": 4, "tolerance": 0.5}, "open"),  # theirs is not sure
        ([1e-3] * 4, {"value": 30.6, "trials": 1, "at_least": True}, "open"),  # nor is that of one image
        ([1e-3] * 4, {"value": 29.4, "trials": 1, "at_least": True}, "open"),
        # The half of the interval is 4.303 times 0.1 / sqrt 3, 0.25 dB, and of two values 12.71 times 0.1, 1.27 dB.
        ([1e-3] * 4, {"of_victims": [30.1, 29.9, 30.0], "tolerance": 0.5}, "agrees"),
        ([1e-3] * 4, {"of_victims": [30.1, 29.9, 30.0], "tolerance": 0.2}, "open"),  # though the means are equal
        ([1e-3] * 4, {"of_victims": [30.1, 29.9], "tolerance": 0.5}, "open"),
        ([1e-3] * 4, {"of_victims": [29.7, 29.5, 29.6], "at_least": True}, "as much or more"),
        ([1e-3] * 4, {"of_victims": [30.0, 29.8, 29.9], "at_least": True}, "open"),  # 0.1 dB more, or 0.15 less
        ([1e-3] * 4, {"of_victims": [32.1, 31.9, 32.0], "tolerance": 0.5}, "differs"),
        ([1e-3] * 4, {"of_victims": [32.0], "tolerance": 0.5}, "open"),  # one victim knows of no spread
        ([1e-3, 1e-1], {"of_victims": [30.0, 10.0], "tolerance": 0.5}, "agrees"),  # victim by victim
        ([1e-1] + [1e-3] * 8, {"metric": "median", "value": 30.2, "tolerance": 0.5}, "agrees"),  # the mean is 28 dB
        ([1e-1, 1e-3, 1e-3], {"metric": "median", "value": 31.0, "tolerance": 0.5}, "open"),  # of three, nobody knows
        ([1e-3] * 6, {"metric": "median", "value": 31.0, "tolerance": 0.5}, "differs"),
    ],
)
def test_the_verdict_is_that_of_the_difference(mses: list[float], reference: dict[str, Any], verdict: str) -> None:
    source = {} if "than" in reference else {"source": "a paper"}
    (line,) = found(mses, DLG | reference | source)
    assert line.verdict == verdict
    assert line.null == 10.0


def test_beside_another_attack_the_same_victims_count() -> None:
    than = {"than": {"attack": {"class": "IDLG"}}, "at_least": True}
    (line,) = found([1e-3, 1e-2, 1e-1], DLG | than)
    assert line.theirs == Mean(0.0, 0.0, 0.0) and line.verdict == "open"  # 20 dB, with an interval of ± 24.8
    half = t.ppf(0.975, 2) * 10 / math.sqrt(3)
    assert line.difference is not None
    assert (line.difference.value, line.difference.high) == pytest.approx((20.0, 20 + half))
    (missing,) = found([1e-3], DLG | {"than": {"attack": {"class": "RGAP"}}, "at_least": True})
    assert missing.verdict == "not run" and missing.difference is None and missing.theirs is None
    assert missing.published == "RGAP: not run"


def test_shares_have_the_intervals_of_wilson_and_newcombe() -> None:
    share = {"metric": "found", "value": 0.9, "trials": 100, "source": "a paper", "tolerance": 0.05}
    (line,) = found([1e-3] * 6 + [1.0] * 4, DLG | share)
    assert line.ours is not None and line.difference is not None
    assert line.ours.value == 0.6 and line.verdict == "differs"
    assert (line.difference.low, line.difference.high) == pytest.approx(rate_difference(6, 10, 90, 100))
    assert line.published == "0.900 of 100"


def test_shares_of_a_victim_differ_by_no_more_than_one() -> None:
    (line,) = found([1e-3, 1.0], DLG | {"metric": "found", "than": {"attack": {"class": "IDLG"}}, "at_least": True})
    assert line.difference is not None and line.difference.value == 0.5 and line.difference.high <= 1.0


def test_shares_of_victims_that_are_found_or_not_have_newcombes_interval_for_pairs() -> None:
    """Where all of them differ by the same, too, which is no proof."""
    than = {"metric": "found", "than": {"attack": {"class": "IDLG"}}, "at_least": True}
    mine, its = [1e-3] * 12 + [1.0] * 4, [1e-3] * 8 + [1.0] * 8
    pair = [record("MNIST", {"class": "DLG"}, mine), record("MNIST", {"class": "IDLG"}, its)]
    (line,) = lines(pair, rows(DLG | than), Path("runs"))
    phi = (8 * 4 - 4 * 0) / math.sqrt(12 * 4 * 8 * 8)
    one, other = (binomtest(count, 16).proportion_ci(method="wilson") for count in (12, 8))
    low, high = ((0.75 - one.low, other.high - 0.5), (one.high - 0.75, 0.5 - other.low))
    below, above = (math.sqrt(a**2 + b**2 - 2 * phi * a * b) for a, b in (low, high))
    assert line.difference is not None and line.verdict == "as much or more"
    assert (line.difference.low, line.difference.high) == pytest.approx((0.25 - below, 0.25 + above))
    pair = [record("MNIST", {"class": name}, [1e-3] * 16) for name in ("DLG", "IDLG")]
    (same,) = lines(pair, rows(DLG | than), Path("runs"))
    assert same.difference is not None and same.verdict == "open"
    end = binomtest(16, 16).proportion_ci(method="wilson").low - 1
    assert (same.difference.low, same.difference.high) == pytest.approx((end, -end))


def test_how_many_victims_a_value_is_of_is_said_of_both() -> None:
    few = {"of_victims": [30.0, 29.0], "source": "a paper", "tolerance": 0.5}
    one, other = found([1e-3] * 5, DLG | few, DLG | {"value": 30.0, "source": "a paper", "tolerance": 0.5})
    assert (one.published, one.victims) == ("29.50 of 2", "5, 2 of them theirs")
    assert (other.published, other.victims) == ("30.00", "5")


def test_a_row_without_a_published_value_has_no_verdict() -> None:
    (line,) = found([1e-3] * 4, DLG)
    assert (line.verdict, line.published, line.difference) == ("-", "no value", None)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"cell": {"attack": {"class": "DLGG"}}}, "DLGG is no attack"),
        ({"cell": {"data": {"class": "MNIST"}}}, "is no attack"),
        ({"metric": "pnsr"}, "the metric pnsr is none of psnr"),
        ({"value": 30.0, "tolerance": 1}, "source says where"),
        ({"source": "a paper"}, "source says where"),
        ({"value": 30.0, "source": "a paper"}, "say in ours what is not the same"),
        ({"than": {"attack": {"class": "IDLG"}}}, "give tolerance or at_least"),
        ({"value": 130.0, "source": "a paper", "tolerance": 1}, "a value of psnr is out of range"),
        ({"metric": "found", "value": 66.1, "source": "a paper", "tolerance": 1}, "a value of found is out of range"),
        ({"value": "30", "source": "a paper", "tolerance": 1}, "Expected `float"),
        ({"value": 30.0, "of_victims": [30.0], "source": "a paper", "tolerance": 1}, "give one"),
        ({"of_victims": [30.0], "source": "a paper", "tolerance": -1}, ">= 0"),
        ({"spread": 3.0, "trials": 10}, "spread and trials are of a value"),
        ({"value": 30.0, "spread": 3.0, "source": "a paper", "tolerance": 1}, "spread is that of a mean over trials"),
        (
            {"value": 30.0, "spread": 3.0, "trials": 1, "source": "a paper", "tolerance": 1},
            "spread is that of a mean over trials",
        ),
        (
            {"metric": "median", "value": 3.0, "spread": 1.0, "trials": 9, "source": "a paper", "tolerance": 1},
            "no spread of a share or a median",
        ),
        (
            {"metric": "median", "of_victims": [3.0], "source": "a paper", "tolerance": 1},
            "a median stands beside a value",
        ),
        ({"valeu": 30.0}, "unknown field `valeu`"),
        ({"published": ""}, "length >= 1"),
    ],
)
def test_a_wrong_row_is_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        rows(DLG | wrong)


def test_the_summary_names_what_differs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sure = {"value": 30.0, "source": "a paper", "tolerance": 0.5}
    monkeypatch.setattr(attacks, "paper", lambda name: {"rows": [DLG | sure, IDLG | sure, DLG]})
    records = [record("MNIST", {"class": "DLG"}, [1e-3] * 3), record("MNIST", {"class": "IDLG"}, [1.0] * 3)]
    written = attacks.summary(records, tmp_path)
    assert "3 rows for 2 attacks" in written
    assert "Agrees: 1 (DLG). Differs: 1 (IDLG -30.00" in written
    assert "No value: 1 (DLG)." in written and "another attack" not in written
    than = IDLG | {"than": {"attack": {"class": "DLG"}}, "at_least": True}
    monkeypatch.setattr(attacks, "paper", lambda name: {"rows": [DLG | sure, than]})
    published, _, beside = attacks.summary(records, tmp_path).partition("Beside another attack here")
    assert "Agrees: 1 (DLG)." in published and "IDLG" not in published
    assert "Differs: 1 (IDLG -30.00" in beside
