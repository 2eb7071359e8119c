"""The short board of the page on all results, from records that were made by hand."""

import re
from pathlib import Path
from typing import Any

import pytest

from benchmark.errors import UsageError
from benchmark.papers import board, overview
from tests.conftest import MakeRecord

Record = dict[str, Any]
MASK = {"class": "Masking", "ratio": 0.5, "rescale": False}
CLIPPING = {"class": "Clipping", "max_norm": 1.0}
HEADER = "attacked,trained,defense,defense_args,accuracy,accuracy_low,accuracy_high,void\n"


@pytest.fixture
def records(made_record: MakeRecord) -> list[Record]:
    """Two of four victims leak behind the mask, to the attacker who knows it, and all without it or when clipped."""
    found = []
    for defense, knows, leaking in (
        (None, False, 4),
        (MASK, False, 0),
        (MASK, True, 2),
        (CLIPPING, False, 4),
        (CLIPPING, True, 4),
    ):
        record = made_record(count=4, defense=defense, adaptive=knows)
        for place, victim in enumerate(record["victims"]):
            victim["psnr"] = [40.0 if place < leaking else 9.0]
            victim["mse"] = [10 ** (-victim["psnr"][0] / 10)]
            victim["leaked_any"] = victim["leaked_all"] = place < leaking
            victim["status"] = "converged"
        found.append(record)
    return found


def trade_off(heading: str) -> str:
    return HEADER + (
        f'"{heading}",FedSGD,no defense,{{}},0.9,0.85,0.95,\n'
        f'"{heading}",FedSGD,Masking,"{{""rescale"": false, ""ratio"": 0.5}}",0.8,0.7,0.9,no rank\n'
        f'"{heading}",FedSGD,Clipping,"{{""max_norm"": 1.0}}",0.7,0.6,0.8,training: it did not act\n'
        f'"another network",FedSGD,Masking,"{{""rescale"": false, ""ratio"": 0.5}}",0.1,0.1,0.1,\n'
    )


def test_the_worst_case_stands_beside_the_accuracy_of_the_same_defense(records: list[Record], tmp_path: Path) -> None:
    ((heading, without),) = board.scenarios(records, tmp_path).items()
    assert not any(one.accuracies for one in without)
    (tmp_path / "tradeoff.csv").write_text(trade_off(heading))
    (lines,) = board.scenarios(records, tmp_path).values()
    found = {one.defense: one for one in lines}
    assert {name: one.leak[0] for name, one in found.items()} == {"none": 1.0, "Masking": 0.5, "Clipping": 1.0}
    masked = found["Masking"]  # of the half that does not leak nothing is known
    assert masked.strength == "ratio=0.5" and masked.leak[1:] == pytest.approx((0.15, 1.0), abs=0.01)
    assert (masked.unknown, masked.victims) == (2, 4)
    assert found["Masking"].accuracies == [(0.8, 0.7, 0.9)]  # also of what has no rank
    assert found["none"].accuracies == [(0.9, 0.85, 0.95)]
    assert found["Clipping"].accuracies == [], "a training that says nothing"


@pytest.mark.parametrize(
    "damage", ["attacked,defense\na,b\n", HEADER + "a,b,c,{,1,1,1,\n", HEADER + "a,b,c,{},x,1,1,\n"]
)
def test_a_damaged_table_is_told(records: list[Record], tmp_path: Path, damage: str) -> None:
    (tmp_path / "tradeoff.csv").write_text(damage)
    with pytest.raises(UsageError, match=r"tradeoff\.csv cannot be read \(.*\): publish the run again"):
        board.scenarios(records, tmp_path)


def test_the_index_shows_the_board_first_and_no_more_scenarios_than_fit(
    records: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "leaderboard").mkdir()
    (tmp_path / "leaderboard" / "records.jsonl").write_bytes(b"{}")
    (heading,) = board.scenarios(records, tmp_path)
    (tmp_path / "leaderboard" / "tradeoff.csv").write_text(trade_off(heading))
    found = overview.found_in(tmp_path, lambda _: records)
    index = overview.index(found)
    assert "is not there" not in index + overview.page(found)
    assert '<a href="leaderboard/leaderboard.md">' in index
    (row,) = re.findall(r"<tr>(?:(?!</tr>).)*Masking ratio=0\.5.*?</tr>", index)
    assert re.findall(r"<td[^>]*>(.*?)</td>", row)[1:] == ["0.50 (0.15-1.00)", "2 of 4", "0.800 (0.700-0.900)"]
    monkeypatch.setattr(board, "MOST", 2)
    index = overview.index(found)
    assert "Masking ratio=0.5" not in index and "1 of 1 scenarios stand in its folder alone" in index
