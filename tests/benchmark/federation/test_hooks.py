"""The hooks of defenses, in the hands of an attacked client and of the clients of a training, who are the same."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from attacks import DLG, InvertingGradients, Observation, Reconstruction
from attacks.engine.own_clients import shared
from attacks.update import FedAvg, Protocol, example_gradients, local_update
from attacks.update import Network as ClientsNetwork
from benchmark import UsageError, run
from benchmark.federation.client import PublicData, as_trained, observe
from benchmark.federation.clients import Data, client_updates, examine
from benchmark.federation.protect import steps
from benchmark.federation.recipe import Federation
from benchmark.federation.server import State, privacy, start, train
from benchmark.federation.setting import Setting
from benchmark.metrics.misfit import misfits
from benchmark.models import MLP, ConvNet, ResNet
from benchmark.rehearsal.hooks import check_protect
from benchmark.seeds import generators
from benchmark.store.store import read_trainings
from benchmark.training.rows import rows
from benchmark.training.table import note
from datamodules import Digits
from defenses import (
    DPSGD,
    Augmentation,
    Clients,
    Compose,
    Defense,
    HookDefense,
    IntraInstaHide,
    KnownDefense,
    MixUp,
    Soteria,
    Update,
)
from defenses.base import Steps, global_norm
from defenses.soteria import pruned_layer
from tests.benchmark.training.conftest import carried_out, suite

SGD = Federation("FedSGD", 2, 2, 3, 6, 1, 0.1)
AVG = replace(SGD, algorithm="FedAvg", rounds=1, local_epochs=2)

EARLY: list[Defense] = [MixUp(), IntraInstaHide(3), Augmentation(), DPSGD(0.05, 0.1)]
"""Defenses that act before there is an update."""


def named(defense: Defense) -> str:
    return f"{type(defense).__name__}{tuple(vars(defense).values())}"


@pytest.fixture(scope="module")
def data(digits: Digits) -> Data:
    seen, held_out = slice(60), slice(60, 80)
    pixels, labels = digits.train_images, digits.train_labels
    return Data(pixels[seen], labels[seen], pixels[held_out], labels[held_out], 10, pixels[held_out], labels[held_out])


def network(kind: Any = ConvNet) -> Any:
    return kind((1, 8, 8), 10, **({} if kind is MLP else {"width": 4}))


def seen_of(digits: Digits, defense: Defense | None, adaptive: bool = False, images: int = 4, **setting: Any) -> Any:
    batches = digits.victims(3, images, 0)
    public = PublicData.of(digits)
    return batches, observe(network(), *batches, public, defense, adaptive, 0, range(3), Setting(**setting))


def plain_gradient(model: nn.Module, weights: Update, images: Tensor, labels: Tensor) -> Update:
    """By autograd over the module, of the mean cross entropy with class probabilities."""
    leaves = {name: value.detach().clone().requires_grad_() for name, value in weights.items()}
    loss = nn.functional.cross_entropy(functional_call(model, leaves, (images,)), labels)
    return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))


def clipped_by_loop(model: nn.Module, weights: Update, images: Tensor, labels: Tensor, max_norm: float) -> Update:
    """The sum of the gradients of images, each clipped, by a plain loop."""
    total = {name: torch.zeros_like(value) for name, value in weights.items()}
    for image, label in zip(images, labels, strict=True):
        found = plain_gradient(model, weights, image[None], label[None])
        size = math.sqrt(sum(float(value.square().sum()) for value in found.values()))
        for name, value in found.items():
            total[name] += value * min(1.0, max_norm / size)
    return total


# An attacked client.


def test_an_attacked_client_shares_the_gradient_of_the_mixed_batch(digits: Digits) -> None:
    (images, labels), seen = seen_of(digits, MixUp())
    one_hot = nn.functional.one_hot(labels, 10).float()
    mixed, soft = MixUp().on_batch(images.float(), one_hot, generators(0, range(3), "on_batch"))
    for victim in range(3):
        weights = {name: value[victim] for name, value in seen.parameters.items()}
        plain = plain_gradient(seen.model, weights, mixed[victim], soft[victim])
        for name, value in plain.items():
            torch.testing.assert_close(seen.update[name][victim], value, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("one", [False, True])
def test_an_attacked_client_of_dpsgd_shares_the_noisy_mean_of_clipped_gradients(digits: Digits, one: bool) -> None:
    max_norm, sigma, images = 0.05, 0.5, 4
    (pixels, labels), seen = seen_of(digits, DPSGD(max_norm, sigma), True, images, shared=one)
    draws = generators(0, range(3), "on_example_gradients")
    for victim in range(3):
        weights = {name: value if one else value[victim] for name, value in seen.parameters.items()}
        one_hot = nn.functional.one_hot(labels[victim], 10).float()
        total = clipped_by_loop(seen.model, weights, pixels[victim].float(), one_hot, max_norm)
        for name, value in total.items():
            noise = sigma * max_norm * torch.randn(value.shape, generator=draws[victim])
            torch.testing.assert_close(seen.update[name][victim], (value + noise) / images, rtol=1e-3, atol=1e-6)
    assert seen.defense.noise_std == pytest.approx(sigma * max_norm / images)


def test_the_attacker_of_dpsgd_simulates_the_clipping_of_each_of_his_images(digits: Digits) -> None:
    (images, labels), seen = seen_of(digits, DPSGD(0.05, 0.0), adaptive=True)
    simulated = seen.update_of(images.float(), nn.functional.one_hot(labels, 10).float())
    simulated = seen.defense.simulate(simulated, seen.update)
    for name, value in seen.update.items():
        torch.testing.assert_close(simulated[name], value)
    found, blunt = (DLG().loss_at(one, images, labels) for one in (seen, replace(seen, defense=None)))
    assert found is not None and blunt is not None
    assert (found < 1e-9).all() and (blunt > 1e-3).all()


@pytest.mark.parametrize("defense", EARLY, ids=named)
def test_an_adaptive_attacker_sees_the_defended_update_and_the_same_names(digits: Digits, defense: Defense) -> None:
    (_, plain), (_, oblivious), (_, adaptive) = (
        seen_of(digits, *given) for given in ((None,), (defense, False), (defense, True))
    )
    assert list(plain.update) == list(oblivious.update) == list(adaptive.update)
    for name, value in adaptive.update.items():
        assert torch.equal(value, oblivious.update[name]) and not torch.equal(value, plain.update[name])


@pytest.mark.parametrize("defense", EARLY, ids=named)
def test_what_a_client_shares_depends_on_no_other_client(digits: Digits, defense: Defense) -> None:
    (images, labels), block = seen_of(digits, defense)
    alone = observe(
        network(), images[1:2], labels[1:2], PublicData.of(digits), defense, False, 0, range(1, 2), Setting()
    )
    for name, value in alone.update.items():
        torch.testing.assert_close(value[0], block.update[name][1], rtol=1e-4, atol=1e-6)


def test_who_knows_that_labels_are_mixed_looks_for_them_with_the_images(digits: Digits) -> None:
    for defense, soft in ((MixUp(), True), (IntraInstaHide(2), True), (MixUp(0), False), (Augmentation(), False)):
        for granted in ("hidden", "known"):
            _, seen = seen_of(digits, defense, True, labels=granted)
            attack = InvertingGradients(max_evaluations=1)
            assert attack.label_logits(seen, generators(0, range(3), "start"))[1] is soft
    _, oblivious = seen_of(digits, MixUp(), False)
    assert not InvertingGradients().label_logits(oblivious, generators(0, range(3), "start"))[1]


def test_what_is_seen_of_mixed_batches_is_explained_by_them_to_who_can_undo_it(digits: Digits) -> None:
    defense = MixUp(5.0)
    private, seen = seen_of(digits, defense, True)
    trained = as_trained(seen, *private, defense, Setting(), 0, range(3))
    mean, none = seen.mean_image.expand(3, 4, 1, 8, 8), torch.zeros(3)
    nothing = Reconstruction(mean, private[1], none, none, ["exhausted"] * 3)
    fit = misfits(seen, nothing, *trained)
    assert fit.true.max() < 1e-6 and fit.explained.all() and not fit.settled.any()
    assert not misfits(seen, nothing, *private).explained.any(), "the images as they were do not"
    _, oblivious = seen_of(digits, defense, False)
    for one, setting in ((oblivious, Setting()), (seen, Setting(rounds=2)), (seen, Setting(local=FedAvg(0.1)))):
        assert as_trained(one, *private, defense, setting, 0, range(3)) == private  # no batch, or no single one
    for other in (None, IntraInstaHide(3), Compose([defense, Augmentation()])):  # whose signs or moves nobody undoes
        _, blind = seen_of(digits, other, True)
        assert as_trained(blind, *private, other or MixUp(0), Setting(), 0, range(3)) == private


@pytest.mark.parametrize("defense", [*EARLY, Soteria(0.5)], ids=named)
def test_an_attacker_who_trains_on_images_of_his_own_does_what_clients_do(digits: Digits, defense: Defense) -> None:
    (images, labels), seen = seen_of(digits, defense, True, shared=True)
    one_hot, plain = nn.functional.one_hot(labels, 10).float(), replace(seen, defense=None)
    of_both = [shared(one, images.float(), one_hot, torch.Generator().manual_seed(7)) for one in (seen, plain)]
    again = shared(seen, images.float(), one_hot, torch.Generator().manual_seed(7))
    assert all(torch.equal(value, again[name]) for name, value in of_both[0].items())
    different = {name for name, value in of_both[0].items() if not torch.equal(value, of_both[1][name])}
    head = f"{pruned_layer(seen.model, (1, 8, 8))}.weight"
    assert different == ({head} if isinstance(defense, Soteria) else set(of_both[1]))
    if isinstance(defense, DPSGD):
        quiet = replace(seen.defense, client=DPSGD(0.05, 0.0))
        clipped = shared(replace(seen, defense=quiet), images.float(), one_hot, torch.Generator().manual_seed(7))
        assert (global_norm(clipped) <= 0.05 * 1.001).all()


class Negative(HookDefense):
    """Trains on the negatives of the images."""

    def on_batch(self, images: Tensor, labels: Tensor, generators: Any) -> tuple[Tensor, Tensor]:
        return 1 - images, labels

    def known_to_attacker(self) -> KnownDefense:
        return KnownDefense(no_adaptive_attack="nobody has tried")


def private(observation: Observation) -> Tensor:
    """The very images of the first victims, which no attack has."""
    data = Digits()
    data.setup()
    return data.victims(observation.num_victims, 1, 0)[0].float()


@pytest.mark.usefixtures("nothing_of_the_developers")
def test_scores_are_against_the_private_images_and_not_what_was_trained_on(tmp_path: Path) -> None:
    run(data="Digits", model="MLP", attack=private, defense=Negative, victims=2, out="out")
    records = [json.loads(path.read_text()) for path in (tmp_path / "out" / "records").glob("*.json")]
    found = [record for record in records if "private" in record["config"]["attack"]["class"]]
    defended = [record for record in found if record["config"]["defense"]]
    assert len(found) == 3 and len(defended) == 2
    assert all(min(victim["psnr"]) > 60 for record in found for victim in record["victims"])
    adaptive = [record for record in defended if record["config"]["adaptive"]]
    assert [record.get("no_adaptive_attack") for record in adaptive] == ["nobody has tried"]
    assert all("no_adaptive_attack" not in record for record in records if record not in adaptive)
    page = (tmp_path / "out" / "leaderboard.md").read_text()
    assert "No adaptive attack on" in page and "nobody has tried" in page


# The clients of a training.


@pytest.mark.parametrize("defense", EARLY, ids=named)
@pytest.mark.parametrize("local", [None, FedAvg(0.1, epochs=2, batch_size=4)])
@pytest.mark.parametrize("kind", [MLP, ConvNet, ResNet])
def test_clients_of_a_training_do_what_an_attacked_client_does(
    data: Data, kind: Any, defense: Defense, local: FedAvg | None
) -> None:
    if isinstance(defense, DPSGD) and (local or kind is ResNet):
        return
    model = network(kind).double()  # in single, a ReLU may round to the other side
    weights, count = start(model, SGD, 3).weights, 8 if local else 4
    rows = torch.arange(2 * count).view(2, count)
    batches = [list(own.repeat(2).split(4)) if local else [own] for own in rows]

    def mine(places: Sequence[int]) -> Steps:
        return steps(defense, 5, places, "/1", "mine")

    rate = local.learning_rate if local else None
    names = dict(model.named_buffers())
    trained = client_updates(examine(model, weights, data), weights, batches, data, rate, [0, 0], mine)
    attacked = local_update(
        ClientsNetwork(
            model,
            {name: value for name, value in weights.items() if name not in names},
            {name: value for name, value in weights.items() if name in names},
        ),
        Protocol(local, train=True, share_statistics=True),
        data.images[rows].double(),
        nn.functional.one_hot(data.labels[rows], 10).double(),
        False,
        steps=mine([0, 1]),
    )
    for name, value in attacked.items():
        torch.testing.assert_close(trained[name], value, rtol=1e-6, atol=1e-9)


def last(model: nn.Module, data: Data, federation: Federation, defense: Defense | None) -> State:
    *_, state = train(model, data, federation, defense, 0)
    return state


@pytest.mark.parametrize("federation", [SGD, AVG])
@pytest.mark.parametrize("defense", [MixUp(0), IntraInstaHide(1), Augmentation(0)], ids=named)
def test_a_defense_without_strength_is_no_defense(data: Data, federation: Federation, defense: Defense) -> None:
    plain, defended = (last(network(), data, federation, one) for one in (None, defense))
    assert all(torch.equal(value, defended.weights[name]) for name, value in plain.weights.items())
    assert (defended.defended, defended.changed, defended.entries_changed) == (0, 0, 0)


@pytest.mark.parametrize("defense", [*EARLY, Soteria()], ids=named)
def test_the_canary_sees_what_such_a_defense_changes(data: Data, defense: Defense) -> None:
    state = last(network(), data, SGD, defense)
    assert (state.defended, state.changed) == (6, 6)
    assert 0 < state.entries_changed <= state.entries
    assert any(
        not torch.equal(value, state.weights[n]) for n, value in last(network(), data, SGD, None).weights.items()
    )


def test_a_client_of_a_training_prunes_what_an_attacked_client_prunes(data: Data) -> None:
    model, how = network(MLP), replace(SGD, clients=1, clients_per_round=1, rounds=1)
    plain, defended = (last(model, data, how, one) for one in (None, Soteria(0.5)))
    before = start(model, how, 0).weights
    weight = f"{pruned_layer(model, (1, 8, 8))}.weight"
    still = (defended.weights[weight] == before[weight]).all(0)
    assert abs(int(still.sum()) - 0.5 * len(still)) <= 0.01 * len(still)
    for name, value in plain.weights.items():
        moved = defended.weights[name] == value
        assert moved.all() if name != weight else moved[:, ~still].all()


class Normed(nn.Module):
    """A layer that normalizes by statistics of its input, which torch derives in another way."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(64, 12), nn.LayerNorm(12), nn.Linear(12, 10)

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.last(self.norm(self.first(images.flatten(1))).sigmoid())
        return out


