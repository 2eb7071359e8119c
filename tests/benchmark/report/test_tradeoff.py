"""The trade-off on a page: its points, where their labels stand, its table and its sentences."""

import math
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import pytest

from benchmark.report.context import report_of
from benchmark.report.page import page
from benchmark.report.tradeoff import EDGE, HEIGHT, LETTER, LINE, NARROW, WIDE, places, view
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
        ("Masking 0.5", True, 2.0),
    ]
    assert masked["lost_low"] < masked["lost"] < masked["lost_high"]
    assert view(trade_off(masking(0.9, 0, void="did not act"))).values == []


@pytest.mark.parametrize("widths", [NARROW, WIDE])
def test_a_label_stands_beside_its_point_and_on_no_other_one(widths: Sequence[float]) -> None:
    values = [
        {"label": f"Masking {i % 12 / 12:.2g}", "leak": leak, "lost": i % 12, "front": i == 7}
        | {"lost_low": i % 12 - 1, "lost_high": i % 12 + 2}
        for i, leak in enumerate([1.0] * 12 + [0.5] * 12 + [0.4] * 6 + [0.02] * 12)
    ]
    found = places(values, widths)
    assert found[7]["label"] and 5 < sum(bool(one["label"]) for one in found) < len(values)
    for width in range(int(widths[0]), int(widths[-1]), 7):
        across = [EDGE + (width - 2 * EDGE) * (1 - at_share(one["lost"], -1, 13)) for one in values]
        points = [(x, HEIGHT * (1 - one["leak"])) for x, one in zip(across, values, strict=True)]
        boxes = [(x, x, y, y) for x, y in points]
        for (x, y), at in zip(points, found, strict=True):
            if at["label"]:
                wide, below = LETTER * len(at["label"]), y + at["dy"]
                left = x + at["dx"] - {"left": 0, "center": wide / 2, "right": wide}[at["align"]]
                assert left >= 0 and left + wide <= width and below < HEIGHT
                assert math.hypot(at["dx"], at["dy"]) < 2 * LINE
                boxes.append((left, left + wide, below - LINE / 2, below + LINE / 2))
        for a, b in combinations(boxes, 2):
            assert (a[0] == a[1] and b[0] == b[1]) or not (a[0] < b[1] and b[0] < a[1] and a[2] < b[3] and b[2] < a[3])
    assert places([], widths) == []


def at_share(lost: float, least: float, most: float) -> float:
    """Where it stands on a symmetric logarithmic axis, 0 at the least and 1 at the most."""
    drawn, low, high = (math.copysign(math.log1p(abs(one)), one) for one in (lost, least, most))
    return (drawn - low) / (high - low)
