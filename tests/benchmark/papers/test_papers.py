"""Pages of papers, from records that were made by hand."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmark.boards.outcome import Outcome
from benchmark.cli.main import main
from benchmark.errors import UsageError
from benchmark.identity import digest
from benchmark.papers import dlg_fb, idlg, overview
from benchmark.papers.clusters import Difference, of_means
from benchmark.papers.dlg_fb import EVALUATIONS, FOUND, PASSED, Setting, settings
from benchmark.papers.idlg import Comparison
from benchmark.store.schema import psnr_of
from benchmark.store.sealing import sealed
from benchmark.suite.registry import spec

Record = dict[str, Any]


def record(
    data: str,
    attack: dict[str, Any],
    mses: list[float],
    passed: list[int | None] | None = None,
    starts: list[str] | None = None,
    first: int = 0,
) -> Record:
    """A record of victims with one image each; evaluations are 1000 for each."""
    attack = spec("attack", attack["class"], {k: v for k, v in attack.items() if k != "class"}).as_dict()
    config = {"data": {"class": data}, "model": {"class": "LeNet"}, "attack": attack, "defense": None, "seed": 0}
    config |= {"adaptive": False, "same_class": 1, "batch_size": 1, "schema": 1}
    cell = digest(config)
    victims = [
        {
            "index": first + row,
            "status": "converged" if mse < 0.01 else "exhausted",
            "start": starts[row] if starts else "noise",
            "evaluations": 1000,
            "loss": 0.0,
            "mse": [mse],
            "psnr": [psnr_of(mse)],
            "ssim": [0.5],
            "lpips": None,
            "null_psnr": [10.0],
            "null_ssim": [0.3],
            "leaked_any": mse <= 0.01,
            "leaked_all": mse <= 0.01,
            "label_correct": [mse < 0.5],
        }
        for row, mse in enumerate(mses)
    ]
    return {
        "key": f"{cell}{first}",
        "cell": cell,
        "config": config,
        "code_sha256": "0" * 64,
        "provenance": {
            "date": "2026-01-01T00:00:00Z",
            "commit": "abc",
            "device": "cpu",
            "threads": 1,
            "versions": {"torch": "2"},
            "data_notes": ["a part of the images"],
            "lpips": "no weights",
            "data_sha256": "0" * 64,
        },
        "cost": {"seconds": 3600.0, "victims_at_once": 1, "peak_memory_mib": 1, "notes": []},
        "victims": victims,
        "curve": {
            "evaluations": [],
            "loss": [[] for _ in mses],
            "psnr": [[] for _ in mses],
            "levels": [0.09, 0.03],
            "passed": [[p, p] for p in passed or [None] * len(mses)],
        },
        "picture": "",
    }


def of_idlg() -> list[Record]:
    return [
        record("MNIST", {"class": "DLG"}, [1e-6] * 76 + [1.0] * 24),
        record("MNIST", {"class": "IDLG"}, [1e-6] * 50 + [0.02] * 50),
    ]


def test_the_page_of_idlg_sets_the_papers_figures_beside_ours(tmp_path: Path) -> None:
    written = idlg.page(of_idlg(), tmp_path)
    assert "| MNIST | 89.9 | 76.0 (66.8-83.3) * | 100.0 | 100.0 (96.3-100.0) = |" in written
    assert "| 0.01 | 76.3 | 76.0 (66.8-83.3) | 88.9 | 50.0 (40.4-59.6) * |" in written
    assert "| MNIST | IDLG | 50 (50) | - | - | 50 (0) | 1,000 |" in written
    assert "2.0 hours" in written and "a part of the images" in written and "CIFAR100" not in written
    assert (tmp_path / "figure1.png").read_bytes().startswith(b"\x89PNG")


def test_the_published_loop_stands_beside_ours_where_it_was_run(tmp_path: Path) -> None:
    side = {"victims": 300, "leak_rate": 0.5, "leak_rate_low": 0.4, "leak_rate_high": 0.6, "diverged": 7}
    sides = {
        "one by one": side | {"label_accuracy": 0.75, "threads": 1, "speedup": 1.0},
        "batched": side | {"label_accuracy": 0.99, "threads": 2, "speedup": 3.25},
    }
    found = {"data": {"class": "MNIST"}, "attack": {"class": "DLG"}, "sides": sides}
    before = idlg.page(of_idlg(), tmp_path)
    assert "Beside the published loop" not in before
    assert "**DLG's label** (MNIST). Not known: the published loop was not run beside ours." in before
    assert "- **Shares of MNIST, IDLG.** Not known." in before
    (tmp_path / "published_mnist.json").write_text(json.dumps(found))
    written = idlg.page(of_idlg(), tmp_path)
    assert (
        "| MNIST, DLG, 300 images | 50.0 (40.0-60.0) | 75.0 | 7 | 50.0 (40.0-60.0) | 99.0 | 7 | 3.2x faster" in written
    )
    assert "| 3.2x faster (2 threads, the loop at 1) |" in written
    assert "MNIST 75.0 % of 300, where ours has 99.0 % and the paper has 89.9 %." in written
    (tmp_path / "published_mnist.json").write_text("{}")
    with pytest.raises(UsageError, match=r"published_mnist\.json cannot be read: write it with leakboard bench"):
        idlg.page(of_idlg(), tmp_path)


def test_lfw_in_the_papers_label_space_explains_what_it_can(tmp_path: Path) -> None:
    few = [record("LFW", {"class": "DLG"}, [1e-6] * 72 + [1.0] * 28), record("LFW", {"class": "IDLG"}, [1e-6] * 100)]
    assert "- **Shares of LFW, DLG and IDLG.** Not known." in idlg.page(few, tmp_path)
    whole = [record("ImageFolder", {"class": "DLG"}, [1e-6] * 32 + [1.0] * 28, first=1)]
    whole += [record("ImageFolder", {"class": "IDLG"}, [1e-6] * 10, first=1)]
    for one in whole:
        one["config"]["data"] |= {"path": "lfw-py/lfw-deepfunneled", "num_classes": 5749}
    whole[0]["victims"] = whole[0]["victims"][:60]
    written = idlg.page(few + whole, tmp_path)
    assert "Of the same 10 images 10 are found with our rows and 10 with 5,749" in written
    assert "0.01): these do not say that the label space explains the difference (exact paired test, p = 1)" in written
    whole[1] = record("ImageFolder", {"class": "IDLG"}, [1e-6] * 55 + [1.0] * 5, first=1)
    whole[1]["config"]["data"] |= {"path": "lfw-py/lfw-deepfunneled", "num_classes": 5749}
    written = idlg.page(few + whole, tmp_path)
    assert (
        "Of the same 60 images 60 are found with our rows and 32 with 5,749, where the paper's share is 52.1 % (MSE at "
        "most 0.01): the label space moves the share toward the paper's (exact paired test, p = 7.5e-09), and "
        "there these images do not tell it apart from the paper's." in written
    )


@pytest.mark.parametrize(
    ("paper", "found", "trials", "reading", "verdict"),
    [
        (0.763, 763, 1000, 0.0, "equivalent"),
        (0.763, 760, 1000, 0.0, "equivalent"),
        (0.763, 700, 1000, 0.0, "differs"),
        (0.763, 70, 100, 0.0, "not told apart"),
        (0.763, 49, 64, 0.0, "not told apart"),  # the same rate, but of 64 images
        (1.0, 1000, 1000, 0.0, "equivalent"),
        (1.0, 999, 1000, 0.0, "equivalent"),
        (0.76, 721, 1000, 0.0, "differs"),
        (0.76, 721, 1000, 0.005, "not told apart"),  # of which the reading can be off by half a point
        (0.76, 743, 1000, 0.0, "equivalent"),
        (0.76, 743, 1000, 0.005, "not told apart"),
    ],
)
def test_a_value_differs_or_is_equivalent_or_neither_is_told(
    paper: float, found: int, trials: int, reading: float, verdict: str
) -> None:
    assert Comparison(paper, found, trials, reading).verdict == verdict


def test_equal_rates_far_apart_are_rarely_called_equivalent_and_equal_ones_rarely_different() -> None:
    """Drawn 400 times: two rates that are the margin apart, and two that are one."""
    rng = np.random.default_rng(0)
    called = {"apart": 0, "one": 0}
    for _ in range(400):
        theirs = rng.binomial(1000, 0.76) / 1000
        called["apart"] += Comparison(theirs, rng.binomial(1000, 0.81), 1000).verdict == "equivalent"
        called["one"] += Comparison(theirs, rng.binomial(1000, 0.76), 1000).verdict == "differs"
    assert 0 < called["apart"] < 32 and 0 < called["one"] < 32  # 20 of 400 are 5 %


def test_the_summary_of_idlg_is_made_of_its_records(tmp_path: Path) -> None:
    written = idlg.summary(of_idlg(), tmp_path)
    assert "- MNIST (100 images): images 76.0 (66.8-83.3) and 50.0 (40.4-59.6) [76.3 and 88.9]; labels" in written
    assert "[89.9 and 100.0]" in written
    assert "iDLG finds more images than DLG is open: significantly on 0 of 1 data sets" in written
    assert "iDLG's label is always right is confirmed: wrong for 0 of 100." in written
    better = [record("MNIST", {"class": "DLG"}, [1.0] * 30), record("MNIST", {"class": "IDLG"}, [1e-6] * 29 + [1.0])]
    written = idlg.summary(better, tmp_path)
    assert "than DLG is confirmed: significantly on 1 of 1" in written and "refuted: wrong for 1 of 30." in written


def test_records_of_another_suite_are_told(tmp_path: Path) -> None:
    for page in (idlg.page, dlg_fb.page):
        with pytest.raises(UsageError, match="run configs/"):
            page([record("Digits", {"class": "RGAP"}, [0.1])], tmp_path)


def of_dlg_fb() -> list[Record]:
    """Five sequences of four, the first two of each for the warm-up; FB finds all, the mean half, noise none."""
    records = []
    for start in ("noise", "constant", "mean", "class_mean"):
        found = [1.0] * 20 if start == "noise" else [1e-6, 1.0] * 10
        records.append(
            record("MNIST", {"class": "IDLG", "start": start}, found, [None if m > 0.5 else 400 for m in found])
        )
    for feedback in ("last", "ungated", "blend"):
        attack = {
            "class": "DLGFB",
            "attack": "IDLG",
            "feedback": feedback,
            "gate": 0.03,
            "length": 4,
            "max_evaluations": 6000,
        }
        starts = ["warm-up", "warm-up", feedback, feedback] * 5
        records.append(record("MNIST", attack, [1e-6] * 20, [100] * 20, starts))
    return records


def test_only_victims_that_every_start_attacked_count(tmp_path: Path) -> None:
    (setting,) = settings(of_dlg_fb())
    assert setting.indices.tolist() == [2, 3, 6, 7, 10, 11, 14, 15, 18, 19]
    assert setting.difference("blend", FOUND) == (1.0, 1.0, 1.0, 2 / 32)  # five sequences, of which each gains
    assert setting.difference("mean", FOUND)[0] == 0.5
    assert setting.difference("blend", EVALUATIONS)[0] == pytest.approx(-0.9)  # 100 of 1000 evaluations
    assert setting.difference("mean", EVALUATIONS)[0] == pytest.approx(-0.3)
    written = dlg_fb.page(of_dlg_fb(), tmp_path)
    assert "](starts.png)" in written and (tmp_path / "starts.png").read_bytes().startswith(b"\x89PNG")
    assert "10 of 20 victims count, in 5 sequences." in written
    assert setting.difference("blend", FOUND, "mean")[0] == 0.5
    assert setting.difference("mean", PASSED)[0] == 0.5
    assert "as means over 1 setting:\n\n- the blend: +100.0 (+100.0 to +100.0) points of images found" in written
    assert "no reconstruction: +50.0 (+50.0 to +50.0) points of images found, +50.0 (+50.0 to +50.0) points" in written
    told = "confirmed** as a mean over settings, +100.0 (+100.0 to +100.0) points. Of 1 settings it holds"
    assert f"- **More images than from noise: {told} significantly in 0, the opposite in 0, and it is open" in written
    assert "**Fewer evaluations than from the mean: confirmed** as a mean" in dlg_fb.summary(of_dlg_fb(), tmp_path)


FIVE_OF_TEN = {"noise": 0, "blend": 5}
"""Sequences of ten in which a start finds all images."""


def test_the_interval_of_a_gain_is_over_sequences() -> None:
    """Victims of a sequence share their fate: ten sequences of ten say as much as ten victims."""
    starts = {name: np.array([[i // 10 < found, 0, 100] for i in range(100)]) for name, found in FIVE_OF_TEN.items()}
    setting = Setting("MNIST", 1, "IDLG", 0.03, 10, 6000, np.arange(100), starts, 100)
    value, low, high, p = setting.difference("blend", FOUND)
    half = 2.262157 * math.sqrt(10 * 0.5**2 / 9 / 10)  # t with 9 degrees of freedom
    assert value == 0.5 and low == pytest.approx(0.5 - half) and high == pytest.approx(0.5 + half)
    assert p == 2 / 2**5  # of the five that differ, all in one direction


def test_settings_are_corrected_for_their_number() -> None:
    """Six of ten sequences gain: sure alone, and not one among twelve; ten of ten are."""

    def differences(gaining: int) -> Difference:
        return of_means(np.array([1.0] * gaining + [0.0] * (10 - gaining)), np.ones(10))

    none = of_means(np.zeros(10), np.ones(10))
    assert dlg_fb.sure([differences(6)]) == (1, 0)
    assert dlg_fb.sure([differences(6)] + [none] * 11) == (0, 0)
    assert dlg_fb.sure([differences(10)] + [none] * 11) == (1, 0)


def test_dlg_and_idlg_on_the_same_victims_are_one_sample() -> None:
    """Two settings with the same victims say as little as one; with other victims they say more."""
    starts = {name: np.array([[i // 4 < found, 0, 100] for i in range(40)]) for name, found in FIVE_OF_TEN.items()}
    settings = [Setting("MNIST", 1, base, 0.03, 4, 6000, np.arange(40), starts, 40) for base in ("DLG", "IDLG")]
    alone = settings[0].difference("blend", FOUND)
    same = dlg_fb.overall(settings, "blend", "noise", FOUND)
    other = dlg_fb.overall([settings[0], replace(settings[1], data="LFW")], "blend", "noise", FOUND)
    assert same.value == other.value == 0.5
    assert same.high - same.low == pytest.approx(alone.high - alone.low)
    assert other.high - other.low < 0.8 * (alone.high - alone.low)


def test_a_newer_record_brings_its_own_losses_and_other_experiments_do_not_count() -> None:
    records = of_dlg_fb()
    newer = json.loads(json.dumps(records[-1]))
    newer["key"], newer["provenance"]["date"] = "0", "2026-02-01T00:00:00Z"  # comes first by its key
    newer["curve"]["passed"] = [[300, 300]] * 20
    priors = record("MNIST", {"class": "IDLG", "start": "mean", "total_variation": 1e-5}, [1.0] * 20)
    longer = record("MNIST", {"class": "IDLG", "start": "mean", "max_evaluations": 9000}, [1.0] * 20)
    other_seed = json.loads(json.dumps(records[0]))
    other_seed["config"]["seed"], other_seed["cell"] = 1, "another"
    (setting,) = settings([newer, *records, priors, longer, other_seed])
    assert setting.outcomes["blend"][:, EVALUATIONS].tolist() == [300] * 10
    assert setting.difference("mean", FOUND)[0] == 0.5


def test_what_cannot_be_compared_is_told_or_shown_as_unknown() -> None:
    records = of_dlg_fb()
    for one in records:
        one["config"]["data"]["class"] = "Digits"  # none of the paper's
    (setting,) = settings(records)
    assert setting.label == "Digits, unrelated images, IDLG"
    few = replace(
        setting, indices=setting.indices[:1], outcomes={name: of[:1] for name, of in setting.outcomes.items()}
    )
    assert few.difference("blend", FOUND)[1:] == (-math.inf, math.inf, 1.0)
    for one in records:
        if one["config"]["attack"]["class"] == "DLGFB":
            one["config"]["attack"]["gate"] = 0.05
    with pytest.raises(UsageError, match="run with a gate of one of"):
        settings(records)


def test_lfw_in_the_label_space_of_the_whole_set_is_beside_the_papers_lfw(tmp_path: Path) -> None:
    records = [record("ImageFolder", {"class": attack}, [1e-6, 0.02]) for attack in ("DLG", "IDLG")]
    for of_attack in records:
        of_attack["config"]["data"] |= {"path": "lfw-py/lfw-deepfunneled", "num_classes": 5749}
    written = idlg.page(records, tmp_path)
    assert "| LFW with 5,749 classes | 2 | 1,000 |" in written
    assert "| 0.01 | 52.1 | 50.0 (9.5-90.5) | 91.7 | 50.0 (9.5-90.5)" in written
    records[0]["config"]["data"]["num_classes"] = 70
    with pytest.raises(UsageError, match="holds no data set with both"):
        idlg.page(records, tmp_path)


def test_the_page_of_idlg_has_the_papers_protocol_alone_and_the_same_victims_for_both(tmp_path: Path) -> None:
    short = record("MNIST", {"class": "IDLG", "max_evaluations": 600}, [1.0] * 100)
    part = record("MNIST", {"class": "DLG"}, [1e-6] * 10)
    written = idlg.page([part, of_idlg()[1], short], tmp_path)
    assert "| MNIST | 10 | 1,000 |" in written
    assert written == idlg.page([part, of_idlg()[1]], tmp_path).replace("2 records", "3 records").replace(
        "2.0 hours", "3.0 hours"
    )
    again = json.loads(json.dumps(of_idlg()[1]))
    again["cell"] = "another"
    with pytest.raises(UsageError, match="holds MNIST with IDLG twice"):
        idlg.page([*of_idlg(), again], tmp_path)


def test_the_command_writes_the_page_and_names_the_papers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "idlg" / "records"
    folder.mkdir(parents=True)
    for one in of_idlg():
        (folder / f"{one['key']}.json").write_bytes(sealed(one))
    with pytest.raises(SystemExit) as ended:
        main(["page", str(tmp_path / "idlg")])
    assert ended.value.code == 0
    assert (tmp_path / "idlg" / "README.md").read_text() == capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main(["page", str(tmp_path / "idlg"), "--paper", "idgl"])
    assert ended.value.code == 2 and "idlg" in capsys.readouterr().err


def test_the_page_of_all_results_is_of_what_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "results"
    (folder / "idlg").mkdir(parents=True)
    (folder / "idlg" / "records.jsonl").write_bytes(b"{}")
    found = overview.found_in(folder, lambda run: of_idlg())
    written = overview.page(found)
    assert "| [idlg](idlg/leaderboard.md) | 100 of MNIST | DLG, IDLG | none | cpu, 1 thread |" in written
    assert "- a part of the images" in written and "**iDLG** (arXiv" in written
    for missing in ("DLG-FB", "(masking/", "(quick/", "## Speed", "## What `quick` shows"):
        assert missing not in written
    for page in (written, overview.index(found)):
        assert "leakboard run leaderboard" in page and "is not there: it has not been published yet" in page
    assert max(len(line) for line in written.splitlines() if not line.startswith("|")) <= overview.WIDTH
    with pytest.raises(
        UsageError,
        match="holds none of leaderboard, leaderboard_small, quick, idlg, dlg_fb, masking, labels, attacks: publish",
    ):
        overview.found_in(tmp_path, lambda run: of_idlg())
    with pytest.raises(SystemExit) as stop:
        main(["page", str(tmp_path), "--paper", "results"])
    assert stop.value.code == 2 and "publish a run into it first" in capsys.readouterr().err


HOSTILE = "<b>*x* | [y](z) {{ 1 }}"


def test_no_name_in_a_record_is_markup_on_a_page(tmp_path: Path) -> None:
    """Nor a statement of a template."""
    found = of_dlg_fb()
    for one in found:
        one["config"]["data"]["class"] = HOSTILE
        one["provenance"] |= {"device": HOSTILE, "commit": HOSTILE, "data_notes": [HOSTILE], "versions": {HOSTILE: "1"}}
    folder = tmp_path / "dlg_fb"
    folder.mkdir()
    (folder / "records.jsonl").write_bytes(b"{}")
    for written in (
        dlg_fb.page(found, folder),
        dlg_fb.summary(found, folder),
        overview.page(overview.found_in(tmp_path, lambda _: found)),
    ):
        assert r"&lt;b&gt;\*x\* \| \[y\](z) {{ 1 }}" in " ".join(written.split())
        assert "<b>" not in written and "*x*" not in written.replace(r"\*x\*", "") and r"\\" not in written
    index = overview.index(overview.found_in(tmp_path, lambda _: found)).partition("</style>")[2]
    assert "&lt;b&gt;*x* | [y](z) {{ 1 }}" in index and "<b>" not in index and "\\" not in index


def attacked(defense: dict[str, Any] | None, adaptive: bool, leaked: int) -> Outcome:
    """A cell of twelve victims."""
    config = {"data": {"class": "Photos"}, "defense": defense, "adaptive": adaptive}
    return Outcome("cell", config, {number: {"leaked_any": number < leaked} for number in range(12)}, ())


def test_the_gap_of_knowing_a_defense_is_between_the_best_attacks_of_each_kind() -> None:
    clipping, mask = {"class": "Clipping", "max_norm": 1.0}, {"class": "Masking", "ratio": 0.2, "rescale": False}
    found = [attacked(None, False, 12), attacked(clipping, False, 12), attacked(clipping, True, 12)]
    found += [attacked(mask, knows, leaked) for knows, leaked in ((False, 0), (False, 2), (True, 1), (True, 11))]
    assert overview.largest_gap(found) == ("Masking(ratio=0.2)", "Photos", 2, 11, 12)
    assert overview.largest_gap(found[:1]) is None
