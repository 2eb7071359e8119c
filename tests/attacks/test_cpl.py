"""CPL and SAPAG against plain loops of torch's own optimizers."""

import math
from dataclasses import replace
from statistics import NormalDist
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attacks import CPL, SAPAG, InvertingGradients
from attacks.engine.label_rules import LABEL_RULES
from attacks.gradient_matching import GradientMatching
from attacks.threat import ThreatModel
from attacks.update import Protocol
from benchmark.models import ConvNet, LeNet
from benchmark.studies.bench import put_network
from tests.conftest import MakeVictims, Victims


def known(victims: Victims) -> Any:
    """What the attacker has who knows the labels."""
    return replace(victims.observation, labels=victims.labels, threat=ThreatModel(labels="known"))


def network_of(model: type, seen: Any, victim: int) -> tuple[nn.Module, list[Tensor]]:
    """The network of a victim, and its update."""
    network = model((1, 8, 8), 10).double().eval()
    put_network(network, seen, victim)
    return network, [seen.update[name][victim] for name, _ in network.named_parameters()]


def noise_of(seen: Any, victim: int) -> Tensor:
    return torch.randn(seen.image_shape, generator=torch.Generator().manual_seed(seen.seeds[victim]))


def gradient(network: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
    loss = nn.functional.cross_entropy(network(images), labels)
    return torch.autograd.grad(loss, list(network.parameters()), create_graph=True)


@pytest.mark.parametrize(("batch_size", "weight"), [(1, 0.3), (2, 1e-3)])
def test_cpl_takes_the_path_of_a_plain_loop(batch_size: int, weight: float, victims_of: MakeVictims) -> None:
    seen = known(victims_of(2, dtype=torch.float64, batch_size=batch_size))
    found = CPL(max_evaluations=15, label_weight=weight).reconstruct(seen)
    for victim in range(2):
        network, target = network_of(LeNet, seen, victim)
        corner, spread = noise_of(seen, victim)[..., :2, :2], NormalDist()
        tile = torch.tensor([spread.cdf(value) for value in corner.flatten().tolist()]).view(corner.shape)
        images = torch.cat([torch.cat([tile] * 4, -1)] * 4, -2).double().requires_grad_()
        wanted = nn.functional.one_hot(seen.labels[victim], 10).double()
        path: list[tuple[float, Tensor]] = []

        def closure(
            network: nn.Module = network,
            target: list[Tensor] = target,
            images: Tensor = images,
            wanted: Tensor = wanted,
            labels: Tensor = seen.labels[victim],
            path: list[tuple[float, Tensor]] = path,
        ) -> Tensor:
            dummy = gradient(network, images, labels)
            loss = sum((a - b).square().sum() for a, b in zip(dummy, target, strict=True))
            loss = loss + weight * (network(images).softmax(-1) - wanted).square().sum()
            images.grad = torch.autograd.grad(loss, images)[0]
            path.append((loss.item(), images.detach().clone()))
            return loss

        torch.optim.LBFGS([images], lr=1, max_iter=15, max_eval=15, history_size=100).step(closure)
        lowest, best = min(path, key=lambda point: point[0])
        assert len(path) == 15 and float(found.loss[victim]) == pytest.approx(lowest, rel=1e-6)
        torch.testing.assert_close(found.images[victim], best, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("batch_size", "model"), [(1, LeNet), (2, ConvNet)])
def test_sapag_takes_the_path_of_a_plain_loop(batch_size: int, model: type, victims_of: MakeVictims) -> None:
    seen = known(victims_of(2, dtype=torch.float64, batch_size=batch_size, model=model))
    found = SAPAG(max_evaluations=12).reconstruct(seen)
    for victim in range(2):
        network, target = network_of(model, seen, victim)
        layers = [name.rpartition(".")[0] for name, _ in network.named_parameters()]
        images = noise_of(seen, victim).double().requires_grad_()
        adam, lowest, best = torch.optim.Adam([images], lr=0.1), math.inf, images
        for _ in range(12):
            dummy = gradient(network, images, seen.labels[victim])
            loss = images.new_zeros(())
            for layer in set(layers):
                own = [place for place, name in enumerate(layers) if name == layer]
                off = sum((dummy[place] - target[place]).square().sum() for place in own)
                width = sum(target[place].square().sum() for place in own)
                loss = loss + (1 - torch.exp(-off / width)) / len(set(layers))
            images.grad = torch.autograd.grad(loss, images)[0]
            if loss.item() < lowest:
                lowest, best = loss.item(), images.detach().clone()
            adam.step()
        assert float(found.loss[victim]) == pytest.approx(lowest, rel=1e-7)
        torch.testing.assert_close(found.images[victim], best, rtol=0, atol=1e-5)


@pytest.mark.parametrize("attack", [CPL, SAPAG])
def test_what_is_found_of_a_victim_is_the_same_alone(attack: type[GradientMatching], victims_of: MakeVictims) -> None:
    seen = known(victims_of(2, dtype=torch.float64))
    alone = torch.cat([attack(max_evaluations=8).reconstruct(seen.take([victim])).images for victim in range(2)])
    for at_once in (None, 1):
        together = attack(max_evaluations=8, at_once=at_once).reconstruct(seen)
        torch.testing.assert_close(together.images, alone, rtol=0, atol=1e-6)


def test_both_find_an_image_of_a_network_that_gives_it_away(victims_of: MakeVictims) -> None:
    victims = victims_of(1)
    for attack in (CPL(max_evaluations=150), SAPAG(max_evaluations=150)):
        found = attack.reconstruct(victims.observation)
        assert found.labels.equal(victims.labels)
        assert float((found.images - victims.images).square().mean()) < 0.01


@pytest.mark.parametrize("attack", [CPL, SAPAG, InvertingGradients])
@pytest.mark.parametrize("rule", [None, "llg"])
def test_labels_of_a_batch_that_are_hidden_are_inferred(
    attack: type[GradientMatching], rule: str | None, victims_of: MakeVictims
) -> None:
    victims = victims_of(3, batch_size=3)
    attack().check_granted(Protocol(), ThreatModel(), 3)
    found = attack(max_evaluations=3, labels=rule).reconstruct(victims.observation)
    assert found.labels.equal(LABEL_RULES[rule or "ilrg"].labels(victims.observation))
    assert rule or found.labels.equal(victims.labels.sort(1).values)  # llg estimates


@pytest.mark.parametrize("weight", [-1.0, math.nan])
def test_the_weight_of_the_label_is_not_below_zero(weight: float) -> None:
    with pytest.raises(ValueError, match="label_weight is"):
        CPL(label_weight=weight)
