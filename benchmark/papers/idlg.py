"""iDLG (Zhao, Mopuri and Bilen 2020, arXiv 2001.02610): table 1 and figure 1 beside our run of the same protocol."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from benchmark.boards.markdown import threads
from benchmark.errors import UsageError
from benchmark.metrics.intervals import equivalent, holm, paired_p, rate_difference, wilson
from benchmark.metrics.leak import THRESHOLDS
from benchmark.papers.sources import Cell, cells, provenance, same_attack
from benchmark.store.store import Record, write_whole
from benchmark.studies.bench import BATCHED, ONE_BY_ONE, faster
from benchmark.suite.documents import read_json
from benchmark.suite.registry import spec

ATTACKS = ("DLG", "IDLG")

LABELS = {
    "MNIST": {"DLG": 89.9, "IDLG": 100.0},
    "CIFAR100": {"DLG": 83.3, "IDLG": 100.0},
    "LFW": {"DLG": 79.1, "IDLG": 100.0},
}
"""Table 1: accuracy of the label in percent."""

SHARES = {
    "MNIST": {"DLG": (76.3, 76.3, 75.8, 75.8, 75.8), "IDLG": (88.9, 88.9, 88.4, 88.4, 87.4)},
    "CIFAR100": {"DLG": (66.1, 65.8, 65.3, 64.2, 57.4), "IDLG": (83.7, 83.2, 82.6, 81.1, 70.5)},
    "LFW": {"DLG": (52.1, 51.6, 51.0, 51.0, 47.4), "IDLG": (91.7, 91.7, 91.1, 90.9, 83.3)},
}
"""Figure 1: percent of attacks with an MSE at or below each of ``THRESHOLDS``, read off the pixels of the picture."""

WHOLE_LFW = "LFW with 5,749 classes"
"""LFW's photographs that are here, in the label space of the whole set: the classes are the last layer's size."""

PAPER_SETS = {name: name for name in LABELS} | {WHOLE_LFW: "LFW"}
"""The data sets of the page, and which of the paper's each stands beside."""

READING = 0.005
"""How far off a share that was read off the picture can be."""

PAPER_TRIALS = 1000

MARGIN = 0.05
"""Difference of shares that does not matter: less than half of the smallest one between DLG and iDLG, 12.6 points."""

LEVEL = 0.05
"""Of every test: the probability of a false call."""

DIFFERS, EQUIVALENT, OPEN = "differs", "equivalent", "not told apart"
"""Verdicts on a value beside the paper's."""

MARKS = {DIFFERS: " *", EQUIVALENT: " =", OPEN: ""}


@dataclass(frozen=True)
class Comparison:
    """A rate of the paper's beside ours.

    Attributes:
        paper: the paper's, from 0 to 1.
        found, trials: ours.
        reading: how far off the paper's value can be.
    """

    paper: float
    found: int
    trials: int
    reading: float = 0.0

    @property
    def verdict(self) -> str:
        """Whether the difference is surely one, surely within ``MARGIN``, or neither is sure."""
        samples = self.found, self.trials, round(self.paper * PAPER_TRIALS), PAPER_TRIALS
        low, high = rate_difference(*samples, confidence=1 - LEVEL)
        if low > self.reading or high < -self.reading:
            return DIFFERS
        return EQUIVALENT if equivalent(*samples, margin=MARGIN - self.reading, level=LEVEL) else OPEN

    @property
    def rate(self) -> str:
        """Ours, in percent, with its interval."""
        low, high = wilson(self.found, self.trials)
        return f"{100 * self.found / self.trials:.1f} ({100 * low:.1f}-{100 * high:.1f})"

    def __str__(self) -> str:
        return f"{100 * self.paper:.1f} | {self.rate}{MARKS[self.verdict]}"


