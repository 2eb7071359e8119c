"""What the strengths and accuracies on the page on masking cannot show."""

import json
from collections import defaultdict
from collections.abc import Sequence

from benchmark.boards.markdown import escaped
from benchmark.boards.outcome import listed
from benchmark.store.store import Record
from benchmark.thresholds.page import not_converged
from benchmark.thresholds.strengths import ADAPTIVE, DefenseThresholds
from benchmark.thresholds.table import Row as Search
from benchmark.training.table import Row


def caveats(defenses: list[DefenseThresholds], trainings: list[Row], records: Sequence[Record]) -> list[str]:
    """What the strengths and the accuracies do not say, one line for each reason that applies."""
    found = (
        uncertified(defenses),
        unconverged(defenses),
        fixed_prior(defenses),
        swept_prior(defenses),
        other_networks(defenses, trainings),
        chosen_on_test(trainings),
        weak_controls(trainings),
        collapsed(records),
        did_not_act(trainings),
    )
    return [f"- {said}" for said in found if said]


def uncertified(defenses: list[DefenseThresholds]) -> str:
    """Of the strengths that nothing shows to stop their attackers."""
    names = [f"{one.where} {one.label}" for one in defenses if not all(map(one.is_certified, one.strongest))]
    if not names:
        return ""
    which = "No defense has strengths" if len(names) == len(defenses) else f"{', '.join(names)} have no strengths"
    return f"{which} that are certified to stop both attackers: one that does may cost more accuracy."


def unconverged(defenses: list[DefenseThresholds]) -> str:
    """Of the attacks that set a strength and failed to fit some of the updates."""
    searches = [search for one in defenses for search in one.strongest.values()]
    failed = [search for search in searches if not_converged(search)]
    if not failed:
        return ""
    return (
        f"For {len(failed)} of {len(searches)} strengths the attack that needs the strongest defense did not converge "
        "on every victim, without the defense or where it stops (see the remarks in thresholds.md). Nothing is known "
        "of these victims: a better attack may need a stronger defense."
    )


def fixed_prior(defenses: list[DefenseThresholds]) -> str:
    """Of the attack on noise that was weaker than it need be."""
    names = dict.fromkeys(one.where for one in defenses if has_fixed_prior(one))
    if not names:
        return ""
    return (
        f"The attacker who knows of Gaussian noise had a prior of a fixed scale (0.3, {', '.join(names)}), estimated "
        "from no data. A weaker prior (0.6) finds more at the strength that is shown, which is a lower bound of what "
        "stops it: noise is not ranked."
    )


def swept_prior(defenses: list[DefenseThresholds]) -> str:
    """Of the sweep of the prior's scale, where it did not go far enough, or another attack needs stronger noise."""
    scales = sorted({search["attack"]["prior_scale"] for one in defenses for search in prior_sweep(one)})
    at_the_end = [one.where for one in defenses if is_at_the_end(one)]
    by_another = [one.where for one in defenses if prior_sweep(one) and prior_scale(one.strongest[ADAPTIVE]) is None]
    if not at_the_end and not by_another:
        return ""
    said = (
        "The attacker who knows of Gaussian noise expects differences of neighboring pixels of "
        f"{listed([f'{scale:g}' for scale in scales])} times their mean in public images (the scale of the prior)."
    )
    if at_the_end:
        said += (
            f" On {listed(at_the_end)} the largest needs the strongest noise, and a larger one may need more: the "
            "strengths there are lower bounds, and noise is not ranked."
        )
    if by_another:
        said += f" On {listed(by_another)} another attack needs stronger noise than all of these, and counts."
    return said


