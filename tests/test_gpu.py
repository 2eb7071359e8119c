"""The program on a GPU: every defense of the small board, attacked there as on the CPU.

Nothing here can be seen on a CPU: which of CUDA's libraries fails on what a defense leaves of an update, a tensor that
was left on the other device, what a new process must do before it may use a GPU, what a graph cannot capture.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from benchmark.cli.main import main
from benchmark.jobs import conductor
from benchmark.metrics.leak import leaks
from benchmark.store.store import Record, read_all

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU on this machine"),
    pytest.mark.timeout(600),
]

BOARD = Path(__file__).parents[1] / "configs" / "leaderboard_small.yaml"

GPU = "0"

Run = Callable[..., dict[str, Record]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the small board with few victims and evaluations, no training, and each defense at the last strength of its
    sweep; returns the records by cell."""
    monkeypatch.chdir(tmp_path)
    suite: dict[str, Any] = yaml.safe_load(BOARD.read_text())
    for part in (suite, *suite["scenarios"]):
        part.pop("training", None)
        for defense in part.get("defenses", []):
            for one in (defense, *defense.get("defenses", [])):
                one |= {name: sweep[-1] for name, sweep in one.pop("sweep", {}).items()}
    suite |= {"victims": 4, "block_size": 4, "attacks": [{"class": "AutoLeak", "max_evaluations": 20}]}
    Path("board.yaml").write_text(yaml.safe_dump(suite))

    def ran(folder: str, *flags: str) -> dict[str, Record]:
        with pytest.raises(SystemExit) as ended:
            main(["run", "board.yaml", "--out", folder, *flags])
        assert ended.value.code == 0
        return {record["cell"]: record for record in read_all(Path(folder))}

    return ran


def leaking(records: dict[str, Record]) -> dict[str, list[bool]]:
    """Which victims leak, by cell."""
    return {cell: [leaks(victim) for victim in record["victims"]] for cell, record in records.items()}


def agreement(first: dict[str, list[bool]], second: dict[str, list[bool]]) -> float:
    """The share of victims who leak in both or in neither."""
    assert first.keys() == second.keys()
    same = [one == other for cell in first for one, other in zip(first[cell], second[cell], strict=True)]
    return sum(same) / len(same)


def test_what_leaks_on_a_cpu_leaks_on_a_gpu_in_this_process_and_in_a_worker(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_cpu, on_gpu = leaking(run("cpu", "--devices", "cpu")), leaking(run("gpu", "--devices", GPU))
    assert len(on_cpu) > 60 and agreement(on_cpu, on_gpu) > 0.95  # rounding decides who is found in 20 evaluations
    monkeypatch.setattr(conductor, "find_workers", lambda options: [f"cuda:{GPU}"] * 2)
    assert agreement(on_gpu, leaking(run("workers"))) > 0.95


def test_a_graph_finds_what_single_steps_find(run: Run) -> None:
    eager, graph = run("eager", "--devices", GPU), run("graph", "--devices", GPU, "--step", "graph")
    assert agreement(leaking(eager), leaking(graph)) > 0.95
    assert any("step graph" in note for record in graph.values() for note in record["cost"]["notes"])
