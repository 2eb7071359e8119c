"""The most probable images: the posterior written out, and what it is worth under noise and masks."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from scipy.stats import laplace
from torch import Tensor, nn

from attacks import DLG, Bayes, Wiener
from attacks.bayes import PublicImages
from attacks.engine.label_rules import as_logits
from attacks.engine.priors import BOX_EDGE, outside, total_variation
from attacks.gradient_matching import GradientMatching
from benchmark.models import LeNet
from defenses import (
    Clipping,
    Compose,
    GaussianNoise,
    KeptAtHome,
    LaplaceNoise,
    Masking,
    MixUp,
    RelativeNoise,
)

MakeVictims = Callable[..., Any]


@pytest.mark.parametrize("defense", [GaussianNoise(0.01), Masking(0.7), None], ids=lambda one: type(one).__name__)
@pytest.mark.parametrize("batch_size", [1, 2])
def test_the_loss_is_that_of_the_posterior_written_out(batch_size: int, defense: Any, victims_of: MakeVictims) -> None:
    """Of the shared entries alone, by autograd over one network at a time."""
    images, labels, seen = victims_of(2, batch_size, LeNet, torch.float64, defense, adaptive=True)
    seen = replace(seen, labels=labels)
    start = images.double() * 1.3 - 0.1
    found = Bayes(max_evaluations=1).reconstruct(seen, start_images=start)
    scale = PublicImages.of(seen).scale
    for victim in range(2):
        network = LeNet((1, 8, 8), 10).double()
        network.load_state_dict({name: value[victim] for name, value in seen.parameters.items()}, strict=False)
        loss = nn.functional.cross_entropy(network(start[victim]), labels[victim])
        slopes = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(network.parameters()))])
        shared = torch.cat([seen.update[name][victim].flatten() for name, _ in network.named_parameters()])
        kept = shared != 0 if isinstance(defense, Masking) else torch.ones_like(shared, dtype=torch.bool)
        std = (
            0.01 if isinstance(defense, GaussianNoise) else 2.0**-52 * float(shared[shared != 0].square().mean().sqrt())
        )
        across = [start[victim].diff(dim=dim).square().add(1e-6).sqrt().flatten() - 1e-3 for dim in (-1, -2)]
        beyond = (start[victim] - start[victim].clamp(0, 1)).square().sum() / (2 * BOX_EDGE**2)
        wanted = (slopes - shared)[kept].square().sum() + 2 * std**2 * (torch.cat(across).sum() / scale + beyond)
        torch.testing.assert_close(found.loss[victim], wanted, rtol=1e-9, atol=0)


@pytest.mark.parametrize("parts", [[LaplaceNoise(0.02)], [Clipping(0.5), LaplaceNoise(0.02)]], ids=len)
def test_under_laplace_noise_the_loss_is_the_scale_times_minus_the_log_density_of_scipy(
    parts: list[Any], victims_of: MakeVictims
) -> None:
    images, labels, seen = victims_of(1, 1, LeNet, torch.float64, Compose(parts), adaptive=True)
    seen, start = replace(seen, labels=labels), images.double() * 0.8

    def loss(at: Tensor) -> float:
        return float(Bayes(max_evaluations=1).reconstruct(seen, start_images=at).loss)

    def minus_log_density(at: Tensor) -> float:
        gradient = seen.update_of(at, nn.functional.one_hot(labels, 10).double())
        made = torch.cat([value.flatten() for value in gradient.values()])
        made = made * min(1.0, 0.5 / float(made.norm())) if len(parts) > 1 else made
        shared = torch.cat([value.flatten() for value in seen.update.values()])
        prior = float(PublicImages.of(seen)(at, labels))
        return prior - float(laplace(scale=0.02).logpdf((shared - made).numpy()).sum())

    apart = loss(start) - loss(images.double())  # the density of no noise is the same for both
    assert apart == pytest.approx(0.02 * (minus_log_density(start) - minus_log_density(images.double())), rel=1e-6)


def test_noise_relative_to_each_update_weighs_the_prior_for_each_victim(victims_of: MakeVictims) -> None:
    """Half of twice the variance for each victim, which it reads from its own update."""
    images, _, seen = victims_of(3, dtype=torch.float64, defense=RelativeNoise(0.5), adaptive=True)
    norms = torch.cat([value.flatten(1) for value in seen.update.values()], 1).square().mean(1)
    variance = 0.25 * norms / 1.25
    torch.testing.assert_close(Bayes().prior_weights(seen), 2 * variance)
    attack, start = DLG(max_evaluations=1, total_variation=1e-3), images.double() * 1.3 - 0.1
    noisy = attack.reconstruct(seen, start_images=start).loss
    plain = attack.reconstruct(replace(seen, defense=None), start_images=start).loss
    step = torch.stack([total_variation(start), outside(start)])
    wanted = variance * (2 / seen.mean_step * step[0] + step[1] / BOX_EDGE**2)
    torch.testing.assert_close(noisy - plain, wanted, rtol=1e-6, atol=0)


def test_a_row_of_pixels_has_the_laplace_scale_of_maximum_likelihood(victims_of: MakeVictims) -> None:
    """In one row each difference is free, so that the density is a product, which scipy fits."""
    seen = replace(victims_of(1).observation, image_shape=(1, 1, 1, 9))
    differences = torch.randn(1000, generator=torch.Generator().manual_seed(0)).numpy()
    scale = PublicImages.of(replace(seen, mean_step=float(abs(differences).mean()))).scale
    assert scale == pytest.approx(laplace.fit(differences, floc=0)[1])


def test_victims_are_attacked_together_as_alone(victims_of: MakeVictims) -> None:
    seen = victims_of(3, dtype=torch.float64, defense=Masking(0.5), adaptive=True).observation
    together = Bayes(max_evaluations=15).reconstruct(seen)
    for victim in range(3):
        alone = Bayes(max_evaluations=15).reconstruct(seen.take([victim]))
        torch.testing.assert_close(together.images[victim], alone.images[0], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("defense", [GaussianNoise(0.02), Masking(0.97)], ids=lambda one: type(one).__name__)
def test_images_are_found_nearer_than_by_matching_alone(defense: Any, victims_of: MakeVictims) -> None:
    images, _, seen = victims_of(4, defense=defense, adaptive=True)
    near, far = (
        (attack.reconstruct(seen).images.clamp(0, 1) - images).square().mean()
        for attack in (Bayes(max_evaluations=60), DLG(max_evaluations=60))
    )
    assert near < far


@pytest.mark.parametrize("arguments", [{"distance": "cosine"}, {"total_variation": 0.1}])
def test_what_its_posterior_has_no_place_for_is_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="leave distance and total_variation out"):
        Bayes(**arguments)


@pytest.mark.parametrize(
    "defense", [GaussianNoise(0.1), KeptAtHome(layers="last"), MixUp(1.0)], ids=lambda one: type(one).__name__
)
def test_labels_that_are_not_granted_are_hard_in_the_end_unless_clients_mix_them(
    defense: Any, victims_of: MakeVictims
) -> None:
    seen = victims_of(3, 2, dtype=torch.float64, defense=defense, adaptive=True).observation
    shares: list[float] = []
    attack = Bayes(max_evaluations=40)
    attack.told = shares.append
    found = attack.reconstruct(seen)
    hard = nn.functional.one_hot(found.labels, 10).double()
    are_hard = (found.label_probabilities - hard).abs().amax((1, 2)) < 1e-9
    assert are_hard.all() if not isinstance(defense, MixUp) else not are_hard.any()
    wanted = attack.loss_at(seen, found.images, found.label_probabilities)
    torch.testing.assert_close(found.loss, wanted, rtol=1e-6, atol=1e-12)
    assert 30 < found.evaluations.amax() <= 40
    assert shares == sorted(shares) and shares[-1] == 1


@pytest.mark.parametrize("attack", [Bayes(60), Wiener(60)], ids=lambda one: type(one).__name__)
def test_mixed_labels_make_up_for_a_defense_that_is_not_known(attack: Bayes, victims_of: MakeVictims) -> None:
    """With hard ones no image has so short a gradient, and nothing is found at all."""
    images, labels, seen = victims_of(6, defense=Clipping(0.5))
    assert seen.defense is None
    off = (attack.reconstruct(seen).images.clamp(0, 1) - images).flatten(1).square().mean(1)
    of_hard = (attack.reconstruct(replace(seen, labels=labels)).images.clamp(0, 1) - images).flatten(1).square().mean(1)
    assert (10 * off < of_hard).sum() >= 5 and (of_hard > 0.2).all()


@pytest.mark.parametrize("attack", [Bayes(60), Wiener(60)], ids=lambda one: type(one).__name__)
def test_what_the_rule_tells_wrongly_is_put_right(
    attack: Bayes, victims_of: MakeVictims, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, labels, seen = victims_of(16, defense=Masking(0.99), adaptive=True)
    told = labels.clone()
    told[::4] = (told[::4] + 1) % 10
    monkeypatch.setattr(GradientMatching, "start_labels", lambda *_: (as_logits(told, 10), False))
    assert torch.equal(attack.reconstruct(seen).labels, labels)


def test_images_of_one_pixel_have_no_differences_and_are_probable_all_the_same(victims_of: MakeVictims) -> None:
    seen = replace(victims_of(2).observation, image_shape=(1, 12, 1, 1))
    density = PublicImages.of(seen)(torch.rand(2, 1, 12, 1, 1), torch.full((2, 1, 10), 0.1))
    assert density.tolist() == [0.0, 0.0]
