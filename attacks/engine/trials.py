"""Several starts of each victim side by side, of which the attack keeps the one with the lowest loss of its own."""

from dataclasses import replace

import torch

from attacks.base import Observation, Reconstruction


def repeated(observation: Observation, trials: int) -> Observation:
    """Each of V victims so many times after each other, with seeds of their own; the first one keeps the victim's."""
    rows = [victim for victim in range(observation.num_victims) for _ in range(trials)]
    return replace(observation.take(rows), seeds=[one for seed in observation.seeds for one in seeds(seed, trials)])


def seeds(seed: int, trials: int) -> list[int]:
    """One for each trial of a victim, the same for any number of trials."""
    generator = torch.Generator().manual_seed(seed)
    return [seed, *(int(torch.randint(2**62, (), generator=generator)) for _ in range(trials - 1))]


def best_of(found: Reconstruction, trials: int) -> Reconstruction:
    """Of the trials of each victim that of the lowest loss; evaluations are those of all of them.

    Args:
        found: of what :func:`repeated` makes, ``[V * trials, ...]``.
        trials: of each victim.
    """
    losses = found.loss.nan_to_num(torch.inf).unflatten(0, (-1, trials))
    rows = (losses.argmin(1) + trials * torch.arange(len(losses), device=losses.device)).tolist()
    return replace(found.take(rows), evaluations=found.evaluations.unflatten(0, (-1, trials)).sum(1))
