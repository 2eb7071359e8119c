"""Blocks: a suite cut into units of work, checked before any of them is done."""

import hashlib
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from attacks import Attack
from benchmark.errors import UsageError
from benchmark.models import Model
from benchmark.perceptual import Perceptual
from benchmark.registry import Spec, build, code_checksum
from benchmark.suite import Cell, Scenario, Suite, digest
from datamodules import DataError, PrivateData, open_data, take_victims


@dataclass(frozen=True)
class Block:
    """The unit of work: some victims of one cell."""

    cell: Cell
    victims: range
    key: str
    code_sha256: str


@dataclass
class Workbench:
    """What blocks share: the data sets that are open, the device, and the perceptual metric.

    Attributes:
        device: where attacks run.
        root: folder of the data sets, or None for the default.
        download: whether a data set that is missing may be downloaded.
        perceptual: LPIPS, or None where it is not to be had.
        no_perceptual: then the reason.
        workers: processes of this run.
        sharing: those that share the memory of this one's CPU.
        bytes_per_victim: by kind of block, as measured.
    """

    device: torch.device
    root: str | None = None
    download: bool = False
    perceptual: Perceptual | None = None
    no_perceptual: str = ""
    workers: int = 1
    sharing: int = 1
    bytes_per_victim: dict[Any, int] = field(default_factory=dict)
    _data: dict[str, PrivateData] = field(default_factory=dict)

    def data(self, spec: Spec) -> PrivateData:
        """The data set, opened once.

        Raises:
            UsageError: it can not be had.
        """
        if spec.label not in self._data:
            data: PrivateData = build("data", spec, root=self.root, download=self.download)
            try:
                open_data(data)
            except DataError as error:
                raise from_data(spec, error) from None
            self._data[spec.label] = data
        return self._data[spec.label]

    def victims(self, scenario: Scenario, victims: range) -> tuple[Tensor, Tensor]:
        """Private batches and labels.

        Raises:
            UsageError: there are not as many, or an image is damaged.
        """
        try:
            data = self.data(scenario.data)
            return take_victims(data, len(victims), scenario.batch_size, victims.start, scenario.same_class)
        except DataError as error:
            raise from_data(scenario.data, error) from None

    def model(self, scenario: Scenario) -> Model:
        """The network for the data's images.

        Raises:
            UsageError: they do not fit.
        """
        data = self.data(scenario.data)
        model: Model = build("model", scenario.model, image_shape=data.image_shape, num_classes=data.num_classes)
        return model.to(self.device)


def from_data(spec: Spec, error: DataError) -> UsageError:
    """The error with the name of the data set, once."""
    return UsageError(str(error) if spec.name in str(error) else f"{spec.name}: {error}")


def plan(suite: Suite, bench: Workbench) -> list[Block]:
    """The blocks of a suite. A key holds everything that decides the block's result, the pixels included.

    Raises:
        UsageError: data are missing or too few, or a model does not fit them.
    """
    blocks: list[Block] = []
    checksums: dict[Any, str] = {}
    codes: dict[tuple[str, ...], str] = {}
    perceptual = bench.perceptual.describe()["sha256"] if bench.perceptual else None
    attacks: dict[str, dict[str, Cell]] = {}
    sequences: dict[str, int] = {}
    for cell in suite.cells:
        attacks.setdefault(repr(cell.scenario), {})[cell.attack.label] = cell
    for of_scenario in attacks.values():
        model = check_fit(next(iter(of_scenario.values())).scenario, bench)
        for cell in of_scenario.values():
            sequences[cell.attack.label] = check_attack(cell.scenario, cell.attack, model, bench)
    for cell in suite.cells:
        scenario = cell.scenario
        parts = {"data": scenario.data, "model": scenario.model, "attack": cell.attack, "defense": cell.defense}
        given = {kind: part for kind, part in parts.items() if part is not None}
        names = tuple(part.name for part in given.values())
        if names not in codes:
            codes[names] = code_checksum(given)
        of_cell = cell.config() | {"lpips_sha256": perceptual, "code_sha256": codes[names]}
        sequence = sequences[cell.attack.label]
        block_size = max(1, suite.block_size // sequence) * sequence
        for first in range(0, scenario.victims, block_size):
            victims = range(first, min(first + block_size, scenario.victims))
            place = (scenario.data.label, scenario.batch_size, scenario.same_class, victims)
            if place not in checksums:
                data = bench.data(scenario.data)
                batches = bench.victims(scenario, victims)
                public = data.mean_image(), data.class_means(), torch.tensor(data.mean_step())
                checksums[place] = checksum(*batches, *public)
                del batches  # at most one block's images are held
            config = of_cell | {"victims": [victims.start, victims.stop], "data_sha256": checksums[place]}
            blocks.append(Block(cell, victims, digest(config), codes[names]))
    return blocks


def check_fit(scenario: Scenario, bench: Workbench) -> Model:
    """The model; raises UsageError where the data hold too few victims or it does not take their images."""
    data = bench.data(scenario.data)
    held = data.num_victims(scenario.batch_size, scenario.same_class)
    if scenario.victims > held:
        batches = f" with {scenario.batch_size} images each" if scenario.batch_size > 1 else ""
        batches += f" in runs of {scenario.same_class} of one class" if scenario.same_class > 1 else ""
        raise UsageError(
            f"{scenario.data.name} holds {held} victims{batches}, but {scenario.victims} were asked for: "
            + (f"give --victims {held} or fewer" if held else "give a smaller batch_size")
        )
    model = bench.model(scenario)
    try:
        logits = model(torch.zeros(1, *data.image_shape, device=bench.device))
        assert logits.shape == (1, data.num_classes), f"it gives {list(logits.shape)}, not a logit for each class"
    except Exception as error:  # a user's own model can raise anything
        shape = " x ".join(map(str, data.image_shape))
        raise UsageError(
            f"{scenario.model.name} does not take the {shape} images of {scenario.data.name} ({short(error)})"
        ) from None
    return model


def check_attack(scenario: Scenario, attack: Spec, model: Model, bench: Workbench) -> int:
    """The attack's victims of a sequence, which stay in one block; UsageError where it can not take such victims."""
    made: Attack = build("attack", attack)
    channels, height, width = bench.data(scenario.data).image_shape
    try:
        made.check(model, (scenario.batch_size, channels, height, width))
    except ValueError as error:
        raise UsageError(str(error)) from None
    if scenario.victims % made.sequence:
        whole = scenario.victims // made.sequence * made.sequence or made.sequence
        raise UsageError(
            f"{attack.name} attacks sequences of {made.sequence} victims, and {scenario.victims} are not a whole "
            f"number of them: give --victims {whole}, or another length"
        )
    return made.sequence


def checksum(*tensors: Tensor) -> str:
    """sha256 of the values."""
    together = hashlib.sha256()
    for tensor in tensors:
        together.update(tensor.contiguous().numpy().data)
    return together.hexdigest()


def short(error: BaseException) -> str:
    return " ".join(str(error).split())[:120]
