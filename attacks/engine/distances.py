"""How far what would be shared is from what was: the distances that attacks minimize."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from attacks.network.gradients import squared_distance
from defenses.base import Update, flattened, global_norm


def cosine_distance(first: Update, second: Update) -> Tensor:
    """1 minus the cosine of the angle between all parameters together, ``[V]``, from 0 to 2.

    Of Geiping et al. 2020 (arXiv 2003.14053, eq. 4); the size of an update makes no difference.
    """
    found = [RowProducts.apply(flattened(value), flattened(second[name])) for name, value in first.items()]
    products, squares = (torch.stack(parts).sum(0) for parts in zip(*found, strict=True))
    sizes = squares.sqrt() * global_norm(second)
    return 1 - products / sizes.clamp(min=torch.finfo(sizes.dtype).tiny)


class RowProducts(torch.autograd.Function):
    """The products of rows ``[V, D]`` with others, and with themselves, ``[V]`` each.

    The slopes of both are written at once: on a GPU, updates of a deep network are slow to read and write.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(rows, others)
        return (rows * others).sum(1), rows.square().sum(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, Tensor | None]:
        (rows, others), (of_products, of_squares) = ctx.saved_tensors, (slope[:, None] for slope in slopes)
        in_others = of_products * rows if ctx.needs_input_grad[1] else None
        return torch.addcmul(of_products * others, 2 * of_squares, rows), in_others


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


def absolute_distance(first: Update, second: Update) -> Tensor:
    """Sum over all parameters of the absolute differences, ``[V]``: the likelihood under Laplace noise.

    Of Balunovic et al. 2022 (arXiv 2111.04706).
    """
    return torch.stack([flattened(first[name] - second[name]).abs().sum(1) for name in first]).sum(0)


DISTANCES: dict[str, Callable[[Update, Update], Tensor]] = {
    "squared": squared_distance,
    "cosine": cosine_distance,
    "kernel": kernel_distance,
    "absolute": absolute_distance,
}
"""By name, functions of two updates ``[V, ...]`` that give ``[V]``."""
