"""Which published records newer ones of other code replace."""

from typing import Any

import pytest

from benchmark.boards.cells import cells_of_one_code
from benchmark.boards.replaced import replaced, replaced_trainings
from tests.conftest import MakeRecord

NOISE = {"class": "GaussianNoise", "std": 0.1}


def dated(record: dict[str, Any], day: int) -> dict[str, Any]:
    return record | {"provenance": record["provenance"] | {"date": f"2026-01-{day:02}T00:00:00Z"}}


@pytest.mark.parametrize("swapped", [False, True])
def test_the_newer_of_two_codes_replaces_the_older_in_whatever_order_they_come(
    made_record: MakeRecord, swapped: bool
) -> None:
    old, new = dated(made_record(code="old"), 1), dated(made_record(code="new"), 2)
    assert replaced([new, old] if swapped else [old, new]) == {old["key"]}


def test_of_one_date_the_later_one_is_newer(made_record: MakeRecord) -> None:
    first, second = made_record(code="first"), made_record(code="second")
    assert replaced([first, second]) == {first["key"]} and replaced([second, first]) == {second["key"]}


@pytest.mark.parametrize(
    "other",
    [
        {"attack": {"class": "DLG"}},  # a better attack, beside which the old number stays
        {"defense": NOISE},
        {"defense": NOISE | {"std": 0.2}},
        {"adaptive": True, "defense": NOISE},
        {"seed": 1},
        {"first": 2},  # other victims
        {"pixels": "others"},  # of the same number
    ],
)
def test_another_cell_or_other_victims_stay(made_record: MakeRecord, other: dict[str, Any]) -> None:
    old = dated(made_record(code="old", **({"defense": NOISE} if other.get("adaptive") else {})), 1)
    assert not replaced([old, dated(made_record(code="new", **other), 2)])


def test_records_of_one_code_stay_side_by_side(made_record: MakeRecord) -> None:
    assert not replaced([dated(made_record(0, 4), 1), dated(made_record(0, 2), 2)])


def test_a_block_is_replaced_by_several_that_hold_all_of_its_victims_and_by_nothing_less(
    made_record: MakeRecord,
) -> None:
    old = dated(made_record(0, 4, code="old"), 1)
    first, second = (dated(made_record(start, 2, code="new"), 2) for start in (0, 2))
    assert not replaced([old, first])
    assert replaced([old, first, second]) == {old["key"]}
    inside = dated(made_record(2, 2, code="old"), 1)
    assert replaced([inside, dated(made_record(0, 4, code="new"), 2)]) == {inside["key"]}


def test_what_the_classes_of_a_user_do_is_code_too(made_record: MakeRecord) -> None:
    old = dated(made_record(), 1) | {"behavior_sha256": "a", "key": "old"}
    assert replaced([old, dated(made_record(), 2) | {"behavior_sha256": "b"}]) == {"old"}


def training(key: str, day: int, code: str, seed: int = 0, data: str = "d", **config: Any) -> dict[str, Any]:
    made = {"key": key, "config": {"seed": seed, "defense": None} | config, "data_sha256": data, "code_sha256": code}
    return made | {"provenance": {"date": f"2026-01-{day:02}T00:00:00Z"}}


def test_a_training_is_replaced_by_a_newer_one_of_its_configuration_seed_and_images() -> None:
    old, new = training("old", 1, "a"), training("new", 2, "b")
    others = [
        training("seed", 1, "a", seed=1),
        training("data", 1, "a", data="e"),
        training("defense", 1, "a", defense=NOISE),
        training("rate", 1, "a", learning_rate=0.3),
        training("tuning", 1, "a", tuning=True),
    ]
    assert replaced_trainings([new, old, *others]) == {"old"}
    assert not replaced_trainings([new, training("again", 3, "b")])


def test_records_that_are_left_out_do_not_change_the_order_of_the_cells(made_record: MakeRecord) -> None:
    """The order of the sentences under a board."""
    strengths = [dated(made_record(code="new", defense=NOISE | {"std": std}), 2) for std in (0.1, 0.2, 0.3)]
    cells = [record["cell"] for record in strengths]
    old = dated(made_record(code="old", defense=NOISE | {"std": 0.3}), 1)
    for given in ([old, *strengths], [*strengths, old], strengths):
        assert list(cells_of_one_code(given)[0]) == cells
    assert list(cells_of_one_code(strengths[::-1])[0]) == cells[::-1]
