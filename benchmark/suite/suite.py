"""From a suite in YAML to the cells and blocks of work that it means."""

import inspect
import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import yaml

from attacks.update import FedAvg
from benchmark.errors import FEW, UsageError, as_given, nearest, one_line, quoted, unknown
from benchmark.federation.setting import Setting, described
from benchmark.federation.state import TrainingState
from benchmark.identity import digest
from benchmark.metrics.leak import BASELINES
from benchmark.suite.arguments import LARGEST_INT, Arguments
from benchmark.suite.documents import load_yaml, regular, storable
from benchmark.suite.registry import Spec, arguments, find_class, spec, specs
from benchmark.suite.watching import watching

CONFIGS = next(
    folder
    for folder in (Path(__file__).parents[1] / "configs", Path(__file__).parents[2] / "configs")
    if folder.is_dir()
)
"""The suites that come with Leakboard: an installed one has them in this package, the source tree beside it."""

SWEEP = "wandb_sweep"
"""The one file beside them that is no suite."""

SCHEMA = 1
"""Version of the records; a change of what a record means, or of what decides it, raises this."""


@dataclass(frozen=True)
class Scenario:
    """Which victims are attacked.

    Attributes:
        data: data set.
        model: network.
        batch_size: images in each victim's private batch.
        same_class: images of the test split that follow each other and show one class; 1 is the original order.
        seed: of the networks, the defenses' randomness and the attacks' starts.
        victims: number of victims, the first ones of the test split.
        setting: what clients compute, and what the attacker is granted.
    """

    data: Spec
    model: Spec
    batch_size: int
    seed: int
    victims: int
    same_class: int = 1
    setting: Setting = field(default_factory=Setting)

    def config(self) -> dict[str, Any]:
        """Everything that decides a victim's image, its network and what is drawn, but the victim."""
        return {
            "data": self.data.as_dict(),
            "model": self.model.as_dict(),
            "batch_size": self.batch_size,
            "same_class": self.same_class,
            "seed": self.seed,
            **self.setting.config(),
        }

    @cached_property
    def name(self) -> str:
        """All of it, the number of victims too."""
        return repr(self)

    @property
    def label(self) -> str:
        """For people: data, model, and what is not usual."""
        batch = f" in batches of {self.batch_size}" if self.batch_size > 1 else ""
        related = f", {self.same_class} of one class" if self.same_class > 1 else ""
        return ", ".join([f"{self.data.name} {self.model.name}{batch}{related}", *described(self.setting.config())])


@dataclass(frozen=True)
class Cell:
    """One scenario, one defense (or none), one attack, which knows the defense where ``adaptive``."""

    scenario: Scenario
    defense: Spec | None
    attack: Spec
    adaptive: bool

    def config(self) -> dict[str, Any]:
        """Everything that decides a victim's result, but the victim."""
        return {
            "schema": SCHEMA,
            **self.scenario.config(),
            "defense": self.defense.as_dict() if self.defense else None,
            "attack": self.attack.as_dict(),
            "adaptive": self.adaptive,
        }

    @cached_property
    def id(self) -> str:
        return digest(self.config())

    def parts(self) -> dict[str, Spec]:
        """Its classes but the data set, by their kind."""
        given = {"model": self.scenario.model, "attack": self.attack}
        return given | ({"defense": self.defense} if self.defense else {})

    @property
    def label(self) -> str:
        """For people: data, model, defense, attack and what is not usual of it."""
        defense = self.defense.label if self.defense else "no defense"
        attack = Spec(self.attack.name, arguments("attack", self.attack.name).unusual(self.attack.args)).label
        return f"{self.scenario.label}, {defense}, {attack}{' that knows it' if self.adaptive else ''}"


@dataclass(frozen=True)
class Suite:
    """A list of cells, in the order in which they are run: controls and baselines first.

    Attributes:
        name: of its folder.
        cells: what is run.
        block_size: victims that are attacked at the same time.
        trainer: what watches the attacks, see :mod:`benchmark.suite.watching`; it decides nothing.
        lpips: whether reconstructions are scored by LPIPS, too, where it is available.
        training: the federated trainings with the same networks and defenses, as ``leakboard train`` reads a suite;
            empty where nothing is trained.
    """

    name: str
    cells: tuple[Cell, ...]
    block_size: int
    trainer: dict[str, Any] = field(default_factory=dict)
    lpips: bool = True
    training: dict[str, Any] = field(default_factory=dict)


