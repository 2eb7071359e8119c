"""PRECODE: the bottleneck by plain loops of torch, whose draws they are, and what an attacker reads of them."""

from copy import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from torch.func import functional_call
from torch.nn.functional import softplus

from attacks import IDLG, GaussNewton, Peeling
from attacks.engine.own_clients import shared
from attacks.update import FedAvg
from benchmark import UsageError
from benchmark.federation.client import PublicData, observe
from benchmark.federation.clients import Data
from benchmark.federation.protect import network_of
from benchmark.federation.recipe import Federation
from benchmark.federation.server import judged, train
from benchmark.federation.setting import Setting
from benchmark.federation.state import TrainingState
from benchmark.models import MLP, ConvNet
from benchmark.rehearsal.scene import Scene
from benchmark.seeds import generators
from benchmark.suite.registry import Spec
from benchmark.suite.suite import Scenario
from datamodules import Digits
from defenses import PRECODE, Defense, HookDefense, KnownDefense, Update

SIZE, BETA = 16, 0.1
PLACE = "5.bottleneck"
SHAPE = (1, 8, 8)
TWO = FedAvg(0.1, epochs=2, batch_size=2)


def network() -> Any:
    return ConvNet(SHAPE, 10, width=4)


def seen_of(digits: Digits, defense: Defense | None, adaptive: bool = False, images: int = 1, **setting: Any) -> Any:
    batches = digits.victims(3, images, 0)
    return batches, observe(
        network(), *batches, PublicData.of(digits), defense, adaptive, 0, range(3), Setting(**setting)
    )


def plain_gradient(weights: Update, noise: Tensor, images: Tensor, labels: Tensor) -> Update:
    """By autograd over the layers themselves, of the cross entropy and the divergence of the code by torch's own."""
    leaves = {name: value.detach().clone().requires_grad_() for name, value in weights.items()}
    body = nn.Sequential(*list(network())[:-1])
    features = functional_call(body, {n: v for n, v in leaves.items() if n in dict(body.named_parameters())}, (images,))
    encoded = features @ leaves[f"{PLACE}.encoder.weight"].T + leaves[f"{PLACE}.encoder.bias"]
    mean, deviation = encoded[:, :SIZE], softplus(encoded[:, SIZE:])
    decoded = (mean + deviation * noise) @ leaves[f"{PLACE}.decoder.weight"].T + leaves[f"{PLACE}.decoder.bias"]
    logits = decoded @ leaves["5.weight"].T + leaves["5.bias"]
    divergence = kl_divergence(Normal(mean, deviation), Normal(0.0, 1.0)).sum(1).mean()
    loss = nn.functional.cross_entropy(logits, labels) + BETA * divergence
    return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))


def weights_of(seen: Any, victim: int) -> Update:
    return {n: value if seen.shared else value[victim] for n, value in seen.parameters.items() if "noise" not in n}


@pytest.mark.parametrize("one", [False, True])
def test_a_client_shares_the_gradient_through_a_sample_of_its_own(digits: Digits, one: bool) -> None:
    (images, labels), seen = seen_of(digits, PRECODE(SIZE, BETA), images=4, shared=one)
    draws = generators(0, range(3), "on_forward")
    for victim in range(3):
        noise = torch.randn((4, SIZE), generator=draws[victim])
        plain = plain_gradient(weights_of(seen, victim), noise, images[victim].float(), labels[victim])
        assert list(seen.update) == [name for name, p in seen.model.named_parameters() if p.requires_grad]
        for name, value in plain.items():
            torch.testing.assert_close(seen.update[name][victim], value, rtol=1e-3, atol=1e-6)


def test_it_draws_anew_in_each_local_step(digits: Digits) -> None:
    (images, labels), seen = seen_of(digits, PRECODE(SIZE, BETA), images=4, local=TWO, order="known")
    draws = generators(0, range(3), "on_forward")
    for victim in range(3):
        weights = before = weights_of(seen, victim)
        for batch in (rows for epoch in seen.order[victim] for rows in epoch.split(2)):
            noise = torch.randn((2, SIZE), generator=draws[victim])
            slopes = plain_gradient(weights, noise, images[victim, batch].float(), labels[victim, batch])
            weights = {name: value - 0.1 * slopes[name] for name, value in weights.items()}
        for name, value in before.items():
            torch.testing.assert_close(seen.update[name][victim], value - weights[name], rtol=1e-3, atol=1e-6)


def test_peeling_attacks_batches_on_a_network_with_a_bottleneck(digits: Digits) -> None:
    """It asks for the gradient of no image, too, which is zero, of the code's divergence as well."""
    batches = digits.victims(2, 4, 0)
    model = MLP(SHAPE, 10, activation="relu")
    seen = observe(model, *batches, PublicData.of(digits), PRECODE(SIZE), True, 0, range(2), Setting())
    none = seen.update_of(seen.mean_image.expand_as(batches[0].float())[:, :0], torch.zeros(2, 0, 10))
    assert all(not value.any() for value in none.values())
    assert Peeling().reconstruct(seen).images.isfinite().all()


