"""What every data set must keep to, built in or a user's own: checked where a split is opened and images leave it.

Scores, attacks and the threshold of 20 dB all take pixels in [0, 1] and labels in 0 to K - 1 for granted: images that
were normalized, say, would be found by the attack and scored as if they had not.
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from datamodules.errors import DataError, blaming, name_of
from datamodules.split import Split, TensorSplit

if TYPE_CHECKING:
    from datamodules.base import PrivateData

_LOOKED_AT = 256  # images of bytes whose range is looked at; that of floats is looked at whole


def check_split(data: PrivateData, split: Any, train: bool) -> Split:
    """A split that keeps to the contract.

    Labels of other integer types become int64, pixels of other floats float32: nothing is lost. Everything else is
    refused. Of images in memory floats are looked at whole, and of bytes the first few hundred; images that are decoded
    later are looked at when they leave the split.

    Args:
        data: whose split it is; sets `num_classes` and `image_shape`.
        split: what `load` returned.
        train: whether these are the public images.

    Returns:
        The split.

    Raises:
        DataError: what is wrong and what to do.
    """
    with blaming(data, "load"):
        return _checked_split(data, split, train)


def _checked_split(data: PrivateData, split: Any, train: bool) -> Split:
    name = name_of(data)
    where = f"{name} (the {'public' if train else 'private'} ones)"
    if not isinstance(split, Split):
        raise DataError(
            f"{name}.load must return a Split, such as datamodules.base.TensorSplit(pixels, labels), not {_kind(split)}"
        )
    _check_declared(data)
    labels = integers(split.labels, f"the labels of {where}")
    if labels.ndim != 1:
        one = labels.shape[1:].numel() == 1
        do = "flatten them" if one else "give the class of each image, as argmax(1) does for one-hot rows"
        raise DataError(f"the labels of {where} are of shape {list(labels.shape)}, not [n]: {do}")
    count = len(split)
    if type(split) is TensorSplit:  # what a subclass gives is looked at when it leaves the split
        count = len(split.pixels) if isinstance(split.pixels, Tensor) and split.pixels.ndim else count
        split.pixels = check_pixels(split.pixels, (count, *data.image_shape), f"the pixels of {where}")
    if count != len(labels):
        raise DataError(f"{where}: {count} images but {len(labels)} labels: give a label for each image")
    check_range(labels, data.num_classes, f"the labels of {where}")
    if not train:
        _check_private(labels, name)
    if labels is not split.labels:
        split.labels = labels
    return split


def images_of(data: PrivateData, split: Split, start: int, stop: int) -> Tensor:
    """Images `start` to `stop - 1` of a split, float32 in [0, 1], `[n, C, H, W]`, checked as they leave it.

    Raises:
        DataError: they do not keep to the contract.
    """
    with blaming(data, f"{type(split).__name__}.images"):
        images = split.images(start, stop)
        count = len(range(*slice(start, stop).indices(len(split))))
        return as_floats(images, (count, *data.image_shape), f"images {start} to {stop - 1} of {name_of(data)}")


def images_at(data: PrivateData, split: Split, rows: Tensor) -> Tensor:
    """Images of a split by their numbers `[n]`, float32 in [0, 1], `[n, C, H, W]`, checked as they leave it.

    Raises:
        DataError: they do not keep to the contract.
    """
    if type(split) is TensorSplit:
        return as_floats(split.pixels[rows], (len(rows), *data.image_shape), f"images of {name_of(data)}")
    if not len(rows):
        return torch.empty(0, *data.image_shape)
    return torch.cat([images_of(data, split, row, row + 1) for row in rows.tolist()])


def as_floats(images: Any, shape: tuple[int, ...], what: str) -> Tensor:
    """Images that leave a data module as float32 in [0, 1], from bytes too; see `check_pixels`."""
    if isinstance(images, Tensor) and images.dtype == torch.uint8:
        images = images.float() / 255
    return check_pixels(images, shape, what)


def check_pixels(pixels: Any, shape: tuple[int, ...], what: str) -> Tensor:
    """Pixels that are finite and in [0, 1] (float16, bfloat16 and float64 become float32), or bytes.

    Args:
        pixels: what a data module gave.
        shape: what it has to be.
        what: name of it, for the sentence.

    Raises:
        DataError: shape, type or range is another.
    """
    if not isinstance(pixels, Tensor):
        raise DataError(f"{what} must be a tensor, not {_kind(pixels)}: torch.from_numpy makes one of an array")
    if pixels.dtype != torch.uint8 and not pixels.is_floating_point():
        raise DataError(f"{what} are {_type(pixels)}: give torch.uint8 (0 to 255) or torch.float32 (0 to 1)")
    if tuple(pixels.shape) != shape:
        last = len(shape) >= 3 and tuple(pixels.shape) == (*shape[:-3], *shape[-2:], shape[-3])
        do = "channels come first, so permute them" if last else "an image is [channels, height, width]"
        raise DataError(f"{what} are of shape {list(pixels.shape)}, not {list(shape)}: {do}")
    pixels = pixels.detach().cpu()
    if pixels.dtype == torch.uint8:
        if pixels.numel() and pixels[:_LOOKED_AT].amax() == 1:
            raise DataError(f"{what} are bytes of 0 and 1, where 255 is white: multiply by 255, or give floats")
        return pixels
    pixels = pixels.float()
    if not pixels.numel():
        return pixels
    low, high = (float(end) for end in torch.aminmax(pixels))
    if low >= 0 and high <= 1:
        return pixels
    if not bool(pixels.isfinite().all()):
        raise DataError(f"{what} are not all finite: mend or leave out the images with NaN or infinite pixels")
    if low > -0.1 and high < 1.1:
        do = "clamp them"
    elif low >= 0:
        do = f"divide them by {255 if high <= 255 else 65535 if high <= 65535 else 'their largest possible value'}"
    else:
        do = "leave it out here"
    raise DataError(
        f"{what} run from {low:.4g} to {high:.4g}, but must lie in [0, 1], as normalization belongs to the model: {do}"
    )


def _check_declared(data: PrivateData) -> None:
    """Whether the number of classes and the image shape make sense."""
    name = name_of(data)
    with blaming(data, "num_classes"):
        count = getattr(data, "num_classes", None)
    with blaming(data, "image_shape"):
        shape = getattr(data, "image_shape", None)
    if count is None or shape is None:
        missing = " and ".join(key for key, value in (("num_classes", count), ("image_shape", shape)) if value is None)
        raise DataError(f"{name} does not set {missing}: set it in the class or in load, as image_shape = (3, 32, 32)")
    if not is_whole(count) or count < 1:
        raise DataError(f"num_classes of {name} must be a whole number, not {count!r}")
    if count == 1:
        raise DataError(
            f"{name} has a single class, for which every gradient is zero and nothing can leak: give data of two "
            "classes or more"
        )
    if not isinstance(shape, tuple | list) or len(shape) != 3 or not all(is_whole(n) and n > 0 for n in shape):
        raise DataError(f"image_shape of {name} must be (channels, height, width) in whole numbers, not {shape!r}")
    if shape[0] not in (1, 3):
        do = "channels come first" if shape[2] in (1, 3) else "choose one channel or three"
        raise DataError(f"image_shape of {name} is {tuple(shape)}, but images have 1 or 3 channels: {do}")


def _check_private(labels: Tensor, name: str) -> None:
    """Whether there are private images, of more than one class."""
    if not len(labels):
        raise DataError(f"{name} holds no private images: its test split is empty")
    if len(labels) > 1 and bool((labels == labels[0]).all()):
        raise DataError(
            f"all {len(labels)} private images of {name} are of class {int(labels[0])}: give a test split of several "
            "classes (is this one sorted, or the wrong folder?)"
        )


def integers(labels: Any, what: str) -> Tensor:
    """Labels as int64, where nothing is lost by that."""
    if not isinstance(labels, Tensor):
        raise DataError(f"{what} must be a tensor, not {_kind(labels)}: torch.tensor makes one")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise DataError(f"{what} are {_type(labels)}, but must be whole numbers: give labels.long()")
    return labels.cpu().long()


def check_range(labels: Tensor, classes: int, what: str) -> None:
    if not labels.numel():
        return
    low, high = (int(end) for end in torch.aminmax(labels))
    if low < 0 or high >= classes:
        do = "subtract 1" if (low, high) == (1, classes) else "renumber them, or set num_classes"
        raise DataError(f"{what} run from {low} to {high}, but must lie in 0 to {classes - 1}: {do}")


def is_whole(value: Any) -> bool:
    try:
        operator.index(value)
    except TypeError:
        return False
    return not isinstance(value, bool)


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _kind(value: Any) -> str:
    return "nothing" if value is None else type(value).__name__
