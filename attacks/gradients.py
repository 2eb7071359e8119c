"""The gradient that a client shares, as a differentiable function of its batch, for V clients at once."""

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
