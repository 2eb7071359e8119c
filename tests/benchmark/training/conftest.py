"""Training suites as tests make and run them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from benchmark.cli.main import main
from benchmark.jobs.blocks import Workbench
from benchmark.jobs.conductor import Conductor
from benchmark.store.store import Record
from benchmark.store.store import read_trainings as read_all
from benchmark.training.suite import parse
from benchmark.training.work import carry_out, prepared

SCENARIO: dict[str, Any] = {
    "data": "Digits",
    "model": {"class": "ConvNet", "width": 4},
    "clients": 4,
    "rounds": 4,
    "batch_size": 8,
    "learning_rate": 0.1,
    "train_images": 100,
    "test_images": 40,
}
MASKING = {"class": "Masking", "ratio": 0.5}


def suite(*defenses: Any, seeds: Any = (0, 1), scenarios: Any = None, **changed: Any) -> dict[str, Any]:
    return {"seeds": list(seeds), "scenarios": scenarios or [SCENARIO | changed], "defenses": list(defenses)}


def carried_out(folder: Path, given: dict[str, Any]) -> str:
    conductor = Conductor(["cpu"], None, 1, Workbench(torch.device("cpu")), folder, None)
    made = parse(given, "mine")
    return carry_out(made, prepared(made, conductor), conductor)[0]


def results(folder: Path) -> dict[str, Any]:
    """What each record says but when and how fast."""
    return {r["key"]: {k: v for k, v in r.items() if k not in ("provenance", "cost")} for r in read_all(folder)}


def trained(seed: int, accuracy: float, defense: str | None = None, date: str = "2026", **changed: Any) -> Record:
    config = parse(suite({"class": defense} if defense else MASKING), "mine").trainings[-1].config()
    config |= {"seed": seed} | ({} if defense else {"defense": None})
    found = {"config": config, "status": "done", "accuracy": accuracy, "loss": 1 - accuracy, "majority": 0.1}
    found |= {"validation": {"accuracy": accuracy, "loss": 1.0}, "curve": {"accuracy": [0.1, accuracy]}}
    found |= dict.fromkeys(("clients_changed", "entries_changed"), 0.5 if defense else None)
    return found | {"provenance": {"date": date}, "cost": {"seconds": 2.0}} | changed


Leakboard = Callable[..., tuple[int, str, str]]


@pytest.fixture
def leakboard(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Leakboard:
    """Runs a command on a suite: exit code, output, errors."""

    def run(given: Any, *words: Any) -> tuple[int, str, str]:
        (tmp_path / "mine.yaml").write_text(given if isinstance(given, str) else yaml.safe_dump(given))
        with pytest.raises(SystemExit) as stopped:
            main(["train", "mine.yaml", *map(str, words)])
        said = capsys.readouterr()
        assert isinstance(stopped.value.code, int)
        return stopped.value.code, said.out, said.err

    return run
