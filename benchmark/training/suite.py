"""From a training suite in YAML to the trainings that it means: scenario, defense or none, seed."""

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark import strengths
from benchmark.arguments import LARGEST_FLOAT
from benchmark.errors import UsageError, quoted, unknown
from benchmark.federated import Federation
from benchmark.registry import Spec
from benchmark.store import say
from benchmark.strengths import Thresholds, defenses_at
from benchmark.suite import at_most_cells, entries, folder_name, read, whole_number
from benchmark.training.schedule import DECAYS

SCHEMA = 1
"""Version of the records of training; a change of what one means raises this."""

SUITE_KEYS = ("name", "seeds", "scenarios", "defenses")
NEEDED = ("data", "model", "clients", "rounds", "learning_rate")
SCENARIO_KEYS = (
    *NEEDED,
    "algorithm",
    "clients_per_round",
    "batch_size",
    "local_epochs",
    "decay",
    "server_momentum",
    "split",
    "batch_norm",
    "evaluate_every",
    "train_images",
    "test_images",
    "defenses",
)


@dataclass(frozen=True)
class TrainingScenario:
    """What is trained, and how.

    Attributes:
        data: data set.
        model: network.
        federation: clients and server.
        decay: how the learning rate falls, one of ``DECAYS``.
        train_images: the first so many images are the clients', None for all.
        test_images: the first so many images test, None for all.
    """

    data: Spec
    model: Spec
    federation: Federation
    decay: str
    train_images: int | None
    test_images: int | None

    def config(self) -> dict[str, Any]:
        """Everything that decides a result, but the defense and the seed, under the keys of a suite."""
        how = self.federation
        return {
            "schema": SCHEMA,
            "data": self.data.as_dict(),
            "model": self.model.as_dict(),
            "algorithm": how.algorithm,
            "clients": how.clients,
            "clients_per_round": how.clients_per_round,
            "rounds": how.rounds,
            "local_epochs": how.local_epochs if how.algorithm == "FedAvg" else None,
            "batch_size": how.batch_size,
            "learning_rate": how.learning_rate,
            **({"decay": self.decay} if self.decay != "none" else {}),
            "server_momentum": how.server_momentum,
            "split": "iid" if how.dirichlet is None else {"dirichlet": how.dirichlet},
            "batch_norm": "include" if how.protect_batch_norm else "exclude",
            "evaluate_every": how.evaluate_every,
            "train_images": self.train_images,
            "test_images": self.test_images,
        }


@dataclass(frozen=True)
class Training:
    """One scenario, one defense (or none), one seed."""

    scenario: TrainingScenario
    defense: Spec | None
    seed: int

    def config(self) -> dict[str, Any]:
        """Everything that decides the result but pixels and code."""
        return self.scenario.config() | {"defense": self.defense.as_dict() if self.defense else None, "seed": self.seed}

    @property
    def label(self) -> str:
        """For people: data, model, algorithm, defense, learning rate, seed."""
        scenario, defense = self.scenario, self.defense.label if self.defense else "no defense"
        how = scenario.federation
        what = f"{scenario.data.name} {scenario.model.name} {how.algorithm}"
        return f"{what}, {defense}, learning rate {how.learning_rate:g}, seed {self.seed}"


@dataclass(frozen=True)
class TrainingSuite:
    """A list of trainings, those without a defense first in each scenario."""

    name: str
    trainings: tuple[Training, ...]


def load(path: Path, at: Path | None = None) -> TrainingSuite:
    """Reads and checks a training suite.

    Args:
        path: the YAML file.
        at: folder of ``leakboard threshold``, whose defenses are added at the strengths that it found.

    Raises:
        UsageError: the file or something in it is wrong.
    """
    try:
        given = read(path, SUITE_KEYS)
        if at is not None:
            add_defenses(given, strengths.read(at), at)
        return parse(given, path.stem)
    except UsageError as error:
        raise UsageError(str(error) if str(path) in str(error) else f"{path}: {error}") from None


def add_defenses(given: dict[str, Any], thresholds: Thresholds, folder: Path) -> None:
    """Gives each scenario the defenses at the strengths that stop the attackers on its data set, after its others.

    Raises:
        UsageError: there are none for any data set.
    """
    without = []
    scenarios = given.get("scenarios")
    given_scenarios = [entry for entry in scenarios if isinstance(entry, dict)] if isinstance(scenarios, list) else []
    for entry in given_scenarios:
        data = entry.get("data")
        name = str(data.get("class") if isinstance(data, dict) else data)
        found = defenses_at(thresholds, name)
        own = entry.get("defenses", given.get("defenses", []))
        if isinstance(own, list):  # else the suite is refused below
            entry["defenses"] = own + found
        without += [] if found else [name]
    if without and len(without) == len(given_scenarios):
        raise UsageError(f"{folder} has no strength that stops an attacker on {' or '.join(dict.fromkeys(without))}")
    for name in dict.fromkeys(without):
        say(f"{folder} has no strength that stops an attacker on {name}: no defense is added there")


