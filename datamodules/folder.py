"""Folders of images, one folder for each class: LFW, and any other."""

import os
from itertools import zip_longest
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS

from datamodules.base import Split
from datamodules.disk import DiskData, exists, reading
from datamodules.errors import DataError
from datamodules.images import read_square


class FolderSplit(Split):
    """Image files that are decoded where they are asked for, and not kept: memory does not grow with their number."""

    def __init__(self, files: list[tuple[Path, int]], size: int) -> None:
        super().__init__(torch.tensor([label for _, label in files], dtype=torch.int64))
        self.paths = [path for path, _ in files]
        self.size = size

    def images(self, start: int, stop: int) -> Tensor:
        wanted = range(*slice(start, stop).indices(len(self)))
        if not wanted:
            return torch.empty(0, 3, self.size, self.size)
        return torch.stack([read_square(self.paths[index], self.size) for index in wanted])


class FolderData(DiskData):
    """Base of the data sets with a folder for each class."""

    statistics_cap = 500  # decoding is slow: the public means look at the first 500 train images

    def __init__(self, root: str | None, size: int) -> None:
        super().__init__(root)
        if size < 1:
            raise ValueError(f"size must be at least 1 pixel, not {size}.")
        self.image_shape = (3, size, size)
        self._classes: list[list[Path]] | None = None

    @property
    def path(self) -> Path:
        """The folder that holds the class folders."""
        raise NotImplementedError

    @property
    def how_to_get(self) -> str:
        """What to do when the folder is missing; the end of a sentence."""
        raise NotImplementedError

    def setup(self, stage: str | None = None) -> None:
        """List the images; they are decoded when they are asked for.

        Args:
            stage: Lightning's stage; the data are the same in each.
        """
        super().setup(stage)
        if not self.notes:
            self.notes.extend(self.describe(self.classes))

    def describe(self, classes: list[list[Path]]) -> list[str]:
        """Return the notes for the provenance."""
        notes = [
            f"{type(self).__name__} read from {self.path.name}: "
            f"{sum(map(len, classes))} images of {len(classes)} classes"
        ]
        if not any(map(_public, classes)):
            notes.append(
                f"{type(self).__name__} has no class of four images, so there are no train images "
                "and its mean image is mid-gray"
            )
        return notes

    def load(self, train: bool) -> Split:
        self.num_classes = self._count()
        part = [_public(files) if train else _private(files) for files in self.classes]
        # Image 1 of every class, then image 2 of every class, ...: the first victims all differ
        turns = zip_longest(*part)
        files = [(f, label) for turn in turns for label, f in enumerate(turn) if f is not None]
        return FolderSplit(files, self.image_shape[1])

    def _count(self) -> int:
        """Classes that the network tells apart.

        Raises:
            DataError: there is one, for which every gradient is zero.
        """
        if len(self.classes) == 1:
            raise DataError(
                f"{self.path} holds images in one folder, {self.classes[0][0].parent.name}, and every gradient of a "
                "single class is zero: give a folder that holds two or more, one for each class."
            )
        return len(self.classes)

    @property
    def classes(self) -> list[list[Path]]:
        """The image files of each class, both in sorted order."""
        if self._classes is None:
            if not exists(self.path):
                raise DataError(f"{self.path} is not there: {self.how_to_get}.")
            with reading(self.path):
                folders = sorted(f for f in self.path.iterdir() if _visible(f) and f.is_dir())
            classes = [files for files in map(_image_files, folders) if files]
            if not classes:
                raise DataError(
                    f"{self.path} holds no images in class folders: arrange them as "
                    f"{self.path / 'CLASS' / 'image.jpg'}, one folder for each class."
                )
            self._classes = classes
        return self._classes