@pytest.mark.parametrize(
    "made", [lambda: network(MLP), lambda: network(ConvNet), Normed], ids=["MLP", "ConvNet", "norm"]
)
def test_large_networks_differentiate_each_image_as_small_ones_do(
    made: Callable[[], nn.Module], data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In turn, with the one network of each victim, and not with a copy for each image: to the images' slopes."""
    model = made().double()
    draws = torch.Generator().manual_seed(0)
    weights = {
        name: value.detach() + 0.1 * torch.randn((3, *value.shape), generator=draws, dtype=torch.double)
        for name, value in model.named_parameters()
    }
    images = data.images[:6].double().view(3, 2, 1, 8, 8)
    labels = nn.functional.one_hot(data.labels[:6], 10).double().view(3, 2, 10)
    towards = {n: torch.randn((3, 2, *v.shape[1:]), generator=draws, dtype=torch.double) for n, v in weights.items()}
    found = []
    for large in (0, 2**40):
        monkeypatch.setattr("attacks.update.LARGE", large)
        leaf = images.clone().requires_grad_()
        of_each = example_gradients(model, weights, leaf, labels, create_graph=True)
        total = torch.stack([(of_each[name] * towards[name]).sum() for name in weights]).sum()
        found.append((of_each, torch.autograd.grad(total, leaf)[0]))
    (one, slope), (other, others) = found
    for name, value in one.items():
        torch.testing.assert_close(value, other[name])
    torch.testing.assert_close(slope, others)
    by_hand = plain_gradient(model, {n: v[1] for n, v in weights.items()}, images[1, :1], labels[1, :1])
    for name, value in by_hand.items():
        torch.testing.assert_close(one[name][1, 0], value)


def test_dpsgd_without_clipping_or_noise_is_the_mean_gradient(data: Data) -> None:
    model = network()
    weights = start(model, SGD, 0).weights
    images, labels = data.images[:5].float(), nn.functional.one_hot(data.labels[:5], 10).float()
    of_each = example_gradients(model, weights, images[None], labels[None])
    plain = plain_gradient(model, weights, images, labels)
    made = DPSGD(1e6, 0.0).on_example_gradients(of_each, generators(0, range(1), "x"))
    for name, value in plain.items():
        torch.testing.assert_close(made[name][0], value, rtol=1e-3, atol=1e-6)


# Epsilon.


def test_epsilon_is_that_of_the_accountant_and_infinite_without_noise() -> None:
    from opacus.accountants import RDPAccountant

    for sigma, rate, count, delta in ((1.1, 0.01, 1000, 1e-5), (0.7, 1.0, 3, 1e-6), (4.0, 0.25, 40, 1e-3)):
        accountant = RDPAccountant()
        for _ in range(count):
            accountant.step(noise_multiplier=sigma, sample_rate=rate)
        found = DPSGD(1.0, sigma, delta).privacy(rate, count)
        assert found == (pytest.approx(accountant.get_epsilon(delta)), delta)
    assert DPSGD(1.0, 0.0).privacy(0.1, 5) == (math.inf, 1e-5)
    assert DPSGD().privacy(0.1, 0) == (0.0, 1e-5)
    assert MixUp().privacy(0.1, 5) is None


def test_a_gaussian_mechanism_has_the_epsilon_of_the_closed_form() -> None:
    """Without sampling its Renyi divergence of order a is a / (2 sigma^2); Balle et al. 2020 convert it."""
    sigma, delta = 2.0, 1e-5
    orders = [1 + x / 10.0 for x in range(1, 100)] + list(range(12, 64))
    wanted = min(a / (2 * sigma**2) - (math.log(delta) + math.log(a)) / (a - 1) + math.log((a - 1) / a) for a in orders)
    assert DPSGD(1.0, sigma, delta).privacy(1.0, 1)[0] == pytest.approx(wanted, rel=1e-6)


def test_a_training_states_the_epsilon_of_the_client_who_has_least_privacy(data: Data) -> None:
    how, defense = replace(SGD, clients=4, clients_per_round=2, rounds=3, dirichlet=1.0), DPSGD(1.0, 2.0)
    state = last(network(), data, how, defense)
    found = privacy(data, how, defense, 0, state)
    assert found is not None and found["steps"] in state.turns.tolist()
    assert found["epsilon"] == defense.privacy(found["sample_rate"], found["steps"])[0]
    assert found["steps"] == int(state.turns.max()) or found["sample_rate"] > how.batch_size / 60
    assert privacy(data, how, MixUp(), 0, state) is None


# What is refused.


class Wrong(Negative):
    """Returns what it is told to."""

    def __init__(self, made: Callable[[Tensor, Tensor], Any]) -> None:
        self.made = made

    def on_batch(self, images: Tensor, labels: Tensor, generators: Any) -> Any:
        return self.made(images, labels)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda x, y: x, "must return images and labels, not a Tensor"),
        (lambda x, y: (x[:, :1], y), r"returns the shape \[2, 1, 1, 8, 8\] for images, not \[2, 3, 1, 8, 8\]"),
        (lambda x, y: (x.double(), y), "returns the type torch.float64 for images"),
        (lambda x, y: (x * 255, y), r"returns images beyond \[0, 1\]"),
        (lambda x, y: (x - 1, y), r"returns images beyond \[0, 1\]"),
        (lambda x, y: (x / 0, y), "returns images with NaN or infinity"),
        (lambda x, y: (x, y / 2), "returns labels that do not sum to 1"),
        (lambda x, y: (x, None), "returns None for labels, not a tensor"),
        (lambda x, y: (torch.rand_like(x), y), "draws random numbers from a global generator"),
        (lambda x, y: (x.mul_(0.5), y), r"changes the \w+ that it was given in place \(images\)"),
        (lambda x, y: (x.mean(0, keepdim=True).expand_as(x), y), "depends on the other clients"),
        (lambda x, y: 1 / 0, "on_batch fails"),
    ],
)
def test_a_batch_that_is_none_is_told_in_one_sentence(digits: Digits, made: Any, said: str) -> None:
    update, by = two_clients(digits)
    with pytest.raises(UsageError, match=said) as raised:
        check_protect(Wrong(made), update, "mine.Wrong()", by)
    assert str(raised.value).startswith("mine.Wrong(): on_batch ") and "test_hooks.py, line" in str(raised.value)


