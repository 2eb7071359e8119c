"""The files of the trade-off: what a page, tables for programs and papers and the figure say of the same points."""

import csv
import io
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmark.boards.leaderboard import of_records
from benchmark.tradeoff.figure import APART, LETTER, LINE, figure, labels, places, series, together
from benchmark.tradeoff.page import grid, write
from benchmark.tradeoff.points import NOTHING_TRAINED, as_key
from tests.benchmark.tradeoff.conftest import MASKED, Made, masking, point, trade_off, trainings


def test_all_files_are_written_and_say_the_same(tmp_path: Path, attacked: Made) -> None:
    write(tmp_path, of_records(attacked(MASKED)), trainings())
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert sorted(files) == [f"tradeoff.{end}" for end in ("csv", "md", "pdf", "png", "tex")]
    page, rows = files["tradeoff.md"].decode(), list(csv.DictReader(io.StringIO(files["tradeoff.csv"].decode())))
    assert page.index("Masking: open at ratio=0.5") < page.index("| Masking | ratio=0.5 |")
    assert [(row["defense"], row["leak_rate"], row["front"]) for row in rows] == [
        ("no defense", "1.0", "on the front"),
        ("Masking", "0.5", "not told apart"),  # of the other half nothing is known
    ]
    assert float(rows[1]["difference"]) == pytest.approx(-0.25) and rows[1]["bytes"] == ""
    assert r"Masking & ratio=0.5 & 0.50 (4/8)" in files["tradeoff.tex"].decode()
    assert r"\begin{longtable}" in files["tradeoff.tex"].decode()
    assert files["tradeoff.pdf"].startswith(b"%PDF") and Image.open(io.BytesIO(files["tradeoff.png"])).width == 1000
    write(tmp_path, of_records(attacked(MASKED)), trainings())
    assert files == {path.name: path.read_bytes() for path in tmp_path.iterdir()}


def test_where_nothing_can_be_compared_the_page_says_why(tmp_path: Path, attacked: Made) -> None:
    write(tmp_path, of_records(attacked(MASKED)), [])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tradeoff.md"]
    assert NOTHING_TRAINED in (tmp_path / "tradeoff.md").read_text()


@pytest.mark.parametrize(("knows", "trained"), [((False,), True), ((False, True), False)])
def test_where_no_defense_can_be_judged_there_is_a_page_on_demand(
    knows: tuple[bool, ...], trained: bool, tmp_path: Path, attacked: Made
) -> None:
    """Nobody who knows the defense has attacked it, or nothing was trained."""
    given = of_records(attacked(MASKED, knows)), trainings() if trained else []
    assert write(tmp_path, *given, empty=False) == [] and not list(tmp_path.iterdir())
    write(tmp_path, *given)
    assert (tmp_path / "tradeoff.md").exists()
    judged = of_records(attacked(MASKED)), trainings()
    assert write(tmp_path, *judged, empty=False) and (tmp_path / "tradeoff.png").exists()


def test_a_table_has_what_a_training_costs_where_it_is_known() -> None:
    known = {"bytes": 61234.5, "client_seconds": 0.01234, "epsilon": 8.0, "delta": 1e-5}
    shown = grid(trade_off(point(), masking(0.5, 12, (0.01, 0.02, 0.03), **known)))
    control, masked = (dict(zip(shown.names, row, strict=True)) for row in shown.rows)
    costs = ("sent", "ms / client", "epsilon")
    assert [masked[name] for name in costs] == ["61.2 kB", "12.3", "8"]
    assert [control[name] for name in costs] == ["-"] * 3
    # t(0.975, 2 degrees of freedom) = 4.303 times 0.01 / sqrt 3
    assert (masked["difference"], control["difference"]) == ("-2.00 (-4.48 to +0.48)", "-")
    assert masked["rate"] == "0.3 (largest tried)"
    assert "dominated by" not in shown.names and "unknown" not in shown.names


def test_a_void_point_has_its_reason_in_the_table_and_what_dominates_is_named() -> None:
    shown = grid(trade_off(masking(0.9, 2), masking(0.1, 12), masking(0.8, 0, void="did not act")))
    rows = [dict(zip(shown.names, row, strict=True)) for row in shown.rows]
    assert [row["dominated by"] for row in rows] == ["-", "Masking ratio=0.9", "-"]
    assert [row["not judged"] for row in rows] == ["-", "-", "did not act"] and rows[2]["rank"] == "-"


def crowd() -> list[Any]:
    """45 defenses, of which 15 leak all and 15 nothing."""
    draw = np.random.default_rng(0)
    return [
        point({"class": f"D{i % 15}", "strength": 0.1 * (1 + i // 15)}, (16, int(draw.integers(16)), 0)[i // 15], loss)
        for i, loss in enumerate((draw.random(45) ** 3 * 0.4).tolist())
    ]


def test_no_label_stands_on_another_or_on_a_point_however_many_there_are() -> None:
    points = crowd()
    at = np.array([(60 + 8 * 100 * one.accuracy, 60 + 600 * one.leak) for one in points])
    texts = [labels(trade_off(*points))[as_key(one.defense)] for one in points]
    found = places(at, texts, ((0.0, 0.0), (1000.0, 720.0)))
    assert None not in found
    boxes = [(*place, LETTER * len(text) / 2, LINE / 2) for place, text in zip(found, texts, strict=True) if place]
    boxes += [(*place, 6.0, 6.0) for place in at.tolist()]
    for one, other in combinations(boxes, 2):
        both_points = one[2] == other[2] == 6.0
        assert both_points or abs(one[0] - other[0]) >= one[2] + other[2] or abs(one[1] - other[1]) >= one[3] + other[3]


def test_a_label_without_room_is_left_out() -> None:
    assert places(np.array([[5.0, 5.0]]), ["a name of some length"], ((0.0, 0.0), (20.0, 20.0))) == [None]


def test_strengths_in_a_row_stand_together_where_their_points_leave_no_room() -> None:
    room = 2 * APART + LETTER * len("0.5")
    assert together([0.0, 1.01 * room], ["0.5", "0.9"]) == [(0.0, "0.5"), (1.01 * room, "0.9")]
    assert together([0.99 * room, 0.0], ["0.9", "0.5"]) == [(0.99 * room, "0.5, 0.9")]


def test_each_defense_is_drawn_once_with_its_strengths_from_the_weakest_and_without_what_says_nothing() -> None:
    def kept(*layers: str, cost: float) -> Any:
        return point({"class": "KeptAtHome", "layers": list(layers)}, 16, cost)

    found = trade_off(point(), masking(0.9, 2, 0.1), masking(0.1, 12), masking(0.8, 0, void="did not act"))
    assert [(one.name, one.marks) for one in series(found)] == [("no defense", [""]), ("Masking", ["0.1", "0.9"])]
    home = trade_off(kept("first", "last", cost=0.5), kept("first", cost=0.1), point({"class": "Sign"}))
    assert [(one.name, one.marks) for one in series(home)] == [
        ("KeptAtHome", ["first", "first + last"]),
        ("Sign", [""]),
    ]
    assert set(labels(home).values()) == {"KeptAtHome first", "KeptAtHome first + last", "Sign"}
    (masked,) = (one.where(leaks_wholly=False) for one in series(trade_off(masking(0.1), masking(0.9, 2, 0.1))))
    assert masked.marks == ["0.9"]


def test_a_figure_of_45_points_is_1000_pixels_wide() -> None:
    assert Image.open(io.BytesIO(figure([trade_off(*crowd())])["png"])).width == 1000
