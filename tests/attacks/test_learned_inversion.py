"""Learning to Invert: its training against a plain loop, and what it depends on."""

from dataclasses import replace
from itertools import pairwise, permutations
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from attacks import DLG, Attack, ClassMeanImage, ConstantImage, LearnedInversion, MeanImage, Observation
from attacks.engine.inverter import SEED, Inverter, error
from attacks.threat import PRESETS, ThreatModel
from attacks.update import FedAvg, Protocol
from benchmark.federation.client import PublicData, observe
from benchmark.federation.setting import Setting
from benchmark.metrics.scores import matched_psnr
from benchmark.models import MLP
from benchmark.rehearsal.scene import check_takes
from datamodules import Digits
from defenses import Clipping, Defense, GaussianNoise, Masking, Pruning
from defenses.base import Update, flattened
from defenses.function import FunctionDefense

SMALL: dict[str, Any] = {"training_steps": 3, "hidden": 8, "pairs": 5, "learning_rate": 0.01}


def see(
    digits: Digits,
    victims: int = 3,
    images: int = 1,
    defense: Defense | None = None,
    adaptive: bool = True,
    public: int = 40,
    dtype: torch.dtype = torch.float64,
    **axes: Any,
) -> Observation:
    """What is seen of clients who share one small network."""
    batches, labels = digits.victims(victims, images)
    network = MLP(digits.image_shape, digits.num_classes, hidden=12, activation="relu").to(dtype)
    setting = Setting(**{"shared": True} | axes)
    known = PublicData.of(digits, setting.rounds, public)
    return observe(network, batches, labels, known, defense, adaptive, 0, range(victims), setting)


def signs(update: Update) -> Update:
    return {name: value.sign() for name, value in update.items()}


def inverter(seen: Observation, **arguments: Any) -> Inverter:
    """Trained."""
    made = LearnedInversion(**SMALL | arguments).inverter(seen)
    made.learn()
    return made


def same(one: Inverter, other: Inverter) -> bool:
    states = one.state(), other.state()
    return states[0].keys() == states[1].keys() and all(torch.equal(v, states[1][n]) for n, v in states[0].items())


