"""Blocks: a suite cut into units of work, checked before any of them is done."""

import hashlib
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from attacks import Attack, Observation
from attacks.engine.statistics import normalizing
from attacks.network.gradients import trained_names
from benchmark.errors import NotApplicable, UsageError, about, data_fault, users_code
from benchmark.federation.client import PublicData, observe
from benchmark.federation.protect import network_of
from benchmark.identity import block_identity, digest
from benchmark.jobs.attackers import identity as training_identity
from benchmark.jobs.attackers import taught
from benchmark.jobs.states import cache_folder, identity, trained
from benchmark.metrics.leak import BASELINES
from benchmark.metrics.perceptual import Perceptual
from benchmark.models.draw import Model, check_logits
from benchmark.rehearsal.hooks import check_fits
from benchmark.rehearsal.scene import Rehearsal, check_takes
from benchmark.store.declined import Declined
from benchmark.suite.registry import Spec, build, build_model, is_ours, spec_of
from benchmark.suite.suite import Cell, Scenario, Suite
from benchmark.versions.behavior import Behaviors
from benchmark.versions.code import attack_checksum, code_checksum, networks_sha256, own_code, texts_of
from datamodules import DataError, PrivateData, open_data, take_victims
from defenses.base import Defense, Update

K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True)
class Block:
    """The unit of work: some victims of one cell.

    Attributes:
        cell: of which they are.
        victims: their numbers.
        key: digest of everything that decides their results.
        code_sha256: of the code that does.
        behavior: digest of what the user's own classes do, empty where there are none.
        networks: digests of the networks of victim 0 and of the last one of the block.
        data: see :func:`data_chain`.
        training: digest of what decides the training of the attacker's network, empty where there is none.
        own_code: sha256 of the code of each of the user's own classes.
    """

    cell: Cell
    victims: range
    key: str
    code_sha256: str
    behavior: str
    networks: tuple[str, str]
    data: tuple[str, ...]
    training: str = ""
    own_code: dict[str, str] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """For people: its cell."""
        return self.cell.label

    @property
    def group(self) -> str:
        """Its cell's."""
        return self.cell.id

    @property
    def size(self) -> int:
        """Victims."""
        return len(self.victims)

    def about(self) -> dict[str, Any]:
        """What decides its results but the victims, as a record has it."""
        return {
            "cell": self.cell.id,
            "config": self.cell.config(),
            "code_sha256": self.code_sha256,
            "attack_sha256": attack_checksum(self.cell.attack.name),
            **({"own_code": self.own_code} if self.own_code else {}),
            **({"behavior_sha256": self.behavior} if self.behavior else {}),
            "network_sha256": list(self.networks),
            **({"training_sha256": self.training} if self.training else {}),
        }


