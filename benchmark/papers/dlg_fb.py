"""DLG-FB (Leite et al. 2024, arXiv 2409.17767): what feedback blending gains, and what any start near the mean does."""

import json
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from benchmark.errors import UsageError
from benchmark.intervals import SEED, wilson
from benchmark.leaderboard import newest_victims
from benchmark.leak import leaks
from benchmark.papers.dlg_fb_figure import Interval, figure
from benchmark.papers.sources import provenance, same_attack
from benchmark.registry import spec
from benchmark.store import Record, write_whole

STARTS = {
    "noise": "noise",
    "constant": "0.5 everywhere",
    "mean": "data set mean",
    "class_mean": "class mean",
    "last": "last success",
    "ungated": "blend, ungated",
    "blend": "blend, gated (FB)",
}

RELATED = {"MNIST": "images of one digit", "CIFAR100": "images of one class", "LFW": "images of one person"}
"""What images have in common that follow each other, for each data set in the order of the page."""

RESAMPLES = 10_000

FEW = 5
"""Of fewer sequences a bootstrap says nothing."""


@dataclass(frozen=True)
class Outcome:
    """One attacked victim.

    Attributes:
        leaked: whether its image was found, by the PSNR.
        passed: whether the matching loss came to the paper's threshold.
        evaluations: until it did, or all of them where it did not.
    """

    leaked: bool
    passed: bool
    evaluations: int


Attacked = dict[int, Outcome]
"""The victims of a start that count, by their numbers."""


@dataclass(frozen=True)
class Setting:
    """A data set and an order of its images, attacked with DLG or iDLG."""

    data: str
    same_class: int
    base: str
    gate: float
    length: int
    budget: int
    starts: dict[str, Attacked]
    victims: int

    @property
    def order(self) -> str:
        related = RELATED.get(self.data, "images of one class") if self.same_class > 1 else "unrelated images"
        return f"{self.data}, {related}"

    @property
    def label(self) -> str:
        return f"{self.order}, {self.base}"


def page(records: list[Record], folder: Path) -> str:
    """Writes starts.png, and returns the page.

    Raises:
        UsageError: the records are not of this suite.
    """
    found = settings(records)
    if not found:
        raise UsageError(f"{folder} holds no setting with every start: run configs/dlg_fb.yaml into it first")
    write_whole(folder / "starts.png", drawn(found))
    budgets = " or ".join(f"{budget:,}" for budget in sorted({setting.budget for setting in found}))
    lines = [
        "# DLG-FB, run again",
        "",
        "Leite et al. 2024 (arXiv 2409.17767) start an attack at a running blend of earlier successful",
        "reconstructions, and report an attack success rate that is 19.18 % higher and 48.82 % fewer iterations per",
        "attacked image than the baselines (abstract; which data set and attack that is could not be had). Their",
        "success is a matching loss of 0.03 or less on MNIST, 0.09 on CIFAR-100; here that stands beside whether the",
        "image was found (PSNR of 20 dB or more). LFW, which is not theirs, has the threshold of CIFAR-100.",
        "",
        f"Every start attacks the same victims with the same networks and labels and at most {budgets} evaluations",
        "(the paper: 300 steps of 20). Only victims that every start attacked count: the first ones of each sequence,",
        "attacked from noise until two have succeeded, do not. Evaluations are those until the loss threshold, or all",
        "where it was not met.",
        "Intervals are 95 %: Wilson for rates; for the differences from noise, paired, bootstrap over sequences.",
    ]
    lines += ["", "![what each start gains over noise, and what it saves](starts.png)"]
    for setting in found:
        lines += ["", f"## {setting.label}", "", *table(setting)]
    lines += ["", "## Finding", "", *finding(found), "", *provenance(records)]
    return "\n".join(lines) + "\n"


