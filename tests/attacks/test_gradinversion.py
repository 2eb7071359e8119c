"""GradInversion against a plain loop of torch's own optimizer, one for each seed of a victim."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attacks import GradInversion
from attacks.engine import step
from attacks.engine.trials import seeds
from attacks.threat import ThreatModel
from attacks.update import FedAvg, Protocol
from benchmark.models import LeNet, ResNet
from benchmark.studies.bench import put_network
from tests.conftest import MakeVictims, Victims

STEPS = 10


def inputs_of_batch_norm(network: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Mean and variance of each channel, over the batch and all places, of what comes to each BatchNorm."""
    found: dict[str, Tensor] = {}

    def note(name: str, x: Tensor) -> None:
        found[f"{name}.running_mean"] = x.mean((0, 2, 3))
        found[f"{name}.running_var"] = x.var((0, 2, 3), unbiased=False)

    handles = [
        layer.register_forward_pre_hook(lambda _, inputs, name=name: note(name, inputs[0]))
        for name, layer in network.named_modules()
        if isinstance(layer, nn.BatchNorm2d)
    ]
    network(images)
    for handle in handles:
        handle.remove()
    return found


def granted(victims: Victims) -> Any:
    """What the attacker has who knows the labels and the statistics of the batch."""
    seen, network = victims.observation, ResNet((1, 8, 8), 10).double().eval()
    each = []
    for victim, images in enumerate(victims.images):
        put_network(network, seen, victim)
        each.append({name: value.detach() for name, value in inputs_of_batch_norm(network, images.double()).items()})
    statistics = {name: torch.stack([one[name] for one in each]) for name in each[0]}
    threat = ThreatModel(labels="known", statistics="public")
    return replace(seen, labels=victims.labels, batch_statistics=statistics, threat=threat)