def two_clients(digits: Digits) -> tuple[Update, Clients]:
    (images, labels), seen = seen_of(digits, None, images=3)
    one_hot, rows = nn.functional.one_hot(labels, 10).float(), slice(0, 2)
    weights = {name: value[rows] for name, value in seen.parameters.items()}
    by = Clients(seen.model, weights, images[rows].float(), one_hot[rows])
    return {name: value[rows] for name, value in seen.update.items()}, by


def test_a_defense_without_a_hook_is_refused(digits: Digits) -> None:
    class Nothing(HookDefense):
        def known_to_attacker(self) -> KnownDefense:
            return KnownDefense()

    with pytest.raises(UsageError, match="has no hook of its own"):
        check_protect(Nothing(), *[two_clients(digits)[0], "Nothing()", None])


def test_gradients_of_images_that_depend_on_each_other_are_refused(digits: Digits) -> None:
    class OfTheBatch(ConvNet):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images - images.mean(0))

    update, by = two_clients(digits)
    mixing = OfTheBatch((1, 8, 8), 10, width=4)
    check_protect(DPSGD(), update, "DPSGD()", by)
    with pytest.raises(UsageError, match=r"needs the gradient of each image, but that of OfTheBatch depends"):
        check_protect(DPSGD(), update, "DPSGD()", replace(by, model=mixing))


