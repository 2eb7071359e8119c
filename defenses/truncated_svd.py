from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from defenses.base import Defense, KnownDefense, Update, all_kept, remembered

Spaces = tuple[Tensor, Tensor]
"""Orthonormal bases of the columns ``[V, R, O]`` and the rows ``[V, R, I]`` of matrices; zeros beyond their rank."""


class Parts(NamedTuple):
    """The singular value decomposition of V matrices, and which of its parts count, ``[V, R]``."""

    left: Tensor
    sizes: Tensor
    right: Tensor
    counts: Tensor


class TruncatedSVD(Defense):
    """Shares of each tensor its largest singular values, the core of SVDefense (Luo et al. 2025, arXiv 2510.03319).

    A tensor ``[O, ...]`` is taken for a matrix with O rows, and cut to the smallest rank that has the energy; a bias
    has rank 1, and so has a linear layer's gradient of one image: both are shared as they are.

    The singular vectors that are shared are those of the true gradient G. So with the projections P and Q on them, P G
    and G Q are both what was shared: these are linear equations that the truncation of the dummy gradient, whose
    vectors turn with it, only implies at the end. All that is unknown is the block (1 - P) G (1 - Q), so an attacker
    who knows the defense matches all but that block.

    Args:
        energy: least share of the sum of a tensor's squared singular values that is shared, above 0 (only the largest)
            up to 1, which is no defense.
    """

    def __init__(self, energy: float = 0.9) -> None:
        if not 0 < energy <= 1:
            raise ValueError(f"energy is {energy}, but must be above 0 and at most 1")
        self.energy = energy

    def protect(self, update: Update, generators: Sequence[torch.Generator]) -> Update:
        return {name: self._truncated(value) for name, value in update.items()}

    def _truncated(self, value: Tensor) -> Tensor:
        if self.energy == 1 or not is_matrix(value):
            return value
        parts = decomposed(value)
        energy = parts.sizes.double().square()
        before = energy.cumsum(1) - energy
        needed = before < self.energy * energy.sum(1, keepdim=True)
        as_it_is = needed.all(1) | ~value.flatten(1).isfinite().all(1)
        return torch.where(as_it_is.view(-1, *[1] * (value.dim() - 1)), value, recomposed(parts, needed).view_as(value))

    def bytes_sent(self, shared: Update) -> Tensor:
        """Those of the singular vectors that are shared, or of the entries where these are fewer."""
        sent = torch.zeros(len(next(iter(shared.values()))), dtype=torch.long)
        for value in shared.values():
            entries = value[0].numel()
            rows = value.shape[1] if is_matrix(value) else 0
            rank = decomposed(value).counts.sum(1).cpu() if rows else torch.zeros_like(sent)
            factors = rank * (rows + entries // rows) if rows else torch.full_like(sent, entries)
            sent += factors.clamp(max=entries) * value.element_size()
        return sent

    def known_to_attacker(self) -> KnownDefense:
        if self.energy == 1:
            return KnownDefense()

        @remembered
        def spaces_of(observed: Update) -> dict[str, Spaces]:
            return {name: spaces(value) for name, value in observed.items() if is_matrix(value)}

        def simulate(dummy: Update, observed: Update) -> Update:
            known = spaces_of(observed)
            return {name: without_block(v, *known[name]) if name in known else v for name, v in dummy.items()}

        return KnownDefense(simulate=simulate, kept=all_kept)


def is_matrix(value: Tensor) -> bool:
    """Whether tensors ``[V, O, ...]`` can have a rank above 1."""
    return value.dim() > 2


def decomposed(value: Tensor) -> Parts:
    """The parts of tensors ``[V, O, ...]``, with 0 for NaN; those count that are more than rounding."""
    left, sizes, right = torch.linalg.svd(value.flatten(2).nan_to_num(0, 0, 0), full_matrices=False)
    rounding = max(left.shape[1], right.shape[2]) * torch.finfo(sizes.dtype).eps
    return Parts(left, sizes, right, sizes > rounding * sizes[:, :1])


def recomposed(parts: Parts, chosen: Tensor) -> Tensor:
    """The matrices ``[V, O, I]`` of some of their parts ``[V, R]``."""
    return (parts.left * (parts.sizes * chosen)[:, None]) @ parts.right


def spaces(observed: Tensor) -> Spaces:
    """The column and row spaces of what was shared of a tensor, ``[V, O, ...]``."""
    parts = decomposed(observed)
    return parts.left.mT * parts.counts[..., None], parts.right * parts.counts[..., None]


def without_block(value: Tensor, columns: Tensor, rows: Tensor) -> Tensor:
    """``G - (1 - P) G (1 - Q)`` of tensors G ``[V, O, ...]``; G itself where nothing was shared, as G is zero then."""
    matrix = value.flatten(2)
    inside = columns.mT @ (columns @ matrix)
    rest = matrix - inside
    found = inside + (rest @ rows.mT) @ rows
    is_zero = ~columns.flatten(1).any(1)
    return torch.where(is_zero[:, None, None], matrix, found).view_as(value)
