"""Rows that were worked out by hand, from records that were made by hand."""

import csv
import io
import json
from typing import Any

import pytest

from benchmark.leaderboard import as_csv, as_markdown, cells_of, rows, varying

Record = dict[str, Any]
LEAKS, SAFE = 25.0, 12.0


def victim(index: int, *psnr: float, status: str = "converged", **more: Any) -> dict[str, Any]:
    """A victim with an image for each PSNR."""
    images = len(psnr)
    return {
        "index": index,
        "status": status,
        "evaluations": 100,
        "loss": 0.0,
        "mse": [10 ** (-value / 10) for value in psnr],
        "psnr": list(psnr),
        "ssim": [0.5] * images,
        "lpips": None,
        "null_psnr": [10.0] * images,
        "null_ssim": [0.3] * images,
        "leaked_any": status != "diverged" and any(value >= 20 for value in psnr),
        "leaked_all": status != "diverged" and all(value >= 20 for value in psnr),
        "label_correct": [True] * images,
    } | more


def record(
    victims: list[dict[str, Any]],
    attack: str = "DLG",
    defense: dict[str, Any] | None = None,
    adaptive: bool = False,
    seconds: float = 1.0,
    tolerance: float = 0.0,
    key: str = "",
    **config: Any,
) -> Record:
    config = {
        "schema": 1,
        "data": {"class": "Digits"},
        "model": {"class": "LeNet", "init_range": 0.5},
        "batch_size": len(victims[0]["psnr"]),
        "seed": 0,
        "defense": defense,
        "attack": {"class": attack, "tolerance": tolerance},
        "adaptive": adaptive,
    } | config
    cell = json.dumps(config, sort_keys=True)
    return {
        "key": key or cell + str([v["index"] for v in victims]),
        "cell": cell,
        "config": config,
        "provenance": {"date": "2026-01-01T00:00:00Z", "lpips": "no weights"},
        "cost": {"seconds": seconds, "peak_memory_mib": 1, "notes": []},
        "victims": victims,
        "curve": {"evaluations": [], "loss": [], "psnr": []},
        "picture": "",
    }


def of(*psnr: float) -> list[dict[str, Any]]:
    """Victims of one image each."""
    return [victim(index, value) for index, value in enumerate(psnr)]


def row_of(table: list[dict[str, Any]], **wanted: Any) -> dict[str, Any]:
    (found,) = [row for row in table if all(row[key] == value for key, value in wanted.items())]
    return found


def both(victims: list[dict[str, Any]], **more: Any) -> list[Record]:
    """A defense against an attack that does not know it, and the one that does."""
    return [record(victims, **more), record(victims, adaptive=True, **more)]


MASKING, PRUNING, NOISE = ({"class": name, "ratio": 0.5} for name in ("Masking", "Pruning", "GaussianNoise"))


def test_arguments_of_an_attack_that_differ_on_a_board_stand_beside_its_name() -> None:
    table = rows([record(of(LEAKS), tolerance=t) for t in (0.0, 0.5)] + [record(of(LEAKS), attack="IDLG")])
    shown = [cells_of(row, varying(table))[3] for row in table]
    assert sorted(shown) == ["DLG tolerance=0.0", "DLG tolerance=0.5", "IDLG"]


def test_the_leak_rate_and_its_wilson_interval_are_those_worked_out_by_hand() -> None:
    (row,) = rows([record(of(LEAKS, SAFE, SAFE, SAFE), seconds=8.0)])
    assert (row["victims"], row["leaked"], row["leak_rate"]) == (4, 1, 0.25)
    # (p + z^2 / 2n -+ z sqrt(p q / n + z^2 / 4n^2)) / (1 + z^2 / n) with p = 1/4, n = 4, z = 1.95996
    assert row["leak_rate_low"] == pytest.approx(0.04559, abs=1e-4)
    assert row["leak_rate_high"] == pytest.approx(0.69936, abs=1e-4)
    assert row["psnr_mean"] == pytest.approx((25 + 3 * 12) / 4)
    assert row["mse_median"] == pytest.approx(10**-1.2)
    assert row["seconds_per_victim"] == 2.0


def test_twenty_decibels_have_leaked_and_a_little_less_have_not() -> None:
    (row,) = rows([record(of(20.0, 19.999))])
    assert row["leaked"] == 1


def test_a_diverged_victim_has_not_leaked_but_counts_in_every_mean() -> None:
    (row,) = rows([record([victim(0, LEAKS, status="diverged"), victim(1, SAFE)])])
    assert (row["leaked"], row["diverged"], row["victims"]) == (0, 1, 2)
    assert row["psnr_mean"] == pytest.approx((LEAKS + SAFE) / 2)


