"""The numbers of a page, against those worked out by hand."""

import base64
from typing import Any

import pytest

from benchmark.boards.outcome import outcomes
from benchmark.boards.ranking import ranked
from benchmark.metrics.leak import BASELINES
from benchmark.report import curves, threat, victims
from benchmark.report.context import Report, report_of
from benchmark.store.declined import Declined
from tests.benchmark.report.conftest import MakeCell, Record, gray_of, strip_of

MASKING = {"class": "Masking", "ratio": 0.5}


def both(cell: MakeCell, *psnr: float, defense: Any = MASKING) -> list[Record]:
    return [cell(*psnr, defense=defense), cell(*psnr, defense=defense, adaptive=True)]


def rates(report: Report, defense: str) -> dict[int, float]:
    (board,) = report.boards
    (curve,) = (curve for curve in board.rates if curve["defense"] == defense)
    return dict(zip(curve["threshold"], curve["rate"], strict=True))


def test_the_leak_rate_over_the_threshold_is_the_share_of_victims_that_any_attack_brings_there(cell: MakeCell) -> None:
    other = {"class": "DLG"}
    report = report_of([cell(30.0, 12.0, 25.0, 19.0), cell(12.0, 24.0, 26.0, 13.0, attack=other)], "mine")
    found = rates(report, "no defense")
    # The best of each victim: 30, 24, 26, 19.
    assert [found[level] for level in (10, 19, 20, 24, 25, 26, 27, 30, 31)] == [
        1,
        1,
        0.75,
        0.75,
        0.5,
        0.5,
        0.25,
        0.25,
        0,
    ]
    (row,) = {one.texts[1].text for one in report.boards[0].lines}
    assert row == "0.75 (3/4)"
    assert report.boards[0].levels == [("no defense", ["1.00", "0.75", "0.50", "0.25", "0.00"])]


def test_what_a_null_baseline_reaches_and_what_diverged_leaks_at_no_threshold(cell: MakeCell) -> None:
    record = cell(30.0, 30.0, 30.0)
    record["victims"][0] |= {"null_psnr": [31.0], "leaked_any": False, "leaked_all": False}
    record["victims"][1] |= {"status": "diverged", "leaked_any": False, "leaked_all": False}
    assert set(rates(report_of([record], "mine"), "no defense (1 unknown)").values()) == {round(1 / 3, 4), 0.0}


def test_at_the_threshold_of_the_table_the_curve_is_the_table(cell: MakeCell) -> None:
    records = [cell(20.0, 19.99, 35.0), *both(cell, 12.0, 20.1, 19.0)]
    for standing in ranked(outcomes(records)[0]):
        curve = curves.leak_rates(standing, "it")
        assert curve["rate"][curve["threshold"].index(20)] == pytest.approx(
            len(standing.worst) / len(standing.indices), abs=1e-4
        )


def test_a_defense_without_a_rank_is_named_so_beside_the_curve(cell: MakeCell) -> None:
    report = report_of([cell(30.0, 30.0), cell(12.0, 12.0, defense=MASKING)], "mine")  # no attack knows it
    assert [name for name, _ in report.boards[0].levels] == ["no defense", "Masking ratio=0.5 (no rank, 2 unknown)"]


def test_the_loss_curve_is_low_median_and_high_over_the_victims_that_have_one(cell: MakeCell) -> None:
    record = cell(30.0, 30.0, 30.0)
    record["curve"] |= {"evaluations": [0, 5, 10], "loss": [[None, 4.0, 1.0], [None, 2.0, 0.0], [None, 9.0, None]]}
    assert curves.losses([record], [0, 1, 2]) == {
        "evaluations": [5, 10],
        "low": [2.0, curves.LEAST_SHOWN],
        "loss": [4.0, 0.5],
        "high": [9.0, 1.0],
    }
    assert curves.losses([record], [1])["high"] == [2.0, curves.LEAST_SHOWN]
    record["curve"]["loss"] = [[None, -4.0, -1.0]] * 3
    assert curves.losses([record], [0])["low"] == [-4.0, -1.0]
    assert curves.losses([record | {"curve": {"evaluations": [], "loss": []}}], [0, 1]) == {}


