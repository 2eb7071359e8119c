"""Memory is counted as it is taken and let go."""

from collections.abc import Callable
from typing import Any

import torch

from attacks import IDLG
from benchmark.jobs import memory
from benchmark.jobs.memory import bytes_per_victim, free_bytes, peak_bytes

MakeVictims = Callable[..., Any]


def test_the_peak_is_of_what_is_alive_at_a_time() -> None:
    def work() -> None:
        first = torch.zeros(1000)  # 4,000 bytes
        second = first + 1  # and 4,000 more
        del first
        third = second.double()  # in place of the first, 8,000
        third.view(-1)[:10].add_(1)  # no new memory
        del second, third
        torch.ones(10)

    assert peak_bytes(work) == 12_000


def test_a_victim_is_the_slope_over_victims() -> None:
    assert bytes_per_victim(lambda count: torch.zeros(5000 + 250 * count)) == 1000


def test_the_history_is_most_of_an_attack(victims_of: MakeVictims) -> None:
    """100 pairs of 64 values in float32 are 51,200 bytes, and the 10,000 for the gradients' graph are few."""

    def attack(history_size: int) -> int:
        def run(count: int) -> None:
            IDLG(max_evaluations=3, tolerance=0, history_size=history_size).reconstruct(victims_of(count).observation)

        return bytes_per_victim(run)

    small, large = attack(10), attack(110)
    history = 100 * 2 * 64 * 4
    products = 2 * (110**2 - 10**2) * 8  # the two small matrices in float64
    assert large - small > history + products
    assert large - small < 6 * (history + products)  # the small ones are copied as they are shifted


def test_free_memory_is_within_the_limit_of_a_control_group(monkeypatch: Any) -> None:
    whole = free_bytes(torch.device("cpu"))
    assert whole > 2**20
    monkeypatch.setattr(memory, "file_cache", lambda path: 1024)  # which the kernel gives back
    limits = {"memory.max": 3 * 2**20 - 1024, "memory.current": 2**20}
    monkeypatch.setattr(memory, "read_number", lambda path: limits[path.name])
    assert free_bytes(torch.device("cpu")) == 2 * 2**20
    limits["memory.max"] = 2**60
    assert free_bytes(torch.device("cpu")) > 2 * 2**20