def page(records: list[Record], folder: Path) -> str:
    """Writes figure1.png, and returns the page.

    Raises:
        UsageError: the records are not of this suite.
    """
    found = of_the_paper(cells(records), folder)
    sets = [name for name in PAPER_SETS if (name, "DLG") in found]
    write_whole(folder / "figure1.png", figure(found, sets))
    lines = [
        "# iDLG, run again",
        "",
        "The protocol of Zhao, Mopuri and Bilen 2020 (arXiv 2001.02610): a new random LeNet for each attacked image,",
        "DLG and iDLG on the same pairs, L-BFGS with 300 steps of 20 evaluations, stop at a matching loss of 1e-6. The",
        "paper's values are those of its table 1 and of its figure 1, the latter read off the picture to about half a",
        f"point; each is of {PAPER_TRIALS:,} attacks. Ours stand with 95 % Wilson intervals. MSE is that of pixels",
        "clamped to [0, 1].",
        "",
        "Each value of ours has one of three verdicts. `*`: it differs from the paper's, since chance in both samples",
        "does not explain the difference (its 95 % interval, Newcombe 1998, leaves out 0 and the error of reading).",
        f"`=`: it is equivalent within {100 * MARGIN:g} percentage points, since a larger difference is ruled out (two",
        f"one-sided tests at {100 * LEVEL:g} %, the margin less the error of reading). No mark: these samples do not",
        "tell it apart from the paper's, and do not show it to be equivalent either. The verdicts are not corrected",
        f"for their number: if nothing differed, about {100 * LEVEL:g} % of the values would have a star all the same.",
        "",
        "| data set | attacked images | in the paper |",
        "|---|---|---|",
        *(f"| {name} | {len(found[name, 'IDLG'].victims):,} | {PAPER_TRIALS:,} |" for name in sets),
        "",
        "## Label accuracy, %",
        "",
        "| data set | DLG, paper | DLG, ours | iDLG, paper | iDLG, ours |",
        "|---|---|---|---|---|",
        *(f"| {name} | " + " | ".join(str(label(name, found[name, a])) for a in ATTACKS) + " |" for name in sets),
        "",
        "## Share of attacks with an MSE at or below a threshold, %",
        "",
        "![share over threshold](figure1.png)",
    ]
    for name in sets:
        lines += [
            "",
            f"| {name}, MSE at most | DLG, paper | DLG, ours | iDLG, paper | iDLG, ours |",
            "|---|---|---|---|---|",
        ]
        for place, limit in enumerate(THRESHOLDS):
            shares = (str(share(name, found[name, attack], place)) for attack in ATTACKS)
            lines.append(f"| {limit:g} | " + " | ".join(shares) + " |")
    measured = published(folder)
    lines += ["", *reasons(found, sets, measured)]
    lines += ["", "## How the attacks ended", "", *endings(found, sets)]
    lines += [*one_by_one(measured), "", *provenance(records)]
    return "\n".join(lines) + "\n"


def of_the_paper(every: list[Cell], folder: Path) -> dict[tuple[str, str], Cell]:
    """By data set and attack, the cells of the paper's protocol, with the victims that both attacks have.

    Raises:
        UsageError: there is no data set with both, or one with two seeds or networks.
    """
    published = {attack: spec("attack", attack, {}).as_dict() for attack in ATTACKS}
    found: dict[tuple[str, str], Cell] = {}
    for cell in every:
        name = data_set(cell)
        known = name in PAPER_SETS and same_attack(cell.config["attack"], published.get(cell.attack, {}))
        if known and cell.config["model"]["class"] == "LeNet" and cell.defense == "none":
            if (name, cell.attack) in found:
                raise UsageError(f"{folder} holds {name} with {cell.attack} twice, say of two seeds: keep one")
            found[name, cell.attack] = cell
    paired = {}
    for name in PAPER_SETS:
        of_both = [found[name, attack] for attack in ATTACKS if (name, attack) in found]
        shared = set.intersection(*({v["index"] for v in cell.victims} for cell in of_both)) if of_both else set()
        if len(of_both) == len(ATTACKS) and shared:
            for cell in of_both:
                paired[name, cell.attack] = Cell(cell.config, [v for v in cell.victims if v["index"] in shared])
    if not paired:
        raise UsageError(f"{folder} holds no data set with both DLG and IDLG: run configs/idlg.yaml into it first")
    return paired


def data_set(cell: Cell) -> str:
    """The name on the page."""
    data = cell.config["data"]
    whole = data["class"] == "ImageFolder" and data["num_classes"] == 5749 and data["path"].startswith("lfw-py/")
    return WHOLE_LFW if whole else cell.data


def label(name: str, cell: Cell) -> Comparison:
    """Of table 1."""
    right = sum(victim["label_correct"][0] for victim in cell.victims)
    return Comparison(LABELS[PAPER_SETS[name]][cell.attack] / 100, right, len(cell.victims))


def share(name: str, cell: Cell, place: int) -> Comparison:
    """Of figure 1, at a place of ``THRESHOLDS``."""
    below = sum(victim["mse"][0] <= THRESHOLDS[place] for victim in cell.victims)
    return Comparison(SHARES[PAPER_SETS[name]][cell.attack][place] / 100, below, len(cell.victims), READING)