def as_cells(scenario: Scenario, defenses: list[Spec], attacks: list[Spec]) -> Iterator[Cell]:
    """The control and the null baselines of a scenario, then each defense against each attack, without and with
    knowledge of it. Attacks on the labels alone, of which no image is scored, have no baselines."""
    for attack in [*(baselines() if any(map(seeks_images, attacks)) else ()), *attacks]:
        yield Cell(scenario, None, attack, adaptive=False)
    for defense in defenses:
        for attack in attacks:
            for adaptive in (False, True):
                yield Cell(scenario, defense, attack, adaptive)


def seeks_images(attack: Spec) -> bool:
    """Whether an attack is on images, and not on the labels alone."""
    return bool(getattr(find_class("attack", attack.name), "seeks_images", True))


@cache
def baselines() -> tuple[Spec, ...]:
    """The null baselines."""
    return tuple(spec("attack", name, {}) for name in BASELINES)


def entries(kind: str, given: Any) -> list[Spec]:
    """The specs that one entry of a suite means: ``NAME`` or ``{class: NAME, argument: value, sweep: {...}}``."""
    if isinstance(given, str):
        given = {"class": given}
    if not isinstance(given, dict) or not isinstance(given.get("class"), str):
        raise UsageError(f"{kind} must be a class name or {{class: NAME, argument: value}}, not {quoted(given)}")
    if kind == "defense" and "range" in given:
        raise UsageError(f"range of {given['class']} is for leakboard threshold: give a value here, or sweep")
    args = {str(key): value for key, value in given.items() if key not in ("class", "sweep")}
    sweep = given.get("sweep", {})
    check_sweep(given["class"], sweep)
    keys = [str(key) for key in sweep]
    if twice := [key for key in keys if key in args]:
        raise UsageError(f"{given['class']} has {twice[0]} and sweeps it too: give one of the two")
    for key in arguments(kind, given["class"]).composed:
        if isinstance(args.get(key), list):
            each = [entries("defense", one) for one in args.pop(key)]
            at_most_cells(math.prod(map(len, each)), f"the sweep in {given['class']}")
            keys.append(key)
            sweep = sweep | {key: [[{"class": s.name, **s.args} for s in one] for one in itertools.product(*each)]}
    at_most_cells(math.prod(map(len, sweep.values())), f"the sweep of {given['class']}")
    return specs(kind, given["class"], args, dict(zip(keys, sweep.values(), strict=True)))


MOST_CELLS = 100_000
"""Of a suite: a table of more is of no use, and it would take days to make."""


def check_sweep(name: str, sweep: Any) -> None:
    """UsageError where what stands as the sweep of a class is none."""
    if not isinstance(sweep, dict) or not all(isinstance(values, list) and values for values in sweep.values()):
        raise UsageError(f"sweep of {name} must give each argument a list of values")


def at_most_cells(count: int, what: str) -> None:
    """UsageError where so many cells are too many."""
    if count > MOST_CELLS:
        raise UsageError(f"{what} makes {count:,} cells, but a suite can have {MOST_CELLS:,}: sweep fewer values")


_SUITE_KEYS = (
    *("name", "seed", "victims", "block_size", "trainer", "lpips", "scenarios", "attacks", "defenses", "training"),
)
_OF_SETTING = Arguments("scenario", "scenario", Setting, hidden=frozenset({"local", "state"}))
_OF_FEDAVG = Arguments("scenario.protocol", "FedAvg", FedAvg)
SETTING_KEYS = ("protocol", "state", *_OF_SETTING.names)
"""What a scenario can say of what clients compute and what the attacker is granted."""

_SCENARIO_KEYS = (
    *("data", "model", "batch_size", "seed", "victims", "same_class", "attacks", "defenses", "training"),
    *SETTING_KEYS,
)


