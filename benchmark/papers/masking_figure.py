"""The figure of the page on masking: share of victims that leak over the strength of each defense."""

import io
from typing import Any

from benchmark.strengths import ADAPTIVE, OBLIVIOUS, Search
from benchmark.threshold import LOG_FROM

COLOURS = {OBLIVIOUS: "tab:blue", ADAPTIVE: "tab:red"}


def figure(searches: list[Search], stop: float) -> bytes:
    """A row of axes for each data set, one for each defense; a line for each attack and attacker.

    Args:
        searches: of thresholds.json.
        stop: largest share where leakage has stopped.
    """
    from matplotlib.figure import Figure

    datasets = list(dict.fromkeys(search["dataset"] for search in searches))
    defenses = list(dict.fromkeys((search["defense"], search["argument"]) for search in searches))
    attacks = list(dict.fromkeys(short_name(search["attack"]) for search in searches))
    styles = dict(zip(attacks, (":", "--", "-", "-.") * len(attacks), strict=False))
    drawn = Figure(figsize=(3.1 * len(defenses), 2.5 * len(datasets) + 0.6), dpi=100, layout="constrained")
    every_axes = drawn.subplots(len(datasets), len(defenses), sharey=True, squeeze=False)
    lines: dict[str, Any] = {}
    for row, dataset in zip(every_axes, datasets, strict=True):
        for axes, (defense, argument) in zip(row, defenses, strict=True):
            here = [s for s in searches if (s["dataset"], s["defense"], s["argument"]) == (dataset, defense, argument)]
            for search in here:
                attacker = ADAPTIVE if search["adaptive"] else OBLIVIOUS
                label = f"{short_name(search['attack'])}, {attacker}"
                (lines[label],) = axes.plot(
                    search["strengths"],
                    [100 * rate for rate in search["ssim"]["rates"]],
                    styles[short_name(search["attack"])],
                    color=COLOURS[attacker],
                    marker=".",
                    alpha=0.8,
                )
            scale(axes, here)
            axes.axhline(100 * stop, color="grey", linewidth=0.8)
            axes.set_title(f"{dataset}, {defense} {argument}", fontsize=9)
            axes.tick_params(labelsize=8)
            axes.set_ylim(-3, 103)
        row[0].set_ylabel("victims that leak, %", fontsize=9)
    drawn.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    picture = io.BytesIO()
    drawn.savefig(picture, format="png", metadata={"Software": None})
    return picture.getvalue()


def short_name(attack: dict[str, Any]) -> str:
    """The attack without its budget, which differs between data sets."""
    prior = attack.get("total_variation") and attack["class"] != "GaussNewton"  # which has one always
    return f"{attack['class']} with priors" if prior else str(attack["class"])


def scale(axes: Any, searches: list[Search]) -> None:
    """The axis of the strength, from weak on the left to strong on the right."""
    ends = [(search["strengths"][0], search["strengths"][-1]) for search in searches]
    if not ends:
        return
    weak, strong = ends[0]
    low, high = sorted((weak, strong))
    if low > 0 and high / low >= LOG_FROM:
        axes.set_xscale("log")
    if weak > strong:
        axes.invert_xaxis()