def endings(found: dict[tuple[str, str], Cell], sets: Sequence[str]) -> list[str]:
    """A table of the reasons why attacks stopped; a right image is one with an MSE at or below 0.01."""
    reasons = ("converged", "stalled", "diverged", "exhausted")
    lines = [
        "Each cell: attacks that ended so, and in brackets how many of them have found the image (MSE at most 0.01).",
        "",
        "| data set | attack | " + " | ".join(reasons) + " | evaluations, mean |",
        "|---|---|" + "---|" * (len(reasons) + 1),
    ]
    for name in sets:
        for attack in ATTACKS:
            victims = found[name, attack].victims
            ended = []
            for reason in reasons:
                of_reason = [victim for victim in victims if victim["status"] == reason]
                right = sum(map(is_found, of_reason))
                ended.append(f"{len(of_reason)} ({right})" if of_reason else "-")
            mean = fmean(victim["evaluations"] for victim in victims)
            lines.append(f"| {name} | {attack} | " + " | ".join(ended) + f" | {mean:,.0f} |")
    return lines


@dataclass(frozen=True)
class Published:
    """What ``leakboard bench --format json`` measured: the published loop beside ours.

    Attributes:
        data, attack: class names.
        victims: images, networks and starts that both had.
        theirs, ours: images found, labels and divergence of the two, as the cells of a table.
        labels: label accuracy of the two.
        speedup: seconds of theirs for each second of ours, per victim.
        threads: of the two.
    """

    data: str
    attack: str
    victims: int
    theirs: str
    ours: str
    labels: tuple[float, float]
    speedup: float
    threads: tuple[int, int]

    @property
    def speed(self) -> str:
        """The speedup, and at which numbers of threads."""
        theirs, ours = self.threads
        at = f"{threads(ours)} each" if theirs == ours else f"{threads(ours)}, the loop at {theirs}"
        return f"{faster(self.speedup)} ({at})"