def test_a_batch_of_two_leaks_with_one_of_its_images_and_its_scores_are_means_of_both() -> None:
    first = victim(0, 30.0, 10.0, ssim=[0.9, 0.1], label_correct=[True, False])
    (row,) = rows([record([first, victim(1, 12.0, 14.0)])])
    assert (row["leaked"], row["victims"], row["batch_size"]) == (1, 2, 2)
    assert row["psnr_mean"] == pytest.approx((20 + 13) / 2)
    assert row["ssim_mean"] == pytest.approx(0.5)
    assert row["label_accuracy"] == pytest.approx(0.75)
    mse = [(10**-3 + 10**-1) / 2, (10**-1.2 + 10**-1.4) / 2]
    assert row["mse_median"] == pytest.approx(sum(mse) / 2)


def test_lpips_is_a_mean_of_all_victims_or_none_at_all() -> None:
    (whole,) = rows([record([victim(0, SAFE, lpips=[0.2]), victim(1, SAFE, lpips=[0.4])])])
    assert whole["lpips_mean"] == pytest.approx(0.3)
    assert whole["lpips_mean_low"] <= whole["lpips_mean"] <= whole["lpips_mean_high"]
    (part,) = rows([record([victim(0, SAFE, lpips=[0.2]), victim(1, SAFE)])])
    assert part["lpips_mean"] is part["lpips_mean_low"] is part["lpips_mean_high"] is None


def test_a_defense_is_ranked_by_the_victims_that_leak_to_any_attack() -> None:
    table = rows(
        [
            record(of(LEAKS, LEAKS, LEAKS, LEAKS)),
            record(of(LEAKS, SAFE, SAFE, SAFE), defense=MASKING),
            record(of(SAFE, LEAKS, SAFE, SAFE), defense=MASKING, adaptive=True),
            record(of(LEAKS, LEAKS, LEAKS, SAFE), defense=PRUNING),
            record(of(LEAKS, SAFE, SAFE, SAFE), defense=PRUNING, adaptive=True),
        ]
    )
    ranks = [(row["rank"], row["defense"], row["leak_rate"], row["worst_leak_rate"]) for row in table]
    assert ranks == [
        (1, "Masking", 0.25, 0.5),  # one victim to each attack, and not the same
        (1, "Masking", 0.25, 0.5),
        (2, "Pruning", 0.75, 0.75),  # the worse of a defense's rows stands first
        (2, "Pruning", 0.25, 0.75),
        (3, "none", 1.0, 1.0),
    ]


def test_equal_defenses_share_a_rank_and_the_next_one_is_skipped() -> None:
    table = rows(
        [
            record(of(LEAKS, LEAKS)),
            *both(of(LEAKS, SAFE), defense=MASKING),
            *both(of(SAFE, LEAKS), defense=PRUNING),
            *both(of(SAFE, SAFE), defense=NOISE),
        ]
    )
    assert [(row["rank"], row["defense"]) for row in table if not row["adaptive"]] == [
        (1, "GaussianNoise"),
        (2, "Masking"),
        (2, "Pruning"),
        (4, "none"),
    ]


def test_a_cell_is_void_where_its_own_control_leaks_nothing() -> None:
    table = rows(
        [
            record(of(LEAKS, SAFE)),
            record(of(SAFE, SAFE), attack="IDLG"),
            *both(of(SAFE, SAFE), defense=MASKING),
            *both(of(SAFE, SAFE), defense=MASKING, attack="IDLG"),
        ]
    )
    assert not row_of(table, defense="Masking", attack="DLG", adaptive=True)["void"]
    assert row_of(table, defense="Masking", attack="IDLG", adaptive=True)["void"]
    assert not row_of(table, defense="none", attack="IDLG")["void"]
    assert row_of(table, defense="Masking", attack="DLG", adaptive=True)["rank"] == 1


def test_a_defense_whose_cells_are_not_all_there_has_no_rank_yet() -> None:
    whole = [record(of(LEAKS, LEAKS)), record(of(LEAKS, LEAKS), attack="IDLG")]
    for attack in ("DLG", "IDLG"):
        whole += both(of(SAFE, SAFE), defense=MASKING, attack=attack)
    assert row_of(rows(whole), defense="Masking", attack="DLG", adaptive=True)["rank"] == 1
    for missing in range(2, len(whole)):
        left = rows(whole[:missing] + whole[missing + 1 :])
        assert {row["rank"] for row in left if row["defense"] == "Masking"} == {None}
    fewer = [*whole[:-1], record(of(SAFE), defense=MASKING, attack="IDLG", adaptive=True)]
    assert {row["rank"] for row in rows(fewer) if row["defense"] == "Masking"} == {None}


