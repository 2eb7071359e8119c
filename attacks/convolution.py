"""Convolutions of many networks at once as products of matrices, which a GPU does in a few large kernels."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.overrides import TorchFunctionMode

BY_PRODUCTS = {"cuda"}
"""Types of devices where a convolution of each victim's own weights is a product. Otherwise it is one of as many groups
as there are victims, for each of which a GPU runs kernels of a few microseconds; on a CPU that is the faster way."""


@contextmanager
def suited_to(device: torch.device, own_weights: bool) -> Iterator[None]:
    """Convolutions inside are done in the way that suits the device.

    Args:
        device: of the networks.
        own_weights: whether each victim has weights of its own.
    """
    if own_weights and device.type in BY_PRODUCTS:
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
    (down, right), (above, left) = pair(stride), pair(padding)
    padded = pad(input, (left, left, above, above)) if above or left else input
    # As views: torch.nn.functional.unfold starts a kernel for each image.
    patches = padded.unfold(2, weight.shape[2], down).unfold(3, weight.shape[3], right)  # [N, C, H', W', P, Q]
    columns = patches.permute(0, 1, 4, 5, 2, 3).reshape(len(input), weight[0].numel(), -1)
    made = weight.flatten(1) @ columns
    if bias is not None:
        made = made + bias[:, None]
    return made.unflatten(-1, (patches.shape[2], -1))


def pair(value: int | Sequence[int]) -> tuple[int, int]:
    """That of rows and that of columns."""
    return (value, value) if isinstance(value, int) else (value[0], value[-1])