def load(path: Path, victims: int | None = None, seed: int | None = None, defenses: Sequence[Any] = ()) -> Suite:
    """Reads and checks a suite.

    Args:
        path: YAML file.
        victims: instead of every number of victims in it.
        seed: instead of the seed in it.
        defenses: entries beside those of each of its scenarios.

    Raises:
        UsageError: the file or something in it is wrong.
    """
    with named(path):
        return parse(read(path), path.stem, victims, seed, defenses)


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Whatever is wrong within is told with the name of the suite.

    Raises:
        UsageError: something is.
    """
    try:
        yield
    except UsageError as error:
        raise UsageError(str(error) if str(path) in str(error) else f"{path}: {error}") from None


def read(path: Path, keys: tuple[str, ...] = _SUITE_KEYS, what: str = "suite") -> dict[str, Any]:
    """What a YAML file of a suite holds.

    Args:
        path: the file.
        keys: what a suite can have.
        what: it is, if no suite.

    Raises:
        UsageError: it cannot be read, or holds no mapping.
    """
    try:
        regular(path)
        given = load_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        there = sorted(p.name for p in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
        near = nearest(path.name, there) or there[:FEW]
        more = f" and {len(there) - len(near)} more" if len(there) > len(near) else ""
        hint = f"; beside it: {', '.join(str(path.parent / name) for name in near)}{more}" if near else ""
        raise UsageError(f"the {what} {path} cannot be read ({error.strerror}){hint}") from None
    except UnicodeDecodeError:
        raise UsageError(f"the {what} {path} is not a text file in UTF-8") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UsageError(f"{path}, line {line}: {error.problem or 'this is not YAML'}") from None
    except yaml.YAMLError as error:
        raise UsageError(f"{path} is not YAML: {one_line(error)}") from None
    if given is None:
        raise UsageError(f"{path} is empty: give it some of the keys {', '.join(keys)}")
    if not isinstance(given, dict):
        what = "a list" if isinstance(given, list) else quoted(given)
        raise UsageError(f"{path} must be a mapping with some of the keys {', '.join(keys)}, not {what}")
    if {"method", "parameters"} <= given.keys():
        raise UsageError(f"{path} is a sweep of Weights & Biases, not a suite: start it with wandb sweep {path}")
    return given


def parse(
    given: dict[str, Any],
    name: str,
    victims: int | None = None,
    seed: int | None = None,
    more_defenses: Sequence[Any] = (),
) -> Suite:
    """Checks a suite that was read; see :func:`load`.

    Raises:
        UsageError: a key, a name, a type or a range is wrong.
    """
    if "seeds" in given:
        raise UsageError("seeds is a key of suites for leakboard train: give seed here")
    check_keys("key of a suite", given, _SUITE_KEYS)
    scenarios = list_of("scenarios", given.get("scenarios"))
    each_has_its_own = all(isinstance(entry, dict) and "attacks" in entry for entry in scenarios)
    shared, more = defenses_of(given.get("defenses", [])), defenses_of(list(more_defenses))
    common = [] if each_has_its_own and "attacks" not in given else _attacks(given.get("attacks"))
    common_seed = whole_number("seed", seed if seed is not None else given.get("seed", 0), at_least=0)
    cells: list[Cell] = []
    counts: dict[str, int] = {}
    trained: list[dict[str, Any]] = []
    for entry in scenarios:
        if not isinstance(entry, dict) or "data" not in entry or "model" not in entry:
            raise UsageError(
                f"a scenario needs data and model, as in {{data: Digits, model: LeNet}}, not {quoted(entry)}"
            )
        check_keys("key of a scenario", entry, _SCENARIO_KEYS)
        attacks = _attacks(entry["attacks"]) if "attacks" in entry else common
        defenses = [*(defenses_of(entry["defenses"]) if "defenses" in entry else shared), *more]
        count = victims if victims is not None else entry.get("victims", given.get("victims", 64))
        count = whole_number("victims", count, at_least=1)
        batch_size = whole_number("batch_size", entry.get("batch_size", 1), at_least=1)
        same_class = whole_number("same_class", entry.get("same_class", 1), at_least=1)
        setting = setting_of(entry, batch_size)
        seeds = [common_seed] if seed is not None else seeds_of(entry.get("seed", common_seed))
        training = entry.get("training", {}) if "training" in given or "training" in entry else None
        if training is not None:
            how = training_of(given.get("training", {}), training, batch_size, setting)
            protecting = [*entry.get("defenses", given.get("defenses", [])), *more_defenses]
            trained.append({"data": entry["data"], "model": entry["model"], "defenses": protecting, **how})
        parts = entries("data", entry["data"]), entries("model", entry["model"]), seeds
        for data, model, one_seed in itertools.product(*parts):
            at_most_cells(len(cells) + len(attacks) * (1 + 2 * len(defenses)), "the suite")
            scenario = Scenario(data, model, batch_size, one_seed, count, same_class, setting)
            if counts.setdefault(repr(scenario.config()), count) != count:
                raise UsageError(
                    f"{scenario.label} has {count} victims in one scenario and others in another: give one"
                )
            cells += as_cells(scenario, defenses, attacks)
    suite_name = folder_name(given.get("name", name))
    block_size = whole_number("block_size", given.get("block_size", 64), at_least=1)
    lpips = given.get("lpips", True)
    if not isinstance(lpips, bool):
        raise UsageError(f"lpips must be true or false, not {quoted(lpips)}")
    seeds_too = {key: given["training"][key] for key in SEEDS if trained and key in given.get("training", {})}
    training = {"scenarios": trained, **seeds_too} if trained else {}
    return Suite(suite_name, _unique(cells), block_size, watching(given.get("trainer", {})), lpips, training)


SEEDS = ("seeds", "tuning_seeds")
"""Keys of a suite's training that are those of all its scenarios."""


