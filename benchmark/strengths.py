"""The strengths that stop each attacker, as ``leakboard threshold`` has found them: for trainings and for pages."""

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.errors import UsageError

TRAINED_ON = {"CIFAR10": "CIFAR10JPEG"}
"""The data set that is trained on for one that is attacked, where the whole of it can be had as JPEG only."""

OBLIVIOUS, ADAPTIVE = "oblivious", "adaptive"

Search = dict[str, Any]


@dataclass(frozen=True)
class Line:
    """A defense on a data set.

    Attributes:
        dataset, defense, argument: which, and what its strength is called.
        hardest: by attacker, the search whose attack needs the strongest defense.
    """

    dataset: str
    defense: str
    argument: str
    hardest: dict[str, Search]


@dataclass(frozen=True)
class Thresholds:
    """What thresholds.json says.

    Attributes:
        ssim: a victim leaks at this or more.
        stop: share of victims that may leak where leakage has stopped.
        lines: one for each data set and defense, in their order.
    """

    ssim: float
    stop: float
    lines: list[Line]


def read(folder: Path) -> Thresholds:
    """Reads thresholds.json in the folder.

    Raises:
        UsageError: it is missing or damaged.
    """
    path = folder / "thresholds.json"
    try:
        found = json.loads(path.read_text())
        return Thresholds(found["ssim"], found["stop"], lines_of(found["thresholds"]))
    except (OSError, ValueError, KeyError, TypeError):
        raise UsageError(f"{path} can not be read: run leakboard threshold masking --out {folder} first") from None


def lines_of(searches: list[Search]) -> list[Line]:
    """One for each data set and defense; oblivious attackers are those as published, without priors."""
    groups: dict[tuple[str, str, str], list[Search]] = defaultdict(list)
    for search in searches:
        groups[search["dataset"], search["defense"], search["argument"]].append(search)
    made = []
    for (dataset, defense, argument), group in groups.items():
        oblivious, adaptive = ([s for s in group if s["adaptive"] == knows] for knows in (False, True))
        published = [s for s in oblivious if not s["attack"].get("total_variation")] or oblivious
        made.append(Line(dataset, defense, argument, {OBLIVIOUS: hardest(published), ADAPTIVE: hardest(adaptive)}))
    return made


def hardest(searches: list[Search]) -> Search:
    """The search whose attack needs the strongest defense; a strength is as strong as it is far from the weak end."""

    def needed(search: Search) -> float:
        weak, strong = search["strengths"][0], search["strengths"][-1]
        at = search["ssim"]["strength"]
        if at is None:
            return 0.0 if "weak end" in search["ssim"]["note"] else 1e9
        return abs(at - weak) if strong > weak else 1 / at

    return max(searches, key=needed)


def defenses_at(thresholds: Thresholds, trained_on: str) -> list[dict[str, Any]]:
    """Entries of a training suite: each defense at the strengths that stop the attackers on the data set.

    Args:
        thresholds: as found.
        trained_on: the data set of a training.

    Returns:
        None of a defense that stops an attacker at no strength, or that is not needed.
    """
    found: dict[str, dict[str, Any]] = {}
    for line in thresholds.lines:
        for search in line.hardest.values():
            at = search["ssim"]["strength"]
            if TRAINED_ON.get(line.dataset, line.dataset) == trained_on and at is not None:
                entry = {"class": line.defense, line.argument: float(f"{at:.3g}")}
                found[repr(entry)] = entry
    return list(found.values())
