"""Whether the records of a suite are reproduced when some of their victims are attacked again, with the same seeds and
with fresh ones."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from math import inf
from typing import Any

from benchmark.boards.cells import cells_of_one_code
from benchmark.boards.grid import Grid
from benchmark.boards.outcome import Names, Outcome
from benchmark.errors import UsageError
from benchmark.jobs.blocks import Block, Workbench, applicable, plan
from benchmark.metrics.convergence import unconverged
from benchmark.metrics.leak import leaks
from benchmark.store.store import Record
from benchmark.suite.suite import Cell, Suite

TOLERANCE = 3.0
"""dB by which a victim may differ that is attacked again with the same seed. The same victims on the same machine give
the same digits. Another machine, or other victims beside them, round sums otherwise, and an attack of many steps ends
elsewhere: 95 runs of InvertingGradients from nearly the same starts have a standard deviation of 0.65 dB, so that two
are this far apart once in a thousand."""

FOUND = 40.0
"""dB from which on nobody sees a difference, and two reconstructions are alike."""

LEVEL = 0.05
"""Probability that any cell of an honest entry is said to leak otherwise with a fresh seed."""


def sample(suite: Suite, seed: int, bench: Workbench, victims: int, place: float) -> tuple[list[Block], list[Block]]:
    """Some victims that follow each other, for each cell whose attack takes them; of one scenario the same ones.

    Args:
        suite: whose cells they are.
        seed: what fresh seeds are larger by than those of the suite.
        bench: the data.
        victims: how many, at most; whole sequences of an attack.
        place: where they begin, from 0 (the first victim) to 1.

    Returns:
        A block of each cell, and the same with the fresh seed.

    Raises:
        UsageError: data are missing or too few, something breaks its contract, or a fresh seed is one of the suite's.
    """
    cells = (*suite.cells, *with_fresh_seeds(suite.cells, seed))
    both, _ = applicable(replace(suite, block_size=victims, cells=cells), bench)
    found = []
    for _, of_cell in groupby(plan(both, bench), key=lambda block: block.group):
        first, *others = of_cell
        whole = [first, *(one for one in others if one.size == first.size)]
        found.append(whole[int(place * len(whole))])
    return found[: len(found) // 2], found[len(found) // 2 :]


def with_fresh_seeds(cells: Sequence[Cell], seed: int) -> list[Cell]:
    """The cells with a seed that is larger by this one.

    Raises:
        UsageError: it is the seed of another one.
    """
    fresh = [replace(cell, scenario=replace(cell.scenario, seed=cell.scenario.seed + seed)) for cell in cells]
    if {cell.scenario.seed for cell in fresh} & {cell.scenario.seed for cell in cells}:
        raise UsageError(f"--seed {seed} gives a seed of the records again: give another, or leave it out")
    return fresh


@dataclass(frozen=True)
class Verdict:
    """What comes out of a cell when some of its victims are attacked again.

    Attributes:
        cell: the cell.
        leaked, victims: of the records.
        alike: of the victims attacked again with the same seed, those that came out alike.
        again: number of these.
        apart: dB between the two, at most.
        silent: whether the records leave out why nothing can be concluded.
        fresh_leaked, fresh: of the victims attacked with the fresh seed.
        p: that the rates of records and fresh seed are one, by Fisher's exact test.
        least_p: the least that as many fresh victims could give.
        cells: with how many cells the level is shared.
    """

    cell: Cell
    leaked: int
    victims: int
    alike: int
    again: int
    apart: float
    silent: bool
    fresh_leaked: int
    fresh: int
    p: float
    least_p: float
    cells: int

    @property
    def word(self) -> str:
        """The verdict."""
        if self.silent or self.alike < self.again:
            return "differs"
        return "differs with a fresh seed" if self.cells * self.p <= LEVEL else "reproduced"

    @property
    def is_blunt(self) -> bool:
        """Whether no result of as many fresh victims could show that the rates differ."""
        return self.cells * self.least_p > LEVEL


def verdicts(
    cells: Sequence[Cell], records: Sequence[Record], again: Sequence[Record], fresh: Sequence[Record]
) -> list[Verdict]:
    """What comes out of each cell.

    Args:
        cells: of the entry.
        records: of the entry.
        again: of each cell some victims attacked again with the same seed.
        fresh: likewise with a fresh seed.
    """
    found, shown = [], cells_of_one_code(records)[0]
    for cell, same, other in zip(cells, again, fresh, strict=True):
        own = shown[cell.id]
        before = [own[victim["index"]] for victim in same["victims"]]
        pairs = list(zip((victim for victim, _ in before), same["victims"], strict=True))
        leaked, victims = sum(leaks(victim) for victim, _ in own.values()), len(own)
        fresh_leaked, count = sum(map(leaks, other["victims"])), len(other["victims"])
        found.append(
            Verdict(
                cell=cell,
                leaked=leaked,
                victims=victims,
                alike=sum(are_alike(*pair, same["config"]) for pair in pairs),
                again=len(pairs),
                apart=max(apart(*pair) for pair in pairs),
                silent=any(same.get(why) and not one.get(why) for why in REASONS for _, one in before),
                fresh_leaked=fresh_leaked,
                fresh=count,
                p=fisher_p(fresh_leaked, count, leaked, victims),
                least_p=min(fisher_p(extreme, count, leaked, victims) for extreme in (0, count)),
                cells=len(cells),
            )
        )
    return found


REASONS = ("void", "no_adaptive_attack")
"""Parts of a record that say why nothing can be concluded from it."""


def are_alike(one: dict[str, Any], other: dict[str, Any], config: dict[str, Any]) -> bool:
    """Whether of a victim the same is known after two runs with one seed: that it leaks, or not, or that nothing is."""
    told = [(leaks(victim), unconverged(victim, config)) for victim in (one, other)]
    return told[0] == told[1] and apart(one, other) <= TOLERANCE


def apart(one: dict[str, Any], other: dict[str, Any]) -> float:
    """dB between two results of one victim, at most; of labels alone infinite where they are not the same."""
    pairs = zip(one["psnr"], other["psnr"], strict=True)
    differences = [abs(min(first, FOUND) - min(second, FOUND)) for first, second in pairs]
    return max(differences, default=0.0 if one.get("labels") == other.get("labels") else inf)


def fisher_p(leaked: int, victims: int, other_leaked: int, other_victims: int) -> float:
    """Two-sided p-value of Fisher's exact test that two rates of different victims are one."""
    from scipy.stats import fisher_exact  # a good part of a second

    counts = [[leaked, victims - leaked], [other_leaked, other_victims - other_leaked]]
    return float(fisher_exact(counts).pvalue)


