"""Leak rate over accuracy: which defenses are points, and where."""

from itertools import pairwise
from typing import Any

import pytest

from benchmark.report.context import Report, report_of
from benchmark.report.tradeoff import LINE, NOTHING_SHARED, NOTHING_TRAINED, Point, places
from tests.benchmark.report.conftest import MakeCell
from tests.benchmark.training.conftest import MASKING, trained

NET = {"data": {"class": "Digits"}, "model": {"class": "ConvNet", "width": 4}}


def report(cell: MakeCell, trainings: list[Any], defense: Any = MASKING, **of: Any) -> Report:
    spec = {"rescale": False} | defense
    net = NET | of
    attacked = [cell(30.0, 30.0, **net), cell(12.0, 12.0, defense=spec, **net)]
    attacked.append(cell(12.0, 30.0, defense=spec, adaptive=True, **net))
    return report_of(attacked, "mine", trainings=trainings)


def runs() -> list[Any]:
    control = [trained(seed, accuracy, key=f"c{seed}") for seed, accuracy in enumerate((0.9, 0.8))]
    return control + [trained(seed, accuracy, "Masking", key=f"m{seed}") for seed, accuracy in enumerate((0.7, 0.5))]


def test_a_point_has_the_worst_case_and_the_accuracy_of_the_same_defense(cell: MakeCell) -> None:
    config = trained(0, 0.9, "Masking")["config"]["defense"]
    found = report(cell, runs(), defense=config)
    assert found.no_trade_off is None
    (plot,) = found.trade_offs
    assert not plot.differ and report(cell, runs(), config, model={"class": "ConvNet"}).trade_offs[0].differ
    first, second = plot.points
    assert (first.name, first.leak, first.accuracy) == ("no defense", 1.0, pytest.approx(0.85))
    assert (second.leak, second.accuracy, second.seeds, second.void) == (0.5, pytest.approx(0.6), 2, "")
    # t(0.975, 1 degree of freedom) = 12.7062 times the standard error 0.1
    assert (second.accuracy_low, second.accuracy_high) == (0.0, 1.0)
    assert (second.leak_low, second.leak_high) == (pytest.approx(0.0945, abs=1e-3), pytest.approx(0.9055, abs=1e-3))
    assert [one["name"] for one in plot.values] == [first.name, second.name]


def test_a_defense_that_did_not_act_or_has_no_rank_is_in_the_table_and_not_in_the_plot(cell: MakeCell) -> None:
    config = trained(0, 0.9, "Masking")["config"]["defense"]
    idle = [
        one | {"entries_changed": 0.0, "clients_changed": 0.0} if one["config"]["defense"] else one for one in runs()
    ]
    (plot,) = report(cell, idle, defense=config).trade_offs
    assert plot.points[1].void == "did not act" and [one["name"] for one in plot.values] == ["no defense"]
    attacked = [cell(30.0, 30.0, **NET), cell(12.0, 12.0, defense=config, **NET)]  # by nobody who knows it
    (plot,) = report_of(attacked, "mine", trainings=runs()).trade_offs
    assert "no rank" in plot.points[1].void and [one["name"] for one in plot.values] == ["no defense"]


def test_without_trainings_or_without_common_defenses_a_sentence_says_so(cell: MakeCell) -> None:
    assert report(cell, []).no_trade_off == NOTHING_TRAINED
    assert report(cell, runs(), defense={"class": "Masking", "ratio": 0.123}).no_trade_off == NOTHING_SHARED
    config = trained(0, 0.9, "Masking")["config"]["defense"]
    assert report(cell, runs(), defense=config, model={"class": "LeNet"}).no_trade_off == NOTHING_SHARED


def test_no_name_stands_on_another() -> None:
    points = [Point(f"d{i}", leak, 0, 1, i / 40, 0, 1, 3, "") for i, leak in enumerate([1.0] * 12 + [0.02] * 12)]
    found = places(points)
    heights = sorted(340 * (1 - one.leak) + at["dy"] for one, at in zip(points, found, strict=True) if at["label"])
    assert len(heights) > 10 and all(b - a >= LINE for a, b in pairwise(heights))
    assert places([]) == []
