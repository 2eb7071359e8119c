"""Which reconstruction is taken, by distances that are computed here by one network at a time."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attacks import DLG, AutoLeak, InvertingGradients, Observation, Reconstruction, Wiener, choice
from attacks.choice import explained_by, minus_log_posterior, most_probable
from attacks.gradients import batch_logits
from attacks.update import FedAvg, Protocol
from benchmark.metrics.misfit import distances, expected_noise
from benchmark.models import LeNet
from defenses import Clipping, Compose, GaussianNoise, KeptAtHome, LaplaceNoise, Masking, RelativeNoise
from defenses.base import KnownDefense, Update

MakeVictims = Callable[..., Any]


def found(images: Tensor, labels: Tensor) -> Reconstruction:
    victims = len(images)
    return Reconstruction(
        images, labels, torch.zeros(victims), torch.ones(victims, dtype=torch.long), ["stalled"] * victims
    )


def left(seen: Observation, victim: int, images: Tensor, labels: Tensor) -> float:
    """Squared distance of the update of images by a plain network from what a victim shared."""
    return left_by_plain(seen, victim, images, labels)[0]


def left_by_plain(
    seen: Observation, victim: int, images: Tensor, labels: Tensor, of_any_size: bool = False
) -> tuple[float, float]:
    """The same, and the absolute distance, of the entries that were shared; or that of the nearest update of any size
    that points as the one of the images does."""
    network = LeNet((1, 8, 8), 10).double()
    network.load_state_dict({name: value[victim] for name, value in seen.parameters.items()}, strict=False)
    loss = nn.functional.cross_entropy(network(images), labels)
    slopes = torch.autograd.grad(loss, list(network.parameters()))
    names = [name for name, _ in network.named_parameters()]
    shared = [seen.update[name][victim] for name in names]
    made, told = (torch.cat([one.flatten().double() for one in each]) for each in (slopes, shared))
    factor = max(0.0, float(made @ told / (made @ made)))
    off = factor * made - told if of_any_size else (made - told)[told != 0]
    return float(off.square().sum()), float(off.abs().sum())


@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("std", [0.003, 0.03, 0.3])
def test_images_explain_an_update_that_leave_of_it_what_noise_can_be_and_little_beside(
    std: float, batch_size: int, victims_of: MakeVictims
) -> None:
    images, labels, seen = victims_of(3, batch_size, dtype=torch.float64, defense=GaussianNoise(std), adaptive=True)
    private, mean = images.double(), seen.mean_image.expand(images.shape)
    shares = [0.0, 0.1, 0.3, 0.6, 1.0]
    every = [found((1 - share) * private + share * mean, labels) for share in shares]
    told = explained_by(seen, every)
    entries = sum(value[0].numel() for value in seen.update.values())
    noise = entries * std**2
    for victim in range(3):
        of_mean = left(seen, victim, mean[victim], labels[victim])
        beside = min(2 * 64 * std**2, 0.1 * max(0.0, of_mean - noise))
        most = noise * (1 + 3 * (2 / entries) ** 0.5) + beside
        wanted = [left(seen, victim, one.images[victim], labels[victim]) <= most for one in every]
        assert told[:, victim].tolist() == wanted
        assert wanted[0] and (wanted[-1] or std < 0.1)


@pytest.mark.parametrize("law", [GaussianNoise, LaplaceNoise])
def test_the_squares_of_laplace_noise_may_vary_more(law: Any, victims_of: MakeVictims) -> None:
    """Else of these clients two would have private images that explain nothing."""
    images, labels, seen = victims_of(9, defense=law(1.0), adaptive=True, first=282)
    assert explained_by(seen, [found(images, labels)]).all()


def test_noise_of_each_client_counts_for_itself_and_in_each_round(victims_of: MakeVictims) -> None:
    images, labels, seen = victims_of(3, dtype=torch.float64, defense=RelativeNoise(0.1), adaptive=True)
    every = [found(images.double(), labels), found(seen.mean_image.expand(images.shape).clone(), labels)]
    assert explained_by(seen, every).tolist() == [[True] * 3, [False] * 3]
    again = replace(seen, later=(seen,))
    assert explained_by(again, every).tolist() == [[True] * 3, [False] * 3]
    wrong = {name: value.flip(0) for name, value in seen.update.items()}  # of other images
    assert not explained_by(replace(seen, later=(replace(seen, update=wrong),)), every)[:, 0].any()


@pytest.mark.parametrize("attack", [DLG(3), InvertingGradients(3), Wiener(3), AutoLeak(2)])
def test_noise_in_another_precision_is_taken_as_it_is_meant(attack: Any, victims_of: MakeVictims) -> None:
    seen = victims_of(2, defense=GaussianNoise(0.01), adaptive=True).observation
    plain = attack.reconstruct(seen)
    for dtype in (torch.float64, torch.float16):

        def of_each(update: Update, dtype: torch.dtype = dtype) -> Tensor:
            return torch.full((len(next(iter(update.values()))),), 0.01, dtype=dtype)

        found = attack.reconstruct(replace(seen, defense=replace(seen.defense, noise_std=of_each)))
        assert found.images.dtype == torch.float32
        torch.testing.assert_close(found.images, plain.images, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("defense", [None, Masking(0.5)])
def test_without_noise_or_with_an_unknown_order_the_losses_alone_tell(defense: Any, victims_of: MakeVictims) -> None:
    images, labels, seen = victims_of(2, 2, defense=defense, adaptive=True)
    assert explained_by(seen, [found(torch.zeros_like(images), labels)]).all()
    noisy = victims_of(2, 2, defense=GaussianNoise(1e-3), adaptive=True).observation
    assert not explained_by(noisy, [found(torch.zeros_like(images), labels)]).any()
    for batch, is_told in ((2, True), (1, False)):  # in steps of one image each, the order decides
        steps = replace(noisy, protocol=Protocol(local=FedAvg(0.1, batch_size=batch)))
        assert steps.order_tells == is_told
        assert bool(explained_by(steps, [found(torch.zeros_like(images), labels)]).all()) != is_told


def test_of_smoother_images_that_explain_less_none_is_taken(
    victims_of: MakeVictims, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if they are more probable."""
    images, labels, seen = victims_of(4, defense=GaussianNoise(0.005), adaptive=True)
    mean = seen.mean_image.expand(images.shape)
    every = {
        name: found(images * (1 - s) + s * mean, labels) for name, s in (("near", 0.1), ("smooth", 0.9), ("far", 1))
    }
    assert explained_by(seen, list(every.values())).tolist() == [[True] * 4, [False] * 4, [False] * 4]
    losses = {id(every["near"]): 3.0, id(every["smooth"]): 1.0, id(every["far"]): 2.0}
    monkeypatch.setattr(
        choice, "probable", lambda seen, one, as_found: torch.full((seen.num_victims,), losses[id(one)])
    )
    best = most_probable(seen, every)
    assert best.starts == ["near"] * 4 and best.loss.tolist() == [3.0] * 4
    del every["near"]
    assert most_probable(seen, every).starts == ["smooth"] * 4, "where nothing explains it, the most probable"
    losses = dict.fromkeys(losses, torch.inf)
    assert most_probable(seen, every).starts == ["far"] * 4, "where no loss tells, the last one"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_of_an_unknown_defense_what_was_found_is_judged_by_the_labels_it_was_found_with(
    dtype: torch.dtype, victims_of: MakeVictims
) -> None:
    """Mixed ones: where clients smooth their labels and nobody knows, no hard ones explain the update."""
    images, labels, seen = victims_of(3, dtype=dtype, defense=None, adaptive=False)
    private, smooth = images.to(dtype), 0.5 * nn.functional.one_hot(labels, 10).to(dtype) + 0.05
    seen = replace(seen, update=seen.update_of(private, smooth))
    mixed = replace(found(private, labels), label_probabilities=smooth)
    every = {"gray": found(torch.full_like(private, 0.5), labels), "hard": found(private, labels), "mixed": mixed}
    assert left(seen, 0, private[0].double(), smooth[0].double()) < 1e-9 * left(seen, 0, private[0].double(), labels[0])
    best = most_probable(seen, every)
    assert best.starts == ["mixed"] * 3
    assert best.label_probabilities is not None
    torch.testing.assert_close(best.label_probabilities, smooth)
    # Who knows that clients do not mix labels weighs them as they are.
    known = replace(seen, defense=KnownDefense(simulate=lambda dummy, observed: dict(dummy)))
    assert most_probable(known, every).starts == ["hard"] * 3
    assert most_probable(known, every).label_probabilities is None


