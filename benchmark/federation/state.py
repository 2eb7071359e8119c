"""What the clients' common network was trained with before they start from it: the recipe, and how it is followed."""

import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal, Self, get_type_hints

import msgspec
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from msgspec import Meta
from torch import Tensor, nn

from benchmark.errors import CODE_ERRORS, UsageError, a_kind, is_out_of_memory, quoted, unknown, users_fault
from benchmark.federation.clients import Data, Weights, initial_weights
from benchmark.federation.partition import generator_for, split
from benchmark.federation.server import Federation, judged, train
from benchmark.models.classifier import Batch, Classifier
from benchmark.models.draw import drawing_from
from benchmark.seeds import seed_for
from datamodules.base import PrivateData
from datamodules.contract import images_at
from datamodules.errors import DataError, name_of
from datamodules.split import TensorSplit

Count = Annotated[int, Meta(ge=1, le=10**9, description="a whole number from 1 to 1,000,000,000")]
Rate = Annotated[float, Meta(gt=0, le=torch.finfo(torch.float32).max, description="a finite number above 0")]
Momentum = Annotated[float, Meta(ge=0, lt=1, description="a number of at least 0 and below 1")]
Decay = Annotated[float, Meta(ge=0, le=1, description="a number from 0 to 1")]

OF_EPOCHS = ("weight_decay",)
OF_ROUNDS = ("algorithm", "clients", "clients_per_round", "local_epochs", "dirichlet")


@dataclass(frozen=True)
class TrainingState:
    """The recipe of a shared network: central training by SGD for some epochs, or some rounds of federated learning.

    It starts from the network's own initialization, or its checkpoint, and sees public images alone.

    Attributes:
        epochs: of central training, or
        rounds: of federated learning; one of the two.
        batch_size: images of a step.
        learning_rate: of SGD: of the clients in FedAvg, of the server in FedSGD.
        momentum: of SGD; in federated learning of the server.
        weight_decay: of central training.
        train_images: public images that are used, drawn at random but always the same; None for all.
        algorithm: of federated learning.
        clients: among which the images are split.
        clients_per_round: how many of them, drawn anew, train in a round; None for all.
        local_epochs: of a client in a round of FedAvg.
        dirichlet: alpha of a split by labels; None for one at random.
    """

    epochs: Count | None = None
    rounds: Count | None = None
    batch_size: Count = 32
    learning_rate: Rate = 0.1
    momentum: Momentum = 0.0
    weight_decay: Decay = 0.0
    train_images: Count | None = None
    algorithm: Annotated[Literal["FedAvg", "FedSGD"], Meta(description="FedAvg or FedSGD")] = "FedAvg"
    clients: Count = 10
    clients_per_round: Count | None = None
    local_epochs: Count = 1
    dirichlet: Annotated[float, Meta(ge=1e-3, le=1e6, description="a number from 0.001 to 1,000,000")] | None = None

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.rounds is None):
            raise ValueError("give either epochs, of central training, or rounds, of federated learning")
        given = [one.name for one in fields(self) if getattr(self, one.name) != one.default]
        if wrong := [key for key in given if key in (OF_ROUNDS if self.epochs else OF_EPOCHS)]:
            raise ValueError(f"{wrong[0]} is for {'rounds' if self.epochs else 'epochs'}: leave it out")
        if self.clients_per_round and self.clients_per_round > self.clients:
            raise ValueError(
                f"clients_per_round is {self.clients_per_round}, but there are {self.clients} clients: give "
                f"{self.clients} or fewer"
            )
        if self.algorithm == "FedSGD" and self.local_epochs != 1:
            raise ValueError("local_epochs is for FedAvg: a client of FedSGD shares the gradient of one batch")

    @classmethod
    def from_dict(cls, given: Any) -> Self:
        """The recipe of a suite, as in ``{epochs: 1, learning_rate: 0.05}``.

        Raises:
            UsageError: a key is unknown, or a value has another type or is out of range.
        """
        if not isinstance(given, Mapping):
            raise UsageError(f"state must be a recipe, as in {{epochs: 1}} or {{rounds: 20}}, not {a_kind(given)}")
        hints = get_type_hints(cls, include_extras=True)
        for key in given:
            if key not in hints:
                raise unknown("key of a state", str(key), hints)
        try:
            return msgspec.convert(dict(given), cls)
        except msgspec.ValidationError as error:
            said, _, key = str(error).partition(" - at `$.")
            if not (key := key.rstrip("`")):
                raise UsageError(f"state: {said}") from None
            raise UsageError(f"state: {key} must be {described(hints[key])}, not {quoted(given[key])}") from None

    def config(self) -> dict[str, Any]:
        """Everything that decides the training but network, data, seed and code, under the keys of a suite."""
        unused = OF_ROUNDS if self.epochs else OF_EPOCHS
        values = ((one.name, getattr(self, one.name)) for one in fields(self) if one.name not in unused)
        return {name: value for name, value in values if value is not None}

    @property
    def label(self) -> str:
        """For people: how long it is trained, and what is not usual."""
        count, word = (self.epochs, "epoch") if self.epochs else (self.rounds, f"round of {self.algorithm}")
        plural = word if count == 1 else word.replace("epoch", "epochs").replace("round", "rounds")
        usual: dict[str, Any] = {"epochs": self.epochs, "rounds": self.rounds, "algorithm": self.algorithm}
        usual |= {one.name: one.default for one in fields(self) if one.name not in usual}
        changed = ", ".join(f"{key}={value:g}" for key, value in self.config().items() if value != usual[key])
        return f"after {count} {plural}{f' ({changed})' if changed else ''}"


