"""What a board says of batches that were mixed: nothing is taken for protection that an attacker has not undone."""

from pathlib import Path
from typing import Any

import pytest

from benchmark import board, run

MIXED = {"class": "MixUp", "alpha": 20.0}


def cell(tmp_path: Path, attack: dict[str, Any], batch_size: int, *defenses: dict[str, Any]) -> dict[str, Any]:
    """The adaptive row of a defense, or of several after each other."""
    defense: dict[str, Any] = defenses[0] if len(defenses) == 1 else {"class": "Compose", "defenses": [*defenses]}
    model = {"class": "MLP", "hidden": 200, "activation": "relu"}
    run(
        data="Digits",
        model=model,
        attack=attack,
        defense=defense,
        batch_size=batch_size,
        victims=6,
        out=tmp_path / "run",
    )
    (row,) = [one for one in board(tmp_path / "run").rows if one["defense"] != "none" and one["adaptive"]]
    return row


def test_who_undoes_the_mixing_finds_it_all(tmp_path: Path) -> None:
    row = cell(tmp_path, {"class": "AutoLeak", "max_evaluations": 3}, 3, MIXED)
    assert row["leaked"] == row["victims"] == 6 and row["rank"] == 1 and not row["void"]


@pytest.mark.parametrize(
    ("attack", "batch_size", "defenses"),
    [
        ({"class": "Peeling"}, 3, [MIXED]),  # which finds mixtures, exactly, and undoes nothing
        ({"class": "AutoLeak", "max_evaluations": 3}, 9, [MIXED]),  # of too many circles
        ({"class": "Peeling"}, 3, [{"class": "IntraInstaHide", "images": 2}]),
        ({"class": "AutoLeak", "max_evaluations": 3}, 3, [MIXED, {"class": "Augmentation"}]),
        ({"class": "AutoLeak", "max_evaluations": 3}, 3, [MIXED, MIXED]),
    ],
)
def test_what_is_not_undone_has_no_rank(
    attack: dict[str, Any], batch_size: int, defenses: list[dict[str, Any]], tmp_path: Path
) -> None:
    row = cell(tmp_path, attack, batch_size, *defenses)
    assert row["rank"] is None and row["void"]
