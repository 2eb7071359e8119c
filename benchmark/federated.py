"""Federated training in which each client's update goes through a defense before the server averages it.

FedAvg and FedSGD of McMahan et al. 2017 (arXiv 1602.05629). Whatever is drawn, the split, the clients of a round, the
order of their images, a defense's noise, comes from the seed, the client and the round alone: every defense meets the
same training, and a training that was stopped goes on as if it had not been.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.rnn import pad_sequence

from attacks.gradients import batch_gradients
from benchmark.training.partition import generator_for, split
from defenses.base import Defense, Update

Weights = dict[str, Tensor]
"""Name -> values of a network: its parameters, then its running statistics."""

FEW_IMAGES = 16
"""Up to so many images in a batch, all clients in one batched step are faster on a CPU than one after another."""


class Data(NamedTuple):
    """What is trained on and tested on.

    Attributes:
        images: of all clients together, ``[M, C, H, W]``, bytes or float32 in [0, 1].
        labels: ``[M]``.
        test_images: ``[T, C, H, W]``, as the images.
        test_labels: ``[T]``.
        num_classes: K.
    """

    images: Tensor
    labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    num_classes: int


@dataclass(frozen=True)
class Federation:
    """How clients and server train.

    Attributes:
        algorithm: ``FedSGD``: a client shares the mean gradient of its next batch. ``FedAvg``: it trains for
            ``local_epochs`` and shares its weights at the start minus those at the end, divided by nothing.
        clients: number of clients.
        clients_per_round: how many of them, drawn anew, train in a round.
        rounds: how often the server averages.
        batch_size: images of a client's batch; a client with fewer has all of its own in each.
        local_epochs: of FedAvg.
        learning_rate: of the clients in FedAvg, whose mean update the server takes as it is; of the server in FedSGD.
        server_momentum: what the server keeps of its last step.
        dirichlet: alpha of a split by labels, None for one at random.
        protect_batch_norm: whether a defense also gets the scales, shifts and running statistics of BatchNorm.
        evaluate_every: rounds from one test to the next; the last round is always tested.
    """

    algorithm: str
    clients: int
    clients_per_round: int
    rounds: int
    batch_size: int
    local_epochs: int
    learning_rate: float
    server_momentum: float = 0.0
    dirichlet: float | None = None
    protect_batch_norm: bool = False
    evaluate_every: int = 1


@dataclass(frozen=True)
class State:
    """A training after some rounds, and all that it needs to go on.

    Attributes:
        round: rounds done.
        weights: the server's.
        momentum: the server's last step in each parameter, before its learning rate.
        turns: rounds in which each client took part, ``[clients]``.
        tested: rounds after which the network was tested; 0 is before the first.
        accuracy: share of the test images that it told, each time.
        loss: mean cross entropy of the test images, each time.
        diverged: whether the last update or loss was NaN or infinite: there is no next round.
    """

    round: int
    weights: Weights
    momentum: Weights
    turns: Tensor
    tested: tuple[int, ...] = ()
    accuracy: tuple[float, ...] = ()
    loss: tuple[float, ...] = ()
    diverged: bool = False


def train(
    model: nn.Module, data: Data, federation: Federation, defense: Defense | None, seed: int, state: State | None = None
) -> Iterator[State]:
    """Trains, and yields the state before the first round, unless one is given, and after each.

    Args:
        model: the architecture, with a method ``draw``, on the device of the computation.
        data: on the same device.
        federation: how.
        defense: what each client does with its update, or None.
        seed: of everything that is drawn.
        state: where to go on.

    Raises:
        ValueError: a client has no image.
    """
    shares = split(data.labels.cpu(), federation.clients, federation.dirichlet, seed)
    if state is None:
        state = evaluate(model, data, start(model, federation, seed))
        yield state
    while state.round < federation.rounds and not state.diverged:
        state = next_round(model, data, shares, federation, defense, seed, state)
        due = state.round % federation.evaluate_every == 0 or state.round == federation.rounds
        if due and not state.diverged:
            state = evaluate(model, data, state)
        yield state


def start(model: nn.Module, federation: Federation, seed: int) -> State:
    """The state before the first round."""
    like = next(model.parameters())
    drawn = model.draw(generator_for(seed, 0, "network"))  # type: ignore[operator] # a model has it
    parameters = {name: value.to(like) for name, value in drawn.items()}
    fresh = {name: value.detach().clone() for name, value in model.named_buffers() if value.is_floating_point()}
    momentum = {name: torch.zeros_like(value) for name, value in parameters.items()}
    return State(0, parameters | fresh, momentum, torch.zeros(federation.clients, dtype=torch.int64))


def evaluate(model: nn.Module, data: Data, state: State, at_once: int = 500) -> State:
    """The state with accuracy and loss on the test images."""
    model.eval()
    correct, loss = 0, 0.0
    with torch.no_grad():
        for first in range(0, len(data.test_labels), at_once):
            labels = data.test_labels[first : first + at_once]
            logits = functional_call(model, state.weights, (as_floats(data.test_images[first : first + at_once]),))
            correct += int((logits.argmax(1) == labels).sum())
            loss += float(nn.functional.cross_entropy(logits.double(), labels, reduction="sum"))
    mean_loss = loss / len(data.test_labels)
    if not math.isfinite(mean_loss):
        return replace(state, diverged=True)
    return replace(
        state,
        tested=(*state.tested, state.round),
        accuracy=(*state.accuracy, correct / len(data.test_labels)),
        loss=(*state.loss, mean_loss),
    )


def as_floats(images: Tensor) -> Tensor:
    """Images in [0, 1]."""
    return images.float() / 255 if images.dtype == torch.uint8 else images


def next_round(
    model: nn.Module,
    data: Data,
    shares: list[Tensor],
    federation: Federation,
    defense: Defense | None,
    seed: int,
    state: State,
) -> State:
    """One round: some clients train, each update is defended, the server takes their weighted mean."""
    number = state.round + 1
    drawn = torch.randperm(federation.clients, generator=generator_for(seed, number, "clients"))
    batches = {
        client: batches_of(shares[client], int(state.turns[client]), federation, seed, client)
        for client in drawn[: federation.clients_per_round].tolist()
    }
    # Those with most batches first: who still trains in a later step is then the front of the clients.
    chosen = sorted(batches, key=lambda client: (-len(batches[client]), client))
    updates = client_updates(model, state.weights, [batches[client] for client in chosen], data, federation)
    if defense is not None:
        left_alone = set() if federation.protect_batch_norm else batch_norm_names(model)
        given = {name: value for name, value in updates.items() if name not in left_alone}
        updates |= defense.protect(given, [generator_for(seed, c, f"defense/{number}") for c in chosen])
    counts = torch.tensor([len(shares[client]) for client in chosen])
    turns = state.turns.clone()
    turns[chosen] += 1
    stepped = replace(server_step(state, updates, counts, federation), round=number, turns=turns)
    finite = all(bool(value.isfinite().all()) for value in stepped.weights.values())
    return replace(stepped, diverged=not finite)


def batches_of(share: Tensor, turn: int, federation: Federation, seed: int, client: int) -> list[Tensor]:
    """The images of each batch of a client in its next round.

    FedSGD takes the next batch of the endless row of the client's shuffled epochs, FedAvg the next epochs.

    Args:
        share: the client's images, ``[n]``.
        turn: rounds in which the client took part before.
        federation: how.
        seed: of the order.
        client: its number.
    """

    def order(epoch: int) -> Tensor:
        return torch.randperm(len(share), generator=generator_for(seed, client, f"order/{epoch}"))

    if federation.algorithm == "FedAvg":
        first = turn * federation.local_epochs
        epochs = range(first, first + federation.local_epochs)
        return [share[batch] for epoch in epochs for batch in order(epoch).split(federation.batch_size)]
    size = min(federation.batch_size, len(share))
    epoch, begin = divmod(turn * size, len(share))
    row = order(epoch) if begin + size <= len(share) else torch.cat([order(epoch), order(epoch + 1)])
    return [share[row[begin : begin + size]]]


def client_updates(
    model: nn.Module, weights: Weights, batches: list[list[Tensor]], data: Data, federation: Federation
) -> Update:
    """What V clients would share without a defense, name -> ``[V, ...]``.

    A running statistic is shared as its value at the start minus that at the end, in FedSGD too.

    Args:
        model: the architecture.
        weights: the server's.
        batches: of each client, those with most batches first.
        data: which the batches are of.
        federation: how.
    """
    model.train()
    local = {name: value.expand(len(batches), *value.shape).clone() for name, value in weights.items()}
    for step in range(len(batches[0])):
        now = [batches_of_one[step] for batches_of_one in batches if len(batches_of_one) > step]
        front = {name: value[: len(now)] for name, value in local.items()}  # views
        slopes = gradients(model, front, now, data)
        if federation.algorithm == "FedSGD":
            return slopes | {name: weights[name] - value for name, value in local.items() if name not in slopes}
        for name, slope in slopes.items():
            front[name].sub_(slope, alpha=federation.learning_rate)
    return {name: weights[name] - value for name, value in local.items()}


def gradients(model: nn.Module, weights: Weights, batches: list[Tensor], data: Data) -> Update:
    """Gradient of the mean cross entropy of each client's batch at the client's own weights, name -> ``[V, ...]``.

    Running statistics in ``weights`` move, in place, as BatchNorm moves them in training.
    """
    names = [name for name, _ in model.named_parameters()]
    if len(names) == len(weights) and max(map(len, batches)) <= FEW_IMAGES:
        index = pad_sequence(batches, batch_first=True)
        sizes = torch.tensor([len(batch) for batch in batches])[:, None]
        # A row of padding weighs nothing, and the others make up for it in the mean.
        weigh = (torch.arange(index.shape[1]) < sizes) * (index.shape[1] / sizes)
        targets = nn.functional.one_hot(data.labels[index], data.num_classes) * weigh[..., None].to(data.images.device)
        return batch_gradients(model, weights, as_floats(data.images[index]), targets, create_graph=False)
    each: list[list[Tensor]] = []
    for number, batch in enumerate(batches):
        own = {name: value[number].detach() for name, value in weights.items()}
        leaves = {name: own[name].requires_grad_() for name in names}
        logits = functional_call(model, own, (as_floats(data.images[batch]),))
        loss = nn.functional.cross_entropy(logits, data.labels[batch])
        each.append(list(torch.autograd.grad(loss, list(leaves.values()))))
    return {name: torch.stack(of_clients) for name, of_clients in zip(names, zip(*each, strict=True), strict=True)}


def batch_norm_names(model: nn.Module) -> set[str]:
    """The names of the scales, shifts and running statistics of BatchNorm layers."""
    return {
        f"{name}.{kind}" if name else kind
        for name, layer in model.named_modules()
        if isinstance(layer, _BatchNorm)
        for kind in ("weight", "bias", "running_mean", "running_var")
    }


def server_step(state: State, updates: Update, counts: Tensor, federation: Federation) -> State:
    """The state with new weights and momentum.

    Weights lose the server's learning rate (1 in FedAvg) times the momentum, as in ``torch.optim.SGD``; running
    statistics lose the mean update, and a variance is at least 0, which noise does not know.

    Args:
        state: before.
        updates: name -> ``[V, ...]``.
        counts: images of each client, ``[V]``, by which the mean is weighted.
        federation: how.
    """
    share = counts / counts.sum()
    mean = {name: torch.tensordot(share.to(value), value, dims=1) for name, value in updates.items()}
    momentum = {name: federation.server_momentum * old + mean[name] for name, old in state.momentum.items()}
    rate = federation.learning_rate if federation.algorithm == "FedSGD" else 1.0
    weights = {}
    for name, value in state.weights.items():
        weights[name] = value - rate * momentum[name] if name in momentum else value - mean[name]
        if name.endswith("running_var"):
            weights[name] = weights[name].clamp(min=0)
    return replace(state, weights=weights, momentum=momentum)