def parse(given: dict[str, Any], name: str) -> TrainingSuite:
    """Checks a training suite that was read.

    Raises:
        UsageError: a key, a name, a type or a range is wrong.
    """
    if "attacks" in given:
        raise UsageError("attacks is a key of suites for leakboard run: a training has none")
    check_keys("key of a training suite", given, SUITE_KEYS)
    name = folder_name(given.get("name", name))
    seeds = given.get("seeds", [0, 1, 2])
    if not isinstance(seeds, list) or not seeds:
        raise UsageError(f"seeds must be a list of whole numbers, as in [0, 1, 2], not {quoted(seeds)}")
    seeds = dict.fromkeys(whole_number("a seed", seed, at_least=0) for seed in seeds)
    common = defenses_of(given.get("defenses", []))
    scenarios = given.get("scenarios")
    if not isinstance(scenarios, list) or not scenarios:
        raise UsageError("scenarios must be a list with at least one entry")
    trainings: dict[str, Training] = {}
    for entry in scenarios:
        made = scenarios_of(entry)
        defenses = defenses_of(entry["defenses"]) if "defenses" in entry else common
        at_most_cells(len(trainings) + len(made) * len(defenses) * len(seeds), "the suite")
        for parts in itertools.product(made, defenses, seeds):
            training = Training(*parts)
            trainings.setdefault(repr(training), training)
    return TrainingSuite(name, tuple(trainings.values()))


def defenses_of(given: Any) -> list[Spec | None]:
    """No defense, and those of a list; a scenario's own list stands for the suite's."""
    if not isinstance(given, list):
        raise UsageError("defenses must be a list")
    return [None, *(made for entry in given for made in entries("defense", entry))]


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
    caps = [whole_number(key, entry[key], 1) if key in entry else None for key in ("train_images", "test_images")]
    rates = entry["learning_rate"] if isinstance(entry["learning_rate"], list) else [entry["learning_rate"]]
    if not rates:
        raise UsageError("learning_rate must be a number, or a list of them of which the best is taken")
    decay = one_of("decay", entry.get("decay", "none"), DECAYS)
    federations = [federation_of(entry | {"learning_rate": rate}) for rate in rates]
    parts = itertools.product(entries("data", entry["data"]), entries("model", entry["model"]), federations)
    return [TrainingScenario(data, model, federation, decay, *caps) for data, model, federation in parts]


def federation_of(entry: dict[str, Any]) -> Federation:
    """How clients and server train in a scenario.

    Raises:
        UsageError: a value is wrong.
    """
    algorithm = one_of("algorithm", entry.get("algorithm", "FedSGD"), ("FedSGD", "FedAvg"))
    if algorithm == "FedSGD" and "local_epochs" in entry:
        raise UsageError("local_epochs is for algorithm FedAvg: a client of FedSGD shares the gradient of one batch")
    clients = whole_number("clients", entry["clients"], at_least=1)
    per_round = whole_number("clients_per_round", entry.get("clients_per_round", clients), at_least=1)
    if per_round > clients:
        raise UsageError(f"clients_per_round is {per_round}, but there are {clients} clients: give {clients} or fewer")
    return Federation(
        algorithm=algorithm,
        clients=clients,
        clients_per_round=per_round,
        rounds=whole_number("rounds", entry["rounds"], at_least=1),
        batch_size=whole_number("batch_size", entry.get("batch_size", 32), at_least=1),
        local_epochs=whole_number("local_epochs", entry.get("local_epochs", 1), at_least=1),
        learning_rate=number("learning_rate", entry["learning_rate"], above=0),
        server_momentum=number("server_momentum", entry.get("server_momentum", 0), at_least=0, below=1),
        dirichlet=alpha_of(entry.get("split", "iid")),
        protect_batch_norm=one_of("batch_norm", entry.get("batch_norm", "exclude"), ("exclude", "include"))
        == "include",
        evaluate_every=whole_number("evaluate_every", entry.get("evaluate_every", 1), at_least=1),
    )


def alpha_of(split: Any) -> float | None:
    """Alpha of a Dirichlet split, None for one at random."""
    if split == "iid":
        return None
    if not isinstance(split, dict) or list(split) != ["dirichlet"]:
        raise UsageError(f"split must be iid or {{dirichlet: ALPHA}}, not {quoted(split)}")
    return number("dirichlet", split["dirichlet"], above=0)


def number(
    name: str, value: Any, above: float = -math.inf, at_least: float = -math.inf, below: float = math.inf
) -> float:
    """``value`` where it is a number in range, else a UsageError."""
    right = isinstance(value, int | float) and not isinstance(value, bool)
    if not right or not (above < value and at_least <= value < below and abs(value) <= LARGEST_FLOAT):
        limits = {"above": above, "of at least": at_least, "below": below}
        said = " and ".join(f"{word} {limit:g}" for word, limit in limits.items() if math.isfinite(limit))
        raise UsageError(f"{name} must be a number {said}, not {quoted(value)}")
    return float(value)


def one_of(name: str, value: Any, valid: tuple[str, ...]) -> str:
    """``value`` where it is valid, else a UsageError with what is near."""
    if value not in valid:
        raise unknown(name, str(value), valid)
    return str(value)


def check_keys(what: str, given: Iterable[Any], valid: tuple[str, ...]) -> None:
    """UsageError for a key that there is not."""
    for key in given:
        if key not in valid:
            raise unknown(what, str(key), valid)
