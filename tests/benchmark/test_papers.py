"""Pages of papers, from records that were made by hand."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmark.cli import main
from benchmark.errors import UsageError
from benchmark.papers import dlg_fb, idlg, masking
from benchmark.papers.dlg_fb import Outcome, Setting, gain, saving, settings
from benchmark.papers.idlg import Comparison
from benchmark.registry import spec

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
    config = {"data": {"class": data}, "attack": attack, "defense": None, "adaptive": False, "same_class": 1}
    cell = json.dumps(config, sort_keys=True)
    victims = [
        {
            "index": first + row,
            "status": "converged" if mse < 0.01 else "exhausted",
            "start": starts[row] if starts else "noise",
            "evaluations": 1000,
            "loss": 0.0,
            "mse": [mse],
            "psnr": [30.0 if mse <= 0.01 else 10.0],
            "ssim": [0.5],
            "lpips": None,
            "label_correct": [mse < 0.5],
        }
        for row, mse in enumerate(mses)
    ]
    return {
        "key": f"{cell}{first}",
        "cell": cell,
        "config": config,
        "provenance": {
            "date": "2026-01-01T00:00:00Z",
            "commit": "abc",
            "device": "cpu",
            "threads": 1,
            "versions": {"torch": "2"},
            "data_notes": ["a part of the images"],
            "lpips": "no weights",
        },
        "cost": {"seconds": 3600.0, "peak_memory_mib": 1, "notes": []},
        "victims": victims,
        "curve": {"levels": [0.09, 0.03], "passed": [[p, p] for p in passed or [None] * len(mses)]},
        "picture": "",
    }


def of_idlg() -> list[Record]:
    return [
        record("MNIST", {"class": "DLG"}, [1e-6] * 76 + [1.0] * 24),
        record("MNIST", {"class": "IDLG"}, [1e-6] * 50 + [0.02] * 50),
    ]


def test_the_page_of_idlg_sets_the_papers_figures_beside_ours(tmp_path: Path) -> None:
    written = idlg.page(of_idlg(), tmp_path)
    assert "| MNIST | 89.9 | 76.0 (66.8-83.3) * | 100.0 | 100.0 (96.3-100.0) |" in written
    assert "| 0.01 | 76.3 | 76.0 (66.8-83.3) | 88.9 | 50.0 (40.4-59.6) * |" in written
    assert "| MNIST | IDLG | 50 (50) | - | - | 50 (0) | 1,000 |" in written
    assert "2.0 hours" in written and "a part of the images" in written and "CIFAR100" not in written
    assert (tmp_path / "figure1.png").read_bytes().startswith(b"\x89PNG")


def test_the_published_loop_stands_beside_ours_where_it_was_run(tmp_path: Path) -> None:
    side = {"victims": 300, "leak_rate": 0.5, "leak_rate_low": 0.4, "leak_rate_high": 0.6, "diverged": 7}
    sides = {"one by one": side | {"label_accuracy": 0.75}, "batched": side | {"label_accuracy": 0.99}}
    found = {"data": {"class": "MNIST"}, "attack": {"class": "DLG"}, "sides": sides}
    assert "Beside the published loop" not in idlg.page(of_idlg(), tmp_path)
    (tmp_path / "published_mnist.json").write_text(json.dumps(found))
    written = idlg.page(of_idlg(), tmp_path)
    assert "| MNIST, DLG, 300 images | 50.0 (40.0-60.0) | 75.0 | 7 | 50.0 (40.0-60.0) | 99.0 | 7 |" in written
    (tmp_path / "published_mnist.json").write_text("{}")
    with pytest.raises(UsageError, match=r"published_mnist\.json can not be read: write it with leakboard bench"):
        idlg.page(of_idlg(), tmp_path)


def test_a_difference_is_marked_where_chance_does_not_explain_it() -> None:
    assert not Comparison(0.763, 760, 1000).differs
    assert Comparison(0.763, 700, 1000).differs
    assert not Comparison(0.763, 70, 100).differs
    assert Comparison(1.0, 999, 1000).differs is False
    assert not Comparison(0.76, 721, 1000, reading=0.005).differs and Comparison(0.76, 721, 1000).differs


def test_records_of_another_suite_are_told(tmp_path: Path) -> None:
    for page in (idlg.page, dlg_fb.page):
        with pytest.raises(UsageError, match="run configs/"):
            page([record("Digits", {"class": "RGAP"}, [0.1])], tmp_path)


def of_dlg_fb() -> list[Record]:
    """Two sequences of four, the first two of each for the warm-up; FB finds all, the mean half, noise none."""
    records = []
    for start in ("noise", "constant", "mean", "class_mean"):
        found = [1.0] * 8 if start == "noise" else [1e-6, 1.0] * 4
        records.append(
            record("MNIST", {"class": "IDLG", "start": start}, found, [None if m > 0.5 else 400 for m in found])
        )
    for feedback in ("last", "ungated", "blend"):
        attack = {"class": "DLGFB", "attack": "IDLG", "feedback": feedback, "gate": 0.03, "length": 4}
        starts = ["warm-up", "warm-up", feedback, feedback] * 2
        records.append(record("MNIST", attack, [1e-6] * 8, [100] * 8, starts))
    return records


def test_only_victims_that_every_start_attacked_count(tmp_path: Path) -> None:
    (setting,) = settings(of_dlg_fb())
    assert set(setting.starts["noise"]) == {2, 3, 6, 7}
    assert gain(setting, "blend") == (1.0, 1.0, 1.0)
    assert gain(setting, "mean")[0] == 0.5
    assert saving(setting, "blend")[0] == pytest.approx(-0.9)  # 100 of 1000 evaluations
    assert saving(setting, "mean")[0] == pytest.approx(-0.3)
    written = dlg_fb.page(of_dlg_fb(), tmp_path)
    assert "4 of 8 victims count." in written
    assert "MNIST, unrelated images, IDLG: blending finds +100 points and takes -90 % evaluations" in written
    assert "In 1 of 1 settings" in written


def test_the_interval_of_a_gain_is_over_sequences() -> None:
    """Victims of a sequence share their fate: ten sequences of ten say as much as ten victims."""
    noise = {index: Outcome(False, False, 100) for index in range(100)}
    blend = {index: Outcome(index // 10 < 5, False, 100) for index in range(100)}
    setting = Setting("MNIST", 1, "IDLG", 0.03, 10, {"noise": noise, "blend": blend}, 100)
    value, low, high = gain(setting, "blend")
    assert value == 0.5 and low == pytest.approx(0.2) and high == pytest.approx(0.8)


def search(defense: str, adaptive: bool, prior: float, strength: float | None, note: str = "") -> dict[str, Any]:
    found = {"strength": strength, "low": 0.1, "high": None if strength is None else 0.9, "note": note}
    return {
        "dataset": "CIFAR10",
        "defense": defense,
        "argument": "ratio",
        "attack": {"class": "IDLG", "total_variation": prior},
        "adaptive": adaptive,
        "strengths": [0.0, 0.5, 0.99],
        "ssim": found,
        "psnr": found,
    }


def training(defense: dict[str, Any] | None, accuracy: float, seed: int) -> dict[str, Any]:
    config = {"data": {"class": "CIFAR10JPEG"}, "model": {"class": "ConvNet"}, "algorithm": "FedSGD", "clients": 10}
    config |= {"clients_per_round": 10, "rounds": 5, "local_epochs": None, "batch_size": 8, "learning_rate": 0.1}
    config |= {"server_momentum": 0.0, "split": "iid", "batch_norm": "exclude", "train_images": None}
    config |= {"test_images": None, "defense": defense, "seed": seed, "evaluate_every": 1, "schema": 1}
    return {
        "key": f"{defense}{seed}",
        "config": config,
        "data_sha256": "",
        "status": "done",
        "curve": {},
        "accuracy": accuracy,
        "loss": 1.0,
        "provenance": {"date": "2026-01-01T00:00:00Z"},
        "cost": {"seconds": 1.0},
    }


def test_the_page_of_masking_sets_both_attackers_beside_the_accuracy_at_their_strengths(tmp_path: Path) -> None:
    searches = [
        search("Masking", adaptive=False, prior=0.0, strength=0.1),
        search("Masking", adaptive=False, prior=1e-5, strength=0.3),  # the paper's attackers have no prior
        search("Masking", adaptive=True, prior=0.0, strength=0.2),
        search("Masking", adaptive=True, prior=1e-5, strength=0.8),
        search("Pruning", adaptive=False, prior=0.0, strength=None, note="stopped at the weak end, ratio 0, already"),
        search("Pruning", adaptive=True, prior=0.0, strength=None, note="not stopped at the strong end, ratio 0.99"),
    ]
    (tmp_path / "thresholds.json").write_text(json.dumps({"thresholds": searches, "ssim": 0.5, "stop": 0.05}))
    folder = tmp_path / "training"
    folder.mkdir()
    of_ratio = {None: 0.6, 0.1: 0.58, 0.8: 0.4}
    trained = [
        training(ratio and {"class": "Masking", "ratio": ratio, "rescale": False}, accuracy, seed)
        for ratio, accuracy in of_ratio.items()
        for seed in (0, 1)
    ]
    for number, one in enumerate(trained):
        (folder / f"{number}.json").write_text(json.dumps(one | {"key": str(number)}))
    written = masking.page([record("CIFAR10", {"class": "IDLG"}, [0.1])], tmp_path)
    assert (
        "| Masking ratio | 0.1 (0.1 to 0.9) | 0.8 (0.1 to 0.9) | "
        "ConvNet FedSGD 58.0 ± 0.0 % | ConvNet FedSGD 40.0 ± 0.0 % | ConvNet FedSGD 60.0 ± 0.0 % |"
    ) in written
    assert "| Pruning ratio | stopped at the weak end, ratio 0, already | not stopped at the strong end" in written
    oblivious, _, adaptive = written.partition("**Against the adaptive attacker.**")
    assert "Masking: CIFAR10 2.0 points: it costs." in oblivious
    assert "Pruning: CIFAR10 0.0 points: near to nothing." in oblivious
    assert "Masking: CIFAR10 20.0 points: it costs." in adaptive
    assert "Pruning: CIFAR10 not stopped: it costs, or does not stop the attack." in adaptive
    assert "the cheapest first: Masking, Pruning." in adaptive
    assert "spectrum.md" not in written

    directions = {"1e-06": 573.0}
    row = {"dataset": "MNIST", "defense": "Masking(ratio=0.95, rescale=False)", "pixels": 784}
    rows = [row | {"equations": 674.0, "directions": directions}, row | {"defense": "no defense"}]
    (tmp_path / "spectrum.json").write_text(json.dumps({"rows": rows}))
    attack = spec("attack", "IDLG", {}).as_dict()
    of_faults = [{"attack": attack, "faults": ["found", "optimizer"]}, {"attack": attack, "faults": ["information"]}]
    (tmp_path / "diagnosis.json").write_text(json.dumps({"rows": of_faults}))
    written = masking.page([record("CIFAR10", {"class": "IDLG"}, [0.1])], tmp_path)
    assert "MNIST at ratio 0.95 leaves 674 entries and 573 directions of 784." in written
    assert "IDLG found 1 of 3 images; of the others the optimizer is at fault in 1, the information in 1." in written
    (tmp_path / "thresholds.json").unlink()
    with pytest.raises(UsageError, match="run leakboard threshold masking"):
        masking.page([], tmp_path)


def test_the_command_writes_the_page_and_names_the_papers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "idlg" / "records"
    folder.mkdir(parents=True)
    for number, one in enumerate(of_idlg()):
        (folder / f"{number}.json").write_text(json.dumps(one | {"key": str(number)}))
    with pytest.raises(SystemExit) as ended:
        main(["page", str(tmp_path / "idlg")])
    assert ended.value.code == 0
    assert (tmp_path / "idlg" / "README.md").read_text() == capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main(["page", str(tmp_path / "idlg"), "--paper", "idgl"])
    assert ended.value.code == 2 and "idlg" in capsys.readouterr().err
