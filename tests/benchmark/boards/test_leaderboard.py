"""Rows that were worked out by hand, from records that were made by hand."""

import csv
import io
import json
import re
from typing import Any
from xml.etree import ElementTree

import pytest
from markdown_it import MarkdownIt
from rich.console import Console

from benchmark.boards.leaderboard import SELDOM, Row, of_records
from benchmark.boards.table import as_csv, as_json, as_markdown, grid, print_table

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
        "misfit": 0.0,
        "misfit_of_truth": 0.0,
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
    date: str = "2026-01-01T00:00:00Z",
    code: str = "a",
    images: str = "a",
    void: str | None = None,
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
        "code_sha256": code,
        "provenance": {
            "date": date,
            "lpips": "no weights",
            "versions": {},
            "data_sha256": f"{images} {victims[0]['index']} {victims[-1]['index']}",
        },
        "cost": {"seconds": seconds, "peak_memory_mib": 1, "notes": []},
        "victims": victims,
        "void": void,
    }


def of(*psnr: float) -> list[dict[str, Any]]:
    """Victims of one image each."""
    return [victim(index, value) for index, value in enumerate(psnr)]


def rows(records: list[Record]) -> list[Row]:
    return of_records(records).rows


def row_of(table: list[Row], **wanted: Any) -> Row:
    (found,) = [row for row in table if all(getattr(row, key) == value for key, value in wanted.items())]
    return found


def tables_of(page: str) -> list[list[dict[str, str]]]:
    """The tables of a page in Markdown, as whoever reads it rendered sees them."""
    html = MarkdownIt("commonmark").enable("table").render(page)
    tables = [ElementTree.fromstring(table) for table in re.findall(r"<table>.*?</table>", html, re.DOTALL)]
    read = [[["".join(cell.itertext()) for cell in row] for row in table.iter("tr")] for table in tables]
    return [[dict(zip(names, row, strict=True)) for row in rows] for names, *rows in read]


def shown(records: list[Record]) -> list[dict[str, str]]:
    """The one table that the records make."""
    (table,) = tables_of(as_markdown(of_records(records), "mine", None))
    return table


def both(victims: list[dict[str, Any]], **more: Any) -> list[Record]:
    """A defense against an attack that does not know it, and the one that does."""
    return [record(victims, **more), record(victims, adaptive=True, **more)]


MASKING, PRUNING, NOISE = ({"class": name, "ratio": 0.5} for name in ("Masking", "Pruning", "GaussianNoise"))


def test_the_leak_rate_and_its_wilson_interval_are_those_worked_out_by_hand() -> None:
    (row,) = rows([record(of(LEAKS, SAFE, SAFE, SAFE), seconds=8.0)])
    assert (row.victims, row.leaked, row.leak_rate) == (4, 1, 0.25)
    # (p + z^2 / 2n -+ z sqrt(p q / n + z^2 / 4n^2)) / (1 + z^2 / n) with p = 1/4, n = 4, z = 1.95996
    assert row.leak_rate_low == pytest.approx(0.04559, abs=1e-4)
    assert row.leak_rate_high == pytest.approx(0.69936, abs=1e-4)
    assert row.psnr_mean == pytest.approx((25 + 3 * 12) / 4)
    assert row.mse_median == pytest.approx(10**-1.2)
    assert row.seconds_per_victim == 2.0


def test_twenty_decibels_have_leaked_and_a_little_less_have_not() -> None:
    (row,) = rows([record(of(20.0, 19.999))])
    assert row.leaked == 1


def test_a_diverged_victim_has_not_leaked_but_counts_in_every_mean() -> None:
    (row,) = rows([record([victim(0, LEAKS, status="diverged"), victim(1, SAFE)])])
    assert (row.leaked, row.diverged, row.victims) == (0, 1, 2)
    assert row.psnr_mean == pytest.approx((LEAKS + SAFE) / 2)


def test_a_batch_of_two_leaks_with_one_of_its_images_and_its_scores_are_means_of_both() -> None:
    first = victim(0, 30.0, 10.0, ssim=[0.9, 0.1], label_correct=[True, False])
    (row,) = rows([record([first, victim(1, 12.0, 14.0)])])
    assert (row.leaked, row.leaked_wholly, row.victims, row.batch_size) == (1, 0, 2, 2)
    assert row.psnr_mean == pytest.approx((20 + 13) / 2)
    assert row.ssim_mean == pytest.approx(0.5)
    assert row.label_accuracy == pytest.approx(0.75)
    mse = [(10**-3 + 10**-1) / 2, (10**-1.2 + 10**-1.4) / 2]
    assert row.mse_median == pytest.approx(sum(mse) / 2)


