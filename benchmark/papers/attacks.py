"""Every attack near its published setting, at a size that runs here: what was published of it beside what we found."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import inf, isinf, sqrt
from pathlib import Path
from statistics import correlation, fmean, median
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from benchmark.boards.cells import cells_of_one_code
from benchmark.boards.leaderboard import training_of
from benchmark.boards.outcome import Outcome, of_cells, strength
from benchmark.boards.template import render
from benchmark.errors import UsageError
from benchmark.federation.setting import described
from benchmark.metrics.intervals import median_interval, t_interval, wilson
from benchmark.metrics.leak import THRESHOLDS
from benchmark.papers.sources import paper, provenance
from benchmark.store.store import Record
from benchmark.suite.registry import arguments, classes

Victim = dict[str, Any]

EXACT = 40.0
"""PSNR in dB from which on an image counts as exact."""

METRICS: dict[str, tuple[str, Callable[[Victim], float]]] = {
    "psnr": ("PSNR, dB", lambda victim: fmean(victim["psnr"])),
    "median": ("median PSNR, dB", lambda victim: fmean(victim["psnr"])),
    "ssim": ("SSIM", lambda victim: fmean(victim["ssim"])),
    "found": ("images found", lambda victim: fmean(mse <= THRESHOLDS[0] for mse in victim["mse"])),
    "exact": ("exact images", lambda victim: fmean(psnr >= EXACT for psnr in victim["psnr"])),
    "counts": ("label counts", lambda victim: float(victim["labels"]["counts"])),
}
"""What a row can be about: its name on the page, and the value of a victim of a record."""

SHARES = ("found", "exact", "counts")
"""Those that are from 0 to 1."""

NORMAL = 1.959964
"""Standard errors in half a 95 % interval."""

AGREES, REACHED, DIFFERS, OPEN = "agrees", "as much or more", "differs", "open"
"""Verdicts on what is compared; REACHED where as much is enough."""

OTHER, NOT_RUN, NONE = "another setting", "not run", "-"
"""On what is not: published in another setting, not run here, or without anything to compare with."""

Text = Annotated[str, Meta(min_length=1)]
Amount = Annotated[float, Meta(ge=0)]


class Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What was published of an attack, and which cell stands beside it; see attacks.yaml."""

    cell: dict[str, Any]
    published: Text
    metric: str = "psnr"
    value: float | None = None
    spread: Amount | None = None
    trials: Annotated[int, Meta(ge=1)] | None = None
    of_victims: list[float] = []
    than: dict[str, Any] | None = None
    source: Text | None = None
    tolerance: Amount = 0.0
    at_least: bool = False
    ours: str = ""

    def __post_init__(self) -> None:
        if self.attack not in classes("attack"):
            raise ValueError(f"{self.attack} is no attack")
        if self.metric not in METRICS:
            raise ValueError(f"the metric {self.metric} is none of {', '.join(METRICS)}")
        values = self.of_victims if self.value is None else [self.value]
        if (self.value is not None) + bool(self.of_victims) + (self.than is not None) > 1:
            raise ValueError("value, of_victims and than are three ways to say one thing: give one")
        if (self.source is None) == bool(values):
            raise ValueError("source says where value or of_victims is from: give both or neither")
        if not all(0 <= value <= (1 if self.metric in SHARES else 100) for value in values):
            raise ValueError(f"a value of {self.metric} is out of range")
        if (self.spread is not None or self.trials is not None) and self.value is None:
            raise ValueError("spread and trials are of a value, which is missing")
        if self.spread is not None and ((self.trials or 1) == 1 or self.metric in (*SHARES, "median")):
            raise ValueError("spread is that of a mean over trials: give both, and no spread of a share or a median")
        if self.metric == "median" and (self.of_victims or self.than is not None):
            raise ValueError("a median stands beside a value: of single victims and of another attack give psnr")
        is_compared = bool(self.tolerance or self.at_least)
        if self.than is not None and not is_compared:
            raise ValueError("nothing agrees to all digits: give tolerance or at_least")
        if values and not is_compared and not self.ours:
            raise ValueError("a value that is not compared is of another setting: say in ours what is not the same")

    @property
    def attack(self) -> str:
        """Its class."""
        of_cell = self.cell.get("attack")
        return str(of_cell.get("class")) if isinstance(of_cell, dict) else "a cell without attack"


