"""iDLG (Zhao, Mopuri and Bilen 2020, arXiv 2001.02610): table 1 and figure 1 beside our run of the same protocol."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import msgspec
import numpy as np

from benchmark.boards.cells import cells_of_one_code
from benchmark.boards.figure import as_png, blank
from benchmark.boards.markdown import threads
from benchmark.boards.outcome import of_cells
from benchmark.boards.template import render
from benchmark.errors import UsageError
from benchmark.metrics.intervals import equivalent, holm, paired_p, rate_difference, wilson
from benchmark.metrics.leak import THRESHOLDS
from benchmark.papers.sources import paper, provenance, rate, same_attack
from benchmark.store.store import Record, write_whole
from benchmark.studies.bench import BATCHED, ONE_BY_ONE, faster
from benchmark.suite.documents import read_json
from benchmark.suite.registry import spec

PAPER = paper("idlg")
"""The paper's figures, and how ours are compared with them."""

ATTACKS: list[str] = PAPER["attacks"]

WHOLE_LFW = "LFW with 5,749 classes"
"""LFW's photographs that are here, in the label space of the whole set."""

DIFFERS, EQUIVALENT, OPEN = PAPER["marks"]
"""Verdicts on a value beside the paper's."""

Victims = dict[str, list[dict[str, Any]]]
"""By the attack, or by the data set."""


@dataclass(frozen=True)
class Comparison:
    """A rate of the paper's beside ours.

    Attributes:
        paper: the paper's, from 0 to 1.
        found, trials: ours.
        reading: how far off the paper's value can be.
    """

    paper: float
    found: int
    trials: int
    reading: float = 0.0

    @cached_property
    def verdict(self) -> str:
        """Whether the difference is surely one, surely within the margin, or neither is sure."""
        samples = self.found, self.trials, round(self.paper * PAPER["trials"]), PAPER["trials"]
        low, high = rate_difference(*samples, confidence=1 - PAPER["level"])
        if low > self.reading or high < -self.reading:
            return DIFFERS
        is_equal = equivalent(*samples, margin=PAPER["margin"] - self.reading, level=PAPER["level"])
        return EQUIVALENT if is_equal else OPEN

    @property
    def rate(self) -> str:
        """Ours, in percent, with its interval."""
        return rate(self.found, self.trials)


@dataclass(frozen=True)
class DataSet:
    """A data set with the victims that all attacks on it have.

    Attributes:
        name: on the page.
        victims: by the attack.
    """

    name: str
    victims: Victims

    def __len__(self) -> int:
        """The attacked images."""
        return len(next(iter(self.victims.values())))

    @cached_property
    def labels(self) -> dict[str, Comparison]:
        """Of table 1, by the attack."""
        percent = PAPER["labels"][PAPER["sets"][self.name]]
        right = {attack: sum(v["label_correct"][0] for v in victims) for attack, victims in self.victims.items()}
        return {attack: Comparison(percent[attack] / 100, count, len(self)) for attack, count in right.items()}

    @cached_property
    def shares(self) -> dict[str, list[Comparison]]:
        """Of figure 1, by the attack, for each of ``THRESHOLDS``."""
        percent, reading = PAPER["shares"][PAPER["sets"][self.name]], PAPER["reading"] / 100
        return {
            attack: [
                Comparison(theirs / 100, sum(v["mse"][0] <= limit for v in victims), len(self), reading)
                for theirs, limit in zip(percent[attack], THRESHOLDS, strict=True)
            ]
            for attack, victims in self.victims.items()
        }

    def found(self, attack: str, ending: str | None = None) -> list[bool]:
        """Whether each image was found, by the loosest of the paper's thresholds; of those alone that ended so."""
        victims = [victim for victim in self.victims[attack] if ending in (None, victim["status"])]
        return [bool(victim["mse"][0] <= THRESHOLDS[0]) for victim in victims]

    def verdicts(self, verdict: str) -> list[str]:
        """The attack of each share that has this verdict."""
        return [attack for attack, shares in self.shares.items() for share in shares if share.verdict == verdict]

    @property
    def off(self) -> list[str]:
        """The attacks of which a share differs."""
        return list(dict.fromkeys(self.verdicts(DIFFERS)))

    def evaluations(self, attack: str) -> float:
        """The mean over the images."""
        return fmean(victim["evaluations"] for victim in self.victims[attack])


