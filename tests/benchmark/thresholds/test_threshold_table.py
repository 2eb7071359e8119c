"""thresholds.json is made from the records: what stops, what is left out, what belongs together."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmark.errors import UsageError
from benchmark.thresholds.page import write
from benchmark.thresholds.strengths import ADAPTIVE, by_defense
from benchmark.thresholds.table import FILE, Criterion, merged, read, rows

MakeSearch = Callable[..., tuple[dict[str, Any], list[dict[str, Any]]]]

HALVES = {0.0: 16, 0.5: 8, 0.75: 0, 1.0: 0}


def test_a_row_says_where_leakage_stops_and_how_surely(make_search: MakeSearch) -> None:
    search, records = make_search(HALVES)
    (row,) = rows([search], records, Criterion())
    assert row["strengths"] == [0.0, 0.5, 0.75, 1.0] and row["ssim"]["rates"] == [1.0, 0.5, 0.0, 0.0]
    assert row["ssim"] == row["psnr"]
    found = row["ssim"]
    assert (found["stopped"], found["strength"], found["low"], found["high"]) == ("within", 0.75, 0.5, None)
    search, records = make_search({0.0: 100, 0.5: 50, 0.75: 5, 1.0: 0}, victims=100)
    (row,) = rows([search], records, Criterion())
    assert (row["psnr"]["strength"], row["psnr"]["low"], row["psnr"]["high"]) == (0.75, 0.5, 1.0)


def test_a_smaller_number_may_be_stronger(make_search: MakeSearch) -> None:
    search, records = make_search({100.0: 16, 1.0: 9, 0.01: 0}, "Clipping", argument="max_norm")
    (row,) = rows([search], records, Criterion())
    assert (row["ssim"]["strength"], row["ssim"]["low"]) == (0.01, 1.0)
    (joined,) = merged([search, search | {"strengths": [10.0, 0.1]}])
    assert joined["strengths"] == [100.0, 10.0, 1.0, 0.1, 0.01]


@pytest.mark.parametrize(
    ("leaking", "without", "how", "note"),
    [
        ({0.1: 0, 0.9: 0}, 0, "void", "void: 0% leak without a defense"),
        ({0.1: 0, 0.9: 0}, 16, "at the weak end", "already stopped at the weak end, ratio 0.1 (0% leak)"),
        ({0.1: 16, 0.9: 4}, 16, "never", "not stopped at the strong end, ratio 0.9 (25% leak)"),
    ],
)
def test_where_the_range_does_not_enclose_the_threshold_there_is_none(
    make_search: MakeSearch, leaking: dict[float, int], without: int, how: str, note: str
) -> None:
    search, records = make_search(leaking, without=without)
    (row,) = rows([search], records, Criterion())
    assert row["ssim"]["stopped"] == how and row["ssim"]["strength"] is None and note in row["ssim"]["note"]


def test_records_of_two_runs_make_one_curve_whatever_is_in_the_suite_now(make_search: MakeSearch) -> None:
    wide, records = make_search({0.0: 16, 0.5: 16, 0.999: 0})
    narrow, more = make_search({0.96: 3, 0.99: 0, 0.999: 0})
    (row,) = rows(merged([wide, narrow]), records + more, Criterion())
    assert row["strengths"] == [0.0, 0.5, 0.96, 0.99, 0.999] and row["ssim"]["strength"] == 0.99
    other, _ = make_search({0.0: 16, 0.999: 0}, attack={"class": "IDLG", "total_variation": 0.0, "of_later": 1})
    assert len(merged([wide, narrow, other, wide])) == 2


def test_what_other_code_found_is_left_out(make_search: MakeSearch) -> None:
    search, records = make_search({0.0: 16, 0.5: 0, 0.9: 0})
    old = {"code_sha256": "of older code", "provenance": records[0]["provenance"] | {"date": "2025-01-01T00:00:00Z"}}
    records[2] |= old  # which found nothing at 0.5
    again = make_search({0.6: 9})[1][1]
    (row,) = rows([search | {"strengths": [0.0, 0.5, 0.6, 0.9]}], [*records, again], Criterion())
    assert row["strengths"] == [0.0, 0.6, 0.9] and row["left_out"] == [0.5] and row["ssim"]["strength"] == 0.9
    (once_more,) = rows(merged([row]), [*records, again], Criterion())
    assert once_more == row
    records[2] |= records[1] | {key: records[2][key] for key in ("key", "cell", "config")}
    records[2]["victims"] = records[2]["victims"][:3]  # of a run with fewer
    (row,) = rows([search], records, Criterion())
    assert row["left_out"] == [0.5]


def test_a_strength_without_a_record_is_told(make_search: MakeSearch) -> None:
    search, records = make_search(HALVES)
    with pytest.raises(UsageError, match=r"no record of CIFAR10 LeNet, Masking ratio 0\.5, IDLG"):
        rows([search], records[:2] + records[3:], Criterion())
    with pytest.raises(UsageError, match="no record of CIFAR10 LeNet, no defense, IDLG"):
        rows([search], records[1:], Criterion())
    with pytest.raises(UsageError, match="not all 17 victims are done yet"):
        rows([search | {"victims": 17}], records, Criterion())


def test_the_file_is_made_anew_and_keeps_what_it_names(make_search: MakeSearch, tmp_path: Path) -> None:
    assert read(tmp_path) is None
    mask, records = make_search(HALVES)
    written = write(tmp_path, records, [mask], Criterion(stop=0.6))
    assert "at most 60% of the victims leak" in written and (tmp_path / "thresholds.md").read_text() == written
    noise, more = make_search({0.01: 16, 1.0: 0}, "GaussianNoise", argument="std")
    write(tmp_path, records + more, [noise])
    found = json.loads((tmp_path / FILE).read_text())
    assert [row["defense"] for row in found["thresholds"]] == ["Masking", "GaussianNoise"] and found["stop"] == 0.6
    before = (tmp_path / FILE).read_bytes()
    records[2]["victims"][0]["ssim"] = [0.1]  # what the records say has changed
    write(tmp_path, records + more)
    assert read(tmp_path)["thresholds"][0]["ssim"]["rates"][1] == 7 / 16  # type: ignore[index] # of parsed JSON
    assert (tmp_path / FILE).read_bytes() != before


def test_the_page_says_what_is_not_certified(make_search: MakeSearch, tmp_path: Path) -> None:
    search, records = make_search(HALVES)
    lines = write(tmp_path, records, [search]).splitlines()
    row = (
        "| CIFAR10 LeNet | Masking ratio | IDLG | oblivious | 0.75 | beyond 0.5, not certified | 0.75 | beyond 0.5, not"
    )
    assert any(line.startswith(row) for line in lines)
    assert any("not certified: for at most 5%, it takes 73 victims" in line for line in lines)
    search, records = make_search({0.0: 100, 0.5: 0, 1.0: 0}, victims=100)
    written = write(tmp_path / "100", records, [search])
    assert "| 0.5 | 0 to 0.5 | 0.5 | 0 to 0.5 |  |" in written and "it takes" not in written
    search, records = make_search({0.0: 16, 1.0: 16})
    assert "| - | beyond 1 | - | beyond 1 | SSIM: not stopped" in write(tmp_path / "never", records, [search])


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"ssim": 0.5, "stop": 0.05}',
        '{"ssim": 0.5, "stop": 0.05, "thresholds": [1]}',
        '{"ssim": 0.5, "stop": 0.05, "thresholds": [{}]}',
        '{"ssim": 0.5, "stop": 0.05, "thresholds": []}',
        '{"ssim": "much", "stop": 0.05, "thresholds": []}',
        '{"ssim": 0.5, "stop": 7, "thresholds": []}',
        '{"ssim": 0.5, "stop": 0.05, "ssim": 0.9, "thresholds": [{}]}',
        "[" * 5000,
        "\udcff",  # no UTF-8
        None,  # a pipe, at which a reader would wait
    ],
)
def test_a_damaged_file_is_told_before_any_work(tmp_path: Path, content: str | None) -> None:
    if content is None:
        os.mkfifo(tmp_path / FILE)
    else:
        (tmp_path / FILE).write_text(content, errors="surrogateescape")
    with pytest.raises(UsageError, match=r"thresholds\.json cannot be read: delete it if it is damaged, and run"):
        write(tmp_path, [])


def test_a_damaged_search_is_told(make_search: MakeSearch, tmp_path: Path) -> None:
    search, records = make_search(HALVES)
    for broken in ({"strengths": [0.5]}, {"strengths": ["much", 1]}, {"attack": {}}, {"victims": 0}, {"fixed": None}):
        (tmp_path / FILE).write_text(json.dumps({"ssim": 0.5, "stop": 0.05, "thresholds": [search | broken]}))
        with pytest.raises(UsageError, match=r"thresholds\.json cannot be read"):
            write(tmp_path, records)


def test_a_strength_at_which_the_attack_failed_does_not_pass_for_a_protection(
    make_search: MakeSearch, tmp_path: Path
) -> None:
    search, records = make_search({0.0: 16, 0.5: 9, 0.8: 0, 0.9: 0}, adaptive=True)
    for record in records:
        ratio = (record["config"]["defense"] or {"ratio": None})["ratio"]
        for victim in record["victims"]:
            is_bad = ratio in (0.8, 0.9) and victim["index"] < 5
            victim |= {"misfit": 0.5 if is_bad else 0.0, "misfit_of_truth": 0.0}
    (row,) = rows([search], records, Criterion())
    assert row["unknown"] == {"without": 0, "strengths": [0, 0, 5, 5]}
    page = write(tmp_path, records, [search])
    assert "nothing known of 5 of 16 victims at 0.8 |" in page and "Nothing is known of victims whom" in page
    for record in records:
        for victim in record["victims"]:
            victim["misfit"] = 0.0
    assert "othing is known" not in write(tmp_path, records, [search])


@pytest.mark.parametrize("how", ["diverged", "void", "wrong model", "older version", "no adaptive attack"])
def test_a_strength_of_which_nothing_is_known_is_not_certified(
    how: str, make_search: MakeSearch, tmp_path: Path
) -> None:
    search, records = make_search({0.0: 100, 0.5: 50, 0.9: 0}, adaptive=True, victims=100)
    (row,) = rows([search], records, Criterion())
    assert (row["ssim"]["high"], row["unknown"]["strengths"]) == (0.9, [0, 0, 0])
    for record in records:
        if (record["config"]["defense"] or {"ratio": None})["ratio"] == 0.9:
            record |= {"void": "the update is not finite"} if how == "void" else {}
            record |= {"no_adaptive_attack": "nobody can"} if how == "no adaptive attack" else {}
            for victim in record["victims"]:
                if how == "older version":
                    del victim["misfit"], victim["misfit_of_truth"]
                victim |= {"diverged": {"status": "diverged"}, "wrong model": {"explained": False}}.get(how, {})
    (row,) = rows([search], records, Criterion())
    assert row["unknown"]["strengths"] == [0, 0, 100]
    assert row["ssim"]["high"] is row["psnr"]["high"] is None and row["ssim"]["low"] == 0.5
    assert "nothing known of 100 of 100 victims at 0.9" in write(tmp_path, records, [search])


def test_a_victim_that_leaks_by_one_measure_can_be_unknown_by_the_other(make_search: MakeSearch) -> None:
    """The attack has not converged on it: a better one may find more than 20 dB, but less than an SSIM of 0.5."""
    search, records = make_search({0.0: 100, 0.5: 50, 0.9: 0}, adaptive=True, victims=100)
    for record in records:
        if (record["config"]["defense"] or {"ratio": None})["ratio"] == 0.9:
            for victim in record["victims"]:
                victim |= {"leaked_any": True, "leaked_all": True, "psnr": [21.0], "misfit": 0.5}
    (row,) = rows([search], records, Criterion())
    assert row["psnr"]["rates"][-1] == 1.0 and row["ssim"]["rates"][-1] == 0.0
    assert row["ssim"]["high"] is None and row["unknown"]["strengths"] == [0, 0, 100]


def test_a_near_fit_where_the_true_images_fit_exactly_settles_nothing(
    make_search: MakeSearch,
) -> None:
    search, records = make_search({0.0: 16, 0.5: 9, 0.9: 0}, adaptive=True, without=12)
    for record in records:
        for victim in record["victims"]:
            victim |= {"misfit": 1e-5, "misfit_of_truth": 0.0}
    (row,) = rows([search], records, Criterion())
    assert row["unknown"] == {"without": 4, "strengths": [0, 7, 16]}


def test_leakage_stops_surely_where_no_attack_that_knows_as_much_leaves_it_open(make_search: MakeSearch) -> None:
    leaking = {0.0: 100, 0.5: 50, 0.9: 0}
    one, records = make_search(leaking, adaptive=True, victims=100)
    other, more = make_search(leaking, adaptive=True, victims=100, attack={"class": "AutoLeak"})
    (found,) = by_defense(rows([one, other], records + more, Criterion()))
    assert found.is_certified(ADAPTIVE)
    for record in more:
        for victim in record["victims"]:
            victim["misfit"] = 0.5
    (found,) = by_defense(rows([one, other], records + more, Criterion()))
    assert not found.is_certified(ADAPTIVE)
