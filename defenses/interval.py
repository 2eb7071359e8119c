"""What a coarse value tells of the true one: an interval that holds it."""

import torch
from torch import Tensor

PULL = 0.01
"""Weight of how far a dummy entry is from what was shared, while it is where the true one may be. What is beyond an
edge counts fully, so that this says how hard the edge is: of 64 digits that no board attacks, Wiener finds 52 with 0.03
behind two bits, and 61 with 0.01 or 0.003, with which small steps inside hardly move what would be shared."""


def held_to(dummy: Tensor, shared: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """What a client would have shared of the dummy entries, so that it can be descended on.

    All that an entry is outside of its interval by is held against it. Inside it is pulled to what was shared, but only
    a little: the true one may be anywhere there, yet without any slope nothing would tell such entries apart.

    Args:
        dummy: ``[V, ...]``.
        shared: the coarse values, of the same shape.
        lower: of the intervals around them, likewise.
        upper: likewise.
    """
    inside = torch.minimum(torch.maximum(dummy, lower), upper)
    return shared + (dummy - inside) + PULL * (inside - shared)


def per_client(factor: Tensor, like: Tensor) -> Tensor:
    """``[V]`` as ``[V, 1, ...]``, to be multiplied with values ``[V, ...]``."""
    return factor.view(-1, *[1] * (like.dim() - 1))