def rows_of(given: Mapping[str, Any]) -> list[Row]:
    """The rows of a page.

    Args:
        given: what attacks.yaml holds.

    Raises:
        UsageError: a key, a type or a value is wrong.
    """
    try:
        return msgspec.convert(given, dict[str, list[Row]])["rows"]
    except msgspec.ValidationError as error:
        raise UsageError(f"attacks.yaml: {error}") from None


@dataclass(frozen=True)
class Mean:
    """A mean, or a median, with its 95 % interval, infinite where one value tells of no spread."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float], share: bool = False) -> "Mean":
        """Of independent values: by Student's t, or by Wilson where each of a share is 0 or 1."""
        if share and set(values) <= {0.0, 1.0}:
            return cls(fmean(values), *wilson(round(sum(values)), len(values)))
        low, high = t_interval(values)
        ends = (-inf if low is None else low, inf if high is None else high)
        return cls(fmean(values), *((max(0.0, ends[0]), min(1.0, ends[1])) if share else ends))

    @classmethod
    def middle(cls, values: Sequence[float]) -> "Mean":
        """The median, with the order statistics between which that of the population lies, whatever the law."""
        return cls(median(values), *median_interval(values))

    def less(self, other: "Mean", correlation: float = 0.0) -> "Mean":
        """The difference of two means, from the interval of each (Newcombe 1998).

        Args:
            other: what is taken away.
            correlation: of the values of the two, 0 where they are independent.
        """

        def together(one: float, two: float) -> float:
            return inf if isinf(one) or isinf(two) else sqrt(one**2 + two**2 - 2 * correlation * one * two)

        difference = self.value - other.value
        below = together(self.value - self.low, other.high - other.value)
        return Mean(
            difference, difference - below, difference + together(self.high - self.value, other.value - other.low)
        )