def test_best_median_and_worst_are_shown_with_their_own_images(cell: MakeCell) -> None:
    (board,) = report_of([cell(15.0, 40.0, 25.0, 30.0, 12.0)], "mine").boards
    shown = board.cells[0].victims
    assert [(one.which, one.index, one.psnr, one.leaked) for one in shown] == [
        ("best", 1, 40.0, True),
        ("median", 2, 25.0, True),
        ("worst", 4, 12.0, False),
    ]
    assert [(gray_of(one.true), gray_of(one.found)) for one in shown] == [([10], [15]), ([20], [25]), ([40], [45])]
    assert board.cells[0].held == 5


@pytest.mark.parametrize(("count", "which"), [(1, ["best"]), (2, ["best", "worst"])])
def test_no_victim_is_shown_twice(cell: MakeCell, count: int, which: list[str]) -> None:
    (board,) = report_of([cell(*[30.0] * count)], "mine").boards
    assert [one.which for one in board.cells[0].victims] == which


def test_only_victims_whose_images_a_record_holds_are_shown(cell: MakeCell) -> None:
    (board,) = report_of([cell(*range(10, 30))], "mine").boards  # a strip holds eight images
    assert board.cells[0].held == 8 and [one.index for one in board.cells[0].victims] == [7, 4, 0]


def test_a_batch_stands_together_and_one_that_was_cut_is_shown_as_far_as_it_is_there(cell: MakeCell) -> None:
    record = cell(30.0, 25.0, batch_size=3) | {"picture": strip_of(5)}
    for victim in record["victims"]:
        for name in ("psnr", "mse", "null_psnr", "ssim", "null_ssim", "label_correct"):
            victim[name] = victim[name][:1] * 3
    first, second = report_of([record], "mine").boards[0].cells[0].victims
    assert (first.images, gray_of(first.true), second.images, gray_of(second.found)) == (3, [0, 10, 20], 2, [35, 45])


def test_the_picture_of_an_ensemble_is_scored_by_what_it_returned(cell: MakeCell) -> None:
    record = cell(30.0)
    record["victims"][0] |= {"part": "DLG", "parts": {"DLG": True}, "returned": {"psnr": [14.0], "leaked_any": False}}
    (shown,) = report_of([record], "mine").boards[0].cells[0].victims
    assert (shown.psnr, shown.leaked) == (14.0, False)


@pytest.mark.parametrize("picture", ["", "AAAA", base64.b64encode(b"\x89PNG\r\n\x1a\n....IEND....").decode()])
def test_a_picture_that_is_none_is_left_out_and_named(cell: MakeCell, picture: str) -> None:
    report = report_of([cell(30.0) | {"picture": picture}], "mine")
    assert not report.boards[0].cells[0].victims and not report.private
    assert len(report.left_out) == bool(picture) and all("cannot be read" in one for one in report.left_out)


def test_published_records_show_no_private_image(cell: MakeCell) -> None:
    assert report_of([cell(30.0)], "mine").private
    assert not report_of([cell(30.0) | {"picture": ""}], "mine").private


def test_void_and_declined_cells_stand_with_their_reasons(cell: MakeCell) -> None:
    records = [cell(12.0, 12.0), *both(cell, 12.0, 12.0)]
    config = records[0]["config"] | {"attack": {"class": "Peeling"}}
    (board,) = report_of(records, "mine", [Declined("x", config, "it takes no convolutions")]).boards
    assert [cell.void for cell in board.cells].count("control does not leak") == 2
    assert board.lines[-1].attack == "Peeling" and board.lines[-1].anchor == ""
    assert [text.text for text in board.lines[-1].texts].count("not applicable") == 1
    assert any(note.startswith("Void: control does not leak") for note in board.notes)
    assert "Not applicable: Peeling (it takes no convolutions)." in board.notes


