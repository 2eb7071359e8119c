"""The rank analysis of R-GAP: the equations for a layer's input, where all that comes behind the layer is known.

Zhu and Blaschko 2021 (arXiv 2010.07733), section 3. What comes out of a layer is linear in its input, and so is the
gradient of its weight, since the loss's slope at its output is known.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from attacks.closed_form.chain import Stage
from attacks.network.head import random_images, random_weights
from defenses.base import Update

TRIED = 2
"""Random networks, each with a random image, on which a ReLU is counted."""


def passed(layers: list[Stage], parameters: Update, images: Tensor, labels: Tensor) -> list[tuple[Tensor, Tensor]]:
    """What is at the output of each layer of V networks, each with an image of its own.

    Args:
        layers: first to last.
        parameters: name -> ``[V, ...]``.
        images: ``[V, C, H, W]``.
        labels: class probabilities ``[V, K]``.

    Returns:
        For each layer the slope of the cross entropy at its output ``[V, O, H', W']``, and which entries of the output
        are equations for its input: those that the activation lets through, and none of the last layer, whose output
        the attacker does not know.
    """
    outputs: list[Tensor] = []
    told: list[Tensor] = []
    with torch.enable_grad():
        x = images.detach().requires_grad_()
        for stage in layers:
            out = stage.forward(x.reshape(-1, *stage.shape), stage.kernel(parameters[f"{stage.name}.weight"]))
            out = out + parameters[f"{stage.name}.bias"][..., None, None] if stage.biased else out
            outputs.append(out)
            if stage.activation is None:
                told.append(torch.zeros_like(out, dtype=torch.bool))
                break
            x = stage.activation.forward(out)
            told.append(torch.autograd.grad(x.sum(), out, retain_graph=True)[0] != 0)
        slopes = torch.autograd.grad(-(labels * outputs[-1].flatten(1).log_softmax(-1)).sum(), outputs)
    return list(zip(slopes, told, strict=True))


def check_rank(model: nn.Module, layers: list[Stage], image_shape: tuple[int, ...]) -> None:
    """Looks whether each layer can have as many equations as unknowns, with random weights and images.

    The outputs that a ReLU lets through are counted. The gradient says no more of a channel of the input than it has
    pixels, and no more than there are weights for it: the rank of its equations is the same for each channel.

    Args:
        model: the network.
        layers: its own, first to last.
        image_shape: (C, H, W).

    Raises:
        ValueError: a layer has fewer.
    """
    parameters, images = random_weights(model, TRIED), random_images(model, image_shape, TRIED)[:, 0]
    classes = parameters[f"{layers[-1].name}.weight"].shape[1]
    labels = one_hot(torch.arange(TRIED, device=images.device) % classes, classes).to(images)
    for stage, (_, told) in zip(layers, passed(layers, parameters, images, labels), strict=True):
        channels, unknowns = stage.shape[0], math.prod(stage.shape)
        for_each_channel = parameters[f"{stage.name}.weight"][0].numel() // channels
        equations = int(told.sum()) // TRIED + channels * min(for_each_channel, unknowns // channels)
        if equations < unknowns:
            raise ValueError(
                f"R-GAP cannot solve {type(model).__name__}: its layer {stage.name!r} has about {equations:,} "
                f"equations for {unknowns:,} unknowns, as a ReLU that is 0 gives none (leakboard rank counts them): "
                "choose another attack or start"
            )
