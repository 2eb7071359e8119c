from collections.abc import Sequence

import torch
from torch import Tensor

from defenses.base import Defense, KnownDefense, Update, flattened
from defenses.interval import held_to, per_client

FULL = 32
"""Bits of an entry of an update that is not quantized."""


class Quantization(Defense):
    """Rounds each tensor to whole multiples of a step, as int8 does (Zhu et al. 2019, arXiv 1906.08935, section 5.2).

    The multiples are those of a signed number of so many bits, symmetric about 0, and the largest magnitude of the
    tensor is the last of them: of 8 bits those from -127 to 127. An attacker who knows it reads the step from the
    largest magnitude, and holds against a dummy entry what it is beyond half a step from the shared one.

    Args:
        bits: of each entry, from 2 to 32; 32 is no defense.
    """

    def __init__(self, bits: int = 8) -> None:
        if not 2 <= bits <= FULL:
            raise ValueError(f"bits is {bits}, but must be from 2 to {FULL}")
        self.bits = bits

    def protect(self, update: Update, generators: Sequence[torch.Generator]) -> Update:
        return {name: self._quantized(value) for name, value in update.items()} if self.bits < FULL else update

    def known_to_attacker(self) -> KnownDefense:
        return KnownDefense(simulate=self._simulate) if self.bits < FULL else KnownDefense()

    def _quantized(self, value: Tensor) -> Tensor:
        step = self._step(value)
        return (value / torch.where(step == 0, 1.0, step)).round() * step

    def _step(self, value: Tensor) -> Tensor:
        """The distance of neighboring levels, ``[V, 1, ...]``; 0 for a tensor of zeros."""
        return per_client(flattened(value).abs().amax(1) / (2 ** (self.bits - 1) - 1), value)

    def _simulate(self, dummy: Update, observed: Update) -> Update:
        simulated = {}
        for name, value in dummy.items():
            shared, half = observed[name], self._step(observed[name]) / 2
            largest = per_client(flattened(shared).abs().amax(1), shared)
            lower, upper = (shared - half).maximum(-largest), (shared + half).minimum(largest)
            simulated[name] = held_to(value, shared, lower, upper)
        return simulated