def test_lpips_is_a_mean_of_all_victims_or_none_at_all() -> None:
    (whole,) = rows([record([victim(0, SAFE, lpips=[0.2]), victim(1, SAFE, lpips=[0.4])])])
    assert whole.lpips_mean == pytest.approx(0.3)
    assert whole.lpips_mean_low <= whole.lpips_mean <= whole.lpips_mean_high
    (part,) = rows([record([victim(0, SAFE, lpips=[0.2]), victim(1, SAFE)])])
    assert part.lpips_mean is part.lpips_mean_low is part.lpips_mean_high is None


def test_of_two_records_of_a_victim_the_newest_counts() -> None:
    old, new = record(of(SAFE), key="a"), record(of(LEAKS), key="b")
    old["provenance"]["date"], new["provenance"]["date"] = "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"
    for records in ([old, new], [new, old]):
        assert rows(records)[0].leaked == 1


def test_two_blocks_of_a_cell_are_one_row() -> None:
    blocks = [record(of(LEAKS, SAFE), seconds=1.0), record([victim(2, LEAKS), victim(3, LEAKS)], seconds=5.0)]
    (row,) = rows(blocks)
    assert (row.victims, row.leaked, row.seconds_per_victim) == (4, 3, 1.5)


def test_a_victim_in_two_blocks_counts_once() -> None:
    (row,) = rows([record(of(LEAKS, SAFE), key="a"), record(of(LEAKS, SAFE, SAFE, SAFE), key="b")])
    assert (row.victims, row.leaked) == (4, 1)


@pytest.mark.parametrize("other", [{"seed": 1}, {"data": {"class": "Photos"}}, {"model": {"class": "MLP"}}])
def test_scenarios_are_ranked_apart(other: dict[str, Any]) -> None:
    table = rows([record(of(LEAKS)), record(of(SAFE), defense=MASKING), record(of(SAFE), defense=PRUNING, **other)])
    assert row_of(table, defense="Masking").void is None
    assert row_of(table, defense="Pruning").void == "there is no undefended control with the same attack"


def test_the_share_at_each_threshold_stands_beside_the_leak_rate() -> None:
    (row,) = rows([record(of(25.0, 31.0, 12.0, 45.0))])  # MSE 0.0032, 0.00079, 0.063, 0.000032
    assert row.mse_at_most == {"0.01": 0.75, "0.005": 0.75, "0.001": 0.5, "0.0005": 0.25, "0.0001": 0.25}


def test_arguments_of_an_attack_that_differ_on_a_board_stand_beside_its_name() -> None:
    table = shown([record(of(LEAKS), tolerance=t) for t in (0.0, 0.5)] + [record(of(LEAKS), attack="IDLG")])
    assert sorted(row["attack"] for row in table) == ["DLG tolerance=0.0", "DLG tolerance=0.5", "IDLG"]


SIXTEEN = of(*[LEAKS] * 16)
FOUR = of(*[LEAKS] * 4, *[SAFE] * 12)


def test_the_ranked_number_stands_in_the_table_with_its_interval() -> None:
    """Two victims leak to the one attack and four others to the other: 6 of 16, which no row says by itself."""
    two, four = of(*[LEAKS] * 2, *[SAFE] * 14), of(*[SAFE] * 2, *[LEAKS] * 4, *[SAFE] * 10)
    records = [record(SIXTEEN), record(two, defense=MASKING), record(four, defense=MASKING, adaptive=True)]
    table = shown(records)
    assert [
        (row["rank"], row["defense"], row["worst case"], row["its interval"], row["leak rate"]) for row in table
    ] == [
        ("1", "Masking", "0.38 (6/16)", "0.18-0.61", "0.25 (4/16)"),  # the worse of a defense's rows stands first
        ("1", "Masking", "0.38 (6/16)", "0.18-0.61", "0.12 (2/16)"),
        ("2", "none", "1.00 (16/16)", "0.81-1.00", "1.00 (16/16)"),
    ]
    row = row_of(rows(records), defense="Masking", adaptive=True)
    assert (row.worst_leaked, row.worst_victims, row.worst_leak_rate) == (6, 16, 6 / 16)
    assert (row.worst_leak_rate_low, row.worst_leak_rate_high) == pytest.approx((0.1848, 0.6136), abs=1e-4)


