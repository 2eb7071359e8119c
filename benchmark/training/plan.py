"""The runs of a training suite, checked before any of them is done."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmark import federated
from benchmark.blocks import Workbench, checksum, from_data, short
from benchmark.errors import UsageError
from benchmark.federated import Data
from benchmark.registry import build, imported, own_sources
from benchmark.suite import digest
from benchmark.training import schedule
from benchmark.training.partition import split
from benchmark.training.store import TrainingStore
from benchmark.training.suite import Training, TrainingScenario, TrainingSuite
from datamodules import DataError
from datamodules.base import Split, TensorSplit


@dataclass(frozen=True)
class Run:
    """The unit of work: one training.

    Attributes:
        training: scenario, defense, seed.
        key: digest of everything that decides the result, pixels and code included.
        data_sha256: of the pixels and labels.
    """

    training: Training
    key: str
    data_sha256: str

    @property
    def rounds(self) -> int:
        """How many it has where it does not diverge."""
        return self.training.scenario.federation.rounds

    def about(self) -> dict[str, Any]:
        """What decides the result but its code."""
        return self.training.config() | {"data_sha256": self.data_sha256}


@dataclass
class TrainingBench(Workbench):
    """What runs share: the device, and the data that are open."""

    _opened: dict[tuple[Any, ...], Data] = field(default_factory=dict)

    def training_data(self, scenario: TrainingScenario) -> Data:
        """The images of the clients and those of the test, on the device, opened once.

        The larger split of the data set trains and the smaller one tests: the train and the test split of most, but
        LFW and folders of images keep three quarters as private images (the test split), which are the clients' here.

        Raises:
            UsageError: they can not be had, or are too few.
        """
        place = (scenario.data.label, scenario.train_images, scenario.test_images)
        if place not in self._opened:
            data = self.data(scenario.data)
            try:
                small, large = sorted((data.test_split, data.train_split), key=len)
                clients = first(large, scenario.train_images, "train_images", scenario.data.name)
                tests = first(small, scenario.test_images, "test_images", scenario.data.name)
            except DataError as error:
                raise from_data(scenario.data, error) from None
            images, labels, test_images, test_labels = (tensor.to(self.device) for tensor in (*clients, *tests))
            self._opened[place] = Data(images, labels, test_images, test_labels, data.num_classes)
        return self._opened[place]

    def training_model(self, scenario: TrainingScenario) -> nn.Module:
        """The network for the data's images, on the device.

        Raises:
            UsageError: they do not fit.
        """
        data = self.data(scenario.data)
        shape, count = data.image_shape, data.num_classes
        model: nn.Module = build("model", scenario.model, image_shape=shape, num_classes=count).to(self.device)
        try:
            with torch.no_grad():
                logits = model.eval()(torch.zeros(2, *shape, device=self.device))
            assert logits.shape == (2, count), f"it gives {list(logits.shape)}, not a logit for each class"
        except Exception as error:  # a user's own model can raise anything
            pixels = " x ".join(map(str, shape))
            raise UsageError(
                f"{scenario.model.name} does not take the {pixels} images of {scenario.data.name} ({short(error)})"
            ) from None
        return model


def first(split: Split, cap: int | None, key: str, name: str) -> tuple[Tensor, Tensor]:
    """The first images of a split as they lie in memory, bytes where they are bytes, and their labels.

    Raises:
        UsageError: there are fewer than the cap.
    """
    if not len(split):
        raise UsageError(f"{name} has no images for {key}: add images, at least four of a class")
    count = len(split) if cap is None else cap
    if count > len(split):
        raise UsageError(f"{name} has {len(split)} images for {key}, not {count}: give {key} {len(split)} or fewer")
    pixels = split.pixels[:count] if isinstance(split, TensorSplit) else split.images(0, count)
    return pixels, split.labels[:count]


def plan(suite: TrainingSuite, bench: TrainingBench) -> list[Run]:
    """The runs of a suite.

    Raises:
        UsageError: data are missing or too few, a model does not fit them, or a client has no image.
    """
    runs: list[Run] = []
    checksums: dict[str, str] = {}
    for training in suite.trainings:
        scenario, how = training.scenario, training.scenario.federation
        data = bench.training_data(scenario)
        if (without := how.clients - len(data.labels)) > 0:  # said before so many shares are made
            raise UsageError(
                f"{scenario.data.name}, seed {training.seed}: {without} of {how.clients} clients have no image of the "
                f"{len(data.labels)}: give fewer clients or more train_images"
            )
        try:
            split(data.labels.cpu(), how.clients, how.dirichlet, training.seed)
        except ValueError as error:
            raise UsageError(f"{scenario.data.name}, seed {training.seed}: {error}") from None
        place = repr(scenario)
        if place not in checksums:
            bench.training_model(scenario)
            checksums[place] = checksum(*(part.cpu() for part in data if isinstance(part, Tensor)))
        about = training.config() | {"data_sha256": checksums[place], "code_sha256": code_checksum(training)}
        runs.append(Run(training, digest(about), checksums[place]))
    return runs


def code_checksum(training: Training) -> str:
    """sha256 of the code that decides what the run does: a record of older code is not taken for one of this."""
    loop = federated.__file__ if training.scenario.decay == "none" else schedule.__file__
    sources = {Path(loop)} | own_sources("model", training.scenario.model.name)
    if training.defense is not None:
        sources |= own_sources("defense", training.defense.name)
    files = set().union(*map(imported, sources))
    together = hashlib.sha256()
    for file in sorted(files, key=lambda file: (file.name, str(file))):
        together.update(file.read_bytes())
    return together.hexdigest()


def refuse_others(runs: list[Run], store: TrainingStore, folder: Path) -> None:
    """Looks for runs of other scenarios in the folder, which the table would mix with those of the suite.

    Seeds and defenses may come and go: each is a row, or a run of one, for itself.

    Raises:
        UsageError: there are some; says which settings differ.
    """
    ours = [scenario_part(run.about()) for run in runs]
    for theirs in map(scenario_part, store.configurations()):
        if theirs in ours:
            continue
        nearest = min(ours, key=lambda one: len(differences(theirs, one)))
        said = [f"{key} is {old} there and {new} here" for key, old, new in differences(theirs, nearest)]
        raise UsageError(f"{folder} holds runs of another configuration ({', '.join(said)}): give another --out")


def scenario_part(about: dict[str, Any]) -> dict[str, Any]:
    """What all defenses and seeds of a scenario share."""
    return {key: value for key, value in about.items() if key not in ("defense", "seed")}


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
        name = value.get("class")
        args = ", ".join(f"{key}={one}" for key, one in value.items() if key != "class")
        return (f"{name}({args})" if args else str(name)) if name else args
    return "none" if value is None else str(value)
