import math
from collections.abc import Sequence

import torch
from torch import Tensor

from defenses.base import Defense, KnownDefense, Update


class ValueClipping(Defense):
    """Clipping of each entry to a range: the clamp of ``torch.nn.utils.clip_grad_value_``.

    An entry within the range is the gradient's own. One at the bound tells its sign and the least that it is, which an
    attacker who knows it holds against a dummy entry as far as that is short of the bound, and no further.

    Args:
        max_value: largest size of a shared entry, above 0; infinity (.inf) is no defense.
    """

    def __init__(self, max_value: float = 0.01) -> None:
        if not max_value > 0:
            raise ValueError(f"max_value is {max_value}, but must be above 0")
        self.max_value = max_value

    def protect(self, update: Update, generators: Sequence[torch.Generator]) -> Update:
        return {name: value.clamp(-self.max_value, self.max_value) for name, value in update.items()}

    def known_to_attacker(self) -> KnownDefense:
        if self.max_value == math.inf:
            return KnownDefense()
        return KnownDefense(simulate=self._simulate, kept=self._kept)

    def _is_within(self, observed: Tensor) -> Tensor:
        """Whether an entry was not clipped, also where it was brought to another precision since."""
        return observed.abs() < self.max_value * (1 - 1e-5)

    def _simulate(self, dummy: Update, observed: Update) -> Update:
        simulated = {}
        for name, value in dummy.items():
            seen = observed[name]
            short = torch.where(seen > 0, value.clamp(max=self.max_value), value.clamp(min=-self.max_value))
            simulated[name] = torch.where(self._is_within(seen), value, short)
        return simulated

    def _kept(self, observed: Update) -> Update:
        return {name: self._is_within(value).to(value) for name, value in observed.items()}
