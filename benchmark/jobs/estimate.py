"""What a suite will cost on this machine, before it is run."""

import operator
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, field, replace
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from scipy.optimize import nnls

from attacks import Attack
from attacks.gradient_matching import GradientMatching
from benchmark.boards.grid import Grid
from benchmark.boards.terminal import Console
from benchmark.clock import clock
from benchmark.identity import digest
from benchmark.jobs.attackers import is_over, kept_at, trained_for
from benchmark.jobs.blocks import Block, Workbench
from benchmark.jobs.records import learned_by, room, run_block, seen_by
from benchmark.jobs.states import cache_folder, is_kept, named
from benchmark.metrics.leak import BASELINES
from benchmark.store.schema import attack_scores
from benchmark.store.store import Parse, records_in
from benchmark.suite.registry import Spec, build
from benchmark.suite.suite import Cell

RESULTS = Path(__file__).parents[2] / "results"

TIMED_VICTIMS, TIMED_EVALUATIONS = 16, (2, 50)
"""Of the short attacks that are timed: victims at most, and the least and the largest budget."""

LONG = 0.25
"""Seconds that are enough to tell something: budgets grow no more, and victims become as many as take about as long."""

LEAST_VICTIMS = 3
"""That are timed together, of an attack that takes several steps, however long one takes."""

GROWTH = 3
"""How many times the budget of an attack that tells too little grows."""

TAUGHT = {"training_steps": 1, "pairs": 2}
"""What is left of the training of an attacker's network where his attack is timed."""

PATIENCE = 60.0
"""Seconds after which the first attack of a sweep stands for the rest of it."""

COMPILATION = 240.0
"""Seconds that it takes at most to compile a step for a row of the table: it was a minute for a LeNet, four at most."""

GAIN = 1.19
"""How much faster a whole attack is with a compiled step, at least: 64 LeNets, 1.38 with Adam, this with L-BFGS, whose
own vectors are not compiled."""


@dataclass(frozen=True)
class Evaluations:
    """Evaluations of a block: the mean of its victims, and those of the victim that takes longest."""

    mean: float
    longest: float


@dataclass(frozen=True)
class Timing:
    """Seconds of a block, by what they grow with: itself, its victims, its steps, the evaluations of its victims.

    A step evaluates all victims that are still under attack: there are as many as the longest victim has evaluations,
    and the last ones are for few.
    """

    block: float
    victim: float
    step: float
    evaluation: float
    mean: float
    """Evaluations of a victim of an attack that has no ``max_evaluations``."""
    room: int
    """Victims of a cell that a GPU attacks at once, in blocks that share their steps."""

    def seconds(self, block: Block, of: Evaluations, fair: int) -> float:
        """Seconds of the block where each worker has a fair share of all victims, beyond which a GPU takes none."""
        victims = len(block.victims)
        share = victims / max(victims, min(self.room, block.cell.scenario.victims, fair))
        shared = self.block + self.step * of.longest
        return share * shared + self.victim * victims + self.evaluation * victims * of.mean


@dataclass(frozen=True)
class Cost:
    """What some blocks cost; ``at_most`` is the upper bound of their evaluations."""

    blocks: int = 0
    victims: int = 0
    evaluations: float = 0.0
    at_most: float = 0.0
    seconds: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(*map(operator.add, astuple(self), astuple(other)))


@dataclass
class Row:
    """The cells of a data set, model, batch size and attack; a sweep is in one row.

    Attributes:
        scenario: data, model and batch size, for people.
        attack: class.
        cells: their ids.
        sources: where the expected evaluations come from: "records", "upper bound", or "timing" of an attack that has
            no ``max_evaluations``.
        whole: the cost of all blocks.
        left: the cost of those that have no record.
        by_steps: whether the attack takes steps that can be compiled.
    """

    scenario: str
    attack: str
    cells: set[str] = field(default_factory=set)
    sources: set[str] = field(default_factory=set)
    whole: Cost = Cost()
    left: Cost = Cost()
    by_steps: bool = False


def rows(blocks: Sequence[Block], folder: Path, bench: Workbench, console: Console) -> list[Row]:
    """What the blocks of a plan cost, measured with short attacks and without training or writing anything.

    Args:
        blocks: the plan.
        folder: of the run, or where it will be.
        bench: the data, the device to time on, and how many workers there will be.
        console: where the progress is shown.
    """
    here = finished([folder / "records"], attack_scores)
    published = finished((run / "records" for run in RESULTS.glob("*")), attack_scores)
    known = [means(here.values()), means(published.values())]
    timing_of = timings(blocks, bench, console)
    fair = sum(len(block.victims) for block in blocks) // bench.workers
    table: dict[tuple[str, str], Row] = {}
    for block in blocks:
        cell, victims, timed = block.cell, len(block.victims), timing_of[kind(block.cell)]
        budget = cell.attack.args.get("max_evaluations")
        attack = build("attack", cell.attack)
        bound = timed.mean if budget is None else budget * attack.fits
        seen = next((of[name] for name in alike(cell.config()) for of in known if name in of), None)
        expected = seen or Evaluations(bound, bound)
        cost = Cost(1, victims, victims * expected.mean, victims * bound, timed.seconds(block, expected, fair))
        by_steps = isinstance(attack, GradientMatching)
        row = table.setdefault(line(cell), Row(*line(cell), by_steps=by_steps))
        row.cells.add(cell.id)
        row.sources.add("records" if seen else "timing" if budget is None else "upper bound")
        row.whole += cost
        row.left += Cost() if block.key in here else cost
    return list(table.values())


