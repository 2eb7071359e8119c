"""The page of the label rules: verdicts that were worked out by hand, and a page from records made by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmark.errors import UsageError
from benchmark.papers.labels import PAPER, Comparison, by_verdict, of_the_paper, page, summary
from benchmark.suite.suite import CONFIGS, load

MakeRecord = Any


def test_the_interval_is_over_networks_and_batches() -> None:
    """Means of networks .2 and .4 and of batches .1 and .5: variances .02 and .08; t of one degree is 12.706."""
    one = Comparison(0.3, np.array([[0.0, 0.4], [0.2, 0.6]]))
    assert one.mean == pytest.approx(0.3)
    assert one.margin == pytest.approx(12.706 * (0.02 / 2 + 0.08 / 2) ** 0.5, rel=1e-4)
    assert one.reach == pytest.approx(12.706 * (0.02 * 1.5 + 0.08 * (1 / 50 + 1 / 2)) ** 0.5, rel=1e-4)


@pytest.mark.parametrize(
    ("logged", "verdict"), [(0.5, "within"), (0.52, "within"), (0.48, "within"), (0.53, "differs"), (0.4, "differs")]
)
def test_two_points_are_within_and_three_are_not(logged: float, verdict: str) -> None:
    assert Comparison(logged, np.full((4, 5), 0.5)).verdict == verdict


def test_what_one_network_can_make_is_no_difference() -> None:
    of_networks = np.repeat([[0.3], [0.5], [0.7]], 10, 1)  # variance .04, t of two degrees 4.303: a reach of .99
    assert Comparison(0.95, of_networks).verdict == "explained"
    assert Comparison(1.0, of_networks * 0.1).verdict == "differs"
    assert Comparison(1.0, np.array([[0.5], [0.5]])).verdict == "explained"  # one batch, no spread to speak of


def records(made_record: MakeRecord, scores: dict[str, float]) -> list[dict[str, Any]]:
    """Of the suite as it comes along, with these scores for all victims of all rules."""
    template, found = made_record(), []
    for number, cell in enumerate(load(CONFIGS / "labels.yaml", victims=2).cells):
        victim = template["victims"][0] | {"labels": scores}
        victims = [victim | {"index": index} for index in range(2)]
        found.append(template | {"key": str(number), "cell": cell.id, "config": cell.config(), "victims": victims})
    return found


def test_each_logged_row_finds_its_scenario_in_the_suite(made_record: MakeRecord, tmp_path: Path) -> None:
    made = records(made_record, {"existence": 1.0, "counts": 0.8, "instances": 0.9})
    tables = of_the_paper(made, tmp_path)
    rows = {(table.about["data"], table.about["varies"], row.name): row for table in tables for row in table.rows}
    assert len(rows) == sum(len(table["rows"]) for table in PAPER["tables"])
    assert [place for place, row in rows.items() if not row.comparisons] == [("CIFAR100", "batch size", "1024")]
    assert {(row.networks, row.batches) for row in rows.values() if row.comparisons} == {(10, 2)}
    counts = rows["MNIST", "hidden layers", "3"].comparisons["iLRG counts"]
    assert counts.logged == 0.768 and counts.mean == pytest.approx(0.8)
    each = by_verdict(tables)
    assert "iLRG counts, MNIST, hidden layers 3" in each["differs"]
    assert "iLRG counts, MNIST, batch size 32" in each["within"]
    assert "hidden layers 2" not in str(each)  # the network of the first table, which counts once


def test_the_page_and_its_figure_are_made_of_records(made_record: MakeRecord, tmp_path: Path) -> None:
    made = records(made_record, {"existence": 1.0, "counts": 1.0, "instances": 1.0})
    text = page(made, tmp_path)
    assert "| 16 | 10 x 2 | 0.636 | 1.000 ± 0.000 * | 1.000 | 1.000 ± 0.000 = |" in text
    assert "| 1024 | - | 0.470 | - |" in text and "Not run: CIFAR-100, batch size 1024." in text
    assert (tmp_path / "counts.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert "128: 1.000 ± 0.000 [0.386]." in summary(made, tmp_path)
    with pytest.raises(UsageError, match=r"holds no scores of label rules: run configs/labels.yaml into it first"):
        page([], tmp_path)
