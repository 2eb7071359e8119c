"""The contracts of attacks, defenses, networks and data sets, one by one, for ``leakboard check`` and our own tests.

A run's rehearsal (``scene.py``) tries what a suite needs and stops at the first breach. Here each promise is tried by
itself, on networks with sigmoid, ReLU and batch norm, and what holds is said, too.
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from math import ceil
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from attacks import Attack, Observation, Reconstruction
from attacks.network.gradients import trained_names
from attacks.update import FedAvg
from benchmark.errors import UsageError, data_fault, users_code, written
from benchmark.federation.client import known
from benchmark.federation.protect import breach
from benchmark.federation.setting import Setting
from benchmark.models.draw import Model, Shape
from benchmark.rehearsal.attackers_model import check_known
from benchmark.rehearsal.hooks import CONTRACT, Calls, calls_of, check_fits, check_memory
from benchmark.rehearsal.scene import VICTIMS, Scene, check_found, check_takes, shortened
from benchmark.suite.registry import Spec, build, build_model, spec
from benchmark.suite.suite import Scenario
from datamodules import DataError, PrivateData, open_data, take_victims
from defenses.base import Clients, Defense, Update


class Normalized(nn.Sequential):
    """The least network with batch norm: a convolution with it and ReLU, one linear layer."""

    def __init__(self, image_shape: Shape, num_classes: int) -> None:
        channels, height, width = image_shape
        features = 4 * ceil(height / 2) * ceil(width / 2)
        convolution = nn.Conv2d(channels, 4, 3, stride=2, padding=1)
        super().__init__(convolution, nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(features, num_classes))


NETWORKS: dict[str, Spec] = {
    "sigmoid": Spec("LeNet", {"init_range": 0.5}),
    "ReLU": Spec("ConvNet", {"width": 4}),
    "batch norm": Spec(f"{__name__}.Normalized"),
}
"""Small networks of the kinds that attacks and defenses tell apart."""

SETTINGS: dict[str, Setting] = {
    "": Setting(),
    "shared": Setting(shared=True),
    "FedAvg": Setting(local=FedAvg(learning_rate=0.1, epochs=2)),
    "shared FedAvg": Setting(shared=True, local=FedAvg(learning_rate=0.1, epochs=2)),
}
"""What clients compute: a gradient or two local steps, of a network of their own or of one that all share."""

DIGITS = Spec("Digits")
"""Small images that are always there."""

BATCH = 3
"""Images of a client, where there are several."""

NEAR = 1e-3
"""Difference of pixels that is rounding."""

FAINT = 0.1
"""Brightest pixel of many images that is too dark for images whose pixels are from 0 to 1."""

LOOKED_AT = 64
"""Private images of a data set that are looked at."""

BATCH_OF_LOADER = 256
"""Public images that are read at a time."""

SOME = 0.1
"""Share of private images that may be public ones, too, as real data sets hold a few twice."""

CPU = torch.device("cpu")


class NotApplicable(Exception):
    """A contract has nothing to say of something; why, as the end of a sentence."""


@dataclass(frozen=True)
class Verdict:
    """What came out of one contract in one place.

    Attributes:
        contract: what is promised.
        where: the network and what clients compute, empty where that makes no difference.
        word: whether it is kept.
        reason: why it is not, or why it was not tried.
    """

    contract: str
    where: str
    word: Literal["holds", "skipped", "fails"]
    reason: str = ""


@dataclass(frozen=True, eq=False)
class Place:
    """Where contracts are tried, opened once.

    Attributes:
        name: for people.
        model: the network.
        data: the data set.
        setting: what clients compute, and what attackers are granted.
        batch_size: images of each client.
        root: folder of data sets.
    """

    name: str
    model: Spec
    data: Spec = DIGITS
    setting: Setting = Setting()  # noqa: RUF009 # frozen
    batch_size: int = 1
    root: str | None = None

    @property
    def scenario(self) -> Scenario:
        return Scenario(self.data, self.model, self.batch_size, seed=0, victims=VICTIMS, setting=self.setting)

    @cached_property
    def opened(self) -> PrivateData:
        """The data set."""
        made: PrivateData = build("data", self.data, root=self.root, download=False)
        open_data(made)
        return made

    @cached_property
    def network(self) -> Model:
        """In evaluation mode."""
        made: Model = build_model(self.model, self.opened)
        return made.eval()

    @cached_property
    def scene(self) -> Scene:
        """Two clients; UsageError where the network is not fit for them."""
        return Scene.of(self.scenario, self.network, self.opened, CPU)

    @cached_property
    def with_batches(self) -> "Place":
        """The same, with several images for each client."""
        return replace(self, batch_size=BATCH)


def places(networks: Mapping[str, Spec] = NETWORKS, data: Spec = DIGITS, root: str | None = None) -> list[Place]:
    """Each network in each setting."""
    return [
        Place(" ".join(filter(None, (name, how))), model, data, setting, root=root)
        for how, setting in SETTINGS.items()
        for name, model in networks.items()
    ]


@dataclass(frozen=True)
class State:
    """What an attack must leave as it is.

    Attributes:
        randomness: the state of the global generators.
        networks: the weights in the module, and those of the victims.
    """

    randomness: tuple[bytes, str, str]
    networks: list[dict[str, Tensor]]


@dataclass(frozen=True)
class Found:
    """What an attack finds.

    Attributes:
        seen: what it saw.
        reconstruction: what it returned.
        before: the state of all else.
        after: the same afterwards.
    """

    seen: Observation
    reconstruction: Reconstruction
    before: State
    after: State


@dataclass
class Trial:
    """Something on trial in one place; what several contracts look at is made once.

    Attributes:
        kind: ``attack``, ``defense``, ``model`` or ``data``.
        spec: of it.
        place: where; of a model or data set the place is made of it.
    """

    kind: str
    spec: Spec
    place: Place

    @property
    def scene(self) -> Scene:
        """Two clients of the place."""
        return self.place.scene

    @cached_property
    def clients(self) -> tuple[Update, Clients]:
        """The two clients' gradients of the network that they train with the defense, and the clients."""
        scene = self.scene.defended_by(build("defense", self.spec))
        seen = scene.observe(None, adaptive=False)
        return seen.update, scene.clients(seen)

    @cached_property
    def calls(self) -> list[tuple[str, Calls]]:
        """What each hook of a defense does, with its name."""
        update, by = self.clients
        return [*calls_of(build("defense", self.spec), update, self.spec.label, by)]

    @cached_property
    def found(self) -> Found:
        """What an attack finds of the two clients in its first steps."""
        seen = self.seen()
        before = self.state(seen)
        return Found(seen, self.attacked(seen), before, self.state(seen))

    def state(self, seen: Observation) -> State:
        """What an attack must leave as it is."""
        held = {name: value.clone() for name, value in self.scene.held()}
        return State(randomness(), [held, {name: value.clone() for name, value in seen.parameters.items()}])

    def seen(self) -> Observation:
        """What an attack sees of the two clients."""
        made: Attack = build("attack", shortened(self.spec))
        return self.scene.observe(None, adaptive=False, public_images=made.public_images)

    def attacked(self, seen: Observation) -> Reconstruction:
        """What an attack finds in its first steps."""
        made: Attack = build("attack", shortened(self.spec))
        if made.sequence > 1:
            raise NotApplicable(f"it attacks sequences of {made.sequence} victims")
        with users_code(f"the attack {self.spec.name} has failed on the model {self.scene.name}"):
            found = made.reconstruct(seen)
        check_found(found, seen, self.spec.name, written(type(made).reconstruct))
        return found

    def wrong(self, what: str, method: str) -> UsageError:
        """The sentence that says how an attack breaks a contract, with its line."""
        return UsageError(
            f"the attack {self.spec.name} {what}{written(getattr(type(build('attack', self.spec)), method))}"
        )


