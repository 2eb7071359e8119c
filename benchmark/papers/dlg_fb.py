"""DLG-FB (Leite et al. 2024, arXiv 2409.17767): what feedback blending gains, and what any start near the mean does."""

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np

from benchmark.boards.cells import cells_of_one_code
from benchmark.boards.template import render
from benchmark.errors import UsageError
from benchmark.metrics.intervals import holm
from benchmark.metrics.leak import leaks
from benchmark.papers.clusters import FEW, Difference, of_means, of_parts, of_sums
from benchmark.papers.dlg_fb_figure import figure
from benchmark.papers.sources import provenance, rate, same_attack
from benchmark.store.store import Record, write_whole
from benchmark.suite.registry import spec

STARTS = {
    "noise": "noise",
    "constant": "0.5 everywhere",
    "mean": "data set mean",
    "class_mean": "class mean",
    "last": "last success",
    "ungated": "blend, ungated",
    "blend": "blend, gated (FB)",
}

RELATED = {"MNIST": "images of one digit", "CIFAR100": "images of one class", "LFW": "images of one person"}
"""What images have in common that follow each other, for each data set in the order of the page."""

LEVEL = 0.05
"""Of a family of tests: the probability of one false call among the settings."""


@dataclass(frozen=True)
class Outcome:
    """One attacked victim.

    Attributes:
        leaked: whether its image was found, by the PSNR.
        passed: whether the matching loss came to the paper's threshold.
        evaluations: until it did, or all of them where it did not.
    """

    leaked: bool
    passed: bool
    evaluations: int


Attacked = dict[int, Outcome]
"""The victims of a start that count, by their numbers."""


