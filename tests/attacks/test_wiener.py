"""Wiener's filter in closed form, the density it goes by, and what it finds where a flat image hides the rest."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributions import MultivariateNormal

from attacks import AutoLeak, Bayes, Observation, Wiener
from attacks.engine.step import COMPILED, _compiled
from attacks.threat import ThreatModel
from attacks.wiener import MOST_VALUES, NormalImages
from benchmark.federation.client import PublicData, observe
from benchmark.federation.setting import Setting
from benchmark.metrics.misfit import misfits
from benchmark.models import LeNet
from datamodules import PrivateData
from defenses import GaussianNoise, LaplaceNoise, Masking, RelativeNoise
from defenses.base import KnownDefense

MakeVictims = Callable[..., Any]

SIZE, CLASSES, STD = 12, 5, 0.1


def matrices_of(bias: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Where the weight of the one layer is 0, what takes images to the gradient of it, ``[V, K D, N D]``."""
    errors = (bias.softmax(1)[:, None] - nn.functional.one_hot(labels, CLASSES)) / labels.shape[1]  # [V, N, K]
    eye = torch.eye(SIZE, dtype=torch.double)
    return torch.stack([torch.cat([torch.kron(one[:, None], eye) for one in each], 1) for each in errors])


def linear_victims(count: int, images: int, of_classes: bool) -> Observation:
    """Batches whose gradient is linear in the images, under Gaussian noise."""
    draw = torch.Generator().manual_seed(3)
    mix = torch.randn(SIZE, SIZE, generator=draw, dtype=torch.double)
    mixes = mix + torch.randn(CLASSES, SIZE, SIZE, generator=draw, dtype=torch.double) / 3
    bias = torch.randn(count, CLASSES, generator=draw, dtype=torch.double)
    labels = torch.randint(CLASSES, (count, images), generator=draw)
    means = torch.rand(CLASSES, 1, 3, 4, generator=draw, dtype=torch.double)
    private = torch.rand(count, images * SIZE, generator=draw, dtype=torch.double) - 0.5
    private = means[labels].flatten(1) + private / 2
    noise = STD * torch.randn(count, CLASSES * SIZE + CLASSES, generator=draw, dtype=torch.double)
    weight = (matrices_of(bias, labels) @ private[..., None])[..., 0]
    of_bias = bias.softmax(1) - nn.functional.one_hot(labels, CLASSES).double().mean(1)
    return Observation(
        model=nn.Sequential(nn.Flatten(), nn.Linear(SIZE, CLASSES)).double(),
        parameters={"1.weight": torch.zeros(count, CLASSES, SIZE, dtype=torch.double), "1.bias": bias},
        update={
            "1.weight": (weight + noise[:, :-CLASSES]).view(count, CLASSES, SIZE),
            "1.bias": of_bias + noise[:, -CLASSES:],
        },
        image_shape=(images, 1, 3, 4),
        num_classes=CLASSES,
        seeds=list(range(count)),
        defense=KnownDefense(noise_std=STD),
        mean_image=torch.rand(1, 3, 4, generator=draw, dtype=torch.double),
        class_means=means,
        mean_step=0.1,
        channel_stds=torch.tensor([0.25], dtype=torch.double),
        threat=ThreatModel(labels="known"),
        labels=labels,
        covariance=mix @ mix.T / SIZE / 10,
        class_covariances=mixes @ mixes.mT / SIZE / 10 if of_classes else None,
    )


@pytest.mark.parametrize("of_classes", [True, False])
@pytest.mark.parametrize("granted", [True, False])
@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_of_a_linear_gradient_it_is_the_filter_in_closed_form(
    images: int, scale: float, granted: bool, of_classes: bool
) -> None:
    """For the labels that are returned: those that are optimized are no mixtures in the end."""
    seen = linear_victims(3, images, of_classes)
    private = seen.labels
    assert seen.covariance is not None and private is not None
    seen = replace(seen, labels=private if granted else None)
    of_all = Wiener(400, prior_scale=scale).reconstruct(seen)
    found, labels = of_all.images.flatten(1), of_all.labels
    if images == 1 or granted:  # the noise hides some of several
        assert torch.equal(labels, private)
    torch.testing.assert_close(of_all.label_probabilities, nn.functional.one_hot(labels, CLASSES).double())
    matrices = matrices_of(seen.own_networks["1.bias"], labels)
    for row, matrix in enumerate(matrices):
        own = seen.covariance.expand(CLASSES, -1, -1) if seen.class_covariances is None else seen.class_covariances
        prior = scale**2 * torch.block_diag(*own[labels[row]])
        mean = seen.class_means[labels[row]].flatten()
        off = seen.update["1.weight"][row].flatten() - matrix @ mean
        spread = matrix @ prior @ matrix.T + STD**2 * torch.eye(len(matrix), dtype=torch.double)
        wanted = mean + prior @ matrix.T @ torch.linalg.solve(spread, off)
        torch.testing.assert_close(found[row], wanted, rtol=0, atol=1e-4)
        assert (wanted - mean).abs().max() > 0.05


