"""An entry from outside: what its folder says, whether its records are of it, and what comes out when some of its
victims are attacked again."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import groupby
from math import inf
from pathlib import Path
from typing import Annotated, Any, NoReturn

from msgspec import Meta

from benchmark.boards.cells import checksums
from benchmark.boards.grid import Grid
from benchmark.errors import UsageError
from benchmark.federation.recipe import typed
from benchmark.jobs.blocks import Block, Workbench, applicable, plan
from benchmark.metrics.convergence import unconverged
from benchmark.metrics.leak import BASELINES, leaks
from benchmark.store.schema import run_record
from benchmark.store.store import Record, read_all
from benchmark.suite.registry import Spec, spec_of
from benchmark.suite.suite import Cell, Scenario, Suite, as_cells, check_keys, entries, load, named, read, suite_path

FILE = "entry.yaml"

TOLERANCE = 3.0
"""dB by which a victim may differ that is attacked again with the same seed. The machine of the records gives the same
digits. Another one rounds sums otherwise, and an attack of many steps ends elsewhere: of 95 pairs of runs of
InvertingGradients a run has a standard deviation of 0.65 dB, so that two are this far apart once in a thousand."""

FOUND = 40.0
"""dB from which on nobody sees a difference, and two reconstructions are alike."""

LEVEL = 0.05
"""Probability that any cell of an honest entry is said to leak otherwise with a fresh seed."""

Text = Annotated[str, Meta(pattern=r"\S", description="a text")]


@dataclass(frozen=True)
class Entry:
    """What ``entry.yaml`` says.

    Attributes:
        defense: as in a suite, with all strengths as ``sweep``.
        author: who answers for it.
        link: to the paper or the code.
        threat_model: what the defense promises, against whom.
        adaptive_attack: the strongest attack that knows the defense and was tried.
        adaptive_budget: of it.
        adaptive_result: what it found.
        suite: on which the records were made.
        attacks: a list as in a suite, which are tried in each scenario beside those of the suite.
    """

    defense: Any
    author: Text
    link: Text
    threat_model: Text
    adaptive_attack: Text
    adaptive_budget: Text
    adaptive_result: Text
    suite: Text
    attacks: Any = ()


KEYS = tuple(one.name for one in fields(Entry))


def entry_in(folder: Path) -> Entry:
    """The entry in a folder.

    Raises:
        UsageError: there is none, or a key of it is unknown, missing or of another type.
    """
    path = folder / FILE
    if not path.exists():
        raise UsageError(f"{folder} has no {FILE}: give the folder of an entry, as results/leaderboard/entries/NAME")
    with named(path):
        given = read(path, KEYS, "entry")
        check_keys("key of an entry", given, KEYS)
        if missing := [key for key in KEYS[:-1] if key not in given]:
            raise UsageError(f"{missing[0]} is missing: an entry says {', '.join(KEYS[:-1])}")
        return typed(Entry, given)


def suite_of(entry: Entry) -> Suite:
    """The entry's suite with its defense in place of all others, and its attacks beside those of each scenario.

    Relative paths and own classes are those of the current folder, which must be the entry's.

    Raises:
        UsageError: something in it is wrong, or a class of the user's own is not in a file of this folder.
    """
    with named(Path(FILE)):
        defenses = entries("defense", entry.defense)
        if not isinstance(entry.attacks, list | tuple):
            raise UsageError("attacks must be a list, as in attacks: [{class: mine.Attack, steps: 100}]")
        attacks = [made for one in entry.attacks for made in entries("attack", one)]
        for made in [*defenses, *attacks]:
            check_is_here(made)
        suite = load(suite_path(entry.suite))
    of_suite: dict[str, tuple[Scenario, list[Spec]]] = {}
    for cell in suite.cells:
        _, those = of_suite.setdefault(cell.scenario.name, (cell.scenario, []))
        if cell.defense is None and cell.attack.name not in BASELINES:
            those.append(cell.attack)
    cells = [
        cell for scenario, those in of_suite.values() for cell in as_cells(scenario, defenses, [*those, *attacks])
    ]
    return replace(suite, cells=tuple({cell.id: cell for cell in cells}.values()))


def check_is_here(made: Spec) -> None:
    """UsageError where a class of the user's own is not in a file of the current folder."""
    for one in (made, *made.inner):
        module = one.name.rpartition(".")[0]
        file = getattr(sys.modules.get(module), "__file__", None)
        if module and Path(file or "nowhere").resolve().parent != Path.cwd():
            raise UsageError(
                f"{one.name} is in {file or 'no file'}: put it into the folder of the entry, in a file whose name no "
                f"other module has"
            )


def records_of(folder: Path) -> list[Record]:
    """The records of an entry.

    Raises:
        UsageError: there are none, one cannot be used, or one holds a private image.
    """

    def refuse(sentence: str) -> NoReturn:
        raise UsageError(f"in {folder} {sentence}: run the suite again and publish it there")

    records = read_all(folder, run_record, links=False, tell=refuse)
    if any(record["picture"] for record in records):
        raise UsageError(f"the records in {folder} hold private images: make the entry's with leakboard publish")
    return records


