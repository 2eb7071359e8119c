"""The strengths that stop each attacker, as ``leakboard threshold`` has found them: for trainings and for pages."""

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.documents import read_json
from benchmark.errors import UsageError
from benchmark.registry import Spec, spec
from benchmark.threshold import NEVER, WEAK, WITHIN, defense_label

TRAINED_ON = {"CIFAR10": "CIFAR10JPEG"}
"""The data set that may be trained on for one that is attacked, where the whole of it can be had as JPEG only."""

OBLIVIOUS, ADAPTIVE = "oblivious", "adaptive"

IDENTITY = ("dataset", "where", "scenario", "defense", "argument", "fixed")
"""What searches have in common that differ in their attack alone."""

Search = dict[str, Any]


@dataclass(frozen=True)
class Line:
    """A defense in a scenario.

    Attributes:
        dataset: which was attacked.
        where: the scenario, for people.
        scenario: all that decides it.
        defense, argument: the defense, and what its strength is called.
        fixed: its other arguments.
        hardest: by attacker, the search whose attack needs the strongest defense.
    """

    dataset: str
    where: str
    scenario: dict[str, Any]
    defense: str
    argument: str
    fixed: dict[str, Any]
    hardest: dict[str, Search]

    @property
    def label(self) -> str:
        """The defense without its strength, for people."""
        return defense_label(self.defense, self.argument, self.fixed)

    def at(self, attacker: str) -> Spec | None:
        """The defense at the weakest tested strength that stops the attacker; None where there is none."""
        search = self.hardest[attacker]
        strength = {WITHIN: search["ssim"]["strength"], WEAK: search["strengths"][0]}.get(search["ssim"]["stopped"])
        if strength is None:
            return None
        return spec("defense", self.defense, self.fixed | {self.argument: strength})

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
        lines: one for each scenario and defense, in their order.
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
        found = read_json(path)
        searches = found["thresholds"]
        return Thresholds(found["ssim"], found["stop"], searches, lines_of(searches, found["stop"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError):
        raise UsageError(f"{path} can not be read: run leakboard threshold SUITE --out {folder} first") from None


def lines_of(searches: list[Search], stop: float) -> list[Line]:
    """One for each scenario and defense.

    An oblivious attacker is one as published, without priors. One who knows the defense may also do as if he did not,
    so that his hardest search is that of all.

    Args:
        searches: of thresholds.json.
        stop: largest share of victims that may leak where leakage has stopped.
    """
    groups: dict[str, list[Search]] = defaultdict(list)
    for search in searches:
        groups[json.dumps({name: search[name] for name in IDENTITY})].append(search)
    made = []
    for key, group in groups.items():
        group = finest(group, stop)
        oblivious = [search for search in group if not search["adaptive"]]
        published = [search for search in oblivious if not search["attack"].get("total_variation")] or oblivious
        made.append(Line(**json.loads(key), hardest={OBLIVIOUS: hardest(published), ADAPTIVE: hardest(group)}))
    return made


def finest(searches: list[Search], stop: float) -> list[Search]:
    """The searches, but of one attack and attacker in several ranges that alone which halved to the smallest steps.

    It must enclose the strength at which leakage stops, and no other may have found any leakage beyond that.
    """
    of_attack: dict[str, list[Search]] = defaultdict(list)
    for search in searches:
        of_attack[json.dumps([search["attack"], search["adaptive"]])].append(search)
    chosen: list[Search] = []
    for group in of_attack.values():
        within = [search for search in group if search["ssim"]["stopped"] == WITHIN]
        sound = [search for search in within if not any(leaks_beyond(search, other, stop) for other in group)]
        chosen += [min(sound, key=step)] if sound else group
    return chosen


def upwards(search: Search) -> int:
    """1 where a larger number is a stronger defense, else -1."""
    return 1 if search["strengths"][-1] > search["strengths"][0] else -1


def leaks_beyond(search: Search, other: Search, stop: float) -> bool:
    """Whether the other one found leakage where the first says that it has stopped."""
    at = upwards(search) * search["ssim"]["strength"]
    tested = zip(other["strengths"], other["ssim"]["rates"], strict=True)
    return any(rate > stop and upwards(search) * strength >= at for strength, rate in tested)


def step(search: Search) -> float:
    """How far the strength at which leakage stops is from the one tested before."""
    at = search["strengths"].index(search["ssim"]["strength"])
    return abs(float(search["strengths"][at] - search["strengths"][at - 1]))


def hardest(searches: list[Search]) -> Search:
    """The search whose attack needs the strongest defense; ranges need not be the same.

    Of an attack that is stopped at the weak end of its range already it is not known that a weaker defense stops it.
    Of those that nothing in their range stops it is the one that most victims leak to at the strongest end.
    """

    def needed(search: Search) -> tuple[int, float, float]:
        found, (weak, *_, strong) = search["ssim"], search["strengths"]
        at = {NEVER: strong, WITHIN: found["strength"], WEAK: weak}.get(found["stopped"])
        if at is None:
            return 0, 0.0, 0.0
        return 2 if found["stopped"] == NEVER else 1, upwards(search) * at, float(found["rates"][-1])

    return max(searches, key=needed)


def defenses_at(thresholds: Thresholds, trained_on: str) -> list[dict[str, Any]]:
    """Entries of a training suite: each defense at the strengths that stop the attackers on the data set.

    Args:
        thresholds: as found.
        trained_on: the data set of a training.

    Returns:
        None of a defense that stops an attacker at no strength, or where no attack finds anything without one.
    """
    lines = [line for line in thresholds.lines if line.is_trained_on(trained_on)]
    found = {at.label: at.as_dict() for line in lines for a in line.hardest if (at := line.at(a))}
    return list(found.values())