@pytest.mark.parametrize("of_classes", [True, False])
@pytest.mark.parametrize("defense", [GaussianNoise(0.01), LaplaceNoise(0.01), Masking(0.7), None])
def test_the_loss_weighs_the_normal_density_of_torch_as_bayes_weighs_his(
    defense: Any, of_classes: bool, victims_of: MakeVictims
) -> None:
    images, labels, seen = victims_of(2, 2, LeNet, torch.float64, defense, adaptive=True)
    if not of_classes:
        seen = replace(seen, class_covariances=None)
    covariances = (seen.class_covariances if of_classes else seen.covariance.expand(10, -1, -1)).double()
    normals = [MultivariateNormal(*one) for one in zip(seen.class_means.flatten(1), covariances, strict=True)]
    highest = torch.stack([one.log_prob(one.mean) for one in normals]).mean()
    attack, bayes = Wiener(), Bayes()
    weights = bayes.prior_weights(seen)

    def distance(at: torch.Tensor) -> torch.Tensor:
        return bayes.loss_at(seen, at, labels) - weights * bayes.prior(seen)(at, labels)

    for at in (images.double(), images.double() * 0.7 + 0.1):
        found = attack.loss_at(seen, at, labels)
        pairs = zip(at.flatten(0, 1).flatten(1), labels.flatten(), strict=True)
        density = torch.stack([normals[label].log_prob(image) - highest for image, label in pairs])
        wanted = distance(at) - weights * density.view(2, 2).sum(1)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-12)  # the factors are of single precision


def test_priors_that_give_the_same_values_are_equal(victims_of: MakeVictims, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that what was compiled for one, which takes a minute, serves for the next."""
    monkeypatch.setattr(torch, "compile", lambda graph, **_: graph)
    granted = [victims_of(1, first=first) for first in (0, 1)]
    seen, other = (replace(one.observation, labels=one.labels) for one in granted)
    one = NormalImages.of(seen, 1.0)
    assert one == NormalImages.of(other, 1.0) and hash(one) == hash(NormalImages.of(other, 1.0))
    moved = replace(seen, class_means=seen.class_means + 0.1)
    wider = replace(seen, covariance=2 * seen.covariance)
    alike, large = replace(seen, class_covariances=None), replace(seen, covariance=None, class_covariances=None)
    assert all(one != NormalImages.of(given, 1.0) for given in (moved, wider, alike, large))
    assert one != NormalImages.of(seen, 2.0)
    again = replace(
        seen,
        covariance=seen.covariance.clone(),
        class_covariances=seen.class_covariances.clone(),
        class_means=seen.class_means.clone(),
    )
    first, second = (Wiener(4).reconstruct(given, step=COMPILED) for given in (seen, again))
    assert len(_compiled[seen.model]) == 1
    torch.testing.assert_close(first.images, second.images)


def test_without_a_covariance_each_value_varies_alone(victims_of: MakeVictims, digits: PrivateData) -> None:
    images, labels, seen = victims_of(2)
    setting = Setting(public_data=False)
    hidden = observe(seen.model, images, labels, PublicData.of(digits), None, False, 0, range(2), setting)
    assert hidden.covariance is None and hidden.class_covariances is None
    off = (images - hidden.mean_image) / hidden.channel_stds[:, None, None]
    found = NormalImages.of(hidden, 2.0)(images, nn.functional.one_hot(labels, 10))
    torch.testing.assert_close(found, off.flatten(1).square().sum(1) / 8)
    with pytest.raises(ValueError, match="Wiener needs public data"):
        Wiener().check_granted(hidden.protocol, hidden.threat)


def test_victims_who_leave_and_enter_are_attacked_as_alone(victims_of: MakeVictims) -> None:
    seen = victims_of(4, 2, dtype=torch.float64, defense=GaussianNoise(0.05), adaptive=True).observation
    together = Wiener(80, at_once=2).reconstruct(seen)
    assert len(set(together.evaluations.tolist())) > 1, "they leave at different times"
    for victim in range(4):
        alone = Wiener(80).reconstruct(seen.take([victim]))
        torch.testing.assert_close(together.images[victim], alone.images[0], rtol=1e-6, atol=1e-6)
        assert torch.equal(together.labels[victim], alone.labels[0])


@pytest.mark.parametrize("std", [1.0, 3.0])
def test_under_strong_noise_it_finds_what_a_prior_of_flat_images_does_not(std: float, victims_of: MakeVictims) -> None:
    """What is found explains as much of the update as the private images do, and AutoLeak returns that."""
    images, labels, seen = victims_of(4, defense=RelativeNoise(std), adaptive=True)
    found = {attack: attack.reconstruct(seen) for attack in (Wiener(50), Bayes(50))}
    near, far = ((one.images.clamp(0, 1) - images).square().mean() for one in found.values())
    assert near < 0.6 * far
    explains, flat = (int(misfits(seen, one, images, labels).settled.sum()) for one in found.values())
    assert explains == 4 > flat
    best = AutoLeak(30).reconstruct(seen)
    assert misfits(seen, best, images, labels).settled.all()
    assert best.starts.count("Wiener") >= 3


def test_images_of_more_values_are_left_to_bayes(victims_of: MakeVictims) -> None:
    too_large, model = (1, 1, 1, MOST_VALUES + 1), nn.Sequential(nn.Flatten(), nn.Linear(MOST_VALUES + 1, 2))
    with pytest.raises(ValueError, match=r"up to 4,096 values, not 4,097: attack with Bayes"):
        Wiener().check(model, too_large)
    setting = Setting()
    parts = AutoLeak().parts_for(model, too_large, setting.protocol, setting.threat, shared=False)
    assert "Wiener" not in parts and "Bayes" in parts


def test_it_has_its_own_likelihood_and_prior() -> None:
    with pytest.raises(ValueError, match="Wiener has its own likelihood and prior"):
        Wiener(distance="cosine")