def settings(records: list[Record]) -> list[Setting]:
    """Those in which every start was run, with the victims that all of them attacked."""
    cells = newest_victims(records)
    found: dict[str, dict[str, str]] = defaultdict(dict)
    rules: dict[str, dict[str, Any]] = {}
    for cell, victims in cells.items():
        config: dict[str, Any] = next(iter(victims.values()))[1]["config"]
        attack = config["attack"]
        if attack["class"] == "DLGFB":
            base, start = attack["attack"], attack["feedback"]
        elif attack["class"] in ("DLG", "IDLG"):
            base, start = attack["class"], attack.get("start")
            usual = spec("attack", base, {"start": start, "max_evaluations": attack["max_evaluations"]}).as_dict()
            if not same_attack(attack, usual):  # another experiment, with priors or restarts
                continue
        else:
            continue
        if config["defense"] is None:
            shared = config | {"attack": {"base": base, "max_evaluations": attack["max_evaluations"]}}
            setting = json.dumps(shared, sort_keys=True)
            found[setting][start] = cell
            if start == "blend":
                rules[setting] = config | {"base": base}
    made = [
        setting_of(rules[setting], {start: cells[of_starts[start]] for start in STARTS})
        for setting, of_starts in found.items()
        if set(of_starts) >= set(STARTS)
    ]
    order = list(RELATED)
    known = [setting for setting in made if setting.starts["noise"]]
    return sorted(known, key=lambda s: (order.index(s.data) if s.data in order else 99, s.data, s.same_class, s.base))


def setting_of(config: dict[str, Any], starts: dict[str, dict[int, tuple[dict[str, Any], Record]]]) -> Setting:
    """The setting of one configuration, with the victims that every start attacked."""
    counted = set.intersection(
        *({index for index, (victim, _) in of.items() if victim["start"] != "warm-up"} for of in starts.values())
    )
    attack = config["attack"]
    return Setting(
        config["data"]["class"],
        config.get("same_class", 1),
        config["base"],
        attack["gate"],
        attack["length"],
        attack["max_evaluations"],
        {start: {i: outcome(*of[i], attack["gate"]) for i in sorted(counted)} for start, of in starts.items()},
        len(starts["noise"]),
    )


def outcome(victim: dict[str, Any], record: Record, gate: float) -> Outcome:
    """What became of one victim.

    Raises:
        UsageError: it is not known when the loss came to the gate.
    """
    curve, row = record["curve"], record["victims"].index(victim)
    if gate not in curve["levels"]:
        raise UsageError(f"the loss threshold {gate:g} is not recorded: run with a gate of one of {curve['levels']}")
    at = curve["passed"][row][curve["levels"].index(gate)]
    return Outcome(leaks(victim), at is not None, victim["evaluations"] if at is None else at)


def drawn(found: list[Setting]) -> bytes:
    """The figure of these settings."""
    starts = [start for start in STARTS if start != "noise"]
    rows: dict[str, dict[str, tuple[list[Interval], list[Interval]]]] = defaultdict(dict)
    for setting in found:
        differences = [gain(setting, start) for start in starts], [saving(setting, start) for start in starts]
        rows[setting.order][setting.base] = differences
    return figure(rows, [STARTS[start] for start in starts])


def table(setting: Setting) -> list[str]:
    """The starts of one setting."""
    noise = setting.starts["noise"]
    lines = [
        f"{len(noise)} of {setting.victims} victims count, in {len({i // setting.length for i in noise})} sequences.",
        "",
        f"| start | image found, % | against noise | loss at most {setting.gate:g}, % | evaluations | against noise |",
        "|---|---|---|---|---|---|",
    ]
    for start, name in STARTS.items():
        attacked = setting.starts[start]
        cells = [name, rate([o.leaked for o in attacked.values()])]
        cells.append("" if start == "noise" else points(*gain(setting, start)))
        cells.append(rate([o.passed for o in attacked.values()]))
        cells.append(f"{fmean(o.evaluations for o in attacked.values()):,.0f}")
        cells.append("" if start == "noise" else percent(*saving(setting, start)))
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def rate(hits: Sequence[bool]) -> str:
    low, high = wilson(sum(hits), len(hits))
    return f"{100 * fmean(hits):.1f} ({100 * low:.1f}-{100 * high:.1f})"


def points(value: float, low: float, high: float) -> str:
    return f"{100 * value:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"


def percent(value: float, low: float, high: float) -> str:
    return f"{100 * value:+.0f} % ({100 * low:+.0f} to {100 * high:+.0f})"


def gain(setting: Setting, start: str, base: str = "noise") -> tuple[float, float, float]:
    """Difference of the rates of images found from two starts, with its interval."""
    return resampled(setting, start, base, lambda here, there: here.leaked - there.leaked, lambda there: 1.0)


