"""A seed for each victim and purpose, so that a victim is independent of the others and of the device."""

import hashlib
from collections.abc import Iterable

import torch


def seed_for(seed: int, victim: int, purpose: str) -> int:
    """A 63-bit seed that depends on nothing but the suite's seed, the victim's number and the purpose."""
    digest = hashlib.sha256(f"{seed}/{victim}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator_for(seed: int, number: int, purpose: str) -> torch.Generator:
    """A source of randomness of its own, on the CPU, for a victim, a client or a round, and a purpose."""
    return torch.Generator().manual_seed(seed_for(seed, number, purpose))


def generators(seed: int, numbers: Iterable[int], purpose: str) -> list[torch.Generator]:
    """:func:`generator_for` each of some victims or clients."""
    return [generator_for(seed, number, purpose) for number in numbers]
