"""A split in batches, as Lightning's Trainer takes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, SequentialSampler

from datamodules.contract import images_at
from datamodules.split import Split

if TYPE_CHECKING:
    from datamodules.base import PrivateData


class Batches(Dataset[tuple[Tensor, Tensor]]):
    """Images of a split, a batch at a time: one by one they would take longer than a small network does.

    Args:
        data: whose split it is.
        split: which holds the images.
        rows: their numbers, `[n]`.
    """

    def __init__(self, data: PrivateData, split: Split, rows: Tensor) -> None:
        self._data, self._split, self._rows = data, split, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, places: list[int]) -> tuple[Tensor, Tensor]:
        """Images `[B, C, H, W]`, float32 in [0, 1], and labels `[B]`, int64."""
        rows = self._rows[places]
        return images_at(self._data, self._split, rows), self._split.labels[rows]


def batches(
    data: PrivateData, split: Split, rows: Tensor, size: int, shuffled_by: torch.Generator | None = None
) -> DataLoader[tuple[Tensor, Tensor]]:
    """A loader of some images of a split.

    Args:
        data: whose split it is.
        split: which holds the images.
        rows: their numbers, `[n]`.
        size: images of a batch.
        shuffled_by: what draws the order of each epoch, where a last batch of a single image is left out; None for
            all images as they stand.
    """
    of = Batches(data, split, rows)
    order = RandomSampler(of, generator=shuffled_by) if shuffled_by and len(of) else SequentialSampler(of)
    lonely = shuffled_by is not None and len(of) > 1 and len(of) % size == 1
    sampler = BatchSampler(order, size, drop_last=lonely)
    return DataLoader(of, batch_size=None, sampler=sampler, generator=shuffled_by)
