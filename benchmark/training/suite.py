"""From a training suite in YAML to the trainings that it means: scenario, defense or none, seed."""

import itertools
import math
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmark.errors import UsageError, quoted, unknown
from benchmark.federation.recipe import Count, Federation, typed
from benchmark.suite.registry import Spec
from benchmark.suite.suite import (
    Suite,
    at_most_cells,
    check_keys,
    defenses_of,
    entries,
    folder_name,
    list_of,
    named,
    read,
    whole_number,
)
from benchmark.training.warm_up import WarmedUp

SCHEMA = 2
"""Version of the records of training; a change of what one means raises this."""

TUNING_SEEDS = (1000, 1001, 1002)
"""Seeds that choose among learning rates; they are not reported."""

SUITE_KEYS = ("name", "seeds", "tuning_seeds", "scenarios", "defenses")
NEEDED = ("data", "model", "clients", "rounds", "learning_rate")
DEFAULTS: dict[str, Any] = {
    "algorithm": "FedSGD",
    "batch_size": 32,
    "local_epochs": 1,
    "decay": "none",
    "server_momentum": 0.0,
    "split": "iid",
    "batch_norm": "exclude",
    "evaluate_every": 1,
}
BATCH_NORM = ("exclude", "include")
IMAGES = ("train_images", "validation_images", "test_images")
SCENARIO_KEYS = (*NEEDED, *DEFAULTS, "warm_up", "clients_per_round", *IMAGES, "defenses")


@dataclass(frozen=True, kw_only=True)
class Images:
    """How many images of a data set are used.

    Attributes:
        train_images: the first so many images are on the clients' side, None for all.
        validation_images: so many of them, drawn at random, are kept from the clients and judge learning rates; None
            for a tenth.
        test_images: the first so many images test, None for all.
    """

    train_images: Count | None = None
    validation_images: Count | None = None
    test_images: Count | None = None


@dataclass(frozen=True)
class TrainingScenario(Images):
    """What is trained, and how.

    Attributes:
        data: data set.
        model: network.
        federation: clients and server.
    """

    data: Spec
    model: Spec
    federation: Federation

    def config(self) -> dict[str, Any]:
        """Everything that decides a result, but the defense and the seed, under the keys of a suite."""
        how = asdict(self.federation)
        alpha, include = how["dirichlet"], how["protect_batch_norm"]
        return {
            "schema": SCHEMA,
            "data": self.data.as_dict(),
            "model": self.model.as_dict(),
            **{key: how[key] for key in SCENARIO_KEYS if key in how and (key, how[key]) != ("decay", "none")},
            "local_epochs": how["local_epochs"] if how["algorithm"] == "FedAvg" else None,
            "split": "iid" if alpha is None else {"dirichlet": alpha},
            "batch_norm": "include" if include else "exclude",
            **{key: getattr(self, key) for key in IMAGES},
        }


@dataclass(frozen=True)
class Training:
    """One scenario, one defense (or none), one seed.

    Attributes:
        scenario: what is trained, and how.
        defense: or None.
        seed: of everything that is drawn.
        tuning: whether it is one of those that choose a learning rate, and is not reported.
    """

    scenario: TrainingScenario
    defense: Spec | None
    seed: int
    tuning: bool = False

    def config(self) -> dict[str, Any]:
        """Everything that decides the result but pixels and code."""
        defense = self.defense.as_dict() if self.defense else None
        return self.scenario.config() | {"defense": defense, "seed": self.seed, "tuning": self.tuning}

    def parts(self) -> dict[str, Spec]:
        """Its classes but the data set, by their kind."""
        return {"model": self.scenario.model} | ({"defense": self.defense} if self.defense else {})

    @property
    def label(self) -> str:
        """For people: data, model, algorithm, defense, learning rate, seed."""
        scenario, defense = self.scenario, self.defense.label if self.defense else "no defense"
        how = scenario.federation
        what = f"{scenario.data.name} {scenario.model.name} {how.algorithm}"
        seed = f"{'tuning ' if self.tuning else ''}seed {self.seed}"
        return f"{what}, {defense}, learning rate {how.learning_rate:g}, {seed}"


@dataclass(frozen=True)
class TrainingSuite:
    """A list of trainings, those without a defense first in each scenario.

    Where several learning rates are given, each has trainings that choose among them, and trainings that would be
    reported if it were chosen.
    """

    name: str
    trainings: tuple[Training, ...]


def load(path: Path) -> TrainingSuite:
    """Reads and checks a training suite in a YAML file.

    Raises:
        UsageError: the file or something in it is wrong.
    """
    with named(path):
        return parse(read(path, SUITE_KEYS), path.stem)


def beside(suite: Suite) -> TrainingSuite | None:
    """The trainings that a suite of attacks asks for, None where it asks for none.

    Raises:
        UsageError: something in how they are trained is wrong.
    """
    if not suite.training:
        return None
    try:
        return parse(suite.training, suite.name)
    except UsageError as error:
        raise UsageError(f"{suite.name}: training: {error}") from None


