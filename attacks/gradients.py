"""The gradient that a client shares, as a differentiable function of its batch, for V clients at once."""

from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from defenses.base import Update, flattened

_one_by_one: "WeakSet[nn.Module]" = WeakSet()
"""Networks with a layer that torch cannot batch over clients, such as an LSTM."""


def trained_names(model: nn.Module) -> list[str]:
    """The names of the parameters that a client trains and shares: frozen ones are neither."""
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


@contextmanager
def differentiable_twice() -> Iterator[None]:
    """Attention in the form whose gradient has a gradient; the fused forms have none."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def call(model: nn.Module, weights: Update, images: Tensor) -> Tensor:
    """What the network makes of images with these weights in place of its own.

    Each place in a module that holds a tensor is given its value by itself: torch's ``tie_weights`` unties, for good,
    a weight that a module in two places shares with another module.

    Args:
        model: the architecture.
        weights: name -> value, of a tensor in several places under the name that ``named_parameters`` gives it. What is
            not among them is the model's own.
        images: ``[N, C, H, W]``.
    """
    names = {id(tensor): name for name, tensor in (*model.named_parameters(), *model.named_buffers())}
    places = {
        f"{path}.{key}" if path else key: weights[names[id(tensor)]]
        for path, module in model.named_modules()
        for own in (module.named_parameters, module.named_buffers)
        for key, tensor in own(recurse=False, remove_duplicate=False)
        if names.get(id(tensor)) in weights
    }
    return functional_call(model, places, (images,), tie_weights=False)


def batch_logits(model: nn.Module, parameters: Update, images: Tensor) -> Tensor:
    """Logits ``[V, N, K]`` of V batches ``[V, N, C, H, W]``, each through the network with its own weights."""

    def logits(weights: Update, batch: Tensor) -> Tensor:
        return call(model, weights, batch)

    with differentiable_twice():
        if model not in _one_by_one:
            try:
                return vmap(logits)(parameters, images)
            except RuntimeError:  # of a layer without a batching rule, or of the network itself, which says so below
                _one_by_one.add(model)
        rows = [{name: value[row] for name, value in parameters.items()} for row in range(len(images))]
        return torch.stack([logits(weights, batch) for weights, batch in zip(rows, images, strict=True)])


def batch_gradients(model: nn.Module, parameters: Update, images: Tensor, labels: Tensor, create_graph: bool) -> Update:
    """Gradients of V independent clients' mean cross entropy with respect to their own parameters.

    The victims share no parameter, so one backward pass of the summed losses gives each victim's own gradient.

    Args:
        model: the architecture; what is frozen in it is not differentiated.
        parameters: name -> ``[V, ...]``.
        images: ``[V, N, C, H, W]``.
        labels: class probabilities ``[V, N, K]`` (one-hot for hard labels).
        create_graph: keep the graph, so that the result can be differentiated in images and labels.

    Returns:
        name -> ``[V, ...]`` of the trained parameters; zeros for one that the logits do not depend on.
    """
    wanted = set(trained_names(model))
    leaves = {name: value.detach().requires_grad_(name in wanted) for name, value in parameters.items()}
    losses = -(labels * batch_logits(model, leaves, images).log_softmax(-1)).sum(-1).mean(1)
    names = [name for name in leaves if name in wanted]
    gradients = torch.autograd.grad(
        losses.sum(), [leaves[name] for name in names], create_graph=create_graph, materialize_grads=True
    )
    return dict(zip(names, gradients, strict=True))


def squared_distance(first: Update, second: Update) -> Tensor:
    """Sum over all parameters of the squared differences, ``[V]`` (the DLG objective, arXiv 1906.08935, eq. 4)."""
    return torch.stack([flattened(first[name] - second[name]).square().sum(1) for name in first]).sum(0)
