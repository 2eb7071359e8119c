"""How far what would be shared is from what was: the distances that attacks minimize."""

from collections.abc import Callable

import torch
from torch import Tensor

from attacks.gradients import squared_distance
from defenses.base import Update, flattened, global_norm


def cosine_distance(first: Update, second: Update) -> Tensor:
    """1 minus the cosine of the angle between all parameters together, ``[V]``, from 0 to 2.

    Of Geiping et al. 2020 (arXiv 2003.14053, eq. 4); the size of an update makes no difference.
    """
    product = torch.stack([flattened(value * second[name]).sum(1) for name, value in first.items()]).sum(0)
    sizes = global_norm(first) * global_norm(second)
    return 1 - product / sizes.clamp(min=torch.finfo(sizes.dtype).tiny)


DISTANCES: dict[str, Callable[[Update, Update], Tensor]] = {"squared": squared_distance, "cosine": cosine_distance}
"""By name, functions of two updates ``[V, ...]`` that give ``[V]``."""