def trainings(blocks: Sequence[Block], bench: Workbench) -> list[str]:
    """The networks that a run trains before it attacks, for people, the clients' and the attackers' own.

    Those that are kept already are not among them.
    """
    scenarios = {block.cell.scenario.name: block.cell.scenario for block in blocks}
    missing: dict[Path, str] = {}
    for scenario in scenarios.values():
        if state := scenario.setting.state:
            data = bench.data(scenario.data)
            _, _, path = named(state, scenario.model, data, scenario.seed, cache_folder(), bench.device)
            if path not in missing and not is_kept(path):
                images = len(data.loading(state.batch_size, 0, state.train_images).public_rows()[0])
                missing[path] = f"{scenario.model.name} on {images:,} images of {scenario.data.name} {state.label}"
    for block in blocks:
        if block.training:
            path, attack = kept_at(cache_folder(), block.training, bench.device), block.cell.attack.args
            if path not in missing and not is_over(path, attack["training_steps"]):
                missing[path] = f"{trained_for(block.cell)} in {attack['training_steps']:,} steps"
    return list(missing.values())


def total(table: Sequence[Row]) -> Row:
    """One row for all."""
    cells, sources = (set().union(*of) for of in zip(*((row.cells, row.sources) for row in table), strict=True))
    return Row("all", "", cells, sources, sum((r.whole for r in table), Cost()), sum((r.left for r in table), Cost()))


def compiled_pays(table: Sequence[Row], workers: int) -> list[str]:
    """The rows, for people, whose work left is so long that compiled steps save more than it takes to compile them."""
    return [
        f"{row.attack} on {row.scenario}"
        for row in table
        if row.by_steps and row.left.seconds / workers * (1 - 1 / GAIN) > COMPILATION
    ]


COLUMNS = (
    *("scenario", "attack", "cells", "blocks", "victims", "evaluations", "at most", "from", "h:mm:ss"),
    *("blocks left", "evaluations left", "h:mm:ss left"),
)


SPARED = ("at most", "from", "cells", "victims", "evaluations left", "blocks left", "evaluations", "blocks")
"""Columns that a narrow terminal does without, the first one first."""


def grid(table: Sequence[Row], workers: int) -> Grid:
    """The table as a person reads it, the last row for all."""
    return Grid(COLUMNS, [cells_of(row, workers) for row in (*table, total(table))], ("scenario", "attack", "from"))


def cells_of(row: Row, workers: int) -> tuple[str, ...]:
    """Of a row, in the order of ``COLUMNS``."""
    whole, left = row.whole, row.left
    return (
        row.scenario,
        row.attack,
        f"{len(row.cells):,}",
        f"{whole.blocks:,}",
        f"{whole.victims:,}",
        f"{whole.evaluations:,.0f}",
        f"{whole.at_most:,.0f}",
        ", ".join(sorted(row.sources)),
        clock(whole.seconds / workers),
        f"{left.blocks:,}",
        f"{left.evaluations:,.0f}",
        clock(left.seconds / workers),
    )


def line(cell: Cell) -> tuple[str, str]:
    """Scenario and attack of the cell's row."""
    scenario = cell.scenario
    return scenario.label, cell.attack.name


Found = tuple[dict[str, Any], list[int]]
"""Configuration and evaluations of the victims of a finished block."""


def finished(folders: Iterable[Path], parse: Parse) -> dict[str, Found]:
    """The finished blocks in folders of records, by their keys; records that cannot be used are reported."""
    records = (record for folder in folders for record in records_in(folder, parse))
    return {r["key"]: (r["config"], [victim["evaluations"] for victim in r["victims"]]) for r in records}


def alike(config: dict[str, Any]) -> tuple[str, str]:
    """Keys of the records that show how many evaluations a cell takes: its own, then those with any defense."""
    attacked = {"same_class": 1} | {k: v for k, v in config.items() if k not in ("defense", "adaptive", "seed")}
    return digest(attacked | {key: config[key] for key in ("defense", "adaptive")}), digest(attacked)


def means(blocks: Iterable[Found]) -> dict[str, Evaluations]:
    """What the victims of finished blocks took, by the names of :func:`alike`."""
    found: dict[str, list[list[int]]] = defaultdict(list)
    for config, evaluations in blocks:
        for name in alike(config):
            found[name].append(evaluations)
    return {name: Evaluations(fmean(chain.from_iterable(of)), fmean(map(max, of))) for name, of in found.items()}


