"""The sizes of updates, measured: of those that were attacked, and of those of networks that are trained.

The updates of a training are those of its first round, at initial weights as those that were attacked, with seeds of
their own. There are none of FedAvg: how far local steps go depends on the learning rate, and each rate would have a
strength of its own.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from statistics import median
from typing import Any

import torch

from benchmark.federation.server import train
from benchmark.jobs.blocks import Workbench
from benchmark.suite.suite import parse
from benchmark.thresholds.relative import Size, is_absolute
from benchmark.thresholds.strengths import DefenseThresholds
from benchmark.training.plan import training_data, training_model
from benchmark.training.rows import of_cell
from benchmark.training.sizes import Measured, Sizes
from benchmark.training.suite import TUNING_SEEDS, TrainingScenario
from defenses.base import Defense, KnownDefense, Update, global_norm


def measured(thresholds: Iterable[DefenseThresholds], scenarios: Iterable[TrainingScenario], bench: Workbench) -> Sizes:
    """The sizes that carry these thresholds over to these trainings; only of what is needed.

    Args:
        thresholds: of data sets that are trained on.
        scenarios: that are trained.
        bench: data and device.

    Raises:
        UsageError: data are missing, or a model does not fit them.
    """
    absolute = [one for one in thresholds if is_absolute(one.defense, one.argument)]
    attacked = {json.dumps(one.scenario): one for one in absolute}
    trained = {of_cell(scenario.config(), defense=None): scenario for scenario in scenarios}
    return Sizes(
        [attacked_updates(one.scenario, one.searches[0]["victims"], bench) for one in attacked.values()],
        [
            first_updates(scenario, bench)
            if scenario.federation.algorithm == "FedSGD"
            and any(one.is_trained_on(scenario.data.name) for one in absolute)
            else Measured(json.loads(config))
            for config, scenario in trained.items()
        ],
    )


def attacked_updates(config: dict[str, Any], victims: int, bench: Workbench) -> Measured:
    """The size of the updates of the victims of a scenario, as thresholds.json has it."""
    given = {"seed": config["seed"], "victims": victims, "attacks": ["IDLG"]}
    scenario = parse(given | {"scenarios": [config]}, "attacked").cells[0].scenario
    seen = bench.observe(scenario, *bench.victims(scenario, range(victims)), range(victims))
    return Measured(config, victims, size_of([seen.update]))


class Measuring(Defense):
    """Changes nothing, and keeps what it is given: an update as a defense meets it."""

    def __init__(self) -> None:
        self.given: list[Update] = []

    def protect(self, update: Update, generators: Sequence[torch.Generator]) -> Update:
        self.given.append({name: value.clone() for name, value in update.items()})
        return update

    def known_to_attacker(self) -> KnownDefense:
        return KnownDefense()


def first_updates(scenario: TrainingScenario, bench: Workbench) -> Measured:
    """The size of the updates of the clients of the first round, with several seeds."""
    data, model = training_data(bench, scenario), training_model(bench, scenario)
    one_image = {name: getattr(data, name)[:1] for name in data._fields if name.startswith(("test", "validation"))}
    once, defense = replace(scenario.federation, rounds=1), Measuring()
    for seed in TUNING_SEEDS:
        for _ in train(model, data._replace(**one_image), once, defense, seed):
            pass
    config = json.loads(of_cell(scenario.config(), defense=None))
    return Measured(config, sum(len(next(iter(given.values()))) for given in defense.given), size_of(defense.given))


def size_of(updates: Sequence[Update]) -> Size:
    """The size of updates ``[V, ...]``, of all of them together."""
    norms = torch.cat([global_norm(update) for update in updates]).tolist()
    return Size(median(norms), sum(value[0].numel() for value in updates[0].values()))
