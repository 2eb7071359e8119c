from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from defenses.base import Defense, KnownDefense, Update, coded_bytes, flattened, remembered
from defenses.interval import per_client


class Sign(Defense):
    """Shares of the smallest magnitudes of each tensor the signs, times their mean (Karimireddy et al. 2019).

    With a ratio of 1 it is the scaled sign of arXiv 1901.09847: signSGD (Bernstein et al. 2018, arXiv 1802.04434) with
    the mean magnitude of the tensor, without which the server could not average updates of different size. With less,
    the largest magnitudes are shared as they are. An entry that is exactly 0 stays 0.

    An attacker who knows it holds against a dummy entry what it is beyond 0 with the wrong sign, or beyond the smallest
    magnitude that was shared as it is, and against all together that their mean magnitude is another.

    Args:
        ratio: share of the entries of each tensor of which the sign alone is shared, from 0 to 1; 0 is no defense.
    """

    def __init__(self, ratio: float = 1.0) -> None:
        if not 0 <= ratio <= 1:
            raise ValueError(f"ratio is {ratio}, but must be from 0 to 1")
        self.ratio = ratio

    def protect(self, update: Update, generators: Sequence[torch.Generator]) -> Update:
        return {name: self._signs(value) for name, value in update.items()} if self.ratio else update

    def bytes_sent(self, shared: Update) -> Tensor:
        """A bit for each entry that is a sign; where others are not, another bit says which are."""
        if not self.ratio:
            return super().bytes_sent(shared)
        whole = 0.0 if self.ratio == 1 else 1 + 32 * (1 - self.ratio)
        return coded_bytes(shared, self.ratio + whole)

    def known_to_attacker(self) -> KnownDefense:
        if not self.ratio:
            return KnownDefense()
        told = remembered(self._told)

        def simulate(dummy: Update, observed: Update) -> Update:
            known = told(observed)
            return {name: known[name].held_against(value) for name, value in dummy.items()}

        def exact(observed: Update) -> Update:
            """1 for each entry that was shared as it is; for all of a tensor of which there are only signs."""
            known = {name: 1 - of.coarse for name, of in told(observed).items()}
            return {n: torch.where(per_client(flattened(one).any(1), one), one, 1.0) for n, one in known.items()}

        return KnownDefense(simulate=simulate, kept=exact)

    def _signs(self, value: Tensor) -> Tensor:
        coarse = self._coarse(value)
        return torch.where(coarse, value.sign() * mean_magnitude(value, coarse), value)

    def _count(self, flat: Tensor) -> int:
        """Of how many entries of a tensor ``[V, D]`` the sign alone is shared."""
        return round(self.ratio * flat.shape[1])

    def _coarse(self, value: Tensor) -> Tensor:
        """Whether an entry is among the smallest magnitudes of its tensor."""
        flat = flattened(value)
        smallest = flat.abs().argsort(dim=1, stable=True)[:, : self._count(flat)]
        return torch.zeros_like(flat, dtype=torch.bool).scatter(1, smallest, True).view_as(value)

    def _seen_as_coarse(self, shared: Tensor) -> Tensor:
        """The same of what was shared, where their mean is the largest of these; none where that is 0, as they are."""
        sizes = flattened(shared.abs())
        if not self._count(sizes):
            return torch.zeros_like(shared, dtype=torch.bool)
        largest = per_client(sizes.kthvalue(self._count(sizes), dim=1).values, shared)
        return (shared.abs() <= largest) & (largest > 0)

    def _told(self, observed: Update) -> "dict[str, Signs]":
        """What is known of each tensor."""
        found = {}
        for name, shared in observed.items():
            coarse, sizes = self._seen_as_coarse(shared), shared.abs()
            size = per_client(flattened(sizes * coarse).amax(1), shared)
            bound = flattened(sizes.masked_fill(coarse, torch.inf)).amin(1)
            sign = shared.sign() * coarse
            rest = torch.where(coarse, shared - sign * size, 0.0)
            found[name] = Signs(coarse.to(shared), sign, size, rest, per_client(bound, shared))
        return found


class Signs(NamedTuple):
    """What was shared of a tensor of each of V clients by :class:`Sign`.

    Attributes:
        coarse: 1 for each entry of which the sign alone was shared, ``[V, ...]``.
        sign: of these entries, 0 of the others.
        size: the magnitude that was shared in place of theirs, ``[V, 1, ...]``.
        rest: what others have added to them since, ``[V, ...]``.
        bound: the smallest magnitude that was shared as it is, ``[V, 1, ...]``; infinity where none was.
    """

    coarse: Tensor
    sign: Tensor
    size: Tensor
    rest: Tensor
    bound: Tensor

    def held_against(self, dummy: Tensor) -> Tensor:
        """What a client would have shared of the dummy entries ``[V, ...]``, so that it can be descended on.

        What is held against each is told at :class:`Sign`. All are off by what the mean magnitude is: one equation,
        with the weight of as many. It is all that pulls at an entry inside, as some are many times as large as the
        mean.
        """
        inside = (self.sign * dummy).clamp(torch.zeros_like(self.bound), self.bound)
        return dummy + (self.rest + self.sign * (mean_magnitude(dummy, self.coarse) - inside))


def mean_magnitude(value: Tensor, chosen: Tensor) -> Tensor:
    """Of the chosen entries of each client's tensor, ``[V, 1, ...]``."""
    total, count = flattened(value.abs() * chosen).sum(1), flattened(chosen).sum(1)
    return per_client(total / count.clamp(min=1), value)