class LFW(FolderData):
    """Labeled Faces in the Wild: color photographs of faces, one class for each person.

    Reads lfw-py/lfw-deepfunneled (or lfw_funneled, or lfw) below the root, whole or in part. The
    label is the person's place in the sorted list of folders. Every fourth image of a person is
    public (train), the others are private (test). Victims come in turns, the first image of every
    person, then the second of every person, so that the first victims are different people. Public
    means are taken over the first 500 train images.

    Args:
        root: Folder that holds lfw-py; default LEAKBOARD_DATA, else ./data.
        image_set: Which alignment of the faces.
        size: Height and width to which the images are resized.
    """

    folders: ClassVar = {
        "original": "lfw",
        "funneled": "lfw_funneled",
        "deepfunneled": "lfw-deepfunneled",
    }
    original_size = (13_233, 5_749)

    def __init__(
        self,
        root: str | None = None,
        image_set: Literal["original", "funneled", "deepfunneled"] = "deepfunneled",
        size: int = 32,
    ) -> None:
        super().__init__(root, size)
        if image_set not in self.folders:
            raise ValueError(f"image_set must be one of {', '.join(self.folders)}, not {image_set!r}.")
        self.image_set = image_set

    @property
    def path(self) -> Path:
        return self.root / "lfw-py" / self.folders[self.image_set]

    @property
    def how_to_get(self) -> str:
        return (
            "point --data-root PATH or LEAKBOARD_DATA to the folder that holds "
            f"lfw-py/{self.folders[self.image_set]}, or unpack the LFW archive there by hand, as "
            "torchvision cannot download it any more"
        )

    def describe(self, classes: list[list[Path]]) -> list[str]:
        notes = super().describe(classes)
        held = (sum(map(len, classes)), len(classes))
        if held != self.original_size:
            images, people = self.original_size
            notes[0] += f", where the whole set has {images} images of {people} people"
        return notes


class ImageFolder(FolderData):
    """Any folder of images, with one folder for each class.

    Reads PATH/CLASS/image.jpg (or .png, .bmp, .webp, ...); hidden files and folders without images
    are passed over. The label is the class's place in the sorted list of folders. The center square
    of an image is resized; gray images of 16 bits and floats in [0, 1] keep their range, transparent
    ones are laid on white, and the orientation that a camera notes is not followed. Every fourth
    image of a class is public (train), the others are private (test). Victims come in turns, the
    first image of every class, then the second of every class. Public means are taken over the first
    500 train images.

    Args:
        path: Folder that holds the class folders, absolute or relative to the root.
        size: Height and width to which the images are resized.
        root: Folder to which path is relative; default LEAKBOARD_DATA, else ./data.
        num_classes: Classes that the network tells apart, where the folder holds a part of them; default those it
            holds.

    Raises:
        DataError: the folder holds more classes than num_classes; raised by setup.
    """

    def __init__(
        self,
        path: str,
        size: int = 32,
        root: str | None = None,
        num_classes: int | None = None,
    ) -> None:
        super().__init__(root, size)
        self._path = self.root / Path(path).expanduser()
        self._num_classes = num_classes

    def _count(self) -> int:
        if self._num_classes is None:
            return super()._count()
        if self._num_classes < len(self.classes):
            raise DataError(
                f"{self.path} holds {len(self.classes)} classes: give num_classes {len(self.classes)} or more, "
                f"not {self._num_classes}."
            )
        return self._num_classes

    def describe(self, classes: list[list[Path]]) -> list[str]:
        notes = super().describe(classes)
        if self._num_classes is not None:
            notes[0] += f", in a label space of {self._num_classes}"
        return notes

    @property
    def path(self) -> Path:
        return self._path

    @property
    def how_to_get(self) -> str:
        return (
            "give the folder that holds the class folders as an absolute path, or relative to "
            "--data-root PATH or LEAKBOARD_DATA"
        )


def _public(files: list[Path]) -> list[Path]:
    return files[3::4]


def _private(files: list[Path]) -> list[Path]:
    return [file for place, file in enumerate(files) if place % 4 != 3]


def _visible(path: Path) -> bool:
    return not path.name.startswith(".")  # such as .DS_Store, ._image.jpg


def _image_files(folder: Path) -> list[Path]:
    with reading(folder):
        found = sorted(f for f in folder.iterdir() if _visible(f) and f.suffix.lower() in IMG_EXTENSIONS)
        with os.scandir(folder) as entries:  # which knows what most are without another look
            files = {entry.name for entry in entries if entry.is_file()}
        for path in found:
            if path.name not in files:
                raise DataError(f"{path} is not a regular file: replace it with one, or take it away.")
    return found