def described(hint: Any) -> str:
    """What a value of a field must be, in words."""
    found = [
        one.description for part in (hint, *getattr(hint, "__args__", ())) for one in getattr(part, "__metadata__", ())
    ]
    return str(found[0])


Told = Callable[[int, int], None]
"""Hears how many steps are done, and of how many."""

JUDGED = 1000
"""Public images, where there are as many, of which a trained network must classify more correctly than a constant
answer does, by two standard errors."""


class Diverged(Exception):
    """A loss or a weight is NaN or infinite; the message says when."""


def follow(state: TrainingState, model: nn.Module, name: str, data: PrivateData, seed: int, told: Told) -> Weights:
    """Trains a network by a recipe on the public images, on one thread: on a CPU equal arguments give equal bytes.

    Args:
        state: the recipe.
        model: the architecture, with a method ``draw``, on the device of the computation; its own values are changed.
        name: of it, for people.
        data: open; of its images none of the test split are used.
        seed: of everything that is drawn.
        told: hears how it goes.

    Returns:
        Name -> value of each parameter and buffer, running statistics included.

    Raises:
        UsageError: the network or its training breaks, runs out of memory, diverges, or ends no better than always
            naming the most frequent class.
        DataError: an image is damaged.
    """
    what, threads = f"{name} on {name_of(data)} {state.label}", torch.get_num_threads()
    if not len(data.train_split):
        raise UsageError(f"{name_of(data)} has no public images, on which {name} could be trained: give no state")
    if not any(p.requires_grad for p in model.parameters()):
        raise UsageError(f"{name} has no parameter that requires a gradient, and cannot be trained: give no state")
    try:
        torch.set_num_threads(1)
        public = data.loading(state.batch_size, seed_for(seed, 0, "order"), state.train_images)
        weights = (central if state.epochs else federated)(state, model, public, seed, told)
        if wrong := [key for key, value in weights.items() if not value.isfinite().all()]:
            raise Diverged(f"{wrong[0]} is not finite")
        accuracy, majority, images = verdict(model, weights, public)
    except (DataError, UsageError):
        raise
    except Diverged as when:
        raise UsageError(
            f"{what}: the training has diverged ({when}): give the state a smaller learning_rate"
        ) from None
    except CODE_ERRORS as error:
        if is_out_of_memory(error):
            raise UsageError(f"{what}: the training ran out of memory: give the state a smaller batch_size") from None
        raise users_fault(error, f"{what}: the network cannot be trained", model.forward) from None
    finally:
        torch.set_num_threads(threads)
    if accuracy <= majority + 2 * math.sqrt(majority * (1 - majority) / images):
        raise UsageError(
            f"{what}: the network has not learned its task: {accuracy:.1%} of {images} public images are classified "
            f"correctly, and {majority:.1%} by always naming the most frequent class: give the state more "
            f"{'epochs' if state.epochs else 'rounds'}, or another learning_rate"
        )
    return weights