@pytest.mark.parametrize("known", [False, True])
def test_of_an_unknown_defense_the_direction_tells(known: bool, victims_of: MakeVictims) -> None:
    """Of updates that are as small as one likes the images of nearly no gradient leave least."""
    images, labels, seen = victims_of(4, dtype=torch.float64, defense=Clipping(1e-4), adaptive=known)
    gray = found(torch.full_like(images.double(), 0.5), labels)
    # Of these the gradient is nearly 0 too: with the probabilities that the network gives them.
    logits = batch_logits(seen.model, seen.parameters, gray.images)
    gray = replace(gray, label_probabilities=logits.softmax(-1))
    every = {"gray": gray, "private": found(images.double(), labels)}
    assert most_probable(seen, every).starts == ["private"] * 4


@pytest.mark.parametrize("defense", [None, Masking(0.5), GaussianNoise(0.01), LaplaceNoise(0.01)])
@pytest.mark.parametrize("rounds", [1, 3])
def test_the_posterior_is_that_of_a_plain_network(defense: Any, rounds: int, victims_of: MakeVictims) -> None:
    """By distances of one network at a time, torch's own normal density, and the known noise."""
    images, labels, seen = victims_of(3, 2, dtype=torch.float64, defense=defense, adaptive=True)
    seen = replace(seen, later=(replace(seen, later=()),) * (rounds - 1))
    off = 0.2 * torch.rand(images.shape, generator=torch.Generator().manual_seed(0)).double()
    tried = (images.double() + off).clamp(0, 1)
    probabilities = nn.functional.one_hot(labels, 10).double()
    mine = minus_log_posterior(seen, tried, probabilities)
    assert mine is not None
    density = torch.distributions.MultivariateNormal(seen.mean_image.flatten(), seen.covariance)
    at_mean = density.log_prob(seen.mean_image.flatten())
    for victim in range(3):
        prior = sum(float(at_mean - density.log_prob(image.flatten())) for image in tried[victim])
        is_unknown = defense is None
        squared, absolute = left_by_plain(seen, victim, tried[victim], labels[victim], is_unknown)
        mean_images = seen.mean_image.expand(2, -1, -1, -1)
        of_mean, _ = left_by_plain(seen, victim, mean_images, labels[victim], is_unknown)
        std = {GaussianNoise: 0.01, LaplaceNoise: 0.01 * 2**0.5}.get(type(defense), 0.0)
        entries = sum(value[victim].numel() for value in seen.update.values())
        variance = max(std**2, 0.01 * max(0.0, of_mean - entries * std**2) / (2 * 64))
        is_laplace = isinstance(defense, LaplaceNoise)
        misfit = absolute / (variance / 2) ** 0.5 if is_laplace else squared / (2 * variance)
        assert float(mine[victim]) == pytest.approx(prior + rounds * misfit, rel=1e-6)


