"""The last layer, found by what it does: the one that produces the logits.

What a layer is called, where it is registered and which class it has tells nothing of what `forward` makes of it: a
network may use a layer twice, normalize in `forward` or in a hook, or divide its logits by a temperature. So whatever
takes a shortcut through a network takes it where it was shown, on random weights and inputs of this very network, to
give the network's own result.
"""

from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.func import vmap

from attacks.network.convolution import suited_to
from attacks.network.gradients import (
    SAME,
    batch_gradients,
    batch_logits,
    call,
    differentiable_twice,
    squared_distance,
    trained_names,
)
from attacks.network.memory import is_out_of_memory
from defenses.base import Update


def random_weights(model: nn.Module, networks: int, seed: int = 0) -> Update:
    """Weights of some networks at random, name -> ``[V, ...]``, the same for the same architecture and seed.

    They are no larger than usual ones, and none of them is zero, as they are in some initializations: whatever a layer
    does can be seen.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = {}
    for name, p in model.named_parameters():
        noise = torch.randn((networks, *p.shape), generator=generator)
        size = p[0].numel() ** -0.5 if p.dim() > 1 else 0.1
        drawn[name] = (size * noise + (0 if p.dim() > 1 else p.detach().cpu().float())).to(p)
    return drawn


def random_images(model: nn.Module, image_shape: tuple[int, ...], victims: int) -> Tensor:
    """Batches of one image each, uniform in [0, 1], ``[V, 1, C, H, W]``."""
    generator = torch.Generator().manual_seed(1)
    return torch.rand((victims, 1, *image_shape), generator=generator).to(next(model.parameters()))


class _Reached(Exception):
    """The forward pass has come to the layer."""


def features(model: nn.Module, layer: str, parameters: Update, images: Tensor) -> Tensor:
    """What comes into a layer, ``[V, N, F]``, of V batches, each through the network with its own weights.

    Args:
        model: the architecture.
        layer: name of the layer; the forward pass ends there.
        parameters: name -> ``[V, ...]``.
        images: ``[V, N, C, H, W]``.
    """

    def up_to_it(weights: Update, batch: Tensor) -> Tensor:
        held: list[Tensor] = []

        def hold(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            held.append(inputs[0])
            raise _Reached

        handle = model.get_submodule(layer).register_forward_pre_hook(hold)
        try:
            call(model, weights, batch)
        except _Reached:
            return held[0]
        finally:
            handle.remove()
        raise ValueError(f"the forward pass does not come to {layer}")

    with differentiable_twice(), suited_to(images.device):
        return vmap(up_to_it)(parameters, images)


_heads: "WeakKeyDictionary[nn.Module, dict[Any, str | None]]" = WeakKeyDictionary()
"""What was found for a network and the images and classes that it was asked for."""


def linear_head(model: nn.Module, image_shape: tuple[int, ...], num_classes: int) -> str | None:
    """The layer with weight ``[K, F]`` and bias ``[K]`` that makes the logits, and its features make nothing else.

    Args:
        model: the architecture.
        image_shape: (C, H, W).
        num_classes: K.

    Returns:
        Its name; None where there is none for which :func:`distance_to_outer_product` and its slope in the image were
        shown to be those of the network itself.
    """
    known = _heads.setdefault(model, {})
    asked = (image_shape, num_classes)
    if asked not in known:
        known[asked] = _find_head(model, image_shape, num_classes)
    return known[asked]


def _find_head(model: nn.Module, image_shape: tuple[int, ...], num_classes: int) -> str | None:
    trained = set(trained_names(model))
    for name, _ in reversed(list(model.named_modules())):
        weight, bias = f"{name}.weight", f"{name}.bias"
        if {weight, bias} <= trained and model.get_parameter(weight).shape[:1] == (num_classes,):
            try:
                if _is_shown(model, name, image_shape, num_classes):
                    return name
            except Exception as error:  # whatever a network of the user's raises here: there is no shortcut through it
                if is_out_of_memory(error):
                    raise
                continue
    return None


def _is_shown(model: nn.Module, layer: str, image_shape: tuple[int, ...], num_classes: int) -> bool:
    parameters, images = random_weights(model, 2), random_images(model, image_shape, 2)
    labels = torch.rand(2, 1, num_classes, generator=torch.Generator().manual_seed(2)).to(images).softmax(-1)
    target = batch_gradients(model, parameters, images.flip(-1), labels.flip(0), create_graph=False)
    slope, inputs = as_outer_product(layer, target)
    logits = batch_logits(model, parameters, images)
    made = torch.einsum("vkf,vnf->vnk", parameters[f"{layer}.weight"], features(model, layer, parameters, images))
    tolerance = SAME.get(images.dtype, 1e-2)
    if not torch.allclose(made + parameters[f"{layer}.bias"][:, None], logits, rtol=tolerance, atol=tolerance):
        return False
    at = images.clone().requires_grad_()
    plain = squared_distance(batch_gradients(model, parameters, at, labels, create_graph=True), target)
    short = distance_to_outer_product(model, layer, parameters, at, labels, target, (slope, inputs))
    pairs = [(plain, short), (torch.autograd.grad(plain.sum(), at)[0], torch.autograd.grad(short.sum(), at)[0])]
    return all(bool((one - other).norm() <= tolerance * one.norm()) for one, other in pairs)


def as_outer_product(layer: str, update: Update) -> tuple[Tensor, Tensor]:
    """The last layer's gradient of one image as slope times input.

    The gradient of a linear layer's weight is the outer product of the loss's slope at its output, which is the
    gradient of its bias, and of its input: K + F numbers for K x F entries.

    Args:
        layer: name of the last layer.
        update: of V victims with one image each.

    Returns:
        ``[V, K]`` and ``[V, F]``, whose product is the gradient where :func:`is_outer_product` says so.
    """
    weight, slope = update[f"{layer}.weight"], update[f"{layer}.bias"]
    size = slope.norm(dim=1, keepdim=True).clamp(min=torch.finfo(slope.dtype).tiny)
    return slope, ((slope / size)[:, None] @ weight)[:, 0] / size


def is_outer_product(layer: str, update: Update, product: tuple[Tensor, Tensor]) -> Tensor:
    """Whether the last layer's gradient is that product and nothing else, ``[V]``: no defense has changed it."""
    weight, (slope, inputs) = update[f"{layer}.weight"], product
    rest = (weight - slope[..., None] * inputs[:, None]).flatten(1).norm(dim=1)
    rounding = 16 * torch.finfo(slope.dtype).eps * weight.flatten(1).norm(dim=1)
    return ~(rest > rounding)  # NaN, of a victim whose update is not finite, decides nothing


