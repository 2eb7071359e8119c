"""The search for the strength at which a defense stops leakage: bisection, with the same victims at every strength."""

import itertools
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmark.errors import UsageError, quoted
from benchmark.metrics.leak import BASELINES
from benchmark.store.store import Record
from benchmark.suite.arguments import LARGEST_FLOAT
from benchmark.suite.registry import Spec, is_whole, spec
from benchmark.suite.suite import Cell, Scenario, Suite, parse, read, seeks_images
from benchmark.thresholds.crossing import bracket
from benchmark.thresholds.table import Cells, Criterion, Row, as_curve, identity

LOG_FROM = 100
"""Ends that are further apart than this factor are searched between on a logarithmic scale."""

MOST_STEPS = 50
"""Halvings, after which no two numbers are left to be told apart."""


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
        UsageError: a range is missing, or is not a pair of strengths.
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
    """One threshold that is searched for, and the positions that are tested.

    Attributes:
        scenario, attack, adaptive: who is attacked, how, and whether the attacker knows the defense.
        of: the defense and its range.
        positions: in the range, the ends among them.
    """

    scenario: Scenario
    of: Range
    attack: Spec
    adaptive: bool
    positions: set[float] = field(default_factory=lambda: {0.0, 1.0})

    def cell(self, position: float) -> Cell:
        return Cell(self.scenario, self.of.defense(position), self.attack, self.adaptive)

    def as_row(self) -> Row:
        """As thresholds.json names it."""
        defense = self.of.defense(0.0).as_dict()
        return {
            "dataset": self.scenario.data.name,
            "model": self.scenario.model.name,
            "scenario": self.scenario.config(),
            "where": self.scenario.label,
            "defense": self.of.name,
            "argument": self.of.argument,
            "fixed": {name: value for name, value in defense.items() if name not in ("class", self.of.argument)},
            "attack": self.attack.as_dict(),
            "adaptive": self.adaptive,
            "victims": self.scenario.victims,
            "strengths": list(dict.fromkeys(self.of.strength(p) for p in sorted(self.positions))),
        }

    def joined(self, other: Range) -> "Search":
        """The same search in another range as well: both are on one curve, whose ends are the outer ones.

        Raises:
            UsageError: the strong end of one is the weak end of the other.
        """
        ends = [self.of.strength(p) for p in self.positions] + [other.weak, other.strong]
        rising = self.of.strong > self.of.weak
        if rising != (other.strong > other.weak):
            raise UsageError(
                f"ranges of {other.name} {other.argument} must all run from the weak end to the strong end"
            )
        weak, strong = (min(ends), max(ends)) if rising else (max(ends), min(ends))
        whole = replace(self.of, weak=weak, strong=strong)
        return Search(self.scenario, whole, self.attack, self.adaptive, {whole.position(end) for end in ends})


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
            if cell.attack.name not in BASELINES and seeks_images(cell.attack)
        ]
        for control, one, adaptive in itertools.product(controls, found, (False, True)):
            search = Search(control.scenario, one, control.attack, adaptive)
            key = identity(search.as_row())
            searches[key] = searches[key].joined(one) if key in searches else search
    return suite, list(searches.values())


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
        return replace(self.suite, cells=tuple(unique.values()))

    def narrow(self, records: list[Record]) -> bool:
        """Halves each search's brackets, one for each measure, where there is a strength between their ends.

        Returns:
            Whether there is one more strength to be tested.
        """
        found, narrowed = Cells(records), False
        for search in self.searches:
            cells = found.curve(search.as_row())
            for leaks_by in self.criterion.measures.values():
                between = middle(search, bracket(as_curve(cells, leaks_by), self.criterion.stop))
                narrowed = narrowed or not between <= search.positions
                search.positions |= between
        return narrowed


def middle(search: Search, ends: tuple[float | None, float | None]) -> set[float]:
    """The position between two tested strengths; none where there is no strength between them."""
    tested = {search.of.strength(position): position for position in search.positions}
    weaker, stronger = ends
    if weaker is None or stronger is None:
        return set()
    between = search.of.between(tested[weaker], tested[stronger])
    return set() if between is None else {between}
