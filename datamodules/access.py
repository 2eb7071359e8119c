"""How the benchmark gets at a data set, whoever wrote it: opened, its victims taken, and all of it checked."""

import math
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from datamodules.base import PrivateData
from datamodules.contract import as_floats, check_range, check_split, integers, is_whole
from datamodules.errors import DataError, blaming, name_of


def open_data(data: PrivateData) -> None:
    """Prepares and sets up a data module, and checks both of its splits.

    Unlike the properties of `PrivateData` this does not rely on what a subclass may have overridden.

    Raises:
        DataError: the data are unavailable, or do not keep to the contract.
    """
    with blaming(data, "prepare_data"):
        data.prepare_data()
    with blaming(data, "setup"):
        data.setup()
    for train in (False, True):
        with blaming(data, "train_split" if train else "test_split"):
            split = data.train_split if train else data.test_split
        check_split(data, split, train)
    with blaming(data, "num_victims"):
        held = data.num_victims()
        if not is_whole(held):
            raise DataError(f"{name_of(data)}.num_victims must return a whole number, not {held!r}")
    if type(data).mean_step is not PrivateData.mean_step:
        with blaming(data, "mean_step"):
            step = data.mean_step()
            if not isinstance(step, Real) or isinstance(step, bool) or not 0 < step <= 1:
                raise DataError(f"{name_of(data)}.mean_step must return a number in (0, 1], not {step!r}")
    for method, shape in (("mean_image", ()), ("class_means", (data.num_classes,))):
        if getattr(type(data), method) is not getattr(PrivateData, method):  # else it is checked where it is made
            with blaming(data, method):
                mean = getattr(data, method)()
                as_floats(mean, (*shape, *data.image_shape), f"the images of {name_of(data)}.{method}")
    if type(data).channel_stds is not PrivateData.channel_stds:
        with blaming(data, "channel_stds"):
            check_stds(data.channel_stds(), data.image_shape[0], f"{name_of(data)}.channel_stds")
    size = math.prod(data.image_shape)
    for method, classes in (("covariance", ()), ("class_covariances", (data.num_classes,))):
        if getattr(type(data), method) is not getattr(PrivateData, method):
            with blaming(data, method):
                found = getattr(data, method)()
                if found is not None:
                    check_covariance(found, (*classes, size, size), f"{name_of(data)}.{method}")


def check_stds(stds: Any, channels: int, what: str) -> None:
    """Looks whether these are standard deviations of pixels, one for each channel."""
    is_vector = isinstance(stds, Tensor) and stds.shape == (channels,) and stds.is_floating_point()
    if not is_vector or not bool((stds.isfinite() & (stds > 0)).all()):
        raise DataError(f"{what} must return {channels} finite numbers above 0, as a float tensor")


def check_covariance(found: Any, shape: tuple[int, ...], what: str) -> None:
    """Looks whether this is a covariance, or one for each class."""
    if not isinstance(found, Tensor) or found.shape != shape or not found.is_floating_point():
        raise DataError(f"{what} must return a float tensor of the shape {list(shape)}, or None")
    if not found.isfinite().all() or torch.linalg.cholesky_ex(found.double())[1].any():
        raise DataError(f"{what} must return a covariance that is positive definite: add a little to its diagonal")


def take_victims(
    data: PrivateData, count: int, batch_size: int = 1, first: int = 0, same_class: int = 1
) -> tuple[Tensor, Tensor]:
    """`data.victims`, checked, whoever wrote it.

    Returns:
        Images `[count, batch_size, C, H, W]`, float32 in [0, 1], and labels `[count, batch_size]`, int64.

    Raises:
        DataError: there are not as many, or they do not keep to the contract.
    """
    what = f"{name_of(data)}.victims"
    with blaming(data, "victims"):
        images, labels = data.victims(count, batch_size, first, same_class)
        images = as_floats(images, (count, batch_size, *data.image_shape), f"the images of {what}")
        labels = integers(labels, f"the labels of {what}")
        if labels.shape != (count, batch_size):
            raise DataError(f"the labels of {what} are of shape {list(labels.shape)}, not {[count, batch_size]}")
        check_range(labels, data.num_classes, f"the labels of {what}")
    return images, labels
