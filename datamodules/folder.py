"""Folders of images, one folder for each class: LFW, and any other."""

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

    def __init__(self, root: str | None, download: bool, size: int) -> None:
        super().__init__(root, download)
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
                "and its mean image is mid-grey"
            )
        return notes

    def load(self, train: bool) -> Split:
        self.num_classes = len(self.classes)
        part = [_public(files) if train else _private(files) for files in self.classes]
        # Image 1 of every class, then image 2 of every class, ...: the first victims all differ
        turns = zip_longest(*part)
        files = [(f, label) for turn in turns for label, f in enumerate(turn) if f is not None]
        return FolderSplit(files, self.image_shape[1])

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
    """Labeled Faces in the Wild: colour photographs of faces, one class for each person.

    Reads lfw-py/lfw-deepfunneled (or lfw_funneled, or lfw) below the root, whole or in part. The
    label is the person's place in the sorted list of folders. Every fourth image of a person is
    public (train), the others are private (test). Victims come in turns, the first image of every
    person, then the second of every person, so that the first victims are different people. Public
    means are taken over the first 500 train images.

    Args:
        root: Folder that holds lfw-py; default LEAKBOARD_DATA, else ./data.
        download: LFW can not be downloaded automatically any more: a missing folder is an error.
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
        download: bool = False,
        image_set: Literal["original", "funneled", "deepfunneled"] = "deepfunneled",
        size: int = 32,
    ) -> None:
        super().__init__(root, download, size)
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
            "torchvision can not download it any more"
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
    are passed over. The label is the class's place in the sorted list of folders. The centre square
    of an image is resized. Every fourth image of a class is public (train), the others are private
    (test). Victims come in turns, the first image of every class, then the second of every class.
    Public means are taken over the first 500 train images.

    Args:
        path: Folder that holds the class folders, absolute or relative to the root.
        size: Height and width to which the images are resized.
        root: Folder to which path is relative; default LEAKBOARD_DATA, else ./data.
        download: Your own images can not be downloaded: a missing folder is an error.
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
        download: bool = False,
        num_classes: int | None = None,
    ) -> None:
        super().__init__(root, download, size)
        self._path = self.root / Path(path).expanduser()
        self._num_classes = num_classes

    def load(self, train: bool) -> Split:
        split = super().load(train)
        if self._num_classes is not None:
            if self._num_classes < self.num_classes:
                raise DataError(
                    f"{self.path} holds {self.num_classes} classes: give num_classes {self.num_classes} or more, "
                    f"not {self._num_classes}."
                )
            self.num_classes = self._num_classes
        return split

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
        return sorted(f for f in folder.iterdir() if _visible(f) and f.suffix.lower() in IMG_EXTENSIONS)
