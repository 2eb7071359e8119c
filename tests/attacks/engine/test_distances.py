"""Distances of updates against plain formulas."""

import math

import pytest
import torch
from torch import Tensor

from attacks.engine.distances import DISTANCES, kernel_distance
from defenses.base import Update

SHAPES = {"0.weight": (4, 2, 3, 3), "0.bias": (4,), "body.1.weight": (), "last.weight": (5, 4), "last.bias": (5,)}


def update(seed: int, victims: int = 3) -> Update:
    generator = torch.Generator().manual_seed(seed)
    return {n: torch.randn(victims, *s, generator=generator, dtype=torch.float64) for n, s in SHAPES.items()}


def squares(*tensors: Tensor) -> float:
    return sum(float(value) ** 2 for one in tensors for value in one.flatten())


def test_the_kernel_distance_is_that_of_a_loop_over_the_layers() -> None:
    first, second = update(0), update(1)
    for victim, found in enumerate(kernel_distance(first, second).tolist()):
        kernels = []
        for layer in (["0.weight", "0.bias"], ["body.1.weight"], ["last.weight", "last.bias"]):
            off = squares(*(first[name][victim] - second[name][victim] for name in layer))
            width = squares(*(second[name][victim] for name in layer))
            kernels.append(1 - math.exp(-off / width))
        assert found == pytest.approx(sum(kernels) / 3, rel=1e-12)


def test_the_width_of_a_kernel_is_the_size_of_the_layer_that_was_observed() -> None:
    first, second = update(0), update(1)
    scales = {"0": 1e-6, "body.1": 1.0, "last": 1e5}
    scaled = [{n: value * scales[n.rpartition(".")[0]] for n, value in of.items()} for of in (first, second)]
    torch.testing.assert_close(kernel_distance(scaled[0], scaled[1]), kernel_distance(first, second))


def test_a_layer_of_which_nothing_was_observed_does_not_count() -> None:
    first, second = update(0), update(1)
    hidden = second | {name: torch.zeros_like(second[name]) for name in ("last.weight", "last.bias")}
    dummy = {name: value.clone().requires_grad_() for name, value in first.items()}
    found = kernel_distance(dummy, hidden)
    seen = [{name: of[name] for name in list(SHAPES)[:3]} for of in (first, second)]
    torch.testing.assert_close(found, kernel_distance(seen[0], seen[1]))
    slopes = torch.autograd.grad(found.sum(), list(dummy.values()), allow_unused=True)
    assert all(slope is None or bool(slope.isfinite().all()) for slope in slopes)
    nothing = {name: torch.zeros_like(value) for name, value in second.items()}
    assert torch.equal(kernel_distance(first, nothing), torch.zeros(3, dtype=torch.float64))


def test_a_layer_that_was_observed_for_one_victim_alone_counts_for_it() -> None:
    first, second = update(0), update(1)
    hidden = second | {"last.bias": second["last.bias"].clone(), "last.weight": second["last.weight"].clone()}
    hidden["last.bias"][1], hidden["last.weight"][1] = 0, 0
    found, whole = kernel_distance(first, hidden), kernel_distance(first, second)
    assert torch.equal(found[[0, 2]], whole[[0, 2]]) and found[1] != whole[1]


@pytest.mark.parametrize("name", DISTANCES)
def test_every_distance_is_zero_at_the_update_alone_and_each_victims_own(name: str) -> None:
    first, second = update(0), update(1)
    together = DISTANCES[name](first, second)
    assert DISTANCES[name](second, second).abs().max() < 1e-12 and bool((together > 0.1).all())
    for victim in range(3):
        one, other = ({n: value[[victim]] for n, value in of.items()} for of in (first, second))
        torch.testing.assert_close(DISTANCES[name](one, other)[0], together[victim])


@pytest.mark.parametrize("name", DISTANCES)
def test_the_slopes_of_every_distance_are_those_of_finite_differences(name: str) -> None:
    """In what is observed too, as where a defense that is simulated draws it anew."""
    names = list(SHAPES)

    def distance(*values: Tensor) -> Tensor:
        first, second = values[: len(names)], values[len(names) :]
        return DISTANCES[name](dict(zip(names, first, strict=True)), dict(zip(names, second, strict=True)))

    given = [value.requires_grad_() for of in (update(0, 2), update(1, 2)) for value in of.values()]
    assert torch.autograd.gradcheck(distance, given)
