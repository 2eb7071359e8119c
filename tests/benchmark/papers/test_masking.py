"""The page on masking: what stops each attacker, what that costs, and what the rows cannot show."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmark.errors import UsageError
from benchmark.papers import masking
from benchmark.papers.masking_figure import curves, of_shares
from benchmark.store.sealing import sealed
from benchmark.studies.diagnosis import RUNS
from benchmark.suite.registry import spec
from benchmark.thresholds.strengths import by_defense, strongest_attack
from benchmark.thresholds.table import Criterion, merged, rows
from benchmark.training.rows import of_cell

Row = dict[str, Any]

Found = tuple[Row, list[Row]]

MakeSearch = Callable[..., Found]


def training(
    defense: dict[str, Any] | None,
    accuracy: float,
    seed: int,
    untrained: float = 0.05,
    loss: float = 1.0,
    **changed: Any,
) -> dict[str, Any]:
    """A record of a training; an accuracy of 0 is of one that has diverged."""
    config = {"data": {"class": "CIFAR10JPEG"}, "model": {"class": "ConvNet"}, "algorithm": "FedSGD", "clients": 10}
    config |= {"clients_per_round": 10, "rounds": 5, "local_epochs": None, "batch_size": 8, "learning_rate": 0.1}
    config |= {"server_momentum": 0.0, "split": "iid", "batch_norm": "exclude", "train_images": None}
    config |= {"test_images": None, "defense": defense, "seed": seed, "evaluate_every": 5, "schema": 1} | changed
    done = accuracy > 0
    return {
        "key": f"{config}",
        "config": config,
        "code_sha256": None,
        "data_sha256": "0" * 64,
        "status": "done" if done else "diverged",
        "round": 5 if done else 2,
        "curve": {
            "round": [0, 5] if done else [0],
            "accuracy": [untrained, accuracy] if done else [untrained],
            "loss": [2.3, loss] if done else [2.3],
        },
        "accuracy": accuracy if done else None,
        "loss": loss if done else None,
        "provenance": {
            "date": "2026-01-01T00:00:00Z",
            "commit": "of the training",
            "device": "cpu",
            "threads": 1,
            "versions": {"torch": "2"},
            "data_notes": [],
        },
        "cost": {"seconds": 3600.0, "ms_per_round": 1.0},
    }


def masked(ratio: float) -> dict[str, Any]:
    return {"class": "Masking", "ratio": ratio, "rescale": False}


def of_masking(folder: Path, searches: list[Found], trained: list[Row]) -> str:
    """The page of a folder with these searches and trainings."""
    named = [search for search, _ in searches]
    (folder / "thresholds.json").write_text(json.dumps({"thresholds": named, "ssim": 0.5, "stop": 0.05}))
    (folder / "sizes.json").write_text(json.dumps(half_as_long(named, trained)))
    (folder / "training").mkdir(exist_ok=True)
    for number, one in enumerate(trained):
        (folder / "training" / f"{number}.json").write_bytes(sealed(one | {"key": str(number)}))
    return masking.page([record for _, records in searches for record in records], folder)


def half_as_long(searches: list[Row], trained: list[Row]) -> Row:
    """sizes.json in which the updates of trainings are half as long as those that were attacked."""
    attacked = {json.dumps(search["scenario"]): search["scenario"] for search in searches}
    scenarios = {of_cell(one["config"], defense=None) for one in trained if one["config"]["algorithm"] == "FedSGD"}
    return {
        "attacked": [{"of": of, "updates": 16, "size": {"norm": 3.0, "entries": 9}} for of in attacked.values()],
        "trained": [{"of": json.loads(of), "updates": 30, "size": {"norm": 1.5, "entries": 9}} for of in scenarios],
    }


def stops_at(strength: float, beyond: float = 0.99) -> dict[float, int]:
    """How many of 16 leak at each strength."""
    return {0.0: 16, strength: 0, beyond: 0}


SEEDS = (0, 1, 2)


def test_the_page_sets_both_attackers_beside_the_accuracy_at_their_strengths(
    make_search: MakeSearch, tmp_path: Path
) -> None:
    searches = [
        make_search(stops_at(0.1)),
        make_search(stops_at(0.8), prior=1e-5),  # is not of the paper, but who knows may do so
        make_search(stops_at(0.2), adaptive=True),
        make_search(stops_at(0.3), adaptive=True, prior=1e-5),
        make_search({0.9: 0, 0.99: 0}, "Pruning"),
        make_search({0.0: 16, 0.99: 8}, "Pruning", adaptive=True),
    ]
    of_ratio = {None: 0.6, 0.1: 0.596, 0.8: 0.4}
    trained = [
        training(ratio and masked(ratio), accuracy + 0.02 * seed + (0.001 * seed if ratio else 0), seed)
        for ratio, accuracy in of_ratio.items()
        for seed in SEEDS
    ]
    trained += [training({"class": "Pruning", "ratio": 0.9}, 0.599 + 0.02 * seed, seed) for seed in SEEDS]
    written = of_masking(tmp_path, searches, trained)
    assert (
        "| Masking ratio | 0.1 (beyond 0, not certified) | IDLG | 0.8 (beyond 0, not certified) | IDLG with priors |"
    ) in written
    assert "| ConvNet FedSGD | 62.0 % (57.0 to 67.0) | 61.7 % (56.5 to 66.9) | 42.1 % (36.9 to 47.3) |" in written
    assert "| Pruning ratio | already stopped at the weak end, ratio 0.9 (0% leak) | IDLG | not stopped at" in written
    assert "| 62.0 % (57.0 to 67.0) | 61.9 % (56.9 to 66.9) | no strength stops it |" in written
    assert "at most 0, which is compatible with a leak rate of up to 19%" in written
    assert "of the training" in written and "12 records, 2026-01-01 to 2026-01-01, 12.0 hours of training" in written
    oblivious, _, adaptive = written.partition("**At the strengths that stop the adaptive attacker:**")
    # 0.4, 0.3 and 0.2 points: 0.3 ± 4.303 x 0.1 / sqrt(3), though each accuracy alone is known to 5 points
    assert "| Masking ratio | **less than a point** | 0.3 points (0.1 to 0.5, ConvNet FedSGD)" in oblivious
    assert "| Pruning ratio | **less than a point** | 0.1 points (0.1 to 0.1" in oblivious
    assert "| Masking ratio | **more than a point** | 19.9 points" in adaptive
    assert "| Pruning ratio | **not stopped** | not stopped |" in adaptive
    assert "Masking ratio (19.9), Pruning ratio (not stopped everywhere)." in adaptive
    said = (
        "that masking and clipping cost close to nothing is **{}**, and that noise and pruning can cost more is **{}**"
    )
    assert f"stop the oblivious attacker, {said.format('confirmed', 'refuted')}." in written
    assert f"stop the adaptive attacker, {said.format('refuted', 'confirmed')} (more than a point: Masking" in written
    assert "more than a point: Masking ratio; not stopped: Pruning ratio)." in written
    masking.summary([], tmp_path)
    assert (tmp_path / "leakage.png").read_bytes().startswith(b"\x89PNG") and "Rate is" not in written
    faster = [training(masked(0.8), 0.599 + 0.02 * seed, seed, learning_rate=1.0) for seed in SEEDS]
    written = of_masking(tmp_path, searches, trained + faster)
    assert "| 61.7 % (56.5 to 66.9) | 61.9 % (56.9 to 66.9), rate 1 (largest tried) |" in written
    assert "| Masking ratio | **less than a point** | 0.1 points" in written and "Rate is" in written
    assert "- Learning rates were chosen on the test images" in written
    (tmp_path / "thresholds.json").write_text('{"thresholds": [1], "ssim": 0.5, "stop": 0.05}')
    with pytest.raises(UsageError, match="run leakboard threshold SUITE"):
        masking.page([], tmp_path)
    (tmp_path / "thresholds.json").unlink()
    with pytest.raises(UsageError, match="run leakboard threshold SUITE"):
        masking.page([], tmp_path)


def test_the_page_names_what_its_rows_cannot_carry(make_search: MakeSearch, tmp_path: Path) -> None:
    searches = [
        make_search(stops_at(0.2, 1.0), name, adaptive, 1e-5 * adaptive, argument=argument, victims=victims)
        for name, argument, victims in (("Masking", "ratio", 100), ("GaussianNoise", "std", 16))
        for adaptive in (False, True)
    ]
    runs = [training(defense, 0.5 + 0.01 * seed, seed, 0.53) for defense in (None, masked(0.2)) for seed in SEEDS]
    written = of_masking(tmp_path, searches, runs)
    (said,) = (part for part in written.split("\n## ") if part.startswith("What these rows cannot show"))
    lines = said.splitlines()[2:]
    assert lines[0].startswith("- CIFAR10 LeNet GaussianNoise std have no strengths that are certified to stop both")
    assert lines[1].startswith("- The attacker who knows of Gaussian noise had a prior of a fixed scale (0.3, CIFAR10")
    assert "found on LeNet on CIFAR10, with random" in lines[2] and "ConvNet FedSGD on CIFAR10JPEG were" in lines[2]
    assert "without a defense 51.0 % with ConvNet FedSGD on CIFAR10JPEG." in lines[3]
    assert lines[4].startswith("- 6 of 6 runs, 3 of them without a defense, ended no better than an untrained network")
    assert lines[5] == (
        "- Void, and left out of the verdicts: Masking(ratio=0.2, rescale=False) in ConvNet FedSGD on CIFAR10JPEG "
        "(did not act)."
    )
    assert "cost close to nothing is **open**, and that noise and pruning can cost more is **open**." in written
    assert "| Masking ratio | **open** | no sound FedSGD trainings; did not act in ConvNet FedSGD |" in written
    assert "a loss or a strength is not known: Masking ratio, GaussianNoise std." in written

    swept = {"class": "IDLG", "total_variation": 1e-5}
    searches += [
        make_search(stops_at(at, 1.0), "GaussianNoise", True, argument="std", attack=swept | {"prior_scale": scale})
        for scale, at in ((1.0, 0.3), (3.0, 0.5))
    ]
    lenet = {"model": {"class": "LeNet"}}
    masks = [training(masked(0.2), 0.49, seed, **lenet) for seed in SEEDS]
    written = of_masking(tmp_path, searches, [training(None, 0.5, seed, **lenet) for seed in SEEDS] + masks)
    assert "fixed scale" not in written
    assert "| 0.5 (beyond 0, not certified) | IDLG with priors, scale 3 |" in written
    assert "of 1 and 3 times their mean in public images" in written and "a larger one may need more" in written
    assert "another attack needs stronger noise" not in written
    searches.append(
        make_search(stops_at(0.2, 1.0), "GaussianNoise", True, argument="std", attack=swept | {"prior_scale": 10.0})
    )
    unmasked = of_masking(tmp_path, searches, [])
    assert "a larger one may need more" not in unmasked  # 10 needs weaker noise than 3 does
    stronger = make_search(stops_at(0.6, 1.0), "GaussianNoise", True, argument="std", attack=swept | {"restarts": 2})
    unmasked = of_masking(tmp_path, [*searches, stronger], [])
    assert "On CIFAR10 LeNet another attack needs stronger noise than all of these, and counts." in unmasked
    assert "| 0.6 (beyond 0, not certified) | IDLG with priors |" in unmasked
    for file in (tmp_path / "training").iterdir():
        file.unlink()
    written = of_masking(tmp_path, searches[:2], [training(None, 0.5, seed, **lenet) for seed in SEEDS] + masks)
    assert "certified" not in written and "Strengths were found" not in written  # by 100 victims, in that network
    assert "Controls are weak" in written


def test_what_is_found_by_psnr_where_it_is_stopped_by_ssim_is_named(make_search: MakeSearch, tmp_path: Path) -> None:
    oblivious, (search, records) = make_search(stops_at(0.2)), make_search(stops_at(0.8), adaptive=True)
    assert "by PSNR" not in of_masking(tmp_path, [oblivious, (search, records)], [])
    (stopped,) = (one for one in records if (one["config"]["defense"] or {}).get("ratio") == 0.8)
    for found in stopped["victims"][:2]:
        found |= {"psnr": [25.0], "leaked_any": True, "leaked_all": True}  # and an SSIM of 0.2
    written = of_masking(tmp_path, [oblivious, (search, records)], [])
    assert "| 0.8 (beyond 0, not certified) |" in written  # by SSIM nothing has changed
    assert "by the same attack: 2 of 16 at CIFAR10 LeNet Masking ratio 0.8 (adaptive). It takes" in written


def test_a_control_below_a_defense_at_another_rate_is_named(make_search: MakeSearch, tmp_path: Path) -> None:
    def tuned(defense: dict[str, Any] | None, rate: float, accuracy: float, judged: float) -> list[Row]:
        how = {"learning_rate": rate, "schema": 2, "validation_images": 9}
        runs = [training(defense, accuracy + 0.01 * seed, seed, tuning=False, **how) for seed in SEEDS]
        changed = dict.fromkeys(("clients_changed", "entries_changed"), 0.5 if defense else None)
        new = changed | {"majority": 0.1, "validation": {"accuracy": judged, "loss": 1.0}}
        return [run | new for run in (*runs, training(defense, judged, 1000, tuning=True, **how))]

    control = [*tuned(None, 0.1, 0.5, 0.6), *tuned(None, 0.3, 0.55, 0.5)]
    runs = [*control, *tuned(masked(0.2), 0.1, 0.4, 0.3), *tuned(masked(0.2), 0.3, 0.54, 0.5)]
    written = of_masking(tmp_path, [make_search(stops_at(at), adaptive=at > 0.2) for at in (0.2, 0.8)], runs)
    assert (
        "ConvNet FedSGD on CIFAR10JPEG (51.0 % at rate 0.1, but 55.0 % at rate 0.3 with Masking(ratio=0.2, "
        "rescale=False)). The rate of no defense was chosen with one tuning seed and may not be its best"
    ) in written


def test_a_defense_that_acted_once_is_not_void(make_search: MakeSearch, tmp_path: Path) -> None:
    searches = [make_search(stops_at(0.2), adaptive=adaptive) for adaptive in (False, True)]
    trained = [training(defense, 0.5, seed) for defense in (None, masked(0.2)) for seed in SEEDS[:-1]]
    trained += [training(None, 0.5, SEEDS[-1]), training(masked(0.2), 0.5, SEEDS[-1], loss=1.1)]
    written = of_masking(tmp_path, searches, trained)
    assert "did not act" not in written
    assert "| 0.0 points (0.0 to 0.0, ConvNet FedSGD)" in written  # no loss has no sign


def test_what_is_not_known_is_open_and_not_ranked(make_search: MakeSearch, tmp_path: Path) -> None:
    def both(leaking: dict[float, int], *of: Any, **changed: Any) -> list[Found]:
        return [make_search(leaking, of[0], adaptive, **changed) for adaptive in (False, True)]

    searches = [
        *both(stops_at(0.9), "Pruning"),
        *both(stops_at(0.2), "Masking"),
        *both(stops_at(0.2), "Masking", fixed={"rescale": True}),
        *both({1.0: 0, 0.1: 0}, "Clipping", argument="max_norm", without=0, attack={"class": "DLG"}),
        *both(stops_at(0.4, 1.0), "GaussianNoise", argument="std", attack={"class": "IDLG"} | SWEPT),
        *both(
            stops_at(0.3, 1.0), "GaussianNoise", argument="std", attack={"class": "IDLG"} | SWEPT | {"prior_scale": 3.0}
        ),
        *both(stops_at(0.2), "Masking", data="MNIST"),
    ]
    trained = [training(None, 0.6, seed) for seed in SEEDS]
    trained += [training(masked(0.2), 0.57 - 0.03 * seed, seed) for seed in SEEDS]  # 3 to 9 points: too few seeds
    trained += [training({"class": "Pruning", "ratio": 0.9}, 0.5, 0)]
    trained += [training({"class": "GaussianNoise", "std": 0.2}, 0.0, seed) for seed in SEEDS]  # half of 0.4
    trained += [training(None, 0.0, seed, data={"class": "MNIST"}) for seed in SEEDS]  # the control has diverged
    trained += [training(masked(0.2), 0.9, seed, data={"class": "MNIST"}) for seed in SEEDS]
    averages = {"algorithm": "FedAvg", "local_epochs": 1, "model": {"class": "LeNet"}}  # do not count
    trained += [training(None, 0.9, seed, **averages) for seed in SEEDS]
    trained += [training(masked(0.2), 0.1, seed, **averages) for seed in SEEDS]
    written = of_masking(tmp_path, searches, trained)
    assert "| Masking ratio | LeNet FedAvg | 90.0 % (90.0 to 90.0) | 10.0 % (10.0 to 10.0) |" in written
    assert "3 of 3 diverged" in written
    assert "| Masking ratio | **open** | 6.0 points (-1.5 to 13.5, ConvNet FedSGD), open | no sound FedSGD" in written
    assert "| Masking ratio (rescale=True) | **open** | not trained at this strength | - |" in written
    assert "| Pruning ratio | **open** | no sound FedSGD trainings | - |" in written
    assert "| Clipping max_norm | **open** | the attack finds nothing without a defense | - |" in written
    assert "| GaussianNoise std | **more than a point** | 60.0 points" in written
    assert (
        "| GaussianNoise std | ConvNet FedSGD | 60.0 % (60.0 to 60.0) | 0.2: 0.0 % (0.0 to 0.0), 3 of 3 diverged | 0.2:"
        in written
    )
    assert "| CIFAR10 LeNet, attacked | 16 | 3 | 9 | 1 |" in written
    assert "| ConvNet FedSGD on CIFAR10JPEG, trained | 30 | 1.5 | 9 | 0.5 |" in written
    assert (
        "| GaussianNoise std | LeNet FedAvg | 90.0 % (90.0 to 90.0) | not trained: the size of an update of FedAvg"
        in written
    )
    assert "Ranked" not in written
    unknown = "Pruning ratio, Masking ratio, Masking ratio (rescale=True), Clipping max_norm."
    assert f"a loss or a strength is not known: {unknown}" in written


SWEPT = {"total_variation": 1e-5, "prior_scale": 1.0}


def searched(*found: Found) -> list[Row]:
    """The rows of thresholds.json."""
    return rows(merged(search for search, _ in found), [one for _, records in found for one in records], Criterion())


def test_of_attacks_that_nothing_stops_the_strongest_counts(make_search: MakeSearch) -> None:
    def adaptive(leaking: dict[float, int], prior: float = 0.0, **changed: Any) -> Row:
        (row,) = searched(make_search(leaking, adaptive=True, prior=prior, **changed))
        return row

    weak, strong = adaptive({0.0: 16, 0.9: 8}), adaptive({0.0: 16, 0.9: 14}, 1e-5)
    assert strongest_attack([weak, strong]) is strong and strongest_attack([strong, weak]) is strong
    assert strongest_attack([weak, adaptive(stops_at(0.3))]) is weak
    early, late = adaptive(stops_at(0.9)), adaptive({0.96: 16, 0.97: 0, 0.999: 0})
    assert strongest_attack([early, late]) is late and strongest_attack([late, early]) is late
    not_tested_below = adaptive({0.96: 0, 0.999: 0})
    assert strongest_attack([early, not_tested_below]) is not_tested_below  # nobody knows whether 0.9 would do
    assert strongest_attack([late, not_tested_below]) is late
    further = adaptive({0.0: 16, 0.999: 8})
    assert strongest_attack([weak, further]) is further and strongest_attack([further, weak]) is further
    void, at_the_weak_end = adaptive({0.1: 0, 0.9: 0}, without=0), adaptive({0.1: 0, 0.9: 0})
    assert strongest_attack([void, at_the_weak_end]) is at_the_weak_end
    clipped = [adaptive({10.0: 16, at: 0}, defense="Clipping", argument="max_norm") for at in (2.0, 1.5)]
    assert strongest_attack(clipped) is clipped[1] and strongest_attack(clipped[::-1]) is clipped[1]


def test_what_is_trained_at_is_the_weakest_strength_beyond_which_no_range_of_the_attack_found_leakage(
    make_search: MakeSearch,
) -> None:
    wide, narrow = make_search(stops_at(0.98), adaptive=True), make_search({0.96: 4, 0.97: 0, 0.99: 0}, adaptive=True)
    oblivious = make_search(stops_at(0.2))
    for found in ([oblivious, wide, narrow], [narrow, wide, oblivious]):
        (one,) = by_defense(searched(*found))
        assert one.at("adaptive") == spec("defense", "Masking", {"ratio": 0.97})
        assert one.at("oblivious") == spec("defense", "Masking", {"ratio": 0.2})
    leaks_further = make_search({0.5: 16, 0.975: 1, 0.985: 0}, adaptive=True)
    (one,) = by_defense(searched(wide, narrow, leaks_further))
    assert one.at("adaptive") == spec("defense", "Masking", {"ratio": 0.98})
    everywhere, nowhere = (
        make_search({0.5: 16, 0.9: 8}, adaptive=True),
        make_search({0.995: 0, 0.999: 0}, adaptive=True),
    )
    (one,) = by_defense(searched(everywhere, nowhere))
    assert one.at("adaptive") == spec("defense", "Masking", {"ratio": 0.995})


def test_the_figure_has_a_curve_for_each_attack(make_search: MakeSearch) -> None:
    longer = {"class": "IDLG", "max_evaluations": 9}
    found = searched(
        make_search({0.0: 16, 0.98: 0, 0.99: 0}, adaptive=True),
        make_search({0.0: 16, 0.9: 0}, adaptive=True, attack=longer),
        make_search({0.96: 16, 0.97: 0, 0.999: 0}, adaptive=True),
        make_search(stops_at(0.1)),
    )
    assert curves(found) == [
        ("IDLG", "adaptive", {0.0: 1.0, 0.96: 1.0, 0.97: 0.0, 0.98: 0.0, 0.99: 0.0, 0.999: 0.0}),
        ("IDLG", "adaptive", {0.0: 1.0, 0.9: 0.0}),
        ("IDLG", "oblivious", {0.0: 1.0, 0.1: 0.0, 0.99: 0.0}),
    ]
    scales = [
        make_search({0.0: 16, at: 0}, adaptive=True, attack={"class": "IDLG", "prior_scale": scale})
        for scale, at in ((1.0, 0.5), (3.0, 0.9), (10.0, 0.8))
    ]
    assert curves(searched(*scales)) == [("IDLG", "adaptive", {0.0: 1.0, 0.9: 0.0})]  # the strongest of the sweep
    assert of_shares(found) and not of_shares(found[1:2])
    assert not of_shares([found[0] | {"strengths": [0.96, 0.999]}])  # there is room for those on a straight axis
    assert not of_shares([found[0] | {"strengths": [100.0, 1.0, 0.0001]}])


def test_the_ranking_is_by_loss(make_search: MakeSearch, tmp_path: Path) -> None:
    strengths = {"Pruning": 0.9, "Masking": 0.2}
    searches = [
        make_search(stops_at(at), name, adaptive) for name, at in strengths.items() for adaptive in (False, True)
    ]
    trained = [training(None, 0.6, seed) for seed in SEEDS]
    trained += [training({"class": "Pruning", "ratio": 0.9}, 0.5, seed) for seed in SEEDS]
    trained += [training(masked(0.2), 0.58, seed) for seed in SEEDS]
    assert "Masking ratio (2.0), Pruning ratio (10.0)." in of_masking(tmp_path, searches, trained)


def test_what_a_mask_leaves_stands_on_the_page_where_it_was_computed(make_search: MakeSearch, tmp_path: Path) -> None:
    searches = [make_search(stops_at(0.2), adaptive=adaptive) for adaptive in (False, True)]
    assert "spectrum.md" not in of_masking(tmp_path, searches, [training(None, 0.6, 0)])
    row = {"dataset": "MNIST", "where": "MNIST LeNet", "defense": "Masking(ratio=0.95, rescale=False)", "pixels": 784}
    origin = {"date": "2026-01-01T00:00:00Z", "commit": "of the spectrum", "versions": {"torch": "2"}, "data_notes": []}
    row |= {"victims": 4, "equations": 674.0, "directions": {"0.1": 5.0, "1e-06": 573.0}}
    ranks = {"provenance": origin, "rows": [row, row | {"defense": "no defense"}]}
    (tmp_path / "spectrum.json").write_text(json.dumps(ranks))
    run = {"leaked": [True, False], "status": ["converged"] * 2, "label_right": [True, False], "objective": [0.0, 1.0]}
    row |= {"attack": spec("attack", "IDLG", {}).as_dict(), "runs": dict.fromkeys(RUNS, run)}
    row["provenance"] = origin | {"commit": "of the diagnosis", "data_notes": ["a note"]}
    (tmp_path / "diagnosis.json").write_text(json.dumps({"rows": [row, row]}))
    written = of_masking(tmp_path, searches, [])
    assert "Gauss-Newton" not in written
    assert "| MNIST | 0.95 | 674 | 573 | 784 |" in written
    assert "- MNIST LeNet, IDLG: found 2, label 2 of 4" in written
    assert "| MNIST | Masking(ratio=0.95, rescale=False) | 4 | 784 | 674 |" in (tmp_path / "spectrum.md").read_text()
    assert "| MNIST LeNet | Masking(ratio=0.95, rescale=False) | IDLG |" in (tmp_path / "diagnosis.md").read_text()
    assert "- commits abc, of the diagnosis, of the spectrum" in written and "- a note" in written
    for name in ("spectrum", "diagnosis"):
        (tmp_path / f"{name}.json").write_text('{"rows": [1]}')
        with pytest.raises(UsageError, match=f"run leakboard {'spectrum' if name == 'spectrum' else 'diagnose'} again"):
            of_masking(tmp_path, searches, [])
        (tmp_path / f"{name}.json").unlink()
    stuck = {"leaked": [False], "status": ["exhausted"], "label_right": [True], "objective": [1.0]}
    reached = stuck | {"leaked": [True], "objective": [0.0]}
    first = row | {"runs": {name: stuck if name in ("as it is", "float64") else reached for name in RUNS}}
    second = row | {"attack": spec("attack", "GaussNewton", {}).as_dict(), "runs": dict.fromkeys(RUNS, reached)}
    (tmp_path / "diagnosis.json").write_text(json.dumps({"rows": [first, second]}))
    written = of_masking(tmp_path, searches, [])
    assert "Of the 1 images behind a mask on MNIST LeNet that an IDLG run misses although the objective" in written
    assert "is lower at the true image, Gauss-Newton finds 1." in written
