"""How far what would be shared is from what was: the distances that attacks minimize."""

from collections.abc import Callable

import torch
from torch import Tensor

from attacks.gradients import squared_distance
from defenses.base import Update, flattened, global_norm


def cosine_distance(first: Update, second: Update) -> Tensor:
    """1 minus the cosine of the angle between all parameters together, ``[V]``, from 0 to 2.

    Of Geiping et al. 2020 (arXiv 2003.14053, eq. 4); the size of an update makes no difference.
    """
    product = torch.stack([flattened(value * second[name]).sum(1) for name, value in first.items()]).sum(0)
    sizes = global_norm(first) * global_norm(second)
    return 1 - product / sizes.clamp(min=torch.finfo(sizes.dtype).tiny)


def kernel_distance(first: Update, second: Update) -> Tensor:
    """Mean over the layers of 1 minus a Gaussian kernel of their difference, ``[V]``, from 0 to 1.

    Of Wang et al. 2020 (arXiv 2009.06228). The squared width of a layer's kernel is the squared size of what was
    observed of it, so that each layer counts alike; one of which nothing was observed does not count.
    """
    layers: dict[str, list[str]] = {}
    for name in second:
        layers.setdefault(name.rpartition(".")[0], []).append(name)
    off, width = (
        torch.stack(
            [torch.stack([flattened(of[name]).square().sum(1) for name in names]).sum(0) for names in layers.values()]
        )
        for of in ({name: first[name] - value for name, value in second.items()}, second)
    )
    seen = width > 0
    kernels = 1 - torch.exp(-off / torch.where(seen, width, 1.0))
    return torch.where(seen, kernels, 0.0).sum(0) / seen.sum(0).clamp(min=1)


DISTANCES: dict[str, Callable[[Update, Update], Tensor]] = {
    "squared": squared_distance,
    "cosine": cosine_distance,
    "kernel": kernel_distance,
}
"""By name, functions of two updates ``[V, ...]`` that give ``[V]``."""
