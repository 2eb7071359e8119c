"""MNIST and Fashion-MNIST, from idx files."""

import gzip
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import torchvision
from torch import Tensor
from torchvision.datasets.mnist import read_image_file, read_label_file

from datamodules.disk import TorchvisionData, reading
from datamodules.errors import DataError


class MNIST(TorchvisionData):
    """MNIST: 28x28 gray handwritten digits, 60,000 train and 10,000 test images.

    Reads MNIST/raw below the root, unpacked or as .gz. The md5 of .gz files is checked; of unpacked
    files torchvision knows none, so there the number of images is checked.

    Args:
        root: Folder that holds MNIST/raw; default LEAKBOARD_DATA, else ./data.
        download: Download the files where they are missing.
        verify_integrity: Insist on the original files. False reads a part of the data set too, also
            from ROOT/partial, and says so in the results.
    """

    dataset = torchvision.datasets.MNIST
    folder = "MNIST/raw"
    original_size: ClassVar = {True: 60_000, False: 10_000}
    num_classes = 10
    image_shape = (1, 28, 28)

    def __init__(self, root: str | None = None, download: bool = False, verify_integrity: bool = True) -> None:
        super().__init__(root, download, verify_integrity)

    def read(self, train: bool) -> list[tuple[Path, Tensor, Tensor]]:
        part = "train" if train else "t10k"
        images = self._read_idx(f"{part}-images-idx3-ubyte", read_image_file, train)
        labels = self._read_idx(f"{part}-labels-idx1-ubyte", read_label_file, train)
        return [(self.root / self.folder / f"{part}-*", images.unsqueeze(1), labels)]

    def _read_idx(self, name: str, reader: Callable[[str], Tensor], train: bool) -> Tensor:
        path = self.find(name, f"{name}.gz")
        if path.suffix == ".gz":
            self.verify(path, dict(self.dataset.resources)[path.name])
        with reading(path):
            rows = _read_packed(path, reader) if path.suffix == ".gz" else reader(str(path))
        if self.verify_integrity and len(rows) != self.original_size[train]:
            raise DataError(
                f"{path} holds {len(rows)} of {self.original_size[train]} rows: replace it with "
                "the original file, or set verify_integrity=False to use this part."
            )
        return rows


class FashionMNIST(MNIST):
    """Fashion-MNIST: 28x28 gray pictures of clothes, 60,000 train and 10,000 test images.

    Reads FashionMNIST/raw below the root, unpacked or as .gz. The md5 of .gz files is checked; of
    unpacked files torchvision knows none, so there the number of images is checked.

    Args:
        root: Folder that holds FashionMNIST/raw; default LEAKBOARD_DATA, else ./data.
        download: Download the files where they are missing.
        verify_integrity: Insist on the original files. False reads a part of the data set too, also
            from ROOT/partial, and says so in the results.
    """

    dataset = torchvision.datasets.FashionMNIST
    folder = "FashionMNIST/raw"

    def __init__(self, root: str | None = None, download: bool = False, verify_integrity: bool = True) -> None:
        super().__init__(root, download, verify_integrity)


def _read_packed(path: Path, reader: Callable[[str], Tensor]) -> Tensor:
    """Read a .gz file, which torchvision would unpack beside it: the root may be read-only."""
    with gzip.open(path) as packed, tempfile.NamedTemporaryFile() as plain:
        shutil.copyfileobj(packed, plain)
        plain.flush()
        return reader(plain.name)
