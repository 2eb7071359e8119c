"""What several rounds say together, for what looks at one update alone."""

from dataclasses import replace

import torch
from torch import Tensor

from attacks.base import Observation


def pooled(observation: Observation) -> Observation:
    """The same victims with one update in place of those of all rounds, each tensor that of :func:`mean_of`."""
    if not observation.later:
        return observation
    return replace(observation, update={name: mean_of(observation, name) for name in observation.update}, later=())


def mean_of(observation: Observation, name: str) -> Tensor:
    """The mean ``[V, ...]`` of each entry of a tensor over the rounds in which it was shared and finite.

    Of noise that is drawn anew in each of R rounds one part in the root of R is left, and of what is known to be masked
    anew nearly all is there. That the network has moved on a little between rounds is left out.
    """
    if not observation.later:
        return observation.update[name]
    total, count = torch.zeros(2, *observation.update[name].shape).to(observation.update[name])
    for one in (observation, *observation.later):
        value = one.update[name]
        there = value.isfinite()
        if one.defense:
            there &= one.defense.kept_entries(one.update)[name] != 0
        total, count = total + torch.where(there, value, 0.0), count + there
    return total / count.clamp(min=1)