def training_of(common: Any, own: Any, batch_size: int, setting: Setting) -> dict[str, Any]:
    """How a scenario's network is trained: as the suite says, with the batch and protocol of the scenario's clients,
    and as the scenario itself says.

    Raises:
        UsageError: one of them is no mapping, or no training can have its local steps.
    """
    for one in (common, own):
        if not isinstance(one, dict):
            raise UsageError(
                f"training must be as in {{clients: 10, rounds: 100, learning_rate: 0.1}}, not {quoted(one)}"
            )
    if given := [key for key in SEEDS if key in own]:
        raise UsageError(f"{given[0]} of a training are those of all scenarios: give them in training of the suite")
    how: dict[str, Any] = {"batch_size": batch_size}
    if local := setting.local:
        if local.momentum:
            raise UsageError("clients of a federated training have no momentum: leave training or momentum out")
        how = {"algorithm": "FedAvg", "local_epochs": local.epochs, "learning_rate": local.learning_rate}
        how["batch_size"] = local.batch_size or batch_size
    return {key: value for key, value in common.items() if key not in SEEDS} | how | own


def seeds_of(given: Any) -> list[int]:
    """The seeds of a scenario: one, or a list of them, each of which makes a scenario of its own."""
    seeds = list_of("seed", given) if isinstance(given, list) else [given]
    return [whole_number("seed", seed, at_least=0) for seed in seeds]


def setting_of(entry: dict[str, Any], batch_size: int) -> Setting:
    """What clients compute and what the attacker is granted, in a scenario with so many images in a batch."""
    given = {key: value for key, value in entry.items() if key in _OF_SETTING.names}
    try:
        local = protocol_of(entry.get("protocol", "FedSGD"))
        state = TrainingState.from_dict(entry["state"]) if entry.get("state") is not None else None
        setting = Setting(**_OF_SETTING.filled(given), local=local, state=state)
        setting.check_batch(batch_size)
    except ValueError as error:
        raise UsageError(f"scenario: {one_line(error)}") from None
    return setting


