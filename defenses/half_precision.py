from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from defenses.base import Defense, KnownDefense, Update, coded_bytes, remembered
from defenses.interval import held_to

FORMATS = {"fp16": torch.float16, "bf16": torch.bfloat16}


class HalfPrecision(Defense):
    """Rounds every entry of the update to 16 bits (Zhu et al. 2019, arXiv 1906.08935, section 5.2).

    What is beyond the largest number of the format is that number. An attacker who knows it holds against a dummy entry
    what it is beyond all the numbers that are rounded to the shared one.

    Args:
        format: "fp16" (11 significant bits, down to 6e-8), "bf16" (8 significant bits), or "fp32", which is no defense.
    """

    def __init__(self, format: Literal["fp32", "fp16", "bf16"] = "fp16") -> None:
        if format not in ("fp32", *FORMATS):
            raise ValueError(f"format is {format!r}, but must be one of fp32, {', '.join(FORMATS)}")
        self.format = format

    def protect(self, update: Update, generators: Sequence[torch.Generator]) -> Update:
        if self.format == "fp32":
            return update
        short = FORMATS[self.format]
        largest = torch.finfo(short).max
        return {name: value.clamp(-largest, largest).to(short).to(value) for name, value in update.items()}

    def bytes_sent(self, shared: Update) -> Tensor:
        return super().bytes_sent(shared) if self.format == "fp32" else coded_bytes(shared, 16, scales=0)

    def known_to_attacker(self) -> KnownDefense:
        if self.format == "fp32":
            return KnownDefense()

        @remembered
        def intervals(observed: Update) -> dict[str, tuple[Tensor, Tensor]]:
            return {name: self._interval(value) for name, value in observed.items()}

        def simulate(dummy: Update, observed: Update) -> Update:
            known = intervals(observed)
            return {name: held_to(value, observed[name], *known[name]) for name, value in dummy.items()}

        return KnownDefense(simulate=simulate)

    def _interval(self, shared: Tensor) -> tuple[Tensor, Tensor]:
        """Half of the space between the numbers of the format on each side, and all that is beyond the largest one."""
        limits = torch.finfo(FORMATS[self.format])
        power = torch.frexp(shared.abs().clamp(min=limits.smallest_normal)).exponent - 1
        half = torch.ldexp(torch.full_like(shared, limits.eps / 2), power)
        upper = torch.where(shared >= limits.max, torch.inf, shared + half)
        return torch.where(shared <= -limits.max, -torch.inf, shared - half), upper
