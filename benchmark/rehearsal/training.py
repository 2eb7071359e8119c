"""A training tried on a few images before any work: whether clients compute what a plain training step computes."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor, nn

from benchmark.errors import CODE_ERRORS, UsageError, users_fault, written
from benchmark.federation.clients import (
    Data,
    Network,
    Weights,
    as_batch,
    as_floats,
    check_sizes,
    client_updates,
    close,
    examine,
    initial_weights,
)
from benchmark.federation.partition import split
from benchmark.federation.protect import check_can_defend, network_of
from benchmark.federation.recipe import Federation
from benchmark.federation.server import defended_part, judged
from benchmark.models.draw import drawing_from
from benchmark.rehearsal.hooks import check_fits, check_memory, check_protect
from benchmark.seeds import generator_for
from benchmark.suite.registry import Spec, build, is_ours
from defenses.base import Clients, Defense, Update

SEEDS = (11, 12)
"""Of what the two clients of the rehearsal draw, as for Dropout."""


LARGEST_BATCH = 32
"""Images of the larger of the two batches, at most."""


@dataclass
class Rehearsal:
    """The clients of one scenario.

    Args:
        model: the architecture, on the device of the computation.
        data: on the same device.
        federation: how it will be trained.
        name: of the model, for people.
        data_name: of the data set, for people.

    Raises:
        UsageError: the model cannot be trained, or not as it would be by itself.
    """

    model: nn.Module
    data: Data
    federation: Federation
    name: str
    data_name: str
    network: Network = field(init=False)
    update: Update = field(init=False)
    _checked: set[str] = field(default_factory=set, init=False)
    _split: set[int] = field(default_factory=set, init=False)

    def __post_init__(self) -> None:
        size = min(self.federation.batch_size, LARGEST_BATCH)
        some = torch.arange(max(2, size) + 2) % len(self.data.labels)
        batches = (some[:-2], some[-2:])
        try:
            weights = initial_weights(self.model, generator_for(0, 0, "network"))
            judged(self.model, weights, self.data.test_images[:2], self.data.test_labels[:2])
            self.network = examine(self.model, weights, self.data)
            found, again = (
                client_updates(self.network, weights, [[batch] for batch in batches], self.data, None, SEEDS)
                for _ in range(2)
            )
            plain = plain_updates(self.network, weights, batches, self.data)
        except CODE_ERRORS as error:
            raise users_fault(error, f"{self.name} cannot be trained on {self.data_name}") from None
        where = written(type(self.model).forward)
        for other, what in (
            (
                again,
                "from one call to the next: draw random numbers with torch alone, and keep nothing",
            ),
            (
                plain,
                "from those of a plain training step: hooks on parameters are not supported",
            ),
        ):
            if wrong := [name for name in found if not close({name: found[name].float()}, {name: other[name].float()})]:
                raise UsageError(f"the gradients of {self.name} differ {what} ({wrong[0]}){where}")
        if wrong := [name for name, value in found.items() if not value.float().isfinite().all()]:
            raise UsageError(
                f"the gradients of {self.name} are NaN or infinite at its initial weights ({wrong[0]}){where}"
            )
        self.update = {name: value for name, value in found.items() if value.is_floating_point()}

    def check_clients(self, seed: int) -> None:
        """UsageError where with this seed a client has no image, or batches that are too small for the network."""
        if seed in self._split:
            return
        how = self.federation
        try:
            shares = split(self.data.labels.cpu(), how.clients, how.dirichlet, seed)
            check_sizes(shares, how.batch_size, self.network, self.name)
        except (ValueError, UsageError) as error:
            raise UsageError(f"{self.data_name}, seed {seed}: {error}") from None
        self._split.add(seed)

    def check_defense(self, defense: Spec) -> None:
        """UsageError where the defense breaks its contract on clients of this network, or cannot defend them."""
        if defense.label not in self._checked:
            made: Defense = build("defense", defense)
            shape = self.federation.batch_size, *self.data.images.shape[1:]
            check_can_defend(made, defense.label, self.model, shape, self.federation.algorithm == "FedAvg", train=True)
            model = network_of(made, self.model, shape[1:])
            own = self if model is self.model else replace(self, model=model)
            if given := defended_part(own.network, own.update, self.federation.protect_batch_norm):
                by = own.clients()
                check_fits(made, list(given), defense.label, f"the model {self.name}")
                check_protect(made, given, defense.label, by)
                if not is_ours("defense", defense):
                    check_memory(partial(build, "defense", defense), given, defense.label, by)
            self._checked.add(defense.label)

    def clients(self) -> Clients:
        """Two clients with three images each."""
        weights = initial_weights(self.model, generator_for(0, 0, "network"))
        few = torch.arange(6) % len(self.data.labels)
        images, labels = as_batch(self.model, self.data.images[few], self.data.labels[few], self.data.num_classes)
        return Clients(self.model.train(), weights, images.unflatten(0, (2, 3)), labels.unflatten(0, (2, 3)))


def plain_updates(network: Network, weights: Weights, batches: Sequence[Tensor], data: Data) -> Update:
    """What clients share in FedSGD, by plain steps of the module itself, whose values are put back afterwards.

    Args:
        network: what they train.
        weights: the server's.
        batches: of each client.
        data: which the batches are of.
    """
    model = network.model
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    kept = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    model.train()
    each: list[Update] = []
    try:
        for batch, seed in zip(batches, SEEDS, strict=True):
            fill(tensors, weights)
            leaves = [tensors[name] for name in network.trained]
            with drawing_from(seed, data.images.device):
                logits = model(as_floats(data.images[batch], next(model.parameters()).dtype))
                loss = nn.functional.cross_entropy(logits, data.labels[batch])
                slopes = torch.autograd.grad(loss, leaves, materialize_grads=True)
            moved = {name: weights[name] - b.detach() for name, b in model.named_buffers() if b.dtype != torch.bool}
            each.append(dict(zip(network.trained, slopes, strict=True)) | moved)
    finally:
        fill(tensors, kept)
    return {name: torch.stack([one[name] for one in each]) for name in each[0]}


def fill(tensors: Weights, values: Weights) -> None:
    """Writes values into a module's own tensors."""
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(values[name])