def test_defenses_of_different_strength_are_ranked_each_for_itself() -> None:
    weak, strong = ({"class": "Masking", "ratio": ratio} for ratio in (0.1, 0.9))
    table = shown([record(SIXTEEN), *both(SIXTEEN, defense=weak), *both(FOUR, defense=strong)])
    assert {(row["rank"], row["strength"]) for row in table} == {("1", "ratio=0.9"), ("2", "ratio=0.1"), ("2", "-")}


def test_baselines_come_last_and_have_neither_rank_nor_worst_case() -> None:
    table = shown([record(SIXTEEN, attack="MeanImage"), record(FOUR)])
    assert [(row["attack"], row["rank"], row["worst case"]) for row in table] == [
        ("DLG", "1", "0.25 (4/16)"),
        ("MeanImage", "-", "-"),
    ]


def test_a_defense_whose_update_is_not_finite_is_void_and_not_the_best() -> None:
    nan = [victim(index, SAFE, status="diverged") for index in range(16)]
    void = both(nan, defense=MASKING, void="the update of 16 of 16 victims is not finite")
    found = of_records([record(SIXTEEN), *void, *both(FOUR, defense=PRUNING)])
    table = tables_of(as_markdown(found, "mine", None))[0]
    assert [(row["rank"], row["defense"], row["attack"], row["diverged"]) for row in table[2:]] == [
        ("2", "none", "DLG", "0.00 (0/16)"),
        ("-", "Masking", "DLG (void)", "1.00 (16/16)"),
        ("-", "Masking", "DLG adaptive (void)", "1.00 (16/16)"),
    ]
    assert found.boards[0].notes[0] == (
        "Void: the update of 16 of 16 victims is not finite (DLG on Masking ratio=0.5 and DLG adaptive on Masking "
        "ratio=0.5)."
    )
    assert "No rank for Masking ratio=0.5: the update of 16 of 16 victims is not finite." in found.boards[0].notes


def test_diverged_and_all_images_are_columns_where_they_say_something() -> None:
    assert not {"diverged", "all images"} & shown([record(SIXTEEN)])[0].keys()
    (row,) = shown([record([victim(0, 30.0, 10.0), victim(1, 30.0, 30.0), victim(2, 1.0, 1.0, status="diverged")])])
    assert (row["leak rate"], row["all images"], row["diverged"]) == ("0.67 (2/3)", "0.33 (1/3)", "0.33 (1/3)")


def test_victims_of_whom_nothing_is_known_are_a_column_where_there_are_some() -> None:
    def fits(index: int, psnr: float, misfit: float) -> dict[str, Any]:
        return victim(index, psnr, misfit=misfit, misfit_of_truth=0.0)

    failed = record([fits(0, LEAKS, 1e-7), fits(1, SAFE, 0.3), fits(2, SAFE, 1e-14)])
    whole = record([fits(0, LEAKS, 1e-7), fits(1, LEAKS, 1e-7), fits(2, SAFE, 1e-14)])
    assert "not converged" not in shown([whole])[0]
    assert [row["not converged"] for row in shown([failed, record(of(SAFE, SAFE, SAFE), attack="MeanImage")])] == [
        "0.33 (1/3)",
        "-",
    ]
    page = as_markdown(of_records([failed]), "mine", None)
    assert "Not converged:" in page and "1 of 3 victims with no defense" in page
    assert "onverge" not in as_markdown(of_records([whole]), "mine", None)


def test_what_may_find_the_victims_are_options_of_the_attacks_that_failed() -> None:
    far = [victim(0, SAFE, misfit=0.3, misfit_of_truth=0.0)]
    recipe = {"max_evaluations": 10, "restarts": 0, "trials": 1}
    lbfgs = {"class": "DLG", "optimizer": "lbfgs", "line_search": False} | recipe
    searching = {"class": "Bayes", "optimizer": "lbfgs", "line_search": True} | recipe
    adam = {"class": "InvertingGradients", "optimizer": "adam", "line_search": False} | recipe
    early = {"class": "IDLG", "max_evaluations": 10, "restarts": 0}  # its records are older than these options
    auto, newton = {"class": "AutoLeak", "max_evaluations": 10}, {"class": "GaussNewton", "iterations": 8}
    budget = "a larger budget (max_evaluations)"
    for attacks, ways in (
        ([auto], f" {budget.capitalize()} may find them."),
        ([newton], " A larger budget (iterations) may find them."),
        ([auto, newton], " A larger budget (max_evaluations and iterations) may find them."),
        ([adam], f" More starts (trials) or {budget} may find them."),
        ([searching], f" More starts (restarts) or {budget} may find them."),
        *(
            (some, f" A line search (line_search: true), more starts (restarts) or {budget} may find them.")
            for some in ([lbfgs], [early], [adam, lbfgs], [auto, lbfgs])
        ),
        ([{"class": "mine.Attack"}], ""),
    ):
        of_each = [record(far, attack=attack["class"]) for attack in attacks]
        for one, attack in zip(of_each, attacks, strict=True):
            one["config"]["attack"] = attack
        (board,) = of_records(of_each).boards
        (note,) = [note for note in board.notes if note.startswith("Not known to leak or not")]
        assert note.partition(" with no defense.")[2] == ways


