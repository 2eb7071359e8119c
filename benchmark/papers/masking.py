"""Random gradient masking (Kim and Park 2024, arXiv 2408.08430): what protects, against whom, and at what cost."""

import json
import math
from collections import defaultdict
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmark import strengths
from benchmark.papers.sources import provenance
from benchmark.store import Record
from benchmark.strengths import ADAPTIVE, OBLIVIOUS, TRAINED_ON, Line, Search
from benchmark.threshold import attack_label
from benchmark.training.store import read_all as read_trainings
from benchmark.training.table import accuracy as last_accuracy
from benchmark.training.table import t_interval

NEAR_NONE = 1.0
"""Percentage points of accuracy up to which a loss counts as near to none; the paper's abstract gives no figure."""


def page(records: list[Record], folder: Path) -> str:
    """The page, from thresholds.json of ``leakboard threshold`` and the trainings of ``leakboard train`` in the folder.

    Raises:
        UsageError: thresholds.json is missing or damaged.
    """
    found = strengths.read(folder)
    trainings = read_trainings(folder) if (folder / "training").is_dir() else []
    lines = [
        "# Random gradient masking, run again",
        "",
        "Kim and Park 2024 (arXiv 2408.08430) look for the weakest masking, clipping, pruning and noise that stops",
        "DLG, judged by SSIM, and find that federated training at those strengths loses near to nothing with masking",
        "and clipping, and can lose with noise and pruning (abstract; no figure of the paper could be had). Its",
        "attacker does not know the defense: *oblivious* is DLG or iDLG as published. *Adaptive* attackers know it,",
        "and the strongest of them knows too that images are smooth and lie in [0, 1].",
        "",
        f"A victim leaks at an SSIM of {found.ssim:g} or more; leakage has stopped where at most {found.stop:.0%} of",
        "the victims leak. A strength is that which the most demanding of the attacks needs, with its 95 % interval;",
        "accuracy is that of federated training with the defense at that strength.",
    ]
    for dataset in dict.fromkeys(line.dataset for line in found.lines):
        lines += ["", f"## {dataset}", "", *table([line for line in found.lines if line.dataset == dataset], trainings)]
    lines += ["", "## Finding", "", *finding(found.lines, trainings), *information(folder), "", *provenance(records)]
    return "\n".join(lines) + "\n"


def table(of_dataset: list[Line], trainings: list[Record]) -> list[str]:
    """The defenses of one data set."""
    lines = [
        "| defense | oblivious stops at | adaptive stops at | accuracy at the first | at the second | without |",
        "|---|---|---|---|---|---|",
    ]
    for line in of_dataset:
        stops = [threshold(search) for search in line.hardest.values()]
        accuracies = [accuracy(search, trainings) for search in line.hardest.values()]
        without = accuracy(None, trainings, line.dataset)
        lines.append("| " + " | ".join([f"{line.defense} {line.argument}", *stops, *accuracies, without]) + " |")
    return lines


def threshold(search: Search) -> str:
    """Where leakage stops, with its interval, or why that is not known."""
    found = search["ssim"]
    if found["strength"] is None:
        return str(found["note"]).replace("|", "/")
    high = "beyond" if found["high"] is None else f"{found['high']:.3g}"
    return f"{found['strength']:.3g} ({found['low']:.3g} to {high})"


def accuracy(search: Search | None, trainings: list[Record], dataset: str = "") -> str:
    """Of each network that was trained with the defense at that strength, to three digits, or without one."""
    shown = []
    for network, found in by_network(trainings, search["dataset"] if search else dataset, search).items():
        low, high = t_interval(found)
        half = "" if low is None or high is None else f" ± {(high - low) / 2:.1f}"
        shown.append(f"{network} {fmean(found):.1f}{half} %")
    return "<br>".join(shown) or "not trained"


def by_network(trainings: list[Record], dataset: str, search: Search | None) -> dict[str, list[float]]:
    """Accuracies in percent of the trainings with that defense and strength (None: without one), by network."""
    found: dict[str, list[float]] = defaultdict(list)
    for record in trainings:
        config = record["config"]
        if config["data"]["class"] == TRAINED_ON.get(dataset, dataset) and is_of(search, config["defense"]):
            split = "" if config["split"] == "iid" else f", Dirichlet {config['split']['dirichlet']:g}"
            found[f"{config['model']['class']} {config['algorithm']}{split}"].append(100 * last_accuracy(record))
    return found


def is_of(search: Search | None, defense: dict[str, Any] | None) -> bool:
    """Whether a training was with the defense of the search, at the strength that it found."""
    if search is None or defense is None:
        return search is None and defense is None
    at = search["ssim"]["strength"]
    same = at is not None and defense["class"] == search["defense"]
    return same and f"{float(defense[search['argument']]):.3g}" == f"{at:.3g}"