def test_the_network_is_the_same_beside_the_bottleneck_and_size_0_is_no_defense(digits: Digits) -> None:
    (_, plain), (_, seen), (_, none) = (seen_of(digits, one) for one in (None, PRECODE(SIZE), PRECODE(0)))
    new = set(seen.parameters) - set(plain.parameters)
    assert {name.partition(f"{PLACE}.")[2] for name in new} == {
        f"{layer}.{kind}" for layer in ("encoder", "decoder") for kind in ("weight", "bias")
    }
    assert all(torch.equal(seen.parameters[name], value) for name, value in plain.parameters.items())
    assert all(len(seen.parameters[name].flatten(1).unique(dim=0)) == 3 for name in new)
    assert list(none.update) == list(plain.update)
    assert all(torch.equal(none.update[name], value) for name, value in plain.update.items())


def test_an_attacker_gets_no_draw_and_one_who_knows_the_defense_reads_that_of_one_image(digits: Digits) -> None:
    (images, labels), blind = seen_of(digits, PRECODE(SIZE))
    assert not any("noise" in name for name in blind.parameters)
    _, seen = seen_of(digits, PRECODE(SIZE), adaptive=True)
    drawn = torch.stack([torch.randn((1, SIZE), generator=one) for one in generators(0, range(3), "on_forward")])
    torch.testing.assert_close(seen.parameters[f"{PLACE}.noise"], drawn, rtol=1e-2, atol=1e-3)
    truth = images.float(), nn.functional.one_hot(labels, 10).float()
    for name, value in seen.update_of(*truth).items():
        torch.testing.assert_close(value, blind.update[name], rtol=1e-3, atol=1e-5)
        assert torch.equal(seen.update[name], torch.zeros_like(value) if "bottleneck" in name else blind.update[name])


@pytest.mark.parametrize("setting", [{"images": 2}, {"images": 2, "local": TWO, "order": "known"}])
def test_where_draws_cannot_be_read_the_bottleneck_is_left_out(digits: Digits, setting: dict[str, Any]) -> None:
    (images, labels), seen = seen_of(digits, PRECODE(SIZE), True, **setting)
    left_out = {name for name, value in seen.update.items() if not value.any()}
    assert left_out == {name for name in seen.update if "bottleneck" in name}
    assert not seen.parameters[f"{PLACE}.noise"].any()
    made = seen.update_of(images.float(), nn.functional.one_hot(labels, 10).float())
    simulated, kept = seen.defense.simulate(made, seen.update), seen.defense.kept_entries(seen.update)
    assert all(torch.equal(value, made[name] * (name not in left_out)) for name, value in simulated.items())
    assert all(bool(value.all()) is (name not in left_out) for name, value in kept.items())


def test_who_does_not_know_it_is_stopped_and_who_does_is_not(victims_of: Any) -> None:
    def leaks(adaptive: bool) -> int:
        images, _, seen = victims_of(2, defense=PRECODE(SIZE), adaptive=adaptive)
        found = IDLG(max_evaluations=60).reconstruct(seen).images.clamp(0, 1)
        return int(((found - images).square().mean((1, 2, 3, 4)) <= 0.01).sum())

    assert leaks(adaptive=False) == 0 and leaks(adaptive=True) >= 1


def test_an_attack_that_needs_forward_derivatives_takes_the_network(digits: Digits) -> None:
    _, seen = seen_of(digits, PRECODE(SIZE), True)
    found = GaussNewton(iterations=1, max_equations=16).reconstruct(seen)
    assert found.images.isfinite().all()


def test_an_attacker_who_trains_on_images_of_his_own_draws_for_each_of_his_clients(digits: Digits) -> None:
    (images, labels), seen = seen_of(digits, PRECODE(SIZE), True, shared=True)
    pair = images[[0, 0]].float(), nn.functional.one_hot(labels[[0, 0]], 10).float()
    made = shared(seen.take([]), *pair, torch.Generator().manual_seed(7))
    _, blind = seen_of(digits, PRECODE(SIZE), shared=True)
    plain = shared(blind.take([]), *pair, torch.Generator().manual_seed(7))
    assert all(torch.equal(value[0], value[1]) is ("bottleneck" in name) for name, value in made.items())
    assert all(torch.equal(value[0], value[1]) for value in plain.values())


# In a training.