def test_a_near_fit_settles_nothing_behind_a_defense_either() -> None:
    def fits(index: int, **more: Any) -> dict[str, Any]:
        return victim(index, SAFE, misfit=1e-5, misfit_of_truth=0.0, explained=True, **more)

    leaks = victim(0, LEAKS, misfit=1e-7, misfit_of_truth=0.0)
    for settled, count in ((False, 3), (True, 0)):
        nearly = [fits(index, settled=settled) for index in range(3)]
        masked = [record(nearly, defense=MASKING, adaptive=knows) for knows in (False, True)]
        (board,) = of_records([record([leaks, fits(1), fits(2)]), *masked]).boards
        assert {row.defense: row.unconverged for row in board.rows} == {"none": 2, "Masking": count}
        untested = any(
            "Masking" in note and "no attack that knows the defense converged" in note for note in board.notes
        )
        assert untested != settled


def test_every_victim_that_the_column_counts_is_in_a_sentence_that_says_not_converged() -> None:
    def far(index: int, explained: bool) -> dict[str, Any]:
        return victim(index, SAFE, misfit=0.3, misfit_of_truth=0.0 if explained else 0.5, explained=explained)

    for wrong in range(5):
        of_order = [far(index, index >= wrong) for index in range(4)] + [victim(4, LEAKS, explained=True)]
        (board,) = of_records([record(of_order)]).boards
        said = [re.search(r"\((\d) of 5 victims\)", note) for note in board.notes if note.startswith("Not converged")]
        assert sum(int(one.group(1)) for one in said if one) == board.rows[0].unconverged == 4
        assert any("4 of 5 victims with no defense" in note for note in board.notes)


def test_certificates_are_a_column_where_an_attack_gives_them() -> None:
    plain = record([victim(0, LEAKS, SAFE), victim(1, SAFE, SAFE)])
    sure = [victim(0, LEAKS, LEAKS, certified=[True, True]), victim(1, LEAKS, SAFE, certified=[True, False])]
    both_kinds = [plain, record(sure, attack="Peeling")]
    assert {row["attack"]: row["certified"] for row in shown(both_kinds)} == {"DLG": "-", "Peeling": "0.75 (3/4)"}
    assert "certified" not in shown([plain])[0] and "certified" not in of_records([plain]).rows[0].as_dict()
    in_csv = csv.DictReader(io.StringIO(as_csv(of_records(both_kinds))))
    assert {row["attack"]: row["certified"] for row in in_csv} == {"DLG": "", "Peeling": "3"}
    assert "certified" not in as_csv(of_records([plain]))


def test_a_board_of_a_network_that_peeling_takes_says_that_it_was_not_run() -> None:
    for batch in ([SAFE], [SAFE, SAFE]):
        for activation, attack, said in (("relu", "DLG", True), ("sigmoid", "DLG", False), ("relu", "Peeling", False)):
            model = {"class": "MLP", "activation": activation}
            (board,) = of_records([record([victim(0, *batch)], attack=attack, model=model)]).boards
            assert any("Peeling (on networks whose first layer" in note for note in board.notes) == said


def test_labels_that_are_granted_are_no_finding() -> None:
    wrong = [victim(0, SAFE, label_correct=[False])]
    for granted in ({"labels": "known"}, {"threat_model": "C"}):
        (row,) = shown([record(wrong, **granted)])
        assert row["label acc."] == "known"
        assert of_records([record(wrong, **granted)]).rows[0].label_accuracy is None
    for hidden in ({}, {"threat_model": "A"}, {"labels": "hidden"}):
        assert shown([record(wrong, **hidden)])[0]["label acc."] == "0.00"


def test_a_cell_of_two_versions_of_the_code_shows_the_newest_and_says_so() -> None:
    old, new = record(SIXTEEN), record(of(SAFE, SAFE, SAFE), date="2026-01-02T00:00:00Z", code="b")
    found = of_records([old, new])
    assert [(row.leaked, row.victims) for row in found.rows] == [(0, 3)]
    (said,) = found.left_out
    assert "13 victims" in said and said in as_markdown(found, "mine", None)


