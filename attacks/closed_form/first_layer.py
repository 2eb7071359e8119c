"""The first layer, found by what it does: a biased linear layer that the pixels come to one by one.

As with the last layer (:mod:`attacks.network.head`), neither its class nor its name says what ``forward`` makes of it.
So it is taken where it was shown, on random weights and images of this very network, that a client's update of it is
that of a linear layer, and, where an attack needs it, that the rest of the network sees its output through a ReLU.
"""

from collections.abc import Callable, Hashable
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from attacks.base import Observation
from attacks.network.gradients import (
    SAME,
    batch_dims,
    batch_gradients,
    batch_logits,
    call,
    for_each_victim,
    trained_names,
)
from attacks.network.head import features, random_weights
from attacks.network.memory import is_out_of_memory
from defenses.base import Update

IMAGES = 3
"""Random images of each of two clients, on whom a layer is tried."""


@dataclass(frozen=True)
class FirstLayer:
    """Where the pixels of an image come to first.

    Attributes:
        name: of the layer.
        order: which pixel of the flat image each of its inputs is of, ``[D]``.
        rectified: whether the rest of the network sees no more of its output than what a ReLU lets through.
    """

    name: str
    order: Tensor
    rectified: bool

    def gradients(self, update: Update) -> tuple[Tensor, Tensor]:
        """Those of its weight ``[V, N, D]`` and of its bias ``[V, N]``."""
        return update[f"{self.name}.weight"], update[f"{self.name}.bias"]

    def scaling(self, model: nn.Module, parameters: Update, image_shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Factor and offset ``[V, D]``: the layer's inputs are the pixels, in its order, times the one plus the other.

        Args:
            model: the architecture.
            parameters: name -> ``[V, ...]``.
            image_shape: (C, H, W).
        """
        like = parameters[f"{self.name}.weight"]
        ends = torch.stack([torch.zeros(image_shape), torch.ones(image_shape)]).to(like)
        black, white = features(model, self.name, parameters, ends.expand(len(like), *ends.shape)).unbind(1)
        return white - black, black

    def pixels(self, inputs: Tensor) -> Tensor:
        """The layer's inputs ``[..., D]`` in the order of a flat image."""
        return inputs[..., self.order.argsort().to(inputs.device)]


_layers: "WeakKeyDictionary[nn.Module, dict[Hashable, FirstLayer | None]]" = WeakKeyDictionary()
"""What was found for a network and the images and classes that it was asked for."""


def first_layer(model: nn.Module, image_shape: tuple[int, ...]) -> FirstLayer | None:
    """The first trained linear layer with a bias, if each of its inputs is one pixel, scaled and shifted.

    Args:
        model: the architecture.
        image_shape: (C, H, W).

    Returns:
        None where there is none of whom this was shown.
    """
    known = _layers.setdefault(model, {})
    if image_shape not in known:
        known[image_shape] = _find(in_double_precision(model), image_shape)
    return known[image_shape]


def in_double_precision(model: nn.Module) -> nn.Module:
    """A copy of a network in evaluation mode that computes in float64."""
    return deepcopy(model).double().train(False)


def seen_exactly(observation: Observation) -> Observation:
    """What is seen of the victims, whose networks then compute in float64."""

    def exact(values: Update) -> Update:
        return {name: value.double() if value.is_floating_point() else value for name, value in values.items()}

    return replace(
        observation,
        model=in_double_precision(observation.model),
        parameters=exact(observation.parameters),
        update=exact(observation.update),
    )


def _find(model: nn.Module, image_shape: tuple[int, ...]) -> FirstLayer | None:
    trained = set(trained_names(model))
    pixels = torch.Size(image_shape).numel()
    for name, _ in model.named_modules():
        weight, bias = f"{name}.weight", f"{name}.bias"
        if {weight, bias} <= trained and model.get_parameter(weight).shape[1:] == (pixels,):
            try:
                if (found := _shown(model, name, image_shape)) is not None:
                    return found
            except Exception as error:  # whatever a network of the user's raises here: nothing is shown of it
                if is_out_of_memory(error):
                    raise
                continue
    return None


def _shown(model: nn.Module, name: str, image_shape: tuple[int, ...]) -> FirstLayer | None:
    parameters = random_weights(model, 2)
    like = next(iter(parameters.values()))
    generator = torch.Generator().manual_seed(1)
    images = torch.rand((2, IMAGES, *image_shape), generator=generator).to(like)
    logits = batch_logits(model, parameters, images)
    labels = torch.rand(logits.shape, generator=generator).to(like).softmax(-1)

    def same(one: Tensor, other: Tensor) -> bool:
        tolerance = SAME.get(like.dtype, 1e-2)
        return one.shape == other.shape and 0 < float(other.norm()) >= float((one - other).norm()) / tolerance

    weight, bias = parameters[f"{name}.weight"], parameters[f"{name}.bias"]
    inputs = features(model, name, parameters, images)
    order = _order(model, name, parameters, images)
    found = FirstLayer(name, order, rectified=False)
    factor, offset = found.scaling(model, parameters, image_shape)
    if not same(factor[:, None] * images.flatten(2)[..., order.to(like.device)] + offset[:, None], inputs):
        return None
    outputs = torch.einsum("vnd,vod->vno", inputs, weight) + bias[:, None]
    if not same(with_outputs(model, name, parameters, images, lambda _, own: own, outputs), logits):
        return None
    slopes = (logits.softmax(-1) - labels) / IMAGES
    of_outputs = slopes_at_outputs(model, name, parameters, images, slopes)
    of_weight, of_bias = found.gradients(batch_gradients(model, parameters, images, labels, create_graph=False))
    if not same(torch.einsum("vno,vnd->vod", of_outputs, inputs), of_weight) or not same(of_outputs.sum(1), of_bias):
        return None
    rectified = with_outputs(model, name, parameters, images, lambda made, _: made.relu(), outputs)
    return FirstLayer(name, order, rectified=same(rectified, logits))


def _order(model: nn.Module, name: str, parameters: Update, images: Tensor) -> Tensor:
    """Which pixel each input of a layer is of, if each is of one: the product of the Jacobian with a random vector has
    the same entries as that of its row sums, in another order."""
    one, generator = {n: v[:1] for n, v in parameters.items()}, torch.Generator().manual_seed(2)
    black = torch.zeros_like(images[:1, :1])
    row_sums = features(model, name, one, black + 1) - features(model, name, one, black)
    vector = 1 + torch.rand(row_sums.shape, generator=generator).to(images)
    black.requires_grad_()
    with torch.enable_grad():
        product = torch.autograd.grad(features(model, name, one, black), black, vector)[0].flatten()
    return product.argsort()[(vector * row_sums).flatten().argsort().argsort()].cpu()


def with_outputs(
    model: nn.Module,
    layer: str,
    parameters: Update,
    images: Tensor,
    change: Callable[[Tensor, Tensor], Tensor],
    given: Tensor,
) -> Tensor:
    """Logits ``[V, M, K]`` of a network in which a layer's output is another.

    Args:
        model: the architecture.
        layer: its name.
        parameters: name -> ``[V, ...]``, or ``[...]`` where it is the same for all victims.
        images: ``[V, M, C, H, W]``.
        change: from the output ``[M, N]`` of the layer and what is given for this victim to what the rest gets.
        given: ``[V, M, ...]``.
    """

    def of_one(own: Update, more: Update, batch: Tensor) -> Tensor:
        def replace(_: nn.Module, inputs: Any, made: Tensor) -> Tensor:
            return change(made, more["given"])

        handle = model.get_submodule(layer).register_forward_hook(replace)
        try:
            return call(model, own, batch)
        finally:
            handle.remove()

    dims = batch_dims(model, parameters)
    return for_each_victim(model, of_one, parameters, dims, {"given": given}, images)


def slopes_at_outputs(model: nn.Module, layer: str, parameters: Update, images: Tensor, slopes: Tensor) -> Tensor:
    """The slope ``[V, M, N]`` at a layer's output of a loss whose slope at the logits is given, ``[V, M, K]``."""
    width = parameters[f"{layer}.bias"].shape[-1]
    shift = torch.zeros((*images.shape[:2], width), dtype=images.dtype, device=images.device, requires_grad=True)
    with torch.enable_grad():
        logits = with_outputs(model, layer, parameters, images, torch.add, shift)
        return torch.autograd.grad(logits, shift, slopes)[0]
