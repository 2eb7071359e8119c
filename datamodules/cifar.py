"""CIFAR-10 and CIFAR-100, from their python batch files."""

from pathlib import Path
from typing import Any, ClassVar

import torch
import torchvision
from torch import Tensor

from datamodules.disk import TorchvisionData, reading


class CIFAR10(TorchvisionData):
    """CIFAR-10: 32x32 colour images of 10 classes, 50,000 train and 10,000 test images.

    Reads cifar-10-batches-py below the root. The files are pickles, which can run code when they
    are read: use verify_integrity=False only with files that you trust.

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
                batch = _one_batch(self.dataset, path)
                # torchvision turns the stored channels-first rows into HWC for PIL: turn back
                pixels = torch.from_numpy(batch.data).permute(0, 3, 1, 2)
                parts.append((path, pixels, torch.tensor(batch.targets, dtype=torch.int64)))
        return parts


class CIFAR100(CIFAR10):
    """CIFAR-100: 32x32 colour images of 100 classes, 50,000 train and 10,000 test images.

    Reads cifar-100-python below the root; the labels are the 100 fine ones. The files are pickles,
    which can run code when read: use verify_integrity=False only with files that you trust.

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


def _one_batch(dataset: Any, path: Path) -> Any:
    """Read one batch file with torchvision's own reader, so that an error names the right file."""

    class OneBatch(dataset):  # type: ignore[misc] # the base is a value
        base_folder = path.parent.name
        test_list: ClassVar = [(path.name, None)]

        def _check_integrity(self) -> bool:
            return True  # checked before, for this file only

        def _load_meta(self) -> None:
            pass  # the names of the classes are not used

    return OneBatch(path.parent.parent, train=False)