def test_cells_that_attacked_other_images_than_the_newest_stand_on_no_board() -> None:
    old = [record(SIXTEEN), *both(SIXTEEN, defense=MASKING)]
    new = [record(FOUR, images="b", attack="IDLG", date="2026-01-02T00:00:00Z")]
    found = of_records([*old, *new])
    assert [(row.attack, row.leaked) for row in found.rows] == [("IDLG", 4)]
    assert found.left_out == [
        "left out, because they attacked other images than the newest cells: "
        "DLG adaptive on Masking ratio=0.5, DLG on Masking ratio=0.5 and DLG on no defense"
    ]


def test_csv_and_json_have_every_column_of_every_row() -> None:
    found = of_records([record(of(LEAKS)), record(of(LEAKS), defense=MASKING), record(of(SAFE), attack="MeanImage")])
    in_csv, in_json = list(csv.DictReader(io.StringIO(as_csv(found)))), json.loads(as_json(found))
    columns = [name for name in Row.__struct_fields__ if name not in SELDOM]
    assert [list(row) for row in in_csv] == [list(row) for row in in_json] == [columns] * 3
    assert in_json == [row.as_dict() for row in found.rows]
    assert [float(row["leak_rate"]) for row in in_csv] == [row.leak_rate for row in found.rows]
    assert [row["void"] for row in in_csv] == ["", "", ""]
    assert in_csv[0]["mse_at_most"] == json.dumps(found.rows[0].mse_at_most)
    found = of_records([record(of(LEAKS)), record(of(LEAKS), shared=True, labels="known")])
    assert sorted(row["setting"] for row in csv.DictReader(io.StringIO(as_csv(found)))) == [
        "",
        "one shared network, labels known",
    ]
    assert sorted(board.heading.count("one shared network") for board in found.boards) == [0, 1]


def test_markdown_says_which_cells_are_void_and_why_lpips_is_empty() -> None:
    page = as_markdown(of_records([record(of(SAFE)), record(of(SAFE), defense=MASKING)]), "mine", "no weights")
    assert page.startswith("# mine\n") and page.endswith("\n") and not page.endswith("\n\n")
    assert "LPIPS is empty: no weights" in page
    assert "- Void: control does not leak (DLG on Masking ratio=0.5)." in page
    (row,) = [row for row in tables_of(page)[0] if row["defense"] == "Masking"]
    assert row["attack"] == "DLG (void)" and row["leak rate"] == "0.00 (0/1)"


NASTY = [
    "a|b",
    "<script>alert(1)</script>",
    "two\nlines",
    "`code` *bold* **b**",
    "[link](x)",
    "back\\|slash",
    "&amp;",
    "[/x]",
]


@pytest.mark.parametrize("value", NASTY)
def test_values_are_plain_text_in_the_page_and_in_the_terminal(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = of_records([record(SIXTEEN), *both(FOUR, defense={"class": "Mine", "name": value})])
    found.left_out.append(value)
    page = as_markdown(found, value, value)
    html = MarkdownIt("commonmark").enable("table").render(page)
    assert not re.search(r"<(script|code|strong|em|a )", html)
    seen = value.replace("\n", " ")
    assert {row["strength"] for row in tables_of(page)[0]} == {f"name={seen}", "-"}
    print_table(found, Console())
    assert f"name={seen}" in capsys.readouterr().out


def test_a_value_cannot_move_the_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    found = of_records([record(SIXTEEN, defense={"class": "Mine", "name": "a\x1b[31mb\rc"})])
    print_table(found, Console())
    assert "name=a [31mb c" in capsys.readouterr().out
    assert not {"\x1b", "\r"} & set(as_markdown(found, "mine", None))


def test_a_table_that_goes_to_a_file_is_whole_and_one_in_a_narrow_terminal_says_what_it_lacks(
    capsys: pytest.CaptureFixture[str],
) -> None:
    long = {"class": "Mine", "name": "x" * 300}
    found = of_records([record(SIXTEEN), *both(FOUR, defense=long)])
    print_table(found, Console())
    printed = capsys.readouterr().out
    assert "x" * 300 in printed and all(name in printed for name in grid(found.boards[0]).names)
    print_table(of_records([record(SIXTEEN)]), Console(force_terminal=True, width=90))
    narrow = capsys.readouterr().out
    assert "columns for a wider window: s / victim, evaluations" in narrow and "worst case" in narrow
