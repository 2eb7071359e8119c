"""DLG-FB (Leite et al. 2024, arXiv 2409.17767): what feedback blending gains, and what any start near the mean does."""

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from benchmark.boards.cells import cells_of_one_code
from benchmark.boards.markdown import escaped
from benchmark.errors import UsageError
from benchmark.metrics.intervals import holm, wilson
from benchmark.metrics.leak import leaks
from benchmark.papers.clusters import FEW, Difference, of_means, of_parts, of_sums
from benchmark.papers.dlg_fb_figure import figure
from benchmark.papers.sources import provenance, same_attack
from benchmark.store.store import Record, write_whole
from benchmark.suite.registry import spec

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

LEVEL = 0.05
"""Of a family of tests: the probability of one false call among the settings."""

CLAIM = "19.18 % more successes and 48.82 % fewer iterations"
"""Of the paper's abstract."""


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
    def sequences(self) -> int:
        """Those with a victim that counts."""
        return len({index // self.length for index in self.starts["noise"]})

    @property
    def order(self) -> str:
        related = RELATED.get(self.data, "images of one class") if self.same_class > 1 else "unrelated images"
        return f"{escaped(self.data)}, {related}"

    @property
    def label(self) -> str:
        return f"{self.order}, {self.base}"


def page(records: list[Record], folder: Path) -> str:
    """Writes starts.png, and returns the page.

    Raises:
        UsageError: the records are not of this suite.
    """
    found = of_the_paper(records, folder)
    write_whole(folder / "starts.png", drawn(found))
    counts = " or ".join(map(str, sorted({setting.sequences for setting in found})))
    budgets = " or ".join(f"{budget:,}" for budget in sorted({setting.budget for setting in found}))
    lines = [
        "# DLG-FB, run again",
        "",
        "Leite et al. 2024 (arXiv 2409.17767) start an attack at a running blend of earlier successful",
        f"reconstructions, and report {CLAIM} per attacked image",
        "than the baselines (abstract; which data set and attack that is, is not known here). Their",
        "success is a matching loss of 0.03 or less on MNIST, 0.09 on CIFAR-100; here that stands beside whether the",
        "image was found (PSNR of 20 dB or more). LFW, which is not theirs, has the threshold of CIFAR-100.",
        "",
        f"Every start attacks the same victims with the same networks and labels and at most {budgets} evaluations",
        "(the paper: 300 steps of 20). Only victims that every start attacked count: the first ones of each sequence,",
        "attacked from noise until two have succeeded, do not. Evaluations are those until the loss threshold, or all",
        "where it was not met.",
        "",
        "Victims of a sequence depend on each other through what was found before; sequences, of which there are",
        f"{counts} in a setting, do not. So 95 % intervals of differences, which are paired, are t intervals over",
        f"sequences, and none stands where fewer than {FEW} sequences differ. With so few, an interval says little of",
        "what is rare: where hardly any attack fails, ten sequences can lack the failures that cost most evaluations,",
        "and their interval is then too short. What is called sure in a setting does not rest on intervals, but on",
        f"tests that flip the signs of whole sequences and are exact for any number of them; at {100 * LEVEL:g} % over",
        "all settings together (Holm). Intervals of rates are Wilson's, as if victims did not depend on each other.",
    ]
    lines += ["", "![what each start gains over noise, and what it saves](starts.png)"]
    for setting in found:
        lines += ["", f"## {setting.label}", "", *table(setting)]
    lines += ["", "## Finding", "", *finding(found), "", *provenance(records)]
    return "\n".join(lines) + "\n"


def of_the_paper(records: list[Record], folder: Path) -> list[Setting]:
    """The settings, of which there is one at least.

    Raises:
        UsageError: there is none, or a loss threshold was not recorded.
    """
    found = settings(records)
    if not found:
        raise UsageError(f"{folder} holds no setting with every start: run configs/dlg_fb.yaml into it first")
    return found


def settings(records: list[Record]) -> list[Setting]:
    """Those in which every start was run, with the victims that all of them attacked."""
    cells = cells_of_one_code(records)[0]
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
    rows: dict[str, dict[str, tuple[list[Difference], list[Difference]]]] = defaultdict(dict)
    for setting in found:
        differences = [gain(setting, start) for start in starts], [saving(setting, start) for start in starts]
        rows[setting.order][setting.base] = differences
    return figure(rows, [STARTS[start] for start in starts])


def table(setting: Setting) -> list[str]:
    """The starts of one setting."""
    noise = setting.starts["noise"]
    lines = [
        f"{len(noise)} of {setting.victims} victims count, in {setting.sequences} sequences.",
        "",
        f"| start | image found, % | against noise | loss at most {setting.gate:g}, % | evaluations | against noise |",
        "|---|---|---|---|---|---|",
    ]
    for start, name in STARTS.items():
        attacked = setting.starts[start]
        cells = [name, rate([o.leaked for o in attacked.values()])]
        cells.append("" if start == "noise" else points(gain(setting, start)))
        cells.append(rate([o.passed for o in attacked.values()]))
        cells.append(f"{fmean(o.evaluations for o in attacked.values()):,.0f}")
        cells.append("" if start == "noise" else percent(saving(setting, start)))
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def rate(hits: Sequence[bool]) -> str:
    low, high = wilson(sum(hits), len(hits))
    return f"{100 * fmean(hits):.1f} ({100 * low:.1f}-{100 * high:.1f})"


def points(found: Difference) -> str:
    """In percentage points."""
    ends = f"{100 * found.low:+.1f} to {100 * found.high:+.1f}" if found.is_bounded else "too few differ"
    return f"{100 * found.value:+z.1f} ({ends})"


def percent(found: Difference) -> str:
    """In percent."""
    ends = f"{100 * found.low:+.0f} to {100 * found.high:+.0f}" if found.is_bounded else "too few differ"
    return f"{100 * found.value:+z.0f} % ({ends})"


Values = Callable[[Outcome, Outcome], tuple[float, float]]
"""What a start changes against another on one victim, and what that is measured in: the difference of two starts is the
ratio of the sums of the two."""


def of_found(here: Outcome, there: Outcome) -> tuple[float, float]:
    """Images found, per victim."""
    return here.leaked - there.leaked, 1


def of_passed(here: Outcome, there: Outcome) -> tuple[float, float]:
    """Loss thresholds met, per victim."""
    return here.passed - there.passed, 1


def of_evaluations(here: Outcome, there: Outcome) -> tuple[float, float]:
    """Evaluations, relative to those of the other start."""
    return here.evaluations - there.evaluations, there.evaluations


def by_sequence(setting: Setting, start: str, base: str, values: Values) -> dict[int, tuple[float, float]]:
    """The two values summed up over the victims of each sequence."""
    sums: dict[int, tuple[float, float]] = defaultdict(lambda: (0.0, 0.0))
    for index, there in setting.starts[base].items():
        change, unit = values(setting.starts[start][index], there)
        sums[index // setting.length] = tuple(np.add(sums[index // setting.length], (change, unit)))
    return sums


def columns(setting: Setting, start: str, base: str, values: Values) -> np.ndarray:
    """The same as an array ``[2, S]``."""
    return np.array(list(by_sequence(setting, start, base, values).values())).T


def gain(setting: Setting, start: str, base: str = "noise") -> Difference:
    """Of the rates of images found from two starts."""
    return of_means(*columns(setting, start, base, of_found))


def passing(setting: Setting, start: str, base: str = "noise") -> Difference:
    """Of the rates at which the loss threshold is met."""
    return of_means(*columns(setting, start, base, of_passed))


def saving(setting: Setting, start: str, base: str = "noise") -> Difference:
    """Of the evaluations, relative to the base."""
    change, there = columns(setting, start, base, of_evaluations)
    return of_sums(there + change, there)


def overall(found: Sequence[Setting], start: str, base: str, values: Values) -> Difference:
    """The mean over settings. DLG and iDLG attack the same victims, so that their sequences are one."""
    parts: dict[tuple[str, int], np.ndarray] = defaultdict(lambda: np.zeros(2))
    for setting in found:
        sums = by_sequence(setting, start, base, values)
        changes, units = (sum(column) for column in zip(*sums.values(), strict=True))
        for sequence, (change, unit) in sums.items():
            residual = change - changes / units * unit
            parts[setting.order, sequence] += np.array([change, residual]) / units / len(found)
    return of_parts(*np.stack(list(parts.values())).T)


def sure(differences: Sequence[Difference]) -> tuple[int, int]:
    """How many are surely above 0, and below, of all settings together."""
    corrected = holm([one.p for one in differences])
    of_them = [one.value for one, p in zip(differences, corrected, strict=True) if p <= LEVEL]
    return sum(value > 0 for value in of_them), sum(value < 0 for value in of_them)


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
            *(points(gain(setting, start)) for start in ("mean", "blend")),
            points(gain(setting, "blend", "mean")),
            *(percent(saving(setting, start)) for start in ("mean", "blend")),
            percent(saving(setting, "blend", "mean")),
        ]
        lines.append(f"| {setting.label} | " + " | ".join(cells) + " |")
    told = "Open means that these sequences do not tell the two apart, which is not to say that they are equal."
    first, *items = means(found)
    return [*lines, "", first, "", *items, "", "Verdicts:", "", *(f"- {line}" for line in verdicts(found)), "", told]


def means(found: list[Setting]) -> list[str]:
    """What starts change against noise, as means over all settings: what that is, and an item for each start."""

    def of(start: str) -> str:
        images, losses, evaluations = (
            overall(found, start, "noise", values) for values in (of_found, of_passed, of_evaluations)
        )
        return (
            f"{points(images)} points of images found, {points(losses)} points of loss thresholds met and "
            f"{percent(evaluations)} evaluations"
        )

    return [
        f"Against noise, as means over {len(found)} setting{'s' if len(found) > 1 else ''}:",
        f"- the blend: {of('blend')}",
        f"- the data set mean, which has seen no reconstruction: {of('mean')}",
        f"- the last success as it is: {of('last')}",
    ]


def verdicts(found: list[Setting]) -> list[str]:
    """The claims and how they stand; in words."""
    return [
        verdict("More images than from noise", found, "noise", gain),
        verdict("Fewer evaluations than from noise", found, "noise", saving),
        verdict("More images than from the mean, a gain by the blend itself", found, "mean", gain),
        verdict("Fewer evaluations than from the mean", found, "mean", saving),
        verdict("More images than by blending failures too, which the gate keeps out", found, "ungated", gain),
    ]


def verdict(claim: str, found: list[Setting], base: str, measure: Callable[[Setting, str, str], Difference]) -> str:
    """How the claim on the blend stands: by the interval of its mean over settings, and by each setting."""
    of_images = measure is gain
    mean = overall(found, "blend", base, of_found if of_images else of_evaluations)
    told = f"{points(mean)} points" if of_images else percent(mean)
    above, below = sure([measure(setting, "blend", base) for setting in found])
    better, worse = (above, below) if of_images else (below, above)
    as_claimed, against = (mean.low > 0, mean.high < 0) if of_images else (mean.high < 0, mean.low > 0)
    word = "confirmed" if as_claimed else "refuted" if against else "open"
    return (
        f"**{claim}: {word}** as a mean over settings, {told}. Of {len(found)} settings it holds significantly in "
        f"{better}, the opposite in {worse}, and it is open in {len(found) - better - worse}."
    )


def summary(records: list[Record], folder: Path) -> str:
    """Claim, measurement and verdict; an item for each part of the claim, in a line of its own.

    Raises:
        UsageError: the records are not of this suite.
    """
    found = of_the_paper(records, folder)
    sets = ", ".join(dict.fromkeys(setting.data for setting in found))
    related = any(setting.same_class > 1 for setting in found)
    first, *items = means(found)
    return "\n".join(
        [
            f"**DLG-FB** (arXiv 2409.17767). *Claim:* blending earlier reconstructions into the start gives {CLAIM}. "
            f"*Here* ({sets}; unrelated images{', or of one class or person' if related else ''}; DLG and iDLG). "
            f"{first}",
            *items,
            f"*Verdict* (intervals and tests over sequences, the tests corrected for {len(found)} settings):",
            *(f"- {line}" for line in verdicts(found)),
        ]
    )
