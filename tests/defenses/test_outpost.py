"""OUTPOST: what it prunes and where it adds noise by a plain loop, and what an attacker keeps."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attacks import IDLG
from benchmark.seeds import generators
from defenses import OUTPOST, Pruning, Update


def by_loop(update: Update, weights: Update, defense: OUTPOST, source: torch.Generator) -> tuple[Update, Update]:
    """What one client shares, and which of its entries have noise."""
    information = {n: (v.square().mean(0) if v.dim() > 1 else v.square().mean()).flatten() for n, v in update.items()}
    columns = sorted(((float(x), n, c) for n, v in information.items() for c, x in enumerate(v)), reverse=True)
    chosen = {(n, c) for _, n, c in columns[: round(defense.share * len(columns))]}
    shared, noisy = {}, {}
    for name, value in update.items():
        rows = value.reshape(len(value) if value.dim() > 1 else 1, -1) if value.dim() > 1 else value[:, None]
        where = torch.zeros_like(rows)
        for column in range(rows.shape[1]):
            where[:, column] = float((name, column) in chosen)
        pruned = value.flatten().clone()
        pruned[value.abs().flatten().argsort(stable=True)[: round(defense.ratio * value.numel())]] = 0
        std = defense.noise * min(1.0, float(weights[name].var()))
        noise = torch.randn(value.shape, generator=source)
        noisy[name] = where.view(value.shape) * std
        shared[name] = pruned.view(value.shape) + noise * noisy[name]
    return shared, noisy


def test_what_a_client_shares_is_that_of_a_plain_loop(victims_of: Any) -> None:
    for shared in (False, True):
        defense = OUTPOST(0.5, 0.3, 0.7)
        (_, _, plain), (_, _, seen) = (victims_of(3, defense=one, shared=shared) for one in (None, defense))
        for client, source in enumerate(generators(0, range(3), "defense")):
            own = {name: value if shared else value[client] for name, value in plain.parameters.items()}
            made, _ = by_loop({name: value[client] for name, value in plain.update.items()}, own, defense, source)
            for name, value in made.items():
                torch.testing.assert_close(seen.update[name][client], value, rtol=1e-4, atol=1e-6)


def test_an_attacker_keeps_what_was_not_pruned_and_has_no_noise(victims_of: Any) -> None:
    defense = OUTPOST(0.1)
    (_, _, plain), (_, _, seen) = (victims_of(3, defense=one, adaptive=one is not None) for one in (None, defense))
    kept = seen.defense.kept_entries(seen.update)
    pruned = Pruning(0.8).protect(plain.update, [])
    for client, source in enumerate(generators(0, range(3), "defense")):
        own = {name: value[client] for name, value in plain.parameters.items()}
        made, noisy = by_loop({name: value[client] for name, value in plain.update.items()}, own, defense, source)
        for name, std in noisy.items():
            expected = (std == 0) & (pruned[name][client] != 0)
            assert ((kept[name][client] != 0) != expected).float().mean() < 0.02, name
            where = expected & (kept[name][client] != 0)
            torch.testing.assert_close(seen.update[name][client][where], made[name][where])


@pytest.mark.parametrize("defense", [OUTPOST(0, 0.4, 0), OUTPOST(0.8, 0, 0)])
def test_without_noise_and_pruning_it_is_the_identity(victims_of: Any, defense: OUTPOST) -> None:
    (_, _, plain), (_, _, seen) = victims_of(2), victims_of(2, defense=defense, adaptive=True)
    assert all(torch.equal(seen.update[name], value) for name, value in plain.update.items())
    assert not seen.defense.is_simulated and not defense.hooks


@pytest.mark.parametrize(
    ("arguments", "said"),
    [((-1,), "noise is"), ((float("inf"),), "noise is"), ((1, 1.1), "share is"), ((1, 0.5, 1.0), "ratio is")],
)
def test_an_argument_out_of_range_is_told(arguments: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        OUTPOST(*arguments)


def test_clients_of_fedavg_are_refused_in_one_sentence() -> None:
    with pytest.raises(ValueError, match="give FedSGD"):
        OUTPOST().check_clients(nn.Linear(2, 2), (1, 1, 8, 8), True, False)
    OUTPOST(0, 0, 0).check_clients(nn.Linear(2, 2), (1, 1, 8, 8), True, False)


def test_the_loss_of_who_knows_it_is_0_at_the_private_images(victims_of: Any) -> None:
    def loss(adaptive: bool) -> Tensor:
        images, labels, seen = victims_of(4, defense=OUTPOST(0.1), adaptive=adaptive)
        found = IDLG().loss_at(seen, images, labels)
        assert found is not None
        return found

    assert (loss(True) < 1e-9).all() and (loss(False) > 0.1).all()
