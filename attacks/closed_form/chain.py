"""A network as R-GAP sees it: a chain of linear layers with activations between them, found by what it does."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_input, conv2d_weight

from attacks.network.gradients import SAME, batch_logits, trained_names
from attacks.network.head import random_images, random_weights

NOISE = 4.0
"""An output of a ReLU that is larger than this many times the largest error is taken for one that is not 0."""


@dataclass(frozen=True)
class Activation:
    """An activation, and as a function of what comes out of it: its input, its slope, and what can come out of it."""

    forward: Callable[[Tensor], Tensor]
    inverse: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]
    low: float
    high: float


SIGMOID = Activation(torch.sigmoid, torch.logit, lambda a: a * (1 - a), 1e-6, 1 - 1e-6)


def above_noise(a: Tensor) -> Tensor:
    """1 where a ReLU let its input through, else 0: what comes out of one is never negative, so that the most negative
    entry says how far off all are."""
    each = a.flatten(1)
    noise = torch.maximum(-NOISE * each.amin(1), 1e-9 * each.amax(1))
    return (a > noise.view(-1, *[1] * (a.dim() - 1))).to(a)


RELU = Activation(torch.relu, lambda a: a, above_noise, -torch.inf, torch.inf)


def leaky_relu(slope: float) -> Activation:
    """A leaky ReLU, which loses nothing: where its output is negative, so was its input."""
    return Activation(
        lambda x: F.leaky_relu(x, slope),
        lambda a: torch.where(a > 0, a, a / slope),
        lambda a: torch.where(a > 0, torch.ones_like(a), slope),
        -torch.inf,
        torch.inf,
    )


def activation_of(module: nn.Module) -> Activation | None:
    """What R-GAP knows of a module as an activation; None where it cannot be inverted or is none."""
    if type(module) is nn.LeakyReLU and module.negative_slope > 0:
        return leaky_relu(module.negative_slope)
    return {nn.Sigmoid: SIGMOID, nn.ReLU: RELU}.get(type(module))


@dataclass(frozen=True)
class Stage:
    """A linear layer as a convolution (a dense one has a single pixel), and the activation behind it.

    Attributes:
        name: of the layer, before ``.weight``.
        shape: of its input, (C, H, W).
        stride, padding, dilation: as in ``torch.nn.Conv2d``.
        activation: None behind the last layer.
        biased: whether it has a bias.
    """

    name: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    activation: Activation | None
    biased: bool = True

    def kernel(self, weight: Tensor) -> Tensor:
        """``[V, O, C, h, w]``."""
        return weight if weight.dim() == 5 else weight[..., None, None]

    def forward(self, inputs: Tensor, kernel: Tensor) -> Tensor:
        """The layer without its bias for V inputs ``[V, C, H, W]``, each with a kernel of its own."""
        joined, kernels = together(inputs), kernel.flatten(0, 1)
        out = F.conv2d(joined, kernels, None, self.stride, self.padding, self.dilation, len(inputs))
        return out.unflatten(1, kernel.shape[:2])[0]

    def backward(self, outputs: Tensor, kernel: Tensor) -> Tensor:
        """The transpose of :meth:`forward` in the inputs, ``[V, C, H, W]``."""
        victims, joined, kernels = len(outputs), together(outputs), kernel.flatten(0, 1)
        size = (1, victims * self.shape[0], *self.shape[1:])
        gradient = conv2d_input(size, kernels, joined, self.stride, self.padding, self.dilation, victims)
        return gradient.view(victims, *self.shape)

    def kernel_gradient(self, inputs: Tensor, slope: Tensor, like: Tensor) -> Tensor:
        """The transpose of :meth:`forward` in the kernel, ``[V, O, C, h, w]`` as ``like``: linear in the inputs.

        ``slope`` is the loss's at the layer's output.
        """
        victims, joined, slopes, size = len(inputs), together(inputs), together(slope), like.flatten(0, 1).shape
        gradient = conv2d_weight(joined, size, slopes, self.stride, self.padding, self.dilation, victims)
        return gradient.view_as(like)


def together(batch: Tensor) -> Tensor:
    """V images as the channels of a single one, for convolutions in V groups."""
    return batch.reshape(1, -1, *batch.shape[2:])


def stages(model: nn.Module, image_shape: tuple[int, ...]) -> list[Stage]:
    """The linear layers of a network, first to last.

    They are taken in the order in which they run on an image, and one after the other must give, with random weights,
    what the network itself gives: a layer that is used twice, a shortcut, or a normalization anywhere is no such chain.

    Raises:
        ValueError: the network is not a chain of convolutions, linear layers, sigmoids, ReLU and leaky ReLU that ends
            with a linear layer.
    """
    found = chain(model, image_shape)
    if not found or not is_chain(model, found, image_shape):
        raise ValueError(
            "R-GAP solves a chain of convolutions and linear layers, each but the last followed by a sigmoid, a ReLU "
            f"or a leaky ReLU, which {type(model).__name__} is not: choose another attack or start"
        )
    return found


def chain(model: nn.Module, image_shape: tuple[int, ...]) -> list[Stage]:
    """The layers as they run; empty where they are of other kinds."""
    ran: list[tuple[nn.Module, tuple[int, ...]]] = []
    leaves = [module for module in model.modules() if not any(True for _ in module.children())]
    handles = [
        leaf.register_forward_hook(lambda module, inputs, _: ran.append((module, tuple(inputs[0].shape[1:]))))
        for leaf in leaves
    ]
    try:
        with torch.no_grad():
            model(random_images(model, image_shape, 1)[0])
    finally:
        for handle in handles:
            handle.remove()
    names = {id(module): name for name, module in model.named_modules()}
    found: list[Stage] = []
    pending: list[Activation] = []
    for layer, shape in reversed(ran):  # a layer's activation comes after it
        if activation := activation_of(layer):
            pending.append(activation)
        elif isinstance(layer, nn.Linear | nn.Conv2d) and len(pending) == bool(found):
            size, behind = shape if len(shape) == 3 else (*shape, 1, 1), pending.pop() if pending else None
            found.insert(0, Stage(names[id(layer)], size, *geometry(layer), behind, layer.bias is not None))
        elif not isinstance(layer, nn.Flatten | nn.Identity):
            return []
    ends_well = bool(ran) and isinstance(ran[-1][0], nn.Linear) and not pending
    shared = [f"{stage.name}.{kind}" for stage in found for kind in ("weight", "bias")[: 1 + stage.biased]]
    return found if ends_well and sorted(shared) == sorted(trained_names(model)) else []


def is_chain(model: nn.Module, layers: list[Stage], image_shape: tuple[int, ...]) -> bool:
    """Whether the layers, one after the other, give the logits of the network, with random weights."""
    parameters, images = random_weights(model, 2), random_images(model, image_shape, 2)
    x = images[:, 0]
    for stage in layers:
        kernel = stage.kernel(parameters[f"{stage.name}.weight"])
        if x[0].numel() != math.prod(stage.shape):
            return False
        x = stage.forward(x.reshape(-1, *stage.shape), kernel)
        x = x + parameters[f"{stage.name}.bias"][..., None, None] if stage.biased else x
        x = stage.activation.forward(x) if stage.activation else x
    logits, tolerance = batch_logits(model, parameters, images)[:, 0], SAME.get(x.dtype, 1e-2)
    return x.flatten(1).shape == logits.shape and torch.allclose(x.flatten(1), logits, rtol=tolerance, atol=tolerance)


def geometry(layer: nn.Linear | nn.Conv2d) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Stride, padding and dilation; those of a dense layer are a convolution's that sees one pixel."""
    if isinstance(layer, nn.Linear):
        return (1, 1), (0, 0), (1, 1)
    if layer.groups != 1 or isinstance(layer.padding, str) or layer.padding_mode != "zeros":
        raise ValueError("R-GAP solves convolutions without groups, with zeros as padding given as a number")
    return layer.stride, layer.padding, layer.dilation


def is_plain(layers: list[Stage]) -> bool:
    """Whether all layers have biases and no activation is leaky: such a network is tried, however few equations its
    ReLU leave."""
    return all(layer.biased and layer.activation in (SIGMOID, RELU, None) for layer in layers)
