"""CIFAR-10 and CIFAR-100, from their python batch files, and CIFAR-10 as JPEG to train on."""

import io
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy
import torch
import torchvision
from PIL import Image
from torch import Tensor

from datamodules.base import Split, TensorSplit
from datamodules.disk import DiskData, TorchvisionData, is_file, reading
from datamodules.errors import DataError
from datamodules.pickles import read_arrays


class CIFAR10(TorchvisionData):
    """CIFAR-10: 32x32 color images of 10 classes, 50,000 train and 10,000 test images.

    Reads cifar-10-batches-py below the root. The files are pickles, of which only numbers, texts and
    arrays are read: no code in them is run.

    Args:
        root: Folder that holds cifar-10-batches-py; default LEAKBOARD_DATA, else ./data.
        download: Download the files where they are missing.
        verify_integrity: Insist on the md5 of the original files. False reads a part of the data
            set too, also from ROOT/partial, and says so in the results.
    """

    dataset: Any = torchvision.datasets.CIFAR10
    folder = "cifar-10-batches-py"
    original_size: ClassVar = {True: 50_000, False: 10_000}
    num_classes = 10
    image_shape = (3, 32, 32)

    def __init__(self, root: str | None = None, download: bool = False, verify_integrity: bool = True) -> None:
        super().__init__(root, download, verify_integrity)

    def read(self, train: bool) -> list[tuple[Path, Tensor, Tensor]]:
        parts = []
        for name, md5 in self.dataset.train_list if train else self.dataset.test_list:
            path = self.find(name)
            self.verify(path, md5)
            with reading(path):
                batch = read_arrays(path)
                pixels = torch.from_numpy(batch["data"]).view(-1, *self.image_shape)
                labels = batch["labels"] if "labels" in batch else batch["fine_labels"]
                parts.append((path, pixels, torch.tensor(labels, dtype=torch.int64)))
        return parts


class CIFAR100(CIFAR10):
    """CIFAR-100: 32x32 color images of 100 classes, 50,000 train and 10,000 test images.

    Reads cifar-100-python below the root; the labels are the 100 fine ones. The files are pickles,
    of which only numbers, texts and arrays are read: no code in them is run.

    Args:
        root: Folder that holds cifar-100-python; default LEAKBOARD_DATA, else ./data.
        download: Download the files where they are missing.
        verify_integrity: Insist on the md5 of the original files. False reads a part of the data
            set too, also from ROOT/partial, and says so in the results.
    """

    dataset = torchvision.datasets.CIFAR100
    folder = "cifar-100-python"
    num_classes = 100

    def __init__(self, root: str | None = None, download: bool = False, verify_integrity: bool = True) -> None:
        super().__init__(root, download, verify_integrity)


class CIFAR10JPEG(DiskData):
    """CIFAR-10 as lossy JPEG, for training only: never attack it and score that as CIFAR-10.

    Reads cifar-10-jpeg/train.npz and test.npz below the root: all 50,000 train and 10,000 test images in the original
    order, each as a JPEG file (`jpeg` holds their bytes, `offset` where each begins, `label` the classes). What was
    lost (a median PSNR of 30 dB is left) is no attack's to recover, and a network that is trained on these images
    must be tested on them too.

    Args:
        root: Folder that holds cifar-10-jpeg; default LEAKBOARD_DATA, else ./data.
    """

    num_classes = 10
    image_shape = (3, 32, 32)

    def __init__(self, root: str | None = None) -> None:
        super().__init__(root)

    def setup(self, stage: str | None = None) -> None:
        """Read the test images.

        Args:
            stage: Lightning's stage; the data are the same in each.
        """
        super().setup(stage)
        if not self.notes:
            self.notes.append("CIFAR10JPEG is a lossy copy of CIFAR-10, for training only")

    def load(self, train: bool) -> Split:
        path = self.root / "cifar-10-jpeg" / ("train.npz" if train else "test.npz")
        if not is_file(path):
            raise DataError(
                f"{path} is not there: point --data-root PATH or LEAKBOARD_DATA to the folder that holds cifar-10-jpeg."
            )
        with reading(path), numpy.load(path, allow_pickle=False) as held:
            packed, ends, labels = held["jpeg"], held["offset"], torch.from_numpy(held["label"]).long()
            pixels = numpy.stack([_decode(packed[a:b]) for a, b in pairwise(ends.tolist())])
        if pixels.shape != (len(labels), 32, 32, 3) or ((labels < 0) | (labels >= self.num_classes)).any():
            raise DataError(f"{path} holds other images or labels than CIFAR-10 has: replace it with a good copy.")
        return TensorSplit(torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), labels)


def _decode(packed: numpy.ndarray[Any, Any]) -> numpy.ndarray[Any, Any]:
    """Return the pixels of a JPEG file, `[H, W, 3]`."""
    with Image.open(io.BytesIO(packed.tobytes())) as image:
        return numpy.array(image.convert("RGB"))
