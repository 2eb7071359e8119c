"""The page on a board of all defenses: what one point of accuracy buys, and whether older verdicts hold on it."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmark import run
from benchmark.cli.main import main
from benchmark.store.declined import Declined, keep_declined

pytestmark = pytest.mark.usefixtures("nothing_of_the_developers")

SUITE: dict[str, Any] = {
    "victims": 3,
    "lpips": False,
    "scenarios": [{"data": "Digits", "model": "MLP"}],
    "attacks": ["AnalyticLinear"],
    "defenses": [{"class": "Clipping", "max_norm": 0.1}, {"class": "Masking", "sweep": {"ratio": [0.0, 0.5, 0.9]}}],
    "training": {"clients": 4, "rounds": 2, "learning_rate": 0.1, "train_images": 60, "test_images": 20, "seeds": [0]},
}


def search(defense: str, argument: str, strengths: list[float], stopped: str, at: float | None) -> dict[str, Any]:
    """Of thresholds.json, for an attacker who knows the defense."""
    found = {"stopped": stopped, "strength": at, "high": None, "note": "", "rates": [1.0, 0.0]}
    what = {"dataset": "MNIST", "where": "MNIST LeNet", "scenario": {}, "model": "LeNet", "victims": 4, "fixed": {}}
    how = {"defense": defense, "argument": argument, "strengths": strengths, "attack": {"class": "IDLG"}}
    of_all = {"unknown": {"without": 0, "strengths": [0 for _ in strengths]}}
    return what | how | of_all | {"adaptive": True, "ssim": found}


def page(folder: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(["page", folder, "--paper", "leaderboard"])
    assert not stopped.value.code
    return Path(folder, "README.md").read_text()


def test_the_page_says_what_one_point_buys_where_verdicts_differ_and_how_to_enter() -> None:
    found = run(SUITE, out="results/mine")
    assert {row["defense"]: row["worst_leaked"] for row in found.table.rows if row["defense"] == "Clipping"} == {
        "Clipping": 3
    }
    without = page("results/mine")
    assert "as they were found before" not in without and "## Enter the leaderboard" in without

    to_come = Declined("other", json.loads(next(Path("results/mine/records").glob("*.json")).read_text())["config"], "")
    to_come.config["model"] = {"class": "ResNet"}
    keep_declined(Path("results/mine"), [to_come], ())
    assert "\n- Not run: Digits ResNet (1 cell).\n" in page("results/mine")

    masking = Path("results/masking")
    masking.mkdir()

    def before(*searches: dict[str, Any]) -> dict[str, str]:
        given = {"ssim": 0.5, "stop": 0.05, "thresholds": searches}
        (masking / "thresholds.json").write_text(json.dumps(given))
        rows = [line.split("|") for line in page("results/mine").splitlines() if line.startswith("| Digits")]
        return {cells[2].strip(): cells[-2].strip() for cells in rows if len(cells) == 7}

    never = search("Clipping", "max_norm", [100.0, 0.001], "never", None)
    assert before(never, search("Masking", "ratio", [0.0, 0.95, 0.99], "within", 0.95)) == {
        "Clipping max_norm": "no contradiction",
        "Masking ratio": "no contradiction",
    }
    # A strength that stopped everybody there leaks here.
    stopped = search("Clipping", "max_norm", [100.0, 1.0, 0.001], "within", 1.0)
    assert before(stopped) == {"Clipping max_norm": "0.1 leaks here, and stopped every attacker there"}
    assert "| MNIST: from 1.0 on | 0.1: 3 of 3 leak |" in page("results/mine")
    older = {key: value for key, value in stopped.items() if key != "unknown"}  # which does not tell
    before(older)
    assert "| MNIST: from 1.0 on, where 4 of 4 are unknown | 0.1: 3 of 3 leak |" in page("results/mine")
    elsewhere = never | {"dataset": "CIFAR10"}
    assert before(stopped, elsewhere) == {"Clipping max_norm": "no contradiction"}  # not everywhere
    same = stopped | {"dataset": "Digits"}  # of the board's own data it counts alone
    assert before(same, elsewhere) == {"Clipping max_norm": "0.1 leaks here, and stopped every attacker there"}
    # A class that is not on the board has no row.
    assert before(search("Pruning", "ratio", [0.0, 0.5, 0.99], "within", 0.5)) == {}
    text = page("results/mine")
    assert "What one point of accuracy buys" in text and "Clipping" in text and "tradeoff.png" in text
    assert "2 defenses at 4 strengths" in text


def test_victims_of_whom_nothing_is_known_stand_beside_none_that_leak() -> None:
    """An attack of two evaluations finds nothing and says nothing."""
    blunt = {"scenarios": SUITE["scenarios"], "victims": 3, "lpips": False}
    blunt |= {"attacks": [{"class": "IDLG", "max_evaluations": 2}], "defenses": [{"class": "Masking", "ratio": 0.5}]}
    run(blunt, out="results/mine")
    Path("results/masking").mkdir()
    given = {"ssim": 0.5, "stop": 0.05, "thresholds": [search("Masking", "ratio", [0.0, 0.99], "never", None)]}
    Path("results/masking/thresholds.json").write_text(json.dumps(given))
    text = page("results/mine")
    assert (
        "1 defenses at 1 strengths, of which 0 leak in the worst case and 1 more may, as some of their victims" in text
    )
    (row,) = (line for line in text.splitlines() if line.startswith("| Digits"))
    assert "| MNIST: never | 0.5: 0 of 3 leak, 3 unknown | no contradiction |" in row