def completes(defense: Spec | None, adaptive: bool, trial: Trial) -> None:
    """One step of an attack."""
    trial.scene.check_attack(trial.spec, build("defense", defense) if defense else None, adaptive)


def takes_batches(trial: Trial) -> None:
    """One step on batches of several images."""
    several = replace(trial, place=trial.place.with_batches)
    declines(several)
    completes(None, False, several)


def finds_the_same_again(trial: Trial) -> None:
    once = trial.found.reconstruction
    again = trial.attacked(trial.found.seen)
    if not torch.equal(once.images.nan_to_num(), again.images.nan_to_num()) or not torch.equal(
        once.labels, again.labels
    ):
        raise trial.wrong(
            "finds something else when it is called again: draw from the seeds of the observation alone, and keep "
            "nothing from call to call",
            "reconstruct",
        )


def finds_the_same_alone(trial: Trial) -> None:
    seen, together = trial.found.seen, trial.found.reconstruction
    for victim in range(VICTIMS):
        alone = trial.attacked(seen.take([victim]))
        if not near(alone.images[0], together.images[victim]) or not torch.equal(
            alone.labels[0], together.labels[victim]
        ):
            raise trial.wrong(
                "finds something else of a victim in the company of another: attack each of the V victims alone",
                "reconstruct",
            )


def near(one: Tensor, other: Tensor) -> bool:
    """Whether images are the same but for rounding, at most one pixel in a hundred aside."""
    off = (one.nan_to_num().clamp(-1, 2) - other.nan_to_num().clamp(-1, 2)).abs() > NEAR
    return int(off.sum()) <= 0.01 * off.numel()


