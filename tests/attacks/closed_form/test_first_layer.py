"""The first layer, found by what it does, and the closed form of what comes into it."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attacks import AnalyticLinear
from attacks.closed_form.first_layer import first_layer
from benchmark.models import MLP, LeNet
from defenses import Clipping, Masking

MakeVictims = Callable[..., Any]
SHAPE = (3, 4, 4)


class Changed(nn.Module):
    """A linear layer and another, with something before it and something between them."""

    def __init__(self, before: Callable[[Tensor], Tensor], between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(48, 9), nn.Linear(9, 5)
        self.before, self.between = before, between

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.leave(self.between(self.enter(self.before(x))))
        return made


def flat(x: Tensor) -> Tensor:
    return x.flatten(1)


def test_it_is_found_behind_a_scaling_in_any_order_of_the_pixels() -> None:
    def before(x: Tensor) -> Tensor:
        return ((x - 0.4) / torch.tensor([0.2, 0.5, -1.0]).to(x).view(3, 1, 1)).permute(0, 2, 3, 1).flatten(1).flip(1)

    found = first_layer(Changed(before, torch.relu), SHAPE)
    assert found is not None and found.name == "enter" and found.rectified
    pixels = torch.arange(48).view(1, *SHAPE)
    assert torch.equal(found.order, pixels.permute(0, 2, 3, 1).flatten(1).flip(1)[0])
    assert torch.equal(found.pixels(found.order), torch.arange(48))


@pytest.mark.parametrize(
    ("between", "rectified"),
    [
        (torch.relu, True),
        (F.relu6, True),
        (lambda z: torch.relu(z).square(), True),
        (F.leaky_relu, False),
        (torch.sigmoid, False),
        (F.gelu, False),
        (lambda z: z.abs(), False),
        (lambda z: torch.relu(z - 0.05), True),
        (lambda z: torch.relu(z + 0.05), False),
        (lambda z: z, False),
    ],
)
def test_a_relu_is_seen_in_what_the_rest_does(between: Callable[[Tensor], Tensor], rectified: bool) -> None:
    found = first_layer(Changed(flat, between), SHAPE)
    assert found is not None and found.rectified == rectified


@pytest.mark.parametrize(
    "before",
    [
        lambda x: x.square().flatten(1),
        lambda x: x.flatten(1) - x.flatten(1).mean(1, keepdim=True),
        lambda x: x.flatten(1) - x.flatten(1).mean(0),
        lambda x: F.avg_pool2d(x, 3, 1, 1).flatten(1),
        lambda x: x.clamp(max=0.5).flatten(1),
        lambda x: 0 * x.flatten(1),
    ],
    ids=["squares", "own mean", "mean of the batch", "blurred", "cut off", "nothing"],
)
def test_a_layer_that_gets_anything_but_single_scaled_pixels_is_none(before: Callable[[Tensor], Tensor]) -> None:
    assert first_layer(Changed(before, torch.relu), SHAPE) is None


class Twice(Changed):
    """Uses its layer twice."""

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.leave(self.enter(flat(x)).relu() + self.enter(flat(x).square()).relu())
        return made


def test_a_layer_that_is_used_otherwise_than_it_looks_is_none() -> None:
    assert first_layer(Twice(flat, torch.relu), SHAPE) is None
    frozen = Changed(flat, torch.relu)
    frozen.enter.bias.requires_grad_(False)
    assert first_layer(frozen, SHAPE) is None
    hooked = Changed(flat, torch.relu)
    hooked.enter.register_forward_hook(lambda module, inputs, output: output * inputs[0].mean())
    assert first_layer(hooked, SHAPE) is None
    assert first_layer(LeNet(SHAPE, 5), SHAPE) is None


def test_a_skip_past_the_layer_belongs_to_the_rest() -> None:
    class Skipped(Changed):
        def forward(self, x: Tensor) -> Tensor:
            made: Tensor = self.leave(self.enter(flat(x)).relu() + flat(x)[:, :9])
            return made

    found = first_layer(Skipped(flat, torch.relu), SHAPE)
    assert found is not None and found.rectified


@pytest.mark.parametrize("activation", ["sigmoid", "relu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_image_of_each_of_100_victims_is_exact(
    activation: str, dtype: torch.dtype, victims_of: MakeVictims
) -> None:
    images, labels, seen = victims_of(100, model=partial(MLP, activation=activation), dtype=dtype)
    found = AnalyticLinear().reconstruct(seen)
    assert float((found.images - images).abs().max()) < 1e-4
    assert torch.equal(found.labels, labels)
    assert found.certified is None


def test_what_clients_remove_and_the_attacker_knows_costs_no_more_than_its_equations(victims_of: MakeVictims) -> None:
    for defense in (Clipping(1e-3), Masking(0.5), Masking(0.5, rescale=True)):
        images, _, seen = victims_of(4, model=MLP, defense=defense, adaptive=True)
        assert float((AnalyticLinear().reconstruct(seen).images - images).abs().max()) < 1e-4


def test_a_pixel_that_no_row_gives_away_is_that_of_the_mean_image(victims_of: MakeVictims) -> None:
    images, _, seen = victims_of(2, model=MLP)
    seen.update["1.bias"][1] = 0
    found = AnalyticLinear().reconstruct(seen).images
    assert torch.allclose(found[0], images[0], atol=1e-4)
    assert torch.equal(found[1, 0], seen.mean_image)


def test_a_batch_and_another_network_are_refused_in_a_sentence() -> None:
    with pytest.raises(ValueError, match="of 4 it would find a mixture: give batch_size 1, or attack with Peeling"):
        AnalyticLinear().check(MLP((1, 8, 8), 10), (4, 1, 8, 8))
    with pytest.raises(ValueError, match="AnalyticLinear needs a trained linear layer with a bias"):
        AnalyticLinear().check(LeNet((1, 8, 8), 10), (1, 1, 8, 8))