def page(records: list[Record], folder: Path) -> str:
    """Writes figure1.png, and returns the page.

    Raises:
        UsageError: the records are not of this suite.
    """
    found = of_the_paper(records, folder)
    write_whole(folder / "figure1.png", figure(list(found.values())))
    few, whole = found.get("LFW"), found.get(WHOLE_LFW)
    return render(
        "papers/idlg.md.j2",
        paper=PAPER,
        limits=THRESHOLDS,
        sets=list(found.values()),
        measured=published(folder),
        label_space={attack: label_space(few, whole, attack) for attack in ATTACKS} if few and whole else {},
        provenance=provenance(records),
    )


def summary(records: list[Record], folder: Path) -> str:
    """Claim, measurement and verdict; an item for each data set, in a line of its own.

    Raises:
        UsageError: the records are not of this suite.
    """
    sets = list(of_the_paper(records, folder).values())
    p_values = holm([paired_p(*map(one.found, ATTACKS)) for one in sets])
    gains = [sum(one.found("IDLG")) > sum(one.found("DLG")) for one in sets]
    return render(
        "papers/idlg_summary.md.j2",
        paper=PAPER,
        limits=THRESHOLDS,
        sets=sets,
        surely=[p <= PAPER["level"] and gain for p, gain in zip(p_values, gains, strict=True)],
        wrong=sum(one.labels["IDLG"].trials - one.labels["IDLG"].found for one in sets),
        each={v: [f"{attack} on {one.name}" for one in sets for attack in one.verdicts(v)] for v in PAPER["marks"]},
    )


def of_the_paper(records: list[Record], folder: Path) -> dict[str, DataSet]:
    """The data sets that were attacked with both attacks by the paper's protocol.

    Raises:
        UsageError: there is no data set with both, or one with two seeds or networks.
    """
    as_published = {attack: spec("attack", attack, {}).as_dict() for attack in ATTACKS}
    found: dict[str, Victims] = defaultdict(dict)
    for cell in of_cells(cells_of_one_code(records)[0]):
        name, attack = data_set(cell.config["data"]), cell.config["attack"]["class"]
        known = name in PAPER["sets"] and same_attack(cell.config["attack"], as_published.get(attack, {}))
        if known and cell.config["model"]["class"] == "LeNet" and not cell.defended:
            if attack in found[name]:
                raise UsageError(f"{folder} holds {name} with {attack} twice, say of two seeds: keep one")
            found[name][attack] = list(cell.victims.values())
    paired = {
        name: DataSet(name, {attack: of_both[attack] for attack in ATTACKS})
        for name in PAPER["sets"]
        if len(found[name]) == len(ATTACKS) and (of_both := in_common(found[name]))
    }
    if not paired:
        raise UsageError(f"{folder} holds no data set with both DLG and IDLG: run configs/idlg.yaml into it first")
    return paired


def in_common(victims: Victims) -> Victims:
    """The victims that all have; nothing where there is none."""
    shared = set.intersection(*({victim["index"] for victim in each} for each in victims.values()))
    return {name: [v for v in each if v["index"] in shared] for name, each in victims.items()} if shared else {}


def data_set(data: dict[str, Any]) -> str:
    """The name on the page."""
    whole = data["class"] == "ImageFolder" and data["num_classes"] == 5749 and data["path"].startswith("lfw-py/")
    return WHOLE_LFW if whole else str(data["class"])


