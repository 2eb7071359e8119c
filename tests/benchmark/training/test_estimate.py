"""What the trainings of a suite will cost, on a clock that goes as we say."""

import io
from typing import Any

import pytest
import torch
from rich.console import Console

from benchmark.jobs.blocks import Workbench
from benchmark.training import estimate
from benchmark.training.estimate import kind, rows, seconds, timings
from benchmark.training.plan import plan
from benchmark.training.suite import Training, TrainingSuite, parse
from benchmark.training.tuning import contests

pytestmark = pytest.mark.usefixtures("nothing_of_the_developers")

SCENARIO = {"data": "Digits", "clients": 4, "train_images": 60, "test_images": 20}
DEFENSES = [{"class": "Masking", "sweep": {"ratio": [0.1, 0.9]}}, "Sign"]
COMPOSED = {
    "class": "Compose",
    "defenses": [{"class": "Clipping", "max_norm": 1}, {"class": "GaussianNoise", "std": 1}],
}


@pytest.fixture
def bench() -> Workbench:
    return Workbench(torch.device("cpu"))


def suite(*models: str, defenses: Any = DEFENSES, **more: Any) -> TrainingSuite:
    how = {"rounds": 100, "learning_rate": [0.1, 1.0], **more}
    scenarios = [SCENARIO | how | {"model": model} for model in models]
    given = {"seeds": [0, 1, 2], "tuning_seeds": [9], "scenarios": scenarios}
    return parse(given | {"defenses": defenses}, "mine")


def silent() -> Console:
    return Console(file=io.StringIO())


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """The kinds that are timed: a training of LeNet takes 2 s and of MLP 10 s, with Masking 3 times, with Sign 5."""
    asked: list[tuple[str, str]] = []

    def told(training: Training, bench: Workbench) -> float:
        asked.append((training.scenario.model.name, kind(training)[1]))
        return {"LeNet": 2.0, "MLP": 10.0}[asked[-1][0]] * {"": 1, "Masking": 3, "Sign": 5}[asked[-1][1]]

    monkeypatch.setattr(estimate, "seconds", told)
    return asked


def test_each_network_is_timed_without_a_defense_and_with_each_at_one_strength(
    bench: Workbench, timed: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimate, "PATIENCE", 1e9)
    lenet, mlp = rows(plan(suite("LeNet", "MLP"), bench, rehearse=False), (), bench, silent())
    assert timed == [(model, "") for model in ("LeNet", "MLP")] + [
        (model, defense) for model in ("LeNet", "MLP") for defense in ("Masking", "Sign")
    ]
    each = 2 + 3  # a look at each of two rates, and three seeds of the better one
    assert lenet.whole.runs == each * 4 and lenet.whole.rounds == each * 4 * 100 and lenet.defenses == 3
    assert lenet.whole.seconds == each * (2 + 2 * 6 + 10) and mlp.whole.seconds == 5 * lenet.whole.seconds
    assert lenet.left == lenet.whole


def test_when_patience_is_at_its_end_a_defense_costs_what_it_did_on_another_network(
    bench: Workbench, timed: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = plan(suite("LeNet", "MLP"), bench, rehearse=False)
    trainings = [next(iter(contest.values()))[0].training for contest in contests(runs)]
    now = iter(range(100))
    monkeypatch.setattr(estimate.time, "perf_counter", lambda: next(now))
    monkeypatch.setattr(estimate, "PATIENCE", 3)  # networks without a defense do not count
    of = timings(trainings, bench, silent())
    assert timed == [("LeNet", ""), ("MLP", ""), ("LeNet", "Masking"), ("LeNet", "Sign")]
    names = [kind(training)[0] for training in trainings]
    assert of(names[-1], "Masking") == 30 and of(names[-1], "Sign") == 50
    assert of(names[-1], "Soteria") == 30  # the mean of none, threefold and fivefold


def test_a_composed_defense_is_known_by_its_parts() -> None:
    names = {kind(training)[1] for training in suite("MLP", defenses=[COMPOSED]).trainings}
    assert names == {"", "Clipping + GaussianNoise"}


@pytest.mark.parametrize(
    ("of_round", "every", "expected"),
    [
        (0.5, 100, 0.25 * (2 + 6 / 20) + 100 * 0.5),  # before and after, and on the 6 images that judge rates
        (0.5, 10, 0.25 * (11 + 6 / 20) + 100 * 0.5),
        (4.0, 100, 0.25 * (2 + 6 / 20) + 100 * 8.0),  # the first one is not done again
    ],
)
def test_seconds_are_those_of_the_second_round_and_of_tests(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch, of_round: float, every: int, expected: float
) -> None:
    now, drawn = [0.0], []

    def train(*_: Any) -> Any:
        now[0] += 0.25
        yield None
        for number in range(100):
            now[0] += of_round * (2 if number == 0 else 1)  # the first one takes longer
            drawn.append(number)
            yield None

    monkeypatch.setattr(estimate, "train", train)
    monkeypatch.setattr(estimate, "clock_of", lambda bench: lambda: now[0])
    (training,) = {t.defense: t for t in suite("MLP", defenses=[], evaluate_every=every).trainings}.values()
    assert seconds(training, bench) == pytest.approx(expected)
    assert len(drawn) == (1 if of_round > 1 else 2)


def test_a_plan_that_is_not_rehearsed_has_the_same_runs(bench: Workbench) -> None:
    given = suite("MLP", rounds=2)
    assert plan(given, bench, rehearse=False) == plan(given, bench)


def test_a_round_has_as_many_local_epochs_as_it_has(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    now, asked = [0.0], []

    def train(model: Any, data: Any, federation: Any, *_: Any) -> Any:
        asked.append(federation.local_epochs)
        for _ in range(3):
            yield None
            now[0] += 0.5

    monkeypatch.setattr(estimate, "train", train)
    monkeypatch.setattr(estimate, "clock_of", lambda bench: lambda: now[0])
    given = suite("MLP", defenses=[], algorithm="FedAvg", local_epochs=3, learning_rate=[0.1, 0.2])
    assert seconds(given.trainings[0], bench) == pytest.approx(100 * 3 * 0.5) and asked == [1]