@dataclass
class Workbench:
    """What blocks share: the data sets that are open, the device, and the perceptual metric.

    Attributes:
        device: where attacks run.
        root: folder of the data sets, or None for the default.
        download: whether a data set that is missing may be downloaded.
        perceptual: LPIPS, or None where it is unavailable.
        no_perceptual: then the reason.
        workers: processes of this run.
        sharing: those that share the memory of this one's CPU.
        bytes_per_victim: by kind of block, as measured.
        null_scores: of private batches, by their data set and their checksum.
        rehearsal: what was tried on public images.
        kept: what jobs of another kind share.
    """

    device: torch.device
    root: str | None = None
    download: bool = False
    perceptual: Perceptual | None = None
    no_perceptual: str = ""
    workers: int = 1
    sharing: int = 1
    bytes_per_victim: dict[Any, int] = field(default_factory=dict)
    null_scores: dict[tuple[str, str], tuple[Tensor, Tensor]] = field(default_factory=dict)
    rehearsal: Rehearsal = field(default_factory=Rehearsal)
    kept: dict[Any, Any] = field(default_factory=dict)
    _data: dict[str, PrivateData] = field(default_factory=dict)
    _models: dict[tuple[str, str], Model] = field(default_factory=dict)
    _trained: dict[Any, Update] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.init()  # torch counts no memory in a process that has not used its GPU yet

    def data(self, spec: Spec) -> PrivateData:
        """The data set, opened once.

        Raises:
            UsageError: it is unavailable.
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
        """The network for the data's images, made once, in evaluation mode.

        Raises:
            UsageError: they do not fit.
        """
        place = scenario.data.label, scenario.model.label
        if place not in self._models:
            data = self.data(scenario.data)
            model: Model = build_model(scenario.model, data)
            # Clients compute their updates in evaluation mode: BatchNorm by its running statistics, Dropout off.
            self._models[place] = model.to(self.device).eval()
        return self._models[place]

    def observe(
        self,
        scenario: Scenario,
        images: Tensor,
        labels: Tensor,
        victims: range,
        defense: Spec | None = None,
        adaptive: bool = False,
        model: Model | None = None,
        public_images: int = 0,
        draw: str = "",
    ) -> Observation:
        """What an attacker sees of victims.

        Args:
            scenario: of which they are.
            images: their batches ``[V, N, C, H, W]``.
            labels: ``[V, N]``.
            victims: their numbers.
            defense: what they do.
            adaptive: whether the attacker knows it.
            model: in place of the scenario's, as in another precision.
            public_images: that an attack is trained on, at most.
            draw: see :func:`benchmark.federation.client.observe`.
        """
        model = model if model is not None else self.model(scenario)
        made: Defense | None = build("defense", defense) if defense else None
        public = PublicData.of(self.data(scenario.data), scenario.setting.rounds, public_images)
        given = images.to(self.device), labels.to(self.device)
        trained = self.trained(scenario)
        return observe(model, *given, public, made, adaptive, scenario.seed, victims, scenario.setting, trained, draw)

    def trained(self, scenario: Scenario) -> Update | None:
        """The network of a scenario in which it is trained, which is done once; None in others.

        Raises:
            UsageError: its training has failed.
        """
        state = scenario.setting.state
        if state is None:
            return None
        place = scenario.data.label, scenario.model.label, state, scenario.seed
        if place not in self._trained:
            data = self.data(scenario.data)
            self._trained[place] = trained(state, scenario.model, data, scenario.seed, cache_folder(), self.device)
        return self._trained[place]

    def taught(self, cell: Cell) -> Cell | None:
        """See :func:`benchmark.jobs.attackers.taught`."""
        scenario = cell.scenario
        return taught(cell, self.model(scenario), (scenario.batch_size, *self.data(scenario.data).image_shape))

    def network_sha256(self, scenario: Scenario, victim: int) -> str:
        """A digest of the network that a victim starts from, or of all that a trained one is trained by."""
        model, state = self.model(scenario), scenario.setting.state
        if state is None:
            return networks_sha256(model, scenario.seed, victim)
        return digest(identity(state, scenario.model, model, self.data(scenario.data), scenario.seed))


def from_data(spec: Spec, error: DataError) -> UsageError:
    """The error with the name of the data set, once."""
    return UsageError(about(spec.name, str(data_fault(error))))


def applicable(suite: Suite, bench: Workbench) -> tuple[Suite, list[Declined]]:
    """The cells of a suite that its attacks take, and the others.

    Raises:
        NotApplicable: no attack takes any.
        UsageError: data are missing or too few, or a model does not fit them.
    """
    found: dict[tuple[str, str, str], str] = {}
    reasons: list[str] = []
    for cell in suite.cells:
        defense = build("defense", cell.defense) if cell.defense else None
        of_its_own = cell.defense.label if cell.defense and defense and "on_model" in defense.hooks else ""
        place = cell.scenario.name, cell.attack.label, of_its_own
        if place not in found:
            model = network_of(defense, check_fit(cell.scenario, bench), bench.data(cell.scenario.data).image_shape)
            try:
                check_attack(cell.scenario, cell.attack, model, bench)
                found[place] = ""
            except NotApplicable as error:
                found[place] = str(error)
        reasons.append(found[place])
    taken = [cell for cell, reason in zip(suite.cells, reasons, strict=True) if not reason]
    said = next(filter(None, reasons), None)
    if said and all(cell.attack.name in BASELINES for cell in taken):
        raise NotApplicable(said)
    declined = [
        Declined(cell.id, cell.config(), reason) for cell, reason in zip(suite.cells, reasons, strict=True) if reason
    ]
    return replace(suite, cells=tuple(taken)), declined


def plan(suite: Suite, bench: Workbench, rehearse: bool = True, there: Collection[str] = ()) -> list[Block]:
    """The blocks of a suite. A key holds everything that decides the block's result, the pixels included.

    Args:
        suite: of cells that its attacks take.
        bench: the data.
        rehearse: whether each network, defense and attack is tried first, as before any work.
        there: keys of blocks that are done, with the same code: of these nothing of ours is tried again.

    Raises:
        UsageError: data are missing or too few, or a model does not fit them.
    """
    models: dict[str, Model] = {}
    sequences: dict[tuple[str, str], int] = {}
    for cell in suite.cells:
        place = cell.scenario.name
        model = found_or(models, place, partial(check_fit, cell.scenario, bench))
        check = partial(check_attack, cell.scenario, cell.attack, model, bench)
        found_or(sequences, (place, cell.attack.label), check)
        if cell.defense:
            defense = build("defense", cell.defense)
            check_fits(defense, trained_names(model), cell.defense.label, f"the model {cell.scenario.model.label}")
    keys = Keys(bench, models, suite.block_size)

    def blocks_of(cell: Cell) -> list[Block]:
        sequence, count = sequences[cell.scenario.name, cell.attack.label], cell.scenario.victims
        size = max(1, suite.block_size // sequence) * sequence
        return [keys.block(cell, range(first, min(first + size, count))) for first in range(0, count, size)]

    # A user's own code is run for its key, and so tried before.
    found = {cell.id: blocks_of(cell) for cell in suite.cells if not rehearse or all_ours(cell)}
    for cell in suite.cells if rehearse else ():
        if cell.id not in found or any(block.key not in there for block in found[cell.id]):
            bench.rehearsal.of(cell, models[cell.scenario.name], bench.data(cell.scenario.data), bench.device)
    return [block for cell in suite.cells for block in found.get(cell.id) or blocks_of(cell)]


def all_ours(cell: Cell) -> bool:
    """Whether all classes of a cell come with Leakboard."""
    return all(is_ours(kind, part) for kind, part in [*cell.parts().items(), ("data", cell.scenario.data)])


@dataclass
class Keys:
    """What decides the results of blocks, each part of which is looked at once.

    Attributes:
        bench: the data.
        models: of the scenarios, by their names.
        at_once: victims whose images are held at the same time.
    """

    bench: Workbench
    models: dict[str, Model]
    at_once: int
    _codes: dict[tuple[str, ...], str] = field(default_factory=dict)
    _own: dict[tuple[str, ...], dict[str, str]] = field(default_factory=dict)
    _behaviors: Behaviors = field(default_factory=Behaviors)
    _networks: dict[tuple[str, int], str] = field(default_factory=dict)
    _trainings: dict[str, str] = field(default_factory=dict)
    _chains: dict[Any, list[str]] = field(default_factory=dict)

    def block(self, cell: Cell, victims: range) -> Block:
        """Some victims of a cell, with their key."""
        scenario, parts = cell.scenario, cell.parts()
        code = code_of(parts, self._codes, code_checksum)
        does = self._behaviors.of(self.bench.data(scenario.data), parts, scenario.batch_size)
        networks = self._network(scenario, 0), self._network(scenario, victims[-1])
        data = self._data(scenario, victims)
        lpips = str(self.bench.perceptual.describe()["sha256"]) if self.bench.perceptual else None
        training = found_or(self._trainings, cell.id, partial(self._training, cell))
        key = digest(block_identity(cell.id, lpips, code, does, list(networks), victims, list(data), training))
        own = code_of(parts, self._own, own_code)
        return Block(cell, victims, key, code, does, networks, data, training, own)

    def _training(self, cell: Cell) -> str:
        trained = self.bench.taught(cell)
        network, data = self._network(cell.scenario, 0), self.bench.data(cell.scenario.data)
        return digest(training_identity(trained, network, data)) if trained else ""

    def _network(self, scenario: Scenario, victim: int) -> str:
        place, victim = scenario.name, 0 if scenario.setting.shared else victim
        return found_or(self._networks, (place, victim), partial(self.bench.network_sha256, scenario, victim))

    def _data(self, scenario: Scenario, victims: range) -> tuple[str, ...]:
        """The victims' part of the chain, which is made as far as it is needed."""
        place = scenario.data.label, scenario.batch_size, scenario.same_class
        if place not in self._chains:
            data = self.bench.data(scenario.data)
            public = PublicData.of(data, rounds=2)  # with the images of which networks move on between rounds
            told = [value for value in vars(public).values() if isinstance(value, Tensor)]
            self._chains[place] = [checksum(*told, torch.tensor(public.mean_step))[:16]]
        chain = self._chains[place]
        for first in range(len(chain) - 1, scenario.victims, self.at_once):
            some = range(first, min(first + self.at_once, scenario.victims))
            chain += data_chain(*self.bench.victims(scenario, some), chain[-1])[1:]
        return tuple(chain[victims.start : victims.stop + 1])


