"""Records of a search for a threshold."""

import json
from collections.abc import Callable
from typing import Any

import pytest

Records = list[dict[str, Any]]

MakeSearch = Callable[..., tuple[dict[str, Any], Records]]


@pytest.fixture
def make_search() -> MakeSearch:
    return searched


def searched(
    leaking: dict[float, int],
    defense: str = "Masking",
    adaptive: bool = False,
    prior: float = 0.0,
    argument: str = "ratio",
    *,
    victims: int = 16,
    without: int | None = None,
    data: str = "CIFAR10",
    fixed: dict[str, Any] | None = None,
    attack: dict[str, Any] | None = None,
    **changed: Any,
) -> tuple[dict[str, Any], Records]:
    """A search as thresholds.json names it, and its records.

    Args:
        leaking: strength, from weak to strong -> how many victims leak; the first ones.
        defense, argument: the defense, and what its strength is called.
        adaptive: whether the attacker knows it.
        prior: weight of the attack's prior.
        victims: how many there are.
        without: how many leak without a defense; all by default.
        data: name of the data set.
        fixed: the defense's other arguments.
        attack: instead of IDLG.
        **changed: of every record.
    """
    scenario = {"data": {"class": data}, "model": {"class": "LeNet"}, "batch_size": 1, "same_class": 1, "seed": 0}
    attack = attack or {"class": "IDLG", "total_variation": prior}
    if fixed is None:
        fixed = {"rescale": False} if defense == "Masking" else {}
    search = {"dataset": data, "model": "LeNet", "scenario": scenario, "where": f"{data} LeNet", "defense": defense}
    search |= {"argument": argument, "fixed": fixed, "attack": attack, "adaptive": adaptive, "victims": victims}

    def record(strength: float | None, count: int) -> dict[str, Any]:
        spec = None if strength is None else {"class": defense} | fixed | {argument: strength}
        config = {"schema": 1} | scenario | {"defense": spec, "attack": attack}
        config["adaptive"] = adaptive and spec is not None
        name = json.dumps(config, sort_keys=True)
        return {
            "key": name,
            "cell": name,
            "config": config,
            "code_sha256": "of the code",
            "provenance": {
                "date": "2026-01-01T00:00:00Z",
                "commit": "abc",
                "device": "cpu",
                "threads": 1,
                "versions": {"torch": "2"},
                "data_notes": [],
                "data_sha256": "of the images",
                "lpips": "no weights",
            },
            "cost": {"seconds": 3600.0, "peak_memory_mib": 1, "notes": []},
            "victims": [victim(index, index < count) for index in range(victims)],
        } | changed

    counts = {None: victims if without is None else without} | leaking
    return search | {"strengths": list(leaking)}, [record(strength, count) for strength, count in counts.items()]


def victim(index: int, leaks: bool) -> dict[str, Any]:
    """A victim that leaks by both measures, or by none."""
    return {
        "index": index,
        "status": "converged",
        "ssim": [0.9 if leaks else 0.2],
        "null_ssim": [0.3],
        "psnr": [30.0 if leaks else 10.0],
        "null_psnr": [12.0],
        "misfit": 0.0,
        "misfit_of_truth": 0.0,
        "leaked_any": leaks,
        "leaked_all": leaks,
    }