class LabelSpace(NamedTuple):
    """The same images of LFW, attacked in the label spaces of those that are here and of the whole set.

    Attributes:
        here, there: the shares of images found in the two.
        p: of the exact paired test.
        explains: whether the whole label space surely brings the share nearer to the paper's.
    """

    here: Comparison
    there: Comparison
    p: float
    explains: bool


def label_space(few: DataSet, whole: DataSet, attack: str) -> LabelSpace | None:
    """What the label space of LFW explains, None where no image was attacked in both."""
    both = in_common({"LFW": few.victims[attack], WHOLE_LFW: whole.victims[attack]})
    if not both:
        return None
    sets = [DataSet(name, {attack: victims}) for name, victims in both.items()]
    here, there = (one.shares[attack][0] for one in sets)
    p = paired_p(*(one.found(attack) for one in sets))
    before, after = (abs(one.found / one.trials - here.paper) for one in (here, there))
    return LabelSpace(here, there, p, p <= PAPER["level"] and after < before)


class Side(msgspec.Struct):
    """The published loop, or ours, on the same images, networks and starts, as ``leakboard bench`` measured it."""

    victims: int
    leak_rate: float
    leak_rate_low: float
    leak_rate_high: float
    label_accuracy: float
    diverged: int
    speedup: float
    threads: int


class Sides(msgspec.Struct):
    """The two beside each other."""

    loop: Side = msgspec.field(name=ONE_BY_ONE)
    ours: Side = msgspec.field(name=BATCHED)


class Named(msgspec.Struct):
    """A class, by its name."""

    name: str = msgspec.field(name="class")


class Published(msgspec.Struct):
    """What ``leakboard bench --format json`` has measured."""

    data: Named
    attack: Named
    sides: Sides

    @property
    def speed(self) -> str:
        """The speedup, and at which numbers of threads."""
        loop, ours = self.sides.loop.threads, self.sides.ours.threads
        at = f"{threads(ours)} each" if loop == ours else f"{threads(ours)}, the loop at {loop}"
        return f"{faster(self.sides.ours.speedup)} ({at})"


def published(folder: Path) -> list[Published]:
    """What was written into published_*.json.

    Raises:
        UsageError: such a file is damaged.
    """
    found = []
    for path in sorted(folder.glob("published_*.json")):
        try:
            found.append(msgspec.convert(read_json(path), Published))
        except (OSError, ValueError):
            raise UsageError(
                f"{path} cannot be read: write it with leakboard bench --format json, or delete it"
            ) from None
    return found


def figure(found: Sequence[DataSet]) -> bytes:
    """The paper's figure 1: share of attacks over the threshold; the paper dashed, ours with its interval."""
    drawn = blank(4.0 * len(found), 3.6, 110)
    every_axes = drawn.subplots(1, len(found), sharey=True, squeeze=False)[0]
    places = range(len(THRESHOLDS))
    for axes, of in zip(every_axes, found, strict=True):
        for attack, color in zip(ATTACKS, ("tab:orange", "tab:blue"), strict=True):
            ours = of.shares[attack]
            rates = np.array([100 * one.found / one.trials for one in ours])
            spread = np.abs(100 * np.array([wilson(one.found, one.trials) for one in ours]).T - rates)
            axes.errorbar(places, rates, yerr=spread, color=color, marker="o", ms=4, capsize=3, label=f"{attack}, ours")
            paper = [100 * one.paper for one in ours]
            axes.plot(places, paper, color=color, linestyle="--", marker="x", alpha=0.7, label=f"{attack}, paper")
        axes.set_title(f"{of.name}, {len(of):,} images", fontsize=10)
        axes.set_xticks(places, [f"{limit:g}" for limit in THRESHOLDS])
        axes.set_xlabel("MSE at most")
        axes.set_ylim(0, 102)
        axes.grid(alpha=0.3)
    every_axes[0].set_ylabel("share of attacks, %")
    every_axes[0].legend(frameon=False, fontsize=8, loc="lower left")
    return as_png(drawn)
