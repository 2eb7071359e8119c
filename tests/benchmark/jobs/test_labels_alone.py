"""Attacks on the labels alone: what their records hold, and that nothing is concluded from them about images."""

from typing import Any

import pytest
import torch

from attacks import LabelInference
from benchmark.boards.leaderboard import of_records
from benchmark.boards.table import as_csv, grid
from benchmark.errors import UsageError
from benchmark.jobs.blocks import Workbench, plan
from benchmark.jobs.records import join, run_block
from benchmark.rehearsal.scene import check_found
from benchmark.store.schema import attack_record
from benchmark.store.sealing import sealed
from benchmark.suite.suite import parse

RULES = {"class": "LabelInference", "sweep": {"rule": ["llg", "ilrg"]}}
WEAK = {"class": "DLG", "max_evaluations": 3, "labels": "llg"}


@pytest.fixture
def bench() -> Workbench:
    return Workbench(torch.device("cpu"))


def records_of(bench: Workbench, *attacks: Any, defenses: Any = (), batch_size: int = 3) -> list[dict[str, Any]]:
    scenario = {"data": "Digits", "model": "LeNet", "batch_size": batch_size, "victims": 4}
    given = {"scenarios": [scenario], "attacks": list(attacks), "defenses": list(defenses)}
    return [run_block(block, bench) for block in plan(parse(given, "mine"), bench)]


def test_a_record_of_labels_alone_holds_no_score_of_an_image_and_no_picture(bench: Workbench) -> None:
    records = records_of(bench, RULES)
    assert [record["config"]["attack"]["class"] for record in records] == ["LabelInference"] * 2
    for record in records:
        again = attack_record(sealed(record), record["key"])
        assert again["victims"] == record["victims"] and record["picture"] == ""
        for victim in record["victims"]:
            lists = ("mse", "psnr", "ssim", "null_psnr", "null_ssim", "label_correct")
            assert [victim[name] for name in lists] == [[]] * 6
            assert victim["leaked_any"] is victim["leaked_all"] is False
            assert set(victim["labels"]) == {"existence", "counts", "instances"}
            assert not {"misfit", "settled", "explained"} & victim.keys()


def test_labels_alone_are_neither_converged_nor_not_and_say_nothing_of_images(bench: Workbench) -> None:
    found = of_records(records_of(bench, RULES))
    (board,) = found.boards
    for row in board.rows:
        assert row.rank is None and row.unconverged is None and row.void is None and row.worst_leaked is None
        assert row.leaked is None and row.leak_rate is None and row.psnr_mean is None and row.label_accuracy is None
        assert row.label_existence is not None
    assert [note for note in board.notes if "onverged" in note or "leak" in note] == []
    assert "Looking for labels and not for images, of which this says nothing: LabelInference." in board.notes
    cells = grid(board).markdown()
    assert "not converged" not in cells and "None" not in cells and "0.00 (0/4)" not in cells
    assert "None" not in as_csv(found)


def test_of_one_image_it_is_its_label_that_is_right_or_wrong(bench: Workbench) -> None:
    records = records_of(bench, {"class": "LabelInference", "rule": "idlg"}, batch_size=1)
    wrong = records[0]["victims"][1]["labels"]
    wrong.update(existence=0.8, counts=0.8, instances=0.0)
    (board,) = of_records(records).boards
    assert [row.label_accuracy for row in board.rows] == [0.75]
    assert "| 0.75 |" in grid(board).markdown()


def test_what_is_told_of_images_is_the_same_with_labels_alone_on_the_board(bench: Workbench) -> None:
    """Beside a rule that "finds no image", behind a defense too, ranks and notes are those of the other attacks."""
    defenses = [{"class": "Masking", "ratio": 0.2}]
    records = records_of(bench, WEAK, "LabelInference", defenses=defenses)
    alone = [record for record in records if record["config"]["attack"]["class"] != "LabelInference"]
    (both,), (images,) = of_records(records).boards, of_records(alone).boards
    assert [row for row in both.rows if row.attack != "LabelInference"] == images.rows
    assert [note for note in both.notes if "LabelInference" not in note] == images.notes
    labels = [row for row in both.rows if row.attack == "LabelInference"]
    assert len(labels) == 3 and {row.rank for row in labels} == {None}


def test_counts_of_labels_stay_with_their_victims_and_are_refused_in_another_form(bench: Workbench) -> None:
    given = {"scenarios": [{"data": "Digits", "model": "LeNet", "batch_size": 3, "victims": 4}], "attacks": [RULES]}
    scenario = plan(parse(given, "mine"), bench)[0].cell.scenario
    seen = bench.observe(scenario, *bench.victims(scenario, range(4)), range(4), None, False)
    found = LabelInference("ilrg").reconstruct(seen)
    assert found.label_counts is not None
    joined = join(found.take(slice(0, 1)), found.take([1, 2, 3]))
    assert joined.label_counts is not None and joined.label_counts.equal(found.label_counts)
    check_found(found, seen, "Mine", "")
    for wrong in (found.label_counts[:, :9], found.label_counts - 5, found.label_counts.double()):
        with pytest.raises(UsageError, match="label_counts of what the attack Mine returns must be whole numbers"):
            check_found(type(found)(**{**vars(found), "label_counts": wrong}), seen, "Mine", "")
