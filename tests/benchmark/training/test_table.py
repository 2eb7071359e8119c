"""The table of trainings, and runs that diverge."""

import csv
import math
import sys
from pathlib import Path

import pytest
import torch

from benchmark.metrics.intervals import t_interval
from benchmark.store.store import Record
from benchmark.store.store import read_trainings as read_all
from benchmark.suite.registry import arguments
from benchmark.training.rows import of_one_code, rows
from benchmark.training.table import as_csv, as_markdown, note
from tests.benchmark.training.conftest import MASKING, SCENARIO, Leakboard, suite, trained

pytestmark = pytest.mark.usefixtures("nothing_of_the_developers")


# Divergence.


def test_a_run_that_diverges_is_recorded_and_the_others_go_on(leakboard: Leakboard, tmp_path: Path) -> None:
    scenarios = [SCENARIO | {"learning_rate": 1e30, "batch_size": 9}, SCENARIO]
    code, out, err = leakboard(suite(scenarios=scenarios))
    assert code == 0 and "diverged in round" in err and "4 of 4 runs trained" in out
    records = read_all(tmp_path / "runs" / "mine")
    lost = [record for record in records if record["status"] == "diverged"]
    assert len(records) == 4 and len(lost) == 2
    for record in lost:
        assert record["accuracy"] is record["loss"] is None and 1 <= record["round"] <= 4
    well, bad = sorted(rows(records), key=lambda row: row["diverged"])
    assert (bad["diverged"], bad["accuracy"], bad["loss"], well["diverged"]) == (2, 0.0, None, 0)
    assert leakboard(suite(scenarios=scenarios))[1].count("everything was done already") == 1


# The table.


def test_the_difference_is_paired_by_seed() -> None:
    control = [trained(seed, accuracy) for seed, accuracy in enumerate((0.9, 0.8, 0.7, 0.5))]
    masked = [trained(seed, accuracy, "Masking") for seed, accuracy in enumerate((0.88, 0.79, 0.68))]
    first, second = rows(masked + control)
    assert (first["defense"], first["seeds"], first["pairs"], first["difference"]) == ("no defense", 4, 0, None)
    assert (second["seeds"], second["pairs"]) == (3, 3)
    assert second["difference"] == pytest.approx(-0.05 / 3)
    half = 4.302653 * math.sqrt((2 * (0.01 / 3) ** 2 + (0.02 / 3) ** 2) / 2) / math.sqrt(3)
    assert second["difference_high"] - second["difference"] == pytest.approx(half, rel=1e-5)
    assert "| -1.67 (-3.10 to -0.23) |" in as_markdown([first, second], "mine")


def test_intervals_end_at_what_is_possible() -> None:
    # t(0.975, 1 degree of freedom) = 12.706 times 0.05 is 0.635 for the accuracy, and 0.02 times that the difference
    control = [trained(seed, accuracy) for seed, accuracy in enumerate((0.9, 0.86))]
    masked = [trained(seed, accuracy, "Masking") for seed, accuracy in enumerate((0.9, 0.8))]
    first, second = rows(masked + control)
    assert (second["accuracy_low"], second["accuracy_high"]) == (pytest.approx(0.85 - 0.6353, abs=1e-4), 1.0)
    assert (second["loss_low"], second["loss_high"]) == (0.0, pytest.approx(0.15 + 0.6353, abs=1e-4))
    shown = as_markdown([first, second], "mine")
    assert "| 88.00 (62.59 to 100.00) |" in shown and "| 85.00 (21.47 to 100.00) | -3.00 (-41.12 to +35.12) |" in shown
    wide = [trained(seed, accuracy, "Masking") for seed, accuracy in enumerate((0.9, 0.1))]
    _, row = rows(wide + control)
    assert (row["difference_low"], row["difference_high"]) == (-1.0, 1.0)


@pytest.mark.parametrize("images", [None, 50, 10_000])
def test_seeds_that_agree_tell_a_cost_no_better_than_their_test_images_do(images: int | None) -> None:
    """Of seeds that differ by more than an image the interval is as it would be."""
    tested = {"images_tested": images} if images else {}
    control = [trained(seed, accuracy, **tested) for seed, accuracy in enumerate((0.9, 0.86, 0.8))]
    for costs in ((0.0, 0.0, 0.0), (0.02, 0.02, 0.02), (0.02, 0.04, 0.1)):
        accuracies = [one["accuracy"] - cost for one, cost in zip(control, costs, strict=True)]
        masked = [trained(seed, accuracy, "Masking", **tested) for seed, accuracy in enumerate(accuracies)]
        _, row = rows(control + masked)
        spread = max(torch.tensor(costs, dtype=torch.double).std().item(), 1 / (images * 12**0.5) if images else 0.0)
        half = 4.302653 * spread / 3**0.5
        mean = -sum(costs) / 3
        assert row["difference_low"] == pytest.approx(mean - half, abs=1e-7)
        assert row["difference_high"] == pytest.approx(mean + half, abs=1e-7)
        of_losses = torch.tensor(accuracies, dtype=torch.double).std().item()
        assert row["loss_high"] - row["loss"] == pytest.approx(4.302653 * of_losses / 3**0.5, abs=1e-7)


