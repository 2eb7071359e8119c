"""A recipe of :mod:`benchmark.federation.state` followed: the network trained that clients start from."""

import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from attacks.engine.fit import fit
from attacks.network.memory import is_out_of_memory
from benchmark.errors import CODE_ERRORS, UsageError, users_fault
from benchmark.federation.clients import Data, Weights, initial_weights
from benchmark.federation.partition import split
from benchmark.federation.recipe import Federation
from benchmark.federation.server import judged, train
from benchmark.federation.state import TrainingState
from benchmark.models.classifier import Batch, Classifier
from benchmark.models.draw import drawing_from
from benchmark.seeds import generator_for, seed_for
from datamodules.base import PrivateData
from datamodules.contract import images_at
from datamodules.errors import DataError, name_of
from datamodules.split import TensorSplit

Told = Callable[[int, int], None]
"""Hears how many steps are done, and of how many."""

JUDGED = 1000
"""Public images, where there are as many, of which a trained network must classify more correctly than a constant
answer does, by two standard errors."""


class Diverged(Exception):
    """A loss or a weight is NaN or infinite; the message says when."""


def check_images(data: PrivateData, name: str) -> None:
    """UsageError where there is nothing that the network of this name could be trained on."""
    if not len(data.train_split):
        raise UsageError(f"{name_of(data)} has no public images, on which {name} could be trained: give no state")


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
    check_images(data, name)
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
    assert state.epochs is not None
    weights, tensors = initial_weights(model, generator_for(seed, 0, "network")), tensors_of(model)
    with torch.no_grad():
        for key, tensor in tensors.items():
            tensor.copy_(weights[key])
    model.train()
    device = next(iter(tensors.values())).device
    classifier = Classifier(model, state.learning_rate, state.momentum, state.weight_decay)
    with drawing_from(seed_for(seed, 0, "forward"), device), warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"lightning|torch")  # advice to programmers, not to users
        fit(classifier, public, device, [Following(told)], epochs=state.epochs)
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
