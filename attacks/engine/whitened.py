"""An optimizer in coordinates in which public images vary alike and alone."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from attacks.engine.row_optimizer import RowOptimizer
from attacks.engine.slots import rearrange


class Whitened(RowOptimizer):
    """Another optimizer, which moves the images of each problem by L times what it would move them by.

    A step of gradient descent, or of a first approximation to Newton's, moves all values alike; images vary in a few
    smooth patterns more than in all others together. With L L^T their covariance, the other optimizer sees coordinates
    z in which they vary alike in all directions and the images are where they started plus L z.

    Args:
        params: the images ``[V, N, C, H, W]``, and what stays as it is.
        root: L, ``[D, D]``, of the D values of an image.
        make: makes the other optimizer of coordinates ``[V, N, D]`` and of what stays as it is.
    """

    def __init__(
        self, params: Iterable[Tensor], root: Tensor, make: Callable[[Iterable[Tensor]], RowOptimizer]
    ) -> None:
        super().__init__(params, 1.0)
        images, *others = self._params
        self._root, self._start = root, images.detach().clone()
        self._coordinates = torch.zeros_like(images.detach().flatten(2))
        self._optimizer = make([self._coordinates, *others])

    @property
    def stalled(self) -> Tensor:
        return self._optimizer.stalled

    @property
    def on_trial(self) -> Tensor:
        return self._optimizer.on_trial

    def reindex(self, rows: list[int]) -> None:
        super().reindex(rows)
        images = self._params[0].detach()
        self._start = rearrange(self._start, rows, images[[row for row, former in enumerate(rows) if former < 0]])
        self._coordinates.data = rearrange(self._coordinates.data, rows, torch.zeros_like(self._coordinates[:1]))
        self._optimizer.reindex(rows)

    def move(self, losses: Tensor, gradient: Tensor) -> None:
        images, size = self._params[0], self._coordinates[0].numel()
        of_images = gradient[:, :size].view_as(self._coordinates) @ self._root
        self._optimizer.move(losses, torch.cat([of_images.flatten(1), gradient[:, size:]], 1))
        images.copy_(self._start + (self._coordinates @ self._root.mT).view_as(images))
