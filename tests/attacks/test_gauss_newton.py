"""Gauss-Newton: its step against a dense solver, its prior against autograd, and what it finds that L-BFGS does not."""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from attacks import IDLG, GaussNewton, MeanImage, Reconstruction
from attacks.gauss_newton import chained, damped_step, derivative, even_shares, roughness, smoothness
from benchmark.jobs.memory import bytes_per_victim
from benchmark.models import MLP, ConvNet, LeNet
from benchmark.models.draw import Model
from defenses import Clipping, GaussianNoise, Masking, Pruning, Sign, Update
from defenses.function import FunctionDefense

MakeVictims = Callable[..., Any]


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


def mse(found: Reconstruction, images: Tensor) -> Tensor:
    return (found.images - images).square().mean((1, 2, 3, 4))


@pytest.mark.parametrize("equations", [5, 60])  # fewer than the 2 x 12 pixels, and more
def test_a_step_solves_the_normal_equations(equations: int) -> None:
    residual, jacobian, slope = random(equations), random(equations, 24), random(2, 12)
    root = random(2, 12, 12)
    curvature = root @ root.mT + 0.1 * torch.eye(12, dtype=torch.float64)
    matrix = jacobian.T @ jacobian + torch.block_diag(*curvature)
    expected = torch.linalg.solve(matrix, -(jacobian.T @ residual + slope.flatten()))
    torch.testing.assert_close(damped_step(residual, jacobian, slope, curvature).flatten(), expected)


def test_a_step_that_cannot_be_made_is_no_error() -> None:
    eye, nothing = torch.eye(4, dtype=torch.float64).expand(2, 4, 4), torch.full((2, 4, 4), torch.nan).double()
    assert not damped_step(random(3), random(3, 8) * torch.nan, random(2, 4), eye).isfinite().any()
    assert not damped_step(random(3), random(3, 8), random(2, 4), nothing).isfinite().any()


def test_the_quadratic_touches_the_prior_from_above() -> None:
    image = 0.5 + random(3, 5, 6)  # some pixels are outside [0, 1]
    leaf = image.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(roughness(leaf), leaf)
    slope, curvature = smoothness(image)
    torch.testing.assert_close(2 * slope.view_as(image), gradient)
    assert (torch.linalg.eigvalsh(curvature) > -1e-9).all()
    inside = image.clamp(0.2, 0.8)  # where the box costs nothing, at the image and after small steps
    slope, curvature = smoothness(inside)
    for seed in range(20):
        step = 0.2 * (torch.rand(3, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) - 0.5)
        bound = roughness(inside) + 2 * (slope * step).sum() + (step[:, None] @ curvature @ step[..., None]).sum()
        assert roughness(inside + step.view_as(inside)) <= bound + 1e-9


def test_digits_are_found_in_a_few_iterations_with_every_mask_that_leaves_enough(victims_of: MakeVictims) -> None:
    for defense in (None, Masking(0.5), Masking(0.5, rescale=True), Pruning(0.5), Clipping(0.1)):
        images, labels, seen = victims_of(2, defense=defense, adaptive=defense is not None)
        found = GaussNewton().reconstruct(seen)
        assert (mse(found, images) < 1e-6).all(), defense
        assert torch.equal(found.labels, labels)


def test_behind_a_mask_it_finds_exactly_what_lbfgs_finds_nearly(victims_of: MakeVictims) -> None:
    images, _, seen = victims_of(3, defense=Masking(0.97), adaptive=True)
    nearly = mse(IDLG(max_evaluations=500, start="mean", total_variation=1e-5).reconstruct(seen), images)
    assert ((nearly > 1e-6) & (nearly < 1e-3)).all()
    assert (mse(GaussNewton().reconstruct(seen), images) < 1e-8).all()