def test_a_cell_says_of_how_many_victims_nothing_is_known(cell: MakeCell) -> None:
    record = cell(30.0, 12.0, 12.0, 12.0)
    record["victims"][1] |= {"status": "diverged"}
    for victim in record["victims"][2:]:
        victim |= {"misfit": 1.0, "misfit_of_truth": 1e-9, "settled": False, "explained": True}
    assert report_of([record], "mine").boards[0].cells[0].leaks == "1 of 4 victims leak, 1 diverged, 2 not converged"


def test_intervals_are_drawn_where_the_table_has_them(cell: MakeCell) -> None:
    baseline = cell(10.0, 10.0, attack={"class": BASELINES[0]})
    (board,) = report_of([cell(30.0, 12.0), baseline], "mine").boards
    names = [name for name, _ in board.columns]
    ranked_row, null = board.lines
    low, rate, high = ranked_row.texts[names.index("95 % interval")].rate or (0, 0, 0)
    assert low == pytest.approx(0.0945, abs=1e-3) and rate == 0.5 and high == pytest.approx(0.9055, abs=1e-3)
    assert null.texts[names.index("its interval")].rate is None
    assert sum(text.rate is not None for line in board.lines for text in line.texts) == 3


def test_what_was_left_out_is_said_in_a_sentence_each(cell: MakeCell) -> None:
    old = cell(30.0) | {"code_sha256": "b" * 64, "key": "old"}
    old["provenance"] = old["provenance"] | {"date": "2025-01-01T00:00:00Z"}
    old["victims"] = [old["victims"][0] | {"index": 7}]
    report = report_of([cell(30.0), old], "mine", unusable=["the record x.json is damaged: it is left out"])
    assert report.left_out == [
        "the record x.json is damaged: it is left out.",
        "1 victim of IDLG is from other code or another network than the newest and left out.",
    ]


def test_cost_and_provenance_are_those_of_all_records(cell: MakeCell) -> None:
    first, second = cell(30.0), cell(30.0, attack={"class": "DLG"})
    second["cost"] |= {"seconds": 3.5, "peak_memory_mib": 900, "notes": ["slow"]}
    second["provenance"] |= {"date": "2026-02-01T00:00:00Z", "device": "a GPU"}
    (board,) = report_of([first, second], "mine").boards
    said = dict(board.cost + board.provenance)
    assert said["Time"] == "4.0 s for 2 attacks on a victim"
    assert (said["Peak memory"], said["Notes on the cost"]) == ("900 MiB", "slow")
    assert said["Date"] == "2026-01-01T00:00:00Z to 2026-02-01T00:00:00Z" and said["Device"] in (
        "cpu, a GPU",
        "a GPU, cpu",
    )


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({}, ["one image", "public images of the same kind.", "does not know the labels.", "As in the published"]),
        ({"labels": "known", "batch_size": 4}, ["4 images", "also knows the labels, ", "Not as in", "labels known"]),
        ({"threat_model": "A"}, ["does not know the labels or public images of the same kind", "threat model A"]),
        (
            {"protocol": {"class": "FedAvg", "learning_rate": 0.1, "epochs": 2}, "order": "known", "shared": True},
            ["the clients' local steps", "the order in which", "one shared network, FedAvg of learning_rate=0.1"],
        ),
        ({"statistics": "hidden", "mode": "train"}, ["the labels or the statistics of batch norm", "mode train"]),
    ],
)
def test_the_threat_model_is_said_in_words(config: dict[str, Any], said: list[str]) -> None:
    words = " ".join(threat.in_words({"batch_size": 1} | config))
    assert all(one in words for one in said), words


def test_the_order_of_victims_is_that_of_their_images() -> None:
    of = [{"index": i, "psnr": [p, 5.0], "leaked_any": p > 20} for i, p in enumerate((12.0, 33.0, 21.0, 21.0))]
    assert [(which, victim["index"]) for which, victim in victims.ranked(of)] == [
        ("best", 1),
        ("median", 2),
        ("worst", 0),
    ]
    assert victims.ranked([]) == []
