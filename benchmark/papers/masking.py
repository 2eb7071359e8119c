"""Random gradient masking (Kim and Park 2024, arXiv 2408.08430): what protects, against whom, and at what cost."""

import json
from collections import defaultdict
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmark.errors import UsageError
from benchmark.papers.sources import provenance
from benchmark.store import Record
from benchmark.training.store import read_all as read_trainings
from benchmark.training.table import accuracy as last_accuracy
from benchmark.training.table import t_interval

TRAINED_ON = {"CIFAR10": "CIFAR10JPEG"}
"""The data set that is trained on for one that is attacked, where the whole of it can be had as JPEG only."""

Search = dict[str, Any]


def page(records: list[Record], folder: Path) -> str:
    """The page, from thresholds.json of ``leakboard threshold`` and the trainings of ``leakboard train`` in the folder.

    Raises:
        UsageError: thresholds.json is missing or damaged.
    """
    path = folder / "thresholds.json"
    try:
        found = json.loads(path.read_text())
        searches, ssim, stop = found["thresholds"], found["ssim"], found["stop"]
    except (OSError, ValueError, KeyError):
        raise UsageError(f"{path} can not be read: run leakboard threshold masking --out {folder} first") from None
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
        f"A victim leaks at an SSIM of {ssim:g} or more; leakage has stopped where at most {stop:.0%} of the victims",
        "leak. A strength is that which the most demanding of the attacks needs, with its 95 % interval; accuracy is",
        "that of federated training with the defense at that strength.",
    ]
    for dataset in dict.fromkeys(search["dataset"] for search in searches):
        lines += ["", f"## {dataset}", "", *table([s for s in searches if s["dataset"] == dataset], trainings)]
    lines += ["", *provenance(records)]
    return "\n".join(lines) + "\n"


def table(searches: list[Search], trainings: list[Record]) -> list[str]:
    """The defenses of one data set."""
    lines = [
        "| defense | oblivious stops at | adaptive stops at | accuracy at the first | at the second | without |",
        "|---|---|---|---|---|---|",
    ]
    by_defense: dict[tuple[str, str], list[Search]] = defaultdict(list)
    for search in searches:
        by_defense[search["defense"], search["argument"]].append(search)
    for (defense, argument), of_defense in by_defense.items():
        cells = [f"{defense} {argument}"]
        accuracies = []
        for adaptive in (False, True):
            published = [s for s in of_defense if not s["attack"].get("total_variation")]
            worst = hardest([s for s in (of_defense if adaptive else published) if s["adaptive"] == adaptive])
            cells.append(threshold(worst))
            accuracies.append(accuracy(worst, trainings))
        without = accuracy(None, trainings, searches[0]["dataset"])
        lines.append("| " + " | ".join([*cells, *accuracies, without]) + " |")
    return lines


def hardest(searches: list[Search]) -> Search:
    """The search whose attack needs the strongest defense; a strength is as strong as it is far from the weak end."""

    def needed(search: Search) -> float:
        weak, strong = search["strengths"][0], search["strengths"][-1]
        at = search["ssim"]["strength"]
        if at is None:
            return 0.0 if "weak end" in search["ssim"]["note"] else 1e9
        return abs(at - weak) if strong > weak else 1 / at

    return max(searches, key=needed)


def threshold(search: Search) -> str:
    """Where leakage stops, with its interval, or why that is not known."""
    found = search["ssim"]
    if found["strength"] is None:
        return str(found["note"]).replace("|", "/")
    high = "beyond" if found["high"] is None else f"{found['high']:.3g}"
    return f"{found['strength']:.3g} ({found['low']:.3g} to {high})"


def accuracy(search: Search | None, trainings: list[Record], dataset: str = "") -> str:
    """Of each network that was trained with the defense at that strength, to three digits, or without one."""
    name = search["dataset"] if search else dataset
    of_network: dict[str, list[float]] = defaultdict(list)
    for record in trainings:
        config = record["config"]
        if config["data"]["class"] == TRAINED_ON.get(name, name) and is_of(search, config["defense"]):
            of_network[f"{config['model']['class']} {config['algorithm']}"].append(100 * last_accuracy(record))
    shown = []
    for network, found in of_network.items():
        low, high = t_interval(found)
        half = "" if low is None or high is None else f" ± {(high - low) / 2:.1f}"
        shown.append(f"{network} {fmean(found):.1f}{half} %")
    return "; ".join(shown) or "not trained"


def is_of(search: Search | None, defense: dict[str, Any] | None) -> bool:
    """Whether a training was with the defense of the search, at the strength that it found."""
    if search is None or defense is None:
        return search is None and defense is None
    at = search["ssim"]["strength"]
    same = at is not None and defense["class"] == search["defense"]
    return same and f"{float(defense[search['argument']]):.3g}" == f"{at:.3g}"