def central(state: TrainingState, model: nn.Module, public: PrivateData, seed: int, told: Told) -> Weights:
    """The weights after central training, by Lightning."""
    weights, tensors = initial_weights(model, generator_for(seed, 0, "network")), tensors_of(model)
    with torch.no_grad():
        for key, tensor in tensors.items():
            tensor.copy_(weights[key])
    model.train()
    device = next(iter(tensors.values())).device
    classifier = Classifier(model, state.learning_rate, state.momentum, state.weight_decay)
    with drawing_from(seed_for(seed, 0, "forward"), device), quiet():
        trainer = Trainer(
            accelerator="cpu" if device.type == "cpu" else "gpu",
            devices=1 if device.type == "cpu" else [device.index or 0],
            max_epochs=state.epochs,
            limit_val_batches=0,
            callbacks=[Following(told)],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        try:
            trainer.fit(classifier, datamodule=public)
        except SystemExit as stop:
            if isinstance(stop.__context__, KeyboardInterrupt):  # how Lightning passes on Ctrl-C
                raise KeyboardInterrupt from stop
            raise
    return {key: tensor.detach().clone() for key, tensor in tensors.items()}


def federated(state: TrainingState, model: nn.Module, public: PrivateData, seed: int, told: Told) -> Weights:
    """The weights after federated rounds, by the server of ``leakboard train``.

    A round is no step of a Trainer: the server has its own order of clients and of their images, on which published
    trainings rest, so that a LightningModule around it would be handed batches that nobody uses.
    """
    assert state.rounds
    federation = Federation(
        state.algorithm,
        state.clients,
        state.clients_per_round or state.clients,
        state.rounds,
        state.batch_size,
        state.local_epochs,
        state.learning_rate,
        server_momentum=state.momentum,
        dirichlet=state.dirichlet,
        evaluate_every=state.rounds,
    )
    rows, device = public.public_rows()[0], next(iter(tensors_of(model).values())).device
    images, labels = public_pixels(public, rows).to(device), public.train_labels[rows].to(device)
    try:
        split(labels.cpu(), state.clients, state.dirichlet, seed)
    except ValueError as error:
        raise UsageError(f"state: {error}") from None
    test = images[:1], labels[:1]  # the verdict is not the server's
    for reached in train(model, Data(images, labels, *test, public.num_classes, *test), federation, None, seed):
        if reached.diverged:
            raise Diverged(f"in round {reached.round} of {state.rounds}")
        told(reached.round, state.rounds)
    return reached.weights


def verdict(model: nn.Module, weights: Weights, public: PrivateData) -> tuple[float, float, int]:
    """Whether the network has learned its task, told by public images, those held out from training first.

    Returns:
        The share of them that it classifies correctly, that of the most frequent class, and how many they are.
    """
    trained, held_out = public.public_rows()
    rows = torch.cat([held_out, trained])[: max(JUDGED, len(held_out))]
    labels, device = public.train_labels[rows], next(iter(weights.values())).device
    accuracy, _ = judged(model, weights, public_pixels(public, rows).to(device), labels.to(device))
    return accuracy, float(labels.bincount().max()) / len(labels), len(labels)


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """A module's own parameters and buffers."""
    return dict(model.named_parameters()) | dict(model.named_buffers())


def public_pixels(data: PrivateData, rows: Tensor) -> Tensor:
    """Some public images ``[n, C, H, W]``: bytes where they are bytes, a quarter of the memory, else floats."""
    of = data.train_split
    return of.pixels[rows] if type(of) is TensorSplit else images_at(data, of, rows)


class Following(Callback):
    """Tells how far a training is, and ends it where the loss is not finite."""

    def __init__(self, told: Told) -> None:
        self._told, self._steps = told, 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._steps = int(trainer.estimated_stepping_batches)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        if not outputs["loss"].isfinite():
            raise Diverged(f"in epoch {trainer.current_epoch + 1} of {trainer.max_epochs}")
        self._told(trainer.global_step, self._steps)


@contextmanager
def quiet() -> Iterator[None]:
    """Lightning's advice to programmers is not told to users."""
    log = logging.getLogger("lightning.pytorch")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning|torch")
            yield
    finally:
        log.setLevel(level)
