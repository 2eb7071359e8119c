"""What the trainings of a suite cost, measured with two rounds of each kind."""

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from statistics import fmean

from benchmark.boards.grid import Grid
from benchmark.boards.terminal import Console
from benchmark.clock import clock
from benchmark.federation.server import train
from benchmark.jobs.blocks import Workbench
from benchmark.jobs.timing import clock_of
from benchmark.suite.registry import build
from benchmark.training.plan import Run, training_data, training_model
from benchmark.training.rows import finalists
from benchmark.training.suite import Training
from benchmark.training.tuning import Contest, contests, tuning

TIMED_ROUNDS = 2
"""Of the training that is timed; the first one takes longer and does not count, unless it is long."""

LONG = 1.0
"""Seconds of a round that is not timed a second time."""

TESTED = 100
"""Test images of a training that is timed, at most."""

PATIENCE = 6.0
"""Seconds after which defenses are timed no more: see :func:`timings`."""

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
    every = contests(list(runs))
    seconds_of = timings([next(iter(contest.values()))[0].training for contest in every], bench, console)
    for contest in every:
        training = next(iter(contest.values()))[0].training
        how, (name, defense) = training.scenario.federation, kind(training)
        row = table.setdefault(name, Row(name, 0, Cost(), Cost()))
        at_most, there = needed(contest), sum(run.key in done for of_rate in contest.values() for run in of_rate)
        row.defenses += training.defense is not None
        row.whole.add(at_most, how.rounds, seconds_of(name, defense))
        row.left.add(max(0, at_most - there), how.rounds, seconds_of(name, defense))
    return list(table.values())


def kind(training: Training) -> tuple[str, str]:
    """What decides the seconds of a training, for people: its scenario, and the classes of its defense, whose strength
    changes them by little; an empty text without one."""
    scenario, defense = training.scenario, training.defense
    how = scenario.federation
    name = f"{scenario.data.name} {scenario.model.name} {how.algorithm}, batches of {how.batch_size}"
    return name, " + ".join(one.name for one in defense.inner or (defense,)) if defense else ""


def timings(trainings: Sequence[Training], bench: Workbench, console: Console) -> Callable[[str, str], float]:
    """Seconds of a training of each kind.

    Every scenario is timed without a defense, and then with one after the other as long as there is patience. A defense
    that is not timed in a scenario is taken to make a training longer by what it did in another one, or by what others
    did on average.

    Args:
        trainings: of all kinds.
        bench: the data and the device to time on.
        console: where the progress is shown.

    Returns:
        What gives the seconds of a :func:`kind`.
    """
    firsts: dict[tuple[str, str], Training] = {}
    for training in trainings:
        firsts.setdefault(kind(training), training)
    found: dict[tuple[str, str], float] = {}
    longer: dict[str, float] = {}
    started: float | None = None
    with console.status("timing") as status:
        for number, (place, training) in enumerate(sorted(firsts.items(), key=lambda one: one[0][1] != ""), 1):
            name, defense = place
            if defense and started is None:
                started = time.perf_counter()
            if started is None or time.perf_counter() - started < PATIENCE:
                status.update(f"timing training {number} of {len(firsts)}: {', '.join(filter(None, place))}")
                found[place] = seconds(training, bench)
                longer.setdefault(defense, found[place] / found.get((name, ""), found[place]))
    unknown = fmean(longer.values())
    return lambda name, defense: found.get((name, defense)) or found[name, ""] * longer.get(defense, unknown)


def needed(contest: Contest) -> int:
    """How many runs of a contest are made at most: see :mod:`benchmark.training.tuning`."""
    rates = list(contest.values())
    reported = sum(not run.training.tuning for run in rates[0])
    finals = len(finalists({rate: {} for rate in contest})) * (len(tuning(rates[0])) - 1)
    return reported if len(rates) == 1 else len(rates) + finals + reported


def seconds(training: Training, bench: Workbench) -> float:
    """Seconds of one training, from its first rounds with one local epoch and a test on a few images."""
    scenario = training.scenario
    data, model = training_data(bench, scenario), training_model(bench, scenario)
    how = scenario.federation
    few = data._replace(test_images=data.test_images[:TESTED], test_labels=data.test_labels[:TESTED])
    defense = build("defense", training.defense) if training.defense else None
    now = clock_of(bench)
    times = [now()]
    untested = replace(how, evaluate_every=how.rounds, local_epochs=1)
    for _ in islice(train(model, few, untested, defense, training.seed), 1 + TIMED_ROUNDS):
        times.append(now())
        if len(times) > 2 and times[-1] - times[1] > LONG:
            break
    test, *rounds = (after - before for before, after in pairwise(times))
    tests = 1 + -(-how.rounds // how.evaluate_every) + len(data.validation_labels) / len(data.test_labels)
    return test * len(data.test_labels) / len(few.test_labels) * tests + rounds[-1] * how.local_epochs * how.rounds


def grid(table: Sequence[Row], workers: int) -> Grid:
    """The table as a person reads it."""
    return Grid(COLUMNS, [cells(row, workers) for row in table], ("training",))


def cells(row: Row, workers: int) -> tuple[str, ...]:
    """Of a row, in the order of :data:`COLUMNS`."""
    whole, left = row.whole, row.left
    times = clock(whole.seconds / workers), clock(left.seconds / workers)
    counts = f"{row.defenses:,}", f"{whole.runs:,}", f"{whole.rounds:,}"
    return (row.scenario, *counts, times[0], f"{left.runs:,}", times[1])
