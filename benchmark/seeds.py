"""A seed for each victim and purpose, so that a victim is independent of the others and of the device."""

import hashlib

import torch


def seed_for(seed: int, victim: int, purpose: str) -> int:
    """A 63-bit seed that depends on nothing but the suite's seed, the victim's number and the purpose."""
    digest = hashlib.sha256(f"{seed}/{victim}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generators(seed: int, victims: range, purpose: str) -> list[torch.Generator]:
    """One source of randomness on the CPU for each victim."""
    return [torch.Generator().manual_seed(seed_for(seed, victim, purpose)) for victim in victims]