@pytest.mark.parametrize(
    ("defense", "given", "said"),
    [
        (MixUp(), (1, False, False), "give batch_size 2 or more"),
        (IntraInstaHide(4), (3, False, False), "give batch_size 4 or more"),
        (DPSGD(), (4, True, False), "give FedSGD"),
        (DPSGD(), (4, False, True), "which BatchNorm in train mode mixes"),
    ],
)
def test_what_a_defense_cannot_do_is_said_in_one_sentence(
    defense: Defense, given: tuple[int, bool, bool], said: str
) -> None:
    images, local, mode = given
    check = partial(defense.check_clients, network(ResNet))
    with pytest.raises(ValueError, match=said):
        check((images, 1, 8, 8), local, mode)
    check((4, 1, 8, 8), False, False)
    for identity in (MixUp(0), IntraInstaHide(1)):
        identity.check_clients(network(), (1, 1, 8, 8), True, True)


MIXUP = {"class": "MixUp", "alpha": 1.0}


@pytest.mark.usefixtures("nothing_of_the_developers")
def test_it_is_said_before_any_work(tmp_path: Path) -> None:
    said = r"MixUp\(alpha=1.0\): MixUp mixes the images of a batch: give batch_size 2"
    with pytest.raises(UsageError, match=said):
        run(data="Digits", model="LeNet", attack="DLG", defense=[MIXUP | {"alpha": 0.0}, MIXUP], out="out")
    with pytest.raises(UsageError, match=said):
        carried_out(tmp_path / "out", suite(MIXUP, batch_size=1))
    with pytest.raises(UsageError, match=r"DPSGD\(.*\): DPSGD takes updates of one step"):
        carried_out(tmp_path / "out", suite({"class": "DPSGD"}, algorithm="FedAvg"))
    assert not list((tmp_path / "out").glob("records/*"))