@pytest.mark.parametrize(("seeds", "said"), [(1, "and the best on"), (2, "the two best on")])
def test_the_note_says_how_often_rates_were_tried_and_which_control_is_below_a_defense_at_another_rate(
    seeds: int, said: str
) -> None:
    def at(rate: float, accuracy: float, judged: float, defense: str | None = None) -> list[Record]:
        """One reported run and those that tune."""
        runs = [trained(seed, accuracy, defense) for seed in range(1 + seeds)]
        for seed, run in enumerate(runs):
            run["config"] |= {"learning_rate": rate, "seed": 1000 + seed if seed else 0, "tuning": bool(seed)}
            run["validation"] = {"accuracy": judged, "loss": 1.0}
        return runs

    control = [*at(0.1, 0.8, 0.9), *at(0.3, 0.85, 0.8)]  # the worse one seemed better
    same, other = at(0.1, 0.82, 0.9, "Clipping"), [*at(0.1, 0.5, 0.1, "Masking"), *at(0.3, 0.84, 0.9, "Masking")]
    written = note(rows(control + same))
    assert f"each was trained with one tuning seed, {said} validation images" in written
    assert ("with 2, and the better of them" in written) == (seeds == 2)
    assert "end below" not in written  # at the same rate, of which the choice says nothing
    below = "ConvNet FedSGD on Digits (80.0 % at rate 0.1, but 84.0 % at rate 0.3 with Masking("
    written = note(rows(control + same + other))
    assert (
        below in written and f"chosen with {'one tuning seed' if seeds == 1 else 'at most 2 tuning seeds'}" in written
    )
    assert "Clipping(" not in written
    assert "end below" not in note(rows([*at(0.3, 0.85, 0.9), *at(0.1, 0.8, 0.8), *other]))
    assert "end below" not in note(rows(other))  # nothing is known of no defense
    assert "single learning rate" not in note(rows(control + same + other)) + note(rows(same))
    assert "A single learning rate was tried for ConvNet FedSGD on Digits" in note(rows([*at(0.1, 0.8, 0.9), *same]))


def test_the_newer_of_two_records_counts_and_one_seed_has_no_interval() -> None:
    (row,) = rows([trained(0, 0.9, date="2027"), trained(0, 0.8, date="2026")])
    assert (row["accuracy"], row["accuracy_low"], row["seeds"]) == (0.9, None, 1)
    assert t_interval([1.0]) == t_interval([]) == (None, None)
    assert as_csv([row]).count("\n") == 2


def test_what_a_client_sends_and_how_long_it_works_are_means_and_privacy_is_that_of_the_worst_seed() -> None:
    cost = {"seconds": 2.0, "client_bytes": 1000.0, "client_seconds": 0.004}
    private = {"epsilon": 3.0, "delta": 1e-5, "sample_rate": 0.1, "steps": 4}
    known = [
        trained(0, 0.8, "DPSGD", cost=cost, privacy=private),
        trained(1, 0.8, "DPSGD", cost=cost | {"client_bytes": 3000.0}, privacy=private | {"epsilon": 5.0}),
    ]
    plain, row = rows([trained(0, 0.9), trained(1, 0.9), *known])
    assert (plain["bytes"], plain["epsilon"], plain["delta"]) == (None, None, None)
    assert (row["bytes"], row["client_seconds"], row["epsilon"], row["delta"]) == (2000.0, 0.004, 5.0, 1e-5)
    page = as_markdown([plain, row], "mine")
    assert "| sent | ms / client | epsilon |" in page and "| 2 kB | 4 | 5 |" in page and "Sent is what" in note([row])
    (row,) = rows(
        [trained(0, 0.8, "DPSGD", privacy=private), trained(1, 0.8, "DPSGD", privacy=private | {"epsilon": None})]
    )
    assert row["epsilon"] == math.inf and "epsilon is infinite" in note([row])
    page = as_markdown(rows([trained(0, 0.9)]), "mine")
    assert "sent" not in page and "Sent" not in page  # of records from before this was counted