def parse(given: dict[str, Any], name: str) -> TrainingSuite:
    """Checks a training suite that was read; see :func:`load`.

    Raises:
        UsageError: a key, a name, a type or a range is wrong.
    """
    if "attacks" in given:
        raise UsageError("attacks is a key of suites for leakboard run: a training has none")
    check_keys("key of a training suite", given, SUITE_KEYS)
    name = folder_name(given.get("name", name))
    seeds = seeds_of("seeds", given.get("seeds", [0, 1, 2]))
    tuning_seeds = seeds_of("tuning_seeds", given.get("tuning_seeds", list(TUNING_SEEDS)))
    common = defenses_of(given.get("defenses", []))
    scenarios = [
        (scenario, defenses_of(entry["defenses"]) if "defenses" in entry else common)
        for entry in list_of("scenarios", given.get("scenarios"))
        for scenario in scenarios_of(entry)
    ]
    at_most_cells(sum(1 + len(defenses) for _, defenses in scenarios), "the suite")
    pairs = {
        (repr(scenario), repr(defense)): (scenario, defense)
        for scenario, defenses in scenarios
        for defense in (None, *defenses)
    }
    rates = Counter(but_for_the_rate(*pair) for pair in pairs.values())
    trainings = []
    for pair in pairs.values():
        if rates[but_for_the_rate(*pair)] > 1:
            trainings += [Training(*pair, seed, tuning=True) for seed in tuning_seeds]
        trainings += [Training(*pair, seed) for seed in seeds]
    check_tuning(seeds, tuning_seeds, any(t.tuning for t in trainings), "tuning_seeds" in given)
    return TrainingSuite(name, tuple(trainings))


def seeds_of(key: str, given: Any) -> list[int]:
    """The seeds of a list.

    Raises:
        UsageError: it is not a list, or an entry is not a seed or is there twice.
    """
    if not isinstance(given, list) or not given:
        raise UsageError(f"{key} must be a list of whole numbers, as in [0, 1, 2], not {given!r}")
    seeds = [whole_number("a seed", seed, at_least=0) for seed in given]
    if twice := [seed for seed, count in Counter(seeds).items() if count > 1]:
        raise UsageError(f"{key} has {twice[0]} more than once: give each seed once")
    return seeds


def but_for_the_rate(scenario: TrainingScenario, defense: Spec | None) -> str:
    """What trainings share that differ in their learning rate alone."""
    federation = replace(scenario.federation, learning_rate=0.0)
    return repr((replace(scenario, federation=federation), defense))


def check_tuning(seeds: list[int], tuning_seeds: list[int], tunes: bool, given: bool) -> None:
    """UsageError where tuning seeds are reported too, or there is nothing that they could choose."""
    if given and not tunes:
        raise UsageError("tuning_seeds choose among learning rates: give learning_rate as a list, or no tuning_seeds")
    if tunes and (both := sorted(set(seeds) & set(tuning_seeds))):
        raise UsageError(
            f"seed {both[0]} is in seeds and chooses learning rates too (tuning_seeds, default "
            f"{list(TUNING_SEEDS)}): report other seeds than those that choose"
        )


def scenarios_of(entry: Any) -> list[TrainingScenario]:
    """The scenarios that one entry means: several where data or model have a sweep, or there are learning rates.

    Raises:
        UsageError: something is wrong with it.
    """
    if not isinstance(entry, dict):
        raise UsageError(f"a scenario must have the keys {', '.join(NEEDED)}, not be {quoted(entry)}")
    check_keys("key of a scenario", entry, SCENARIO_KEYS)
    if missing := [key for key in NEEDED if key not in entry]:
        raise UsageError(f"a scenario needs {' and '.join(missing)}, as in {{rounds: 100, clients: 10, ...}}")
    caps = asdict(typed(Images, {key: entry[key] for key in IMAGES if key in entry}))
    rates = entry["learning_rate"] if isinstance(entry["learning_rate"], list) else [entry["learning_rate"]]
    if not rates:
        raise UsageError("learning_rate must be a number, or a list of them of which the best is taken")
    federations = [federation_of(entry | {"learning_rate": rate}) for rate in rates]
    if twice := [how.learning_rate for how in federations if federations.count(how) > 1]:
        raise UsageError(f"learning_rate has {twice[0]:g} more than once: give each rate once")
    parts: list[list[Any]] = [entries("data", entry["data"]), entries("model", entry["model"]), federations]
    at_most_cells(math.prod(map(len, parts)), "a scenario")
    return [TrainingScenario(*one, **caps) for one in itertools.product(*parts)]


def federation_of(entry: dict[str, Any]) -> Federation:
    """How clients and server train in a scenario.

    Raises:
        UsageError: a value is wrong.
    """
    if "local_epochs" in entry and entry.get("algorithm", "FedSGD") == "FedSGD":
        raise UsageError("local_epochs is for algorithm FedAvg: a client of FedSGD shares the gradient of one batch")
    given = DEFAULTS | entry
    given.setdefault("clients_per_round", entry["clients"])
    split, batch_norm = given["split"], given["batch_norm"]
    has_alpha = isinstance(split, dict) and list(split) == ["dirichlet"] and split["dirichlet"] is not None
    if split != "iid" and not has_alpha:
        raise UsageError(f"split must be iid or {{dirichlet: ALPHA}}, not {split!r}")
    if batch_norm not in BATCH_NORM:
        raise unknown("batch_norm", str(batch_norm), BATCH_NORM)
    form = WarmedUp if "warm_up" in entry else Federation
    found = typed(form, given | (split if has_alpha else {}) | {"protect_batch_norm": batch_norm == "include"})
    if isinstance(found, WarmedUp) and found.warm_up > found.rounds:
        raise UsageError(
            f"warm_up is {found.warm_up}, but there are {found.rounds} rounds: give {found.rounds} or fewer"
        )
    return found
