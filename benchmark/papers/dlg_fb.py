"""DLG-FB (Leite et al. 2024, arXiv 2409.17767): what feedback blending gains, and what any start near the mean does."""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmark.boards.cells import cells_of_one_code
from benchmark.boards.template import render
from benchmark.errors import UsageError
from benchmark.metrics.intervals import holm
from benchmark.metrics.leak import leaks
from benchmark.papers.clusters import FEW, Difference, of_means, of_parts, of_sums
from benchmark.papers.dlg_fb_figure import figure
from benchmark.papers.sources import paper, provenance, rate, same_attack
from benchmark.store.store import Record, write_whole
from benchmark.suite.registry import spec

PAPER = paper("dlg_fb")
"""Its claims, how they are judged, and the names of starts and of orders of images."""

STARTS: dict[str, str] = PAPER["starts"]

FOUND, PASSED, EVALUATIONS = range(3)
"""What a start does for a victim: whether its image is found, whether the matching loss comes to the paper's threshold,
and the evaluations until it does, or all of them."""

Array = NDArray[np.float64]

Victims = dict[int, tuple[dict[str, Any], Record]]
"""By their numbers, with their records."""


@dataclass(frozen=True)
class Setting:
    """A data set and an order of its images, attacked with DLG or iDLG.

    Attributes:
        indices: numbers of the victims that every start attacked, ``[V]``: these count.
        outcomes: of each start, ``[V, 3]``: what it does for each of them.
        victims: all that were attacked.
    """

    data: str
    same_class: int
    base: str
    gate: float
    length: int
    budget: int
    indices: NDArray[np.int64]
    outcomes: dict[str, Array]
    victims: int

    @cached_property
    def sequences(self) -> NDArray[np.int64]:
        """Those with a victim that counts."""
        return np.unique(self.indices // self.length)

    @property
    def order(self) -> str:
        related = PAPER["related"].get(self.data, "images of one class") if self.same_class > 1 else "unrelated images"
        return f"{self.data}, {related}"

    @property
    def label(self) -> str:
        return f"{self.order}, {self.base}"

    def rate(self, start: str, what: int) -> str:
        """Of the victims for whom a start does it, in percent with its interval."""
        hits = self.outcomes[start][:, what]
        return rate(int(hits.sum()), len(hits))

    def evaluations(self, start: str) -> float:
        """The mean over victims."""
        return float(self.outcomes[start][:, EVALUATIONS].mean())

    def sums(self, start: str, base: str, what: int) -> Array:
        """Over the victims of each sequence, ``[2, S]``: what a start changes against another, and its unit.

        The difference of the two starts is the ratio of the sums: rates are of victims, evaluations of those of the
        other start.
        """
        here, there = (self.outcomes[one][:, what] for one in (start, base))
        places = np.searchsorted(self.sequences, self.indices // self.length)
        units = there if what == EVALUATIONS else np.ones_like(there)
        return np.stack([np.bincount(places, values) for values in (here - there, units)])

    def difference(self, start: str, what: int, base: str = "noise") -> Difference:
        """What a start changes against another: a rate, or a share of the evaluations."""
        change, unit = self.sums(start, base, what)
        return of_sums(unit + change, unit) if what == EVALUATIONS else of_means(change, unit)


def page(records: list[Record], folder: Path) -> str:
    """Writes starts.png, and returns the page.

    Raises:
        UsageError: the records are not of this suite.
    """
    found = of_the_paper(records, folder)
    write_whole(folder / "starts.png", drawn(found))
    return render("papers/dlg_fb.md.j2", **numbers(found), provenance=provenance(records))


def summary(records: list[Record], folder: Path) -> str:
    """Claim, measurement and verdict; an item for each part of the claim, in a line of its own.

    Raises:
        UsageError: the records are not of this suite.
    """
    return render("papers/dlg_fb_summary.md.j2", **numbers(of_the_paper(records, folder)))


def numbers(found: list[Setting]) -> dict[str, Any]:
    """What both texts are made of."""
    return {
        "paper": PAPER,
        "settings": found,
        "few": FEW,
        "means": {
            start: [overall(found, start, "noise", what) for what in range(3)] for start in ("blend", "mean", "last")
        },
        "verdicts": [verdict(found, claim) for claim in PAPER["claims"]],
        "points": points,
        "percent": percent,
        "FOUND": FOUND,
        "PASSED": PASSED,
        "EVALUATIONS": EVALUATIONS,
    }


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
    found: dict[str, dict[str, Victims]] = defaultdict(dict)
    for victims in cells_of_one_code(records)[0].values():
        config = next(iter(victims.values()))[1]["config"]
        base, start = base_and_start(config["attack"])
        if base and config["defense"] is None:
            shared = config | {"attack": {"base": base, "max_evaluations": config["attack"]["max_evaluations"]}}
            found[json.dumps(shared, sort_keys=True)][start] = victims
    made = [setting_of({start: of[start] for start in STARTS}) for of in found.values() if set(of) >= set(STARTS)]
    order = list(PAPER["related"])
    known = [setting for setting in made if len(setting.indices)]
    return sorted(known, key=lambda s: (order.index(s.data) if s.data in order else 99, s.data, s.same_class, s.base))


def base_and_start(attack: dict[str, Any]) -> tuple[str, str]:
    """DLG or IDLG, and where it starts; empty where it is another experiment, with priors or restarts say."""
    name, start = attack["class"], attack.get("start", "")
    if name == "DLGFB":
        return attack["attack"], attack["feedback"]
    if name not in ("DLG", "IDLG"):
        return "", ""
    usual = spec("attack", name, {"start": start, "max_evaluations": attack["max_evaluations"]}).as_dict()
    return (name, start) if same_attack(attack, usual) else ("", "")


def setting_of(starts: dict[str, Victims]) -> Setting:
    """The setting in which these starts were run, with the victims that all of them attacked."""
    attacked = ({index for index, (victim, _) in of.items() if victim["start"] != "warm-up"} for of in starts.values())
    counted = sorted(set.intersection(*attacked))
    config = next(iter(starts["blend"].values()))[1]["config"]
    attack = config["attack"]
    return Setting(
        config["data"]["class"],
        config.get("same_class", 1),
        attack["attack"],
        attack["gate"],
        attack["length"],
        attack["max_evaluations"],
        np.array(counted, dtype=np.int64),
        {start: np.array([outcome(*of[i], attack["gate"]) for i in counted]) for start, of in starts.items()},
        len(starts["noise"]),
    )


def outcome(victim: dict[str, Any], record: Record, gate: float) -> tuple[float, float, float]:
    """What was done for one victim: found, passed, evaluations.

    Raises:
        UsageError: it is not known when the loss came to the gate.
    """
    curve, row = record["curve"], record["victims"].index(victim)
    if gate not in curve["levels"]:
        raise UsageError(f"the loss threshold {gate:g} is not recorded: run with a gate of one of {curve['levels']}")
    at = curve["passed"][row][curve["levels"].index(gate)]
    return leaks(victim), at is not None, victim["evaluations"] if at is None else at


def drawn(found: list[Setting]) -> bytes:
    """The figure of these settings."""
    starts = [start for start in STARTS if start != "noise"]
    rows: dict[str, dict[str, tuple[list[Difference], list[Difference]]]] = defaultdict(dict)
    for setting in found:
        gains, savings = ([setting.difference(start, what) for start in starts] for what in (FOUND, EVALUATIONS))
        rows[setting.order][setting.base] = gains, savings
    return figure(rows, [STARTS[start] for start in starts])


def points(found: Difference, digits: int = 1, unit: str = "") -> str:
    """In percentage points, with its interval."""
    ends = f"{100 * found.low:+.{digits}f} to {100 * found.high:+.{digits}f}" if found.is_bounded else "too few differ"
    return f"{100 * found.value:+z.{digits}f}{unit} ({ends})"


def percent(found: Difference) -> str:
    """In percent, with its interval."""
    return points(found, 0, " %")


def overall(found: Sequence[Setting], start: str, base: str, what: int) -> Difference:
    """The mean over settings. DLG and iDLG attack the same victims, so that their sequences are one."""
    parts: dict[tuple[str, int], Array] = defaultdict(lambda: np.zeros(2))
    for setting in found:
        changes, units = setting.sums(start, base, what)
        residuals = changes - changes.sum() / units.sum() * units
        for sequence, part in zip(setting.sequences, np.stack([changes, residuals]).T, strict=True):
            parts[setting.order, int(sequence)] += part / units.sum() / len(found)
    return of_parts(*np.stack(list(parts.values())).T)


def sure(differences: Sequence[Difference]) -> tuple[int, int]:
    """How many are surely above 0, and below, of all settings together."""
    corrected = holm([one.p for one in differences])
    of_them = [one.value for one, p in zip(differences, corrected, strict=True) if p <= PAPER["level"]]
    return sum(value > 0 for value in of_them), sum(value < 0 for value in of_them)


class Verdict(NamedTuple):
    """How a claim on the blend stands.

    Attributes:
        claim: in words.
        word: by the interval of the mean over settings.
        mean: in points of images found, or in percent of evaluations.
        better, worse: in how many settings it holds significantly, and in how many the opposite.
    """

    claim: str
    word: str
    mean: str
    better: int
    worse: int


def verdict(found: list[Setting], claim: dict[str, str]) -> Verdict:
    """How the claim stands that the blend finds more images than another start, or takes fewer evaluations."""
    what = EVALUATIONS if claim["in"] == "evaluations" else FOUND
    mean = overall(found, "blend", claim["than"], what)
    higher, lower = sure([setting.difference("blend", what, claim["than"]) for setting in found])
    if what == EVALUATIONS:
        as_claimed, against, better, worse, said = mean.high < 0, mean.low > 0, lower, higher, percent(mean)
    else:
        as_claimed, against, better, worse, said = mean.low > 0, mean.high < 0, higher, lower, f"{points(mean)} points"
    word = "confirmed" if as_claimed else "refuted" if against else "open"
    return Verdict(claim["said"], word, said, better, worse)
