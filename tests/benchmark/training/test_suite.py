"""Training suites that are wrong: one sentence each."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from benchmark.cli.main import main
from benchmark.errors import UsageError
from benchmark.jobs.blocks import Workbench
from benchmark.store.store import read_trainings as read_all
from benchmark.training.plan import training_data
from benchmark.training.suite import parse
from tests.benchmark.training.conftest import SCENARIO, Leakboard, suite

pytestmark = pytest.mark.usefixtures("nothing_of_the_developers")


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("- a", "must be a mapping with some of the keys name, seeds, tuning_seeds, scenarios, defenses, not a list"),
        (suite() | {"seed": 0}, "unknown key of a training suite 'seed': did you mean seeds or"),
        (suite() | {"attacks": ["IDLG"]}, "attacks is a key of suites for leakboard run: a training has none"),
        (suite(round=3), "unknown key of a scenario 'round': did you mean rounds"),
        (suite("Maskin"), "unknown defense 'Maskin': did you mean Masking"),
        (suite({"class": "Masking", "ratio": 1.5}), "Masking: ratio is 1.5, but must be"),
        (suite(seeds=[]), "seeds must be a list of whole numbers, as in [0, 1, 2], not []"),
        (suite(seeds=[-1]), "a seed must be a whole number of at least 0, not -1"),
        (suite() | {"scenarios": []}, "scenarios must be a list with at least one entry"),
        (suite() | {"scenarios": ["Digits"]}, "a scenario must have the keys data, model, clients, rounds"),
        (suite() | {"scenarios": [{"data": "Digits", "model": "MLP"}]}, "needs clients and rounds and learning_rate"),
        (suite() | {"name": "a/b"}, "name must be usable as a folder name, not 'a/b'"),
        (suite() | {"defenses": 3}, "defenses must be a list"),
        (suite(rounds=0), "rounds must be a whole number of at least 1, not 0"),
        (suite(clients=0), "clients must be a whole number of at least 1, not 0"),
        (suite(clients_per_round=5), "clients_per_round is 5, but there are 4 clients: give 4 or fewer"),
        (suite(algorithm="FedSDG"), "unknown algorithm 'FedSDG': did you mean FedSGD"),
        (suite(local_epochs=2), "local_epochs is for algorithm FedAvg"),
        (suite(learning_rate=0), "learning_rate must be a number above 0, not 0"),
        (suite(learning_rate="fast"), "learning_rate must be a number above 0, not fast"),
        (suite(learning_rate=[]), "learning_rate must be a number, or a list of them of which the best is taken"),
        (suite(learning_rate=[0.1, 0]), "learning_rate must be a number above 0, not 0"),
        (suite(learning_rate=math.nan), "learning_rate must be a number above 0, not nan"),
        (suite(server_momentum=1), "server_momentum must be a number of at least 0 and below 1, not 1"),
        (suite(decay="cosin"), "unknown decay 'cosin': did you mean cosine"),
        (suite(split="random"), "split must be iid or {dirichlet: ALPHA}, not 'random'"),
        (suite(split={}), "split must be iid or {dirichlet: ALPHA}, not {}"),
        (suite(split={"dirichlet": None}), "split must be iid or {dirichlet: ALPHA}, not {'dirichlet': None}"),
        (suite(split={"dirichlet": "1"}), "dirichlet must be a number above 0, not '1': write it without quotes"),
        (suite(clients=4.0), "clients must be a whole number of at least 1, not 4.0: write 4"),
        (suite(clients=True), "clients must be a whole number of at least 1, not true"),
        (suite(split={"dirichlet": -1}), "dirichlet must be a number above 0, not -1"),
        (suite(batch_norm="includ"), "unknown batch_norm 'includ': did you mean include or exclude"),
        (suite(evaluate_every=0), "evaluate_every must be a whole number of at least 1, not 0"),
        (
            suite(train_images=1298),
            "Digits has 1297 images for train_images, not 1298: give train_images 1297 or fewer",
        ),
        (suite(clients=91), "Digits, seed 0: 1 of 91 clients have no image of the 90: give fewer clients or more"),
        (
            suite(clients=50, split={"dirichlet": 0.01}),
            " of 50 clients have no image of the 90: give fewer clients, a larger dirichlet or more train_images",
        ),
        (suite(clients=10**9, clients_per_round=2), f"{10**9 - 90} of 1000000000 clients have no image of the 90"),
        (suite(clients=10**9 + 1), "clients must be a whole number of at most 1,000,000,000, not 1000000001"),
        (suite(rounds=10**20), "rounds must be a whole number of at most 1,000,000,000, not 100000000000000000000"),
        (
            suite(algorithm="FedAvg", local_epochs=1001),
            "local_epochs must be a whole number of at most 1,000, not 1001",
        ),
        (suite(batch_size=10**400), "batch_size must be a whole number of at most 1,000,000,000, not 1000"),
        (suite(learning_rate=10**400), "learning_rate must be at most 3.4e+38, the most that float32 holds, not 1000"),
        (suite(learning_rate=1e39), "learning_rate must be at most 3.4e+38, the most that float32 holds, not 1e+39"),
        (suite(learning_rate=-0.1), "learning_rate must be a number above 0, not -0.1"),
        (suite(learning_rate=[0.1, math.inf]), "learning_rate must be a number above 0, not inf"),
        (suite(learning_rate=[0.1, 0.2, 0.1]), "learning_rate has 0.1 more than once: give each rate once"),
        (suite(learning_rate=[1, 1.0]), "learning_rate has 1 more than once: give each rate once"),
        (suite(server_momentum=-0.1), "server_momentum must be a number of at least 0 and below 1, not -0.1"),
        (suite(server_momentum=math.nan), "server_momentum must be a number of at least 0 and below 1, not nan"),
        (
            suite(split={"dirichlet": 1e-300}),
            "dirichlet must be from 0.001, where a class is with one client, to",
        ),
        (suite(split={"dirichlet": 1e30}), "dirichlet must be from 0.001, where a class is with one client, to"),
        (suite(split={"dirichlet": 1e200}), "dirichlet must be at most 3.4e+38"),
        (suite(split={"dirichlet": math.inf}), "dirichlet must be a number above 0, not inf"),
        (suite(seeds=[0, 1, 0]), "seeds has 0 more than once: give each seed once"),
        (suite() | {"tuning_seeds": [5]}, "tuning_seeds choose among learning rates: give learning_rate as a list"),
        (suite(learning_rate=[1, 2]) | {"tuning_seeds": []}, "tuning_seeds must be a list of whole numbers"),
        (suite(learning_rate=[1, 2]) | {"tuning_seeds": [0]}, "seed 0 is in seeds and chooses learning rates too"),
        (suite(learning_rate=[1, 2], seeds=[1000]), "seed 1000 is in seeds and chooses learning rates too"),
        (suite(validation_images=0), "validation_images must be a whole number of at least 1, not 0"),
        (
            suite(validation_images=100),
            "100 images on the clients' side, of which validation_images takes 100: give validation_",
        ),
        (suite(validation_images=10**5, train_images=7), "takes 100000: give validation_images 6 or fewer"),
        (
            suite(train_images=1),
            "Digits has one image on the clients' side, which validation takes: give train_images 2",
        ),
        (suite(train_images=1, validation_images=1), "which validation takes: give train_images 2 or more, or a data"),
        (suite(warm_up=5), "warm_up is 5, but there are 4 rounds: give 4 or fewer"),
        (
            suite(
                model={"class": "ConvNet", "sweep": {"width": list(range(1, 1001))}}, learning_rate=list(range(1, 102))
            ),
            "a scenario makes 101,000 cells, but a suite can have 100,000: sweep fewer values",
        ),
        (suite(data="MNIST"), "which is not there: point --data-root"),
        (suite(data="CIFAR10JPEG"), "cifar-10-jpeg/test.npz is not there: point --data-root"),
    ],
)
def test_a_wrong_suite_is_one_sentence(leakboard: Leakboard, tmp_path: Path, given: Any, sentence: str) -> None:
    code, out, error = leakboard(given)
    assert code == 2 and out == "" and error.startswith("leakboard: ") and error.count("\n") == 1
    assert sentence in error
    assert not (tmp_path / "runs").exists()


def test_a_folder_that_cannot_be_written_is_told(leakboard: Leakboard, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    code, _, error = leakboard(suite(), "--out", tmp_path / "file")
    assert code == 2
    assert error == f"leakboard: the folder {tmp_path}/file cannot be written (Not a directory): give another folder\n"


def test_a_folder_without_records_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there are no records of training in"):
        read_all(tmp_path)


def test_a_scenario_can_have_defenses_of_its_own() -> None:
    scenarios = [SCENARIO, SCENARIO | {"rounds": 3, "defenses": [{"class": "Clipping", "max_norm": 0.5}]}]
    found = parse(suite("Masking", seeds=[0], scenarios=scenarios), "mine").trainings
    assert [training.defense and training.defense.name for training in found] == [None, "Masking", None, "Clipping"]


def test_the_larger_split_trains(tmp_path: Path) -> None:
    for number in range(8):  # a fourth of a folder's images are public
        (tmp_path / "photos" / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (30 * number, 9, 9)).save(tmp_path / "photos" / "ab"[number % 2] / f"{number}.png")
    data = {"class": "ImageFolder", "path": str(tmp_path / "photos"), "size": 8}
    scenario = parse(suite(data=data), "mine").trainings[0].scenario
    bench = Workbench(torch.device("cpu"))
    found = training_data(bench, replace(scenario, train_images=None, test_images=None))
    assert (len(found.labels), len(found.validation_labels), len(found.test_labels)) == (5, 1, 2)
    for path in sorted((tmp_path / "photos").rglob("[4-7].png")):
        path.unlink()
    with pytest.raises(UsageError, match="ImageFolder has no images for test_images: add images"):
        training_data(Workbench(torch.device("cpu")), replace(scenario, train_images=None, test_images=None))
    digits = training_data(bench, parse(suite(), "mine").trainings[0].scenario)
    assert (len(digits.labels), len(digits.test_labels)) == (90, 40)


def test_a_training_suite_is_no_suite_of_cells(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(suite()))
    with pytest.raises(SystemExit):
        main(["run", "mine.yaml"])
    assert "seeds is a key of suites for leakboard train: give seed here" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("server_momentum", 1.5),
        ("learning_rate", -0.1),
        ("evaluate_every", 2.5),
    ],
)
def test_no_number_is_advised_that_is_refused(key: str, value: Any) -> None:
    with pytest.raises(UsageError) as caught:
        parse(suite(**{key: value}), "mine")
    assert key in str(caught.value) and "write" not in str(caught.value)


def test_the_numbers_of_images_and_rounds_that_are_advised_are_taken() -> None:
    bench = Workbench(torch.device("cpu"))
    for more in ({"train_images": 2}, {"train_images": 7, "validation_images": 6}):
        assert len(training_data(bench, parse(suite(**more), "mine").trainings[0].scenario).labels) == 1
    assert parse(suite(warm_up=4, rounds=4), "mine").trainings