@pytest.mark.parametrize("model", [LeNet, MLP])
def test_of_signs_and_exact_entries_it_takes_the_exact_ones(model: type[Model], victims_of: MakeVictims) -> None:
    images, _, seen = victims_of(4, model=model, defense=Sign(0.9), adaptive=True)
    assert (mse(GaussNewton().reconstruct(seen), images) < 1e-8).all()


def test_one_who_does_not_know_the_mask_finds_nothing(victims_of: MakeVictims) -> None:
    images, _, seen = victims_of(2, defense=Masking(0.5), adaptive=False)
    assert (mse(GaussNewton().reconstruct(seen), images) > 0.01).all()


def test_a_wrong_update_is_not_found(victims_of: MakeVictims) -> None:
    images, _, seen = victims_of(2)
    shifted = {name: value.roll(1, 0) for name, value in seen.update.items()}
    assert (mse(GaussNewton().reconstruct(replace(seen, update=shifted)), images) > 0.01).all()


def test_entries_are_drawn_from_each_tensor_alike() -> None:
    assert even_shares([900, 12, 47616, 62], 1000) == [463, 12, 463, 62]
    assert even_shares([3, 4], 100) == [3, 4]
    assert even_shares([5, 5, 5], 1) == [0, 0, 1] and even_shares([0, 7], 3) == [0, 3]


def test_equations_are_drawn_up_to_the_limit(victims_of: MakeVictims) -> None:
    images, _, seen = victims_of(3)
    found = GaussNewton(iterations=2, max_equations=30).reconstruct(seen)
    assert ((found.evaluations >= 1 + 2 * (30 + 1)) & (found.evaluations < 1 + 2 * (30 + 9))).all()
    more = GaussNewton(max_equations=3000).reconstruct(seen)
    assert (mse(more, images) < 1e-6).all() and (mse(found, images) > 1e-4).all()


def test_the_prior_weighs_no_less_than_noise_calls_for(victims_of: MakeVictims) -> None:
    images, _, seen = victims_of(4, defense=GaussianNoise(0.01), adaptive=True)
    told = mse(GaussNewton(max_equations=3000).reconstruct(seen), images)
    not_told = mse(GaussNewton(max_equations=3000).reconstruct(replace(seen, defense=None)), images)
    assert told.mean() < not_told.mean()


@pytest.mark.parametrize("start", ["mean", "constant", "noise"])
def test_a_victim_is_attacked_the_same_alone_beside_others_and_twice(start: str, victims_of: MakeVictims) -> None:
    seen = victims_of(5, defense=Masking(0.9), adaptive=True).observation
    attack = GaussNewton(iterations=3, max_equations=40, start=start)
    block = attack.reconstruct(seen)
    order = [3, 0, 4]
    others = GaussNewton(iterations=3, max_equations=40, start=start).reconstruct(seen.take(order))
    for name in ("images", "labels", "loss", "evaluations"):
        assert torch.equal(getattr(block, name)[order], getattr(others, name)), name
    assert block.starts == [start] * 5


def test_it_can_start_where_it_is_told_to(victims_of: MakeVictims) -> None:
    seen = victims_of(3, defense=Masking(0.9), adaptive=True).observation
    mean = MeanImage().reconstruct(seen).images
    given = GaussNewton(iterations=2, start="noise").reconstruct(seen, start_images=mean)
    usual = GaussNewton(iterations=2).reconstruct(seen)
    assert torch.equal(given.images, usual.images) and torch.equal(given.loss, usual.loss)


def test_what_it_was_given_stays_as_it_was(victims_of: MakeVictims) -> None:
    seen = victims_of(2).observation
    given = [*seen.parameters.values(), *seen.update.values(), *seen.model.parameters()]
    before = [value.detach().clone() for value in given]
    GaussNewton(iterations=2).reconstruct(seen)
    assert all(torch.equal(old, new) for old, new in zip(before, given, strict=True))
    assert all(old.dtype == new.dtype for old, new in zip(before, given, strict=True))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", ["update", "parameters"])
