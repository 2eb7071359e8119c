"""The runs of a training suite, checked before any of them is done."""

import hashlib
import json
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from attacks.network.gradients import trained_names
from benchmark.errors import UsageError
from benchmark.federation import server as federated
from benchmark.federation.clients import Data
from benchmark.identity import digest
from benchmark.jobs.blocks import Workbench, check_images, checksum, code_of, found_or, from_data
from benchmark.rehearsal.scene import check_frozen
from benchmark.rehearsal.training import Rehearsal
from benchmark.seeds import generator_for
from benchmark.store.store import Record, Store, say
from benchmark.suite.registry import Spec, build_model, spec_of
from benchmark.training import warm_up
from benchmark.training.rows import label, of_cell
from benchmark.training.suite import SCHEMA, Training, TrainingScenario, TrainingSuite, but_for_the_rate
from benchmark.training.warm_up import WarmedUp
from benchmark.versions.behavior import Behaviors
from benchmark.versions.code import checksum_of, networks_sha256, source
from datamodules import DataError, PrivateData
from datamodules.contract import images_of
from datamodules.errors import name_of
from datamodules.split import Split, TensorSplit

BEHAVIOR_IMAGES = 4
"""Images of the client that shows what a user's own classes do: BatchNorm needs more than one."""


@dataclass(frozen=True)
class Run:
    """The unit of work: one training.

    Attributes:
        training: scenario, defense, seed.
        key: digest of everything that decides the result, pixels and code included.
        data_sha256: of the pixels and labels.
        code_sha256: of the code, and of what the model draws.
    """

    training: Training
    key: str
    data_sha256: str
    code_sha256: str

    @property
    def label(self) -> str:
        """For people."""
        return self.training.label

    @property
    def group(self) -> str:
        """Each run is a group of its own."""
        return self.key

    @property
    def size(self) -> int:
        """Rounds, where it does not diverge."""
        return self.training.scenario.federation.rounds

    def about(self) -> dict[str, Any]:
        """What decides the result but its code."""
        return self.training.config() | {"data_sha256": self.data_sha256}


def training_data(bench: Workbench, scenario: TrainingScenario) -> Data:
    """The images of the clients, of the validation and of the test, on the device, opened once.

    The larger split of the data set is the clients' side and the smaller one tests: the train and the test split of
    most, but LFW and folders of images keep three quarters as private images (the test split), which are the clients'
    here. The validation images are taken from the clients' side, at random but always the same, before the clients get
    theirs.

    Raises:
        UsageError: they are unavailable, or are too few.
    """
    place = (scenario.data.label, scenario.train_images, scenario.validation_images, scenario.test_images)
    data: Data = found_or(bench.kept, place, partial(opened, bench, scenario))
    return data


def opened(bench: Workbench, scenario: TrainingScenario) -> Data:
    """See :func:`training_data`."""
    data = bench.data(scenario.data)
    try:
        small, large = sorted((data.test_split, data.train_split), key=len)
        images, labels = first(data, large, scenario.train_images, "train_images")
        tests = first(data, small, scenario.test_images, "test_images")
    except DataError as error:
        raise from_data(scenario.data, error) from None
    validation, clients = held_out(len(labels), scenario.validation_images, scenario.data.name)
    return Data(
        images=images[clients].to(bench.device),
        labels=labels[clients].to(bench.device),
        test_images=tests[0].to(bench.device),
        test_labels=tests[1].to(bench.device),
        num_classes=data.num_classes,
        validation_images=images[validation].to(bench.device),
        validation_labels=labels[validation].to(bench.device),
    )


def training_model(bench: Workbench, scenario: TrainingScenario) -> nn.Module:
    """The network for the data's images, on the device.

    Raises:
        UsageError: they do not fit.
    """
    data, name = bench.data(scenario.data), scenario.model.name
    made = build_model(scenario.model, data)
    model: nn.Module = made.to(bench.device).eval()
    trained = trained_names(model)
    if not trained:
        raise UsageError(f"{name} has no parameter that requires a gradient: nothing can be trained")
    with torch.no_grad():
        check_images(model, name, data, scenario.data.name, batch_size=2)
    check_frozen(trained, model, name)
    return model


