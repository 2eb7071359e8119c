"""Labeled images in a fixed order, in memory or decoded where they are asked for."""

import torch
from torch import Tensor
from torch.utils.data import Dataset


class Split(Dataset[tuple[Tensor, Tensor]]):
    """Labeled images in a fixed order, turned into floats (or decoded) only where asked for."""

    def __init__(self, labels: Tensor) -> None:
        self.labels = labels

    def images(self, start: int, stop: int) -> Tensor:
        """Return the images `start` to `stop - 1`, float32 in [0, 1], `[n, C, H, W]`."""
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.images(index, index + 1)[0], self.labels[index]


class TensorSplit(Split):
    """A split that is in memory: uint8 (a quarter of the memory), or float32 in [0, 1]."""

    def __init__(self, pixels: Tensor, labels: Tensor) -> None:
        super().__init__(labels)
        self.pixels = pixels

    def images(self, start: int, stop: int) -> Tensor:
        pixels = self.pixels[start:stop]
        return pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels.clone()
