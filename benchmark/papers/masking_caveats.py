"""What the strengths and accuracies on the page on masking cannot show."""

import json
import math
from collections.abc import Sequence
from typing import Any

from benchmark.store.store import Record
from benchmark.thresholds.page import unknown
from benchmark.thresholds.strengths import ADAPTIVE, DefenseThresholds
from benchmark.thresholds.table import WITHIN
from benchmark.thresholds.table import Row as Search
from benchmark.training.rows import Row, label, of_cell, split_of
from benchmark.training.sizes import Sizes
from benchmark.training.table import below_a_defense, data_of, network_of

ACCEPTED = {("MNIST", "LeNet"): 0.975, ("MNIST", "ConvNet"): 0.98, ("CIFAR10JPEG", "ResNet"): 0.65}
"""Accuracies without a defense that a practitioner would not call weak."""


def caveats(
    defenses: list[DefenseThresholds], trainings: list[Row], records: Sequence[Record], sizes: Sizes
) -> dict[str, Any]:
    """What stands behind each reason for doubt; nothing where it does not apply."""
    strongest = [search for one in defenses for search in one.strongest.values()]
    swept = [one for one in defenses if prior_sweep(one)]
    elsewhere = {network_of(row) for row in trainings if not any(on_attacked(one, row) for one in defenses)}
    reported = [record for record in records if not record["config"].get("tuning")]
    lost = collapsed(reported)
    return {
        "uncertified": [one for one in defenses if not all(map(one.is_certified, one.strongest))],
        "all_uncertified": not any(all(map(one.is_certified, one.strongest)) for one in defenses),
        "strengths": len(strongest),
        "unknown": sum(bool(unknown(search)) for search in strongest),
        "fixed_prior": list(dict.fromkeys(one.where for one in defenses if has_fixed_prior(one))),
        "scales": sorted({search["attack"]["prior_scale"] for one in swept for search in prior_sweep(one)}),
        "at_the_end": [one.where for one in defenses if is_at_the_end(one)],
        "by_another": [one.where for one in swept if prior_scale(one.strongest[ADAPTIVE]) is None],
        "attacked": sorted({f"{one.scenario['model']['class']} on {one.dataset}" for one in defenses}),
        "elsewhere": sorted(elsewhere),
        "chosen_on_test": any(
            " " in row["learning_rates"] and row.get("rate_chosen_on", "test") == "test" for row in trainings
        ),
        "by_psnr": found_by_psnr(defenses),
        "controls": weak_controls(trainings),
        "below": below_a_defense(trainings),
        "not_run": not_run(trainings, sizes),
        "runs": len(reported),
        "collapsed": len(lost),
        "collapsed_controls": sum(record["config"]["defense"] is None for record in lost),
        "void": [f"{row['defense']} in {network_of(row)} ({row['void']})" for row in trainings if row["void"]],
    }


def found_by_psnr(defenses: list[DefenseThresholds]) -> list[str]:
    """The strengths that stop an attack by SSIM, and behind which it finds images by PSNR."""
    found = []
    for one in defenses:
        for attacker, search in one.strongest.items():
            if search["ssim"]["stopped"] == WITHIN:
                rate = search["psnr"]["rates"][search["strengths"].index(search["ssim"]["strength"])]
                leaking = f"{round(rate * search['victims'])} of {search['victims']}"
                at = f"{one.where} {one.label} {search['ssim']['strength']:.3g}"
                found += [f"{leaking} at {at} ({attacker})"] if rate else []
    return found


def weak_controls(trainings: list[Row]) -> list[str]:
    """The accuracies of networks without a defense that are below those of ``ACCEPTED``, or that have none there."""
    return [
        f"{100 * row['accuracy']:.1f} % with {network_of(row)}"
        for row in trainings
        if row["defense"] == "no defense"
        and row["accuracy"] < ACCEPTED.get((data_of(row), row["model"].partition("(")[0]), math.inf)
    ]


def not_run(trainings: list[Row], sizes: Sizes) -> list[str]:
    """The scenarios of the suite that have no training yet."""
    done = {of_cell(row["config"], defense=None) for row in trainings}
    return [described(one.of) for one in sizes.trained if of_cell(one.of) not in done]


def described(config: dict[str, Any]) -> str:
    """What a training has trained, on which data, and how."""
    return network_of(config | {part: label(config[part]) for part in ("data", "model")} | {"split": split_of(config)})


def collapsed(records: Sequence[Record]) -> list[Record]:
    """The runs that ended no better than an untrained network of their scenario."""
    untrained: dict[str, float] = {}
    for record in records:
        key = scenario_key(record)
        untrained[key] = max([untrained.get(key, 0.0), *record["curve"].get("accuracy", [])[:1]])
    return [
        record
        for record in records
        if record["status"] != "diverged" and record["accuracy"] <= untrained[scenario_key(record)]
    ]


def scenario_key(record: Record) -> str:
    """What runs have in common that differ in their defense, rate or seed."""
    own = ("defense", "learning_rate", "seed", "tuning")
    return json.dumps({name: part for name, part in record["config"].items() if name not in own}, sort_keys=True)


def prior_scale(search: Search) -> float | None:
    """Of the prior of an attacker who knows of Gaussian noise; None where it is no argument, or plays no part."""
    attack = search["attack"]
    knows = search["defense"] == "GaussianNoise" and search["adaptive"] and attack.get("total_variation")
    return attack.get("prior_scale") if knows else None


def prior_sweep(one: DefenseThresholds) -> list[Search]:
    """The searches against noise whose prior has a scale that is an argument."""
    return [search for search in one.searches if prior_scale(search) is not None]


def has_fixed_prior(one: DefenseThresholds) -> bool:
    """Whether noise was searched for by attackers alone whose prior had a scale that is no argument of theirs."""
    return one.defense == "GaussianNoise" and not prior_sweep(one)


def is_at_the_end(one: DefenseThresholds) -> bool:
    """Whether the largest scale that was tried needs the strongest noise, so that a larger one may need more."""
    scale = prior_scale(one.strongest[ADAPTIVE])
    return scale is not None and scale == max(search["attack"]["prior_scale"] for search in prior_sweep(one))


def is_lower_bound(one: DefenseThresholds) -> bool:
    """Whether a stronger attacker than those that were tried is to be expected."""
    return has_fixed_prior(one) or is_at_the_end(one)


def on_attacked(one: DefenseThresholds, row: Row) -> bool:
    """Whether a training is of the network that was attacked."""
    return one.is_trained_on(data_of(row)) and row["model"].partition("(")[0] == one.scenario["model"]["class"]
