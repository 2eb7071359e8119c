"""Functions as defenses: each client alone, and what an attacker makes of them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmark.seeds import generators
from defenses import Update
from defenses.base import unchanged
from defenses.function import FunctionDefense

Client = dict[str, Tensor]


def updates(clients: int = 3) -> Update:
    source = torch.Generator().manual_seed(7)
    shapes: dict[str, tuple[int, ...]] = {"weight": (4, 3), "bias": (4,), "temperature": ()}
    return {name: torch.randn(clients, *shape, generator=source) for name, shape in shapes.items()}


def clipped(update: Client, bound: float = 1.0) -> Client:
    """By the norm of all that it is given, as a client does it."""
    size = torch.stack([g.square().sum() for g in update.values()]).sum().sqrt()
    return {name: g * (bound / size).clamp(max=1) for name, g in update.items()}


def noisy(update: Client, generator: torch.Generator, std: float = 1.0) -> Client:
    return {name: g + std * torch.randn(g.shape, generator=generator) for name, g in update.items()}


def test_each_client_is_given_its_own_update_and_generator() -> None:
    given, sources = updates(), generators(0, range(3), "defense")
    for made, alone in (
        (FunctionDefense(clipped, bound=0.5), [{"bound": 0.5}] * 3),
        (FunctionDefense(noisy, True, std=2.0), [{"std": 2.0, "generator": own} for own in sources]),
    ):
        shared = made.protect(given, generators(0, range(3), "defense"))
        for client in range(3):
            own = {name: g[client] for name, g in given.items()}
            wanted = made.function(own, **alone[client])
            assert all(torch.equal(shared[name][client], wanted[name]) for name in given)


def test_a_norm_over_all_that_it_is_given_is_that_of_one_client() -> None:
    """Of a class that is given all clients, this is the mistake that the contract finds."""
    shared = FunctionDefense(clipped, bound=0.5).protect(updates(), generators(0, range(3), "defense"))
    sizes = torch.stack([g.reshape(3, -1).square().sum(1) for g in shared.values()]).sum(0).sqrt()
    torch.testing.assert_close(sizes, torch.full((3,), 0.5))


@pytest.mark.parametrize(
    ("function", "slope"),
    [
        (lambda u: {n: 0.5 * g for n, g in u.items()}, 0.5),
        (lambda u: {n: 1e-30 * g for n, g in u.items()}, 1e-30),
        (lambda u: {n: g.sign() for n, g in u.items()}, 1.0),
        (lambda u: {n: (g * 8).round() / 8 for n, g in u.items()}, 1.0),
        (lambda u: {n: g.detach() * 3 for n, g in u.items()}, 1.0),
        (lambda u: {n: torch.as_tensor(g.numpy() * 2) for n, g in u.items()}, 1.0),
    ],
    ids=["half", "tiny", "sign", "rounded", "detached", "numpy"],
)
def test_an_attacker_does_the_same_and_has_a_slope(function: Callable[[Client], Client], slope: float) -> None:
    made, given = FunctionDefense(function), updates()
    shared = made.protect(given, generators(0, range(3), "defense"))
    dummy = {name: g.clone().requires_grad_() for name, g in given.items()}
    simulated = made.known_to_attacker().simulate(dummy, shared)
    for name, value in simulated.items():
        torch.testing.assert_close(value.detach(), shared[name])
        (found,) = torch.autograd.grad(value.sum(), dummy[name], retain_graph=True)
        torch.testing.assert_close(found, torch.full_like(found, slope))


def test_where_one_tensor_has_no_slope_another_keeps_its_own() -> None:
    made = FunctionDefense(lambda u: {n: g.sign() if n == "bias" else 0.25 * g for n, g in u.items()})
    dummy = {name: g.clone().requires_grad_() for name, g in updates().items()}
    simulated = made.known_to_attacker().simulate(dummy, updates())
    slopes = {n: torch.autograd.grad(v.sum(), dummy[n], retain_graph=True)[0].unique() for n, v in simulated.items()}
    assert {name: float(one) for name, one in slopes.items()} == {"weight": 0.25, "bias": 1.0, "temperature": 0.25}


def test_what_was_removed_is_no_equation() -> None:
    made = FunctionDefense(lambda u: {n: g * (g > 0) for n, g in u.items()})
    shared = made.protect(updates(), generators(0, range(3), "defense"))
    kept = made.known_to_attacker().kept_entries(shared)
    assert all(torch.equal(kept[name] != 0, g > 0) for name, g in updates().items())


def test_of_a_function_that_draws_an_attacker_has_no_model() -> None:
    assert FunctionDefense(noisy, True).known_to_attacker().simulate is unchanged


@pytest.mark.parametrize(
    ("function", "shared"),
    [
        (lambda u: None, None),
        (lambda u: {"weight": u["weight"]}, {"weight": (3, 4, 3)}),
        (lambda u: {n: g[:1] if g.dim() else g for n, g in u.items()}, {"weight": (3, 1, 3), "bias": (3, 1)}),
    ],
)
def test_another_form_is_left_to_be_refused(function: Callable[[Client], Any], shared: Any) -> None:
    found: Any = FunctionDefense(function).protect(updates(), generators(0, range(3), "defense"))
    if shared is None:
        assert found is None
    else:
        assert {n: tuple(found[n].shape) for n in shared} == shared