@dataclass
class Present:
    """Says which records are of the classes as they are now.

    Attributes:
        bench: the data.
    """

    bench: Workbench
    _codes: dict[tuple[str, ...], str] = field(default_factory=dict)
    _behaviors: Behaviors = field(default_factory=Behaviors)

    def made(self, record: dict[str, Any]) -> bool:
        """Whether the classes of a record have the code and do what they did when it was made."""
        config = record["config"]
        specs = {kind: spec_of(config[kind]) for kind in ("data", "model", "attack", "defense") if config[kind]}
        data = specs.pop("data")
        try:
            if code_of(specs, self._codes, code_checksum) != record["code_sha256"]:
                return False
            does = record.get("behavior_sha256", "")
            return not does or does == self._behaviors.of(self.bench.data(data), specs, config["batch_size"])
        except UsageError:  # a class or its data are gone
            return False


def code_of(
    parts: dict[str, Spec],
    known: dict[tuple[str, ...], V],
    checksum: Callable[[dict[str, Spec]], V],
) -> V:
    """The checksums of the code of classes, looked at once for those that differ in their numbers alone."""
    texts = tuple(f"{kind}: {part.name} {sorted(texts_of(part.args))}" for kind, part in parts.items())
    return found_or(known, texts, partial(checksum, parts))


