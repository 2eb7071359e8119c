"""Which reconstruction is taken, by distances that are computed here by one network at a time."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attacks import DLG, AutoLeak, InvertingGradients, Observation, Reconstruction, Wiener, choice
from attacks.choice import explained_by, most_probable
from attacks.update import FedAvg, Protocol
from benchmark.metrics.misfit import distances, expected_noise
from benchmark.models import LeNet
from defenses import Compose, GaussianNoise, KeptAtHome, LaplaceNoise, Masking, RelativeNoise
from defenses.base import KnownDefense, Update
from defenses.function import FunctionDefense

MakeVictims = Callable[..., Any]


def found(images: Tensor, labels: Tensor) -> Reconstruction:
    victims = len(images)
    return Reconstruction(
        images, labels, torch.zeros(victims), torch.ones(victims, dtype=torch.long), ["stalled"] * victims
    )


def left(seen: Observation, victim: int, images: Tensor, labels: Tensor) -> float:
    """Squared distance of the update of images by a plain network from what a victim shared."""
    network = LeNet((1, 8, 8), 10).double()
    network.load_state_dict({name: value[victim] for name, value in seen.parameters.items()}, strict=False)
    loss = nn.functional.cross_entropy(network(images), labels)
    slopes = torch.autograd.grad(loss, list(network.parameters()))
    names = [name for name, _ in network.named_parameters()]
    return float(
        sum((g - seen.update[name][victim]).square().sum() for name, g in zip(names, slopes, strict=True))  # type: ignore[misc] # of tensors
    )


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
    monkeypatch.setattr(choice, "probable", lambda seen, one: torch.full((seen.num_victims,), losses[id(one)]))
    best = most_probable(seen, every)
    assert best.starts == ["near"] * 4 and best.loss.tolist() == [3.0] * 4
    del every["near"]
    assert most_probable(seen, every).starts == ["smooth"] * 4, "where nothing explains it, the most probable"
    losses = dict.fromkeys(losses, torch.inf)
    assert most_probable(seen, every).starts == ["far"] * 4, "where no loss tells, the last one"


def shrunk(update: Update) -> Update:
    return {name: 0.4 * value for name, value in update.items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_of_an_unknown_defense_what_was_found_is_judged_by_the_labels_it_was_found_with(
    dtype: torch.dtype, victims_of: MakeVictims
) -> None:
    """Mixed ones: where an update was shortened, no hard ones explain it."""
    images, labels, seen = victims_of(3, dtype=dtype, defense=FunctionDefense(shrunk), adaptive=False)
    private, probabilities = images.to(dtype), []
    for victim in range(3):  # the label at which the network's error is 0.4 of that at the private one
        network = LeNet((1, 8, 8), 10).to(dtype)
        network.load_state_dict({name: value[victim] for name, value in seen.parameters.items()}, strict=False)
        made = network(private[victim]).softmax(-1).detach()
        probabilities.append(made - 0.4 * (made - nn.functional.one_hot(labels[victim], 10)))
    mixed_labels = torch.stack(probabilities)
    mixed = replace(found(private, labels), label_probabilities=mixed_labels)
    every = {"gray": found(torch.full_like(private, 0.5), labels), "hard": found(private, labels), "mixed": mixed}
    assert left(seen, 0, private[0].double(), probabilities[0].double()) < 1e-9 * left(
        seen, 0, private[0].double(), labels[0]
    )
    best = most_probable(seen, every)
    assert best.starts == ["mixed"] * 3
    assert best.label_probabilities is not None
    torch.testing.assert_close(best.label_probabilities, mixed_labels)
    # Who knows that clients do not mix labels weighs them as they are.
    known = replace(seen, defense=KnownDefense(simulate=lambda dummy, observed: shrunk(dummy)))
    assert most_probable(known, every).starts == ["hard"] * 3
    assert most_probable(known, every).label_probabilities is None


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
