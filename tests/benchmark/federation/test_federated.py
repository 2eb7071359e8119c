"""Federated training: equal to what it should be equal to, and what a defense does to it."""

import copy
import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from statistics import median
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from attacks.update import FedAvg, Protocol, local_update
from attacks.update import Network as ClientsNetwork
from benchmark.errors import UsageError
from benchmark.federation import clients
from benchmark.federation import server as federated
from benchmark.federation.clients import Data, Network, batch_norm_names, batches_of, client_updates, examine
from benchmark.federation.partition import split
from benchmark.federation.protect import network_of
from benchmark.federation.recipe import Federation
from benchmark.federation.server import State, evaluate, next_round, server_step, start, train
from benchmark.models import MLP, ConvNet, ResNet
from benchmark.seeds import generator_for
from datamodules import Digits
from defenses import PRECODE, Clipping, Defense, GaussianNoise, KeptAtHome, Masking, Pruning, Update

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
    return batches_of(share, turn, federation, 1, seed, client)


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


@pytest.mark.parametrize("kind", [MLP, ConvNet, ResNet])
@pytest.mark.parametrize("size", [6, 20])  # in one batched step where the network allows it, and one after another
@pytest.mark.parametrize("local", [None, FedAvg(0.1, epochs=2)])
def test_clients_compute_what_attackers_simulate(data: Data, kind: type[Any], size: int, local: FedAvg | None) -> None:
    """In double precision: in single, a ReLU may round to the other side, which BatchNorm makes more of each step."""
    model = network(kind).double()
    weights = start(model, SGD, 3).weights
    rows = torch.arange(3 * 2 * size).view(3, 2 * size) % 150  # 3 clients with two batches each
    order = torch.stack([torch.randperm(2 * size) for _ in range(6)]).view(3, 2, 2 * size)
    if local is None:
        rows, batches = rows[:, :size], [[own[:size]] for own in rows]
    else:
        local = replace(local, batch_size=size)
        batches = [[own[b] for epoch in o for b in epoch.split(size)] for own, o in zip(rows, order, strict=True)]
    rate = local.learning_rate if local else None
    shared = client_updates(looked_at(model, data), weights, batches, data, rate, [0, 0, 0])
    names = dict(model.named_buffers())
    simulated = local_update(
        ClientsNetwork(
            model,
            {name: value for name, value in weights.items() if name not in names},
            {name: value for name, value in weights.items() if name in names},
        ),
        Protocol(local, train=True, share_statistics=True),
        clients.as_floats(data.images[rows], torch.float64),
        nn.functional.one_hot(data.labels[rows], 10).double(),
        False,
        order if local else None,
    )
    assert {name for name, value in shared.items() if value.is_floating_point()} == set(simulated)
    for name, value in simulated.items():
        torch.testing.assert_close(shared[name], value, rtol=1e-6, atol=1e-9)


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


@pytest.mark.parametrize("how", [replace(SGD, server_momentum=0.9, clients_per_round=3), AVG])
def test_personal_layers_are_trained_by_each_client_alone(data: Data, how: Federation) -> None:
    """By modules of torch, one for each client, whose last layers never meet."""
    found = run(data, how, KeptAtHome(["last"]))
    shares = split(data.labels, how.clients, None, 0)
    server = network()
    server.load_state_dict(start(server, how, 0).weights)
    body, images = nn.Sequential(*list(server)[:-1]), clients.as_floats(data.images)
    heads = [copy.deepcopy(server[-1]) for _ in range(how.clients)]
    rate, momentum = how.learning_rate, how.server_momentum
    own = [torch.optim.SGD(head.parameters(), rate, momentum) for head in heads]
    bodies = torch.optim.SGD(body.parameters(), rate if how.algorithm == "FedSGD" else 1.0, momentum)
    turns = [0] * how.clients
    for number in range(1, how.rounds + 1):
        drawn = torch.randperm(how.clients, generator=generator_for(0, number, "clients"))[: how.clients_per_round]
        counts, steps = [], []
        for client in drawn.tolist():
            mine = nn.Sequential(copy.deepcopy(body), heads[client])
            local = torch.optim.SGD(mine.parameters(), rate)
            for batch in order_of(shares[client], turns[client], how, 0, client):
                local.zero_grad()
                nn.functional.cross_entropy(mine(images[batch]), data.labels[batch]).backward()
                if how.algorithm == "FedAvg":
                    local.step()
            if how.algorithm == "FedSGD":
                own[client].step()
            moved = zip(body.parameters(), mine[0].parameters(), strict=True)
            steps.append([one.grad if how.algorithm == "FedSGD" else (old - one).detach() for old, one in moved])
            counts.append(len(shares[client]))
            turns[client] += 1
        for place, parameter in enumerate(body.parameters()):
            each = torch.stack([step[place] for step in steps])
            parameter.grad = torch.tensordot(torch.tensor(counts) / sum(counts), each, dims=1)
        bodies.step()
    accuracies = []
    for client, head in enumerate(heads):
        name = f"{len(server) - 1}.weight"
        assert torch.allclose(found.home[name][client], head.weight, atol=1e-5)
        logits = head(body(clients.as_floats(data.test_images)))
        accuracies.append(float((logits.argmax(1) == data.test_labels).float().mean()))
    assert len({tuple(head.weight.flatten().tolist()) for head in heads}) == how.clients
    assert found.accuracy[-1] == pytest.approx(sum(accuracies) / how.clients, abs=0.011)
    assert torch.equal(found.weights[name], start(server, how, 0).weights[name])  # the server has no part in them