def published(folder: Path) -> list[Published]:
    """What was written into published_*.json.

    Raises:
        UsageError: such a file is damaged.
    """
    found = []
    for path in sorted(folder.glob("published_*.json")):
        try:
            one = read_json(path)
            theirs, ours = (one["sides"][name] for name in (ONE_BY_ONE, BATCHED))
            found.append(
                Published(
                    one["data"]["class"],
                    one["attack"]["class"],
                    theirs["victims"],
                    outcome(theirs),
                    outcome(ours),
                    (float(theirs["label_accuracy"]), float(ours["label_accuracy"])),
                    float(ours["speedup"]),
                    (int(theirs["threads"]), int(ours["threads"])),
                )
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise UsageError(
                f"{path} cannot be read: write it with leakboard bench --format json, or delete it"
            ) from None
    return found


def speeds(measured: list[Published]) -> str:
    """How fast ours was beside the published loop, in a sentence."""
    each = "; ".join(f"{of.attack} on {of.data}, {of.victims} images at once: {of.speed}" for of in measured)
    return f"Against the published loop, on the page of iDLG: {each}."


def one_by_one(measured: list[Published]) -> list[str]:
    """The published loop beside ours."""
    if not measured:
        return []
    return [
        "",
        "## Beside the published loop",
        "",
        "The same images, networks and starts, attacked one by one with torch.optim.LBFGS as in the authors' code,",
        "which takes the image and the label of the last iterate, and all at once, which keeps those of the lowest",
        "loss. Found is a PSNR of 20 dB or more.",
        "",
        "| | found, one by one, % | label, % | diverged | found, ours, % | label, % | diverged | time per victim |",
        "|---|---|---|---|---|---|---|---|",
        *(f"| {of.data}, {of.attack}, {of.victims} images | {of.theirs} | {of.ours} | {of.speed} |" for of in measured),
    ]


def outcome(side: dict[str, Any]) -> str:
    """Three columns: images found with their interval, labels, diverged attacks."""
    rate = f"{100 * side['leak_rate']:.1f} ({100 * side['leak_rate_low']:.1f}-{100 * side['leak_rate_high']:.1f})"
    return f"{rate} | {100 * side['label_accuracy']:.1f} | {side['diverged']}"


def reasons(found: dict[tuple[str, str], Cell], sets: Sequence[str], measured: list[Published]) -> list[str]:
    """Why values of ours differ, as far as it is known, and what is said of the others."""
    labels = [name for name in sets if label(name, found[name, "DLG"]).verdict == DIFFERS]
    off = {name: [a for a in ATTACKS if DIFFERS in verdicts(name, found[name, a])] for name in sets}
    said = [why_labels(labels, measured)] if labels else []
    for name in (name for name in sets if off[name]):
        whole = name == "LFW" and (WHOLE_LFW, "DLG") in found
        said += why_lfw(off[name], found) if whole else [not_known(name, off[name])]
    for name in (name for name in sets if not off[name]):
        each = [verdict for attack in ATTACKS for verdict in verdicts(name, found[name, attack])]
        of_each = {verdict: each.count(verdict) for verdict in (EQUIVALENT, OPEN)}
        said.append(
            f"**Shares of {name}.** Of {len(each)} none differs. Equivalent within {100 * MARGIN:g} points: "
            f"{of_each[EQUIVALENT]}; not told apart by {len(found[name, 'IDLG'].victims):,} images: {of_each[OPEN]}."
        )
    return ["## Where ours differs, and why", "", *(f"- {line}" for line in said)]


def verdicts(name: str, cell: Cell) -> list[str]:
    """On the share at each threshold."""
    return [share(name, cell, place).verdict for place in range(len(THRESHOLDS))]


def is_found(victim: dict[str, Any]) -> bool:
    """By the loosest of the paper's thresholds."""
    return bool(victim["mse"][0] <= THRESHOLDS[0])


def not_known(name: str, attacks: Sequence[str]) -> str:
    return f"**Shares of {name}, {' and '.join(attacks)}.** Not known."


def why_labels(outside: Sequence[str], measured: list[Published]) -> str:
    """Of DLG's label."""
    said = f"**DLG's label** ({'; '.join(outside)})."
    loops = [one for one in measured if one.attack == "DLG" and one.data in LABELS]
    if not loops:
        return f"{said} Not known: the published loop was not run beside ours."
    each = "; ".join(
        f"{one.data} {100 * one.labels[0]:.1f} % of {one.victims}, where ours has {100 * one.labels[1]:.1f} % and "
        f"the paper has {LABELS[one.data]['DLG']:.1f} %"
        for one in loops
    )
    return (
        f"{said} The authors' code takes the label of the last iterate, which drifts in an attack that fails, and ours "
        f"that of the iterate with the lowest loss. The published loop on our images, networks and starts, where "
        f"it was run: {each}."
    )


def why_lfw(outside: Sequence[str], found: dict[tuple[str, str], Cell]) -> list[str]:
    """Of LFW's shares, from the same images attacked in the label space of the whole set."""
    said = []
    for attack in outside:
        few, whole = found["LFW", attack], found[WHOLE_LFW, attack]
        both = {victim["index"] for victim in few.victims} & {victim["index"] for victim in whole.victims}
        few, whole = (Cell(c.config, [v for v in c.victims if v["index"] in both]) for c in (few, whole))
        if not both:
            said.append(not_known("LFW", [attack]))
            continue
        here, there = (share("LFW", cell, 0) for cell in (few, whole))
        p = paired_p(*([is_found(victim) for victim in cell.victims] for cell in (few, whole)))
        rates = [one.found / one.trials for one in (here, there)]
        if p > LEVEL or abs(rates[1] - here.paper) >= abs(rates[0] - here.paper):
            verdict = f"these do not say that the label space explains the difference (exact paired test, p = {p:.2g})"
        else:
            left = {
                DIFFERS: "but what is left is a difference still",
                EQUIVALENT: f"and there it is equivalent within {100 * MARGIN:g} points",
                OPEN: "and there these images do not tell it apart from the paper's",
            }[there.verdict]
            verdict = f"the label space moves the share toward the paper's (exact paired test, p = {p:.2g}), {left}"
        said.append(
            f"**Shares of LFW, {attack}.** The last layer has a row for each class: 5,749 in the paper, fewer here. Of "
            f"the same {here.trials} images {here.found} are found with our rows and {there.found} with 5,749, where "
            f"the paper's share is {100 * here.paper:.1f} % (MSE at most {THRESHOLDS[0]:g}): {verdict}."
        )
    return said


def summary(records: list[Record], folder: Path) -> str:
    """Claim, measurement and verdict; an item for each data set, in a line of its own.

    Raises:
        UsageError: the records are not of this suite.
    """
    found = of_the_paper(cells(records), folder)
    sets = [name for name in PAPER_SETS if (name, "DLG") in found]
    each = "".join(
        f"\n- {name} ({len(found[name, 'IDLG'].victims):,} images): images {both([share(name, c, 0) for c in of])}; "
        f"labels {both([label(name, c) for c in of])}"
        for name in sets
        for of in [[found[name, attack] for attack in ATTACKS]]
    )
    return (
        f"**iDLG** (arXiv 2001.02610). *Claim:* iDLG finds more images than DLG (MSE at most {THRESHOLDS[0]:g}, figure "
        f"1), and always the right label (table 1). *Here*, in percent with 95 % intervals, DLG and iDLG; in brackets "
        f"the paper, of {PAPER_TRIALS:,} attacks each:{each}\n*Verdict:* {' '.join(conclusions(found, sets))}"
    )


def both(of_attacks: Sequence[Comparison]) -> str:
    """Our rates of both attacks, and the paper's."""
    ours, paper = (" and ".join(of) for of in zip(*((c.rate, f"{100 * c.paper:.1f}") for c in of_attacks), strict=True))
    return f"{ours} [{paper}]"


def conclusions(found: dict[tuple[str, str], Cell], sets: Sequence[str]) -> list[str]:
    """The paper's two claims, and its figures, as they stand; in sentences."""
    pairs = {name: [[is_found(v) for v in found[name, attack].victims] for attack in ATTACKS] for name in sets}
    p_values = holm([paired_p(*pairs[name]) for name in sets])
    surely = [p <= LEVEL and sum(pairs[name][1]) > sum(pairs[name][0]) for name, p in zip(sets, p_values, strict=True)]
    images = sum(len(found[name, "IDLG"].victims) for name in sets)
    wrong = sum(not victim["label_correct"][0] for name in sets for victim in found[name, "IDLG"].victims)
    each: dict[str, list[str]] = {verdict: [] for verdict in MARKS}
    for name in sets:
        for attack in ATTACKS:
            for verdict in verdicts(name, found[name, attack]):
                each[verdict].append(f"{attack} on {name}")
    differing = f" ({', '.join(dict.fromkeys(each[DIFFERS]))})" if each[DIFFERS] else ""
    labels = [name for name in sets if label(name, found[name, "DLG"]).verdict == DIFFERS]
    said = [
        f"That iDLG finds more images than DLG is {'confirmed' if all(surely) else 'open'}: significantly on "
        f"{sum(surely)} of {len(sets)} data sets (exact paired tests, Holm).",
        f"That iDLG's label is always right is {'refuted' if wrong else 'confirmed'}: wrong for {wrong} of {images:,}.",
        f"Of the {sum(map(len, each.values()))} shares of figure 1, {len(each[EQUIVALENT])} are equivalent within "
        f"{100 * MARGIN:g} points, {len(each[OPEN])} cannot be told apart at this sample size, and "
        f"{len(each[DIFFERS])} differ{differing}.",
    ]
    return [*said, f"DLG's label differs on {', '.join(labels)}; the page says why."] if labels else said


def figure(found: dict[tuple[str, str], Cell], sets: Sequence[str]) -> bytes:
    """The paper's figure 1: share of attacks over the threshold; the paper dashed, ours with its interval."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(4.0 * len(sets), 3.6), dpi=110, layout="constrained")
    every_axes = drawn.subplots(1, len(sets), sharey=True, squeeze=False)[0]
    places = range(len(THRESHOLDS))
    for axes, name in zip(every_axes, sets, strict=True):
        for attack, color in zip(ATTACKS, ("tab:orange", "tab:blue"), strict=True):
            ours = [share(name, found[name, attack], place) for place in places]
            rates = np.array([100 * one.found / one.trials for one in ours])
            ends = 100 * np.array([wilson(one.found, one.trials) for one in ours])
            spread = np.abs(ends.T - rates)
            axes.errorbar(places, rates, yerr=spread, color=color, marker="o", ms=4, capsize=3, label=f"{attack}, ours")
            paper = [100 * one.paper for one in ours]
            axes.plot(places, paper, color=color, linestyle="--", marker="x", alpha=0.7, label=f"{attack}, paper")
        axes.set_title(f"{name}, {len(found[name, 'IDLG'].victims):,} images", fontsize=10)
        axes.set_xticks(places, [f"{limit:g}" for limit in THRESHOLDS])
        axes.set_xlabel("MSE at most")
        axes.set_ylim(0, 102)
        axes.grid(alpha=0.3)
    every_axes[0].set_ylabel("share of attacks, %")
    every_axes[0].legend(frameon=False, fontsize=8, loc="lower left")
    picture = io.BytesIO()
    drawn.savefig(picture, format="png", metadata={"Software": None})
    return picture.getvalue()
