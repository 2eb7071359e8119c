"""How long attacks take on this machine, told by short ones: a few evaluations of a few victims.

An ensemble is timed attack by attack: each takes its own time, and which of them a victim meets is another question.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean
from typing import Any

import numpy as np
from scipy.optimize import nnls

from attacks import Attack, AutoLeak, GaussNewton, LearnedInversion
from attacks.gradient_matching import GradientMatching
from benchmark.boards.terminal import Console
from benchmark.jobs.blocks import Block, Workbench, found_or
from benchmark.jobs.records import learned_by, room, run_block, seen_by
from benchmark.metrics.leak import BASELINES
from benchmark.suite.registry import Spec, build
from benchmark.suite.suite import Cell, baselines

TIMED_VICTIMS, TIMED_EVALUATIONS = (4, 8), (1, 3, 50)
"""Of the short attacks that are timed: the bounds of how many victims are attacked at once, of which few would not show
what they share, and the budgets: the least one, and the bounds of the larger one. What is over at once gets most."""

LONG = 0.25
"""Seconds that are enough to tell something: victims, and evaluations beyond the first, become as many as take so long.
What comes before the first step, as of labels, is no part of the latter: it hides what the steps take."""

GROWTH = 4
"""How many times the larger budget of an attack grows as long as its steps take too little time to tell something."""

TAUGHT = {"training_steps": 1, "pairs": 2}
"""What is left of the training of an attacker's network where his attack is timed."""

PATIENCE = 10.0
"""Seconds after which of a scenario one attack stands for all of its kind: see :func:`stand_in`."""

Name = tuple[str, ...]


@dataclass(frozen=True)
class Spent:
    """What the victims of a block get of an attack.

    Attributes:
        mean: evaluations of a victim.
        longest: of the victim that takes most.
        victims: share of them that it is tried on.
        blocks: how likely it is to be tried at all.
    """

    mean: float
    longest: float
    victims: float = 1.0
    blocks: float = 1.0


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

    def seconds(self, block: Block, of: Spent, fair: int) -> float:
        """Seconds of the block where each worker has a fair share of all victims, beyond which a GPU takes none."""
        victims = len(block.victims)
        share = victims / max(victims, min(self.room, block.cell.scenario.victims, fair))
        shared = self.block * of.blocks + self.step * of.longest
        return share * shared + self.victim * victims * of.victims + self.evaluation * victims * of.mean

    def times(self, count: int) -> "Timing":
        """That of so many iterations, each of which takes the time of this one."""
        grow = ("block", "victim", "step", "evaluation", "mean")
        return replace(self, **{name: count * getattr(self, name) for name in grow})


def attacks_of(cell: Cell, bench: Workbench) -> dict[str, Attack]:
    """The attacks of an ensemble that take the cell's victims, by name; any other attack under an empty one."""
    attack: Attack = build("attack", cell.attack)
    if not isinstance(attack, AutoLeak):
        return {"": attack}
    scenario, setting = cell.scenario, cell.scenario.setting
    shape = scenario.batch_size, *bench.data(scenario.data).image_shape
    return attack.parts_for(bench.model(scenario), shape, setting.protocol, setting.threat, setting.shared)


def part_of(attack: Attack, name: str) -> Attack:
    """The attack of an ensemble; any other attack is its own, under an empty name."""
    return attack.parts()[name] if isinstance(attack, AutoLeak) and name else attack


def budget_of(cell: Cell, name: str, attack: Attack) -> int | None:
    """Evaluations that an attack of :func:`attacks_of` may spend on a victim at a time; None where it has no such
    argument."""
    budget: int | None = getattr(attack, "max_evaluations", None) if name else cell.attack.args.get("max_evaluations")
    return budget


def kind(cell: Cell) -> Name:
    """A name for what decides the seconds of an evaluation; a defense, known or not, changes them by little.

    The null baselines take the time of their scores, all the same.
    """
    scenario = cell.scenario
    budgets = ("max_evaluations", "iterations") if cell.attack.name == GaussNewton.__name__ else ("max_evaluations",)
    attack = Spec(cell.attack.name, {key: v for key, v in cell.attack.args.items() if key not in budgets})
    called = "a null baseline" if attack.name in BASELINES else attack.label
    return scenario.label, scenario.data.label, scenario.model.label, called


def stand_in(cell: Cell, name: str, attack: Attack) -> Name:
    """A name that attacks share of which one can stand for the others: those of a class in a scenario, and in an
    ensemble all that match gradients step by step from a start that costs nothing."""
    steps = name and isinstance(attack, GradientMatching) and attack.start != "rgap"
    return cell.scenario.label, cell.attack.name, "steps" if steps else name