def finding(every: list[Line], trainings: list[Record]) -> list[str]:
    """What each defense costs where it stops each attacker, against the paper's claim, and their ranking; in words."""
    lines = [
        "The claim: masking and clipping that stop the attack cost near to nothing, noise and pruning can cost more.",
        f"Near to nothing is here a mean loss of at most {NEAR_NONE:g} point of accuracy in every network that was",
        "trained.",
        "",
    ]
    defenses = list(dict.fromkeys(line.defense for line in every))
    for attacker in (OBLIVIOUS, ADAPTIVE):
        lines.append(f"**Against the {attacker} attacker.**")
        for defense in defenses:
            of_defense = [line for line in every if line.defense == defense]
            found = {line.dataset: largest_loss(line.hardest[attacker], trainings) for line in of_defense}
            said = ", ".join(f"{dataset} {in_words(loss)}" for dataset, loss in found.items())
            lines.append(f"{defense}: {said}: {verdict(list(found.values()))}.")
        lines.append("")
    order = sorted(defenses, key=lambda d: mean_loss([line for line in every if line.defense == d], trainings))
    lines.append(
        "Ranked by the mean over data sets of what it costs to stop the adaptive attacker, the cheapest first: "
        + ", ".join(order)
        + ". A defense that does not stop it within its range stands behind those that do."
    )
    return lines


NOT_STOPPED, NOT_TRAINED = float("inf"), float("nan")


def largest_loss(search: Search, trainings: list[Record]) -> float:
    """Of accuracy at the strength that was found, in points, in the network that loses most.

    Returns:
        0 where no defense is needed, ``NOT_STOPPED`` where none in the range is enough, NaN where nothing was trained.
    """
    if search["ssim"]["strength"] is None:
        return 0.0 if "weak end" in search["ssim"]["note"] else NOT_STOPPED
    protected, without = (by_network(trainings, search["dataset"], of) for of in (search, None))
    losses = [fmean(without[network]) - fmean(found) for network, found in protected.items() if network in without]
    return max(losses, default=NOT_TRAINED)


def in_words(loss: float) -> str:
    if math.isnan(loss):
        return "not trained"
    return "not stopped" if loss == NOT_STOPPED else f"{loss:.1f} points"


def verdict(losses: list[float]) -> str:
    """Whether a defense costs near to nothing on every data set."""
    known = [loss for loss in losses if not math.isnan(loss)]
    if any(loss > NEAR_NONE for loss in known):
        return "it costs, or does not stop the attack" if NOT_STOPPED in known else "it costs"
    return "near to nothing" if len(known) == len(losses) else "open"


def mean_loss(of_defense: list[Line], trainings: list[Record]) -> float:
    """Over data sets, against the adaptive attacker; where nothing was trained, that does not count."""
    losses = [largest_loss(line.hardest[ADAPTIVE], trainings) for line in of_defense]
    known = [loss for loss in losses if not math.isnan(loss)]
    return fmean(known) if known else NOT_STOPPED


def information(folder: Path) -> list[str]:
    """What spectrum.json and diagnosis.json in the folder say, where they are there."""
    lines: list[str] = []
    if (folder / "spectrum.json").exists():
        rows = json.loads((folder / "spectrum.json").read_text())["rows"]
        said = [
            f"{row['dataset']} at ratio {row['defense'].partition('ratio=')[2].partition(',')[0]} leaves "
            f"{row['equations']:,.0f} entries and {row['directions']['1e-06']:,.0f} directions of {row['pixels']:,}"
            for row in rows
            if row["defense"].startswith("Masking")
        ]
        lines += [
            "",
            "**Equations and directions.** The entries that a mask leaves are more than what they say: the derivative",
            "of the masked update in the pixels has fewer directions (singular values down to a millionth of the",
            f"largest without a mask; [spectrum.md](spectrum.md)). {'; '.join(said)}.",
        ]
    if (folder / "diagnosis.json").exists():
        rows = json.loads((folder / "diagnosis.json").read_text())["rows"]
        by_attack: dict[str, list[str]] = defaultdict(list)
        for row in rows:
            by_attack[attack_label(row["attack"])] += row["faults"]
        said = [
            f"{attack} found {faults.count('found')} of {len(faults)} images; of the others the optimizer is at fault "
            f"in {faults.count('optimizer')}, the information in {faults.count('information')}"
            for attack, faults in by_attack.items()
        ]
        lines += [
            "",
            "**Optimizer or information?** Attacks that know the defense were run again in double precision, from the",
            f"true image and from near it ([diagnosis.md](diagnosis.md)). {'; '.join(said)}.",
        ]
    return lines
