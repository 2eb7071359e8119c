"""Random gradient masking (Kim and Park 2024, arXiv 2408.08430): what protects, against whom, and at what cost."""

import math
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmark import diagnosis, strengths
from benchmark.documents import read_json
from benchmark.errors import UsageError
from benchmark.papers.masking_figure import figure, short_name
from benchmark.papers.sources import provenance
from benchmark.store import Record, write_whole
from benchmark.strengths import ADAPTIVE, OBLIVIOUS, Line, Search
from benchmark.threshold import NEVER, VOID, WITHIN, attack_label, room
from benchmark.training.store import read_all as read_trainings
from benchmark.training.table import Row, half, label, rate, scenario_of
from benchmark.training.table import rows as training_rows

NEAR_NONE = 1.0
"""Percentage points of accuracy up to which a loss counts as near to none; the paper's abstract gives no figure."""

TUNED = (
    "Rate is the learning rate, for each defense and for none the better of the two that are best with the first",
    "seed: a mask that makes steps smaller would at one rate for all be blamed for that too.",
)

AT_THE_END = ("Where it is the largest or the smallest tried, another may cost less.",)

NOTHING, COSTS, OPEN, UNSTOPPED = "near to nothing", "it costs", "open", "not stopped"


def page(records: list[Record], folder: Path) -> str:
    """Writes leakage.png, and returns the page.

    It is made from thresholds.json of ``leakboard threshold`` and the trainings of ``leakboard train`` in the folder.

    Raises:
        UsageError: thresholds.json is missing, or a file is damaged.
    """
    found = strengths.read(folder)
    trained_so_far = read_trainings(folder) if any((folder / "training").glob("*.json")) else []
    trainings = training_rows(trained_so_far)
    models = " and ".join(dict.fromkeys(str(line.scenario["model"]["class"]) for line in found.lines))
    victims = min(search["victims"] for search in found.searches)
    lines = [
        "# Random gradient masking, run again",
        "",
        "Kim and Park 2024 (arXiv 2408.08430) look for the weakest masking, clipping, pruning and noise that stops",
        "DLG, judged by SSIM, and find that federated training at those strengths loses near to nothing with masking",
        "and clipping, and can lose with noise and pruning (abstract; no figure of the paper could be had). Its",
        "attacker does not know the defense: *oblivious* is DLG or iDLG as published. *Adaptive* attackers know it and",
        "may use that or not, and the strongest know too that images are smooth and lie in [0, 1] (*with priors*).",
        "Beside each strength stands the attack that needs it.",
        "",
        f"A victim leaks at an SSIM of {found.ssim:g} or more that is above those of the null baselines (a constant,",
        "the data set mean and the mean of the class, which come to 0.5 and more on MNIST); leakage has stopped where",
        f"at most {found.stop:.0%} of the victims leak. {room(victims, found.stop)}",
        "A strength is the weakest tested one from which on every attack of its attacker is stopped, with its 95 %",
        "interval (of an attack with two ranges that of the smaller steps); it was found on single images in",
        f"{models} with random weights, and protects there.",
        "Accuracy is that of federated training with the defense at that strength, ± half of a 95 % t interval over",
        "seeds. Averages of several steps (FedAvg) are smaller or larger than the gradients that were attacked, and do",
        "not count in the verdicts.",
        *(TUNED if any(" " in row["learning_rates"] for row in trainings) else ()),
        *(AT_THE_END if any("tried" in rate(row) for row in trainings) else ()),
    ]
    write_whole(folder / "leakage.png", figure(found.searches, found.stop))
    lines += ["", "![share of victims that leak over the strength of each defense](leakage.png)"]
    for where in dict.fromkeys(line.where for line in found.lines):
        lines += ["", f"## {where}", "", *table([line for line in found.lines if line.where == where], trainings)]
    told, origins = information(folder)
    lines += ["", "## Finding", "", *finding(found.lines, trainings), *told]
    lines += ["", *provenance(records, trained_so_far, origins)]
    return "\n".join(lines) + "\n"


def table(of_scenario: list[Line], trainings: list[Row]) -> list[str]:
    """The defenses of one scenario."""
    lines = [
        "| defense | oblivious stops at | adaptive stops at | accuracy at the first | at the second | without |",
        "|---|---|---|---|---|---|",
    ]
    for line in of_scenario:
        stops = [threshold(search) for search in line.hardest.values()]
        protected = [trained(line, attacker, trainings) for attacker in line.hardest]
        without = [row for row in trainings if line.is_trained_on(data_of(row)) and row["defense"] == "no defense"]
        accuracies = ["<br>".join(map(accuracy, rows)) or "not trained" for rows in (*protected, without)]
        lines.append("| " + " | ".join([line.label, *stops, *accuracies]) + " |")
    return lines