def test_a_victim_that_diverges_disturbs_no_other(where: str, value: float, victims_of: MakeVictims) -> None:
    seen = victims_of(3).observation
    tensors = {name: tensor.clone() for name, tensor in getattr(seen, where).items()}
    next(iter(tensors.values()))[1].view(-1)[:] = value
    attack = GaussNewton(iterations=2, max_equations=3000)
    healthy, found = attack.reconstruct(seen), attack.reconstruct(replace(seen, **{where: tensors}))
    assert found.status == ["exhausted", "diverged", "exhausted"] and found.loss[1] == torch.inf
    assert found.images.isfinite().all()
    assert torch.equal(found.images[[0, 2]], healthy.images[[0, 2]])


def test_nothing_left_of_an_update_is_no_error(victims_of: MakeVictims) -> None:
    seen = victims_of(2, defense=Masking(0.9), adaptive=True).observation
    nothing = replace(seen, update={name: torch.zeros_like(value) for name, value in seen.update.items()})
    found = GaussNewton(iterations=2).reconstruct(nothing)
    assert found.status == ["stalled", "stalled"] and torch.equal(found.images, MeanImage().reconstruct(seen).images)


def test_the_iterate_of_the_lowest_loss_is_returned(victims_of: MakeVictims) -> None:
    images, labels, seen = victims_of(6, dtype=torch.float64, defense=Masking(0.99), adaptive=True)
    found = GaussNewton().reconstruct(seen, start_images=images.double())
    right = (found.labels == labels)[:, 0]
    assert right.sum() >= 3
    moved = GaussNewton().reconstruct(seen)
    assert (mse(moved, images)[right] > 1e-4).any()  # it does leave for other images
    assert (found.loss <= moved.loss)[right].all() and (mse(found, images)[right] < 1e-4).all()


@pytest.mark.parametrize("model", [MLP, ConvNet])
def test_any_network_can_be_attacked(model: type[Any], victims_of: MakeVictims) -> None:
    images, _, seen = victims_of(3, model=model)
    found = GaussNewton().reconstruct(seen)
    assert (mse(found, images) < mse(MeanImage().reconstruct(seen), images)).all()


def test_large_images_are_refused(victims_of: MakeVictims) -> None:
    with pytest.raises(ValueError, match="up to 10,000 pixels, not 128 x 128: attack with IDLG"):
        GaussNewton().check(victims_of(1).observation.model, (1, 3, 128, 128))


def halved(update: Update) -> Update:
    return {name: value / 2 for name, value in update.items()}


def moved(update: Update) -> Update:
    source = torch.Generator().manual_seed(3)
    return {name: v.flatten()[torch.randperm(v.numel(), generator=source)].view_as(v) for name, v in update.items()}


def by_a_value(update: Update) -> Update:
    return {name: value * (2 if float(value.detach().flatten()[0]) > 0 else 1) for name, value in update.items()}


def of_numpy(update: Update) -> Update:
    return {name: torch.from_numpy(np.round(value.numpy(), 3)).to(value) for name, value in update.items()}


@pytest.mark.parametrize("equations", [16, 600])  # fewer than the 64 pixels, and more
@pytest.mark.parametrize("function", [halved, moved, by_a_value, of_numpy])
def test_what_torch_func_cannot_derive_is_derived_otherwise(
    function: Callable[[Update], Update], equations: int, victims_of: MakeVictims
) -> None:
    """A plain function: it may draw numbers, look at a value or leave torch."""
    seen = victims_of(2, model=MLP, defense=FunctionDefense(function), adaptive=True)
    found = GaussNewton(max_equations=equations).reconstruct(seen.observation)
    assert set(found.status) <= {"exhausted", "stalled"} and found.images.isfinite().all()
    if equations == 600:  # as many as tell an image
        assert (mse(found, seen.images) < 1e-2).all()