def distance_to_outer_product(
    model: nn.Module,
    layer: str,
    parameters: Update,
    images: Tensor,
    labels: Tensor,
    target: Update,
    product: tuple[Tensor, Tensor],
) -> Tensor:
    """The squared distance of the victims' gradients to a target whose last layer is an outer product, ``[V]``.

    The same number as by the network's own gradient, but no K x F gradient is made: with s the slope, a the input and d
    their differences from the target, ``|s a^T - s* a*^T|^2 = |ds|^2 |a|^2 + 2 (ds s*)(a da) + |s*|^2 |da|^2``, in
    which nothing cancels where the differences are small.

    Args:
        model: the architecture.
        layer: name of its last layer, as :func:`linear_head` finds it.
        parameters: name -> ``[V, ...]``.
        images: ``[V, 1, C, H, W]``.
        labels: class probabilities ``[V, 1, K]``.
        target: what is matched, name -> ``[V, ...]``.
        product: of the target, as :func:`as_outer_product` returns it.
    """
    ends = (f"{layer}.weight", f"{layer}.bias")
    trained = set(trained_names(model)) - set(ends)
    leaves = {name: value.detach().requires_grad_(name in trained) for name, value in parameters.items()}
    inputs = features(model, layer, leaves, images)[:, 0]
    logits = (parameters[ends[0]] @ inputs[..., None])[..., 0] + parameters[ends[1]]
    log_probabilities = logits.log_softmax(-1)
    loss = -(labels[:, 0] * log_probabilities).sum()
    names = [name for name in leaves if name in trained]
    gradients = torch.autograd.grad(loss, [leaves[name] for name in names], create_graph=True, materialize_grads=True)
    true_slope, true_inputs = product
    off = log_probabilities.exp() - labels[:, 0] - true_slope
    inputs_off = inputs - true_inputs
    of_weight = off.square().sum(1) * inputs.square().sum(1) + true_slope.square().sum(1) * inputs_off.square().sum(1)
    of_weight = of_weight + 2 * (off * true_slope).sum(1) * (inputs * inputs_off).sum(1)
    return squared_distance(dict(zip(names, gradients, strict=True)), target) + of_weight + off.square().sum(1)
