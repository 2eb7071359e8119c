"""What the strengths and accuracies on the page on masking cannot carry."""

import json
from collections.abc import Sequence

from benchmark.store import Record
from benchmark.strengths import DefenseThresholds
from benchmark.training.table import Row


def caveats(defenses: list[DefenseThresholds], trainings: list[Row], records: Sequence[Record]) -> list[str]:
    """What the strengths and the accuracies do not say, one line for each reason that applies."""
    found = (
        uncertified(defenses),
        fixed_prior(defenses),
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
    return (
        f"{which} that are certified to stop both attackers. Such an accuracy is that at a strength that was not "
        "certified to stop anything, and a strength that does stop the attacker may cost more."
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
    reached = [
        f"{network_of(row)} {100 * row['accuracy']:.1f} %" for row in trainings if row["defense"] == "no defense"
    ]
    if not reached:
        return ""
    return (
        f"Controls are weak. Without a defense the networks reach {', '.join(reached)}; what a defense costs a network "
        "that is trained longer or better may differ."
    )


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
    void = [f"{name_of(row)} ({reason})" for row in trainings if (reason := void_of(row))]
    return f"Void, and left out of the verdicts: {', '.join(void)}." if void else ""


def has_fixed_prior(one: DefenseThresholds) -> bool:
    """Whether noise was searched for by attackers alone whose prior had a scale that is no argument of theirs."""
    return one.defense == "GaussianNoise" and not any(
        search["adaptive"] and search["attack"].get("total_variation") and "prior_scale" in search["attack"]
        for search in one.searches
    )


def on_attacked(one: DefenseThresholds, row: Row) -> bool:
    """Whether a training is of the network that was attacked."""
    return one.is_trained_on(data_of(row)) and row["model"].partition("(")[0] == one.scenario["model"]["class"]


def void_of(row: Row) -> str:
    """Why a training says nothing of what its defense costs; empty where it does."""
    return str(row["void"] or "")


def scope(defenses: list[DefenseThresholds], trainings: list[Row]) -> list[str]:
    """Whether the verdicts are of what it costs to stop an attack, or of less."""
    certified = all(one.is_certified(attacker) for one in defenses for attacker in one.strongest)
    same = all(any(on_attacked(one, row) for one in defenses) for row in trainings)
    if certified and same:
        return []
    return [
        "These rows neither confirm nor refute it: what follows is the accuracy that is lost at the strengths above,",
        "not what it costs to stop an attack, for the reasons just given.",
    ]


def data_of(row: Row) -> str:
    return str(row["data"]).partition("(")[0]


def network(row: Row) -> str:
    """What was trained, and how."""
    split = "" if row["split"] == "iid" else f", {row['split']}"
    return f"{row['model'].partition('(')[0]} {row['algorithm']}{split}"


def network_of(row: Row) -> str:
    """What was trained, on which data, and how."""
    return f"{network(row)} on {data_of(row)}"


def name_of(row: Row) -> str:
    """What was trained, with which defense."""
    return f"{row['defense']} in {network_of(row)}"
