"""What the page on masking says of each defense: the accuracy that is lost at the strengths that stop the attackers."""

import math
from dataclasses import dataclass
from statistics import fmean

from benchmark.papers.masking_caveats import data_of, is_lower_bound, network, scope
from benchmark.thresholds.strengths import ADAPTIVE, OBLIVIOUS, DefenseThresholds
from benchmark.thresholds.table import NEVER, VOID
from benchmark.training.table import Row, label, rate, scenario_of

CLAIM = "masking and clipping that stop the attack cost close to nothing, noise and pruning can cost more."

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


def finding(defenses: list[DefenseThresholds], trainings: list[Row]) -> list[str]:
    """What each defense loses where it stops each attacker, beside the paper's claim, and their ranking; in words."""
    said = [
        f"The claim: {CLAIM}",
        *scope(defenses, trainings),
        f"Less than a point means that the 95 % interval of the loss is below {SMALL_LOSS:g} point of accuracy in",
        "every network trained by FedSGD; more than a point, that it is above that in one of them; otherwise it is",
        "open. Over data sets the worst verdict counts. Each cell is of the network that loses most.",
        "",
    ]
    for attacker, of_defense in verdicts(defenses, trainings).items():
        scenarios = list(dict.fromkeys(one.where for one in defenses))
        said += [
            f"**At the strengths that stop the {attacker} attacker:**",
            "",
            "| defense | verdict | " + " | ".join(scenarios) + " |",
            "|---|---|" + "---|" * len(scenarios),
        ]
        for name, of_scenario in of_defense.items():
            cells = [of_scenario[where].said if where in of_scenario else "-" for where in scenarios]
            said.append(f"| {name} | **{together(of_scenario)}** | " + " | ".join(cells) + " |")
        said.append("")
    return [*said, *ranking(defenses, trainings)]


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


def ranking(defenses: list[DefenseThresholds], trainings: list[Row]) -> list[str]:
    """Defenses by what is lost at the strengths that stop the adaptive attacker; those not known are named."""
    found = verdicts(defenses, trainings)[ADAPTIVE]
    bounds = {one.label for one in defenses if is_lower_bound(one)}
    losses = {name: [judged.loss for judged in of_scenario.values()] for name, of_scenario in found.items()}
    known = {
        name: fmean(of)
        for name, each in losses.items()
        if name not in bounds and len(of := [x for x in each if x is not None]) == len(each)
    }
    unknown = [name for name in losses if name not in known]
    lines = []
    if len(known) > 1:
        order = [
            f"{name} (" + ("not stopped everywhere" if math.isinf(known[name]) else f"{known[name]:.1f}") + ")"
            for name in sorted(known, key=lambda name: known[name])
        ]
        lines.append(
            "Ranked by the points that are lost at the strengths that stop the adaptive attacker, as means over data "
            f"sets of the network that loses most: {', '.join(order)}."
        )
    if unknown:
        lines.append(f"Not ranked, because a loss or a strength is not known: {', '.join(unknown)}.")
    return lines


def trained(one: DefenseThresholds, attacker: str, trainings: list[Row]) -> list[Row]:
    """The trainings with the defense at the strength that stops the attacker."""
    at = one.at(attacker)
    return [
        row for row in trainings if at and one.is_trained_on(data_of(row)) and row["defense"] == label(at.as_dict())
    ]


def chosen(row: Row) -> str:
    """The learning rate, where there was a choice."""
    return f", rate {rate(row)}" if " " in row["learning_rates"] else ""
