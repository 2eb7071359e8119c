"""The gradient that a client shares, as a differentiable function of its batch, for V clients at once."""

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from defenses.base import Update


def batch_gradients(model: nn.Module, parameters: Update, images: Tensor, labels: Tensor, create_graph: bool) -> Update:
    """Gradients of V independent clients' mean cross entropy with respect to their own parameters.

    The victims share no parameter, so one backward pass of the summed losses gives each victim's own gradient.

    Args:
        model: the architecture.
        parameters: name -> ``[V, ...]``.
        images: ``[V, N, C, H, W]``.
        labels: class probabilities ``[V, N, K]`` (one-hot for hard labels).
        create_graph: keep the graph, so that the result can be differentiated in images and labels.

    Returns:
        name -> ``[V, ...]``.
    """
    leaves = {name: value.detach().requires_grad_() for name, value in parameters.items()}
    logits = vmap(lambda weights, batch: functional_call(model, weights, (batch,)))(leaves, images)
    losses = -(labels * logits.log_softmax(-1)).sum(-1).mean(1)
    gradients = torch.autograd.grad(losses.sum(), list(leaves.values()), create_graph=create_graph)
    return dict(zip(leaves, gradients, strict=True))


def squared_distance(first: Update, second: Update) -> Tensor:
    """Sum over all parameters of the squared differences, ``[V]`` (the DLG objective, arXiv 1906.08935, eq. 4)."""
    return torch.stack([(first[name] - second[name]).flatten(1).square().sum(1) for name in first]).sum(0)


def as_outer_product(model: nn.Module, update: Update) -> tuple[Tensor, Tensor] | None:
    """The last layer's gradient of one image as slope times input, where that is all that it is.

    The gradient of a linear layer's weight is the outer product of the loss's slope at its output, which is the
    gradient of its bias, and of its input: K + F numbers for K x F entries.

    Args:
        model: the architecture.
        update: of V victims with one image each.

    Returns:
        ``[V, K]`` and ``[V, F]``; None where the network is no sequence that ends with a linear layer, or a defense
        has made something else of the gradient.
    """
    layers = list(model.named_children()) if isinstance(model, nn.Sequential) else []
    if not layers or not isinstance(layers[-1][1], nn.Linear) or layers[-1][1].bias is None:
        return None
    weight, slope = (update[f"{layers[-1][0]}.{kind}"] for kind in ("weight", "bias"))
    size = slope.norm(dim=1, keepdim=True).clamp(min=torch.finfo(slope.dtype).tiny)
    inputs = ((slope / size)[:, None] @ weight)[:, 0] / size
    rest = (weight - slope[..., None] * inputs[:, None]).flatten(1).norm(dim=1)
    rounding = 16 * torch.finfo(slope.dtype).eps * weight.flatten(1).norm(dim=1)
    return None if bool((rest > rounding).any()) else (slope, inputs)  # NaN, of a diverged victim, decides nothing


def distance_to_outer_product(
    model: nn.Module, parameters: Update, images: Tensor, labels: Tensor, target: Update, product: tuple[Tensor, Tensor]
) -> Tensor:
    """:func:`squared_distance` of :func:`batch_gradients` to a target whose last layer is an outer product, ``[V]``.

    The same number, but no K x F gradient is made: with s the slope, a the input and d their differences from the
    target, ``|s a^T - s* a*^T|^2 = |ds|^2 |a|^2 + 2 (ds s*)(a da) + |s*|^2 |da|^2``, in which nothing cancels where
    the differences are small.

    Args:
        model: a sequence that ends with a linear layer.
        parameters: name -> ``[V, ...]``.
        images: ``[V, 1, C, H, W]``.
        labels: class probabilities ``[V, 1, K]``.
        target: what is matched, name -> ``[V, ...]``.
        product: of the target, as :func:`as_outer_product` returns it.
    """
    *layers, (last, _) = model.named_children()
    body = nn.Sequential(OrderedDict(layers))
    leaves = {n: v.detach().requires_grad_() for n, v in parameters.items() if not n.startswith(f"{last}.")}
    inputs = vmap(lambda weights, batch: functional_call(body, weights, (batch,)))(leaves, images)[:, 0]
    logits = (parameters[f"{last}.weight"] @ inputs[..., None])[..., 0] + parameters[f"{last}.bias"]
    log_probabilities = logits.log_softmax(-1)
    loss = -(labels[:, 0] * log_probabilities).sum()
    gradients = torch.autograd.grad(loss, list(leaves.values()), create_graph=True)
    true_slope, true_inputs = product
    off = log_probabilities.exp() - labels[:, 0] - true_slope
    inputs_off = inputs - true_inputs
    of_weight = off.square().sum(1) * inputs.square().sum(1) + true_slope.square().sum(1) * inputs_off.square().sum(1)
    of_weight = of_weight + 2 * (off * true_slope).sum(1) * (inputs * inputs_off).sum(1)
    return squared_distance(dict(zip(leaves, gradients, strict=True)), target) + of_weight + off.square().sum(1)
