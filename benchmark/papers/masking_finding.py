"""What the page on masking says of each defense: the accuracy that is lost at the strengths that stop the attackers."""

import math
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple

from benchmark.papers.masking_caveats import data_of, is_lower_bound, network
from benchmark.thresholds.strengths import ADAPTIVE, OBLIVIOUS, DefenseThresholds
from benchmark.thresholds.table import NEVER, VOID
from benchmark.training.table import Row, label, scenario_of

SMALL_LOSS = 1.0
"""Percentage points of accuracy up to which a loss counts as close to none; the paper's abstract gives no figure."""

SMALL, LARGE, OPEN, UNSTOPPED = "less than a point", "more than a point", "open", "not stopped"


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


def judge(one: DefenseThresholds, attacker: str, trainings: list[Row]) -> Judged:
    """Compares the loss with ``SMALL_LOSS``: its whole interval must be on one side, in every network (FedSGD)."""
    stopped = one.strongest[attacker]["ssim"]["stopped"]
    if stopped == VOID:
        return Judged(OPEN, None, "the attack finds nothing without a defense")
    if stopped == NEVER:
        return Judged(UNSTOPPED, math.inf, "not stopped")
    sound = {scenario_of(row) for row in trainings if row["defense"] == "no defense" and not row["diverged"]}
    every = [row for row in trained(one, attacker, trainings) if row["algorithm"] == "FedSGD"]
    void = [row for row in every if row["void"]]
    rows = [row for row in every if row not in void and row["difference_low"] is not None and scenario_of(row) in sound]
    left_out = "".join(f"; {row['void']} in {network(row)}" for row in void)
    if not every:
        return Judged(OPEN, None, "not trained at this strength")
    if not rows:
        return Judged(OPEN, None, f"no sound FedSGD trainings{left_out}")
    worst = min(rows, key=lambda row: float(row["difference"]))
    losses = [(-100 * row["difference_high"], -100 * row["difference_low"]) for row in rows]
    verdict = (
        LARGE
        if any(low > SMALL_LOSS for low, _ in losses)
        else SMALL
        if all(high <= SMALL_LOSS for _, high in losses)
        else OPEN
    )
    low, high = losses[rows.index(worst)]
    loss = -100 * worst["difference"]
    said = f"{loss:z.1f} points ({low:z.1f} to {high:z.1f}, {network(worst)}), {verdict}{left_out}"
    return Judged(verdict, loss, said)


Verdicts = dict[str, dict[str, dict[str, Judged]]]
"""Attacker -> defense -> scenario -> what was judged."""


def verdicts(defenses: list[DefenseThresholds], trainings: list[Row]) -> Verdicts:
    """What each defense loses at the strengths that stop each attacker."""
    labels = dict.fromkeys(one.label for one in defenses)
    return {
        attacker: {
            name: {one.where: judge(one, attacker, trainings) for one in defenses if one.label == name}
            for name in labels
        }
        for attacker in (OBLIVIOUS, ADAPTIVE)
    }


def together(of_scenario: dict[str, Judged]) -> str:
    """The verdict over scenarios: the worst that is sure."""
    given = {judged.verdict for judged in of_scenario.values()}
    return next((worst for worst in (UNSTOPPED, LARGE, OPEN) if worst in given), SMALL)


class Ranking(NamedTuple):
    """Defenses by the points that are lost at the strengths that stop the adaptive attacker, as means over data sets.

    Attributes:
        known: by loss, infinite where a defense does not stop the attacker everywhere.
        unknown: those of which a loss or a strength is not known.
    """

    known: dict[str, float]
    unknown: list[str]


def ranking(defenses: list[DefenseThresholds], trainings: list[Row]) -> Ranking:
    """The ranks of all defenses."""
    bounds = {one.label for one in defenses if is_lower_bound(one)}
    known: dict[str, float] = {}
    unknown = []
    for name, of_scenario in verdicts(defenses, trainings)[ADAPTIVE].items():
        losses = [judged.loss for judged in of_scenario.values() if judged.loss is not None]
        if name in bounds or len(losses) < len(of_scenario):
            unknown.append(name)
        else:
            known[name] = fmean(losses)
    return Ranking({name: known[name] for name in sorted(known, key=lambda name: known[name])}, unknown)


def trained(one: DefenseThresholds, attacker: str, trainings: list[Row]) -> list[Row]:
    """The trainings with the defense at the strength that stops the attacker."""
    at = one.at(attacker)
    return [
        row for row in trainings if at and one.is_trained_on(data_of(row)) and row["defense"] == label(at.as_dict())
    ]