def kind(cell: Cell) -> tuple[str, ...]:
    """A name for what decides the seconds of an evaluation; a defense, known or not, changes them by little.

    The null baselines take the time of their scores, all the same.
    """
    scenario = cell.scenario
    attack = Spec(cell.attack.name, {key: v for key, v in cell.attack.args.items() if key != "max_evaluations"})
    called = "a null baseline" if attack.name in BASELINES else attack.label
    return scenario.label, scenario.data.label, scenario.model.label, called


def timings(blocks: Sequence[Block], bench: Workbench, console: Console) -> dict[tuple[str, ...], Timing]:
    """The timing of each kind of cell."""
    firsts: dict[tuple[str, ...], Block] = {}
    for block in blocks:
        firsts.setdefault(kind(block.cell), block)
    found: dict[tuple[str, ...], Timing] = {}
    of_line: dict[tuple[str, str], Timing] = {}
    started = time.perf_counter()
    with console.status("timing") as status:
        run_block(short(blocks[0], 1, TIMED_EVALUATIONS[0]), bench)  # the first one of all takes longer
        for number, (name, block) in enumerate(firsts.items(), 1):
            row = line(block.cell)
            status.update(f"timing {number} of {len(firsts)}: {', '.join(row)}")
            if row not in of_line or time.perf_counter() - started < PATIENCE:
                of_line[row] = timing(block, bench)
            found[name] = of_line[row]
    return found


def timing(block: Block, bench: Workbench) -> Timing:
    """Fits short attacks on the first victims of a block: on one with more and more evaluations, then on several."""
    attack, sequence = block.cell.attack, build("attack", block.cell.attack).sequence
    few, at_most = TIMED_EVALUATIONS if "max_evaluations" in attack.args else (0, 0)
    runs = [attacked(short(block, 1, few), bench)]
    if is_short := runs[0][0] < LONG:  # the first run in a cell takes longer
        runs = [attacked(short(block, 1, few), bench)]
    ((first, _),) = runs
    started = time.perf_counter()
    run_block(short(block, 1, few), bench)
    scored = max(0.0, time.perf_counter() - started - first)
    most = few
    while most < at_most and runs[-1][0] - first < LONG:
        most = min(GROWTH * most, at_most)
        runs.append(attacked(short(block, 1, most), bench))
    often = max(LEAST_VICTIMS, int(LONG / max(first, 1e-9)))
    many = min(TIMED_VICTIMS, len(block.victims) // sequence, often)
    several = is_short or at_most > 0  # else a long time of one victim is taken for the victim's, not for the block's
    runs += [attacked(short(block, many, budget), bench) for budget in sorted({few, most}) if several]
    grows_with = [[several, len(of), *([max(of), sum(of)] if at_most else [0, 0])] for _, of in runs]
    fit, _ = nnls(np.array(grows_with, dtype=float), np.array([seconds for seconds, _ in runs]))
    of_block, of_victim, of_step, of_evaluation = map(float, fit)
    at_once = room(block, bench) if bench.device.type == "cuda" else 0
    return Timing(of_block, of_victim + scored / sequence, of_step, of_evaluation, fmean(runs[-1][1]), at_once)


def short(block: Block, sequences: int, evaluations: int) -> Block:
    """A short attack on the first victims of a block, whose network is not trained for that.

    Args:
        block: of any number of victims.
        sequences: of victims that are attacked, see :attr:`attacks.Attack.sequence`.
        evaluations: the budget at most, of an attack that has one.
    """
    cell, args = block.cell, block.cell.attack.args
    count = sequences * build("attack", cell.attack).sequence
    less: dict[str, Any] = {name: min(args[name], few) for name, few in TAUGHT.items() if name in args}
    if "max_evaluations" in args:
        less["max_evaluations"] = min(args["max_evaluations"], evaluations)
    if args.get("at_once", 0) is None:  # memory is not measured here
        less["at_once"] = count
    scenario = replace(cell.scenario, setting=replace(cell.scenario.setting, state=None))
    cell = replace(cell, scenario=scenario, attack=replace(cell.attack, args=args | less))
    return replace(block, cell=cell, victims=block.victims[:count], data=block.data[: count + 1], training="")


def attacked(block: Block, bench: Workbench) -> tuple[float, list[int]]:
    """Seconds that an attack takes before anything is scored, and the evaluations of its victims."""
    cell, victims = block.cell, block.victims
    images, labels = bench.victims(cell.scenario, victims)
    attack: Attack = build("attack", cell.attack)
    started = time.perf_counter()
    own, _ = learned_by(block, bench)
    seen = seen_by(cell, images, labels, victims, bench, 0 if own else attack.public_images)(victims)
    found = attack.reconstruct(seen, **own)
    found.images.cpu()  # a GPU is waited for
    return time.perf_counter() - started, found.evaluations.tolist()
