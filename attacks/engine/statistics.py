"""Mean and variance of a batch at each BatchNorm: what they are of dummy images, and how far from the granted ones."""

from collections.abc import Iterator
from itertools import repeat

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from attacks.network.gradients import batch_dims, call, for_each_victim, in_modes
from attacks.update import Network, moving_buffers
from defenses.base import Update, flattened


def normalizing(model: nn.Module) -> Iterator[tuple[str, _BatchNorm]]:
    """The BatchNorm layers that have running statistics, by their names."""
    for name, layer in model.named_modules():
        if isinstance(layer, _BatchNorm) and layer.running_mean is not None:
            yield name, layer


def batch_statistics(network: Network, train: bool, images: Tensor) -> Update:
    """Mean and variance of V batches at each BatchNorm, differentiable in the images.

    Args:
        network: that the batches go through.
        train: whether it is in train mode, where what comes to a layer was normalized by the batch, too.
        images: ``[V, N, C, H, W]``.

    Returns:
        Name of the layer's running mean or variance -> ``[V, F]``; the variance is that of the batch itself, which
        divides by its size.
    """
    module = network.module
    moving = moving_buffers(network, len(images)) if train else {}
    weights = network.parameters | network.buffers

    def of_one(own: Update, start: Update, batch: Tensor) -> Update:
        found: Update = {}

        def keep(layer: str, inputs: Tensor) -> None:
            features = inputs.transpose(0, 1).flatten(1)
            found[f"{layer}.running_mean"] = features.mean(1)
            found[f"{layer}.running_var"] = features.var(1, unbiased=False)

        handles = [
            layer.register_forward_pre_hook(lambda _, inputs, name=name: keep(name, inputs[0]))
            for name, layer in normalizing(module)
        ]
        try:
            call(module, own | {name: value.clone() for name, value in start.items()}, batch)
        finally:
            for handle in handles:
                handle.remove()
        return found

    with in_modes(module, repeat(train)):
        return for_each_victim(module, of_one, weights, batch_dims(module, weights), moving, images)


def distance_of_statistics(found: Update, granted: Update) -> Tensor:
    """Sum over the layers of the squared distances of means and of variances, ``[V]`` (Yin et al. 2021, eq. 9)."""
    return torch.stack([flattened(value - granted[name]).square().sum(1) for name, value in found.items()]).sum(0)
