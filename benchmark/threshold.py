"""The strength at which a defense stops leakage, by bisection, on the same victims at every strength."""

import inspect
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from benchmark.arguments import LARGEST_FLOAT
from benchmark.errors import UsageError, quoted
from benchmark.intervals import SEED, wilson
from benchmark.leaderboard import newest_victims
from benchmark.leak import leaks
from benchmark.registry import Spec, find_class, is_whole, spec
from benchmark.store import Record
from benchmark.suite import BASELINES, Cell, Scenario, Suite, parse, read

LOG_FROM = 100
"""Ends that are further apart than this factor are searched between on a logarithmic scale."""

MOST_STEPS = 50
"""Halvings, after which no two numbers are left to be told apart."""

RESAMPLES = 2000

Victim = dict[str, Any]

Victims = dict[str, dict[int, tuple[Victim, Record]]]
"""By the id of a cell and the victim's number."""


@dataclass(frozen=True)
class Range:
    """A defense whose strength is searched for.

    Attributes:
        name: class of the defense.
        fixed: its other arguments.
        argument: the one that is its strength.
        weak, strong: the ends, where the defense does least and most.
        whole: whether a strength is a whole number.
    """

    name: str
    fixed: dict[str, Any]
    argument: str
    weak: float
    strong: float
    whole: bool = False

    @property
    def logarithmic(self) -> bool:
        """Whether the ends are so far apart that the search is between their logarithms."""
        low, high = sorted((self.weak, self.strong))
        return low > 0 and high / low >= LOG_FROM

    def position(self, strength: float) -> float:
        """The position at which a strength is."""
        scale = math.log if self.logarithmic else float
        return (scale(strength) - scale(self.weak)) / (scale(self.strong) - scale(self.weak))

    def strength(self, position: float) -> float:
        """At 0 the weak end, at 1 the strong one, to six digits or to the nearest whole number."""
        if self.whole and position in (0, 1):
            return self.strong if position else self.weak
        if self.logarithmic:
            value = math.exp((1 - position) * math.log(self.weak) + position * math.log(self.strong))
        else:
            value = (1 - position) * self.weak + position * self.strong
        return round(value) if self.whole else float(f"{value:.6g}")

    def between(self, first: float, second: float) -> float | None:
        """A position between two others whose strength is neither of theirs; None where there is none."""
        low, high = sorted((self.strength(first), self.strength(second)))
        middle = (first + second) / 2
        if self.whole and self.strength(middle) in (low, high):  # on a logarithmic scale, say, 1 and 3 have 2 between
            middle = self.position((low + high) // 2)
        return middle if low < self.strength(middle) < high else None

    def defense(self, position: float) -> Spec:
        return spec("defense", self.name, self.fixed | {self.argument: self.strength(position)})


def ranges(given: Any) -> list[Range]:
    """Reads the defenses of a suite whose strengths are searched for: ``{class: Masking, range: {ratio: [0, 0.99]}}``.

    Raises:
        UsageError: a range is missing or is none.
    """
    if not isinstance(given, list) or not given:
        raise UsageError("defenses must be a list of {class: NAME, range: {argument: [weak end, strong end]}}")
    found = []
    for entry in given:
        searched = entry.get("range") if isinstance(entry, dict) else None
        if not isinstance(searched, dict) or len(searched) != 1:
            raise UsageError(
                f"each defense needs a range: {{argument: [weak end, strong end]}}, unlike {quoted(entry)}"
            )
        ((argument, ends),) = searched.items()
        name = str(entry.get("class"))
        numbers = isinstance(ends, list) and len(ends) == 2 and all(type(end) in (int, float) for end in ends)
        if not numbers or ends[0] == ends[1] or not all(abs(end) <= LARGEST_FLOAT for end in ends):
            raise UsageError(f"range of {name} needs two different numbers for {argument}, not {quoted(ends)}")
        fixed = {str(key): value for key, value in entry.items() if key not in ("class", "range")}
        whole = is_whole("defense", name, str(argument))
        if whole and not all(float(end).is_integer() for end in ends):
            raise UsageError(f"range of {name} needs whole numbers for {argument}, not {quoted(ends)}")
        weak, strong = map(int if whole else float, ends)
        made = Range(name, fixed, str(argument), weak, strong, whole)
        if made.strength(0) == made.strength(1):
            raise UsageError(
                f"range of {name} needs numbers for {argument} that differ in six digits, not {quoted(ends)}"
            )
        for position in (0.0, 1.0):
            made.defense(position)  # the ends are checked before any work is done
        found.append(made)
    return found


@dataclass(eq=False)
class Search:
    """One threshold that is searched for, and the positions that are tested."""

    scenario: Scenario
    of: Range
    attack: Spec
    adaptive: bool
    positions: set[float] = field(default_factory=lambda: {0.0, 1.0})

    def cell(self, position: float) -> Cell:
        return Cell(self.scenario, self.of.defense(position), self.attack, self.adaptive)


def load(path: Path, victims: int | None, seed: int | None) -> tuple[Suite, list[Search]]:
    """Reads a suite whose defenses have ranges: its controls and baselines, and what is searched for.

    Raises:
        UsageError: the file or something in it is wrong.
    """
    given = read(path)
    try:
        return parse_searches(given, path.stem, victims, seed)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None


def parse_searches(
    given: dict[str, Any], name: str, victims: int | None = None, seed: int | None = None
) -> tuple[Suite, list[Search]]:
    """Checks a suite that was read; a scenario's own defenses stand for the suite's.

    Raises:
        UsageError: something in it is wrong.
    """
    common = given.get("defenses")
    given = {key: value for key, value in given.items() if key != "defenses"}
    scenarios = given.get("scenarios")
    if not isinstance(scenarios, list) or not all(isinstance(entry, dict) for entry in scenarios):
        return parse(given, name, victims, seed), []  # says what is wrong
    searched = [ranges(entry.get("defenses", common)) for entry in scenarios]
    bare = [{key: value for key, value in entry.items() if key != "defenses"} for entry in scenarios]
    suite = parse(given | {"scenarios": bare}, name, victims, seed)
    searches: dict[str, Search] = {}
    for entry, found in zip(bare, searched, strict=True):
        controls = [
            cell
            for cell in parse(given | {"scenarios": [entry]}, name, victims, seed).cells
            if cell.attack.name not in BASELINES
        ]
        for control, one, adaptive in itertools.product(controls, found, (False, True)):
            search = Search(control.scenario, one, control.attack, adaptive)
            searches.setdefault(repr(search), search)
    return suite, list(searches.values())


@dataclass(frozen=True)
class Criterion:
    """When leakage has stopped.

    Attributes:
        ssim: a victim leaks where the SSIM of an image of its batch is at least this, and above that of what needs no
            update: a class mean of MNIST comes to 0.5 and more.
        stop: largest share of victims that may leak where leakage has stopped.
    """

    ssim: float = 0.5
    stop: float = 0.05

    def __post_init__(self) -> None:
        if not 0 < self.ssim <= 1:
            raise UsageError(f"--ssim must be above 0 and at most 1, not {self.ssim}")
        if not 0 <= self.stop < 1:
            raise UsageError(f"--stop must be at least 0 and below 1, not {self.stop}")

    @property
    def measures(self) -> dict[str, Callable[[Victim, float], bool]]:
        """What it means that a victim leaks, given the best SSIM of its null baselines: by the SSIM, as the paper
        judges, and by the PSNR of the leaderboard."""

        def by_ssim(victim: Victim, null: float) -> bool:
            found = max(victim["ssim"])
            return bool(victim["status"] != "diverged" and found >= self.ssim and found > null)

        return {"ssim": by_ssim, "psnr": lambda victim, null: leaks(victim)}


Curve = dict[float, np.ndarray]
"""Position -> which of the victims leak there, ``[V]``."""


def crossing(curve: Curve, stop: float, rows: np.ndarray | None = None) -> float:
    """Position from which on no more than a share of ``stop`` leaks, on straight lines between the tested positions.

    Args:
        curve: tested positions, 0 and 1 among them.
        stop: largest share where leakage has stopped.
        rows: the victims that count; all of them by default.

    Returns:
        0 where it has stopped at the weak end, infinity where it has not at the strong one.
    """
    positions = sorted(curve)
    rates = [float(curve[p].mean() if rows is None else curve[p][rows].mean()) for p in positions]
    leaking = [place for place, rate in enumerate(rates) if rate > stop]
    if not leaking:
        return 0.0
    last = leaking[-1]
    if last == len(positions) - 1:
        return math.inf
    share = (rates[last] - stop) / (rates[last] - rates[last + 1])
    return positions[last] + share * (positions[last + 1] - positions[last])


def bracket(curve: Curve, stop: float) -> tuple[float, float] | None:
    """The tested positions between which leakage stops for good; None where the ends do not enclose it."""
    positions = sorted(curve)
    leaking = [place for place, p in enumerate(positions) if curve[p].mean() > stop]
    if not leaking or leaking[-1] == len(positions) - 1:
        return None
    return positions[leaking[-1]], positions[leaking[-1] + 1]


def interval(curve: Curve, stop: float) -> tuple[float, float]:
    """95 % interval of the crossing: bootstrap over victims, and no narrower than the tested positions around it."""
    count = len(next(iter(curve.values())))
    drawn = np.random.default_rng(SEED).integers(count, size=(RESAMPLES, count))
    crossings = np.sort([crossing(curve, stop, rows) for rows in drawn])  # infinity last
    low, high = (float(crossings[round(share * (RESAMPLES - 1))]) for share in (0.025, 0.975))
    around = bracket(curve, stop)
    return (min(low, around[0]), max(high, around[1])) if around else (low, high)


def rises(curve: Curve) -> list[tuple[float, float]]:
    """Neighbouring positions between which the rate rises by more than chance: 95 % of the paired bootstrap above 0."""
    found = []
    for first, second in itertools.pairwise(sorted(curve)):
        change = curve[second].astype(float) - curve[first].astype(float)
        if change.mean() > 0:
            drawn = np.random.default_rng(SEED).integers(len(change), size=(RESAMPLES, len(change)))
            if float(np.quantile(change[drawn].mean(1), 0.05)) > 0:
                found.append((first, second))
    return found


class Bisection:
    """The searches of a suite.

    Args:
        suite: of controls and baselines alone.
        searches: what is searched for in it.
        criterion: when leakage has stopped.
    """

    def __init__(self, suite: Suite, searches: list[Search], criterion: Criterion) -> None:
        self.suite, self.searches, self.criterion = suite, searches, criterion

    def as_suite(self) -> Suite:
        """The suite of all strengths that are to be tested by now, controls and baselines first."""
        cells = [search.cell(p) for search in self.searches for p in sorted(search.positions)]
        unique = {cell.id: cell for cell in (*self.suite.cells, *cells)}
        return Suite(self.suite.name, tuple(unique.values()), self.suite.block_size)

    def curves(self, records: list[Record]) -> dict[Search, dict[str, Curve]]:
        """By search and measure, what was found at the positions that are to be tested by now."""
        victims = newest_victims(records)

        def of(search: Search, leaks: Callable[[Victim, float], bool]) -> Curve:
            null = self.nulls(search.scenario, victims)
            curve = {}
            for position in search.positions:
                cell = victims[search.cell(position).id]
                curve[position] = np.array([leaks(cell[index][0], null[index]) for index in sorted(null)])
            return curve

        return {s: {name: of(s, leaks) for name, leaks in self.criterion.measures.items()} for s in self.searches}

    def nulls(self, scenario: Scenario, victims: Victims) -> dict[int, float]:
        """For each victim of the scenario the best SSIM of the null baselines."""
        cells = [cell for cell in self.suite.cells if cell.scenario == scenario and cell.attack.name in BASELINES]
        return {
            index: max(max(victims[cell.id][index][0]["ssim"]) for cell in cells) for index in range(scenario.victims)
        }

    def narrow(self, records: list[Record]) -> bool:
        """Halves each search's brackets, one for each measure, where there is a strength between their ends.

        Returns:
            Whether there is one more strength to be tested.
        """
        narrowed = False
        for search, of_measures in self.curves(records).items():
            for curve in of_measures.values():
                around = bracket(curve, self.criterion.stop)
                between = search.of.between(*around) if around else None
                if between is not None:
                    search.positions.add(between)
                    narrowed = True
        return narrowed


def rows(bisection: Bisection, records: list[Record]) -> list[dict[str, Any]]:
    """One row for each search, as JSON: the strength at which leakage stops by each measure, and the whole curve.

    It is the weakest one that was tested and from which on no more than the allowed share leaks: no attack failed at
    the point between the tested ones where a straight line would put it.
    """
    victims = newest_victims(records)
    stop, measures = bisection.criterion.stop, bisection.criterion.measures
    table = []
    for search, of_measures in bisection.curves(records).items():
        strength = search.of.strength
        positions = sorted(search.positions)
        null = bisection.nulls(search.scenario, victims)
        control = victims[Cell(search.scenario, None, search.attack, adaptive=False).id]
        row: dict[str, Any] = {
            "dataset": search.scenario.data.name,
            "model": search.scenario.model.name,
            "scenario": search.scenario.config(),
            "where": search.scenario.label,
            "defense": search.of.name,
            "argument": search.of.argument,
            "fixed": search.of.fixed,
            "attack": search.attack.as_dict(),
            "adaptive": search.adaptive,
            "victims": search.scenario.victims,
            "strengths": [strength(p) for p in positions],
            "mean_ssim": [
                fmean(max(victim["ssim"]) for victim, _ in victims[search.cell(p).id].values()) for p in positions
            ],
        }
        for name, curve in of_measures.items():
            at, (low, high) = crossing(curve, stop), interval(curve, stop)
            without = fmean(measures[name](control[index][0], null[index]) for index in null)
            how, around = outcome(at, without, stop), bracket(curve, stop)
            row[name] = {
                "stopped": how,
                "strength": strength(around[1]) if around and how == WITHIN else None,
                "low": strength(low) if low <= 1 else None,
                "high": strength(high) if high <= 1 else None,
                "note": note(search, curve, how, without),
                "without": without,
                "rates": [float(curve[p].mean()) for p in positions],
                "rises": [[strength(a), strength(b)] for a, b in rises(curve)],
            }
        table.append(row)
    return table


VOID, WEAK, WITHIN, NEVER = "void", "at the weak end", "within", "never"
"""Whether leakage stops in a range: there was none without a defense; everywhere; from a strength on; nowhere."""


def outcome(at: float, without: float, stop: float) -> str:
    """Which of the four it is.

    Args:
        at: the crossing.
        without: rate without a defense.
        stop: largest rate where leakage has stopped.
    """
    if without <= stop:
        return VOID
    return WEAK if at == 0 else WITHIN if at <= 1 else NEVER


def note(search: Search, curve: Curve, how: str, without: float) -> str:
    """What has to be said where the range does not enclose the threshold."""
    end = search.of
    return {
        VOID: f"void: without a defense {without:.0%} leak, so that there is nothing to stop",
        WEAK: f"stopped at the weak end, {end.argument} {end.weak:g}, already ({curve[0.0].mean():.0%} leak)",
        NEVER: f"not stopped at the strong end, {end.argument} {end.strong:g} ({curve[1.0].mean():.0%} leak)",
    }.get(how, "")


COLUMNS = ("data", "defense", "attack", "attacker", "stops at, SSIM", "95 %", "stops at, PSNR", "95 %", "remarks")


def cells_of(row: dict[str, Any]) -> tuple[str, ...]:
    """The row as a person reads it, in the order of ``COLUMNS``."""
    shown: list[str] = []
    remarks: list[str] = []
    for name in ("ssim", "psnr"):
        found = row[name]
        shown.append("-" if found["strength"] is None else f"{found['strength']:.3g}")
        high = "beyond" if found["high"] is None else f"{found['high']:.3g}"
        shown.append("-" if found["note"] else f"{found['low']:.3g} to {high}")
        remarks += [f"{name.upper()}: {found['note']}"] if found["note"] else []
        remarks += [f"{name.upper()} rises from {first:.3g} to {second:.3g}" for first, second in found["rises"]]
    attacker = "adaptive" if row["adaptive"] else "oblivious"
    defense = defense_label(row["defense"], row["argument"], row["fixed"])
    return (row["where"], defense, attack_label(row["attack"]), attacker, *shown, "; ".join(remarks))


def defense_label(name: str, argument: str, fixed: dict[str, Any]) -> str:
    """The defense without its strength, for people."""
    others = ", ".join(f"{key}={value}" for key, value in fixed.items())
    return f"{name} {argument}" + (f" ({others})" if others else "")


def attack_label(attack: dict[str, Any]) -> str:
    """The attack with the arguments that are not the class's own defaults."""
    usual = {p.name: p.default for p in inspect.signature(find_class("attack", attack["class"])).parameters.values()}
    given = {name: value for name, value in attack.items() if name != "class"}
    args = ", ".join(f"{name}={value}" for name, value in given.items() if usual.get(name, ...) != value)
    return f"{attack['class']} {args}".strip()


def room(victims: int, stop: float) -> str:
    """What few victims do not tell, as a sentence."""
    leaking = math.floor(stop * victims)
    return (
        f"With {victims} victims that means at most {leaking}, which a leak rate of up to "
        f"{wilson(leaking, victims)[1]:.0%} can bring about too (Wilson, 95 %)."
    )


def as_markdown(table: Sequence[dict[str, Any]], title: str, criterion: Criterion) -> str:
    """The table as a page."""
    lines = [
        f"# {title}: where leakage stops",
        "",
        f"The weakest tested strength from which on at most {criterion.stop:.0%} of the victims leak, by bisection "
        f"with the same victims at every strength. {room(min(row['victims'] for row in table), criterion.stop)} By "
        f"SSIM a victim leaks at {criterion.ssim:g} or more that no null baseline reaches on it, by PSNR at 20 dB or "
        "more. Intervals are 95 % bootstrap over these victims for where their share falls to "
        f"{criterion.stop:.0%}, and no narrower than the tested strengths on both sides.",
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "|" + "---|" * len(COLUMNS),
        *("| " + " | ".join(cells_of(row)) + " |" for row in table),
    ]
    return "\n".join(lines) + "\n"