@pytest.mark.parametrize("algorithm", ["FedSGD", "FedAvg"])
def test_clients_train_the_network_with_the_bottleneck_and_the_test_takes_its_mean(
    digits: Digits, algorithm: Any
) -> None:
    pixels, labels = digits.train_images, digits.train_labels
    data = Data(pixels[:60], labels[:60], pixels[60:80], labels[60:80], 10, pixels[60:80], labels[60:80])
    how = Federation(algorithm, 3, 2, 3, 8, 1, 0.1, evaluate_every=3)

    def ends(defense: Defense | None) -> Any:
        return list(train(network(), data, how, defense, 0))[-1]

    plain, none, once, again = ends(None), ends(PRECODE(0)), ends(PRECODE(SIZE)), ends(PRECODE(SIZE))
    assert all(torch.equal(none.weights[name], value) for name, value in plain.weights.items())
    assert none.changed == 0 and once.changed == once.defended == 6
    assert once.entries == once.entries_changed > 0
    assert all(torch.equal(again.weights[name], value) for name, value in once.weights.items())
    assert not once.weights[f"{PLACE}.noise"].any()
    model = network_of(PRECODE(SIZE), network(), SHAPE)
    tested = judged(model, once.weights, data.test_images, data.test_labels)
    assert (once.accuracy[-1], once.loss[-1]) == tested == judged(model, once.weights, *data[2:4])


# What it does not fit, and what breaks the contract of its hooks.


@pytest.mark.parametrize(("size", "beta"), [(-1, 0.1), (8, -0.1), (8, float("nan")), (8, float("inf"))])
def test_an_argument_out_of_range_is_told(size: int, beta: float) -> None:
    with pytest.raises(ValueError, match=r"size is|beta is"):
        PRECODE(size, beta)


def test_a_network_without_a_last_linear_layer_is_refused_in_one_sentence() -> None:
    model = nn.Sequential(nn.Conv2d(1, 10, 8), nn.Flatten())
    with pytest.raises(ValueError, match="give a network that ends in one that is trained"):
        PRECODE().check_clients(model, (1, *SHAPE), False, False)
    PRECODE(0).check_clients(model, (1, *SHAPE), False, False)
    with pytest.raises(UsageError, match="PRECODE puts a bottleneck before the last linear layer"):
        network_of(PRECODE(), model, SHAPE)


def test_a_network_that_was_trained_before_has_no_bottleneck_and_is_refused(digits: Digits) -> None:
    setting = Setting(shared=True, state=TrainingState(epochs=1))
    images, labels = digits.victims(2, 1, 0)
    scene = Scene("ConvNet", network(), images, labels, digits, setting)
    with pytest.raises(UsageError, match="another network than the one that state trains before: leave out state"):
        scene.check_can_defend(Spec("PRECODE", {"size": 8, "beta": 0.0}))
    scene.check_can_defend(Spec("PRECODE", {"size": 0, "beta": 0.0}))


class Wider(HookDefense):
    """Adds a layer behind the logits."""

    def on_model(self, model: nn.Module, image_shape: tuple[int, int, int]) -> Any:
        return nn.Sequential(model, nn.Linear(10, 10))

    def known_to_attacker(self) -> KnownDefense:
        return KnownDefense()


class InPlace(Wider):
    """Adds a layer to the network itself."""

    def on_model(self, model: nn.Module, image_shape: tuple[int, int, int]) -> Any:
        model.add_module("more", nn.Linear(10, 10))
        return model


class ByHook(Wider):
    """Hooks the network itself, not a copy of it."""

    def on_model(self, model: nn.Module, image_shape: tuple[int, int, int]) -> Any:
        made = copy(model)  # whose layers are those of the network
        list(made.modules())[-1].register_forward_hook(lambda layer, given, logits: 2 * logits)
        return made


class NoNetwork(Wider):
    def on_model(self, model: nn.Module, image_shape: tuple[int, int, int]) -> Any:
        return [model]


class Unknown(PRECODE):
    """Draws for a parameter that the network has not."""

    def on_forward(self, model: nn.Module, images: int, generators: Any) -> Update:
        return {"noise": torch.zeros(len(generators), images, self.size)}


class ByAll(PRECODE):
    """Draws for one client what depends on the others."""

    def on_forward(self, model: nn.Module, images: int, generators: Any) -> Update:
        return {name: value + len(generators) for name, value in super().on_forward(model, images, generators).items()}


@pytest.mark.parametrize(
    ("defense", "said"),
    [
        (Wider(), "on_model leaves out 3.weight: keep the names"),
        (InPlace(), "on_model changes the network that it was given: return a copy"),
        (ByHook(), "on_model changes the network that it was given: return a copy"),
        (NoNetwork(), "on_model must return a network, not"),
        (Unknown(), "on_forward must return a value of each client for frozen parameters"),
        (ByAll(), "on_forward shares for a client what depends on the other clients"),
    ],
)
def test_what_breaks_the_contract_is_one_sentence(digits: Digits, defense: Defense, said: str) -> None:
    scenario = Scenario(Spec("Digits"), Spec("MLP"), 1, seed=0, victims=2, setting=Setting())
    scene = Scene.of(scenario, MLP(SHAPE, 10, hidden=8), digits, torch.device("cpu"))
    with pytest.raises(UsageError, match=said) as error:
        scene.check_defense(defense, Spec("PRECODE"))
    assert "\n" not in str(error.value)