def found_or(known: dict[K, V], key: K, make: Callable[[], V]) -> V:
    """What is known under a key, made and kept where nothing is."""
    if key not in known:
        known[key] = make()
    return known[key]


def data_chain(images: Tensor, labels: Tensor, before: str) -> list[str]:
    """Digests of the data up to each victim: each holds all before it, the first one the public images.

    Two records are thus of one data set where they agree on the last victim that both know of.

    Args:
        images: of victims that follow each other, ``[V, ...]``.
        labels: theirs, ``[V, ...]``.
        before: the digest up to the victim before them.

    Returns:
        ``before``, and one for each victim.
    """
    chain = [before]
    for image, label in zip(images, labels, strict=True):
        chain.append(hashlib.sha256((chain[-1] + checksum(image, label)).encode()).hexdigest()[:16])
    return chain


def check_unchanged(block: Block, images: Tensor, labels: Tensor) -> None:
    """UsageError where images and labels of a block are not those that it was planned with."""
    if tuple(data_chain(images, labels, block.data[0])) != block.data:
        name = block.cell.scenario.data.name
        raise UsageError(f"the images of {name} have changed since the run began: start it again")


def check_fit(scenario: Scenario, bench: Workbench) -> Model:
    """The model; raises UsageError where the data hold too few victims or it does not take their images."""
    data = bench.data(scenario.data)
    held = data.num_victims(scenario.batch_size, scenario.same_class)
    if scenario.victims > held:
        images = data.num_victims(1, scenario.same_class)
        runs = f" in runs of {scenario.same_class} of one class" if scenario.same_class > 1 else ""
        each = f" of {scenario.batch_size:,} images each" if scenario.batch_size > 1 else ""
        raise UsageError(
            f"{scenario.data.name} has {images:,} test images{runs}, too few for {scenario.victims:,} victims{each}: "
            + enough(scenario.victims, images, held)
        )
    model = bench.model(scenario)
    check_images(model, scenario.model.name, data, scenario.data.name)
    return model


def enough(victims: int, images: int, held: int) -> str:
    """What to do where images do not suffice for so many victims.

    Args:
        victims: that are wanted.
        images: that there are.
        held: victims that they suffice for.
    """
    if held:
        return f"reduce --victims to {held:,}"
    if images >= victims:
        return f"give a batch_size of at most {images // victims:,}"
    return f"give a batch_size of 1, and reduce --victims to {images:,}" if images else "give a smaller same_class"


def check_images(model: nn.Module, model_name: str, data: PrivateData, data_name: str, batch_size: int = 1) -> None:
    """UsageError where a model does not take the images of a data set, or returns no logits for them."""
    shape = " x ".join(map(str, data.image_shape))
    like = next(model.parameters(), torch.zeros(1))
    with users_code(f"{model_name} does not take the {shape} images of {data_name}", model.forward):
        logits = model(torch.zeros(batch_size, *data.image_shape, device=like.device, dtype=like.dtype))
    check_logits(model, model_name, logits, batch_size, data.num_classes)


def check_attack(scenario: Scenario, attack: Spec, model: Model, bench: Workbench) -> int:
    """The attack's victims of a sequence, which stay in one block; NotApplicable where it does not take them."""
    made: Attack = build("attack", attack)
    data, setting = bench.data(scenario.data), scenario.setting
    if setting.statistics in ("hidden", "public") and not any(normalizing(model)):
        raise UsageError(
            f"{scenario.model.name} has no BatchNorm with running statistics: leave statistics out of the scenario"
        )
    try:
        check_takes(made, model, (scenario.batch_size, *data.image_shape), setting)
    except ValueError as error:
        raise NotApplicable(str(error)) from None
    if made.public_images and not len(data.train_split):
        raise NotApplicable(f"{attack.name} is trained on public images, and {scenario.data.name} has none")
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