@dataclass(frozen=True)
class Line:
    """A row with what the records hold.

    Attributes:
        number: of the row on the page.
        row: what was published.
        found: its cell; None where it was not run.
        baselines: null baselines on the same victims.
        other: the attack that it is compared with, if it is and that was run.
    """

    number: int
    row: Row
    found: Outcome | None
    baselines: tuple[Outcome, ...] = ()
    other: Outcome | None = None

    def values(self, of: Outcome) -> dict[int, float]:
        """By the victims that an outcome and the row's have in common."""
        value, shared = METRICS[self.row.metric][1], self.found.indices if self.found else frozenset()
        return {index: value(victim) for index, victim in of.victims.items() if index in shared}

    @cached_property
    def ours(self) -> Mean | None:
        """What was found here."""
        return self._mean(self.values(self.found).values()) if self.found else None

    @cached_property
    def null(self) -> float | None:
        """The best null baseline."""
        return max((self._mean(of.values()).value for one in self.baselines if (of := self.values(one))), default=None)

    @cached_property
    def theirs(self) -> Mean | None:
        """What ours stands beside, on as many victims as both have where it is known of each."""
        row = self.row
        if row.value is not None:
            half = NORMAL * row.spread / sqrt(row.trials) if row.spread is not None and row.trials else 0.0
            half = inf if row.trials == 1 else half
            ends = (row.value - half, row.value + half)
            if row.metric in SHARES and row.trials:
                ends = wilson(round(row.value * row.trials), row.trials)
            return Mean(row.value, *ends)
        pairs = self.pairs
        if pairs:
            return self._mean([other for _, other in pairs])
        return self._mean(row.of_victims) if row.of_victims else None

    @cached_property
    def pairs(self) -> list[tuple[float, float]]:
        """Ours and theirs of each victim, where theirs are known."""
        ours = self.values(self.found) if self.found else {}
        theirs = self.values(self.other) if self.other else dict(enumerate(self.row.of_victims))
        return [(ours[index], theirs[index]) for index in sorted(ours.keys() & theirs.keys())]

    @cached_property
    def difference(self) -> Mean | None:
        """Ours less theirs, of each victim where both are known of it.

        Where each victim is found or not, equal differences tell of no spread: there the interval is Newcombe's for
        pairs (1998), from those of both shares and their correlation.
        """
        if self.pairs:
            ours, theirs = zip(*self.pairs, strict=True)
            if self.row.metric in SHARES and {*ours, *theirs} <= {0.0, 1.0}:
                varied = len({*ours}) == len({*theirs}) == 2
                return self._mean(ours).less(self._mean(theirs), correlation(ours, theirs) if varied else 0.0)
            paired = Mean.of([ours - theirs for ours, theirs in self.pairs])
            most = 1.0 if self.row.metric in SHARES else inf
            return Mean(paired.value, max(-most, paired.low), min(most, paired.high))
        is_mean = self.row.value is not None and self.ours and self.theirs
        return self.ours.less(self.theirs) if is_mean and self.ours and self.theirs else None

    @cached_property
    def verdict(self) -> str:
        """Whether ours is surely what was published, or as much where that is enough."""
        row, by = self.row, self.difference
        if self.found is None or (row.than is not None and self.other is None):
            return NOT_RUN
        if by is None:
            return NONE if self.theirs is None else NOT_RUN
        if not row.tolerance and not row.at_least:
            return OTHER
        if row.at_least and by.low >= -row.tolerance:
            return REACHED
        if not row.at_least and -row.tolerance <= by.low <= by.high <= row.tolerance:
            return AGREES
        is_more = not row.at_least and by.low > row.tolerance
        return DIFFERS if by.high < -row.tolerance or is_more else OPEN

    @property
    def seconds(self) -> float | None:
        """Of a victim."""
        if self.found is None:
            return None
        records = self.found.records
        return sum(r["cost"]["seconds"] for r in records) / sum(len(r["victims"]) for r in records)

    @property
    def training(self) -> float | None:
        """CPU seconds of the training of the attacker's network, once for all victims; None where there was none."""
        return training_of(self.found.records) if self.found else None

    def middle(self, name: str) -> float | None:
        """The median of what the records say of the victims under this name; None where they do not."""
        values = [v[name] for v in self.found.victims.values() if v.get(name) is not None] if self.found else []
        return median(values) if values else None

    @property
    def setting(self) -> str:
        """Ours, in a few words."""
        if self.found is None:
            return NOT_RUN
        config, victims = self.found.config, len(self.found.victims)
        batch = f"{victims} batches of {config['batch_size']}" if config["batch_size"] > 1 else f"{victims} images"
        parts = [f"{batch} of {config['data']['class']}", changed("model", config["model"])]
        parts += described(config)
        if defense := config["defense"]:
            parts.append(f"{defense['class']} {strength(defense)}{', known' if self.found.adaptive else ''}")
        budget = config["attack"].get("max_evaluations")
        return ", ".join([*parts, *([f"{budget:,} evaluations"] if budget else [])])

    @property
    def named(self) -> str:
        """The attack with what is not usual of it, but its budget, and the defense."""
        attack = changed("attack", {k: v for k, v in self.cell_of_attack.items() if k != "max_evaluations"})
        defense = self.found.config["defense"] if self.found else None
        if not defense or not self.found:
            return attack
        return f"{attack} behind {changed('defense', defense)}{', known' if self.found.adaptive else ''}"

    @property
    def cell_of_attack(self) -> dict[str, Any]:
        """As it was run, or else as the row has it."""
        given: dict[str, Any] = self.found.config["attack"] if self.found else self.row.cell["attack"]
        return given

    @property
    def published(self) -> str:
        """What ours stands beside, in a few words."""
        row = self.row
        if row.than is not None:
            return f"{changed('attack', row.than['attack'])}: {self.with_interval(self.theirs)}"
        if row.of_victims:
            return f"{self.shown(fmean(row.of_victims))} of {len(row.of_victims)}"
        if row.value is None:
            return "no value"
        spread = f" ± {self.shown(row.spread)}" if row.spread is not None else ""
        return self.shown(row.value) + spread + (f" of {row.trials:,}" if row.trials else "")

    @property
    def victims(self) -> str:
        """How many ours is of, and of how many the difference is where those are fewer."""
        count = len(self.found.victims) if self.found else 0
        return f"{count}, {len(self.pairs)} of them theirs" if 0 < len(self.pairs) < count else str(count or NONE)

    @property
    def tolerance(self) -> str:
        """By how much ours may be off."""
        if self.row.at_least:
            return "at least" + (f", less {self.row.tolerance:g}" if self.row.tolerance else "")
        return f"{self.row.tolerance:g}" if self.row.tolerance else NONE

    def shown(self, value: float | None, sign: str = "") -> str:
        """A value of the metric in its digits, with its sign on demand."""
        return NONE if value is None else format(value, f"{sign}.{2 if self.row.metric in ('psnr', 'median') else 3}f")

    def with_interval(self, of: Mean | None, sign: str = "") -> str:
        """As in "24.01 (22.00 to 26.02)"."""
        if of is None:
            return NOT_RUN
        ends = "" if isinf(of.low) else f" ({self.shown(of.low, sign)} to {self.shown(of.high, sign)})"
        return self.shown(of.value, sign) + ends

    def _mean(self, values: Iterable[float]) -> Mean:
        if self.row.metric == "median":
            return Mean.middle(list(values))
        return Mean.of(list(values), self.row.metric in SHARES)