def plain_loop(seen: Any, victim: int, attack: GradInversion) -> tuple[float, Tensor]:
    """The lowest loss of all seeds and steps, and the images of it."""
    network = ResNet((1, 8, 8), 10).double().eval()
    put_network(network, seen, victim)
    weights = list(network.parameters())
    target = [seen.update[name][victim] for name, _ in network.named_parameters()]
    mean, std = seen.mean_image.mean((1, 2))[:, None, None], seen.channel_stds[:, None, None]
    trials = []
    for seed in seeds(seen.seeds[victim], attack.trials):
        noise = torch.randn(seen.image_shape, generator=torch.Generator().manual_seed(seed))
        trials.append(noise.to(target[0]).requires_grad_())
    adams = [torch.optim.Adam([images], lr=0.1) for images in trials]
    rise = min(50, attack.max_evaluations // 10)

    def factor(step: int) -> float:
        fall = max(0, step - rise) / (attack.max_evaluations - rise)
        return min(1.0, (step + 1) / (rise + 1)) * (1 + math.cos(math.pi * fall)) / 2

    plans = [torch.optim.lr_scheduler.LambdaLR(adam, factor) for adam in adams]
    lowest, best = math.inf, trials[0]
    for _ in range(attack.max_evaluations):
        center = sum(images.detach() for images in trials) / len(trials)
        for images in trials:
            loss = nn.functional.cross_entropy(network(images * std + mean), seen.labels[victim])
            dummy = torch.autograd.grad(loss, weights, create_graph=True)
            value = sum((a - b).square().sum() for a, b in zip(dummy, target, strict=True))
            size = sum(part.square().sum() for part in target)
            smooth = images.diff(dim=-2).abs().mean() + images.diff(dim=-1).abs().mean()
            value = value + size * (attack.total_variation * smooth + attack.l2 * images.square().mean())
            found = inputs_of_batch_norm(network, images * std + mean)
            off = sum((own - seen.batch_statistics[name][victim]).square().sum() for name, own in found.items())
            value = value + size * attack.batch_norm * off
            value = value + size * attack.group_consistency * (images - center).square().mean()
            images.grad = torch.autograd.grad(value, images)[0].sign()
            if value.item() < lowest:
                lowest, best = value.item(), images.detach() * std + mean
        for images, adam, plan in zip(trials, adams, plans, strict=True):
            adam.step()
            plan.step()
            with torch.no_grad():
                images.copy_(images.clamp(-mean / std, (1 - mean) / std))
    return lowest, best


@pytest.mark.parametrize("batch_size", [1, 2])
def test_the_seeds_of_each_victim_take_the_path_of_a_plain_loop(batch_size: int, victims_of: MakeVictims) -> None:
    seen = granted(victims_of(2, dtype=torch.float64, model=ResNet, batch_size=batch_size))
    attack = GradInversion(max_evaluations=STEPS, trials=2)
    found = attack.reconstruct(seen)
    assert found.evaluations.tolist() == [2 * STEPS] * 2
    for victim in range(2)[batch_size - 1 :]:
        lowest, images = plain_loop(seen, victim, attack)
        assert float(found.loss[victim]) == pytest.approx(lowest, rel=1e-7)
        torch.testing.assert_close(
            found.images[victim], images, rtol=0, atol=1e-5
        )  # Adam divides by gradients that are near 0


def test_what_is_found_of_a_victim_is_the_same_in_any_company(victims_of: MakeVictims) -> None:
    seen = granted(victims_of(2, dtype=torch.float64, model=ResNet))
    alone = [GradInversion(max_evaluations=5, trials=2).reconstruct(seen.take([victim])).images for victim in range(2)]
    for at_once in (None, 1):
        together = GradInversion(max_evaluations=5, trials=2, at_once=at_once).reconstruct(seen)
        torch.testing.assert_close(together.images, torch.cat(alone), rtol=0, atol=1e-8)


def test_it_is_the_same_in_parts_that_split_the_seeds_of_a_victim(
    victims_of: MakeVictims, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = granted(victims_of(2, dtype=torch.float64, model=ResNet))
    attack = GradInversion(max_evaluations=4, trials=3)
    whole = attack.reconstruct(seen)
    monkeypatch.setitem(step.TOGETHER, "cpu", 1)  # a row at a time
    torch.testing.assert_close(attack.reconstruct(seen).images, whole.images, rtol=0, atol=1e-8)


def test_statistics_that_are_granted_are_used(victims_of: MakeVictims) -> None:
    seen = granted(victims_of(2, dtype=torch.float64, model=ResNet))
    attack = GradInversion(max_evaluations=4, trials=1)
    other = replace(seen, batch_statistics={name: 2 * value for name, value in seen.batch_statistics.items()})
    assert not torch.allclose(attack.reconstruct(seen).images, attack.reconstruct(other).images)


def test_what_it_cannot_do_without_is_named() -> None:
    attack = GradInversion()
    attack.check(ResNet((1, 8, 8), 10), (2, 1, 8, 8))
    attack.check_granted(Protocol(), ThreatModel(), 1)
    attack.check_granted(Protocol(FedAvg(0.1)), ThreatModel(labels="counts"), 4)
    with pytest.raises(ValueError, match=r"network with BatchNorm.*: give batch_norm 0"):
        attack.check(LeNet((1, 8, 8), 10), (1, 1, 8, 8))
    GradInversion(batch_norm=0.0).check(LeNet((1, 8, 8), 10), (1, 1, 8, 8))
    with pytest.raises(ValueError, match="batch_norm needs statistics, which the threat model hides"):
        attack.check_granted(Protocol(train=True), ThreatModel(statistics="hidden"))
    attack.check_granted(Protocol(), ThreatModel(), 4)
    with pytest.raises(ValueError, match="give trials alone, or restarts with trials 1"):
        GradInversion(restarts=1)
    for name in ("l2", "group_consistency", "batch_norm", "total_variation"):
        with pytest.raises(ValueError, match=f"{name} is -1"):
            GradInversion(**{name: -1})
        with pytest.raises(ValueError, match=f"{name} is nan"):
            GradInversion(**{name: math.nan})
