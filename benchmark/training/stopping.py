"""A training suite with defenses at the strengths that stop the attackers, which ``leakboard threshold`` found."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from benchmark.errors import UsageError
from benchmark.jobs.blocks import Workbench
from benchmark.store.store import say
from benchmark.suite.registry import Spec
from benchmark.thresholds import strengths
from benchmark.thresholds.strengths import DefenseThresholds
from benchmark.training.measuring import measured
from benchmark.training.sizes import Sizes
from benchmark.training.suite import Training, TrainingSuite, but_for_the_rate


def with_strengths(suite: TrainingSuite, folder: Path, bench: Workbench) -> tuple[TrainingSuite, Sizes]:
    """The suite in which each scenario also has the defenses at the strengths that stop the attackers on its data.

    Args:
        suite: whose scenarios stay in their order.
        folder: of ``leakboard threshold``.
        bench: data and device.

    Returns:
        The suite, and the sizes of the updates by which strengths were carried over to its networks.

    Raises:
        UsageError: nothing stops an attacker on any of its data, or data are missing.
    """
    scenarios: dict[str, list[Training]] = {}
    for training in suite.trainings:
        scenarios.setdefault(but_for_the_rate(training.scenario, None), []).append(training)
    names = dict.fromkeys(of_it[0].scenario.data.name for of_it in scenarios.values())
    found = strengths.read(folder).defenses
    here = {name: [one for one in found if one.is_trained_on(name)] for name in names}
    without = [name for name, some in here.items() if not any(one.at(by) for one in some for by in one.strongest)]
    if len(without) == len(names):
        raise UsageError(f"{folder} has no strength that stops an attacker on {' or '.join(without)}")
    for name in without:
        say(f"{folder} has no strength that stops an attacker on {name}: no defense is added there")
    used = {id(one): one for stopping in here.values() for one in stopping}.values()
    sizes = measured(used, [of_it[0].scenario for of_it in scenarios.values()], bench)
    trainings: list[Training] = []
    for of_it in scenarios.values():
        stopping = here[of_it[0].scenario.data.name]
        there = {training.defense.label for training in of_it if training.defense}
        added = [one for label, one in at_strengths(of_it[0], stopping, sizes).items() if label not in there]
        bare = [training for training in of_it if training.defense is None]
        trainings += [*of_it, *(replace(training, defense=defense) for defense in added for training in bare)]
    return replace(suite, trainings=tuple(trainings)), sizes


def at_strengths(training: Training, stopping: Iterable[DefenseThresholds], sizes: Sizes) -> dict[str, Spec]:
    """The defenses at the strengths that stop the attackers in the scenario of a training, by their labels.

    None of a defense that stops an attacker at no strength, or where no attack finds anything without one.
    """
    found: dict[str, Spec] = {}
    left_out: dict[str, None] = {}
    for one in stopping:
        for attacker in one.strongest:
            defense = sizes.at(one, attacker, training.config())
            if defense is not None:
                found[defense.label] = defense
            elif one.at(attacker) is not None:
                left_out[one.label] = None
    if left_out:
        say(
            f"{training.scenario.data.name} {training.scenario.model.name} FedAvg: {' and '.join(left_out)} not added, "
            "because the size of its updates depends on the learning rate"
        )
    return found