def help_on_scenarios() -> str:
    """What a scenario can have beside data, model and batch_size, and what it means."""
    keys = _OF_SETTING.help().partition("\n\n")[2].replace("--scenario.", "--scenario.")
    steps = _OF_FEDAVG.help().partition("\n\n")[2]
    return (
        "What clients compute and what the attacker is granted, as keys of a scenario in a suite or as flags of a "
        f"single cell.\n\n{keys}\n"
        "  --scenario.protocol FedSGD or FedAvg\n"
        "                        what a client shares: the gradient of its batch, or what local steps change\n"
        "  --scenario.state.epochs EPOCHS, --scenario.state.rounds ROUNDS\n"
        "                        how long the shared network was trained on public images before: centrally, or by\n"
        "                        federated learning\n\n"
        f"Of FedAvg (in a suite: protocol: {{class: FedAvg, learning_rate: 0.1}}):\n\n{steps}\n"
        "Of a state (in a suite: state: {epochs: 1, learning_rate: 0.1}):\n\n"
        + (inspect.getdoc(TrainingState) or "").partition("Attributes:\n")[2].replace("    ", "  --scenario.state.")
    )


def protocol_of(given: Any) -> FedAvg | None:
    """``FedSGD``, which is None, or ``{class: FedAvg, learning_rate: 0.1}``."""
    given = {"class": given} if isinstance(given, str) else given
    if not isinstance(given, dict) or "class" not in given:
        raise UsageError(f"protocol must be FedSGD or {{class: FedAvg, learning_rate: 0.1}}, not {quoted(given)}")
    args = {str(key): value for key, value in given.items() if key != "class"}
    if given["class"] not in ("FedSGD", "FedAvg"):
        raise unknown("protocol", str(given["class"]), ("FedSGD", "FedAvg"))
    if given["class"] == "FedAvg":
        return FedAvg(**_OF_FEDAVG.filled(args))
    if args:
        raise UsageError(f"FedSGD has no {next(iter(args))}: its clients make no local steps")
    return None


def _unique(cells: list[Cell]) -> tuple[Cell, ...]:
    """A cell that is named twice is run once."""
    return tuple({cell.id: cell for cell in cells}.values())


def _attacks(given: Any) -> list[Spec]:
    return [made for entry in list_of("attacks", given) for made in entries("attack", entry)]


def defenses_of(given: Any) -> list[Spec]:
    """The defenses of a list."""
    if not isinstance(given, list):
        raise UsageError("defenses must be a list")
    return [made for entry in given for made in entries("defense", entry)]


def list_of(key: str, given: Any) -> list[Any]:
    """``given`` where it is a list with an entry, else a UsageError."""
    if not isinstance(given, list) or not given:
        raise UsageError(f"{key} must be a list with at least one entry")
    return given


def check_keys(what: str, given: dict[str, Any], valid: tuple[str, ...]) -> None:
    """UsageError for a key that there is not."""
    for key in given:
        if key not in valid:
            raise unknown(what, str(key), valid)


def folder_name(name: Any) -> str:
    """``name`` where a folder of ``runs`` can be called that, else a UsageError."""
    right = isinstance(name, str) and name not in ("", "..") and Path(name).name == name
    if not right or not name.isprintable() or not storable(name) or len(name.encode()) > 200:
        raise UsageError(f"name must be usable as a folder name, not {quoted(name)}")
    return str(name)


def whole_number(name: str, value: Any, at_least: int, at_most: int = LARGEST_INT) -> int:
    """``value`` where it is a whole number in range, else a UsageError."""
    if not isinstance(value, int) or isinstance(value, bool) or value < at_least:
        said = as_given(value, True, lambda number: at_least <= number <= at_most)
        raise UsageError(f"{name} must be a whole number of at least {at_least}, not {said}")
    if value > at_most:
        raise UsageError(f"{name} must be a whole number of at most {at_most:,}, not {quoted(value)}")
    return value


def suite_path(name: str) -> Path:
    """The file of a suite that was given by its path, or by its name in configs/."""
    path = Path(name)
    if path.name == name and (path.is_dir() or not path.exists()):
        folder, path = path, CONFIGS / f"{name}.yaml"
        if not path.exists() and folder.is_dir():
            raise UsageError(f"{name} is a folder, not a suite: give a YAML file")
        if not path.exists():
            ours, here = ([p for p in of.glob("*.yaml") if p.stem != SWEEP] for of in (CONFIGS, Path()))
            raise unknown("suite", name, [p.stem for p in ours], [p.name for p in here], "YAML files in this folder")
    return path
