"""The surrogate model extension against a plain loop over the network itself."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attacks import InvertingGradients, Observation, SurrogateModel
from attacks.inverting_gradients import DECAYS
from attacks.surrogate_model import brought_to_size
from attacks.update import Protocol
from benchmark.models import MLP
from defenses import Pruning
from tests.attacks.conftest import See


def plain_path(seen: Observation, victim: int, position: float, total_variation: float, steps: int) -> list[Tensor]:
    """The images of one client at each evaluation, in a loop of torch's own with one network."""
    own = {name: value[victim] for name, value in seen.own_networks.items()}
    change = {name: value[victim] for name, value in seen.update.items()}
    network = MLP(seen.image_shape[1:], seen.num_classes, hidden=16).double()
    network.load_state_dict({name: value - position * change[name] for name, value in own.items()}, strict=False)
    assert seen.labels is not None
    mean, std = seen.mean_image.mean((1, 2), keepdim=True), seen.channel_stds[:, None, None]
    noise = torch.randn(seen.image_shape, generator=torch.Generator().manual_seed(seen.seeds[victim])).double()
    z = noise.clone().requires_grad_()  # standardized pixels
    adam = torch.optim.Adam([z], lr=0.1)
    schedule = torch.optim.lr_scheduler.MultiStepLR(adam, [int(part * steps) for part in DECAYS], gamma=0.1)
    path = []
    for _ in range(steps):
        images = mean + std * z
        path.append(images.detach().clone())
        loss = nn.functional.cross_entropy(network(images), seen.labels[victim])
        gradient = torch.autograd.grad(loss, list(network.parameters()), create_graph=True)
        found = torch.cat([value.flatten() for value in gradient])
        wanted = torch.cat([change[name].flatten() for name, _ in network.named_parameters()])
        rough = z.diff(dim=-1).abs().mean() + z.diff(dim=-2).abs().mean()
        off = 1 - nn.functional.cosine_similarity(found, wanted, dim=0) + total_variation * rough
        (slope,) = torch.autograd.grad(off, z)
        z.grad = slope.sign()
        adam.step()
        schedule.step()
        z.data = ((mean + std * z.data).clamp(0, 1) - mean) / std
    return path


@pytest.mark.parametrize("shared", [False, True])
def test_each_victim_takes_the_path_of_a_plain_loop(shared: bool, see: See) -> None:
    seen = see(shared=shared)
    found = SurrogateModel(max_evaluations=12, position=0.3, total_variation=0.02).reconstruct(seen)
    for victim in range(2):
        path = plain_path(seen, victim, 0.3, 0.02, 12)
        assert min(float((found.images[victim] - images).abs().max()) for images in path) < 1e-9


def test_at_the_weights_that_were_sent_it_is_inverting_gradients(see: See) -> None:
    seen = see()
    as_gradient = replace(seen, protocol=Protocol(), order=None)
    found = SurrogateModel(max_evaluations=10, position=0.0).reconstruct(seen)
    assert torch.equal(found.images, InvertingGradients(max_evaluations=10).reconstruct(as_gradient).images)


@pytest.mark.parametrize("rounds", [1, 2])
def test_victims_are_attacked_together_as_alone_each_at_its_best_place(rounds: int, see: See) -> None:
    seen, attack = see(rounds=rounds), SurrogateModel(max_evaluations=40)
    together = attack.reconstruct(seen)
    assert together.evaluations.tolist() == [40] * 2
    for victim in range(2):
        alone = attack.reconstruct(seen.take([victim]))
        torch.testing.assert_close(together.images[victim], alone.images[0], rtol=1e-6, atol=1e-7)


def test_each_victim_is_placed_where_its_own_loss_falls_lowest(see: See) -> None:
    """One has been moved far beyond where its gradient points so, the other hardly at all."""
    seen = see()
    factors = torch.tensor([1e-3, 60.0], dtype=torch.float64)
    scaled = {name: value * factors.view(-1, *[1] * (value.dim() - 1)) for name, value in seen.update.items()}
    positions, spent = SurrogateModel(max_evaluations=100).positions(replace(seen, update=scaled), None)
    assert float(positions[1]) == 0 and spent == 50


def test_local_steps_need_not_be_known(see: See) -> None:
    attack = SurrogateModel(max_evaluations=20)
    told, hidden = see(labels=None, threat_model="D"), see(labels=None, threat_model="B", public_data=None)
    same = replace(hidden, mean_image=told.mean_image, channel_stds=told.channel_stds)
    assert torch.equal(attack.reconstruct(same).images, attack.reconstruct(told).images)


@pytest.mark.parametrize("size", [1e-3, 1e3])
def test_the_thresholds_of_a_known_defense_are_those_of_the_update(size: float) -> None:
    update = {"a": torch.tensor([[3.0, 0.0, 4.0, 0.0]])}
    known = Pruning(0.5).known_to_attacker()
    dummy = {"a": size * torch.tensor([[3.0, 0.2, 4.0, 0.1]])}
    found = brought_to_size(known).simulate(dummy, update)["a"]
    torch.testing.assert_close(found, update["a"], rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [({"position": 1.5}, "position is 1.5, but must be from 0 to 1"), ({"distance": "squared"}, "leave distance out")],
)
def test_what_it_cannot_take_is_refused_in_one_sentence(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        SurrogateModel(**arguments)
