"""Convolutions of many networks at once as products of matrices, which a GPU does in a few large kernels."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.overrides import TorchFunctionMode

BY_PRODUCTS = {"cuda"}
"""Types of devices where convolutions of many victims are products. Otherwise those that each victim has weights of its
own in, or gradients, are of as many groups as there are victims, for each of which a GPU runs kernels of a few
microseconds; on a CPU that is the faster way."""


@contextmanager
def suited_to(device: torch.device) -> Iterator[None]:
    """Convolutions inside are done in the way that suits the device."""
    if device.type in BY_PRODUCTS:
        with Products():
            yield
    else:
        yield


class Products(TorchFunctionMode):
    """Inside, two-dimensional convolutions without groups or dilation are computed by :func:`product`."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.conv2d and fits(*args, **(kwargs or {})):
            return product(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def fits(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> bool:
    """Whether :func:`product` takes such a convolution; it has the arguments of ``torch.conv2d``."""
    return groups == 1 and input.dim() == 4 and not isinstance(padding, str) and pair(dilation) == (1, 1)


def product(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    """``torch.conv2d`` as the product of the kernels and the patches of the input under them.

    Args:
        input: ``[N, C, H, W]``.
        weight: ``[O, C, P, Q]``.
        bias: ``[O]``.
        stride: of rows and of columns.
        padding: likewise.
        dilation: 1.
        groups: 1.

    Returns:
        ``[N, O, H', W']``.
    """
    (above, left), (height, width) = pair(padding), weight.shape[2:]
    padded = pad(input, (left, left, above, above)) if above or left else input
    patches = Patches.apply(padded, (height, width), pair(stride))
    made = (weight.flatten(1) @ patches.flatten(3).flatten(0, 2)).unflatten(-1, patches.shape[3:]).transpose(0, 1)
    return made if bias is None else made + bias[:, None, None]


Two = tuple[int, int]
"""Of rows and of columns."""


class Patches(torch.autograd.Function):
    """What of images ``[..., N, C, H, W]`` lies under each place of a kernel, ``[..., C, P, Q, N, H', W']``.

    torch's own ``unfold`` starts a kernel for each image, or for each victim where it is differentiated under vmap.
    """

    @staticmethod
    def forward(images: Tensor, size: Two, stride: Two) -> Tensor:
        parts = images.unfold(-2, size[0], stride[0]).unfold(-2, size[1], stride[1])  # [..., N, C, H', W', P, Q]
        return parts.movedim((-5, -2, -1, -6), (-6, -5, -4, -3)).contiguous()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Two, Two], output: Tensor) -> None:
        images, ctx.size, ctx.stride = inputs
        ctx.whole = (images.shape[-2], images.shape[-1])

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None, None]:
        return Sums.apply(slopes[0], ctx.whole, ctx.stride), None, None

    @staticmethod
    def vmap(info: Any, dims: tuple[int, None, None], images: Tensor, size: Two, stride: Two) -> tuple[Tensor, int]:
        return Patches.apply(images.movedim(dims[0], 0), size, stride), 0


class Sums(torch.autograd.Function):
    """Images ``[..., N, C, H, W]`` in which patches are added up where they lie: the transpose of :class:`Patches`."""

    @staticmethod
    def forward(patches: Tensor, whole: Two, stride: Two) -> Tensor:
        parts = patches.movedim((-6, -5, -4, -3), (-5, -2, -1, -6))
        *first, down, _, height, width = parts.shape
        rows = [*first, down, whole[1], height]
        in_rows = torch.ops.aten.unfold_backward(parts, rows, len(rows) - 2, width, stride[1])
        return torch.ops.aten.unfold_backward(in_rows, [*first, *whole], len(first), height, stride[0])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Two, Two], output: Tensor) -> None:
        patches, _, ctx.stride = inputs
        ctx.size = (patches.shape[-5], patches.shape[-4])

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None, None]:
        return Patches.apply(slopes[0], ctx.size, ctx.stride), None, None

    @staticmethod
    def vmap(info: Any, dims: tuple[int, None, None], patches: Tensor, whole: Two, stride: Two) -> tuple[Tensor, int]:
        return Sums.apply(patches.movedim(dims[0], 0), whole, stride), 0


def pair(value: int | Sequence[int]) -> tuple[int, int]:
    """That of rows and that of columns."""
    return (value, value) if isinstance(value, int) else (value[0], value[-1])