def sample(suite: Suite, bench: Workbench, victims: int, place: float) -> list[Block]:
    """Some victims that follow each other, for each cell whose attack takes them; of one scenario the same ones.

    Args:
        suite: whose cells they are.
        bench: the data.
        victims: how many, at most; whole sequences of an attack.
        place: where they begin, from 0 (the first victim) to 1.

    Raises:
        UsageError: data are missing or too few, or something breaks its contract.
    """
    suite, _ = applicable(replace(suite, block_size=victims), bench)
    found = []
    for _, of_cell in groupby(plan(suite, bench), key=lambda block: block.group):
        first, *others = of_cell
        whole = [first, *(one for one in others if one.size == first.size)]
        found.append(whole[int(place * len(whole))])
    return found


def with_fresh_seeds(suite: Suite, seed: int) -> Suite:
    """The suite with another seed in each scenario, larger by this one than its own.

    Raises:
        UsageError: one of them is a seed of the suite.
    """
    cells = tuple(
        replace(cell, scenario=replace(cell.scenario, seed=cell.scenario.seed + seed)) for cell in suite.cells
    )
    if {cell.scenario.seed for cell in cells} & {cell.scenario.seed for cell in suite.cells}:
        raise UsageError(f"--seed {seed} gives a seed of the records again: give another, or leave it out")
    return replace(suite, cells=cells)


def check_records(records: Sequence[Record], blocks: Sequence[Block], suite: str) -> None:
    """Sees that records are whole, and of these cells and no others as their classes and data are now.

    Args:
        records: of an entry.
        blocks: one of each of its cells, undefended ones first.
        suite: its name, for people.

    Raises:
        UsageError: they are not.
    """
    again = f"delete them, run {suite} again and publish it there"
    of_cell: dict[str, list[Record]] = {block.group: [] for block in blocks}
    for record in records:
        if record["cell"] not in of_cell:
            config = record["config"]
            behind = f"on {spec_of(config['defense']).label}" if config["defense"] else "without a defense"
            raise UsageError(
                f"the records hold {spec_of(config['attack']).label} {behind}, seed {config['seed']}, which is not in "
                f"{suite} with the defense and the attacks of {FILE}: {again}"
            )
        of_cell[record["cell"]].append(record)
    for block in blocks:
        for record in of_cell[block.group]:
            if other := another(record, block):
                raise UsageError(f"the records of {block.label} were made with {other}: {again}")
        there = {victim["index"] for record in of_cell[block.group] for victim in record["victims"]}
        if missing := set(range(block.cell.scenario.victims)) - there:
            raise UsageError(
                f"the records lack {len(missing)} of {block.cell.scenario.victims} victims of {block.label}: run "
                f"{suite} whole and publish it there"
            )


def another(record: Record, block: Block) -> str:
    """What a record was made with that is not as it is now, empty where all is.

    Args:
        record: of the cell of the block, of any of its victims.
        block: as it would be run now.
    """
    made = (block.cell.defense or block.cell.attack).name
    data = checksums(record)
    now = zip(range(block.victims.start - 1, block.victims.stop), block.data, strict=True)
    if record["code_sha256"] != block.code_sha256:
        return f"another version of {made}, or of what it imports"
    if record.get("behavior_sha256", "") != block.behavior:
        return f"a {made} that held or did something else"
    if record["network_sha256"][0] != block.networks[0]:
        return "another network"
    return "other images" if any(data.get(place, sha) != sha for place, sha in now) else ""


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
    found = []
    for cell, same, other in zip(cells, again, fresh, strict=True):
        own = {victim["index"]: (victim, one) for one in records if one["cell"] == cell.id for victim in one["victims"]}
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
    rows = [
        [
            one.cell.scenario.label,
            one.cell.defense.label if one.cell.defense else "none",
            one.cell.attack.name + (" adaptive" if one.cell.adaptive else ""),
            f"{one.leaked}/{one.victims}",
            f"{one.alike}/{one.again} ({one.apart:.1f} dB)",
            f"{one.fresh_leaked}/{one.fresh}",
            one.word,
        ]
        for one in found
    ]
    names = ["scenario", "defense", "attack", "leaked", "same seed: alike", "fresh seed: leaked", "verdict"]
    return Grid(names, rows, words={"scenario", "defense", "attack", "verdict"})


def conclusion(found: Sequence[Verdict]) -> list[str]:
    """Sentences under the table."""
    differing = sum(one.word != "reproduced" for one in found)
    said = [f"{differing} of {len(found)} cells differ" if differing else f"all {len(found)} cells are reproduced"]
    if any(one.word == "differs" for one in found):
        said.append(
            f"a victim is alike that leaks in both runs or in none, converged in both or in none, within {TOLERANCE:g} "
            "dB: the machine of the records gives the same digits, another one may differ in a victim of a long attack"
        )
    if blunt := sum(one.is_blunt for one in found):
        said.append(
            f"of {blunt} cells so few fresh victims could not show another leak rate (Fisher's exact test, {LEVEL:.0%} "
            "over all cells): more are tried with --victims"
        )
    return said