def test_both_ways_to_a_jacobian_give_the_same() -> None:
    def gradient_of(image: Tensor) -> Update:
        return {"first": image.flatten()[None].sin(), "second": (image.flatten() ** 2)[None, :3]}

    def entries_of(gradient: Update) -> Tensor:
        return torch.cat([gradient["first"][0] * gradient["second"].sum(), gradient["second"][0].exp()])

    image = random(1, 4, 5)
    found = chained(gradient_of, entries_of, image)
    torch.testing.assert_close(found, derivative(lambda x: entries_of(gradient_of(x)), image, 23))
    torch.testing.assert_close(found, derivative(lambda x: entries_of(gradient_of(x)), image, 3))


def test_batches_are_refused(victims_of: MakeVictims) -> None:
    with pytest.raises(ValueError, match="GaussNewton attacks one image"):
        GaussNewton().reconstruct(victims_of(2, batch_size=2).observation)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"iterations": 0}, "iterations is 0, but must be at least 1"),
        ({"max_equations": 0}, "max_equations is 0, but must be at least 1"),
        ({"start": "rgap"}, "start is 'rgap', but must be one of noise, tiles, color, constant, mean, class_mean"),
        (
            {"total_variation": 0.0},
            "total_variation is 0.0 and last_total_variation 1e-14, but both must be above 0 and",
        ),
        ({"total_variation": float("inf")}, "but both must be above 0 and finite, and the last one no greater"),
        ({"total_variation": 1e-15}, "but both must be above 0 and finite, and the last one no greater"),
    ],
)
def test_an_argument_out_of_range_is_named_in_one_sentence(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        GaussNewton(**arguments)


@pytest.mark.parametrize("model", [LeNet, MLP])
@pytest.mark.parametrize("defense", [None, Masking(0.5), GaussianNoise(0.01)])
@pytest.mark.parametrize("equations", [40, 1000])
def test_victims_at_once_are_those_one_after_the_other(
    model: type[Any], defense: Any, equations: int, victims_of: MakeVictims, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = victims_of(3, dtype=torch.float64, model=model, defense=defense, adaptive=True).observation
    looped = GaussNewton(iterations=2, max_equations=equations).reconstruct(seen)
    monkeypatch.setattr(GaussNewton, "fitting", lambda self, observation: 2)
    batched = GaussNewton(iterations=2, max_equations=equations).reconstruct(seen)
    torch.testing.assert_close(batched.images, looped.images, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(batched.loss, looped.loss, rtol=1e-6, atol=1e-12)
    assert batched.status == looped.status and torch.equal(batched.evaluations, looped.evaluations)


def test_a_victim_that_diverges_or_has_nothing_to_solve_leaves_those_beside_it_alone(
    victims_of: MakeVictims, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = victims_of(4, dtype=torch.float64, model=MLP).observation
    update = {name: value.clone() for name, value in seen.update.items()}
    for value in update.values():
        value[1], value[2] = torch.nan, 0.0
    broken = replace(seen, update=update)
    looped = GaussNewton(iterations=2).reconstruct(broken)
    monkeypatch.setattr(GaussNewton, "fitting", lambda self, observation: 4)
    batched = GaussNewton(iterations=2).reconstruct(broken)
    assert batched.status == looped.status and batched.status[1:3] == ["diverged", "stalled"]
    torch.testing.assert_close(batched.images[[0, 3]], looped.images[[0, 3]], rtol=1e-6, atol=1e-6)


def test_a_victim_takes_no_more_memory_than_is_stated(victims_of: MakeVictims, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = victims_of(4).observation
    monkeypatch.setattr(GaussNewton, "fitting", lambda self, observation: observation.num_victims)
    for equations in (40, 1000):
        attack = GaussNewton(iterations=1, max_equations=equations)
        measured = bytes_per_victim(lambda count, attack=attack: attack.reconstruct(seen.take(range(count))))
        assert measured <= attack.bytes_per_victim(seen) <= 4 * measured
