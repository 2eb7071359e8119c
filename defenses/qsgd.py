import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from defenses.base import Defense, KnownDefense, Update, all_kept, coded_bytes, flattened, remembered
from defenses.interval import per_client

SMOOTH = 0.02
"""Steps over which the kink of the likelihood is smoothed where an entry is what was shared."""

TINY = 1e-12
"""So that a square root has a slope at 0."""

EDGE = 0.9
"""Steps from what was shared beyond which minus the logarithm of the likelihood goes on as a parabola: it is infinite
at 1, where no start could be. Of 64 digits that no board attacks, Wiener finds 9 behind 4 levels with 0.7, 15 with 0.9
and 17 with 0.97, where attacks that have no prior begin to stall."""


class QSGD(Defense):
    """Rounds each tensor at random to levels of its norm, right on average (Alistarh et al. 2017, arXiv 1610.02132).

    With s levels, an entry v of a tensor of L2 norm n lies between two neighboring multiples of n / s. One of them is
    shared, with such probabilities that its mean is v.

    An attacker who knows it reads the distance of neighboring levels from what was shared. A value that is d of these
    distances from a level is rounded to it with a probability of 1 - d: he holds -log(1 - d) against a dummy entry, as
    half its squared distance in parts of the variance of the rounding. Of a batch, where a descent would end at the
    edge that this has at each level, he takes the rounding error for noise.

    Args:
        levels: s, at least 1; infinity (.inf) is no defense. With 1 there are the norm, its negative and 0.
    """

    def __init__(self, levels: float = 16) -> None:
        if not (levels >= 1 and (levels == math.inf or levels == int(levels))):
            raise ValueError(f"levels is {levels}, but must be a whole number of at least 1, or infinity")
        self.levels = levels

    def protect(self, update: Update, generators: Sequence[torch.Generator]) -> Update:
        if self.levels == math.inf:
            return update
        rounded = {}
        for name, value in update.items():
            uniform = torch.stack([torch.rand(value.shape[1:], generator=g) for g in generators]).to(value)
            step = per_client(flattened(value).norm(dim=1) / self.levels, value)
            multiple = value.abs() / torch.where(step == 0, 1.0, step)
            rounded[name] = value.sign() * (multiple.floor() + (uniform < multiple.frac())) * step
        return rounded

    def bytes_sent(self, shared: Update) -> Tensor:
        """A sign and one of ``levels + 1`` multiples for each entry."""
        if self.levels == math.inf:
            return super().bytes_sent(shared)
        return coded_bytes(shared, 1 + math.ceil(math.log2(self.levels + 1)))

    def known_to_attacker(self) -> KnownDefense:
        if self.levels == math.inf:
            return KnownDefense()
        noise = remembered(self._noise)

        @remembered
        def steps(observed: Update) -> Update:
            return {name: per_client(self._step(value), value) for name, value in observed.items()}

        def simulate(dummy: Update, observed: Update) -> Update:
            size, step = noise(observed), steps(observed)
            size = torch.where(size == 0, 1.0, size)  # 0 where a tensor happens to be all at its levels
            simulated = {}
            for name, value in dummy.items():
                off = (value - observed[name]) / torch.where(step[name] == 0, 1.0, step[name])
                distance = per_client(size, value) * off.sign() * (2 * surprise(off) + TINY).sqrt()
                simulated[name] = torch.where(step[name] == 0, value, observed[name] + distance)
            return simulated

        of_batches = KnownDefense(noise_std=noise, kept=all_kept)
        of_one_image = replace(of_batches, simulate=simulate)
        return replace(of_one_image, of_clients=lambda _, shape: of_one_image if shape[0] == 1 else of_batches)

    def _noise(self, observed: Update) -> Tensor:
        """Standard deviation ``[V]`` over all entries.

        An entry that is a share of the way from one level to the next has a noise of share * (1 - share) squared steps:
        a sixth on average. For those below the first level the mean share is known, as what was shared of them is right
        on average. If it is large, all of it is told better by how much longer than its norm a tensor has become.
        """
        squares, entries = [], 0
        for value in observed.values():
            step = self._step(value)
            multiples = flattened(value).abs() / torch.where(step == 0, 1.0, step)[:, None]
            low = multiples < 1.5
            count, mean = low.sum(1), (multiples * low).sum(1) / low.sum(1).clamp(min=1)
            typical = count * (mean * (1 - mean)).clamp(0, 1 / 6) + (~low).sum(1) / 6
            longer = (multiples.square().sum(1) - self.levels**2).minimum(typical).clamp(min=0)
            squares.append(torch.where(self.levels < typical, longer, typical) * step.square())
            entries += multiples.shape[1]
        return (torch.stack(squares).sum(0) / entries).sqrt()

    def _step(self, shared: Tensor) -> Tensor:
        """The distance of neighboring levels ``[V]`` of what was shared of a tensor; 0 where that is all zeros.

        The smallest magnitude is one step, or a few where the levels are so fine that their norm is that of the tensor;
        of so few entries that none of them is one step, another may be read.
        """
        flat = flattened(shared).abs()
        smallest = torch.where(flat == 0, torch.inf, flat).amin(1)
        smallest = torch.where(smallest.isfinite(), smallest, 0.0)
        size = flat.norm(dim=1)
        steps = (smallest * self.levels / torch.where(size == 0, 1.0, size)).round().clamp(min=1)
        return smallest / steps


def surprise(off: Tensor) -> Tensor:
    """Minus the logarithm of the probability that an entry which is off by so many steps is rounded to what was shared,
    continued beyond :data:`EDGE`; of any shape."""
    distance = (off.square() + SMOOTH**2).sqrt() - SMOOTH
    beyond, slope = (distance - EDGE).clamp(min=0), 1 / (1 - EDGE)
    return -torch.log1p(-distance.clamp(max=EDGE)) + slope * beyond + (slope * beyond).square() / 2