def test_what_is_kept_at_home_survives_a_stop_and_is_nothing_without_layers(data: Data) -> None:
    states = list(train(network(), data, SGD, KeptAtHome(), 0))
    assert same(last(train(network(), data, SGD, KeptAtHome(), 0, states[3])), states[-1])
    plain = run(data, SGD)
    assert same(run(data, SGD, KeptAtHome([])), plain) and not plain.home


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


# What a user's own network is trained as.


class Own(nn.Module):
    """A body and a head of a user's own, drawn from the generator; what is odd about it is in its subclass."""

    def __init__(self, image_shape: Any = (1, 8, 8), num_classes: int = 10) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), *self.middle())
        self.head = nn.Linear(12, num_classes)

    def middle(self) -> list[nn.Module]:
        return [nn.Tanh()]

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images))

    def draw(self, generator: torch.Generator) -> dict[str, Tensor]:
        return {n: 0.6 * torch.rand(p.shape, generator=generator) - 0.3 for n, p in self.named_parameters()}


class Frozen(Own):
    def __init__(self) -> None:
        super().__init__()
        self.body.requires_grad_(False)


class Tied(Own):
    def __init__(self) -> None:
        super().__init__()
        act = nn.Tanh()
        middle = nn.Linear(12, 12)
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), act, middle, act, middle, act)
        self.again = nn.Linear(12, 12)
        self.again.weight = middle.weight
        self.again.other = self.again.weight  # in one module twice

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.again(self.body((images - 0.3) / 0.4)) @ self.again.other / 2)


class Unused(Own):
    def __init__(self) -> None:
        super().__init__()
        self.auxiliary = nn.Linear(3, 10)


class Hooked(Own):
    def __init__(self) -> None:
        super().__init__()
        self.register_forward_pre_hook(lambda module, given: ((given[0] - 0.2) * 2,))


class Normalized(Own):
    def middle(self) -> list[nn.Module]:
        return [nn.BatchNorm1d(12), nn.ReLU()]


class Cumulative(Own):
    def middle(self) -> list[nn.Module]:
        return [nn.BatchNorm1d(12, momentum=None), nn.ReLU()]


class OfTheBatch(Own):  # has no buffers, but each image depends on the others
    def middle(self) -> list[nn.Module]:
        return [nn.BatchNorm1d(12, track_running_stats=False), nn.Tanh()]


class Dropped(Own):
    def middle(self) -> list[nn.Module]:
        return [nn.BatchNorm1d(12), nn.Dropout(0.5)]


class Precise(Own):
    def __init__(self) -> None:
        super().__init__()
        self.double()


class Constant(Own):  # a buffer that never moves
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(0.3))

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images - self.mean)


OWN = (Own, Frozen, Tied, Unused, Hooked, Normalized, Cumulative, OfTheBatch, Precise, Constant)


