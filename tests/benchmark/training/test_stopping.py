"""Strengths that stop an attacker, carried over to what is trained: against gradients of a plain loop."""

import json
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch
from torch import nn

from benchmark.errors import UsageError
from benchmark.federation.partition import split
from benchmark.jobs.blocks import Workbench
from benchmark.models.draw import drawn_weights
from benchmark.seeds import generator_for
from benchmark.store.store import read_trainings
from benchmark.suite.registry import build_model, spec
from benchmark.training import sizes
from benchmark.training.measuring import attacked_updates, first_updates
from benchmark.training.plan import training_data
from benchmark.training.suite import TUNING_SEEDS, parse
from datamodules import take_victims
from tests.benchmark.training.conftest import SCENARIO, Leakboard, suite

pytestmark = pytest.mark.usefixtures("nothing_of_the_developers")

ATTACKED = {"data": {"class": "Digits"}, "model": {"class": "LeNet", "init_range": 0.5}, "batch_size": 1}
ATTACKED |= {"same_class": 1, "seed": 7}


@pytest.fixture
def bench() -> Workbench:
    return Workbench(torch.device("cpu"))


def norm_of_gradient(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    model.zero_grad()
    nn.functional.cross_entropy(model(images), labels).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).norm().item()


def test_the_size_of_attacked_updates_is_that_of_the_victims_gradients(bench: Workbench) -> None:
    data = bench.data(spec("data", "Digits", {}))
    model = build_model(spec("model", "LeNet", {}), data)
    images, labels = take_victims(data, 5, 1, 0, 1)
    norms = []
    for victim in range(5):
        model.load_state_dict(drawn_weights(model, generator_for(7, victim, "network")))
        norms.append(norm_of_gradient(model, images[victim], labels[victim]))
    found = attacked_updates(ATTACKED, 5, bench).size
    assert found is not None and found.norm == pytest.approx(median(norms), rel=1e-5)
    assert found.entries == sum(p.numel() for p in model.parameters())


def test_the_size_of_trained_updates_is_that_of_the_clients_first_gradients(bench: Workbench) -> None:
    """Each client's batch is all that it has."""
    scenario = parse(suite(batch_size=1000), "mine").trainings[0].scenario
    data, model = training_data(bench, scenario), build_model(scenario.model, bench.data(scenario.data))
    norms = []
    for seed in TUNING_SEEDS:
        model.load_state_dict(drawn_weights(model, generator_for(seed, 0, "network")))
        shares = split(data.labels, 4, None, seed)
        norms += [norm_of_gradient(model, data.images[share], data.labels[share]) for share in shares]
    found = first_updates(scenario, bench)
    assert found.updates == 12 and found.size is not None
    assert found.size.norm == pytest.approx(median(norms), rel=1e-5)


def search(defense: str, argument: str, strength: float, **changed: Any) -> dict[str, Any]:
    """Of thresholds.json, for both attackers."""
    found = {"stopped": "within", "strength": strength, "note": "", "rates": [1.0, 0.0], "high": None}
    what = {"dataset": "Digits", "where": "Digits LeNet", "scenario": ATTACKED, "model": "LeNet", "victims": 4}
    what |= {"defense": defense, "argument": argument, "fixed": {}, "attack": {"class": "IDLG"}, "adaptive": False}
    return what | {"strengths": [2 * strength, strength], "ssim": found} | changed


def thresholds(folder: Path, *searches: dict[str, Any]) -> None:
    (folder / "thresholds.json").write_text(json.dumps({"ssim": 0.5, "stop": 0.05, "thresholds": searches}))


def test_norm_and_noise_are_carried_over_to_each_network(leakboard: Leakboard, tmp_path: Path) -> None:
    thresholds(tmp_path, search("Clipping", "max_norm", 2.0), search("GaussianNoise", "std", 0.1))
    wider = SCENARIO | {"model": {"class": "ConvNet", "width": 8}}
    averaged = SCENARIO | {"algorithm": "FedAvg"}
    given = suite(seeds=[0], scenarios=[SCENARIO, wider, averaged])
    code, _, err = leakboard(given, "--at", tmp_path, "--out", tmp_path / "out")
    assert code == 0, err
    assert "Digits ConvNet FedAvg: Clipping max_norm and GaussianNoise std not added" in err
    found = sizes.read(tmp_path / "out")
    attacked = found.attacked[0].size
    assert attacked is not None and [one.size is None for one in found.trained] == [False, False, True]
    for record in read_trainings(tmp_path / "out"):
        if defense := record["config"]["defense"]:
            there = found.of_training(record["config"])
            assert there is not None
            longer, larger = there.norm / attacked.norm, there.root_mean_square / attacked.root_mean_square
            expected = {"Clipping": ("max_norm", 2.0 * longer), "GaussianNoise": ("std", 0.1 * larger)}
            argument, strength = expected[defense["class"]]
            assert defense[argument] == pytest.approx(strength, rel=5e-3)
    assert len(read_trainings(tmp_path / "out")) == 3 + 3 + 1
    code, out, err = leakboard(given, "--at", tmp_path, "--out", tmp_path / "out")
    assert code == 0 and "everything was done already" in out, err
    (tmp_path / "out" / "sizes.json").write_text('{"trained": 1}')
    with pytest.raises(UsageError, match=r"sizes\.json cannot be read: delete it, and run leakboard train SUITE --at"):
        sizes.read(tmp_path / "out")
