"""Federated training: equal to what it should be equal to, and what a defense does to it."""

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from benchmark.federated import Federation, State, evaluate, next_round, server_step, start, train
from benchmark.models import MLP, ConvNet
from benchmark.resnet import ResNet
from benchmark.training import clients
from benchmark.training.clients import Data, Network, batch_norm_names, batches_of, client_updates, examine
from benchmark.training.partition import split
from datamodules import Digits
from defenses import Clipping, Defense, GaussianNoise, Masking, Pruning, Update

SGD = Federation("FedSGD", 4, 4, 6, 8, 1, 0.1)
AVG = replace(SGD, algorithm="FedAvg", rounds=2, local_epochs=2)


@pytest.fixture(scope="module")
def data(digits: Digits) -> Data:
    return data_of(digits, 150, 50)


def data_of(digits: Digits, count: int, tests: int) -> Data:
    images, labels = digits.train_images, digits.train_labels
    seen, held_out = slice(count), slice(count, count + 40)
    test = digits.test_images[:tests], digits.test_labels[:tests]
    return Data(images[seen], labels[seen], *test, 10, images[held_out], labels[held_out])


def order_of(share: Tensor, turn: int, federation: Federation, seed: int, client: int) -> list[Tensor]:
    """The client's batches."""
    how = federation
    return batches_of(share, turn, how.algorithm, how.batch_size, how.local_epochs, 1, seed, client)


def looked_at(model: nn.Module, data: Data) -> Network:
    return examine(model, start(model, SGD, 0).weights, data)


def network(kind: type[Any] = ConvNet, **args: Any) -> Any:
    return kind((1, 8, 8), 10, **({"width": 4} | args if kind is not MLP else args))


def last(states: Iterator[State]) -> State:
    *_, state = states
    return state


def run(
    data: Data, federation: Federation, defense: Defense | None = None, seed: int = 0, kind: Any = ConvNet
) -> State:
    return last(train(network(kind), data, federation, defense, seed))


def same(first: State, second: State) -> bool:
    return (first.accuracy, first.loss, first.turns.tolist()) == (
        second.accuracy,
        second.loss,
        second.turns.tolist(),
    ) and all(torch.equal(value, second.weights[name]) for name, value in first.weights.items())