def changed(kind: str, config: Mapping[str, Any]) -> str:
    """A class with those of its arguments that are not as by default."""
    usual = arguments(kind, config["class"]).filled({})
    given = ", ".join(f"{k}={v}" for k, v in config.items() if k != "class" and v != usual.get(k))
    return f"{config['class']}({given})" if given else str(config["class"])


def has(config: Any, wanted: Any) -> bool:
    """Whether a configuration has all that is wanted, at any depth."""
    if isinstance(wanted, dict):
        return isinstance(config, dict) and all(key in config and has(config[key], wanted[key]) for key in wanted)
    return bool(config == wanted)


def lines(records: Sequence[Record], rows: Sequence[Row], folder: Path) -> list[Line]:
    """Each row with its cell.

    Raises:
        UsageError: a row fits several cells, or there are records of none.
    """
    found = list(of_cells(cells_of_one_code(records)[0]))

    def only(fitting: list[Outcome], row: Row) -> Outcome | None:
        if len(fitting) > 1:
            raise UsageError(f"{folder} holds {len(fitting)} cells of {row.attack} where one is wanted: keep one seed")
        return fitting[0] if fitting else None

    made = []
    for number, row in enumerate(rows, 1):
        cell = only([one for one in found if has(one.config, row.cell)], row)
        beside = [one for one in found if cell and one.scenario == cell.scenario]
        same = [one for one in beside if cell and (one.defense, one.adaptive) == (cell.defense, cell.adaptive)]
        other = only([one for one in same if row.than is not None and has(one.config, row.than)], row)
        made.append(Line(number, row, cell, tuple(one for one in beside if one.is_baseline), other))
    if not any(line.found for line in made):
        raise UsageError(f"{folder} holds none of the attacks' cells: run configs/attacks.yaml into it first")
    return made


def page(records: list[Record], folder: Path) -> str:
    """The page.

    Raises:
        UsageError: as :func:`lines`.
    """
    made = lines(records, rows_of(paper("attacks")), folder)
    names = {name: said for name, (said, _) in METRICS.items()}
    return render("papers/attacks.md.j2", lines=made, metrics=names, limit=EXACT, provenance=provenance(records))


def summary(records: list[Record], folder: Path) -> str:
    """What agrees and what does not.

    Raises:
        UsageError: as :func:`lines`.
    """
    return render("papers/attacks_summary.md.j2", lines=lines(records, rows_of(paper("attacks")), folder))
