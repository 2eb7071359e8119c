"""What an attacker who knows of noise optimizes, and when it has stopped improving."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch.func import functional_call

from attacks import IDLG, InvertingGradients, Observation
from attacks.engine.distances import cosine_distance
from attacks.engine.label_rules import as_logits
from attacks.engine.ledger import PROGRESS
from attacks.engine.objective import Objective
from attacks.engine.priors import MeanSquare, MeanVariation, NaturalImage, Together, cosine_variance
from benchmark.federation.client import PublicData, observe
from benchmark.models import ConvNet
from datamodules.base import USUAL_STEP, PrivateData, Split, TensorSplit
from defenses import (
    DPSGD,
    Clipping,
    Compose,
    Defense,
    GaussianNoise,
    LaplaceNoise,
    Masking,
    RelativeNoise,
    ValueClipping,
)
from defenses.base import KnownDefense, Update
from tests.conftest import MakeVictims


def objective(
    observation: Observation, victim: int, image: torch.Tensor, label: int, std: float, scale: float
) -> float:
    """-2 std^2 times the log posterior of an image, up to a constant, by a plain loop."""
    leaves = {n: p[victim].clone().requires_grad_() for n, p in observation.parameters.items()}
    logits = functional_call(observation.model, leaves, (image[None],))
    loss = nn.functional.cross_entropy(logits, torch.tensor([label]))
    gradient = torch.autograd.grad(loss, list(leaves.values()))
    off = sum(((g - observation.update[n][victim]) ** 2).sum() for n, g in zip(leaves, gradient, strict=True))
    edge = 1e-3
    steps = torch.cat([image.diff(dim=-1).flatten(), image.diff(dim=-2).flatten()])
    roughness = ((steps**2 + edge**2).sqrt() - edge).sum()
    outside = (image - image.clamp(0, 1)).square().sum()
    tiny = 1e-5  # the attack's own weight of the total variation
    return float(off + (2 * std**2 / scale + tiny) * roughness + (std**2 / 0.1**2 + 0.01) * outside)


@pytest.mark.parametrize("prior_scale", [1.0, 7.0])
def test_known_noise_is_weighed_against_the_laplace_prior_of_public_images(
    victims_of: MakeVictims, prior_scale: float
) -> None:
    std = 0.05
    seen = victims_of(2, dtype=torch.float64, defense=GaussianNoise(std), adaptive=True).observation
    seen = replace(seen, mean_step=0.1)
    attack = IDLG(max_evaluations=30, start="mean", total_variation=1e-5, prior_scale=prior_scale)
    found = attack.reconstruct(seen)
    for victim in range(2):
        wanted = objective(seen, victim, found.images[victim, 0], int(found.labels[victim]), std, 0.1 * prior_scale)
        assert float(found.loss[victim]) == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("std", [0.01, 0.3, 1.0])
def test_a_cosine_is_a_likelihood_under_noise(std: float) -> None:
    """Gradients of equal size, whose likelihoods are those of an update of normally distributed entries."""
    draw = torch.Generator().manual_seed(0)
    gradient, *others = torch.randn(5, 400_000, generator=draw, dtype=torch.float64)
    update = gradient + std * torch.randn(gradient.shape, generator=draw, dtype=torch.float64)
    variance = cosine_variance({"a": update[None, :1000], "b": update[None, 1000:]}, torch.tensor([std**2]))

    def likelihood(one: torch.Tensor) -> torch.Tensor:
        return torch.distributions.Normal(one, std).log_prob(update).sum()

    for other in others:
        moved = gradient + 0.3 * other
        moved = moved * gradient.norm() / moved.norm()
        near, far = (cosine_distance({"w": one[None]}, {"w": update[None]}) for one in (gradient, moved))
        wanted = float(likelihood(gradient) - likelihood(moved))
        assert float((far - near) / (2 * variance)) == pytest.approx(wanted, rel=0.02)


def test_where_noise_is_all_there_is_its_variance_stays_finite() -> None:
    noise = {"w": torch.randn(3, 5000, generator=torch.Generator().manual_seed(0)), "never sent": torch.zeros(3, 7)}
    found = cosine_variance(noise, torch.ones(3))
    assert found.isfinite().all() and (found > 1 / (2 * 5000)).all() and (found < 1 / 500).all()
    assert cosine_variance({"w": torch.zeros(1, 4)}, torch.ones(1)).isfinite().all()


@pytest.mark.parametrize(
    "defense",
    [
        RelativeNoise(1.0),
        GaussianNoise(0.03),
        LaplaceNoise(0.03),
        DPSGD(1.0, 0.03),
        Compose([Clipping(1.0), GaussianNoise(0.01)]),
    ],
    ids=lambda one: type(one).__name__,
)
def test_who_knows_of_noise_finds_batches_that_are_nearer(defense: Defense, digits: Any) -> None:
    images, labels = digits.victims(4, 4)
    network, public = ConvNet(digits.image_shape, 10), PublicData.of(digits, 1)

    def off(adaptive: bool) -> torch.Tensor:
        seen = observe(network, images, labels, public, defense, adaptive, 0, range(4))
        found = InvertingGradients(100, total_variation=1e-4).reconstruct(replace(seen, labels=labels))
        return torch.cdist(found.images.flatten(2), images.to(found.images).flatten(2)).amin(1).mean(1)

    assert float((off(True) / off(False)).log().mean()) < -0.1


def test_the_scale_of_the_prior_is_that_of_public_images(victims_of: MakeVictims) -> None:
    seen = victims_of(2, defense=GaussianNoise(0.05), adaptive=True).observation

    def images(mean_step: float, prior_scale: float) -> torch.Tensor:
        attack = IDLG(max_evaluations=20, start="mean", total_variation=1e-5, prior_scale=prior_scale)
        return attack.reconstruct(replace(seen, mean_step=mean_step)).images

    assert torch.equal(images(0.25, 2.0), images(0.5, 1.0))
    assert not torch.equal(images(0.25, 2.0), images(0.25, 1.0))


def test_the_mean_step_is_that_of_all_neighboring_pixels_of_public_images() -> None:
    pixels = torch.rand(70, 3, 5, 4, generator=torch.Generator().manual_seed(0))

    class Own(PrivateData):
        num_classes, image_shape = 2, (3, 5, 4)

        def load(self, train: bool) -> Split:
            return TensorSplit(pixels if train else pixels[:1], torch.tensor([0, 1] * 35)[: 70 if train else 1])

    steps = [
        abs(image[c, y, x] - image[c, y - 1, x])
        for image in pixels
        for c in range(3)
        for y in range(1, 5)
        for x in range(4)
    ]
    steps += [
        abs(image[c, y, x] - image[c, y, x - 1])
        for image in pixels
        for c in range(3)
        for y in range(5)
        for x in range(1, 4)
    ]
    assert Own().mean_step() == pytest.approx(float(sum(steps)) / len(steps), rel=1e-5)


def test_flat_public_images_or_none_have_the_step_of_photographs() -> None:
    class Flat(PrivateData):
        num_classes, image_shape = 2, (1, 3, 3)
        held = 4

        def load(self, train: bool) -> Split:
            return TensorSplit(torch.full((self.held, 1, 3, 3), 0.5), torch.zeros(self.held, dtype=torch.int64))

    class Empty(Flat):
        held = 0

    assert Flat().mean_step() == Empty().mean_step() == USUAL_STEP


def test_an_attack_without_patience_goes_on_and_one_with_it_stops_where_it_no_longer_improves(
    victims_of: MakeVictims,
) -> None:
    seen = victims_of(6, defense=GaussianNoise(0.3)).observation  # far above the tolerance for ever
    budget, patience = 150, 20
    free = IDLG(max_evaluations=budget).reconstruct(seen)
    told = IDLG(max_evaluations=budget, patience=patience).reconstruct(seen)
    stopped = [row for row in range(6) if int(told.evaluations[row]) < int(free.evaluations[row])]
    assert stopped, "no victim stopped early: the test says nothing"
    for row in stopped:
        assert told.status[row] == "stalled" and int(told.evaluations[row]) > patience
        # The lowest loss fell by less than the stated share in the patience before the end.
        earlier = IDLG(max_evaluations=int(told.evaluations[row]) - patience).reconstruct(seen.take([row]))
        assert float(told.loss[row]) > float(earlier.loss[0]) * (1 - PROGRESS) * (1 - PROGRESS)


def test_patience_counts_for_each_victim_alone(victims_of: MakeVictims) -> None:
    seen = victims_of(4, dtype=torch.float64, defense=GaussianNoise(0.3)).observation
    attack = {"max_evaluations": 60, "patience": 5}
    together = IDLG(**attack, at_once=3).reconstruct(seen)
    alone = [IDLG(**attack).reconstruct(seen.take([row])) for row in range(4)]
    assert together.evaluations.tolist() == [int(one.evaluations[0]) for one in alone]
    torch.testing.assert_close(together.images, torch.cat([one.images for one in alone]), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("name", "value"), [("prior_scale", 0.0), ("prior_scale", float("nan")), ("patience", 0)])
def test_what_is_out_of_range_is_named(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        IDLG(**{name: value})


def test_the_mean_square_of_standardized_pixels_is_that_of_a_loop_and_priors_add_up() -> None:
    images = torch.rand(3, 2, 3, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    means, stds = (0.4, 0.5, 0.6), (0.2, 0.3, 0.1)
    labels = torch.full((3, 2, 10), 0.1, dtype=torch.float64)
    square, variation = MeanSquare(0.7, means, stds), MeanVariation(0.1, stds)
    for victim, found in enumerate(square(images, labels).tolist()):
        pixels = [
            (float(images[victim, n, c, y, x]) - means[c]) / stds[c]
            for n in range(2)
            for c in range(3)
            for y in range(4)
            for x in range(5)
        ]
        assert found == pytest.approx(0.7 * sum(pixel**2 for pixel in pixels) / len(pixels), rel=1e-12)
    both = Together((square, variation))
    torch.testing.assert_close(both(images, labels), square(images, labels) + variation(images, labels))
    assert both == Together((MeanSquare(0.7, means, stds), MeanVariation(0.1, stds))) and hash(both) is not None
    assert Together((MeanSquare(0.0, means, stds),))(images, labels) == 0.0


class Shrunk(Defense):
    """Shares a part of the update, by a factor that the attacker knows; he is told of no weight."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def protect(self, update: Update, generators: Sequence[torch.Generator]) -> Update:
        return {name: self.factor * value for name, value in update.items()}

    def known_to_attacker(self) -> KnownDefense:
        return KnownDefense(simulate=lambda dummy, observed: self.protect(dummy, ()))