def touches_nothing_else(trial: Trial) -> None:
    before, after = trial.found.before, trial.found.after
    if before.randomness != after.randomness:
        raise trial.wrong("draws from a global generator: draw from the seeds of the observation", "reconstruct")
    for own, now in zip(before.networks, after.networks, strict=True):
        if bad := [name for name, value in own.items() if not torch.equal(value, now[name])]:
            raise trial.wrong(f"changes the network ({bad[0]}): work on a copy of it", "reconstruct")


def randomness() -> tuple[bytes, str, str]:
    """The state of torch's, numpy's and Python's global generators."""
    return torch.get_rng_state().numpy().tobytes(), str(np.random.get_state()), str(random.getstate())


def declines(trial: Trial) -> None:
    """NotApplicable where an attack says that it cannot take such victims."""
    made: Attack = build("attack", trial.spec)
    shape = trial.place.batch_size, *trial.place.opened.image_shape
    try:
        check_takes(made, trial.place.network, shape, trial.place.setting)
    except ValueError as error:
        raise NotApplicable(str(error)) from None


def keeps_the_form(trial: Trial) -> None:
    made: Defense = build("defense", trial.spec)
    try:
        check_fits(made, trained_names(trial.place.network), trial.spec.label, trial.place.model.label)
    except UsageError as error:
        raise NotApplicable(str(error)) from None
    _ = trial.calls  # UsageError where it does not


def takes_such_clients(trial: Trial) -> None:
    """NotApplicable where a defense says that it cannot defend such clients."""
    made: Defense = build("defense", trial.spec)
    try:
        check_fits(made, trained_names(trial.place.network), trial.spec.label, trial.place.model.label)
    except UsageError as error:
        raise NotApplicable(str(error)) from None
    try:
        trial.scene.check_can_defend(trial.spec)
    except UsageError as error:
        if isinstance(error.__cause__, ValueError):
            raise NotApplicable(str(error.__cause__)) from None
        raise


def keeps(wrong: Callable[[Calls], str | None], trial: Trial) -> None:
    """One of the contracts of all hooks."""
    for hook, calls in trial.calls:
        if said := wrong(calls):
            raise breach(build("defense", trial.spec), trial.spec.label, said, hook)


def keeps_nothing(trial: Trial) -> None:
    update, by = trial.clients
    check_memory(partial(build, "defense", trial.spec), update, trial.spec.label, by)


def changes_something(trial: Trial) -> None:
    update, _ = trial.clients
    shared = trial.scene.observe(build("defense", trial.spec), adaptive=False).update
    if all(torch.equal(value, update[name]) for name, value in shared.items()):
        raise NotApplicable("at this strength it changes no entry of these updates")


def is_known_as_it_is(trial: Trial) -> None:
    (update, by), made = trial.clients, build("defense", trial.spec)
    with users_code(f"the attacker's model of {trial.spec.label} cannot be used"):
        model = known(made, by.model, (1, *by.images.shape[2:]))
        check_known(made, model, update, trial.spec.label, by)
    known_by = model.is_simulated, model.noise_std, model.read, model.soft_labels, model.no_adaptive_attack
    if not any(known_by):
        raise NotApplicable("attackers have no model of it: what they do not find is not taken for protection")


def can_be_attacked(adaptive: bool, trial: Trial) -> None:
    made: Defense = build("defense", trial.spec)
    attack = "IDLG" if trial.place.batch_size == 1 else "DLG"
    trial.scene.check_attack(spec("attack", attack, {}), made, adaptive)


def is_a_network(trial: Trial) -> None:
    _ = trial.scene  # UsageError where it is none


def is_attacked_by(attack: str, trial: Trial) -> None:
    made = replace(trial, kind="attack", spec=spec("attack", attack, {}))
    declines(made)
    completes(None, False, made)


def opens(trial: Trial) -> None:
    brightest = float(first_victims(trial).amax())
    if brightest < FAINT:
        raise UsageError(
            f"no pixel of the first private images of {trial.spec.label} is above {brightest:.2g}: give pixels from 0 "
            f"to 1, or bytes from 0 to 255, which are divided by 255 for you{written(type(trial.place.opened).load)}"
        )


def first_victims(trial: Trial) -> Tensor:
    """The private images that are looked at, one of each victim, ``[V, C, H, W]``."""
    data = trial.place.opened
    return take_victims(data, max(VICTIMS, min(LOOKED_AT, data.num_victims())))[0][:, 0]


def keeps_private_images_from_the_public(trial: Trial) -> None:
    data = trial.place.opened
    if not len(data.train_split):
        raise NotApplicable("it has no public images")
    private = {image.numpy().tobytes() for image in first_victims(trial)}
    loader = data.loading(BATCH_OF_LOADER, 0).train_dataloader()
    both = private & {image.numpy().tobytes() for images, _ in loader for image in images}
    if len(both) > SOME * len(private):
        raise UsageError(
            f"{len(both)} of the first {len(private)} private images of {trial.spec.label} are public ones, too: let "
            f"load(train=True) give other images than load(train=False){written(type(data).load)}"
        )


