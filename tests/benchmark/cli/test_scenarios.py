"""Scenarios through the command line, against a plain loop of the same attack over the same network."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from benchmark.cli.main import main
from benchmark.seeds import seed_for
from datamodules import Digits

NETWORK = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, image_shape, num_classes):
        super().__init__()
        self.body = nn.Conv2d(image_shape[0], 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(128, num_classes)
        self.drop = nn.Dropout({dropout})

    def forward(self, images):
        return self.head(self.drop(torch.relu(self.norm(self.body(images))).flatten(1)))
"""

VICTIMS, IMAGES, STEPS = 3, 4, 40

GIVEN = [
    *("run", "--data", "Digits", "--model", "own_net.Net", "--attack", "DLG", "--devices", "cpu"),
    *("--attack.optimizer", "adam", "--attack.max_evaluations", str(STEPS), "--attack.tolerance", "0"),
    *("--victims", str(VICTIMS), "--batch-size", str(IMAGES), "--out", "found"),
]
SHARED = ["--scenario.shared", "true", "--scenario.labels", "known"]
TRAINED = [*SHARED, "--scenario.state.epochs", "2", "--scenario.state.learning_rate", "0.05"]


@pytest.fixture
def here(nothing_of_the_developers: None) -> Path:
    Path("own_net.py").write_text(NETWORK.format(dropout=0.0))
    return Path.cwd()


def run(*more: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main([*GIVEN, *more])
    return int(ended.value.code or 0)


def records(attack: str = "DLG") -> list[dict[str, Any]]:
    found = [json.loads(path.read_text()) for path in Path("found", "records").glob("*.json")]
    return [record for record in found if record["config"]["attack"]["class"] == attack]


def test_a_trained_shared_network_with_batch_norm_is_attacked_as_by_a_plain_loop(here: Path) -> None:
    assert run(*TRAINED) == 0
    (record,) = records()
    (kept,) = (here / "cache" / "states").glob("*.pt")
    weights = torch.load(kept, weights_only=True)["weights"]
    scope: dict[str, Any] = {}
    exec(compile(Path("own_net.py").read_text(), "own_net.py", "exec"), scope)
    net: nn.Module = scope["Net"]((1, 8, 8), 10)
    net.load_state_dict(weights)
    net.eval()
    assert float(weights["norm.running_mean"].abs().max()) > 0.01  # it was trained, running statistics and all
    assert int(weights["norm.num_batches_tracked"]) > 20
    data = Digits()
    data.setup()
    images, labels = data.victims(VICTIMS, IMAGES)
    for victim in range(VICTIMS):

        def gradient(batch: torch.Tensor, create_graph: bool, of: torch.Tensor = labels[victim]) -> list[torch.Tensor]:
            loss = nn.functional.cross_entropy(net(batch), of)
            return list(torch.autograd.grad(loss, list(net.parameters()), create_graph=create_graph))

        shared = gradient(images[victim], create_graph=False)
        source = torch.Generator().manual_seed(seed_for(0, victim, "start"))
        dummy = torch.randn(IMAGES, 1, 8, 8, generator=source).requires_grad_()
        adam = torch.optim.Adam([dummy], lr=0.1)
        best, lowest = dummy.detach(), float("inf")
        for _ in range(STEPS):
            adam.zero_grad()
            distance = torch.stack(
                [(mine - theirs).square().sum() for mine, theirs in zip(gradient(dummy, True), shared, strict=True)]
            ).sum()
            if float(distance) < lowest:
                best, lowest = dummy.detach().clone(), float(distance)
            distance.backward()
            adam.step()
        assert record["victims"][victim]["loss"] == pytest.approx(lowest, rel=1e-3)
        error = (best.clamp(0, 1)[:, None] - images[victim][None]).square().flatten(2).mean(2)
        mse = [error[row, column] for row, column in enumerate(range(IMAGES))]
        assert record["victims"][victim]["mse"] == pytest.approx([float(one) for one in mse], rel=1e-2)


def test_another_axis_is_another_record_and_the_same_command_runs_nothing(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*TRAINED) == 0
    states = list((here / "cache" / "states").glob("*.pt"))
    assert run(*TRAINED) == 0
    assert "everything was done already" in capsys.readouterr().out
    assert run(*SHARED) == 0
    assert run(*TRAINED, "--scenario.mode", "train") == 0
    assert len(records()) == 3
    assert list((here / "cache" / "states").glob("*.pt")) == states
    page = Path("found", "leaderboard.md").read_text()
    assert page.count("\n## ") == 3
    for said in ("one shared network", "after 2 epochs", "labels known", "mode train"):
        assert said in page


WRONG: dict[str, tuple[list[str], str]] = {
    "state of own networks": (["--scenario.state.epochs", "1"], "give shared true"),
    "statistics of no layer": (["--model", "LeNet", "--scenario.statistics", "public"], "has no BatchNorm"),
    "one image alone": (
        ["--model", "LeNet", "--attack", "RGAP", "--batch-size", "1", "--scenario.mode", "train"],
        "mode eval",
    ),
    "no value": (["--scenario.shared"], "needs a value"),
    "no key": (["--scenario", "shared"], "--scenario.shared true"),
    "a flag of its own": (["--scenario.victims", "4"], "is given as --victims"),
    "not learned": (
        [*SHARED, "--scenario.state.epochs", "1", "--scenario.state.learning_rate", "1e-9"],
        "has not learned its task",
    ),
    "diverged": ([*SHARED, "--scenario.state.epochs", "1", "--scenario.state.learning_rate", "1e30"], "diverged"),
}


@pytest.mark.parametrize(("flags", "said"), WRONG.values(), ids=WRONG)
def test_a_scenario_that_cannot_be_is_one_sentence(
    here: Path, capsys: pytest.CaptureFixture[str], flags: list[str], said: str
) -> None:
    kept = {"--model", "--attack", "--batch-size"} & set(flags)
    given = [word for pair in zip(GIVEN[1::2], GIVEN[2::2], strict=True) if pair[0] not in kept for word in pair]
    if "RGAP" in flags:
        given = [
            word for pair in zip(given[::2], given[1::2], strict=True) if "attack." not in pair[0] for word in pair
        ]
    with pytest.raises(SystemExit) as ended:
        main(["run", *given, *flags])
    assert ended.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "LPIPS" not in line]
    assert said in lines[-1]


def test_a_network_that_draws_at_random_in_train_mode_is_refused_there_alone(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("own_net.py").write_text(NETWORK.format(dropout=0.5))
    assert run() == 0
    assert run("--scenario.mode", "train") == 2
    assert "other logits each time it is called in mode train" in capsys.readouterr().err


def test_the_help_on_scenarios_names_every_axis(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["run", "--scenario.help"])
    said = capsys.readouterr().out
    for flag in (
        *("shared", "mode", "rounds", "threat_model", "labels", "statistics", "order", "public_data", "protocol"),
        *("protocol.learning_rate", "protocol.epochs", "protocol.batch_size", "protocol.momentum"),
        *("state.epochs", "state.rounds"),
    ):
        assert f"--scenario.{flag}" in said
