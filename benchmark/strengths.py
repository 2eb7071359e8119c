"""The strengths that stop each attacker, as ``leakboard threshold`` has found them: for trainings and for pages."""

import json
import math
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.errors import UsageError
from benchmark.registry import Spec, spec
from benchmark.threshold import NEVER, WITHIN

TRAINED_ON = {"CIFAR10": "CIFAR10JPEG"}
"""The data set that may be trained on for one that is attacked, where the whole of it can be had as JPEG only."""

OBLIVIOUS, ADAPTIVE = "oblivious", "adaptive"

IDENTITY = ("dataset", "model", "defense", "argument", "fixed")
"""What searches have in common that differ in their attack alone."""

Search = dict[str, Any]


@dataclass(frozen=True)
class Line:
    """A defense on a data set and a network.

    Attributes:
        dataset, model: which were attacked.
        defense, argument: the defense, and what its strength is called.
        fixed: its other arguments.
        hardest: by attacker, the search whose attack needs the strongest defense.
    """

    dataset: str
    model: str
    defense: str
    argument: str
    fixed: dict[str, Any]
    hardest: dict[str, Search]

    @property
    def label(self) -> str:
        """The defense without its strength, for people."""
        fixed = ", ".join(f"{name}={value}" for name, value in self.fixed.items())
        return f"{self.defense} {self.argument}" + (f" ({fixed})" if fixed else "")

    def at(self, attacker: str) -> Spec | None:
        """The defense at the strength that stops the attacker; None where that is none, or not needed."""
        found = self.hardest[attacker]["ssim"]
        if found["stopped"] != WITHIN:
            return None
        return spec("defense", self.defense, self.fixed | {self.argument: found["strength"]})

    def is_trained_on(self, data: str) -> bool:
        """Whether a training on that data set says what the defense costs here."""
        return data in (self.dataset, TRAINED_ON.get(self.dataset))


@dataclass(frozen=True)
class Thresholds:
    """What thresholds.json says.

    Attributes:
        ssim: a victim leaks at this or more.
        stop: share of victims that may leak where leakage has stopped.
        searches: one for each of those, attack and attacker.
        lines: one for each data set, network and defense, in their order.
    """

    ssim: float
    stop: float
    searches: list[Search]
    lines: list[Line]


def read(folder: Path) -> Thresholds:
    """Reads thresholds.json in the folder.

    Raises:
        UsageError: it is missing or damaged.
    """
    path = folder / "thresholds.json"
    try:
        found = json.loads(path.read_text())
        searches = found["thresholds"]
        return Thresholds(found["ssim"], found["stop"], searches, lines_of(searches))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError):
        raise UsageError(f"{path} can not be read: run leakboard threshold SUITE --out {folder} first") from None


def lines_of(searches: list[Search]) -> list[Line]:
    """One for each data set, network and defense.

    An oblivious attacker is one as published, without priors. One who knows the defense may also do as if he did not,
    so that his hardest search is that of all.
    """
    groups: dict[str, list[Search]] = defaultdict(list)
    for search in searches:
        groups[json.dumps({name: search[name] for name in IDENTITY})].append(search)
    made = []
    for key, group in groups.items():
        oblivious = [search for search in group if not search["adaptive"]]
        published = [search for search in oblivious if not search["attack"].get("total_variation")] or oblivious
        made.append(Line(**json.loads(key), hardest={OBLIVIOUS: hardest(published), ADAPTIVE: hardest(group)}))
    return made


def hardest(searches: list[Search]) -> Search:
    """The search whose attack needs the strongest defense: a strength that is far from the weak end.

    Of those that none in the range stops it is the one that most victims leak to.
    """

    def needed(search: Search) -> tuple[float, float]:
        found = search["ssim"]
        if found["stopped"] == WITHIN:
            return abs(found["strength"] - search["strengths"][0]), 0.0
        return (math.inf, found["rates"][-1]) if found["stopped"] == NEVER else (0.0, 0.0)

    return max(searches, key=needed)


def defenses_at(thresholds: Thresholds, trained_on: str) -> list[dict[str, Any]]:
    """Entries of a training suite: each defense at the strengths that stop the attackers on the data set.

    Args:
        thresholds: as found.
        trained_on: the data set of a training.

    Returns:
        None of a defense that stops an attacker at no strength, or that is not needed.
    """
    lines = [line for line in thresholds.lines if line.is_trained_on(trained_on)]
    found = {at.label: at.as_dict() for line in lines for a in line.hardest if (at := line.at(a))}
    return list(found.values())