@pytest.mark.parametrize("kind", OWN)
@pytest.mark.parametrize("federation", [replace(SGD, clients=1, clients_per_round=1), AVG])
def test_an_own_network_is_trained_as_by_a_loop_over_it(data: Data, kind: type[Own], federation: Federation) -> None:
    federation = replace(federation, rounds=2, dirichlet=3.0 if federation.clients > 1 else None)
    model, alone = kind(), kind()
    *_, found = train(model, data, federation, None, 2)
    shares = split(data.labels, federation.clients, federation.dirichlet, 2)
    server = dict(start(alone, federation, 2).weights)
    for turn in range(federation.rounds):
        ends = []
        for client, share in enumerate(shares):
            alone.load_state_dict(server, strict=False)
            alone.train()
            optimizer = torch.optim.SGD([p for p in alone.parameters() if p.requires_grad], lr=federation.learning_rate)
            for batch in order_of(share, turn, federation, 2, client):
                if len(batch) > 1 or not isinstance(kind().body[2], nn.BatchNorm1d):
                    optimizer.zero_grad()
                    logits = alone(data.images[batch].to(alone.head.weight.dtype))
                    nn.functional.cross_entropy(logits, data.labels[batch]).backward()
                    optimizer.step()
            ends.append({n: v.detach().clone() for n, v in alone.state_dict().items() if n in server})
        for name in server:
            mean = sum(len(share) / 150 * end[name] for share, end in zip(shares, ends, strict=True))
            server[name] = mean if server[name].is_floating_point() else max(end[name] for end in ends)
    for name, value in server.items():
        torch.testing.assert_close(found.weights[name], value, rtol=1e-3, atol=1e-5)
    if kind is Frozen:
        assert set(found.momentum) == {"head.weight", "head.bias"}


@pytest.mark.parametrize("kind", [*OWN, ConvNet])
def test_many_clients_share_a_step_only_where_that_gives_the_same(data: Data, kind: type[Any]) -> None:
    seen = looked_at(network() if kind is ConvNet else kind(), data)
    assert seen.batched == (kind not in (Normalized, Cumulative, OfTheBatch))
    assert seen.padded == seen.batched
    assert seen.smallest_batch == (2 if kind in (Normalized, Cumulative, OfTheBatch) else 1)


def test_a_term_of_the_loss_that_is_averaged_over_the_batch_shares_a_step_where_batches_are_of_one_size(
    data: Data,
) -> None:
    """The divergence of PRECODE's code does not know of the rows that pad a smaller batch."""
    seen = looked_at(network_of(PRECODE(4), network(), (1, 8, 8)), data)
    assert seen.batched and not seen.padded


@pytest.mark.parametrize("federation", [SGD, AVG])
def test_dropout_is_drawn_by_the_seed_the_client_and_the_round_alone(data: Data, federation: Federation) -> None:
    federation = replace(federation, rounds=3)
    model = Dropped()
    first = last(train(model, data, federation, None, 1))
    torch.manual_seed(5)
    whole = list(train(model, data, federation, None, 1))
    assert same(first, whole[-1]) and torch.initial_seed() == 5
    assert torch.rand(1) == torch.rand(1, generator=torch.Generator().manual_seed(5))
    assert same(first, last(train(Dropped(), data, federation, None, 1, whole[1])))  # goes on in another process
    assert not same(first, last(train(Dropped(), data, federation, None, 2)))


def test_dropout_differs_from_client_to_client_and_is_off_in_tests(data: Data) -> None:
    model = Dropped()
    begun = start(model, SGD, 0)
    batch = torch.arange(8)
    seen = looked_at(model, data)

    def shared(seeds: list[int]) -> Tensor:
        return client_updates(seen, begun.weights, [[batch]] * len(seeds), data, None, seeds)["head.weight"]

    one, other, again = shared([3, 4, 3])
    assert torch.equal(one, again) and not torch.equal(one, other)
    assert torch.equal(shared([4])[0], other)  # whoever trains beside it
    assert evaluate(model, data, begun).loss == evaluate(model, data, begun).loss


def test_a_last_batch_of_one_image_is_left_out_where_batch_norm_cannot_take_it(data: Data) -> None:
    nine = data._replace(images=data.images[:9], labels=data.labels[:9])
    federation = replace(AVG, clients=1, clients_per_round=1, rounds=1, local_epochs=1)
    counts = [last(train(kind(), nine, federation, None, 0)).weights for kind in (Normalized, Normalized)]
    assert counts[0]["body.2.num_batches_tracked"] == 1  # of 8 and 1
    for size, sentence in ((1, "batch_size is 1, but"), (4, "client 0 has one image, and")):
        with pytest.raises(UsageError, match=f"{sentence} Normalized cannot be trained on a batch of one image"):
            last(train(Normalized(), nine, replace(SGD, clients=9, batch_size=size), None, 0))