@pytest.mark.parametrize("batch_size", [8, 40])  # in one batched step, and one after another
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("decay", ["none", "cosine"])
def test_fedsgd_of_one_client_is_sgd_and_with_decay_that_of_cosine_annealing(
    data: Data, batch_size: int, momentum: float, decay: str
) -> None:
    federation = replace(
        SGD,
        clients=1,
        clients_per_round=1,
        batch_size=batch_size,
        server_momentum=momentum,
        decay=decay,
        rounds=12,
        evaluate_every=5,
    )
    model = network()
    states = list(train(model, data, federation, None, 3))
    assert [state.round for state in states] == list(range(13))
    assert states[-1].tested == (0, 5, 10, 12)
    model.load_state_dict(start(model, federation, 3).weights)
    optimizer = torch.optim.SGD(model.parameters(), lr=federation.learning_rate, momentum=momentum)
    falls = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=federation.rounds)
    (share,) = split(data.labels, 1, None, 3)
    for turn in range(federation.rounds):
        (batch,) = order_of(share, turn, federation, 3, 0)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(data.images[batch]), data.labels[batch]).backward()
        optimizer.step()
        if decay == "cosine":
            falls.step()
    for name, p in model.named_parameters():
        torch.testing.assert_close(states[-1].weights[name], p.detach(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", [ConvNet, ResNet])
def test_fedavg_is_the_loop_that_one_would_write(data: Data, kind: type[Any]) -> None:
    federation = replace(AVG, dirichlet=1.0, batch_size=16)  # clients of different size, and parts of batches
    model = network(kind)
    found = last(train(model, data, federation, None, 5))
    shares = split(data.labels, federation.clients, 1.0, 5)
    server = start(model, federation, 5).weights
    for turn in range(federation.rounds):
        ends = []
        for client, share in enumerate(shares):
            model.load_state_dict(server, strict=False)
            model.train()
            optimizer = torch.optim.SGD(model.parameters(), lr=federation.learning_rate)
            for batch in order_of(share, turn, federation, 5, client):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(data.images[batch]), data.labels[batch]).backward()
                optimizer.step()
            ends.append({n: v.detach().clone() for n, v in model.state_dict().items() if v.is_floating_point()})
        server = {n: sum(len(s) / 150 * e[n] for s, e in zip(shares, ends, strict=True)) for n in ends[0]}
    for name, value in server.items():
        torch.testing.assert_close(found.weights[name], value, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("federation", [SGD, AVG])
def test_clients_in_one_batched_step_are_those_one_after_another(
    data: Data, federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = replace(federation, dirichlet=0.5)
    together = run(data, federation, seed=1)
    monkeypatch.setattr(clients, "FEW_IMAGES", 0)
    looped = run(data, federation, seed=1)
    for name, value in together.weights.items():
        torch.testing.assert_close(value, looped.weights[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("federation", [SGD, AVG])
@pytest.mark.parametrize("defense", [GaussianNoise(0.0), Clipping(math.inf), Pruning(0.0), Masking(0.0)])
def test_a_defense_without_strength_is_no_defense(data: Data, federation: Federation, defense: Defense) -> None:
    federation = replace(federation, rounds=2)
    assert same(run(data, federation), run(data, federation, defense))


@pytest.mark.parametrize("federation", [SGD, AVG])
def test_the_same_seed_is_the_same_training_and_another_is_not(data: Data, federation: Federation) -> None:
    federation = replace(federation, clients_per_round=2, server_momentum=0.5)
    first = run(data, federation, Masking(0.5), 1)
    torch.manual_seed(99)
    assert same(first, run(data, federation, Masking(0.5), 1))
    assert not same(first, run(data, federation, Masking(0.5), 2))
    assert int(first.turns.sum()) == 2 * federation.rounds


@pytest.mark.parametrize("federation", [SGD, AVG])
def test_every_defense_meets_the_same_training(data: Data, federation: Federation) -> None:
    class Spy(Defense):
        def __init__(self, scale: float) -> None:
            self.scale, self.seen, self.draws = scale, list[Update](), list[float]()

        def protect(self, update: Update, generators: Any) -> Update:
            self.seen.append(update)
            self.draws += [float(torch.rand(1, generator=g)) for g in generators]
            return {name: self.scale * value for name, value in update.items()}

        def known_to_attacker(self) -> Any:
            raise NotImplementedError

    federation = replace(federation, clients_per_round=2)
    one, other = Spy(1.0), Spy(0.0)
    states = [list(train(network(), data, federation, spy, 4)) for spy in (one, other)]
    assert one.draws == other.draws and len(set(one.draws)) == len(one.draws)  # of each client and round its own
    assert all(torch.equal(one.seen[0][name], other.seen[0][name]) for name in one.seen[0])
    assert all(torch.equal(a.turns, b.turns) for a, b in zip(*states, strict=True))
    assert states[1][0].loss == states[1][-1].loss[:1] and len(set(states[1][-1].loss)) == 1  # nothing was learned


def test_the_mean_is_weighted_by_images() -> None:
    before = State(0, {"w": torch.zeros(2)}, {"w": torch.zeros(2)}, torch.zeros(2))
    updates = {"w": torch.tensor([[1.0, 0.0], [0.0, 4.0]])}
    after = server_step(before, updates, torch.tensor([30, 10]), 1.0, 0.0)
    assert after.weights["w"].tolist() == [-0.75, -1.0]
    after = server_step(before, updates, torch.tensor([30, 10]), 0.1, 0.0)
    assert after.weights["w"].tolist() == pytest.approx([-0.075, -0.1])


def test_a_variance_does_not_fall_below_nothing() -> None:
    before = State(0, {"n.running_var": torch.ones(2)}, {}, torch.zeros(1))
    after = server_step(before, {"n.running_var": torch.tensor([[3.0, 0.5]])}, torch.tensor([5]), 0.1, 0.0)
    assert after.weights["n.running_var"].tolist() == [0.0, 0.5]


@pytest.mark.parametrize("alpha", [None, 0.1, 1.0, 100.0])
def test_every_image_is_with_one_client(alpha: float | None) -> None:
    labels = torch.arange(4000) % 10
    shares = split(labels, 8, alpha, 0)
    assert sorted(torch.cat(shares).tolist()) == list(range(4000))
    assert all(torch.equal(a, b) for a, b in zip(shares, split(labels, 8, alpha, 0), strict=True))
    assert not torch.equal(shares[0], split(labels, 8, alpha, 1)[0])


def test_the_smaller_alpha_the_fewer_classes_has_a_client() -> None:
    labels = torch.arange(20_000) % 10

    def largest(alpha: float | None) -> float:
        """Mean over clients of the share of its most frequent class."""
        shares = split(labels, 20, alpha, 0)
        return sum(float(torch.bincount(labels[s], minlength=10).max() / len(s)) for s in shares) / 20

    assert largest(None) < 0.14 < largest(1.0) < largest(0.1)
    assert largest(1000.0) < 0.14 and largest(0.1) > 0.5
    sizes = torch.tensor([len(share) for share in split(labels, 20, 1.0, 0)]) / 20_000
    assert sizes.std() == pytest.approx((0.05 * 0.95 / 21 / 10) ** 0.5, rel=0.6)  # of ten Dirichlet draws


@pytest.mark.parametrize(("clients", "alpha"), [(12, None), (5, 0.01)])
def test_a_client_without_images_is_told(clients: int, alpha: float | None) -> None:
    with pytest.raises(ValueError, match=r"^\d of \d+ clients have no image of the 10: give fewer clients"):
        split(torch.arange(10) % 2, clients, alpha, 0)


def test_a_client_of_fedsgd_goes_through_its_images_in_turn() -> None:
    share = torch.arange(10, 31)
    federation = replace(SGD, batch_size=8)
    row = torch.cat([order_of(share, turn, federation, 0, 2)[0] for turn in range(21)])
    epochs = row.view(8, 21).tolist()
    assert all(sorted(epoch) == share.tolist() for epoch in epochs)
    assert all(one != other for one, other in pairwise(epochs))
    assert [len(b) for b in order_of(share, 3, replace(federation, batch_size=50), 0, 2)] == [21]


def test_a_client_of_fedavg_goes_through_all_its_images_in_each_epoch() -> None:
    share = torch.arange(10, 31)
    batches = order_of(share, 1, replace(AVG, batch_size=8), 0, 2)
    assert [len(batch) for batch in batches] == [8, 8, 5] * 2
    first, second = torch.cat(batches[:3]).tolist(), torch.cat(batches[3:]).tolist()
    assert sorted(first) == sorted(second) == share.tolist() and first != second


@pytest.mark.parametrize("federation", [SGD, AVG])
def test_a_defense_meets_batch_norm_only_where_it_is_included(data: Data, federation: Federation) -> None:
    model = network(ResNet)
    begun = start(model, federation, 0)
    shares = split(data.labels, federation.clients, None, 0)

    def after(defense: Defense | None, include: bool) -> dict[str, Tensor]:
        how = replace(federation, protect_batch_norm=include)
        return next_round(looked_at(model, data), data, shares, how, defense, 0, begun).weights

    free, outside, inside = after(None, False), after(Masking(0.9), False), after(Masking(0.9), True)
    names = batch_norm_names(model)
    assert {"stem.0.1.weight", "stem.0.1.bias", "stem.0.1.running_mean", "stem.0.1.running_var"} <= names
    assert names < set(free)
    for name in free:
        if name.endswith("num_batches_tracked"):  # 38 images at most in batches of 8, twice
            assert inside[name] == free[name] == (10 if federation is AVG else 1)
        elif name in names:
            assert torch.equal(outside[name], free[name]) and not torch.equal(inside[name], free[name])
            assert not torch.equal(free[name], begun.weights[name])
        else:
            assert not torch.equal(outside[name], free[name])


def test_running_statistics_move_in_training_and_not_in_tests(data: Data) -> None:
    model = network(ResNet)
    weights = start(model, SGD, 0).weights
    batch = torch.arange(20)
    update = client_updates(looked_at(model, data), weights, [[batch]], data, None, [0])
    mean = functional_call(model.train().stem[0][0], {"weight": weights["stem.0.0.weight"]}, (data.images[:20],)).mean(
        (0, 2, 3)
    )
    torch.testing.assert_close(update["stem.0.1.running_mean"][0], -0.1 * mean)
    before = {name: value.clone() for name, value in weights.items()}
    evaluate(model, data, State(0, weights, {}, torch.zeros(1)))
    assert all(torch.equal(value, before[name]) for name, value in weights.items())


def test_a_training_that_diverges_ends_there(data: Data) -> None:
    states = list(train(network(), data, replace(SGD, learning_rate=1e30, rounds=50), None, 0))
    assert states[-1].diverged and 1 <= states[-1].round < 50
    assert not any(state.diverged for state in states[:-1])


def test_tests_are_as_often_as_asked_and_at_the_end(data: Data) -> None:
    assert run(data, replace(SGD, rounds=5, evaluate_every=2)).tested == (0, 2, 4, 5)
    assert run(data, replace(SGD, rounds=2)).tested == (0, 1, 2)


def test_pixels_as_bytes_are_the_same_images(data: Data) -> None:
    coarse = data._replace(
        images=(data.images * 255).round().byte(), test_images=(data.test_images * 255).round().byte()
    )
    floats = coarse._replace(images=coarse.images.float() / 255, test_images=coarse.test_images.float() / 255)
    assert same(run(coarse, SGD), run(floats, SGD))


@pytest.mark.parametrize(("federation", "kind", "floor"), [(SGD, ConvNet, 0.8), (AVG, MLP, 0.75), (AVG, ResNet, 0.5)])
def test_networks_learn(digits: Digits, federation: Federation, kind: type[Any], floor: float) -> None:
    count = 320 if kind is ResNet else 1250
    whole = data_of(digits, count, 500)
    how = replace(
        federation, server_momentum=0.5, evaluate_every=100, rounds=60 if federation is SGD else 4, learning_rate=0.3
    )
    assert run(whole, how, kind=kind).accuracy[-1] > floor