def passing(setting: Setting, start: str, base: str = "noise") -> tuple[float, float, float]:
    """The same of the rates at which the loss threshold is met."""
    return resampled(setting, start, base, lambda here, there: here.passed - there.passed, lambda there: 1.0)


def saving(setting: Setting, start: str, base: str = "noise") -> tuple[float, float, float]:
    """Relative difference of the evaluations, with its interval."""
    return resampled(
        setting,
        start,
        base,
        lambda here, there: here.evaluations - there.evaluations,
        lambda there: there.evaluations,
    )


def resampled(
    setting: Setting,
    start: str,
    base: str,
    upper: Callable[[Outcome, Outcome], float],
    lower: Callable[[Outcome], float],
) -> tuple[float, float, float]:
    """Ratio of two sums over victims, and its 95 % percentile bootstrap over sequences, which share what they found."""
    sums: dict[int, np.ndarray] = defaultdict(lambda: np.zeros(2))
    for index, there in setting.starts[base].items():
        here = setting.starts[start][index]
        sums[index // setting.length] += (upper(here, there), lower(there))
    sequences = np.stack(list(sums.values()))
    drawn = np.random.default_rng(SEED).integers(len(sequences), size=(RESAMPLES, len(sequences)))
    totals = sequences[drawn].sum(1)
    low, high = np.quantile(totals[:, 0] / totals[:, 1], [0.025, 0.975])
    if len(sequences) < FEW:
        low, high = -math.inf, math.inf
    value = sequences.sum(0)
    return float(value[0] / value[1]), float(low), float(high)


def finding(found: list[Setting]) -> list[str]:
    """How much of the gain is the blend's, and how much that of a start that is near the mean: a table and words.

    The data set mean stands for such starts: chosen beforehand, and it needs nothing that the blend does not have.
    """
    lines = [
        "| | found from noise, % | mean, points | blend, points | blend against mean, points "
        "| evaluations of the mean | of the blend | blend against mean |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for setting in found:
        cells = [
            f"{100 * fmean(o.leaked for o in setting.starts['noise'].values()):.1f}",
            *(points(*gain(setting, start)) for start in ("mean", "blend")),
            points(*gain(setting, "blend", "mean")),
            *(percent(*saving(setting, start)) for start in ("mean", "blend")),
            percent(*saving(setting, "blend", "mean")),
        ]
        lines.append(f"| {setting.label} | " + " | ".join(cells) + " |")
    found_of, passed_of, saved_of = (
        {start: 100 * fmean(measure(setting, start)[0] for setting in found) for start in ("mean", "last", "blend")}
        for measure in (gain, passing, saving)
    )
    images = [gain(setting, "blend", "mean") for setting in found]
    evaluations = [saving(setting, "blend", "mean") for setting in found]
    gates = [gain(setting, "blend", "ungated") for setting in found]
    return [
        *lines,
        "",
        f"As means over these {len(found)} settings, against noise: the blend changes the share of images found by "
        f"{found_of['blend']:+.1f} points, that of loss thresholds met by {passed_of['blend']:+.1f} points, and the "
        f"evaluations by {saved_of['blend']:+.0f} %. The data set mean, which has seen no reconstruction, changes them "
        f"by {found_of['mean']:+.1f} points, {passed_of['mean']:+.1f} points and {saved_of['mean']:+.0f} %; the last "
        f"success as it is by {found_of['last']:+.1f} points, {passed_of['last']:+.1f} points and "
        f"{saved_of['last']:+.0f} %. Against the mean, the blend surely (by the interval) finds more images in "
        f"{above(images)} of {len(found)} settings and fewer in {below(images)}; it surely takes fewer evaluations in "
        f"{below(evaluations)} and more in {above(evaluations)}. Where it is neither, these victims do not tell the "
        "blend from a start that is smooth and near the mean. The gate surely finds more images than blending failures "
        f"too in {above(gates)} of {len(found)}, and fewer in {below(gates)}.",
    ]


def above(found: list[tuple[float, float, float]]) -> int:
    """How many intervals are above 0."""
    return sum(low > 0 for _, low, _ in found)


def below(found: list[tuple[float, float, float]]) -> int:
    """How many intervals are below 0."""
    return sum(high < 0 for *_, high in found)