def is_the_same_again(trial: Trial) -> None:
    first, second = (take_victims(one.opened, VICTIMS) for one in (trial.place, replace(trial.place)))
    if not all(torch.equal(one, other) for one, other in zip(first, second, strict=True)):
        raise UsageError(
            f"{trial.spec.label} gives other images or labels when it is made again: read them in a fixed order, and "
            f"draw nothing at random{written(type(trial.place.opened).load)}"
        )


def has_public_images(trial: Trial) -> None:
    data = trial.place.opened
    if not len(data.train_split):
        raise NotApplicable("it has none: the mean image is gray, and nothing can be trained on it")
    _ = data.mean_image(), data.class_means(), data.mean_step(), data.channel_stds()


MASK, NOISE = Spec("Masking", {"ratio": 0.5, "rescale": False}), Spec("GaussianNoise", {"std": 0.01})

Check = Callable[[Trial], None]
"""Raises UsageError where the contract is broken, NotApplicable where it says nothing."""

CONTRACTS: dict[str, Mapping[str, Check]] = {
    "attack": {
        "takes such victims, or says why not": declines,
        "completes a step, returns reconstructions of the right form, and has no loss at the true images": partial(
            completes, None, False
        ),
        "completes a step on batches of several images": takes_batches,
        "completes a step against a mask that it does not know": partial(completes, MASK, False),
        "completes a step against a mask that it knows": partial(completes, MASK, True),
        "completes a step against noise that it knows": partial(completes, NOISE, True),
        "finds the same when it is called again": finds_the_same_again,
        "finds the same of a victim alone": finds_the_same_alone,
        "leaves the network and global random numbers as they are": touches_nothing_else,
    },
    "defense": {
        "takes such clients, or says why not": takes_such_clients,
        "shares the names, shapes and types of the update": keeps_the_form,
        **{name: partial(keeps, wrong) for name, wrong in CONTRACT.items()},
        "keeps nothing from call to call, in no module either": keeps_nothing,
        "changes the update": changes_something,
        "gives attackers a model that does what it does": is_known_as_it_is,
        "lets an attack that does not know it complete a step": partial(can_be_attacked, False),
        "lets an attack that knows it complete a step": partial(can_be_attacked, True),
    },
    "model": {
        "gives clients the update of a plain autograd loop, which can be matched": is_a_network,
        **{f"{name} completes a step on it": partial(is_attacked_by, name) for name in ("IDLG", "DLG", "RGAP")},
    },
    "data": {
        "gives images and labels of the right form": opens,
        "gives the same when it is made again": is_the_same_again,
        "has public images": has_public_images,
        "keeps private images from the public": keeps_private_images_from_the_public,
        "has images that a network takes": is_a_network,
        "has images that an attack takes": partial(is_attacked_by, "IDLG"),
    },
}
"""By kind: what is promised, in the order in which it is tried."""

BEGINNING = {"attack": 2, "defense": 2, "model": 1, "data": 1}
"""How many contracts of each kind the others take for granted."""


def verdicts(kind: str, spec: Spec, where: Sequence[Place]) -> Iterator[list[Verdict]]:
    """What holds of something, contract by contract, in each place.

    Where one of the contracts with which all begins does not apply, or is broken, it is not tried further.

    Args:
        kind: ``attack``, ``defense``, ``model`` or ``data``.
        spec: of it.
        where: it is tried.
    """
    trials = [Trial(kind, spec, suited(spec, place) if kind == "defense" else place) for place in where]
    for number, (contract, check) in enumerate(CONTRACTS[kind].items()):
        found = [verdict_of(contract, check, trial) for trial in trials]
        if number < BEGINNING[kind]:
            trials = [trial for trial, verdict in zip(trials, found, strict=True) if verdict.word == "holds"]
        if found:
            yield found


def suited(defense: Spec, place: Place) -> Place:
    """The place, with several images for each client where a defense takes no one image."""
    for tried in (place, place.with_batches):
        with suppress(UsageError):
            tried.scene.check_can_defend(defense)
            return tried
    return place


def verdict_of(contract: str, check: Check, trial: Trial) -> Verdict:
    """What comes out of one contract."""
    where = trial.place.name
    try:
        check(trial)
    except NotApplicable as why:
        return Verdict(contract, where, "skipped", str(why))
    except UsageError as error:
        return Verdict(contract, where, "fails", str(error))
    except DataError as error:
        return Verdict(contract, where, "fails", str(data_fault(error)))
    return Verdict(contract, where, "holds")