def test_a_row_is_of_one_code() -> None:
    old = [trained(seed, 0.9, date="2026", code_sha256="a", key=f"old{seed}") for seed in range(3)]
    new = [trained(0, 0.5, date="2027", code_sha256="b", key="new0")]
    masked = [trained(seed, 0.8, "Masking", date="2025", code_sha256="c", key=f"masked{seed}") for seed in range(3)]
    every = [*new, *old, *masked]
    for current, accuracy, seeds, said in (
        (None, 0.5, 1, "2 runs of no defense left out, because of other code than the newest"),
        ({"new0", "masked0", "masked1", "masked2"}, 0.5, 1, "2 runs of no defense left out, because of other code"),
        ({"old0", "old1", "old2", "masked0", "masked1", "masked2"}, 0.9, 3, ""),
    ):
        kept, left_out = of_one_code(every, current)
        row, other = rows(kept)
        assert (row["accuracy"], row["seeds"], other["seeds"], other["pairs"]) == (accuracy, seeds, 3, seeds)
        assert " ".join(left_out).startswith(said) and len(left_out) == bool(said)
        assert (said in as_markdown([row], "mine", left_out)) and rows(every)[0]["accuracy"] == 0.5


OWN = """
import defenses
class Mine(defenses.Masking):
    def protect(self, update, generators):
        return {name: FACTOR * value for name, value in super().protect(update, generators).items()}
"""