REMOVING = Masking(0.9), KeptAtHome(layers=["first"])


@pytest.mark.parametrize(
    ("parts", "everywhere"),
    [
        ([GaussianNoise(0.002)], True),
        ([GaussianNoise(0.002), REMOVING[0]], False),
        ([GaussianNoise(0.002), REMOVING[1]], False),
        ([REMOVING[1], GaussianNoise(0.002)], True),
    ],
)
def test_noise_is_expected_on_entries_that_were_not_removed_after_it(
    parts: list[Any], everywhere: bool, victims_of: MakeVictims
) -> None:
    images, labels, seen = victims_of(4, dtype=torch.float64, defense=Compose(parts), adaptive=True)
    shared = torch.cat([value.flatten(1) for value in seen.update.values()], 1)
    there = [shared.shape[1]] * 4 if everywhere else (shared != 0).sum(1).tolist()
    assert seen.noisy_entries.tolist() == there and everywhere == (min(there) == shared.shape[1])
    each = seen.defense.noise(seen.update) ** 2 * torch.tensor(there)
    torch.testing.assert_close(torch.as_tensor(expected_noise(seen)).double().expand(4), each.double())
    # The private images leave about as much, and the mean image, which owes nothing to the update, more.
    one_hot = nn.functional.one_hot(labels, 10).double()
    of_truth = distances(seen, images.double(), one_hot).total
    assert ((of_truth / each - 1).abs() < 0.3).all()
    every = [found(images.double(), labels), found(seen.mean_image.expand(images.shape).clone(), labels)]
    assert explained_by(seen, every).tolist() == [[True] * 4, [False] * 4]
