"""The trade-off on a page: its points, where their labels stand, its table and its sentences."""

import math
from itertools import combinations
from typing import Any

from benchmark.report.context import report_of
from benchmark.report.page import page
from benchmark.report.tradeoff import HEIGHT, LINE, NEAR, places, view
from benchmark.tradeoff.one_point import sentences
from tests.benchmark.report.conftest import MakeCell
from tests.benchmark.tradeoff.conftest import masking, point, trade_off
from tests.benchmark.training.conftest import trained

NET = {"data": {"class": "Digits"}, "model": {"class": "ConvNet", "width": 4}}


def attacked(cell: MakeCell, defense: Any) -> list[Any]:
    records = [cell(30.0, 30.0, **NET), cell(12.0, 12.0, defense=defense, **NET)]
    return [*records, cell(12.0, 30.0, defense=defense, adaptive=True, **NET)]


def test_the_page_has_the_sentence_the_table_and_the_points(cell: MakeCell) -> None:
    masked = [trained(seed, accuracy, "Masking", key=f"m{seed}") for seed, accuracy in enumerate((0.7, 0.5))]
    control = [trained(seed, accuracy, key=f"c{seed}") for seed, accuracy in enumerate((0.9, 0.8))]
    records = attacked(cell, masked[0]["config"]["defense"])
    report = report_of(records, "mine", trainings=[*control, *masked])
    (shown,) = report.trade_offs
    assert report.no_trade_off is None and [one["name"] for one in shown.values] == ["no defense", "Masking ratio=0.5"]
    content = page(report, script="")
    (sentence,) = shown.sentences
    assert sentence.startswith("Masking: open at ratio=0.5") and sentence in content
    assert report.costs_said in content
    assert content.index(sentence) < content.index("<td>on the front</td>") < content.index(report.trade_off_note[:60])
    assert content.count('data-spec="trade_off"') == 1
    uncompared = page(report_of(records, "mine", trainings=masked), script="")
    assert 'data-spec="trade_off"' not in uncompared and "No point can be drawn, for the reasons in" in uncompared
    without = report_of(records, "mine")
    assert without.no_trade_off and without.no_trade_off in page(without, script="")


def test_the_plot_has_what_is_lost_and_no_point_that_says_nothing() -> None:
    found = trade_off(point(), masking(0.5, 4, (0.03, 0.02, 0.01)), masking(0.9, 0, void="did not act"))
    shown = view(found)
    assert shown.sentences == sentences(found.points) and len(shown.grid.rows) == 3
    control, masked = shown.values
    assert [(one["label"], one["front"], round(one["lost"], 9)) for one in (control, masked)] == [
        ("no defense", True, 0.0),
        ("0.5", True, 2.0),
    ]
    assert masked["lost_low"] < masked["lost"] < masked["lost_high"]
    assert view(trade_off(masking(0.9, 0, void="did not act"))).values == []


def test_no_label_stands_on_another() -> None:
    values = [{"leak": leak, "lost": i % 12 / 2} for i, leak in enumerate([1.0] * 12 + [0.5] * 12 + [0.02] * 12)]
    found = places(values)
    boxes = []
    for one, at in zip(values, found, strict=True):
        across = 1 - at_share(one["lost"], 5.5) + (NEAR / 2 if at["align"] == "left" else -NEAR / 2)
        boxes += [(across, HEIGHT * (1 - one["leak"]) + at["dy"])] if at.get("label") != "" else []
    assert len(boxes) > 20
    assert all(abs(a[0] - b[0]) >= NEAR - 1e-9 or abs(a[1] - b[1]) >= LINE for a, b in combinations(boxes, 2))
    assert places([]) == []


def at_share(lost: float, most: float) -> float:
    """Where it stands on a symmetric logarithmic axis, 0 at the best and 1 at the worst."""
    return math.log1p(lost) / math.log1p(most)