def other_networks(defenses: list[DefenseThresholds], trainings: list[Row]) -> str:
    """Of strengths that were found on another network than the one that is trained."""
    trained = {network_of(row) for row in trainings if not any(on_attacked(one, row) for one in defenses)}
    if not trained:
        return ""
    attacked = sorted({f"{one.scenario['model']['class']} on {one.dataset}" for one in defenses})
    return (
        f"Strengths are absolute. They were found on {', '.join(attacked)}, with random weights and single images. "
        f"{', '.join(sorted(trained))} were trained with them, in batches: whether they stop an attack there is not "
        "known."
    )


def chosen_on_test(trainings: list[Row]) -> str:
    """Of learning rates that were chosen on what is reported."""
    if not any(" " in row["learning_rates"] and row.get("rate_chosen_on", "test") == "test" for row in trainings):
        return ""
    return (
        "Learning rates were chosen on the test images and the seeds that are reported: accuracies are too high, and "
        "differences between them uncertain by as much."
    )


def weak_controls(trainings: list[Row]) -> str:
    """Of networks that reach little without a defense."""
    reached: dict[str, list[float]] = defaultdict(list)
    for row in trainings:
        if row["defense"] == "no defense":
            reached[data_of(row)].append(100 * row["accuracy"])
    if not reached:
        return ""
    each = [f"{span(of)} % on {data}" for data, of in reached.items()]
    return (
        f"Controls are weak: without a defense the networks reach {', '.join(each)}. What a defense costs a network "
        "that is trained longer or better may differ."
    )


def span(values: Sequence[float]) -> str:
    """As in "94.1 to 97.3"; of one value, that one."""
    low, high = f"{min(values):.1f}", f"{max(values):.1f}"
    return low if low == high else f"{low} to {high}"


def collapsed(records: Sequence[Record]) -> str:
    """Of runs, at any rate, that ended no better than an untrained network of their scenario."""
    untrained: dict[str, float] = {}
    for record in records:
        key = scenario_key(record)
        untrained[key] = max([untrained.get(key, 0.0), *record["curve"].get("accuracy", [])[:1]])
    found = [
        record
        for record in records
        if record["status"] != "diverged" and record["accuracy"] <= untrained[scenario_key(record)]
    ]
    if not found:
        return ""
    controls = sum(record["config"]["defense"] is None for record in found)
    return (
        f"{len(found)} of {len(records)} runs, {controls} of them without a defense, ended no better than an untrained "
        "network at the learning rate that they were given; such runs count with that accuracy."
    )


def scenario_key(record: Record) -> str:
    """What runs have in common that differ in their defense, rate or seed."""
    own = ("defense", "learning_rate", "seed", "tuning")
    return json.dumps({name: part for name, part in record["config"].items() if name not in own}, sort_keys=True)


def did_not_act(trainings: list[Row]) -> str:
    """Of rows that are void."""
    void = [f"{name_of(row)} ({row['void']})" for row in trainings if row["void"]]
    return f"Void, and left out of the verdicts: {', '.join(void)}." if void else ""


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


def scope(defenses: list[DefenseThresholds], trainings: list[Row]) -> list[str]:
    """Whether the verdicts are of what it costs to stop an attack, or of less."""
    certified = all(one.is_certified(attacker) for one in defenses for attacker in one.strongest)
    same = all(any(on_attacked(one, row) for one in defenses) for row in trainings)
    if certified and same:
        return []
    return [
        "These rows neither confirm nor refute it: they give the accuracy that is lost at the strengths found here,",
        "not what it costs to stop an attack, for the reasons just given.",
    ]


def data_of(row: Row) -> str:
    return str(row["data"]).partition("(")[0]


def network(row: Row) -> str:
    """What was trained, and how."""
    split = "" if row["split"] == "iid" else f", {row['split']}"
    return escaped(f"{row['model'].partition('(')[0]} {row['algorithm']}{split}")


def network_of(row: Row) -> str:
    """What was trained, on which data, and how."""
    return f"{network(row)} on {escaped(data_of(row))}"


def name_of(row: Row) -> str:
    """What was trained, with which defense."""
    return f"{escaped(row['defense'])} in {network_of(row)}"
