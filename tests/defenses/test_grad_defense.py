"""GradDefense: its slices by a plain loop, and what an attacker tells of the noise in them."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from attacks import IDLG
from benchmark.seeds import generators
from defenses import GradDefense, Update
from defenses.base import flattened
from defenses.grad_defense import sensitivities


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.Sigmoid(), nn.Linear(12, 3))


def together(update: Update) -> Tensor:
    """``[V, D]``."""
    return torch.cat([flattened(value) for value in update.values()], 1)


def test_the_sensitivity_of_a_layer_is_the_derivative_of_its_gradients_sum() -> None:
    model = network()
    weights = {name: value.detach() for name, value in model.named_parameters()}
    images = torch.rand((4, 1, 4, 4), generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, 0])

    def total(pixels: Tensor, name: str) -> Tensor:
        def loss(own: Tensor) -> Tensor:
            return nn.functional.cross_entropy(functional_call(model, weights | {name: own}, (pixels,)), labels)

        return torch.func.grad(loss)(weights[name]).sum()

    found = sensitivities(model, weights, (1, 4, 4))
    for name in weights:
        of_images = torch.func.grad(total)(images, name).flatten(1).norm(dim=1)
        assert found[name] == pytest.approx(float(of_images.mean()), rel=1e-4, abs=1e-7)


def test_slices_follow_each_other_and_are_alike_in_sensitivity(victims_of: Any) -> None:
    _, _, seen = victims_of(2)
    defense = GradDefense(0.1, 7, 3)
    slices = defense._slices(seen.image_shape[1:], seen.model, seen.parameters, seen.update)
    assert all(slices[name].shape == value.shape for name, value in seen.update.items())
    for client in range(2):
        weights = {name: value[client] for name, value in seen.parameters.items()}
        each = sensitivities(seen.model, weights, seen.image_shape[1:])
        total, at, row = [0.0] * 7, 0.0, together(slices)[client].tolist()
        expected = []
        for name, value in seen.update.items():
            share = each[name] / value[client].numel()
            for _ in range(value[client].numel()):
                expected.append(min(6, int((at + share / 2) / sum(each.values()) * 7)))
                at += share
                total[expected[-1]] += share
        assert sum(one != other for one, other in zip(row, expected, strict=True)) <= 7  # rounding at their ends
        assert min(total) > 0.7 * sum(total) / 7 and row == sorted(row)


def test_some_slices_get_noise_and_the_others_none(victims_of: Any) -> None:
    _, _, plain = victims_of(3)
    defense = GradDefense(0.1, 10, 4)
    _, _, seen = victims_of(3, defense=defense)
    slices = together(defense._slices(plain.image_shape[1:], plain.model, plain.parameters, plain.update))
    off = together(seen.update) - together(plain.update)
    for client, source in enumerate(generators(0, range(3), "defense")):
        chosen = (torch.randperm(10, generator=source) < 4).nonzero()[:, 0]
        is_chosen = torch.isin(slices[client], chosen)
        noise = torch.cat([torch.randn(v.shape[1:], generator=source).flatten() for v in plain.update.values()])
        torch.testing.assert_close(off[client], 0.1 * noise * is_chosen, rtol=1e-3, atol=1e-6)


def test_an_attacker_leaves_out_the_noisy_slices_and_no_others_and_keeps_true_zeros(victims_of: Any) -> None:
    (_, _, plain), (_, _, oblivious), (_, _, seen) = (
        victims_of(4, defense=one, adaptive=knows)
        for one, knows in ((None, False), *[(GradDefense(0.1), k) for k in (False, True)])
    )
    clean = together(oblivious.update) == together(plain.update)
    kept = together(seen.defense.kept_entries(seen.update)) != 0
    assert (kept != clean).float().mean() < 0.01
    assert ((together(seen.update) - together(plain.update))[kept & clean].abs() < 1e-30).all()
    assert (torch.as_tensor(seen.defense.noise(seen.update)) == 0).all()


def test_where_the_noise_is_small_it_is_weighed_and_nothing_is_left_out(victims_of: Any) -> None:
    _, _, seen = victims_of(2, defense=GradDefense(1e-4, 10, 4), adaptive=True)
    assert together(seen.update).all()
    torch.testing.assert_close(seen.defense.noise(seen.update), torch.full((2,), 1e-4 * 0.4**0.5))
    _, _, every = victims_of(2, defense=GradDefense(0.1, 5, 5), adaptive=True)
    assert together(every.update).all() and (every.defense.noise(every.update) == 0.1).all()


def test_strength_0_is_the_identity(victims_of: Any) -> None:
    (_, _, plain), (_, _, seen) = victims_of(2), victims_of(2, defense=GradDefense(0), adaptive=True)
    assert torch.equal(together(seen.update), together(plain.update))
    assert not seen.defense.is_simulated and not GradDefense(0).hooks


@pytest.mark.parametrize(
    ("arguments", "said"),
    [((-1,), "std is"), ((float("nan"),), "std is"), ((0.1, 4, 5), "noisy is"), ((0.1, 4, 0), "noisy is")],
)
def test_an_argument_out_of_range_is_told(arguments: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        GradDefense(*arguments)


def test_the_loss_of_who_knows_it_is_0_at_the_private_images(victims_of: Any) -> None:
    def loss(adaptive: bool) -> Tensor:
        images, labels, seen = victims_of(4, defense=GradDefense(0.1), adaptive=adaptive)
        found = IDLG().loss_at(seen, images, labels)
        assert found is not None
        return found

    assert (loss(False) > 10).all() and (loss(True) < 1e-6).sum() >= 3
