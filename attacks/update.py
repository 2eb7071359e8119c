"""What a client computes and shares: one function, for the client and for every attacker who simulates it."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import repeat

import torch
from torch import Tensor, nn

from attacks.network.gradients import batch_dims, gradients_and_buffers, in_modes, is_shared, trained_names
from defenses.base import AS_USUAL, Steps, Update, weights_at

LARGE = 2**23
"""Bytes of a network and as many copies as a batch has images, above which the victims' images are differentiated in
turn, each with the one network of their victim: to make and read the copies takes longer."""


@dataclass(frozen=True)
class Network:
    """The network that V victims start from.

    Attributes:
        module: the architecture.
        parameters: name -> ``[V, *shape]`` where each victim has a network of its own, or ``[*shape]`` of one network
            that all share, which is never copied for each victim.
        buffers: in place of the module's own, such as running statistics; shapes as those of the parameters.
    """

    module: nn.Module
    parameters: Update
    buffers: Update = field(default_factory=dict)

    @property
    def batched(self) -> bool:
        """Whether each victim has a network of its own."""
        return not is_shared(self.module, self.parameters)


@dataclass(frozen=True)
class FedAvg:
    """Each client trains by SGD and shares what that has changed (McMahan et al. 2017, arXiv 1602.05629).

    Args:
        learning_rate: of SGD, above 0.
        epochs: over the client's images, at least 1.
        batch_size: images of a step; None for all. The last batch of an epoch has what is left.
        momentum: of SGD, in [0, 1), without dampening; each round begins at rest.
    """

    learning_rate: float
    epochs: int = 1
    batch_size: int | None = None
    momentum: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.learning_rate < float("inf"):
            raise ValueError(f"learning_rate is {self.learning_rate}, but must be above 0 and finite")
        if self.epochs < 1 or (self.batch_size is not None and self.batch_size < 1):
            raise ValueError(f"epochs is {self.epochs} and batch_size {self.batch_size}, but both must be at least 1")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum is {self.momentum}, but must be at least 0 and below 1")


@dataclass(frozen=True)
class Protocol:
    """What clients compute and share.

    Attributes:
        local: the steps of FedAvg, whose clients share what the steps changed; None for FedSGD, whose clients share
            the gradient of their batch.
        train: whether the network is in train mode, where BatchNorm normalizes by the batch; in eval mode it does so
            by the running statistics.
        share_statistics: whether clients in train mode share the change of their running statistics, too.
    """

    local: FedAvg | None = None
    train: bool = False
    share_statistics: bool = False

    def __post_init__(self) -> None:
        if self.share_statistics and not self.train:
            raise ValueError("share_statistics needs train: in eval mode running statistics do not change")


def local_update(
    network: Network,
    protocol: Protocol,
    images: Tensor,
    labels: Tensor,
    create_graph: bool,
    order: Tensor | None = None,
    steps: Steps = AS_USUAL,
) -> Update:
    """What V clients share, but for what a defense does to the update.

    Neither the network nor its module changes. Images of every client are weighted alike in a step.

    Args:
        network: that they start from.
        protocol: what they do.
        images: ``[V, N, C, H, W]``.
        labels: class probabilities ``[V, N, K]`` (one-hot for hard labels).
        create_graph: keep the graph through all steps, so that the result can be differentiated in images and labels.
        order: of each client's images in each epoch of FedAvg, permutations ``[V, E, N]``; None for as they are given.
        steps: what they do otherwise in each step.

    Returns:
        name -> ``[V, *shape]``: the gradients of the trained parameters (FedSGD), or their values at the start minus
        those at the end (FedAvg); and of shared running statistics the values at the start minus those at the end,
        which carry no graph.

    Raises:
        ValueError: the order is not one of each epoch.
    """
    module, local = network.module, protocol.local
    if order is not None and (local is None or order.shape != (len(images), local.epochs, images.shape[1])):
        wanted = f"[{len(images)}, {local.epochs}, {images.shape[1]}]" if local else "None for FedSGD"
        raise ValueError(f"order has the shape {list(order.shape)}, but must be {wanted}")
    moving = moving_buffers(network, len(images)) if protocol.train else {}
    fixed = {name: value for name, value in network.buffers.items() if name not in moving}
    weights, buffers = {name: value.detach() for name, value in (network.parameters | fixed).items()}, moving
    with in_modes(module, repeat(protocol.train)):
        if local is None:
            update, buffers = _step(module, weights, buffers, images, labels, create_graph, steps)
        else:
            speed: Update = {}
            for batch, of_batch in _batches(local, images, labels, order):
                slopes, buffers = _step(module, weights, buffers, batch, of_batch, create_graph, steps)
                speed = {n: local.momentum * speed[n] + slope if speed else slope for n, slope in slopes.items()}
                weights = weights | {name: weights[name] - local.learning_rate * v for name, v in speed.items()}
            update = {name: network.parameters[name].detach() - weights[name] for name in trained_names(module)}
    if protocol.share_statistics:
        update |= {name: moving[name] - after for name, after in buffers.items() if after.is_floating_point()}
    return update


def _step(
    module: nn.Module,
    weights: Update,
    buffers: Update,
    images: Tensor,
    labels: Tensor,
    create_graph: bool,
    steps: Steps,
) -> tuple[Update, Update]:
    """The gradients ``[V, *shape]`` of a step, and the buffers after it."""
    if steps.batch:
        images, labels = steps.batch(images, labels)
    if steps.forward:
        weights = weights | steps.forward(module, images.shape[1])
    if not steps.gradients:
        return gradients_and_buffers(module, weights, buffers, images, labels, create_graph)
    return steps.gradients(example_gradients(module, weights | buffers, images, labels, create_graph)), buffers


def example_gradients(
    module: nn.Module, weights: Update, images: Tensor, labels: Tensor, create_graph: bool = False
) -> Update:
    """The gradient of each image of V batches by itself, name -> ``[V, N, *shape]``; buffers stay as they are.

    Args:
        module: the architecture, in the mode of the computation.
        weights: name -> ``[V, *shape]``, or ``[*shape]`` of a tensor that all share.
        images: ``[V, N, C, H, W]``.
        labels: class probabilities ``[V, N, K]``.
        create_graph: keep the graph.
    """
    victims, count = images.shape[:2]
    dims = batch_dims(module, weights)
    own = [value for name, value in weights.items() if dims[name] is not None]
    is_large = count * sum(value[0].nbytes for value in own) > LARGE
    if is_large and not any(value.requires_grad for value in own):
        rows = []
        for row in range(victims):
            network, here = weights_at(module, weights, row), slice(row, row + 1)
            rows.append(example_gradients(module, network, images[here], labels[here], create_graph))
        return {name: torch.cat([row[name] for row in rows]) for name in rows[0]}
    of_each = {n: value if dims[n] is None else value.repeat_interleave(count, 0) for n, value in weights.items()}
    alone = images.flatten(0, 1).unsqueeze(1), labels.flatten(0, 1).unsqueeze(1)
    found, _ = gradients_and_buffers(module, of_each, {}, *alone, create_graph)
    return {name: value.unflatten(0, (victims, count)) for name, value in found.items()}


def _batches(local: FedAvg, images: Tensor, labels: Tensor, order: Tensor | None) -> Iterator[tuple[Tensor, Tensor]]:
    """Images ``[V, B, C, H, W]`` and labels ``[V, B, K]`` of each step of all epochs."""
    victims = torch.arange(len(images), device=images.device)[:, None]
    size = local.batch_size or images.shape[1]
    for epoch in range(local.epochs):
        for begin in range(0, images.shape[1], size):
            here = slice(begin, begin + size)
            if order is None:
                yield images[:, here], labels[:, here]
            else:
                rows = order[:, epoch, here].to(images.device)
                yield images[victims, rows], labels[victims, rows]


def moving_buffers(network: Network, victims: int) -> Update:
    """The buffers that train mode may change, for each victim, ``[V, *shape]``."""
    moving = {}
    for name, own in network.module.named_buffers():
        value = network.buffers.get(name, network.parameters.get(name, own)).detach()
        moving[name] = value if value.dim() > own.dim() else value.expand(victims, *own.shape)
    return moving
