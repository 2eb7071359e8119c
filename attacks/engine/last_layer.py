"""The last linear layer of a network, whose gradient has a row for each class, and what comes into it."""

from dataclasses import replace
from itertools import repeat
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from attacks.base import Observation
from attacks.engine.rounds import mean_of, pooled
from attacks.network.gradients import SAME, batch_logits, in_modes, trained_names
from attacks.network.head import features, random_images, random_weights
from attacks.network.memory import is_out_of_memory
from attacks.update import FedAvg
from defenses.base import flattened

TRIED = 16
"""Random networks and images on which it is looked what comes into the layer."""

ROUNDING = 0.01
"""How far off a column may be, in parts of the largest entry, where nothing was done to an update."""

_found: "WeakKeyDictionary[nn.Module, dict[Any, tuple[str, bool] | None]]" = WeakKeyDictionary()


def last_layer(model: nn.Module, image_shape: tuple[int, ...]) -> tuple[str, bool] | None:
    """The trained linear layer that makes the logits, and whether what comes into it is never negative.

    Both are seen on random weights and images of this very network.

    Args:
        model: the architecture.
        image_shape: (C, H, W).

    Returns:
        The layer's name, and whether its input was at least 0 everywhere; None where there is no such layer.
    """
    known = _found.setdefault(model, {})
    if image_shape not in known:
        try:
            with in_modes(model, repeat(False)):
                known[image_shape] = _find(model, image_shape)
        except Exception as error:  # of a network of the user's, which the rehearsal tells in a sentence
            if is_out_of_memory(error):
                raise
            known[image_shape] = None
    return known[image_shape]


def _find(model: nn.Module, image_shape: tuple[int, ...]) -> tuple[str, bool] | None:
    weights, images = random_weights(model, TRIED), random_images(model, image_shape, TRIED)
    logits = batch_logits(model, weights, images)
    tolerance = SAME.get(images.dtype, 1e-2)
    for name, layer in reversed(list(model.named_modules())):
        weight = getattr(layer, "weight", None)
        if not isinstance(weight, nn.Parameter) or f"{name}.weight" not in trained_names(model):
            continue
        if weight.dim() != 2 or len(weight) != logits.shape[-1]:
            continue
        try:
            inputs = features(model, name, weights, images)
            made = torch.einsum("vkf,vnf->vnk", weights[f"{name}.weight"], inputs)
        except Exception as error:  # whatever a network of the user's raises here: this is not the layer
            if is_out_of_memory(error):
                raise
            continue
        if f"{name}.bias" in weights:
            made = made + weights[f"{name}.bias"][:, None]
        if torch.allclose(made, logits, rtol=tolerance, atol=tolerance):
            return name, bool((inputs >= 0).all())
    return None


def gradient_of_weight(observation: Observation) -> Tensor:
    """The gradient ``[V, K, F]`` of the weight of the last layer, as far as the updates tell it, finite.

    Of several rounds it is that of the first where nothing was done to it, else their mean.
    """
    return _gradient(observation, "weight")


def gradient_of_bias(observation: Observation) -> Tensor:
    """The gradient ``[V, K]`` of its bias, likewise."""
    return _gradient(observation, "bias")


def off_columns(observation: Observation) -> Tensor:
    """How far the rows of the last layer's gradient are from 0 together, in the column where they are most, ``[V]``.

    Those of a true gradient add up to 0, as probabilities do to 1, and so do those of a sum of such gradients.
    """
    return last_rows(observation).sum(1).abs().amax(1)


def last_rows(observation: Observation) -> Tensor:
    """The gradient ``[V, K, F + 1]`` of the last layer, whose last column is that of its bias where it is trained."""
    weight = gradient_of_weight(observation)
    if f"{_name(observation)}.bias" not in trained_names(observation.model):
        return weight
    return torch.cat([weight, gradient_of_bias(observation)[..., None]], 2)


def lost_heads(observation: Observation) -> Tensor:
    """Whether nothing of the last layer was shared in a round, as far as the attacker knows the defense, bool ``[V]``.

    Then what a rule reads there tells no label. Of a network that ends otherwise it is what has a row for each class;
    where nothing has, nothing is known to be lost.
    """
    lost = torch.ones(observation.num_victims, dtype=torch.bool, device=observation.device)
    if observation.defense is None:
        return torch.zeros_like(lost)
    is_found = False
    found, kept = last_layer(observation.model, observation.image_shape[1:]), observation.defense.kept_entries
    for name, value in kept(pooled(observation).update).items():
        is_head = name.rpartition(".")[0] == found[0] if found else value.shape[1:2] == (observation.num_classes,)
        if is_head:
            is_found = True
            lost &= ~flattened(value != 0).any(1)
    return lost & is_found


def parameters_of(observation: Observation) -> tuple[Tensor, Tensor]:
    """Weight ``[V, K, F]`` and bias ``[V, K]`` of the last layer."""
    name = _name(observation)
    return observation.own_networks[f"{name}.weight"], observation.own_networks[f"{name}.bias"]


def _name(observation: Observation) -> str:
    found = last_layer(observation.model, observation.image_shape[1:])
    assert found is not None  # as the check before any work has seen
    return found[0]


def _gradient(observation: Observation, kind: str) -> Tensor:
    name = f"{_name(observation)}.{kind}"
    shared = mean_of(observation, name)
    if observation.later:  # the equations of a rule hold in each round by itself, for its own network
        first = replace(observation, later=())
        largest = gradient_of_weight(first).abs().amax((1, 2))  # 0 where nothing was shared, or nothing finite
        exact = (off_columns(first) <= ROUNDING * largest) & (largest > 0)
        shared = torch.where(exact.view(-1, *[1] * (shared.dim() - 1)), observation.update[name], shared)
    local = observation.protocol.local
    shared = shared.nan_to_num(0, 0, 0)
    return shared / length(local, observation.image_shape[0]) if local else shared


def length(local: FedAvg, images: int) -> float:
    """How far the steps of a client lead where its gradient is 1 everywhere, so that an update is a mean gradient."""
    batches = -(-images // (local.batch_size or images))
    speed = way = 0.0
    for _ in range(local.epochs * batches):
        speed = local.momentum * speed + 1
        way += local.learning_rate * speed
    return way
