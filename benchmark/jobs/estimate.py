"""What a suite will cost on this machine, before it is run."""

import operator
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import Any

from attacks import Attack
from attacks.gradient_matching import GradientMatching
from benchmark.boards.grid import Grid
from benchmark.boards.terminal import Console
from benchmark.clock import clock
from benchmark.identity import digest
from benchmark.jobs.attackers import is_over, kept_at, trained_for
from benchmark.jobs.blocks import Block, Workbench, found_or
from benchmark.jobs.states import cache_folder, is_kept, named
from benchmark.jobs.timing import Spent, Timing, attacks_of, budget_of, kind, rounds_of, timings
from benchmark.store.schema import attack_scores
from benchmark.store.store import Parse, records_in
from benchmark.suite.suite import Cell

RESULTS = Path(__file__).parents[2] / "results"

COMPILATION = 240.0
"""Seconds that it takes at most to compile a step for a row of the table: it was a minute for a LeNet, four at most."""

GAIN = 1.19
"""How much faster a whole attack is with a compiled step, at least: 64 LeNets, 1.38 with Adam, this with L-BFGS, whose
own vectors are not compiled."""


@dataclass(frozen=True)
class Evaluations:
    """Evaluations of a block, from records.

    Attributes:
        mean: of its victims.
        longest: those of the victim that takes longest.
        tried: of an ensemble, by the names of its attacks, the share of victims and the share of blocks that each was
            tried on; empty for other attacks.
    """

    mean: float
    longest: float
    tried: Mapping[str, tuple[float, float]] = field(default_factory=dict)


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
    with console.status("reading records"):
        here = finished([folder / "records"], attack_scores)
        published = finished((run / "records" for run in RESULTS.glob("*")), attack_scores)
        known = [means(here.values()), means(published.values())]
    timing_of = timings(blocks, bench, console)
    fair = sum(len(block.victims) for block in blocks) // bench.workers
    table: dict[tuple[str, str], Row] = {}
    attacks: dict[tuple[str, str], dict[str, Attack]] = {}
    for block in blocks:
        cell = block.cell
        of_cell = found_or(attacks, (cell.scenario.name, cell.attack.label), partial(attacks_of, cell, bench))
        seen = next((of[name] for name in alike(cell.config()) for of in known if name in of), None)
        cost = cost_of(block, of_cell, timing_of[kind(cell)], seen, fair)
        budget = cell.attack.args.get("max_evaluations")
        by_steps = isinstance(of_cell.get(""), GradientMatching)
        row = table.setdefault(line(cell), Row(*line(cell), by_steps=by_steps))
        row.cells.add(cell.id)
        row.sources.add("records" if seen else "timing" if budget is None else "upper bound")
        row.whole += cost
        row.left += Cost() if block.key in here else cost
    return list(table.values())


def cost_of(
    block: Block, attacks: Mapping[str, Attack], timed: Mapping[str, Timing], seen: Evaluations | None, fair: int
) -> Cost:
    """What a block costs; without records every attack of an ensemble is tried on every victim, and spends all it may.

    Args:
        block: of some victims.
        attacks: of its cell, by name.
        timed: their timings.
        seen: evaluations of records of such a block; None where there are none.
        fair: see :meth:`benchmark.jobs.timing.Timing.seconds`.
    """
    victims, each = len(block.victims), {name: timed[name].times(rounds_of(one)) for name, one in attacks.items()}
    most: dict[str, float] = {}
    for name, one in attacks.items():
        budget = budget_of(block.cell, name, one)
        most[name] = (
            each[name].mean if budget is None else budget * (one.trials if isinstance(one, GradientMatching) else 1)
        )
    bound = sum(most.values())
    tried = {name: seen.tried.get(name, (0.0, 0.0)) if seen and seen.tried else (1.0, 1.0) for name in attacks}
    granted = sum(most[name] * tried[name][0] for name in attacks)  # to those that the attacks are tried on
    mean, longest = (seen.mean, seen.longest) if seen else (granted, granted)
    spent, at_last = (mean / granted, longest / granted) if granted else (1.0, 1.0)
    seconds = 0.0
    for name, (of_victims, of_blocks) in tried.items():
        in_all = min(of_blocks, of_victims * at_last) if seen and seen.tried else at_last
        of = Spent(most[name] * of_victims * spent, most[name] * in_all, of_victims, of_blocks)
        seconds += each[name].seconds(block, of, fair)
    if "" not in attacks:
        seconds += timed[""].seconds(block, Spent(0, 0), fair)
    return Cost(1, victims, victims * mean, victims * bound, seconds)


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


Found = tuple[dict[str, Any], list[int], list[dict[str, bool]]]
"""Of a finished block the configuration, and of its victims the evaluations and, of an ensemble, whether they leaked to
each attack that was tried on them."""


def finished(folders: Iterable[Path], parse: Parse) -> dict[str, Found]:
    """The finished blocks in folders of records, by their keys; records that cannot be used are reported."""
    records = (record for folder in folders for record in records_in(folder, parse))
    return {
        r["key"]: (r["config"], [v["evaluations"] for v in r["victims"]], [v.get("parts", {}) for v in r["victims"]])
        for r in records
    }


def alike(config: dict[str, Any]) -> tuple[str, str]:
    """Keys of the records that show how many evaluations a cell takes: its own, then those with any defense."""
    attacked = {"same_class": 1} | {k: v for k, v in config.items() if k not in ("defense", "adaptive", "seed")}
    return digest(attacked | {key: config[key] for key in ("defense", "adaptive")}), digest(attacked)


def means(blocks: Iterable[Found]) -> dict[str, Evaluations]:
    """What the victims of finished blocks took, by the names of :func:`alike`."""
    evaluations: dict[str, list[list[int]]] = defaultdict(list)
    parts: dict[str, list[list[dict[str, bool]]]] = defaultdict(list)
    for config, spent, tried in blocks:
        for name in alike(config):
            evaluations[name].append(spent)
            parts[name].append(tried)
    return {
        name: Evaluations(fmean(chain.from_iterable(of)), fmean(map(max, of)), shares(parts[name]))
        for name, of in evaluations.items()
    }


def shares(blocks: Sequence[Sequence[Mapping[str, bool]]]) -> dict[str, tuple[float, float]]:
    """Of each attack of an ensemble the share of victims, and of blocks, that it was tried on.

    Args:
        blocks: of each block the victims, each with the attacks that were tried on it.
    """
    names = {name for victims in blocks for victim in victims for name in victim}
    return {
        name: (
            fmean(name in victim for victims in blocks for victim in victims),
            fmean(any(name in victim for victim in victims) for victims in blocks),
        )
        for name in names
    }
