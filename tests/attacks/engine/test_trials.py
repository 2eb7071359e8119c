"""Several trials of each victim, and the distances that an attack can minimize."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from attacks import DLG, Reconstruction
from attacks.engine.distances import cosine_distance
from attacks.engine.trials import best_of, seeds
from benchmark.models import ConvNet
from tests.conftest import MakeVictims


def test_the_cosine_is_that_of_all_parameters_together() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = (
        {name: torch.randn(3, *shape, generator=generator) for name, shape in (("a", (4, 5)), ("b", ()))}
        for _ in range(2)
    )
    flat = [torch.cat([one["a"].flatten(1), one["b"][:, None]], 1) for one in (first, second)]
    torch.testing.assert_close(cosine_distance(first, second), 1 - nn.functional.cosine_similarity(*flat))
    assert cosine_distance(first, first).abs().max() < 1e-6
    zero = {name: torch.zeros_like(value) for name, value in first.items()}
    assert torch.equal(cosine_distance(zero, first), torch.ones(3))


def test_an_attack_by_the_cosine_is_that_of_a_plain_loop(victims_of: MakeVictims) -> None:
    victims = victims_of(2, batch_size=2, model=ConvNet, dtype=torch.float64)
    seen = replace(victims.observation, labels=victims.labels)
    attack = DLG(max_evaluations=25, optimizer="adam", distance="cosine", tolerance=0)
    found = attack.reconstruct(seen)
    for victim in range(2):
        network = ConvNet(tuple(victims.images.shape[2:]), 10).double()
        for name, parameter in network.named_parameters():
            parameter.data = seen.parameters[name][victim].clone()
        names = [name for name, _ in network.named_parameters()]
        observed = torch.cat([seen.update[name][victim].flatten() for name in names])
        start = torch.randn(seen.image_shape, generator=torch.Generator().manual_seed(seen.seeds[victim]))
        dummy = start.double().requires_grad_()
        adam, lowest = torch.optim.Adam([dummy], lr=0.1), float("inf")
        for _ in range(25):
            loss = nn.functional.cross_entropy(network(dummy), victims.labels[victim])
            mine = torch.autograd.grad(loss, list(network.parameters()), create_graph=True)
            distance = 1 - nn.functional.cosine_similarity(torch.cat([one.flatten() for one in mine]), observed, dim=0)
            lowest = min(lowest, distance.item())
            adam.zero_grad()
            distance.backward()
            adam.step()
        assert float(found.loss[victim]) == pytest.approx(lowest, rel=1e-6)


def test_the_size_of_an_update_makes_no_difference_to_the_cosine(victims_of: MakeVictims) -> None:
    seen = victims_of(2, dtype=torch.float64).observation
    small = replace(seen, update={name: 1e-4 * value for name, value in seen.update.items()})
    attack = DLG(max_evaluations=15, optimizer="adam", distance="cosine")
    one, other = (attack.reconstruct(view) for view in (seen, small))
    torch.testing.assert_close(one.images, other.images, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(one.loss, other.loss, rtol=1e-6, atol=1e-10)


def test_of_trials_side_by_side_the_one_with_the_lowest_loss_is_returned(victims_of: MakeVictims) -> None:
    seen = victims_of(3, dtype=torch.float64).observation
    together = DLG(max_evaluations=12, trials=3).reconstruct(seen)
    alone = [
        DLG(max_evaluations=12).reconstruct(replace(seen, seeds=[seeds(seed, 3)[trial] for seed in seen.seeds]))
        for trial in range(3)
    ]
    losses = torch.stack([one.loss for one in alone])
    torch.testing.assert_close(together.loss, losses.min(0).values)
    for victim, trial in enumerate(losses.argmin(0).tolist()):
        torch.testing.assert_close(together.images[victim], alone[trial].images[victim])
    assert torch.equal(together.evaluations, sum(one.evaluations for one in alone))
    assert len(set(losses.flatten().tolist())) == 9  # each trial has a start of its own
    first = DLG(max_evaluations=12, trials=2, at_once=1).reconstruct(seen)
    torch.testing.assert_close(first.loss, losses[:2].min(0).values)


def test_a_trial_that_diverged_is_not_returned_where_another_did_not() -> None:
    found = Reconstruction(
        images=torch.arange(4.0).view(4, 1, 1, 1, 1),
        labels=torch.zeros(4, 1, dtype=torch.long),
        loss=torch.tensor([torch.nan, 3.0, 2.0, torch.inf]),
        evaluations=torch.tensor([1, 2, 3, 4]),
        status=["diverged", "converged", "stalled", "diverged"],
    )
    best = best_of(found, 2)
    assert best.images.flatten().tolist() == [1.0, 2.0]
    assert best.status == ["converged", "stalled"] and best.evaluations.tolist() == [3, 7]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"trials": 0}, "trials is 0"),
        ({"distance": "l1"}, "distance is"),
        ({"trials": 2, "start": "mean"}, "from noise"),
    ],
)
def test_trials_and_distances_out_of_range_are_refused(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        DLG(**wrong)  # type: ignore[arg-type] # wrong on purpose
