"""The curves on a page: the leak rate over the PSNR threshold, and the loss over evaluations."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from math import inf
from statistics import median
from typing import Any

from benchmark.boards.ranking import Standing
from benchmark.store.store import Record

THRESHOLDS = tuple(range(10, 51))
"""PSNR in dB at which the leak rate is computed."""

LEAST_SHOWN = 1e-12
"""A loss from 0 to this one is shown as this one, since a logarithmic axis has no zero."""

Curve = dict[str, Any]
"""Columns of numbers by their names, which take half the space of points; a text is the same at each point."""


def leak_rates(standing: Standing, name: str) -> Curve:
    """The worst case over the attacks on a defense, as a function of the PSNR from which an image counts as leaked.

    Args:
        standing: of the defense.
        name: of the defense, for the legend.

    Returns:
        For each threshold the share of victims with an image that reaches it and is better than every null baseline.
    """
    best = dict.fromkeys(standing.indices, -inf)
    for outcome in standing.outcomes:
        for index, victim in outcome.victims.items():
            best[index] = max(best[index], highest(victim))
    rates = [round(sum(value >= level for value in best.values()) / len(best), 4) for level in THRESHOLDS]
    return {"defense": name, "threshold": list(THRESHOLDS), "rate": rates}


def highest(victim: dict[str, Any]) -> float:
    """The PSNR of the victim's best image of those that are better than every null baseline; minus infinity without.

    A diverged attack has found nothing.
    """
    if victim["status"] == "diverged":
        return -inf
    pairs = zip(victim["psnr"], victim["null_psnr"], strict=True)
    return max((psnr for psnr, null in pairs if psnr > null), default=-inf)


def losses(records: Iterable[Record], wanted: Sequence[int]) -> Curve:
    """The lowest, median and highest loss over the victims of a cell, at each number of evaluations.

    Args:
        records: of the cell.
        wanted: numbers of the victims that the cell shows.

    Returns:
        By rising evaluations; losses that are not finite are left out. Empty where an attack has no curve.
    """
    shown, at = set(wanted), defaultdict[int, list[float]](list)
    for record in records:
        curve = record.get("curve") or {"evaluations": [], "loss": []}
        for victim, row in zip(record["victims"], curve["loss"], strict=False):
            if victim["index"] not in shown:
                continue
            for evaluations, loss in zip(curve["evaluations"], row, strict=True):
                if loss is not None:
                    at[evaluations].append(max(loss, LEAST_SHOWN) if loss >= 0 else loss)
    if not at:
        return {}
    moments = sorted(at)
    names: dict[str, Callable[[list[float]], float]] = {"low": min, "loss": median, "high": max}
    return {"evaluations": moments} | {name: [brief(of(at[k])) for k in moments] for name, of in names.items()}


def brief(value: float) -> float:
    """Three significant digits, which is all that a curve shows."""
    return float(f"{value:.3g}")