def grid(found: Sequence[Verdict]) -> Grid:
    """The table of the verdicts."""
    outcomes = [Outcome(one.cell.id, one.cell.config(), {}, ()) for one in found]
    names = Names(outcomes)
    rows = [
        [
            one.cell.scenario.label,
            names.defense(outcome.config["defense"]),
            names.attack(outcome.config["attack"], outcome.adaptive),
            f"{one.leaked}/{one.victims}",
            f"{one.alike}/{one.again} ({one.apart:.1f} dB)",
            f"{one.fresh_leaked}/{one.fresh}",
            one.word,
        ]
        for one, outcome in zip(found, outcomes, strict=True)
    ]
    columns = ["scenario", "defense", "attack", "leaked", "same seed: alike", "fresh seed: leaked", "verdict"]
    return Grid(columns, rows, words={"scenario", "defense", "attack", "verdict"})


def conclusion(found: Sequence[Verdict]) -> list[str]:
    """Sentences under the table."""
    differing = sum(one.word != "reproduced" for one in found)
    said = [f"{differing} of {len(found)} cells differ" if differing else f"all {len(found)} cells are reproduced"]
    if any(one.word == "differs" for one in found):
        said.append(
            "victims are alike where both leak or neither, both converged or neither, and they are at most "
            f"{TOLERANCE:g} dB apart, as much as the rounding of another machine explains"
        )
    if blunt := sum(one.is_blunt for one in found):
        said.append(
            f"in {blunt} of {len(found)} cells so few fresh victims cannot show another leak rate, whatever comes out "
            f"(Fisher's exact test, {LEVEL:.0%} over all cells): give more --victims"
        )
    return said
