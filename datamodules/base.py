"""What every data module offers: victims in a fixed order, public statistics, and loaders of the public images."""

import copy
import hashlib
import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Self

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.contract import check_split, images_at, images_of
from datamodules.covariance import shrunk_covariance
from datamodules.errors import DataError, blaming
from datamodules.loaders import batches
from datamodules.split import Split, TensorSplit

__all__ = ["DataError", "PrivateData", "Split", "TensorSplit"]

USUAL_STEP = 0.06
"""Mean absolute difference of neighboring pixels in photographs of 32 x 32 (0.058 in CIFAR-10, 0.064 in LFW)."""

USUAL_STD = 0.25
"""Standard deviation of the pixels of a channel in photographs (0.24 to 0.26 in CIFAR-10)."""

FLAT = 1e-6  # a standard deviation below it is rounding

COVARIED = 1000  # images whose covariance is taken: more make no attack stronger that was tried

MOST_VALUES = 4096  # of an image whose covariance is taken, which is a matrix with the square of them

BLOCK = 64  # images that are held as float at the same time while a mean is taken


class PrivateData(LightningDataModule):
    """Base of all data modules: a public train split, and a test split that holds the victims.

    Images are float32 in [0, 1] everywhere; normalization belongs to the model. A subclass writes
    `load`, and sets `num_classes` and `image_shape` at the latest there; `datamodules/contract.py`
    checks what it gives. The train split is read when it is first needed, so that victims cost no
    more than the test split.

    Attributes:
        num_classes: Number of classes, valid after `setup`.
        image_shape: Channels, height and width of every image, valid after `setup`.
    """

    num_classes: int
    image_shape: tuple[int, int, int]
    statistics_cap: int | None = None
    """Most train images that the public statistics look at; None: all of them."""

    batch_size: int = 64
    """Images of a batch of the loaders."""

    shuffle_seed: int = 0
    """Of the order in which the train loader gives the images, another in each epoch."""

    train_cap: int | None = None
    """Most public images that the loaders give, drawn at random but always the same; None: all of them."""

    # Of the class, as a subclass may forget to call __init__.
    _train: Split | None = None
    _test: Split | None = None
    _statistics: tuple[Tensor, Tensor, float, Tensor] | None = None
    _covariance: Tensor | None = None
    _class_covariances: Tensor | None = None

    @cached_property
    def notes(self) -> list[str]:
        """What the provenance of a result has to say about these data, filled by `setup`."""
        return []

    def load(self, train: bool) -> Split:
        """Read one split; called at most once for each.

        Args:
            train: Whether the public images are wanted, or the private ones.

        Returns:
            Pixels as uint8 or as floats in [0, 1], and labels as integers in 0 to `num_classes` - 1.
        """
        raise NotImplementedError(f"{type(self).__name__} has no method load")

    def setup(self, stage: str | None = None) -> None:
        """Make the victims available. Calling it again does nothing.

        Args:
            stage: Lightning's stage; the data are the same in each.
        """
        _ = self.test_split

    @property
    def train_split(self) -> Split:
        """The public images."""
        if self._train is None:
            self._train = self._open(train=True)
        return self._train

    @property
    def test_split(self) -> Split:
        """The private images."""
        if self._test is None:
            self._test = self._open(train=False)
        return self._test

    def _open(self, train: bool) -> Split:
        with blaming(self, "load"):
            split = self.load(train=train)
        return check_split(self, split, train)

    @property
    def train_images(self) -> Tensor:
        """All public images as float32; made anew at each access, so keep it where it is reused."""
        return images_of(self, self.train_split, 0, len(self.train_split))

    @property
    def train_labels(self) -> Tensor:
        """The labels of the public images."""
        return self.train_split.labels

    @property
    def test_images(self) -> Tensor:
        """All private images as float32; made anew at each access."""
        return images_of(self, self.test_split, 0, len(self.test_split))

    @property
    def test_labels(self) -> Tensor:
        """The labels of the private images."""
        return self.test_split.labels

    def num_victims(self, batch_size: int = 1, same_class: int = 1) -> int:
        """Return how many victims with `batch_size` images each the test split holds."""
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}.")
        return len(self.order(same_class)) // batch_size

    def order(self, same_class: int) -> Sequence[int]:
        """Return the test images in the order in which victims get them.

        Args:
            same_class: How many that follow each other show one class: each class is cut, in the
                original order, into runs of that many, and what is left over is not used. The runs
                stand in the order of their first image. 1 is the original order.
        """
        if same_class == 1:
            return range(len(self.test_split))
        of_class: dict[int, list[int]] = {}
        for index, label in enumerate(self.test_split.labels.tolist()):
            of_class.setdefault(label, []).append(index)
        runs = [
            found[start : start + same_class]
            for found in of_class.values()
            for start in range(0, len(found) - same_class + 1, same_class)
        ]
        return [index for run in sorted(runs) for index in run]

    def victims(self, count: int, batch_size: int = 1, first: int = 0, same_class: int = 1) -> tuple[Tensor, Tensor]:
        """Return the batches of `count` victims, cut from the test split in a fixed order.

        Victim v always holds the images v * batch_size to (v + 1) * batch_size - 1 of that order,
        whatever `count` and `first` are, so that everybody attacks the same images.

        Args:
            count: Number of victims.
            batch_size: Number of images of each victim.
            first: Number of the first victim.
            same_class: See `order`.

        Returns:
            Images `[count, batch_size, C, H, W]` and labels `[count, batch_size]`.
        """
        if count < 1 or first < 0:
            raise ValueError(f"victims need count >= 1 and first >= 0, not count={count}, first={first}.")
        held = self.num_victims(batch_size, same_class)
        if first + count > held:
            raise DataError(
                f"{type(self).__name__} holds {held} victims of batch size {batch_size} "
                f"({len(self.test_split)} test images) but victims {first} to "
                f"{first + count - 1} were asked for: ask for fewer or use a larger data set."
            )
        start, stop = first * batch_size, (first + count) * batch_size
        order = self.order(same_class)[start:stop]
        rows = torch.tensor(order)
        images = (
            images_of(self, self.test_split, start, stop)
            if isinstance(order, range)
            else images_at(self, self.test_split, rows)
        )
        labels = self.test_split.labels[rows]
        return images.view(count, batch_size, *self.image_shape), labels.view(count, batch_size)

    def mean_image(self) -> Tensor:
        """Return the mean train image `[C, H, W]`; mid-gray where there are no train images."""
        return self._public_statistics()[0].clone()

    def class_means(self) -> Tensor:
        """Return each class's mean train image `[num_classes, C, H, W]`.

        A class without train images gets the mean image.
        """
        return self._public_statistics()[1].clone()

    def mean_step(self) -> float:
        """Return the mean absolute difference of neighboring pixels in the train images.

        It is the maximum-likelihood scale of the Laplace prior that total variation is. Without train
        images, or where they are flat, it is that of photographs, `USUAL_STEP`.
        """
        return self._public_statistics()[2]

    def channel_stds(self) -> Tensor:
        """Return the standard deviation `[C]` of the pixels of each channel in the train images.

        Without train images, or where a channel is flat, it is that of photographs, `USUAL_STD`.
        """
        return self._public_statistics()[3].clone()

    def covariance(self) -> Tensor | None:
        """Return the covariance `[D, D]` of the D values of a train image, float32; None for more than 4,096 of them.

        It is that of 1,000 images, from all of the split, shrunk as so few call for (`shrunk_covariance`).
        Without train images, or where all are alike, each value varies by itself, as in photographs.
        """
        if self._covariance is None and math.prod(self.image_shape) <= MOST_VALUES:
            found = self._covariance_of(torch.arange(self._looked_at()))
            self._covariance = USUAL_STD**2 * torch.eye(math.prod(self.image_shape)) if found is None else found
        return self._covariance

    def class_covariances(self) -> Tensor | None:
        """Return that of the images of each class about their mean, `[num_classes, D, D]`; None where that is more
        than 4,096 x 4,096 numbers.

        A class with fewer images than values, or without images that differ, gets the covariance of all.
        """
        size, of_all = math.prod(self.image_shape), self.covariance()
        if self._class_covariances is None and of_all is not None and self.num_classes * size**2 <= MOST_VALUES**2:
            labels = self.train_split.labels[: self._looked_at()]
            rows = [(labels == label).nonzero()[:, 0] for label in range(self.num_classes)]
            found = [self._covariance_of(some) if len(some) >= size else None for some in rows]
            self._class_covariances = torch.stack([of_all if one is None else one for one in found])
        return self._class_covariances

    def _looked_at(self) -> int:
        """How many train images the public statistics look at."""
        held = len(check_split(self, self.train_split, train=True))  # which a subclass may have overridden
        return held if self.statistics_cap is None else min(self.statistics_cap, held)

    def _covariance_of(self, rows: Tensor) -> Tensor | None:
        """The covariance `[D, D]` of `COVARIED` of the train images in these rows at most; None where none differ."""
        held = len(rows)
        some = rows if held <= COVARIED else rows[torch.arange(COVARIED) * held // COVARIED]
        found = shrunk_covariance(images_at(self, self.train_split, some).flatten(1)) if held > 1 else None
        return None if found is None or float(found.diagonal().mean()) < FLAT**2 else found

    def _public_statistics(self) -> tuple[Tensor, Tensor, float, Tensor]:
        """Mean image, class means, mean step and standard deviations, from one look at the train images."""
        if self._statistics is None:
            steps, compared = 0.0, 0
            total = torch.zeros(self.image_shape, dtype=torch.float64)
            squares = torch.zeros(self.image_shape, dtype=torch.float64)
            of_class = torch.zeros(self.num_classes, *self.image_shape, dtype=torch.float64)
            seen = torch.zeros(self.num_classes, dtype=torch.int64)
            for images, labels in self._public_blocks():
                total += images.sum(0)
                squares += images.square().sum(0)
                of_class.index_add_(0, labels, images)
                seen += torch.bincount(labels, minlength=self.num_classes)
                for differences in (images.diff(dim=-2), images.diff(dim=-1)):
                    steps += float(differences.abs().sum())
                    compared += differences.numel()
            mean = (total / seen.sum() if seen.any() else total + 0.5).float()
            of_class[seen == 0] = mean.double()
            step = steps / max(1, compared) or USUAL_STEP
            first, second = ((sums / seen.sum().clamp(min=1)).mean((1, 2)) for sums in (total, squares))
            spread = (second - first.square()).clamp(min=0).sqrt().float()
            stds = torch.where(spread > FLAT, spread, USUAL_STD)
            self._statistics = mean, (of_class / seen.clamp(min=1).view(-1, 1, 1, 1)).float(), step, stds
        return self._statistics

    def _public_blocks(self) -> Iterator[tuple[Tensor, Tensor]]:
        used, split = self._looked_at(), self.train_split
        for start in range(0, used, BLOCK):
            stop = min(start + BLOCK, used)
            yield images_of(self, split, start, stop).double(), split.labels[start:stop]

    @cached_property
    def public_sha256(self) -> str:
        """sha256 of all public images and their labels, and of the number of classes."""
        split = self.train_split
        together = hashlib.sha256(f"{self.num_classes} {list(self.image_shape)}".encode())
        together.update(split.labels.contiguous().numpy().data)
        for start in range(0, len(split), BLOCK):
            block = slice(start, min(start + BLOCK, len(split)))
            images = (
                split.pixels[block]
                if type(split) is TensorSplit  # what a subclass of it holds may not be what it gives
                else images_of(self, split, block.start, block.stop)
            )
            together.update(images.contiguous().numpy().data)
        return together.hexdigest()

    def public_rows(self) -> tuple[Tensor, Tensor]:
        """The numbers of the public images that the train loader gives, and of those of the validation loader.

        The latter are a tenth, at random but always the same, whatever `shuffle_seed` is.
        """
        mixed = torch.randperm(len(self.train_split), generator=torch.Generator().manual_seed(0))[: self.train_cap]
        held_out = len(mixed) // 10
        return mixed[held_out:], mixed[:held_out]

    def train_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        """Return nine tenths of the public images in shuffled batches.

        A last batch of a single image is left out, which BatchNorm could not normalize.
        """
        generator = torch.Generator().manual_seed(self.shuffle_seed)
        return batches(self, self.train_split, self.public_rows()[0], self.batch_size, generator)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        """Return the other tenth of the public images in batches."""
        return batches(self, self.train_split, self.public_rows()[1], self.batch_size)

    def test_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        """Return the private images in batches, in their original order: the first ones are the victims'."""
        return batches(self, self.test_split, torch.arange(len(self.test_split)), self.batch_size)

    def loading(self, batch_size: int, shuffle_seed: int, train_cap: int | None = None) -> Self:
        """Return a data module of the same images whose loaders have these settings; this one stays as it is."""
        made = copy.copy(self)
        LightningDataModule.__init__(made)  # no Trainer of its own yet, and a subclass may have forgotten it
        made.batch_size, made.shuffle_seed, made.train_cap = batch_size, shuffle_seed, train_cap
        return made