def threshold(search: Search) -> str:
    """Where leakage stops, with its interval and the attack that needs most, or why that is not known."""
    found = search["ssim"]
    if found["stopped"] != WITHIN:
        return str(found["note"])
    low, high = ("beyond" if end is None else f"{end:.3g}" for end in (found["low"], found["high"]))
    return f"{found['strength']:.3g} ({low} to {high}), {short_name(search['attack'])}"


def trained(line: Line, attacker: str, trainings: list[Row]) -> list[Row]:
    """The trainings with the defense at the strength that stops the attacker."""
    at = line.at(attacker)
    return [
        row for row in trainings if at and line.is_trained_on(data_of(row)) and row["defense"] == label(at.as_dict())
    ]


def data_of(row: Row) -> str:
    return str(row["data"]).partition("(")[0]


def network(row: Row) -> str:
    """What was trained, and how."""
    split = "" if row["split"] == "iid" else f", {row['split']}"
    return f"{row['model'].partition('(')[0]} {row['algorithm']}{split}"


def chosen(row: Row) -> str:
    """The learning rate, where there was a choice."""
    return f", rate {rate(row)}" if " " in row["learning_rates"] else ""


def accuracy(row: Row) -> str:
    """Network, accuracy and learning rate."""
    diverged = f", {row['diverged']} of {row['seeds']} diverged" if row["diverged"] else ""
    return f"{network(row)} {100 * row['accuracy']:.1f}{half(row, 'accuracy', 100, 1)} %{chosen(row)}{diverged}"


@dataclass(frozen=True)
class Judged:
    """What it costs to stop an attacker on a data set.

    Attributes:
        verdict: one of ``NOTHING``, ``COSTS``, ``OPEN``, ``UNSTOPPED``.
        loss: points of accuracy in the network that loses most; None where that is not known.
        said: for people.
    """

    verdict: str
    loss: float | None
    said: str


def judge(line: Line, attacker: str, trainings: list[Row]) -> Judged:
    """Compares the loss with ``NEAR_NONE``: its whole interval must be on one side, in every network (FedSGD)."""
    stopped = line.hardest[attacker]["ssim"]["stopped"]
    if stopped == VOID:
        return Judged(OPEN, None, "the attack finds nothing without a defense")
    if stopped == NEVER:
        return Judged(UNSTOPPED, math.inf, "not stopped")
    sound = {scenario_of(row) for row in trainings if row["defense"] == "no defense" and not row["diverged"]}
    rows = [
        row
        for row in trained(line, attacker, trainings)
        if row["algorithm"] == "FedSGD" and row["difference_low"] is not None and scenario_of(row) in sound
    ]
    if not rows:
        return Judged(OPEN, None, "no sound FedSGD trainings")
    worst = min(rows, key=lambda row: float(row["difference"]))
    losses = [(-100 * row["difference_high"], -100 * row["difference_low"]) for row in rows]
    verdict = (
        COSTS
        if any(low > NEAR_NONE for low, _ in losses)
        else NOTHING
        if all(high <= NEAR_NONE for _, high in losses)
        else OPEN
    )
    low, high = losses[rows.index(worst)]
    loss = -100 * worst["difference"]
    return Judged(
        verdict, loss, f"{loss:z.1f} points ({low:z.1f} to {high:z.1f}, {network(worst)}{chosen(worst)}), {verdict}"
    )


def finding(lines: list[Line], trainings: list[Row]) -> list[str]:
    """What each defense costs where it stops each attacker, against the paper's claim, and their ranking; in words."""
    said = [
        "The claim: masking and clipping that stop the attack cost near to nothing, noise and pruning can cost more.",
        f"Near to nothing means here that the 95 % interval of the loss is below {NEAR_NONE:g} point of accuracy in",
        "every network trained by FedSGD; that it costs, that the interval is above it in one of them; else it is",
        "open. For each data set stands the one that loses most.",
        "",
    ]
    defenses = dict.fromkeys(line.label for line in lines)
    found = {
        attacker: {
            defense: {line.where: judge(line, attacker, trainings) for line in lines if line.label == defense}
            for defense in defenses
        }
        for attacker in (OBLIVIOUS, ADAPTIVE)
    }
    for attacker, of_defense in found.items():
        said += [f"**Against the {attacker} attacker:**", ""]
        for defense, of_scenario in of_defense.items():
            each = "; ".join(f"{where}: {judged.said}" for where, judged in of_scenario.items())
            said.append(f"- {defense}: **{together([j.verdict for j in of_scenario.values()])}**. {each}.")
        said.append("")
    return [*said, *ranking(found[ADAPTIVE])]


