"""The strengths that stop each attacker, as ``leakboard threshold`` has found them: for trainings and for pages."""

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.suite.registry import Spec, spec
from benchmark.thresholds import table as threshold_table
from benchmark.thresholds.page import defense_label
from benchmark.thresholds.table import NEVER, WEAK, WITHIN, Row

TRAINED_ON = {"CIFAR10": "CIFAR10JPEG"}
"""The data set that may be trained on for one that is attacked, where the whole of it is available as JPEG only."""

OBLIVIOUS, ADAPTIVE = "oblivious", "adaptive"

IDENTITY = ("dataset", "where", "scenario", "defense", "argument", "fixed")
"""What searches have in common that differ in their attack alone."""


@dataclass(frozen=True)
class DefenseThresholds:
    """What stops each attacker of a scenario by one defense.

    Attributes:
        dataset: which was attacked.
        where: the scenario, for people.
        scenario: all that decides it.
        defense, argument: the defense, and what its strength is called.
        fixed: its other arguments.
        searches: all of them.
        strongest: by attacker, the search whose attack needs the strongest defense.
    """

    dataset: str
    where: str
    scenario: dict[str, Any]
    defense: str
    argument: str
    fixed: dict[str, Any]
    searches: list[Row]
    strongest: dict[str, Row]

    @property
    def label(self) -> str:
        """The defense without its strength, for people."""
        return defense_label(self.defense, self.argument, self.fixed)

    def at(self, attacker: str) -> Spec | None:
        """The defense at the weakest tested strength that stops the attacker; None where there is none."""
        search = self.strongest[attacker]
        strength = {WITHIN: search["ssim"]["strength"], WEAK: search["strengths"][0]}.get(search["ssim"]["stopped"])
        if strength is None:
            return None
        return spec("defense", self.defense, self.fixed | {self.argument: strength})

    def is_certified(self, attacker: str) -> bool:
        """Whether the attacker's leakage surely stops somewhere, by all attacks that know what he does, or surely does
        not in the whole range."""
        strongest = self.strongest[attacker]
        if strongest["ssim"]["stopped"] == NEVER:
            return True
        alike = [search for search in self.searches if search["adaptive"] == strongest["adaptive"]]
        return all(search["ssim"]["stopped"] == NEVER or search["ssim"]["high"] is not None for search in alike)

    def is_trained_on(self, data: str) -> bool:
        """Whether a training on that data set says what the defense costs here."""
        return data in (self.dataset, TRAINED_ON.get(self.dataset))


@dataclass(frozen=True)
class Thresholds:
    """What thresholds.json says.

    Attributes:
        ssim: a victim leaks at this or more.
        stop: share of victims that may leak where leakage has stopped.
        searches: one for each scenario, defense, attack and attacker.
        defenses: one for each scenario and defense, in their order.
    """

    ssim: float
    stop: float
    searches: list[Row]
    defenses: list[DefenseThresholds]


def read(folder: Path) -> Thresholds:
    """Reads thresholds.json in the folder.

    Raises:
        UsageError: it is missing or damaged.
    """
    found = threshold_table.read(folder)
    if found is None or not all("ssim" in search for search in found["thresholds"]):  # named, but not made
        raise threshold_table.unreadable(folder)
    searches = [all_unknown(search) | search for search in found["thresholds"]]
    return Thresholds(found["ssim"], found["stop"], searches, by_defense(searches))


def all_unknown(search: Row) -> Row:
    """What is known of the victims of a search whose file, of an older version, does not tell: nothing."""
    victims = search["victims"]
    return {"unknown": {"without": victims, "strengths": [victims for _ in search["strengths"]]}}


def by_defense(searches: list[Row]) -> list[DefenseThresholds]:
    """One for each scenario and defense.

    An oblivious attacker is one as published, without priors. One who knows the defense may also ignore it, so that
    the strongest attack is that of all.

    Args:
        searches: of thresholds.json.
    """
    groups: dict[str, list[Row]] = defaultdict(list)
    for search in searches:
        groups[json.dumps({name: search[name] for name in IDENTITY})].append(search)
    made = []
    for key, group in groups.items():
        oblivious = [search for search in group if not search["adaptive"]]
        published = [search for search in oblivious if not search["attack"].get("total_variation")] or oblivious
        strongest = {OBLIVIOUS: strongest_attack(published or group), ADAPTIVE: strongest_attack(group)}
        made.append(DefenseThresholds(**json.loads(key), searches=group, strongest=strongest))
    return made


def strongest_attack(searches: list[Row]) -> Row:
    """The search whose attack needs the strongest defense; ranges need not be the same.

    Of an attack that is stopped at the weak end of its range already it is not known that a weaker defense stops it.
    Of those that nothing in their range stops it is the one that most victims leak to at the strongest end.
    """

    def needed(search: Row) -> tuple[int, float, float]:
        found, (weak, *_, strong) = search["ssim"], search["strengths"]
        at = {NEVER: strong, WITHIN: found["strength"], WEAK: weak}.get(found["stopped"])
        if at is None:
            return 0, 0.0, 0.0
        upwards = 1 if strong > weak else -1
        return 2 if found["stopped"] == NEVER else 1, upwards * at, float(found["rates"][-1])

    return max(searches, key=needed)
