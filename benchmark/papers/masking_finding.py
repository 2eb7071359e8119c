"""What the page on masking says of each defense: the accuracy that is lost at the strengths that stop the attackers."""

import math
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple

from benchmark.papers.masking_caveats import is_lower_bound
from benchmark.thresholds.strengths import ADAPTIVE, OBLIVIOUS, DefenseThresholds
from benchmark.thresholds.table import NEVER, VOID
from benchmark.training.rows import Row, label, scenario_of
from benchmark.training.sizes import Sizes
from benchmark.training.table import LARGE, OPEN, SMALL, costs, data_of, network

FED_AVG = "the size of an update of FedAvg depends on the learning rate"

UNSTOPPED = "not stopped"


@dataclass(frozen=True)
class Judged:
    """What is lost on a data set at the strength that stops an attacker.

    Attributes:
        verdict: one of ``SMALL``, ``LARGE``, ``OPEN``, ``UNSTOPPED``.
        loss: points of accuracy in the network that loses most; None where that is not known.
        said: for people.
    """

    verdict: str
    loss: float | None
    said: str


def judge(one: DefenseThresholds, attacker: str, trainings: list[Row], sizes: Sizes) -> Judged:
    """What is lost, over all networks (FedSGD): less than a point in each of them, or more in one.

    The paper's abstract does not say up to which loss it speaks of none.
    """
    stopped = one.strongest[attacker]["ssim"]["stopped"]
    if stopped == VOID:
        return Judged(OPEN, None, "the attack finds nothing without a defense")
    if stopped == NEVER:
        return Judged(UNSTOPPED, math.inf, "not stopped")
    sound = {scenario_of(row) for row in trainings if row["defense"] == "no defense" and not row["diverged"]}
    every = [row for row in trained(one, attacker, trainings, sizes) if row["algorithm"] == "FedSGD"]
    void = [row for row in every if row["void"]]
    rows = [row for row in every if row not in void and row["difference_low"] is not None and scenario_of(row) in sound]
    left_out = "".join(f"; {row['void']} in {network(row)}" for row in void)
    if not every:
        return Judged(OPEN, None, "not trained at this strength")
    if not rows:
        return Judged(OPEN, None, f"no sound FedSGD trainings{left_out}")
    worst = min(rows, key=lambda row: float(row["difference"]))
    given = set(map(costs, rows))
    verdict = next((sure for sure in (LARGE, OPEN) if sure in given), SMALL)
    loss, low, high = (-100 * worst[key] for key in ("difference", "difference_high", "difference_low"))
    said = f"{loss:z.1f} points ({low:z.1f} to {high:z.1f}, {network(worst)}), {verdict}{left_out}"
    return Judged(verdict, loss, said)


Verdicts = dict[str, dict[str, dict[str, Judged]]]
"""Attacker -> defense -> scenario -> what was judged."""


def verdicts(defenses: list[DefenseThresholds], trainings: list[Row], sizes: Sizes) -> Verdicts:
    """What each defense loses at the strengths that stop each attacker."""
    labels = dict.fromkeys(one.label for one in defenses)
    return {
        attacker: {
            name: {one.where: judge(one, attacker, trainings, sizes) for one in defenses if one.label == name}
            for name in labels
        }
        for attacker in (OBLIVIOUS, ADAPTIVE)
    }


def together(of_scenario: dict[str, Judged]) -> str:
    """The verdict over scenarios: the worst that is sure."""
    given = {judged.verdict for judged in of_scenario.values()}
    return next((worst for worst in (UNSTOPPED, LARGE, OPEN) if worst in given), SMALL)


CHEAP, COSTLY = ("Masking", "Clipping"), ("Pruning", "GaussianNoise")
"""The defenses that cost close to nothing, and those that can cost more, as the paper claims."""

CONFIRMED, REFUTED = "confirmed", "refuted"


class Answer(NamedTuple):
    """What the verdicts say of the claim, each part by one of ``CONFIRMED``, ``REFUTED``, ``OPEN``.

    Attributes:
        cheap: that all of :data:`CHEAP` cost less than a point where they stop the attack.
        costly: that one of :data:`COSTLY` costs more.
        because: the defenses of which more than a point is lost, or that do not stop the attack, by their verdict.
    """

    cheap: str
    costly: str
    because: dict[str, list[str]]


def answer(of_defense: dict[str, dict[str, Judged]]) -> Answer:
    """The verdict on the claim from those on each defense against one attacker."""
    found = {name: together(of_scenario) for name, of_scenario in of_defense.items()}

    def given(names: tuple[str, ...]) -> set[str]:
        return {verdict for name, verdict in found.items() if name.partition(" ")[0] in names}

    def all_small(names: tuple[str, ...]) -> bool | None:
        """Whether all of them lose less than a point; None where that is open."""
        verdicts = given(names)
        return False if verdicts & {LARGE, UNSTOPPED} else True if verdicts == {SMALL} else None

    of_cheap, of_costly = all_small(CHEAP), all_small(COSTLY)
    because = {bad: [name for name, verdict in found.items() if verdict == bad] for bad in (LARGE, UNSTOPPED)}
    return Answer(
        {True: CONFIRMED, False: REFUTED, None: OPEN}[of_cheap],
        {True: REFUTED, False: CONFIRMED, None: OPEN}[of_costly],
        {bad: names for bad, names in because.items() if names},
    )


class Ranking(NamedTuple):
    """Defenses by the points that are lost at the strengths that stop the adaptive attacker, as means over data sets.

    Attributes:
        known: by loss, infinite where a defense does not stop the attacker everywhere.
        unknown: those of which a loss or a strength is not known.
    """

    known: dict[str, float]
    unknown: list[str]


def ranking(defenses: list[DefenseThresholds], trainings: list[Row], sizes: Sizes) -> Ranking:
    """The ranks of all defenses."""
    bounds = {one.label for one in defenses if is_lower_bound(one)}
    known: dict[str, float] = {}
    unknown = []
    for name, of_scenario in verdicts(defenses, trainings, sizes)[ADAPTIVE].items():
        losses = [judged.loss for judged in of_scenario.values() if judged.loss is not None]
        if name in bounds or len(losses) < len(of_scenario):
            unknown.append(name)
        else:
            known[name] = fmean(losses)
    return Ranking({name: known[name] for name in sorted(known, key=lambda name: known[name])}, unknown)


def trained(one: DefenseThresholds, attacker: str, trainings: list[Row], sizes: Sizes) -> list[Row]:
    """The trainings with the defense as strong as where it stops the attacker."""
    here = [row for row in trainings if one.is_trained_on(data_of(row))]
    strengths = [sizes.at(one, attacker, row["config"]) for row in here]
    return [row for row, at in zip(here, strengths, strict=True) if at and row["defense"] == label(at.as_dict())]


def why_not_trained(one: DefenseThresholds, attacker: str, control: Row, sizes: Sizes) -> str:
    """Why there is no training with the defense as strong as where it stops the attacker.

    Args:
        one: what stops each attacker.
        attacker: which of them.
        control: the training without a defense.
        sizes: of updates.
    """
    if one.strongest[attacker]["ssim"]["stopped"] == NEVER:
        return "no strength stops it"
    if one.at(attacker) is None:
        return "nothing to stop"
    if sizes.at(one, attacker, control["config"]) is None:
        fed_avg = control["algorithm"] == "FedAvg"
        return f"not trained: {FED_AVG if fed_avg else 'the size of the updates is not known'}"
    return "not trained"
