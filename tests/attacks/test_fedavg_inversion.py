"""Data leakage in federated averaging against a plain loop of local steps over the network itself."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.func import functional_call

from attacks import FedAvgInversion, InvertingGradients, Observation
from attacks.engine.label_rules import LABEL_RULES
from attacks.fedavg_inversion import Unrolled, mean_of_epochs
from attacks.inverting_gradients import DECAYS
from attacks.update import FedAvg
from benchmark.models import MLP
from defenses import GaussianNoise, MixUp
from tests.attacks.conftest import LOCAL, See


def plain_path(seen: Observation, victim: int, labels: Tensor, rough: float, steps: int) -> list[Tensor]:
    """The images of one client's epochs at each evaluation, in a loop of torch's own with one network."""
    network = MLP(seen.image_shape[1:], seen.num_classes, hidden=16).double()
    names = [name for name, _ in network.named_parameters()]
    begin = {name: seen.own_networks[name][victim] for name in names}
    wanted = torch.cat([seen.update[name][victim].flatten() for name in names])
    mean, std = seen.mean_image.mean((1, 2), keepdim=True), seen.channel_stds[:, None, None]
    shape = (LOCAL.epochs * seen.image_shape[0], *seen.image_shape[1:])
    z = torch.randn(shape, generator=torch.Generator().manual_seed(seen.seeds[victim])).double().requires_grad_()
    adam = torch.optim.Adam([z], lr=0.1)
    schedule = torch.optim.lr_scheduler.MultiStepLR(adam, [int(part * steps) for part in DECAYS], gamma=0.1)
    path = []
    for _ in range(steps):
        images = mean + std * z
        path.append(images.detach().clone())
        weights, speed = {name: value.clone().requires_grad_() for name, value in begin.items()}, None
        for batch, of_batch in zip(images.split(2), labels.split(2), strict=True):
            loss = nn.functional.cross_entropy(functional_call(network, weights, (batch,)), of_batch)
            slopes = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
            speed = list(slopes) if speed is None else [0.5 * v + s for v, s in zip(speed, slopes, strict=True)]
            weights = {name: w - 0.1 * v for (name, w), v in zip(weights.items(), speed, strict=True)}
        shared = torch.cat([(begin[name] - weights[name]).flatten() for name in names])
        off = 1 - nn.functional.cosine_similarity(shared, wanted, dim=0)
        off = off + rough * (z.diff(dim=-1).abs().mean() + z.diff(dim=-2).abs().mean())
        (slope,) = torch.autograd.grad(off, z)
        z.grad = slope.sign()
        adam.step()
        schedule.step()
        z.data = ((mean + std * z.data).clamp(0, 1) - mean) / std
    return path


def test_each_victim_takes_the_path_of_a_plain_loop(see: See) -> None:
    seen = see()
    attack = FedAvgInversion(max_evaluations=10, total_variation=0.02)
    found = attack.problem(seen).solve()  # before the epochs are averaged
    assert seen.labels is not None
    for victim in range(2):
        first, *others = found.labels[victim].split(4)
        assert all(torch.equal(first, other) for other in others)  # one order for all epochs
        assert torch.equal(first.sort().values, seen.labels[victim])
        path = plain_path(seen, victim, found.labels[victim], 0.02, 10)
        assert min(float((found.images[victim] - images).abs().max()) for images in path) < 1e-9


@pytest.mark.parametrize("rounds", [1, 2])
def test_victims_are_attacked_together_as_alone(rounds: int, see: See) -> None:
    seen, attack = see(rounds=rounds), FedAvgInversion(max_evaluations=12)
    together = attack.reconstruct(seen)
    assert together.images.shape == (2, *seen.image_shape) and together.labels.shape == (2, 4)
    assert together.trajectory is not None and together.trajectory.images.shape[2:] == seen.image_shape
    for victim in range(2):
        alone = attack.reconstruct(seen.take([victim]))
        torch.testing.assert_close(together.images[victim], alone.images[0], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    "axes",
    [{"order": "known", "labels": "known"}, {"local": FedAvg(0.1, epochs=3)}, {"local": None}],
    ids=["order granted", "one step an epoch", "a gradient"],
)
def test_epochs_have_the_same_images_where_their_order_is_no_secret(axes: dict[str, Any], see: See) -> None:
    seen = see(**axes)
    found = FedAvgInversion(max_evaluations=6).reconstruct(seen)
    assert torch.equal(found.images, InvertingGradients(max_evaluations=6).reconstruct(seen).images)


def test_images_of_epochs_are_matched_within_their_label_and_averaged() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(1, 6, 1, 5, 5, generator=generator, dtype=torch.float64)
    labels, orders = torch.tensor([[3, 3, 5, 5, 5, 7]]), ([1, 0, 4, 2, 3, 5], [0, 1, 3, 4, 2, 5])
    epochs = [truth] + [truth[:, order] + 0.05 * torch.randn(truth.shape, generator=generator) for order in orders]
    of_epochs = labels[:, None].expand(1, 3, 6)
    found = mean_of_epochs(torch.cat(epochs, 1), of_epochs, 3)
    wanted = truth.clone()
    for other in epochs[1:]:
        cost = torch.cdist(truth.flatten(2), other.flatten(2))[0].square()
        wanted += other[:, linear_sum_assignment(cost.numpy())[1]]
    torch.testing.assert_close(found, wanted / 3)
    alike = truth.expand(1, 6, 1, 5, 5)[:, :1].repeat(1, 12, 1, 1, 1)  # nothing to tell them by
    torch.testing.assert_close(mean_of_epochs(alike, of_epochs, 2), alike[:, :6])


def test_epochs_whose_labels_differ_are_matched_one_to_one_all_the_same() -> None:
    """As where labels are optimized with the images."""
    truth = torch.rand(1, 4, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    order = [2, 0, 3, 1]
    labels = torch.tensor([[[0, 1, 2, 3], [7, 7, 7, 7]]])
    found = mean_of_epochs(torch.cat([truth, truth[:, order]], 1), labels, 2)
    torch.testing.assert_close(found, truth)


def test_labels_that_are_hidden_are_inferred_once_for_all_epochs(see: See) -> None:
    hidden = see(labels="hidden")
    attack = FedAvgInversion(max_evaluations=4, labels="ilrg")
    found = attack.reconstruct(hidden)
    wanted = LABEL_RULES["ilrg"].labels(hidden)
    assert found.labels.sort(1).values.equal(wanted.sort(1).values) and found.labels.shape == (2, 4)
    granted = attack.reconstruct(replace(hidden, labels=wanted))
    assert torch.equal(found.images, granted.images)


def test_mixed_labels_start_alike_in_all_epochs(see: See) -> None:
    hidden = see(labels="hidden")
    mixes = replace(hidden, defense=MixUp().known_to_attacker())
    wanted = LABEL_RULES["ilrg"].labels(mixes).sort(1).values
    problem = FedAvgInversion(max_evaluations=4, labels="ilrg").problem(mixes)
    logits = problem.label_logits.detach()
    assert logits.isfinite().all() and logits.shape[1] == LOCAL.epochs * 4
    for epoch in logits.argmax(-1).split(4, dim=1):
        assert torch.equal(epoch.sort(1).values, wanted)


def test_an_image_counts_once_against_noise_however_many_epochs_it_is_in(see: See) -> None:
    seen = replace(see(), defense=GaussianNoise(0.1).known_to_attacker())
    images = torch.rand(2, *seen.image_shape, generator=torch.Generator().manual_seed(0)).double()
    attack = FedAvgInversion()
    once, of_epochs = attack.noise_prior(seen), attack.noise_prior(Unrolled.of(seen, LOCAL.epochs))
    assert once and of_epochs
    costs = [
        prior(dummy, torch.full((2, dummy.shape[1], 10), 0.1)) * variance
        for (prior, variance), dummy in ((once, images), (of_epochs, images.repeat(1, LOCAL.epochs, 1, 1, 1)))
    ]
    torch.testing.assert_close(costs[1], costs[0])
    assert bool((torch.as_tensor(costs[0]) > 0).all())
