"""Which reconstruction is taken, by distances that are computed here by one network at a time."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attacks import DLG, IDLG, AutoLeak, InvertingGradients, Observation, Reconstruction, Wiener, choice
from attacks.choice import explained_by, minus_log_posterior, most_probable
from attacks.network.gradients import batch_logits
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


def left_by_plain(seen: Observation, victim: int, images: Tensor, labels: Tensor) -> tuple[float, float]:
    """The same, and the absolute distance, of the entries that were shared."""
    network = LeNet((1, 8, 8), 10).double()
    network.load_state_dict({name: value[victim] for name, value in seen.parameters.items()}, strict=False)
    loss = nn.functional.cross_entropy(network(images), labels)
    slopes = torch.autograd.grad(loss, list(network.parameters()))
    shared = [seen.update[name][victim].double() for name, _ in network.named_parameters()]
    off = torch.cat([((g - u) * (u != 0)).flatten() for g, u in zip(slopes, shared, strict=True)])
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
    losses = {"near": 3.0, "smooth": 1.0, "far": 2.0}

    def told(seen: Observation, candidates: dict[str, Reconstruction]) -> Tensor:
        return torch.tensor([[losses[name]] * seen.num_victims for name in candidates])

    monkeypatch.setattr(choice, "minus_log_posterior", told)
    assert most_probable(seen, every).starts == ["near"] * 4
    del every["near"]
    assert most_probable(seen, every).starts == ["smooth"] * 4, "where nothing explains it, the most probable"
    losses = dict.fromkeys(losses, torch.inf)
    best = most_probable(seen, every)
    assert best.starts == ["far"] * 4 and best.loss.isinf().all(), "where no loss tells, the last one"


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


class OfAnySize(nn.Sequential):
    """A network whose gradient is as many times as large as its image."""

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], classes, bias=False))

    def draw(self, generator: torch.Generator) -> dict[str, Tensor]:
        return {"1.weight": torch.randn(self[1].weight.shape, generator=generator) / 100}


def test_where_nothing_was_done_to_an_update_its_size_tells(victims_of: MakeVictims) -> None:
    images, labels, seen = victims_of(4, model=OfAnySize, dtype=torch.float64)
    every = {"faint": found(images.double() / 3, labels), "private": found(images.double(), labels)}
    assert most_probable(seen, every).starts == ["private"] * 4


@pytest.mark.parametrize("unlike", [lambda x: 1 - x, torch.rand_like, lambda x: (x > 0.5).to(x)])
@pytest.mark.parametrize("defense", [None, Masking(0.3), KeptAtHome(layers=["first"])])
def test_an_exact_fit_is_returned_however_unlike_public_images_it_is(
    unlike: Callable[[Tensor], Tensor], defense: Any, victims_of: MakeVictims
) -> None:
    """No prior makes up for what images leave of an update that others explain."""
    images, labels, seen = victims_of(4, dtype=torch.float64, defense=defense, adaptive=True)
    private = unlike(images.double())
    made = seen.update_of(private, nn.functional.one_hot(labels, 10).double())
    seen = replace(seen, update={name: value * (seen.update[name] != 0) for name, value in made.items()})
    mean_images = seen.mean_image.expand(private.shape).clone()
    near = private + 1e-6 * torch.rand_like(private)
    every = {"mean": mean_images, "half": (private + mean_images) / 2, "exact": near}
    assert most_probable(seen, {n: found(one, labels) for n, one in every.items()}).starts == ["exact"] * 4


def test_wrong_labels_that_explain_nothing_are_not_returned(victims_of: MakeVictims) -> None:
    """With which the public mean image leaves more."""
    images, labels, seen = victims_of(8, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    rough = (images.double() + 0.3 * torch.randn(images.shape, generator=generator)).clamp(0, 1)
    mean_images = seen.mean_image.expand(images.shape).clone()
    every = {f"label + {more}": found(mean_images, (labels + more) % 10) for more in range(1, 10)}
    assert most_probable(seen, every | {"right": found(rough, labels)}).starts == ["right"] * 8


def test_among_images_that_fit_what_is_left_nearly_exactly_the_likeliest_is_returned(victims_of: MakeVictims) -> None:
    """Although a rougher one fits a little more exactly."""
    images, labels, seen = victims_of(4, dtype=torch.float64, defense=Masking(0.995), adaptive=True)
    private, made = images.double(), IDLG(400, start="noise", tolerance=0.0).reconstruct(seen)
    near = private + 3e-3 * torch.randn(private.shape, generator=torch.Generator().manual_seed(0)).double()
    every = {"rough": made, "near": found(near, labels)}
    lefts = [[left_by_plain(seen, v, one.images[v], labels[v])[0] for v in range(4)] for one in every.values()]
    wanted = ["near" if near < 10 * rough else None for rough, near in zip(*lefts, strict=True)]
    chosen = most_probable(seen, every).starts
    assert wanted.count("near") >= 1
    assert all(name is None or name == one for name, one in zip(wanted, chosen, strict=True))


@pytest.mark.parametrize("defense", [None, Masking(0.5), GaussianNoise(0.01), LaplaceNoise(0.01)])
@pytest.mark.parametrize("rounds", [1, 3])
def test_the_posterior_is_that_of_a_plain_network(defense: Any, rounds: int, victims_of: MakeVictims) -> None:
    """By distances of one network at a time, torch's own normal density, and the known noise."""
    images, labels, seen = victims_of(3, 2, dtype=torch.float64, defense=defense, adaptive=True)
    seen = replace(seen, later=(replace(seen, later=()),) * (rounds - 1))
    generator = torch.Generator().manual_seed(0)
    tried = {
        str(size): found((images.double() + size * torch.rand(images.shape, generator=generator)).clamp(0, 1), labels)
        for size in (0.2, 0.3, 0.5)
    }
    mine = minus_log_posterior(seen, tried)
    of_classes = zip(seen.class_means.flatten(1), seen.class_covariances, strict=True)
    densities = [torch.distributions.MultivariateNormal(*moments) for moments in of_classes]
    highest = torch.stack([one.log_prob(one.mean) for one in densities]).mean()
    std = {GaussianNoise: 0.01, LaplaceNoise: 0.01 * 2**0.5}.get(type(defense), 0.0)
    for victim in range(3):
        noise = sum(value[victim].numel() for value in seen.update.values()) * std**2
        left = [left_by_plain(seen, victim, one.images[victim], labels[victim]) for one in tried.values()]
        of_mean, _ = left_by_plain(seen, victim, seen.mean_image.expand(2, -1, -1, -1), labels[victim])
        missed = min(0.01 * (of_mean - noise), 30 * (min(squared for squared, _ in left) - noise))
        variance = max(std**2, missed / (2 * 64))
        for part, (one, (squared, absolute)) in enumerate(zip(tried.values(), left, strict=True)):
            pairs = zip(one.images[victim], labels[victim], strict=True)
            prior = sum(float(highest - densities[label].log_prob(image.flatten())) for image, label in pairs)
            is_laplace = isinstance(defense, LaplaceNoise)
            misfit = absolute / (variance / 2) ** 0.5 if is_laplace else squared / (2 * variance)
            assert float(mine[part, victim]) == pytest.approx(prior + rounds * misfit, rel=1e-6)


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