def plain_pixels(seen: Observation, steps: int, pairs: int) -> Tensor:
    """What a perceptron trained in a loop of torch's own makes of the victims' gradients, ``[V, D]``."""
    assert seen.public_images is not None and seen.public_labels is not None
    images, labels = seen.public_images.double(), seen.public_labels
    network = MLP(seen.image_shape[1:], seen.num_classes, hidden=12, activation="relu").double()
    network.load_state_dict(seen.parameters)

    def gradients(rows: Tensor) -> Tensor:
        found = []
        for row in rows[:, 0].tolist():
            loss = nn.functional.cross_entropy(network(images[row : row + 1]), labels[row : row + 1])
            found.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(network.parameters()))]))
        return torch.stack(found)

    def rows(step: int) -> Tensor:
        return torch.randint(len(images), (pairs, 1), generator=torch.Generator().manual_seed(SEED + 1 + step))

    first = gradients(rows(0))
    mean, sizes = first.mean(0), [value.numel() for value in network.parameters()]
    variances = [((part - part.mean(0)) ** 2).mean(0) for part in first.split(sizes, 1)]
    std = torch.cat([(one + 0.1 * one.mean()).sqrt() for one in variances])
    start = LearnedInversion(**SMALL).inverter(seen).network.state_dict()
    widths = [first.shape[1], 8, 8, images[0].numel()]
    layers = [nn.Linear(wide, narrow) for wide, narrow in pairwise(widths)]
    perceptron = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2], nn.Sigmoid()).double()
    perceptron.load_state_dict(start)
    adam = torch.optim.Adam(perceptron.parameters(), lr=0.01)
    schedule = torch.optim.lr_scheduler.MultiStepLR(adam, [-(-3 * steps // 4)], gamma=0.1)
    for step in range(steps):
        batch = rows(step)
        loss = nn.functional.mse_loss(perceptron((gradients(batch) - mean) / std), images[batch[:, 0]].flatten(1))
        adam.zero_grad()
        loss.backward()
        adam.step()
        schedule.step()
    victims = torch.cat([flattened(seen.update[name]) for name, _ in network.named_parameters()], 1)
    with torch.no_grad():
        return perceptron((victims - mean) / std)


def test_it_is_trained_as_a_plain_loop_does(digits: Digits) -> None:
    seen = see(digits)
    found = LearnedInversion(**SMALL | {"training_steps": 8}).reconstruct(seen)
    assert (found.images.flatten(1) - plain_pixels(seen, 8, 5)).abs().max() < 1e-9
    assert found.status == ["closed form"] * 3 and found.evaluations.tolist() == [0] * 3


def test_its_perceptron_starts_as_one_of_torch_does(digits: Digits) -> None:
    network = LearnedInversion(hidden=200).inverter(see(digits)).network
    for layer in (network[0], network[2], network[4]):
        bound = layer.in_features**-0.5
        for value in (layer.weight, layer.bias):
            assert value.abs().max() <= bound and value.abs().max() > 0.95 * bound
        assert float(layer.weight.detach().std()) == pytest.approx(bound / 3**0.5, rel=0.05)


@pytest.mark.parametrize("defense", [None, Pruning(0.95), FunctionDefense(signs)], ids=["none", "pruned", "sign"])
def test_it_beats_the_null_baselines_after_a_short_training(defense: Defense | None, digits: Digits) -> None:
    short = LearnedInversion(training_steps=100, hidden=48, pairs=24, learning_rate=5e-3)
    true = digits.victims(40)[0]
    knows, does_not = (
        see(digits, 40, defense=defense, adaptive=one, public=1000, dtype=torch.float32, labels="known")
        for one in (True, False)
    )

    def psnr(attack: Attack, seen: Observation) -> float:
        return float(matched_psnr(true, attack.reconstruct(seen).images).mean())

    found = psnr(short, knows)
    assert found > 0.5 + max(psnr(baseline, knows) for baseline in (MeanImage(), ClassMeanImage(), ConstantImage()))
    assert defense is None or found > psnr(short, does_not)


def test_a_training_depends_on_no_victim(digits: Digits) -> None:
    seen = see(digits, 4, defense=Masking(0.3))
    trained = inverter(seen)
    gone = replace(seen, update={name: torch.full_like(v, torch.nan) for name, v in seen.update.items()}, seeds=[9] * 4)
    for other in (seen.take([2]), seen.take([3, 0]), gone):
        assert same(inverter(other), trained)
    together = LearnedInversion(**SMALL).reconstruct(seen)
    for victim in range(4):
        alone = LearnedInversion(**SMALL).reconstruct(seen.take([victim]))
        assert (alone.images[0] - together.images[victim]).abs().max() < 1e-12


@pytest.mark.parametrize("at", [0, 2, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_training_that_was_stopped_goes_on_as_if_it_had_not_been(at: int, dtype: torch.dtype, digits: Digits) -> None:
    seen, attack = (
        see(digits, defense=GaussianNoise(0.01), dtype=dtype),
        LearnedInversion(**SMALL | {"training_steps": 6}),
    )
    through = attack.inverter(seen)
    states: list[Update] = []

    class Keep(Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: int, batch_idx: int) -> None:
            states.append(pl_module.state())

    through.learn([Keep()])
    again = attack.inverter(seen)
    again.restore(states[at])
    assert again.done == at and not same(again, through)
    again.learn()
    assert same(again, through)


def test_a_training_that_is_over_holds_no_more_than_it_takes_to_invert(digits: Digits) -> None:
    seen = see(digits)
    trained, fresh = inverter(seen), LearnedInversion(**SMALL).inverter(seen)
    fresh.restore(trained.state())
    assert not [name for name in trained.state() if name.startswith("exp_avg")]
    found = [LearnedInversion(**SMALL).reconstruct(seen, inverter=one).images for one in (trained, fresh)]
    assert fresh.done == 3 and torch.equal(*found)


@pytest.mark.parametrize(
    "defense",
    [Clipping(0.1), GaussianNoise(0.5), Masking(0.5), Pruning(0.9), FunctionDefense(signs)],
    ids=lambda one: type(one).__name__,
)
def test_it_is_trained_behind_the_defense_where_it_knows_it(defense: Defense, digits: Digits) -> None:
    plain = LearnedInversion(**SMALL).inverter(see(digits)).drawn(2)
    oblivious = LearnedInversion(**SMALL).inverter(see(digits, defense=defense, adaptive=False)).drawn(2)
    adaptive = LearnedInversion(**SMALL).inverter(see(digits, defense=defense)).drawn(2)
    assert all(torch.equal(one, other) for one, other in zip(plain, oblivious, strict=True))
    assert torch.equal(plain[1], adaptive[1])
    features = adaptive[0]
    expected = {
        Clipping: plain[0] * (0.1 / plain[0].norm(dim=1, keepdim=True)).clamp(max=1),
        FunctionDefense: plain[0].sign(),
    }.get(type(defense))
    if expected is not None:
        assert torch.allclose(features, expected)
    elif isinstance(defense, GaussianNoise):
        assert float((features - plain[0]).std()) == pytest.approx(0.5, rel=0.1)
    else:
        kept = features != 0
        assert torch.equal(features[kept], plain[0][kept])
        of_all = 0.5 * (plain[0] != 0).sum() if isinstance(defense, Masking) else 0.1 * kept.numel()
        assert 0.8 * of_all < kept.sum() < 1.1 * of_all


def test_a_random_defense_is_drawn_anew_for_each_of_its_clients(digits: Digits) -> None:
    made = LearnedInversion(**SMALL | {"pairs": 50}).inverter(see(digits, defense=Masking(0.5), public=1))
    features, _ = made.drawn(0)
    assert len({tuple(row.nonzero().flatten().tolist()) for row in features}) == 50


@pytest.mark.parametrize("images", [1, 2, 3, 4])
def test_the_error_of_a_batch_is_the_same_in_any_order(images: int) -> None:
    true = torch.rand((6, images, 1, 4, 4), generator=torch.Generator().manual_seed(0)).double()
    found = true + 0.01 * torch.randn(true.shape, generator=torch.Generator().manual_seed(1)).double()
    expected = (found - true).square().mean()
    for order in permutations(range(images)):
        assert error(found[:, list(order)], true) == pytest.approx(float(expected), rel=1e-9)
    far = torch.rand(true.shape, generator=torch.Generator().manual_seed(2)).double().requires_grad_()
    assert all(
        torch.allclose(error(far[:, list(order)], true), error(far, true)) for order in permutations(range(images))
    )
    best = torch.stack([(far[:, list(o)] - true).square().mean((1, 2, 3, 4)) for o in permutations(range(images))])
    assert best.amin(0).mean() - 1e-12 <= error(far, true) <= best.amax(0).mean() + 1e-12
    (slope,) = torch.autograd.grad(error(far, true), far)
    assert (slope != 0).all()


def test_a_long_update_is_hashed(digits: Digits) -> None:
    seen = see(digits)
    long, short = (LearnedInversion(**SMALL, entries=entries).inverter(seen) for entries in (10**6, 50))
    first, hashed = long.drawn(0)[0], short.drawn(0)[0]
    assert hashed.shape == (5, 50) and first.shape[1] > 500
    torch.testing.assert_close(hashed.square().sum(1), first.square().sum(1), rtol=0.5, atol=0)
    assert short.network[0].in_features == 50
    LearnedInversion(**SMALL, entries=50).reconstruct(seen)


def test_every_round_is_looked_at(digits: Digits) -> None:
    seen = see(digits, rounds=3)
    made = LearnedInversion(**SMALL).inverter(seen)
    first, images = made.drawn(1)
    one, same_images = LearnedInversion(**SMALL).inverter(see(digits)).drawn(1)
    width = one.shape[1]
    assert first.shape[1] == 3 * width and torch.equal(images, same_images) and torch.equal(first[:, :width], one)
    assert not torch.equal(first[:, width : 2 * width], one)
    found = LearnedInversion(**SMALL).reconstruct(seen).images
    other = replace(seen, later=(seen.later[0], replace(seen.later[1], update=seen.later[0].update)))
    assert not torch.equal(LearnedInversion(**SMALL).reconstruct(other).images, found)


def test_local_steps_are_simulated_in_a_random_order(digits: Digits) -> None:
    local = FedAvg(0.5, epochs=2, batch_size=1)
    steps, gradient = see(digits, images=2, local=local), see(digits, images=2)
    of_steps, images = LearnedInversion(**SMALL).inverter(steps).drawn(0)
    of_gradient, same_images = LearnedInversion(**SMALL).inverter(gradient).drawn(0)
    assert torch.equal(images, same_images) and images.shape == (5, 2, 1, 8, 8)
    assert (of_steps - of_gradient).abs().max() > 0.1
    assert LearnedInversion(**SMALL).reconstruct(steps).images.shape == (3, 2, 1, 8, 8)


def test_what_it_cannot_take_is_told_before_any_work(digits: Digits) -> None:
    attack, network = LearnedInversion(), MLP(digits.image_shape, digits.num_classes)
    shape = (1, *digits.image_shape)
    check_takes(attack, network, shape, Setting(shared=True))
    check_takes(attack, network, shape, Setting(shared=True, threat_model="D"))
    with pytest.raises(ValueError, match="LearnedInversion takes victims who share one network: give shared true"):
        check_takes(attack, network, shape, Setting())
    for setting in (Setting(shared=True, threat_model="C"), Setting(shared=True, public_data=False)):
        with pytest.raises(ValueError, match="needs public data, which the threat model does not grant"):
            check_takes(attack, network, shape, setting)
    with pytest.raises(ValueError, match="simulates the local steps"):
        attack.check_granted(Protocol(FedAvg(0.1)), ThreatModel(local_steps=False))
    attack.check_granted(Protocol(FedAvg(0.1)), PRESETS["D"])
    check_takes(DLG(), network, shape, Setting())


def test_without_public_images_or_with_own_networks_it_says_what_to_do(digits: Digits) -> None:
    for seen in (see(digits, public=0), see(digits, public_data=False)):
        assert seen.public_images is None
        with pytest.raises(ValueError, match="no public images to train on"):
            LearnedInversion(**SMALL).reconstruct(seen)
    with pytest.raises(ValueError, match="give shared true"):
        LearnedInversion(**SMALL).reconstruct(see(digits, shared=False))
    known = see(digits, defense=Masking(0.5))
    assert known.defense is not None
    with pytest.raises(ValueError, match="give it share"):
        LearnedInversion(**SMALL).reconstruct(replace(known, defense=replace(known.defense, share=None)))


@pytest.mark.parametrize("name", ["training_steps", "public_images", "hidden", "entries", "pairs", "learning_rate"])
def test_arguments_out_of_range_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name} is 0, but must be"):
        LearnedInversion(**{name: 0})


def test_an_update_that_is_not_finite_spoils_no_training(digits: Digits) -> None:
    seen = see(digits, defense=FunctionDefense(lambda update: {name: value / 0 for name, value in update.items()}))
    trained = inverter(seen)
    assert all(value.isfinite().all() for value in trained.state().values())