def test_of_two_records_of_a_victim_the_newest_counts() -> None:
    old, new = record(of(SAFE), key="a"), record(of(LEAKS), key="b")
    old["provenance"]["date"], new["provenance"]["date"] = "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"
    for records in ([old, new], [new, old]):
        assert rows(records)[0]["leaked"] == 1


def test_a_cell_without_a_control_is_void_and_its_defense_has_no_rank() -> None:
    table = rows([record(of(LEAKS, SAFE)), record(of(SAFE, SAFE), attack="IDLG", defense=MASKING)])
    assert row_of(table, defense="Masking")["void"]
    assert row_of(table, defense="Masking")["rank"] is None


def test_a_control_with_other_arguments_of_the_attack_is_no_control() -> None:
    table = rows(
        [
            record(of(LEAKS), tolerance=0.5),
            record(of(SAFE), tolerance=0.1),
            record(of(SAFE), tolerance=0.1, defense=MASKING),
        ]
    )
    assert row_of(table, defense="Masking")["void"]


def test_defenses_of_different_strength_are_ranked_each_for_itself() -> None:
    weak, strong = ({"class": "Masking", "ratio": ratio} for ratio in (0.1, 0.9))
    table = rows(
        [record(of(LEAKS, LEAKS)), *both(of(LEAKS, LEAKS), defense=weak), *both(of(SAFE, SAFE), defense=strong)]
    )
    assert row_of(table, defense_args={"ratio": 0.9}, adaptive=True)["rank"] == 1
    assert row_of(table, defense_args={"ratio": 0.1}, adaptive=True)["rank"] == 2


def test_baselines_come_last_without_a_rank_and_do_not_decide_one() -> None:
    table = rows([record(of(LEAKS, LEAKS), attack="MeanImage"), record(of(SAFE, LEAKS))])
    assert [(row["attack"], row["rank"], row["void"]) for row in table] == [
        ("DLG", 1, False),
        ("MeanImage", None, False),
    ]
    assert table[0]["worst_leak_rate"] == 0.5


def test_two_blocks_of_a_cell_are_one_row() -> None:
    blocks = [record(of(LEAKS, SAFE), seconds=1.0), record([victim(2, LEAKS), victim(3, LEAKS)], seconds=5.0)]
    (row,) = rows(blocks)
    assert (row["victims"], row["leaked"], row["seconds_per_victim"]) == (4, 3, 1.5)


def test_a_victim_in_two_blocks_counts_once() -> None:
    (row,) = rows([record(of(LEAKS, SAFE), key="a"), record(of(LEAKS, SAFE, SAFE, SAFE), key="b")])
    assert (row["victims"], row["leaked"]) == (4, 1)


@pytest.mark.parametrize("other", [{"seed": 1}, {"data": {"class": "Photos"}}, {"model": {"class": "MLP"}}])
def test_scenarios_are_ranked_apart(other: dict[str, Any]) -> None:
    table = rows([record(of(LEAKS)), record(of(SAFE), defense=MASKING), record(of(SAFE), defense=PRUNING, **other)])
    assert row_of(table, defense="Masking")["void"] is False
    assert row_of(table, defense="Pruning")["void"] is True


def test_csv_has_every_column_of_every_row() -> None:
    table = rows([record(of(LEAKS)), record(of(SAFE), defense=MASKING)])
    read = list(csv.DictReader(io.StringIO(as_csv(table))))
    assert [list(row) for row in read] == [list(row) for row in table]
    assert [float(row["leak_rate"]) for row in read] == [row["leak_rate"] for row in table]


def test_markdown_says_which_cells_are_void_and_why_lpips_is_empty() -> None:
    page = as_markdown(rows([record(of(SAFE)), record(of(SAFE), defense=MASKING)]), "mine", "no weights")
    assert page.startswith("# mine\n")
    assert "LPIPS is empty: no weights" in page
    (line,) = [line for line in page.splitlines() if "Masking" in line and line.startswith("|")]
    assert "DLG (void)" in line and "0.00 (0/1)" in line


def test_the_share_at_each_threshold_stands_beside_the_leak_rate() -> None:
    (row,) = rows([record(of(25.0, 31.0, 12.0, 45.0))])  # MSE 0.0032, 0.00079, 0.063, 0.000032
    assert row["mse_at_most"] == {"0.01": 0.75, "0.005": 0.75, "0.001": 0.5, "0.0005": 0.25, "0.0001": 0.25}
