"""A learning rate that rises first, by hand; what is said of it, and whether it is part of what a run is."""

from pathlib import Path

import pytest

from benchmark.store.store import read_trainings
from benchmark.training.suite import federation_of, parse
from tests.benchmark.training.conftest import SCENARIO, Leakboard, suite

pytestmark = pytest.mark.usefixtures("nothing_of_the_developers")


def test_the_rate_rises_linearly_and_then_falls_as_without_a_warm_up() -> None:
    plain = {"clients": 2, "rounds": 8, "learning_rate": 0.4}
    stays = federation_of(plain | {"warm_up": 4})
    assert [stays.rate(done) for done in range(8)] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4, 0.4, 0.4, 0.4])
    falls, cold = (federation_of(plain | {"decay": "cosine"} | more) for more in ({"warm_up": 2}, {}))
    assert falls.rate(0) == pytest.approx(0.2) and falls.rate(4) == pytest.approx(0.2)  # half of 0.4 each
    assert [falls.rate(done) for done in range(1, 8)] == [cold.rate(done) for done in range(1, 8)]


def test_a_run_with_a_warm_up_is_another_and_says_so(leakboard: Leakboard, tmp_path: Path) -> None:
    warm = SCENARIO | {"warm_up": 3, "decay": "cosine"}
    code, _, err = leakboard(suite(seeds=[0], scenarios=[warm, SCENARIO | {"warm_up": 2}, SCENARIO]))
    assert code == 0, err
    records = read_trainings(tmp_path / "runs" / "mine")
    assert sorted(record["config"].get("warm_up", 0) for record in records) == [0, 2, 3]
    assert len({record["loss"] for record in records}) == 3
    page = (tmp_path / "runs" / "mine" / "training.md").read_text()
    assert "batches of 8, cosine decay (warm-up of 3 rounds)" in page
    assert "batches of 8, no decay (warm-up of 2 rounds)" in page and "batches of 8, train_images 100" in page
    code, _, err = leakboard(suite(seeds=[0], scenarios=[SCENARIO | {"warm_up": 0}]))
    assert code == 2 and "warm_up must be a whole number" in err


def test_a_suite_without_a_warm_up_has_no_such_key() -> None:
    assert "warm_up" not in parse(suite(), "mine").trainings[0].config()
