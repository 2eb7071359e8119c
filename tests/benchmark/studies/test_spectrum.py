"""What an update says: the Jacobian against another way to compute it, and ranks that can be counted."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from attacks.network.gradients import batch_gradients
from attacks.update import FedAvg
from benchmark.cli.main import main
from benchmark.errors import UsageError
from benchmark.federation.setting import Setting
from benchmark.jobs.blocks import Workbench
from benchmark.studies.spectrum import LEVELS, Spectra, cells_of, jacobian, plan, rank_per_defense, singular_values
from benchmark.suite.registry import spec
from benchmark.suite.suite import Cell, Scenario, Suite, baselines, parse

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


def digits(**axes: Any) -> Scenario:
    return Scenario(spec("data", "Digits", {}), spec("model", "LeNet", {}), 1, 0, 2, 1, Setting(**axes))


@pytest.mark.parametrize("axes", [{"mode": "train"}, {"local": FedAvg(0.1)}, {"rounds": 2}])
def test_the_rank_is_that_of_a_gradient_of_one_image_alone(axes: dict[str, Any]) -> None:
    suite = Suite("mine", (Cell(digits(**axes), None, baselines()[0], False),), 1)
    with pytest.raises(UsageError, match="for the gradient of one image in mode eval"):
        plan(suite, Workbench(torch.device("cpu")))


def test_the_rank_is_bounded_by_the_equations_and_by_the_pixels() -> None:
    bench = Workbench(torch.device("cpu"))
    harmless = [spec("defense", "Masking", {"ratio": 0.0}), spec("defense", "Clipping", {"max_norm": 0.1})]
    defenses = [spec("defense", "Masking", {"ratio": 0.99}), None, *harmless]
    masked, whole, *others = rank_per_defense(digits(), defenses, 1, *bench.victims(digits(), range(1, 2)), bench)
    assert whole.pixels == 64 and whole.equations == 8026 and whole.directions[-1] == 64
    assert [one.directions for one in others] == [whole.directions] * 2
    assert masked.equations < 150
    assert masked.directions == sorted(masked.directions) and masked.directions[-1] < 64
    assert all(a <= b for a, b in zip(masked.directions, whole.directions, strict=True))


def test_a_row_is_the_mean_over_victims_and_names_the_whole_scenario() -> None:
    scenario = {"data": "Digits", "model": "LeNet"}
    given = {"scenarios": [scenario, scenario | {"shared": True}], "attacks": ["RGAP"], "victims": 2}
    jobs = plan(parse(given, "mine"), Workbench(torch.device("cpu")))
    assert [job.label for job in jobs[::2]] == ["Digits LeNet, victim 0", "Digits LeNet, one shared network, victim 0"]
    found = [
        {"equations": 10 + n, "pixels": 64, "directions": [n, 2 * n, 64, 64, 64], "provenance": {"date": str(n)}}
        for n in range(4)
    ]
    first, second = Spectra().rows(list(zip(jobs, found, strict=True)))
    assert first["equations"] == 10.5 and first["directions"] == {"0.1": 0.5, "0.01": 1, **dict.fromkeys(RIGHT, 64)}
    assert list(first["directions"]) == [f"{level:g}" for level in LEVELS]
    assert cells_of(first)[:5] == ("Digits LeNet", "no defense", "2", "64", "10")
    assert cells_of(second)[:5] == ("Digits LeNet, one shared network", "no defense", "2", "64", "12")


RIGHT = ("0.001", "0.0001", "1e-06")


def test_the_command_writes_the_table_and_takes_over_what_was_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    suite, out = tmp_path / "mine.yaml", tmp_path / "out"
    masks = "defenses: [{class: Masking, sweep: {ratio: [0.5, 0.9]}}]"
    suite.write_text(f"scenarios: [{{data: Digits, model: LeNet}}]\n{masks}")
    computed: list[int] = []

    def counted(scenario: Any, defenses: list[Any], victim: int, *args: Any) -> Any:
        computed.append(victim)
        return rank_per_defense(scenario, defenses, victim, *args)

    monkeypatch.setattr("benchmark.studies.spectrum.rank_per_defense", counted)

    def call(*more: str) -> Any:
        with pytest.raises(SystemExit) as ended:
            main(["spectrum", str(suite), "--out", str(out), *more])
        assert ended.value.code == 0
        said = capsys.readouterr()
        assert said.out.startswith((out / "spectrum.md").read_text())
        return said

    said = call("--victims", "1")
    assert "3 of 3 ranks run\nrecords: " in said.out and "1/1 victims: Digits LeNet, victim 0" in said.err
    table = json.loads((out / "spectrum.json").read_text())["rows"]
    assert {row["provenance"]["device"] for row in table} == {"cpu"}
    assert [row["defense"] for row in table] == [
        "no defense",
        "Masking(ratio=0.5, rescale=False)",
        "Masking(ratio=0.9, rescale=False)",
    ]
    assert "everything was done already: nothing to run" in call("--victims", "1").out and computed == [0]
    assert json.loads((out / "spectrum.json").read_text())["rows"] == table
    assert "3 of 6 ranks run" in call("--victims", "2").out and computed == [0, 1]  # another victim alone
    suite.write_text(suite.read_text().replace("[0.5, 0.9]", "[0.5, 0.7]"))
    assert "2 of 6 ranks run" in call("--victims", "2").out and computed == [0, 1, 0, 1]
    rows = json.loads((out / "spectrum.json").read_text())["rows"]
    assert [(row["defense"][:17], row["victims"]) for row in rows] == [
        ("Masking(ratio=0.9", 2),  # of another suite, which stays
        ("no defense", 2),
        ("Masking(ratio=0.5", 2),
        ("Masking(ratio=0.7", 2),
    ]
    with pytest.raises(SystemExit) as ended:
        main(["spectrum", str(suite), "--victims", "0"])
    assert ended.value.code == 2 and "--victims must be a whole number of at least 1" in capsys.readouterr().err