def test_the_table_is_of_the_present_code_also_where_a_change_was_taken_back(
    leakboard: Leakboard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = []
    for factor, seeds in ((1.0, [0, 1]), (0.0, [0]), (1.0, [0, 1])):
        (tmp_path / "mine_defense.py").write_text(OWN.replace("FACTOR", str(factor)))
        monkeypatch.delitem(sys.modules, "mine_defense", raising=False)
        arguments.cache_clear()
        code, out, err = leakboard(suite({"class": "mine_defense.Mine", "ratio": 0.1}, seeds=seeds))
        assert code == 0, err
        assert ("1 run of mine_defense.Mine(ratio=0.1, rescale=False) left out" in err) == (factor == 0.0)
        *_, row = csv.DictReader((tmp_path / "runs" / "mine" / "training.csv").open())
        losses.append((row["seeds"], row["loss"], row["void"]))
    assert "everything was done already" in out
    assert losses[0] == losses[2] and losses[1][0] == "1" and losses[1][1] != losses[0][1]


def test_a_defense_that_was_trained_with_another_network_is_not_compared_with_the_new_one(
    leakboard: Leakboard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = "import benchmark.models as m\n\nclass Net(m.MLP):\n    def forward(self, x):\n"
    for factor, defenses in ((1.0, [MASKING, "Clipping"]), (2.0, ["Clipping"])):
        (tmp_path / "mine_net.py").write_text(f"{source}        return super().forward({factor} * x)\n")
        monkeypatch.delitem(sys.modules, "mine_net", raising=False)
        arguments.cache_clear()
        code, _, err = leakboard(suite(*defenses, seeds=[0], model="mine_net.Net"))
        assert code == 0, err
        table = list(csv.DictReader((tmp_path / "runs" / "mine" / "training.csv").open()))
        assert len(table) == 1 + len(defenses)
    assert "1 run of Masking(ratio=0.5, rescale=False) left out, because of other code than the present" in err


def test_a_diverged_run_counts_as_nothing_known() -> None:
    (row,) = rows([trained(0, 0.9), trained(1, 0.0) | {"status": "diverged", "accuracy": None, "loss": None}])
    assert (row["accuracy"], row["diverged"], row["loss"]) == (0.45, 1, None)


def test_a_defense_that_never_acted_is_void_and_did_not_cost_nothing() -> None:
    control = [trained(seed, accuracy) for seed, accuracy in enumerate((0.9, 0.8))]
    idle = {"entries_changed": 0.0, "clients_changed": 0.0}
    still = [trained(seed, accuracy, "Clipping", **idle) for seed, accuracy in enumerate((0.9, 0.8))]
    once = [still[0], trained(1, 0.8, "Clipping", clients_changed=1e-6, entries_changed=1e-6)]
    for found, void, difference, cell in (
        (still, "did not act", None, "| void: did not act |"),
        (once, "", 0.0, "| +0.00 (+0.00 to +0.00) |"),
    ):
        _, row = rows(control + found)
        assert (row["void"], row["difference"], row["pairs"]) == (void, difference, 0 if void else 2)
        assert cell in as_markdown([row], "mine") and ("| 0 % | 0 % |" if void else "| &lt; 0.1 % | &lt; 0.1 % |") in (
            as_markdown([row], "mine")
        )
    assert "clients_changed" in as_csv([row])


def test_a_run_that_ends_like_naming_one_class_has_collapsed(leakboard: Leakboard, tmp_path: Path) -> None:
    assert leakboard(suite(MASKING, seeds=[0], learning_rate=1e-9, model="MLP"))[0] == 0  # learns nothing
    records = read_all(tmp_path / "runs" / "mine")
    for found in records:
        counts = [found["majority"] * 40, found["accuracy"] * 40]
        assert all(abs(count - round(count)) < 1e-3 for count in counts)
        assert found["status"] == ("collapsed" if found["accuracy"] <= found["majority"] else "done")
    control, masked = rows(records)
    assert control["collapsed"] == masked["collapsed"] == 1 and "collapsed in 1 of 1" in masked["void"]
    assert masked["difference"] is None and masked["accuracy"] > 0


@pytest.mark.parametrize("status", ["collapsed", "diverged"])
def test_there_is_no_difference_to_a_control_that_failed_and_one_to_a_defense_that_did(status: str) -> None:
    def failed(found: Record) -> Record:
        lost = {"accuracy": None, "loss": None, "validation": None} if status == "diverged" else {"accuracy": 0.1}
        return found | {"status": status} | lost

    control, masked = [trained(0, 0.9), trained(1, 0.8)], [trained(0, 0.9, "Masking"), trained(1, 0.8, "Masking")]
    first, second = rows([control[0], failed(control[1]), *masked])
    assert (first[status], second["void"], second["difference"]) == (1, f"no defense {status} in 1 of 2", None)
    first, second = rows([*control, masked[0], failed(masked[1])])
    assert (second[status], second["void"]) == (1, "")
    assert second["difference"] == pytest.approx(-0.4 if status == "diverged" else -0.35)


def older(found: Record, *curve: float) -> Record:
    """As an older version wrote it."""
    new = ("majority", "validation", "clients_changed", "entries_changed")
    config = {k: v for k, v in found["config"].items() if k not in ("tuning", "validation_images")} | {"schema": 1}
    kept = {key: value for key, value in found.items() if key not in new}
    return kept | {"config": config, "curve": {"accuracy": list(curve), "loss": list(curve)}, "accuracy": curve[-1]}


def test_what_older_records_do_not_say_is_found_in_their_curves_and_noted() -> None:
    control = [older(trained(seed, 0.9), 0.1, 0.5, 0.9) for seed in (0, 1)]
    same = [older(trained(seed, 0.9, "Clipping"), 0.1, 0.5, 0.9) for seed in (0, 1)]
    one_differs = [same[0], older(trained(1, 0.9, "Clipping"), 0.1, 0.4, 0.9)]
    other_seed = [*same, older(trained(2, 0.9, "Clipping"), 0.1, 0.5, 0.9)]
    for found, void in ((same, "did not act"), (one_differs, ""), (other_seed, "")):
        first, second = rows(control + found)
        assert (second["void"], second["older"], first["collapsed"]) == (void, 1, 0)
    assert "Records of an older version do not say" in note([first, second]) and "on test" not in note([first])
    first, second = rows([control[0], older(trained(1, 0.9), 0.12, 0.3, 0.11), *same])
    assert (first["collapsed"], second["void"]) == (1, "no defense collapsed in 1 of 2")
    slow = older(trained(0, 0.9, learning_rate=0.2), 0.1, 0.95)
    slow["config"] |= {"learning_rate": 0.2}
    row, *_ = rows([*control, slow])
    assert (row["learning_rate"], row["rate_chosen_on"]) == (0.2, "test")
    assert "are the best on the very test images" in note([row]) and "0.2 (largest tried) (on test)" in as_markdown(
        [row], ""
    )


def test_trainings_of_an_older_version_are_still_read() -> None:
    table = rows(read_all(Path(__file__).parent / "older"))
    assert [row["rate_chosen_on"] for row in table] == ["test", "test", ""] and all(row["older"] for row in table)
    void = [(row["data"], row["model"], row["defense"]) for row in table if row["void"] == "did not act"]
    assert void == [("CIFAR10JPEG", "ResNet(width=8)", "Clipping(max_norm=4.37144)")]