@pytest.mark.parametrize(
    "defense",
    [
        Shrunk(1e-3),
        Shrunk(1e3),
        ValueClipping(1e-3),
        DPSGD(0.01, 0.0),
        Compose([Clipping(0.01), Masking(0.3)]),
        Compose([Clipping(0.01), GaussianNoise(1e-6)]),
        Masking(0.9),
    ],
    ids=lambda one: type(one).__name__,
)
def test_a_prior_stays_in_proportion_to_an_update_of_another_size(defense: Defense, victims_of: MakeVictims) -> None:
    images, _, seen = victims_of(6, defense=defense, adaptive=True)
    found = IDLG(max_evaluations=300, start="mean", total_variation=1e-5).reconstruct(seen)
    assert ((found.images - images).square().mean((1, 2, 3, 4)) < 1e-3).all()


@pytest.mark.parametrize("factor", [1.0, 1e-3])
def test_a_prior_weighs_what_a_defense_leaves_of_an_update_however_small_that_is(
    factor: float, victims_of: MakeVictims
) -> None:
    """A network that knows the private images has small gradients at them, with a defense as without."""
    _, labels, seen = victims_of(4, defense=Shrunk(factor), adaptive=True)
    small = replace(seen, update={name: 0.01 * value for name, value in seen.update.items()})
    for observation in (seen, small):
        objective = Objective(observation, as_logits(labels, 10), 1e-6, True, NaturalImage(1.0))
        objective.replace([-1] * 4, [0, 1, 2, 3], [0, 1, 2, 3])
        torch.testing.assert_close(objective.held["rows"]["prior_weights"], torch.full((4,), factor**2))


@pytest.mark.parametrize("shape", [(1, 6), (6, 1), (1, 1), (2, 3)])
def test_images_of_one_row_or_column_have_neighbors_in_one_direction(shape: tuple[int, int]) -> None:
    images = torch.rand(2, 3, 2, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    stds = (0.2, 0.4)
    found = torch.as_tensor(MeanVariation(0.1, stds)(images, torch.full((2, 3, 10), 0.1))).expand(2)
    for victim in range(2):
        wanted = 0.0
        for channel, std in enumerate(stds):
            for steps in (images[victim, :, channel].diff(dim=-1), images[victim, :, channel].diff(dim=-2)):
                wanted += 0.1 / 2 * float(steps.abs().mean()) / std if steps.numel() else 0.0
        assert float(found[victim]) == pytest.approx(wanted, rel=1e-12)
