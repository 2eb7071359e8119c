from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from defenses.base import Defense, KnownDefense, Update, all_kept, coded_bytes, flattened, remembered
from defenses.interval import PULL, held_to, per_client

FULL = 32
"""Bits of an entry of an update that is not quantized."""

SLOW = 1e-3
"""Rate of an exponential distribution that is even from 0 to 1, up to rounding."""


class Quantization(Defense):
    """Rounds each tensor to whole multiples of a step, as int8 does (Zhu et al. 2019, arXiv 1906.08935, section 5.2).

    The multiples are those of a signed number of so many bits, symmetric about 0, and the largest magnitude of the
    tensor is the last of them: of 8 bits those from -127 to 127. An attacker who knows it reads the step from the
    largest magnitude, and holds against a dummy entry what it is beyond half a step from the shared one. Of a batch,
    too much of which is left open so, he takes the rounding error for noise.

    Args:
        bits: of each entry, from 2 to 32; 32 is no defense.
    """

    def __init__(self, bits: int = 8) -> None:
        if not 2 <= bits <= FULL:
            raise ValueError(f"bits is {bits}, but must be from 2 to {FULL}")
        self.bits = bits

    def protect(self, update: Update, generators: Sequence[torch.Generator]) -> Update:
        return {name: self._quantized(value) for name, value in update.items()} if self.bits < FULL else update

    def bytes_sent(self, shared: Update) -> Tensor:
        return coded_bytes(shared, self.bits) if self.bits < FULL else super().bytes_sent(shared)

    def known_to_attacker(self) -> KnownDefense:
        if self.bits >= FULL:
            return KnownDefense()
        intervals = remembered(self._intervals)

        def simulate(dummy: Update, observed: Update) -> Update:
            known = intervals(observed)
            return {name: held_to(value, observed[name], *known[name]) for name, value in dummy.items()}

        of_one_image = KnownDefense(simulate=simulate, noise_std=self._noise)
        of_batches = KnownDefense(noise_std=self._error, kept=all_kept)
        return replace(of_one_image, of_clients=lambda _, shape: of_one_image if shape[0] == 1 else of_batches)

    def _quantized(self, value: Tensor) -> Tensor:
        step = self._step(value)
        return (value / torch.where(step == 0, 1.0, step)).round() * step

    def _step(self, value: Tensor) -> Tensor:
        """The distance of neighboring levels, ``[V, 1, ...]``; 0 for a tensor of zeros."""
        return per_client(flattened(value).abs().amax(1) / (2 ** (self.bits - 1) - 1), value)

    def _noise(self, observed: Update) -> Tensor:
        """Standard deviation ``[V]``, over all entries, of what the simulation makes of the true ones.

        It pulls them by a share of the rounding error.
        """
        return PULL * self._error(observed)

    def _error(self, observed: Update) -> Tensor:
        """Standard deviation ``[V]`` of the rounding error, over all entries.

        It is uniform, but for entries that were rounded to zero, most of which are nearer to it: their magnitudes are
        taken for exponential ones, of which as many are beyond half a step as were shared.
        """
        squares, entries = [], 0
        for value in observed.values():
            shared = flattened(value != 0).double().mean(1)
            of_zeros = below_one(-shared.log()).where(shared > 0, 0.0)  # nothing is lost of a tensor of zeros
            of_each = shared / 3 + (1 - shared) * of_zeros
            half, count = flattened(self._step(value))[:, 0] / 2, value[0].numel()
            squares.append(count * of_each.to(half) * half.square())
            entries += count
        return (torch.stack(squares).sum(0) / entries).sqrt()

    def _intervals(self, observed: Update) -> dict[str, tuple[Tensor, Tensor]]:
        """What each entry was at least and at most."""
        found = {}
        for name, shared in observed.items():
            half, largest = self._step(shared) / 2, per_client(flattened(shared).abs().amax(1), shared)
            found[name] = (shared - half).maximum(-largest), (shared + half).minimum(largest)
        return found


def below_one(rate: Tensor) -> Tensor:
    """Mean square of an exponentially distributed number that is below 1, of the same shape.

    Args:
        rate: of the distribution, float64, at least 0; at 0 the number is uniform.
    """
    safe = rate.clamp(min=SLOW)
    return torch.where(rate < SLOW, 1 / 3, 2 / safe**2 - (1 + 2 / safe) / safe.expm1())