def first(data: PrivateData, split: Split, cap: int | None, key: str) -> tuple[Tensor, Tensor]:
    """The first images of a split as they lie in memory, bytes where they are bytes, and their labels.

    Raises:
        UsageError: there are fewer than the cap.
    """
    name = name_of(data)
    if not len(split):
        raise UsageError(f"{name} has no images for {key}: add images, at least four of a class")
    count = len(split) if cap is None else cap
    if count > len(split):
        raise UsageError(f"{name} has {len(split)} images for {key}, not {count}: give {key} {len(split)} or fewer")
    pixels = split.pixels[:count] if type(split) is TensorSplit else images_of(data, split, 0, count)
    return pixels, split.labels[:count]


def held_out(images: int, validation: int | None, name: str) -> tuple[Tensor, Tensor]:
    """The numbers of the validation images, and those of the clients' images, each in order.

    Args:
        images: on the clients' side.
        validation: how many are held out, None for a tenth.
        name: of the data set, for people.

    Raises:
        UsageError: none is left for the clients.
    """
    if images < 2:
        raise UsageError(
            f"{name} has one image on the clients' side, which validation takes: give train_images 2 or more, or a "
            "data set of as many"
        )
    count = max(1, images // 10) if validation is None else validation
    if count >= images:
        raise UsageError(
            f"{name} has {images} images on the clients' side, of which validation_images takes {count}: give "
            f"validation_images {images - 1} or fewer"
        )
    mixed = torch.randperm(images, generator=generator_for(0, 0, "validation"))
    return mixed[:count].sort().values, mixed[count:].sort().values


def plan(suite: TrainingSuite, bench: Workbench, rehearse: bool = True) -> list[Run]:
    """The runs of a suite.

    Args:
        suite: of trainings.
        bench: the data.
        rehearse: whether each scenario and defense is tried first, as before any work.

    Raises:
        UsageError: data are missing or too few, a client has no image, a model does not fit them or cannot be trained,
            or a defense breaks its contract.
    """
    runs: list[Run] = []
    tried: dict[str, Rehearsal] = {}
    digests: dict[int, str] = {}
    codes = Codes(bench)
    for training in suite.trainings:
        if rehearse:
            alike = but_for_the_rate(training.scenario, None)
            rehearsal = found_or(tried, alike, partial(rehearsed, bench, training.scenario))
            rehearsal.check_clients(training.seed)
            if training.defense is not None:
                rehearsal.check_defense(training.defense)
        data = training_data(bench, training.scenario)
        pixels = found_or(digests, id(data), partial(pixels_of, data))
        code = codes.of(training)
        about = training.config() | {"data_sha256": pixels, "code_sha256": code}
        runs.append(Run(training, digest(about), pixels, code))
    return runs


def rehearsed(bench: Workbench, scenario: TrainingScenario) -> Rehearsal:
    """The clients of a scenario, tried out."""
    data, model = training_data(bench, scenario), training_model(bench, scenario)
    return Rehearsal(model, data, scenario.federation, scenario.model.label, scenario.data.name)


def pixels_of(data: Data) -> str:
    """A digest of all images and labels."""
    return checksum(*(part.cpu() for part in data if isinstance(part, Tensor)))


@dataclass
class Codes:
    """The code that decides what runs do: a record of other code is not taken for one of this.

    Attributes:
        bench: the data.
    """

    bench: Workbench
    _networks: dict[str, str] = field(default_factory=dict)
    _codes: dict[tuple[str, ...], str] = field(default_factory=dict)
    _behaviors: Behaviors = field(default_factory=Behaviors)

    def of(self, training: Training) -> str:
        """sha256 of the code of a run, of what its model draws, which can be in files that the code does not name, and
        of what the user's own classes do.

        Raises:
            UsageError: a class is gone, or its data are.
        """
        scenario, parts = training.scenario, training.parts()
        network = found_or(self._networks, f"{scenario.data} {scenario.model}", lambda: self._network(scenario))
        does = self._behaviors.of(self.bench.data(scenario.data), parts, BEHAVIOR_IMAGES, train=True)
        code = code_of(parts, self._codes, checksum_of_trainings)
        if isinstance(scenario.federation, WarmedUp):
            code += source(Path(warm_up.__file__).read_bytes()).sha256
        return hashlib.sha256(" ".join(filter(None, (code, network, does))).encode()).hexdigest()

    def _network(self, scenario: TrainingScenario) -> str:
        return networks_sha256(training_model(self.bench, scenario), 0, 0)


def checksum_of_trainings(parts: dict[str, Spec]) -> str:
    """sha256 of the code that decides what trainings with these classes do."""
    return checksum_of({Path(federated.__file__)}, parts.items(), [Path(__file__).with_name("record.py")])


def present(runs: list[Run], records: list[Record], bench: Workbench) -> set[str]:
    """The keys of the records that are of the present code and data, defenses included that no run has.

    Args:
        runs: of the suite.
        records: of a folder, whose scenarios are those of the suite.
        bench: the data.
    """
    ours = {of_cell(run.training.config(), defense=None): run for run in runs}
    known: dict[str, str] = {of_cell(run.training.config()): run.code_sha256 for run in runs}
    found, codes = set(), Codes(bench)
    for record in records:
        config = record["config"]
        if (run := ours.get(of_cell(config, defense=None))) is None:  # another process has just written it
            continue
        if (cell := of_cell(config)) not in known:
            defense = spec_of(config["defense"]) if config["defense"] else None
            try:
                known[cell] = codes.of(replace(run.training, defense=defense))
            except UsageError:  # its class is gone
                known[cell] = ""
        if (record["code_sha256"], record["data_sha256"]) == (known[cell], run.data_sha256):
            found.add(record["key"])
    return found


def refuse_others(runs: list[Run], store: Store, folder: Path) -> None:
    """Refuses a folder with runs that cannot stand in one table with those of the suite.

    Seeds and defenses may come and go: a defense is a row of its own, and a seed one run of it. A seed never both
    chooses a learning rate and is reported. Runs of other code are done again, and a line says so.

    Raises:
        UsageError: there are such runs; says which settings differ.
    """
    ours = [scenario_part(run.about()) for run in runs]
    seeds = {tuning: {run.training.seed for run in runs if run.training.tuning == tuning} for tuning in (False, True)}
    done = {record["key"]: record["config"] | {"data_sha256": record["data_sha256"]} for record in store.all()}
    for about in [*done.values(), *store.checkpoints(lambda saved: json.loads(saved["about"]))]:
        if about.get("schema") != SCHEMA:
            raise UsageError(f"{folder} holds runs of another version of Leakboard: give another --out")
        theirs = scenario_part(about)
        if theirs not in ours:
            nearest = min(ours, key=lambda one: len(differences(theirs, one)))
            said = [f"{key} is {old} there and {new} here" for key, old, new in differences(theirs, nearest)]
            raise UsageError(f"{folder} holds runs of another configuration ({', '.join(said)}): give another --out")
        seed, tuned = about["seed"], about["tuning"]
        if seed in seeds[not tuned]:
            there, here = ("chooses learning rates", "is reported") if tuned else ("is reported", "chooses them")
            raise UsageError(f"seed {seed} {there} in {folder} and {here} in the suite: give other seeds or --out")
        if tuned and seeds[True] and seed not in seeds[True]:
            raise UsageError(f"{folder} has seed {seed} among its tuning_seeds: add it to the suite's, or give --out")
    if again := sum(run.key not in done and run.about() in done.values() for run in runs):
        say(f"{folder} holds {again} runs of other code than the present: they are trained again where they are needed")


def scenario_part(about: dict[str, Any]) -> dict[str, Any]:
    """What all defenses and seeds of a scenario share."""
    return {key: value for key, value in about.items() if key not in ("defense", "seed", "tuning")}


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Keys whose values differ, with both values."""
    return [
        (key, shown(old.get(key)), shown(new.get(key)))
        for key in dict.fromkeys([*old, *new])
        if old.get(key) != new.get(key)
    ]


def shown(value: Any) -> str:
    """A value of a configuration, for people."""
    if isinstance(value, dict):
        return label(value) if "class" in value else ", ".join(f"{key}={one}" for key, one in value.items())
    return "none" if value is None else str(value)