@dataclass(frozen=True)
class Setting:
    """A data set and an order of its images, attacked with DLG or iDLG."""

    data: str
    same_class: int
    base: str
    gate: float
    length: int
    budget: int
    starts: dict[str, Attacked]
    victims: int

    @property
    def sequences(self) -> int:
        """Those with a victim that counts."""
        return len({index // self.length for index in self.starts["noise"]})

    @property
    def order(self) -> str:
        related = RELATED.get(self.data, "images of one class") if self.same_class > 1 else "unrelated images"
        return f"{self.data}, {related}"

    def rate(self, start: str, of: str) -> str:
        """Of the victims from a start: how many have leaked, or passed, in percent with its interval."""
        hits = [getattr(outcome, of) for outcome in self.starts[start].values()]
        return rate(sum(hits), len(hits))

    def evaluations(self, start: str) -> float:
        """The mean over victims."""
        return fmean(outcome.evaluations for outcome in self.starts[start].values())

    @property
    def label(self) -> str:
        return f"{self.order}, {self.base}"


def page(records: list[Record], folder: Path) -> str:
    """Writes starts.png, and returns the page.

    Raises:
        UsageError: the records are not of this suite.
    """
    found = of_the_paper(records, folder)
    write_whole(folder / "starts.png", drawn(found))
    return told("papers/dlg_fb.md.j2", found, provenance=provenance(records))


def summary(records: list[Record], folder: Path) -> str:
    """Claim, measurement and verdict; an item for each part of the claim, in a line of its own.

    Raises:
        UsageError: the records are not of this suite.
    """
    return told("papers/dlg_fb_summary.md.j2", of_the_paper(records, folder))


def told(template: str, found: list[Setting], **numbers: Any) -> str:
    """A text on these settings."""
    return render(
        template,
        settings=found,
        names=STARTS,
        few=FEW,
        level=LEVEL,
        means={start: [overall(found, start, "noise", of) for of in MEASURES] for start in ("blend", "mean", "last")},
        verdicts=[verdict(found, base, values) for base, values in CLAIMS],
        gain=gain,
        saving=saving,
        points=points,
        percent=percent,
        **numbers,
    )


def of_the_paper(records: list[Record], folder: Path) -> list[Setting]:
    """The settings, of which there is one at least.

    Raises:
        UsageError: there is none, or a loss threshold was not recorded.
    """
    found = settings(records)
    if not found:
        raise UsageError(f"{folder} holds no setting with every start: run configs/dlg_fb.yaml into it first")
    return found


def settings(records: list[Record]) -> list[Setting]:
    """Those in which every start was run, with the victims that all of them attacked."""
    cells = cells_of_one_code(records)[0]
    found: dict[str, dict[str, str]] = defaultdict(dict)
    rules: dict[str, dict[str, Any]] = {}
    for cell, victims in cells.items():
        config: dict[str, Any] = next(iter(victims.values()))[1]["config"]
        attack = config["attack"]
        if attack["class"] == "DLGFB":
            base, start = attack["attack"], attack["feedback"]
        elif attack["class"] in ("DLG", "IDLG"):
            base, start = attack["class"], attack.get("start")
            usual = spec("attack", base, {"start": start, "max_evaluations": attack["max_evaluations"]}).as_dict()
            if not same_attack(attack, usual):  # another experiment, with priors or restarts
                continue
        else:
            continue
        if config["defense"] is None:
            shared = config | {"attack": {"base": base, "max_evaluations": attack["max_evaluations"]}}
            setting = json.dumps(shared, sort_keys=True)
            found[setting][start] = cell
            if start == "blend":
                rules[setting] = config | {"base": base}
    made = [
        setting_of(rules[setting], {start: cells[of_starts[start]] for start in STARTS})
        for setting, of_starts in found.items()
        if set(of_starts) >= set(STARTS)
    ]
    order = list(RELATED)
    known = [setting for setting in made if setting.starts["noise"]]
    return sorted(known, key=lambda s: (order.index(s.data) if s.data in order else 99, s.data, s.same_class, s.base))


def setting_of(config: dict[str, Any], starts: dict[str, dict[int, tuple[dict[str, Any], Record]]]) -> Setting:
    """The setting of one configuration, with the victims that every start attacked."""
    counted = set.intersection(
        *({index for index, (victim, _) in of.items() if victim["start"] != "warm-up"} for of in starts.values())
    )
    attack = config["attack"]
    return Setting(
        config["data"]["class"],
        config.get("same_class", 1),
        config["base"],
        attack["gate"],
        attack["length"],
        attack["max_evaluations"],
        {start: {i: outcome(*of[i], attack["gate"]) for i in sorted(counted)} for start, of in starts.items()},
        len(starts["noise"]),
    )


def outcome(victim: dict[str, Any], record: Record, gate: float) -> Outcome:
    """What became of one victim.

    Raises:
        UsageError: it is not known when the loss came to the gate.
    """
    curve, row = record["curve"], record["victims"].index(victim)
    if gate not in curve["levels"]:
        raise UsageError(f"the loss threshold {gate:g} is not recorded: run with a gate of one of {curve['levels']}")
    at = curve["passed"][row][curve["levels"].index(gate)]
    return Outcome(leaks(victim), at is not None, victim["evaluations"] if at is None else at)


def drawn(found: list[Setting]) -> bytes:
    """The figure of these settings."""
    starts = [start for start in STARTS if start != "noise"]
    rows: dict[str, dict[str, tuple[list[Difference], list[Difference]]]] = defaultdict(dict)
    for setting in found:
        differences = [gain(setting, start) for start in starts], [saving(setting, start) for start in starts]
        rows[setting.order][setting.base] = differences
    return figure(rows, [STARTS[start] for start in starts])


def points(found: Difference, digits: int = 1, unit: str = "") -> str:
    """In percentage points, with its interval."""
    ends = f"{100 * found.low:+.{digits}f} to {100 * found.high:+.{digits}f}" if found.is_bounded else "too few differ"
    return f"{100 * found.value:+z.{digits}f}{unit} ({ends})"


def percent(found: Difference) -> str:
    """In percent, with its interval."""
    return points(found, 0, " %")


Values = Callable[[Outcome, Outcome], tuple[float, float]]
"""What a start changes against another on one victim, and what that is measured in: the difference of two starts is the
ratio of the sums of the two."""


def of_found(here: Outcome, there: Outcome) -> tuple[float, float]:
    """Images found, per victim."""
    return here.leaked - there.leaked, 1


def of_passed(here: Outcome, there: Outcome) -> tuple[float, float]:
    """Loss thresholds met, per victim."""
    return here.passed - there.passed, 1


def of_evaluations(here: Outcome, there: Outcome) -> tuple[float, float]:
    """Evaluations, relative to those of the other start."""
    return here.evaluations - there.evaluations, there.evaluations


MEASURES = (of_found, of_passed, of_evaluations)

CLAIMS = (
    ("noise", of_found),
    ("noise", of_evaluations),
    ("mean", of_found),
    ("mean", of_evaluations),
    ("ungated", of_found),
)
"""What the blend may change, and against which start, in the order in which the page judges it."""


def by_sequence(setting: Setting, start: str, base: str, values: Values) -> dict[int, tuple[float, float]]:
    """The two values summed up over the victims of each sequence."""
    sums: dict[int, tuple[float, float]] = defaultdict(lambda: (0.0, 0.0))
    for index, there in setting.starts[base].items():
        change, unit = values(setting.starts[start][index], there)
        sums[index // setting.length] = tuple(np.add(sums[index // setting.length], (change, unit)))
    return sums


def difference(setting: Setting, start: str, base: str, values: Values) -> Difference:
    """What a start changes against another: rates of victims, or a share of the evaluations."""
    change, unit = np.array(list(by_sequence(setting, start, base, values).values())).T
    return of_sums(unit + change, unit) if values is of_evaluations else of_means(change, unit)


def gain(setting: Setting, start: str, base: str = "noise") -> Difference:
    """Of the rates of images found from two starts."""
    return difference(setting, start, base, of_found)


def passing(setting: Setting, start: str, base: str = "noise") -> Difference:
    """Of the rates at which the loss threshold is met."""
    return difference(setting, start, base, of_passed)


def saving(setting: Setting, start: str, base: str = "noise") -> Difference:
    """Of the evaluations, relative to the base."""
    return difference(setting, start, base, of_evaluations)


def overall(found: Sequence[Setting], start: str, base: str, values: Values) -> Difference:
    """The mean over settings. DLG and iDLG attack the same victims, so that their sequences are one."""
    parts: dict[tuple[str, int], np.ndarray] = defaultdict(lambda: np.zeros(2))
    for setting in found:
        sums = by_sequence(setting, start, base, values)
        changes, units = (sum(column) for column in zip(*sums.values(), strict=True))
        for sequence, (change, unit) in sums.items():
            residual = change - changes / units * unit
            parts[setting.order, sequence] += np.array([change, residual]) / units / len(found)
    return of_parts(*np.stack(list(parts.values())).T)


def sure(differences: Sequence[Difference]) -> tuple[int, int]:
    """How many are surely above 0, and below, of all settings together."""
    corrected = holm([one.p for one in differences])
    of_them = [one.value for one, p in zip(differences, corrected, strict=True) if p <= LEVEL]
    return sum(value > 0 for value in of_them), sum(value < 0 for value in of_them)


class Verdict(NamedTuple):
    """How a claim on the blend stands.

    Attributes:
        word: by the interval of the mean over settings.
        mean: in points of images found, or in percent of evaluations.
        better, worse: in how many settings it holds significantly, and in how many the opposite.
    """

    word: str
    mean: str
    better: int
    worse: int


def verdict(found: list[Setting], base: str, values: Values) -> Verdict:
    """How the claim stands that the blend finds more images than another start, or takes fewer evaluations."""
    mean = overall(found, "blend", base, values)
    above, below = sure([difference(setting, "blend", base, values) for setting in found])
    if values is of_found:
        as_claimed, against, better, worse, said = mean.low > 0, mean.high < 0, above, below, f"{points(mean)} points"
    else:
        as_claimed, against, better, worse, said = mean.high < 0, mean.low > 0, below, above, percent(mean)
    return Verdict("confirmed" if as_claimed else "refuted" if against else "open", said, better, worse)