def timings(blocks: Sequence[Block], bench: Workbench, console: Console) -> dict[Name, dict[str, Timing]]:
    """Of each kind of cell the timing of its attacks, by the names of :func:`attacks_of`.

    Each is timed behind the last defense, at its last strength: without a defense an attack may be over at once. That
    of an ensemble has a null baseline's under an empty name, for what it takes to see the updates and to score.
    """
    shown: dict[Name, Block] = {}
    for block in blocks:
        before = shown.setdefault(kind(block.cell), block)
        if not block.cell.adaptive and block.group != before.group:
            shown[kind(block.cell)] = block
    found: dict[Name, dict[str, Timing]] = {}
    of_its_kind: dict[Name, Timing] = {}
    warm, started = False, time.perf_counter()
    with console.status("timing") as status:
        run_block(short(with_baseline(blocks[0]), 1, 1), bench)  # the first one of all takes longer
        for number, (of_kind, block) in enumerate(shown.items(), 1):
            timed = found.setdefault(of_kind, {})
            for name, attack in attacks_of(block.cell, bench).items():
                what = ", ".join(filter(None, (block.cell.scenario.label, block.cell.attack.name, name)))
                status.update(f"timing {number} of {len(shown)}: {what}")
                if not warm and isinstance(attack, GradientMatching):  # the first one of all takes longer
                    warm = bool(attacked(short(block, 1, 1), bench, name))
                place = stand_in(block.cell, name, attack)
                if place not in of_its_kind or time.perf_counter() - started < PATIENCE:
                    of_its_kind[place] = timing(block, bench, name)
                timed[name] = of_its_kind[place]
            if "" not in timed:
                bare = with_baseline(block)
                timed[""] = found_or(found.setdefault(kind(bare.cell), {}), "", partial(timing, bare, bench))
    return found


def with_baseline(block: Block) -> Block:
    """The same victims under a null baseline."""
    return replace(block, cell=replace(block.cell, defense=None, attack=baselines()[0], adaptive=False))


def timing(block: Block, bench: Workbench, name: str = "") -> Timing:
    """Fits short attacks on the first victims of a block: on one and on several, with few evaluations and with more.

    Args:
        block: of the attack.
        bench: the data.
        name: of the attack of an ensemble that is timed, whose victims are scored elsewhere.
    """
    attack = build("attack", block.cell.attack)
    sequence, at_once = attack.sequence, room(block, bench) if bench.device.type == "cuda" else 0
    takes_steps = budget_of(block.cell, name, part_of(attack, name)) is not None
    few, least, most = TIMED_EVALUATIONS

    def run(victims: int, budget: int) -> tuple[float, list[int]]:
        return attacked(short(block, victims, budget), bench, name)

    runs = [run(1, few)]
    is_short = runs[0][0] < LONG
    if is_short or takes_steps:  # the first run in a cell takes longer
        runs = [run(1, few)]
    often = int(LONG / max(runs[0][0], 1e-9))
    more = max(least, min(most, often))
    fewest, largest = TIMED_VICTIMS
    many = min(largest, len(block.victims) // sequence, max(fewest, often)) if is_short else 1
    if takes_steps:
        runs.append(run(1, more))
        while more < most and runs[-1][0] - runs[0][0] < LONG:
            more = min(most, GROWTH * more)
            runs.append(run(1, more))
    if many > 1:
        runs += [run(many, budget) for budget in ((few, more) if takes_steps else (few,))]
    # What one victim takes is its own: nothing was seen that victims share.
    grows_with = [[many > 1, len(of), (many > 1) * takes_steps * max(of), takes_steps * sum(of)] for _, of in runs]
    fit, _ = nnls(np.array(grows_with, dtype=float), np.array([seconds for seconds, _ in runs]))
    of_block, of_victim, of_step, of_evaluation = map(float, fit)
    if not name:
        of_victim += scoring(block, bench, few, runs[0][0]) / sequence
    return Timing(of_block, of_victim, of_step, of_evaluation, fmean(runs[-1][1]), at_once)


def scoring(block: Block, bench: Workbench, few: int, attack: float) -> float:
    """Seconds beyond those of the attack that it takes until its first victims are scored."""
    clock = clock_of(bench)
    started = clock()
    run_block(short(block, 1, few), bench)
    return max(0.0, clock() - started - attack)


def clock_of(bench: Workbench) -> Callable[[], float]:
    """The clock: on a CPU the time of one core, which other programs do not lengthen; on a GPU that of the wall."""
    return time.perf_counter if bench.device.type == "cuda" else time.thread_time


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
    if cell.attack.name == GaussNewton.__name__:  # whose iterations are alike: see rounds_of
        less["iterations"] = 1
    if args.get("at_once", 0) is None:  # memory is not measured here
        less["at_once"] = count
    scenario = replace(cell.scenario, setting=replace(cell.scenario.setting, state=None))
    cell = replace(cell, scenario=scenario, attack=replace(cell.attack, args=args | less))
    return replace(block, cell=cell, victims=block.victims[:count], data=block.data[: count + 1], training="")


def rounds_of(attack: Attack) -> int:
    """How many times what is timed of an attack is done."""
    return attack.iterations if isinstance(attack, GaussNewton) else 1


def attacked(block: Block, bench: Workbench, name: str = "") -> tuple[float, list[int]]:
    """Seconds that an attack, or one of an ensemble, takes before anything is scored, and the evaluations of its
    victims."""
    cell, victims = block.cell, block.victims
    images, labels = bench.victims(cell.scenario, victims)
    attack: Attack = build("attack", cell.attack)
    clock = clock_of(bench)
    started = clock()
    own = {} if name not in ("", LearnedInversion.__name__) else learned_by(block, bench)[0]
    seen = seen_by(cell, images, labels, victims, bench, 0 if own or name else attack.public_images)(victims)
    if name:  # all attacks of an ensemble see the same
        attack, started = part_of(attack, name), clock()
    found = attack.reconstruct(seen, **own)
    found.images.cpu()  # a GPU is waited for
    return clock() - started, found.evaluations.tolist()