def together(verdicts: list[str]) -> str:
    """The verdict over scenarios: the worst that is sure."""
    return next((worst for worst in (UNSTOPPED, COSTS, OPEN) if worst in verdicts), NOTHING)


def ranking(found: dict[str, dict[str, Judged]]) -> list[str]:
    """Defenses by what it costs to stop the adaptive attacker; those for which that is not known are named."""
    losses = {defense: [judged.loss for judged in of_scenario.values()] for defense, of_scenario in found.items()}
    known = {
        defense: fmean(of)
        for defense, each in losses.items()
        if len(of := [x for x in each if x is not None]) == len(each)
    }
    unknown = [defense for defense in losses if defense not in known]
    lines = []
    if len(known) > 1:
        order = [
            f"{defense} (" + ("not stopped everywhere" if math.isinf(known[defense]) else f"{known[defense]:.1f}") + ")"
            for defense in sorted(known, key=lambda defense: known[defense])
        ]
        lines.append(
            "Ranked by the points that it costs to stop the adaptive attacker, as means over data sets of the network "
            f"that loses most: {', '.join(order)}."
        )
    if unknown:
        lines.append(f"Not ranked, because something is not known of them: {', '.join(unknown)}.")
    return lines


def information(folder: Path) -> tuple[list[str], list[dict[str, Any]]]:
    """What spectrum.json and diagnosis.json in the folder say, where they are there, and where that comes from.

    Raises:
        UsageError: one of them is damaged.
    """
    lines: list[str] = []
    origins: list[dict[str, Any]] = []
    for name, command, tell in (("spectrum", "spectrum", directions), ("diagnosis", "diagnose", causes)):
        path = folder / f"{name}.json"
        if path.exists():
            try:
                found = read_json(path)
                lines += ["", *tell(found["rows"])]
                origins += [row["provenance"] for row in found["rows"] if "provenance" in row]
                origins += [found["provenance"]] if "provenance" in found else []
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                raise UsageError(f"{path} can not be read: run leakboard {command} again, or delete it") from None
    return lines, origins


def directions(rows: list[dict[str, Any]]) -> list[str]:
    """What masks leave."""
    return [
        "**Equations and directions.** The entries that a mask leaves are more than what they say: the derivative of",
        "the masked update in the pixels has fewer directions (singular values down to a millionth of the largest",
        "without a mask; [spectrum.md](spectrum.md) has larger ones too, and pruning).",
        "",
        "| data | masked | entries left | directions | pixels |",
        "|---|---|---|---|---|",
        *(
            f"| {row['dataset']} | {row['defense'].partition('ratio=')[2].partition(',')[0]} "
            f"| {row['equations']:,.0f} | {row['directions']['1e-06']:,.0f} | {row['pixels']:,} |"
            for row in rows
            if row["defense"].startswith("Masking")
        ),
    ]


def causes(rows: list[dict[str, Any]]) -> list[str]:
    """Why attacks that know the mask miss images, by data set and attack over all masks."""
    verdicts: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        if row["defense"].startswith("Masking"):
            verdicts[f"{row['where']}, {attack_label(row['attack'])}"] += diagnosis.verdicts_of(row)
    said = [
        f"- {name}: {', '.join(f'{kind} {of.count(kind)}' for kind in diagnosis.VERDICTS)} of {len(of)}"
        for name, of in verdicts.items()
    ]
    return [
        "**Optimizer or information?** Attacks that know the mask were run again in double precision, from the true",
        "image and from near it; [diagnosis.md](diagnosis.md) has each mask and says what the words mean.",
        "",
        *said,
        *second_order([row for row in rows if row["defense"].startswith("Masking")]),
    ]


def second_order(rows: list[dict[str, Any]]) -> list[str]:
    """How many of the images that iDLG misses Gauss-Newton finds, where it was run on the same victims."""
    solved = {
        (row["where"], row["defense"]): row["runs"][diagnosis.OWN]["leaked"]
        for row in rows
        if row["attack"]["class"] == "GaussNewton"
    }
    lines = []
    for where in dict.fromkeys(place for place, _ in solved):
        missed = {
            (row["defense"], victim): found
            for row in rows
            if row["where"] == where and row["attack"]["class"] == "IDLG"
            for victim, (found, verdict) in enumerate(
                zip(solved.get((where, row["defense"]), []), diagnosis.verdicts_of(row), strict=False)
            )
            if verdict in ("optimizer", "open")
        }
        if missed:
            lines.append(
                f"Of the {len(missed)} images behind a mask on {where} that one of these misses by the optimizer's "
                f"fault, or for a reason that is open, Gauss-Newton finds {sum(missed.values())}."
            )
    return ["", *lines] if lines else []
