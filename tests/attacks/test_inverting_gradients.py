"""Inverting Gradients against the authors' procedure, written with torch's own optimizer and schedule."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from attacks import IDLG, InvertingGradients
from attacks.engine.starts import Standardization
from attacks.threat import ThreatModel
from benchmark.models import MLP, LeNet, ResNet
from benchmark.studies import bench
from defenses import GaussianNoise, Pruning, Sign, TruncatedSVD
from defenses.base import Defense

MakeVictims = Callable[..., Any]


def known(victims: Any) -> Any:
    """What the attacker has who knows the labels."""
    return replace(victims.observation, labels=victims.labels, threat=ThreatModel(labels="known"))


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("model", [LeNet, ResNet])
def test_each_victim_takes_the_path_of_the_authors_loop(model: type, batch_size: int, victims_of: MakeVictims) -> None:
    """So few iterations that a sign that rounding has turned has not led far away, over all falls of the rate."""
    victims = victims_of(3, dtype=torch.float64, model=model, batch_size=batch_size)
    seen = known(victims)
    attack = InvertingGradients(max_evaluations=16)
    found = attack.reconstruct(seen)
    assert found.evaluations.tolist() == [16] * 3 and found.status == ["exhausted"] * 3
    for victim in range(3):
        network = model((1, 8, 8), 10).double()
        path: list[Tensor] = []
        network.register_forward_hook(lambda _, inputs, __, path=path: path.append(inputs[0].detach().clone()))
        _, labels, spent = bench.inverting_gradients(network, seen, victim, attack, 16)
        assert spent == 16 and labels.equal(victims.labels[victim])
        off = [(found.images[victim] - images).abs().max() for images in path]
        assert min(off) < 1e-9  # the iterate with the lowest loss is one of the authors'


def test_pixels_stay_in_their_range_and_start_as_public_ones_are_spread(victims_of: MakeVictims) -> None:
    seen = victims_of(2).observation
    attack = InvertingGradients(max_evaluations=30, learning_rate=3.0)
    start = attack.problem(seen).images.detach()
    noise = InvertingGradients(standardized=False).problem(seen).images.detach()
    spread = Standardization.of(seen)
    torch.testing.assert_close(start, spread.mean + spread.std * noise)
    found = attack.reconstruct(seen).images
    assert float(found.min()) >= 0 and float(found.max()) <= 1


def test_the_size_of_an_update_makes_no_difference(victims_of: MakeVictims) -> None:
    seen = known(victims_of(2, dtype=torch.float64))
    larger = replace(seen, update={name: 8.0 * value for name, value in seen.update.items()})
    attack = InvertingGradients(max_evaluations=20)
    found, other = attack.reconstruct(seen), attack.reconstruct(larger)
    torch.testing.assert_close(found.images, other.images, rtol=1e-9, atol=1e-9)


def test_smoother_images_are_found_with_more_total_variation(victims_of: MakeVictims) -> None:
    seen = known(victims_of(2))
    rough, smooth = (
        InvertingGradients(max_evaluations=150, total_variation=weight).reconstruct(seen).images
        for weight in (0.0, 1.0)
    )
    assert float(smooth.diff(dim=-1).abs().mean()) < 0.8 * float(rough.diff(dim=-1).abs().mean())


@pytest.mark.parametrize("defense", [Pruning(0.9), Sign(0.9), TruncatedSVD(0.9)], ids=lambda one: type(one).__name__)
def test_the_true_gradient_is_looked_for_near_what_a_coarse_defense_shares(
    defense: Defense, victims_of: MakeVictims
) -> None:
    images, labels, seen = victims_of(2, 3, dtype=torch.float64, defense=defense, adaptive=True)
    with_it, without = InvertingGradients(nearness=0.3), InvertingGradients()
    true, public = images.to(seen.mean_image), seen.mean_image.expand(2, *seen.image_shape)
    for tried in (true, public):
        gradient = seen.update_of(tried, one_hot(labels, 10).to(tried))
        own, shared = (torch.cat([v.flatten(1) for v in update.values()], 1) for update in (gradient, seen.update))
        off = 1 - torch.cosine_similarity(own, shared, dim=1)
        more = [attack.loss_at(seen, tried, labels) for attack in (with_it, without)]
        torch.testing.assert_close(more[0] - more[1], 0.3 * off)
    blind = replace(seen, defense=None)
    same = [attack.loss_at(blind, true, labels) for attack in (with_it, without)]
    assert torch.equal(*same)


def test_who_knows_of_a_pruning_finds_more_images_of_batches_near_what_was_shared(victims_of: MakeVictims) -> None:
    """At the edge of what is pruned alike an attacker who knows of it found fewer than one who does not."""

    def model(shape: tuple[int, int, int], classes: int) -> MLP:
        return MLP(shape, classes, hidden=64, activation="relu")

    images, _, seen = victims_of(6, 4, model=model, defense=Pruning(0.9), adaptive=True)
    quality = []
    for nearness in (0.0, 0.2):
        found = InvertingGradients(150, nearness=nearness).reconstruct(seen).images
        off = torch.cdist(found.flatten(2), images.to(found).flatten(2)).amin(1)  # of each private image, the nearest
        quality.append(-20 * (off / 8).log10().mean(1))
    assert bool((quality[1] > quality[0]).all()) and quality[1].mean() > quality[0].mean() + 2


def test_more_trials_never_end_at_a_higher_loss(victims_of: MakeVictims) -> None:
    seen = known(victims_of(3))
    one = InvertingGradients(max_evaluations=40).reconstruct(seen)
    three = InvertingGradients(max_evaluations=40, trials=3).reconstruct(seen)
    assert bool((three.loss <= one.loss * (1 + 1e-5)).all()) and three.evaluations.tolist() == [120] * 3


def test_images_are_smoothed_a_quarter_as_much_as_is_most_probable(victims_of: MakeVictims) -> None:
    seen = victims_of(2, defense=GaussianNoise(0.05), adaptive=True).observation
    images = torch.rand(seen.num_victims, *seen.image_shape, generator=torch.Generator().manual_seed(0))
    costs = []
    for attack in (InvertingGradients(), IDLG(distance="cosine", total_variation=1.0)):
        against = attack.noise_prior(seen)
        assert against is not None
        cost = against[0](images, torch.full((seen.num_victims, 1, 10), 0.1))
        costs.append(torch.as_tensor(cost * against[1]))  # pixels in [0, 1], which cost nothing there
    torch.testing.assert_close(4 * costs[0], costs[1])
