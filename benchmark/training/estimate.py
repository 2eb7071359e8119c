"""What the trainings of a suite cost, measured with a few rounds of each."""

import itertools
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from benchmark.boards.grid import Grid
from benchmark.boards.terminal import Console
from benchmark.clock import clock
from benchmark.federation.server import train
from benchmark.jobs.blocks import Workbench
from benchmark.suite.registry import build
from benchmark.training.plan import Run, training_data, training_model
from benchmark.training.suite import Training
from benchmark.training.table import finalists
from benchmark.training.tuning import Contest, contests, tuning

TIMED_ROUNDS = 3
"""Of the training that is timed; the first one takes longer and does not count."""

PATIENCE = 60.0
"""Seconds after which a scenario's trainings are taken to cost what the one without a defense does."""

SPARED = ("rounds", "defenses")
"""Columns that a narrow terminal does without, the first one first."""

COLUMNS = ("training", "defenses", "runs at most", "rounds", "h:mm:ss", "runs left", "h:mm:ss left")


@dataclass
class Cost:
    """Runs, their rounds, and seconds."""

    runs: int = 0
    rounds: int = 0
    seconds: float = 0.0

    def add(self, runs: int, rounds: int, seconds_of_one: float) -> None:
        """Counts so many runs of a training."""
        self.runs += runs
        self.rounds += runs * rounds
        self.seconds += runs * seconds_of_one


@dataclass
class Row:
    """The trainings of a scenario, for people, with all its defenses."""

    scenario: str
    defenses: int
    whole: Cost
    left: Cost


def rows(runs: Sequence[Run], done: Collection[str], bench: Workbench, console: Console) -> list[Row]:
    """What the runs of a plan cost at most.

    Args:
        runs: those that a plan has.
        done: the keys of those that have a record.
        bench: the data and the device to time on.
        console: where the progress is shown.
    """
    table: dict[str, Row] = {}
    seconds_of: dict[str, float] = {}
    started, every = time.perf_counter(), contests(list(runs))
    with console.status("timing") as status:
        for number, contest in enumerate(every, 1):
            training = next(iter(contest.values()))[0].training
            scenario, how = training.scenario, training.scenario.federation
            status.update(f"timing training {number} of {len(every)}: {training.label}")
            name = f"{scenario.data.name} {scenario.model.name} {how.algorithm}, batches of {how.batch_size}"
            row = table.setdefault(name, Row(name, 0, Cost(), Cost()))
            if name not in seconds_of or time.perf_counter() - started < PATIENCE:
                seconds_of[name] = seconds(training, bench)
            at_most, there = needed(contest), sum(run.key in done for of_rate in contest.values() for run in of_rate)
            row.defenses += training.defense is not None
            row.whole.add(at_most, how.rounds, seconds_of[name])
            row.left.add(max(0, at_most - there), how.rounds, seconds_of[name])
    return list(table.values())


def needed(contest: Contest) -> int:
    """How many runs of a contest are made at most: see :mod:`benchmark.training.tuning`."""
    rates = list(contest.values())
    reported = sum(not run.training.tuning for run in rates[0])
    finals = len(finalists({rate: {} for rate in contest})) * (len(tuning(rates[0])) - 1)
    return reported if len(rates) == 1 else len(rates) + finals + reported


def seconds(training: Training, bench: Workbench) -> float:
    """Seconds of one training, from a few rounds of it and a test."""
    scenario = training.scenario
    data, model = training_data(bench, scenario), training_model(bench, scenario)
    rounds, often = scenario.federation.rounds, scenario.federation.evaluate_every
    short = replace(scenario.federation, rounds=min(rounds, TIMED_ROUNDS), evaluate_every=TIMED_ROUNDS)
    defense = build("defense", training.defense) if training.defense else None
    times = [time.perf_counter()]
    for _ in train(model, data, short, defense, training.seed):
        times.append(time.perf_counter())
    took = [after - before for before, after in itertools.pairwise(times)]
    test, of_round = took[0], min(took[2:-1], default=took[-1])
    return test * (1 + -(-rounds // often)) + of_round * rounds


def grid(table: Sequence[Row], workers: int) -> Grid:
    """The table as a person reads it."""
    return Grid(COLUMNS, [cells(row, workers) for row in table], ("training",))


def cells(row: Row, workers: int) -> tuple[str, ...]:
    """Of a row, in the order of :data:`COLUMNS`."""
    whole, left = row.whole, row.left
    times = clock(whole.seconds / workers), clock(left.seconds / workers)
    counts = f"{row.defenses:,}", f"{whole.runs:,}", f"{whole.rounds:,}"
    return (row.scenario, *counts, times[0], f"{left.runs:,}", times[1])
