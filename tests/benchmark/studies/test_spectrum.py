"""What an update says: the Jacobian against another way to compute it, and ranks that can be counted."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from attacks.gradients import batch_gradients
from attacks.update import FedAvg
from benchmark.cli.main import main
from benchmark.errors import UsageError
from benchmark.federation.setting import Setting
from benchmark.jobs.blocks import Workbench
from benchmark.studies.spectrum import LEVELS, as_markdown, jacobian, rank_per_defense, rows, singular_values
from benchmark.suite.registry import spec
from benchmark.suite.suite import Scenario

MakeVictims = Callable[..., Any]


def test_the_jacobian_is_that_of_the_shared_gradient(victims_of: MakeVictims) -> None:
    images, labels, seen = victims_of(2, dtype=torch.float64)
    one_hot = torch.nn.functional.one_hot(labels, 10).double()
    weights = {name: value[1] for name, value in seen.parameters.items()}
    found = jacobian(seen.model, weights, images[1, 0].double(), one_hot[1, 0])

    for pixel in (0, 27, 63):  # central differences
        step = torch.zeros(64, dtype=torch.float64)
        step[pixel] = 1e-5
        up, down = (
            batch_gradients(
                seen.model, seen.parameters, images.double() + sign * step.view(1, 1, 1, 8, 8), one_hot, False
            )
            for sign in (1, -1)
        )
        for name, rows_of in found.items():
            wanted = (up[name][1] - down[name][1]).flatten() / 2e-5
            torch.testing.assert_close(rows_of[:, pixel], wanted, rtol=1e-5, atol=1e-8)


def test_singular_values_are_those_of_the_weighted_rows() -> None:
    generator = torch.Generator().manual_seed(0)
    derivative = {"a": torch.randn(7, 5, generator=generator), "b": torch.randn(4, 5, generator=generator)}
    factor = {"a": torch.tensor([1.0, 0.0, 2.0, 1.0, 1.0, 0.0, 1.0]), "b": torch.ones(2, 2)}
    stacked = torch.cat([derivative["a"] * factor["a"][:, None], derivative["b"]]).double()
    torch.testing.assert_close(singular_values(derivative, factor), torch.linalg.svdvals(stacked))


@pytest.fixture
def digits_ranks() -> tuple[Scenario, dict[str, Any]]:
    scenario = Scenario(spec("data", "Digits", {}), spec("model", "LeNet", {}), 1, 0, 4)
    defenses = [spec("defense", "Masking", {"ratio": ratio}) for ratio in (0.0, 0.99)]
    defenses += [spec("defense", "Clipping", {"max_norm": 0.1})]
    return scenario, rank_per_defense(scenario, defenses, 2, Workbench(torch.device("cpu")))


@pytest.mark.parametrize("axes", [{"mode": "train"}, {"local": FedAvg(0.1)}, {"rounds": 2}])
def test_the_rank_is_that_of_a_gradient_of_one_image_alone(axes: dict[str, Any]) -> None:
    scenario = Scenario(spec("data", "Digits", {}), spec("model", "LeNet", {}), 1, 0, 4, 1, Setting(**axes))
    with pytest.raises(UsageError, match="for the gradient of one image in mode eval"):
        rank_per_defense(scenario, [], 1, Workbench(torch.device("cpu")))


def test_the_rank_is_bounded_by_the_equations_and_by_the_pixels(digits_ranks: tuple[Scenario, dict[str, Any]]) -> None:
    scenario, found = digits_ranks
    table = rows(found, scenario)
    by_label = {row["defense"]: row for row in table}
    whole = by_label["no defense"]
    assert whole["pixels"] == 64 and whole["equations"] == 8026
    assert whole["directions"]["1e-06"] == 64 and list(whole["directions"]) == [f"{level:g}" for level in LEVELS]
    for harmless in ("Masking(ratio=0.0, rescale=False)", "Clipping(max_norm=0.1)"):
        assert by_label[harmless]["directions"] == whole["directions"]
    masked = by_label["Masking(ratio=0.99, rescale=False)"]
    assert masked["equations"] < 150
    counts = list(masked["directions"].values())
    assert counts == sorted(counts) and counts[-1] < 64
    assert all(a <= b for a, b in zip(counts, whole["directions"].values(), strict=True))
    assert "| Digits | no defense | 2 | 64 | 8,026 |" in as_markdown(table)


def test_the_command_writes_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    suite = tmp_path / "mine.yaml"
    masks = "defenses: [{class: Masking, sweep: {ratio: [0.5, 0.9]}}]"
    suite.write_text(f"scenarios: [{{data: Digits, model: LeNet}}]\n{masks}")
    with pytest.raises(SystemExit) as ended:
        main(["spectrum", str(suite), "--victims", "1", "--out", str(tmp_path / "out")])
    assert ended.value.code == 0
    written = json.loads((tmp_path / "out" / "spectrum.json").read_text())
    table = written["rows"]
    assert written["provenance"]["device"] == "cpu"
    assert [row["defense"] for row in table] == [
        "no defense",
        "Masking(ratio=0.5, rescale=False)",
        "Masking(ratio=0.9, rescale=False)",
    ]
    assert (tmp_path / "out" / "spectrum.md").read_text() == capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main(["spectrum", str(suite), "--victims", "0"])
    assert ended.value.code == 2 and "--victims must be a whole number of at least 1" in capsys.readouterr().err