def test_what_draw_leaves_out_or_adds_is_told() -> None:
    model = Own()
    drawn = model.draw(torch.Generator())
    for wrong, sentence in (
        ({n: v for n, v in drawn.items() if n != "head.bias"}, "gives no weights for head.bias"),
        (drawn | {"module.head": drawn["head.bias"]}, "gives weights for what is no parameter: module.head"),
        (drawn | {"head.bias": torch.zeros(3)}, r"gives head.bias the shape \[3\], not \[10\]"),
    ):
        model.draw = lambda generator, wrong=wrong: wrong  # type: ignore[assignment,misc] # wrong on purpose
        with pytest.raises(UsageError, match=sentence):
            start(model, SGD, 0)


def test_a_network_starts_with_the_buffers_that_it_draws() -> None:
    model = Constant()
    model.draw = lambda generator: Own.draw(model, generator) | {"mean": torch.tensor(0.7)}  # type: ignore[method-assign] # as a model may
    assert start(model, SGD, 0).weights["mean"] == pytest.approx(0.7)


# The canary.


class Scaled(Defense):
    """Multiplies some clients' first tensor, from a round on."""

    def __init__(self, factor: float, above: float = -1.0) -> None:
        self.factor, self.above, self.seen = factor, above, list[float]()

    def protect(self, update: Update, generators: Any) -> Update:
        name = next(iter(update))
        norm = update[name].flatten(1).norm(dim=1).view(-1, *[1] * (update[name].dim() - 1))
        self.seen += norm.flatten().tolist()
        return update | {name: torch.where(norm > self.above, self.factor * update[name], update[name])}

    def known_to_attacker(self) -> Any:
        raise NotImplementedError


def test_the_canary_counts_what_a_defense_changes(data: Data) -> None:
    model = Own()
    sizes = [p.numel() for p in model.parameters()]
    federation = replace(SGD, clients_per_round=3, rounds=5)
    dead = int((data.images.flatten(1) == 0).all(0).sum())
    halved = last(train(model, data, federation, Scaled(0.5), 0))
    assert (halved.defended, halved.changed, halved.entries) == (15, 15, 15 * sum(sizes))
    assert 0.3 * 15 * sizes[0] < halved.entries_changed <= 15 * (sizes[0] - 12 * dead)  # a zero stays a zero
    for defense in (Scaled(1.0), Scaled(1 + 1e-7), Clipping(1e6), Masking(0.0), GaussianNoise(0.0)):
        kept = last(train(model, data, federation, defense, 0))
        assert (kept.defended, kept.changed, kept.entries_changed) == (15, 0, 0)
    idle = Scaled(1.0)
    last(train(model, data, federation, idle, 0))
    some = last(train(model, data, federation, Scaled(0.5, above=median(idle.seen)), 0))
    assert 0 < some.changed < 15
    noisy = last(train(model, data, federation, GaussianNoise(0.01), 0))
    assert noisy.entries_changed == noisy.entries == 15 * sum(sizes)


def test_nan_and_infinity_are_changes() -> None:
    given = {"w": torch.tensor([[1.0, 0.0], [2.0, 0.0]]), "temperature": torch.tensor([1.0, 1.0])}
    shared = {"w": torch.tensor([[math.nan, 0.0], [2.0, math.inf]]), "temperature": torch.tensor([1.0, 2.0])}
    assert federated.changed_entries(given, shared).tolist() == [1, 2]


def test_what_changes_its_input_in_place_is_seen_too(data: Data) -> None:
    class InPlace(Scaled):
        def protect(self, update: Update, generators: Any) -> Update:
            for value in update.values():
                value.mul_(self.factor)
            return update

    assert run(data, SGD, InPlace(0.5)).changed == SGD.rounds * SGD.clients


def test_a_defense_that_returns_another_shape_in_some_round_is_told(data: Data) -> None:
    class Late(Scaled):
        rounds = 0

        def protect(self, update: Update, generators: Any) -> Update:
            self.rounds += 1
            return {n: v[..., :1] if self.rounds == 3 else v for n, v in update.items()}

    with pytest.raises(UsageError, match=r"Late: protect returns the shape \[4, 4, 1, 3, 1\] for 0.weight, not"):
        run(data, SGD, Late(1.0))


def test_the_validation_images_are_judged_after_the_last_round(data: Data) -> None:
    *states, end = train(network(), data, SGD, None, 0)
    assert all(state.validation is None for state in states) and end.validation is not None
    swapped = data._replace(test_images=data.validation_images, test_labels=data.validation_labels)
    judged = evaluate(network(), swapped, replace(end, accuracy=(), loss=()))
    assert end.validation == (judged.accuracy[0], judged.loss[0])