@pytest.mark.usefixtures("nothing_of_the_developers")
def test_a_training_states_its_epsilon_under_the_table_and_nowhere_else(tmp_path: Path) -> None:
    dpsgd = {"class": "DPSGD", "max_norm": 0.1, "noise_multiplier": 2.0}
    carried_out(tmp_path, suite(MIXUP, dpsgd, dpsgd | {"noise_multiplier": 0.0}, rounds=2, seeds=[0]))
    records = {str(one["config"]["defense"]): one for one in read_trainings(tmp_path)}
    assert len(records) == 4 and [one["status"] for one in records.values()].count("diverged") == 0
    given = {name: one["privacy"] for name, one in records.items() if "privacy" in one}
    assert all("DPSGD" in name for name in given) and len(given) == 2
    found = next(one for name, one in given.items() if "2.0" in name)
    assert found["epsilon"] == pytest.approx(DPSGD(0.1, 2.0).privacy(found["sample_rate"], 2)[0], rel=1e-5)
    assert found["steps"] == 2 and next(one for name, one in given.items() if "0.0" in name)["epsilon"] is None
    table = rows([*records.values()])
    said = note(table)
    assert f"epsilon {found['epsilon']:.3g} at delta 1e-05 for each image of a client, after 2 steps" in said
    assert "epsilon is infinite, which is no privacy" in said and "MixUp" not in said
    acted = [one for one in table if one["defense"] != "no defense"]
    assert all(one["clients_changed"] == 1 and "did not act" not in one["void"] for one in acted)
