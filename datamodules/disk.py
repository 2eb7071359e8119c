"""Data that lie on disk: where the root is, and one clear sentence for whatever is wrong there."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchvision.datasets.utils import check_integrity

from datamodules.base import PrivateData, Split, TensorSplit
from datamodules.errors import DataError


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn whatever goes wrong while `path` is read into a DataError that names it."""
    try:
        yield
    except DataError:
        raise
    except PermissionError as error:
        raise DataError(
            f"{path} may not be read: change its permissions, or point --data-root or "
            "LEAKBOARD_DATA to a readable copy."
        ) from error
    except Exception as error:  # a damaged file makes its decoder raise nearly anything
        raise DataError(
            f"{path} is damaged or not of the expected format ({type(error).__name__}): replace it with a good copy."
        ) from error


def exists(path: Path) -> bool:
    """Tell whether `path` is there; unlike Path.exists, never take 'forbidden' for 'missing'."""
    with reading(path):
        try:
            path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return False
    return True


def is_file(path: Path) -> bool:
    """Tell whether `path` is a file; False where nothing is there.

    Raises:
        DataError: something else is there: to open a pipe, say, would wait for ever.
    """
    if not exists(path):
        return False
    if not path.is_file():
        raise DataError(f"{path} is not a regular file: replace it with one, or take it away.")
    return True


class DiskData(PrivateData):
    """Base of the data modules that read files under a data root."""

    def __init__(self, root: str | None) -> None:
        super().__init__()
        if root is None:
            root = os.environ.get("LEAKBOARD_DATA") or "data"
        self.root = Path(root).expanduser()


class TorchvisionData(DiskData):
    """Base of the data sets that torchvision can download, and whose original size is known."""

    dataset: Any
    """torchvision's class of the data set."""
    folder: str
    """Where torchvision keeps the files, below the root."""
    original_size: ClassVar[dict[bool, int]]
    """Images of the original train (True) and test (False) split."""

    def __init__(self, root: str | None, download: bool, verify_integrity: bool) -> None:
        super().__init__(root)
        self.download = download
        self.verify_integrity = verify_integrity

    def read(self, train: bool) -> list[tuple[Path, Tensor, Tensor]]:
        """Return one split: where each part of it lies, its pixels `[n, C, H, W]`, its labels."""
        raise NotImplementedError

    def prepare_data(self) -> None:
        """Download the original files with torchvision, if that was asked for."""
        if not self.download:
            return
        try:
            self.dataset(str(self.root), train=False, download=True)
        except Exception as error:  # no network, a full disk, a changed file, a read-only root
            reason = " ".join(str(error).split()) or type(error).__name__
            raise DataError(
                f"{type(self).__name__} could not be downloaded to {self.root} and read "
                f"({reason}): put "
                f"the files in {self.root / self.folder} by hand, or point --data-root or "
                "LEAKBOARD_DATA to a folder that has them."
            ) from error

    def setup(self, stage: str | None = None) -> None:
        """Read the test split, and the train split too where its size has to be noted.

        Args:
            stage: Lightning's stage; the data are the same in each.
        """
        super().setup(stage)
        if self.verify_integrity or self.notes:
            return
        note = (
            f"{type(self).__name__} read with verify_integrity=False: "
            f"{len(self.test_split)} of {self.original_size[False]} test images and "
            f"{len(self.train_split)} of {self.original_size[True]} train images"
        )
        self.notes.append(note)
        warnings.warn(note, stacklevel=2)

    def load(self, train: bool) -> Split:
        parts = self.read(train)
        for path, pixels, labels in parts:
            shape = tuple(pixels.shape[1:])
            if pixels.dtype != torch.uint8 or shape != self.image_shape:
                raise DataError(
                    f"{path} holds {pixels.dtype} images of shape {shape} where "
                    f"{type(self).__name__} has bytes of shape {self.image_shape}: replace it "
                    "with a good copy."
                )
            if len(pixels) != len(labels):
                raise DataError(
                    f"{path} holds {len(pixels)} images but {len(labels)} labels: replace it with a good copy."
                )
            if ((labels < 0) | (labels >= self.num_classes)).any():
                raise DataError(
                    f"{path} holds labels outside 0 to {self.num_classes - 1}: replace it with a good copy."
                )
        return TensorSplit(
            torch.cat([pixels for _, pixels, _ in parts]),
            torch.cat([labels for _, _, labels in parts]),
        )

    def find(self, *names: str) -> Path:
        """Return the first of `names` in the data set's folder.

        A part of the data set, kept under partial/, is found only where whole files are not
        insisted on.
        """
        whole, part = self.root / self.folder, self.root / "partial" / self.folder
        for folder in [whole] if self.verify_integrity else [whole, part]:
            for name in names:
                if is_file(folder / name):
                    return folder / name
        if self.verify_integrity and any(exists(part / name) for name in names):
            raise DataError(
                f"{type(self).__name__} is not in {whole}, only a part of it is in {part}: set "
                "verify_integrity=False to use this part, or point --data-root or LEAKBOARD_DATA "
                "to the whole data set."
            )
        raise DataError(
            f"{type(self).__name__} needs {' or '.join(names)} in {whole}, which is not there: "
            f"point --data-root PATH or LEAKBOARD_DATA to the folder that holds {self.folder}, or "
            "download it with --download."
        )

    def verify(self, path: Path, md5: str) -> None:
        """Insist on the original bytes, unless the caller of the data module does not."""
        with reading(path):
            if self.verify_integrity and not check_integrity(path, md5):
                raise DataError(
                    f"{path} is not the original file (its md5 differs): replace it, or set "
                    "verify_integrity=False to read it as it is."
                )
