"""The figure of the page on masking: share of victims that leak over the strength of each defense."""

import json
import math
from collections import defaultdict
from typing import Any

from benchmark.boards.figure import as_png, blank
from benchmark.thresholds.search import LOG_FROM
from benchmark.thresholds.strengths import ADAPTIVE, OBLIVIOUS, strongest_attack
from benchmark.thresholds.table import Row as Search

RATIOS = (0.01, 0.1, 0.5, 0.9, 0.99, 0.999)
"""Ticks of an axis of shares."""

NO_SHARE = 0.003
"""Where 0 stands on it, which a logit scale has no place for."""

COLORS = {OBLIVIOUS: "tab:blue", ADAPTIVE: "tab:red"}


def figure(searches: list[Search], stop: float) -> bytes:
    """A row of axes for each data set, one for each defense; a line for each attack and attacker.

    Args:
        searches: of thresholds.json.
        stop: largest share where leakage has stopped.
    """
    datasets = list(dict.fromkeys(search["dataset"] for search in searches))
    defenses = list(dict.fromkeys((search["defense"], search["argument"]) for search in searches))
    attacks = list(dict.fromkeys(short_name(search["attack"]) for search in searches))
    styles = dict(zip(attacks, (":", "--", "-", "-.") * len(attacks), strict=False))
    drawn = blank(3.1 * len(defenses), 2.5 * len(datasets) + 0.6, 100)
    every_axes = drawn.subplots(len(datasets), len(defenses), sharey=True, squeeze=False)
    lines: dict[str, Any] = {}
    for row, dataset in zip(every_axes, datasets, strict=True):
        for axes, (defense, argument) in zip(row, defenses, strict=True):
            here = [s for s in searches if (s["dataset"], s["defense"], s["argument"]) == (dataset, defense, argument)]
            least = NO_SHARE if here and of_shares(here) else -math.inf
            for name, attacker, points in curves(here):
                (lines[f"{name}, {attacker}"],) = axes.plot(
                    [max(at, least) for at in points],
                    [100 * rate for rate in points.values()],
                    styles[name],
                    color=COLORS[attacker],
                    marker=".",
                    alpha=0.8,
                )
            scale(axes, here)
            axes.axhline(100 * stop, color="gray", linewidth=0.8)
            axes.set_title(f"{dataset}, {defense} {argument}", fontsize=9)
            axes.tick_params(labelsize=8)
            axes.set_ylim(-3, 103)
        row[0].set_ylabel("victims that leak, %", fontsize=9)
    drawn.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return as_png(drawn)


def curves(searches: list[Search]) -> list[tuple[str, str, dict[float, float]]]:
    """Attack, attacker, and the share of victims that leak at each strength, in order.

    Several ranges of one attack are one curve; of a sweep of the prior's scale only the strongest has one.
    """
    found: dict[str, tuple[str, str, dict[float, float]]] = {}
    for search in strongest_of_sweeps(searches):
        attacker = ADAPTIVE if search["adaptive"] else OBLIVIOUS
        key = json.dumps([search[name] for name in ("scenario", "fixed", "attack", "adaptive")])
        _, _, points = found.setdefault(key, (short_name(search["attack"]), attacker, {}))
        points |= zip(search["strengths"], search["ssim"]["rates"], strict=True)
    return [(name, attacker, dict(sorted(points.items()))) for name, attacker, points in found.values()]


def strongest_of_sweeps(searches: list[Search]) -> list[Search]:
    """The searches without those of prior scales that need a weaker defense than another scale of the same attack."""
    sweeps: dict[str, list[Search]] = defaultdict(list)
    for search in searches:
        attack = {name: value for name, value in search["attack"].items() if name != "prior_scale"}
        sweeps[json.dumps([attack, *(search[name] for name in ("scenario", "fixed", "adaptive"))])].append(search)
    strongest = [(sweep, strongest_attack(sweep)["attack"]) for sweep in sweeps.values()]
    return [search for sweep, attack in strongest for search in sweep if search["attack"] == attack]


def short_name(attack: dict[str, Any]) -> str:
    """The attack without its budget, which differs between data sets."""
    prior = attack.get("total_variation") and attack["class"] != "GaussNewton"  # which has one always
    return f"{attack['class']} with priors" if prior else str(attack["class"])


def ends(searches: list[Search]) -> tuple[float, float]:
    """The smallest and the largest strength of any of them."""
    strengths = [strength for search in searches for strength in search["strengths"]]
    return min(strengths), max(strengths)


def of_shares(searches: list[Search]) -> bool:
    """Whether strengths are shares, of which both ends matter: 1 % masked, and 1 % left."""
    low, high = ends(searches)
    return low == 0 and 0.99 < high < 1


def scale(axes: Any, searches: list[Search]) -> None:
    """The axis of the strength, from weak on the left to strong on the right."""
    if not searches:
        return
    low, high = ends(searches)
    if of_shares(searches):
        axes.set_xscale("logit")
        axes.set_xlim(NO_SHARE / 1.5, (2 + high) / 3)
        axes.set_xticks((NO_SHARE, *RATIOS), ["0", *(f"{ratio:g}" for ratio in RATIOS)])
        axes.minorticks_off()
    elif low > 0 and high / low >= LOG_FROM:
        axes.set_xscale("log")
    if searches[0]["strengths"][0] > searches[0]["strengths"][-1]:
        axes.invert_xaxis()
