"""Federated training in which each client's update goes through a defense before the server averages it.

FedAvg and FedSGD of McMahan et al. 2017 (arXiv 1602.05629). Whatever is drawn, the split, the clients of a round, the
order of their images, Dropout, a defense's noise, comes from the seed, the client and the round alone: every defense
meets the same training, and a training that was stopped goes on as if it had not been.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from attacks.gradients import trained_names
from benchmark.federation.clients import (
    Data,
    Network,
    Weights,
    batch_norm_names,
    batches_of,
    check_sizes,
    client_updates,
    examine,
    initial_weights,
    logits_of,
)
from benchmark.federation.partition import split
from benchmark.federation.protect import protected
from benchmark.federation.recipe import Federation
from benchmark.seeds import generator_for, generators, seed_for
from defenses.base import Defense, Update


@dataclass(frozen=True)
class State:
    """A training after some rounds, and all that it needs to go on.

    Attributes:
        round: rounds done.
        weights: the server's.
        momentum: the server's last step in each trained parameter, before its learning rate.
        turns: rounds in which each client took part, ``[clients]``.
        tested: rounds after which the network was tested; 0 is before the first.
        accuracy: share of the test images that it told, each time.
        loss: mean cross entropy of the test images, each time.
        validation: accuracy and mean cross entropy of the validation images after the last round.
        defended: clients' updates that went through the defense so far.
        changed: those of which it changed an entry.
        entries: of all these updates.
        entries_changed: those that it changed by more than rounding.
        diverged: whether the last update or loss was NaN or infinite: there is no next round.
    """

    round: int
    weights: Weights
    momentum: Weights
    turns: Tensor
    tested: tuple[int, ...] = ()
    accuracy: tuple[float, ...] = ()
    loss: tuple[float, ...] = ()
    validation: tuple[float, float] | None = None
    defended: int = 0
    changed: int = 0
    entries: int = 0
    entries_changed: int = 0
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
        UsageError: the model draws other weights than it has, the defense raises or returns an update of another form,
            or a client's batches are too small.
    """
    shares = split(data.labels.cpu(), federation.clients, federation.dirichlet, seed)
    if state is None:
        state = evaluate(model, data, start(model, federation, seed))
        yield state
    network = examine(model, start(model, federation, seed).weights, data)  # a run that goes on finds the same
    check_sizes(shares, federation.batch_size, network, type(model).__name__)
    while state.round < federation.rounds and not state.diverged:
        state = next_round(network, data, shares, federation, defense, seed, state)
        due = state.round % federation.evaluate_every == 0 or state.round == federation.rounds
        if due and not state.diverged:
            state = evaluate(model, data, state)
        if state.round == federation.rounds and not state.diverged:
            state = replace(state, validation=judged(model, state.weights, *data[-2:]))
        yield state


def start(model: nn.Module, federation: Federation, seed: int) -> State:
    """The state before the first round."""
    weights = initial_weights(model, generator_for(seed, 0, "network"))
    momentum = {name: torch.zeros_like(weights[name]) for name in trained_names(model)}
    return State(0, weights, momentum, torch.zeros(federation.clients, dtype=torch.int64))


def evaluate(model: nn.Module, data: Data, state: State) -> State:
    """The state with accuracy and loss on the test images."""
    accuracy, loss = judged(model, state.weights, data.test_images, data.test_labels)
    if not math.isfinite(loss):
        return replace(state, diverged=True)
    return replace(
        state,
        tested=(*state.tested, state.round),
        accuracy=(*state.accuracy, accuracy),
        loss=(*state.loss, loss),
    )


def judged(
    model: nn.Module, weights: Weights, images: Tensor, labels: Tensor, at_once: int = 500
) -> tuple[float, float]:
    """Share of the images that the network tells, and their mean cross entropy.

    Args:
        model: the architecture.
        weights: its values.
        images: ``[T, C, H, W]``, bytes or floats in [0, 1].
        labels: ``[T]``.
        at_once: images in one forward pass at most.
    """
    model.eval()
    correct, loss = 0, 0.0
    with torch.no_grad():
        parts = math.ceil(len(labels) / at_once)
        for some, truth in zip(images.tensor_split(parts), labels.tensor_split(parts), strict=True):
            logits = logits_of(model, weights, some)
            correct += int((logits.argmax(1) == truth).sum())
            loss += float(nn.functional.cross_entropy(logits.double(), truth, reduction="sum"))
    return correct / len(labels), loss / len(labels)


def next_round(
    network: Network,
    data: Data,
    shares: list[Tensor],
    federation: Federation,
    defense: Defense | None,
    seed: int,
    state: State,
) -> State:
    """One round: some clients train, each update is defended, the server takes their weighted mean."""
    number, how = state.round + 1, federation
    drawn = torch.randperm(how.clients, generator=generator_for(seed, number, "clients"))
    batches = {
        client: batches_of(shares[client], int(state.turns[client]), how, network.smallest_batch, seed, client)
        for client in drawn[: how.clients_per_round].tolist()
    }
    # Those with most batches first: who still trains in a later step is then the front of the clients.
    chosen = sorted(batches, key=lambda client: (-len(batches[client]), client))
    local_rate = how.rate(state.round) if how.algorithm == "FedAvg" else None
    forward = [seed_for(seed, client, f"forward/{number}") for client in chosen]
    updates = client_updates(network, state.weights, [batches[c] for c in chosen], data, local_rate, forward)
    if defense is not None and (given := defended_part(network, updates, how.protect_batch_norm)):
        true = {name: value.clone() for name, value in given.items()}  # the defense may have changed it in place
        sources = generators(seed, chosen, f"defense/{number}")
        shared = protected(defense, given, sources, type(defense).__name__)
        state = counted(state, true, shared)
        updates |= shared
    counts = torch.tensor([len(shares[client]) for client in chosen])
    turns = state.turns.clone()
    turns[chosen] += 1
    rate = how.rate(state.round) if how.algorithm == "FedSGD" else 1.0
    stepped = server_step(state, updates, counts, rate, how.server_momentum)
    finite = all(bool(value.isfinite().all()) for value in stepped.weights.values())
    return replace(stepped, round=number, turns=turns, diverged=not finite)


def defended_part(network: Network, updates: Update, batch_norm: bool) -> Update:
    """What of an update goes through a defense.

    Args:
        network: what is trained.
        updates: of V clients.
        batch_norm: whether the entries of BatchNorm do, running statistics included. Other buffers never do.
    """
    normalizing = batch_norm_names(network.model)
    names = set(network.trained) | normalizing if batch_norm else set(network.trained) - normalizing
    return {name: value for name, value in updates.items() if name in names}


def counted(state: State, given: Update, shared: Update) -> State:
    """The state with the canary of one more round, from what the defense was given and what it shared."""
    changed = changed_entries(given, shared)
    return replace(
        state,
        defended=state.defended + len(changed),
        changed=state.changed + int((changed > 0).sum()),
        entries=state.entries + sum(value.numel() for value in given.values()),
        entries_changed=state.entries_changed + int(changed.sum()),
    )


def changed_entries(given: Update, shared: Update) -> Tensor:
    """How many entries of each client's update differ by more than rounding, ``[V]``; NaN does."""
    counts = []
    for name, value in given.items():
        rounding = value.abs().mul_(16 * torch.finfo(value.dtype).eps)
        changed = (shared[name] - value).abs_().le_(rounding).ne_(1)  # numbers: comparing into bool takes longer
        counts.append(changed.reshape(len(value), -1).sum(1, dtype=torch.promote_types(value.dtype, torch.float32)))
    return torch.stack(counts).sum(0)


def server_step(state: State, updates: Update, counts: Tensor, rate: float, momentum: float) -> State:
    """The state with new weights and momentum.

    Trained parameters lose the learning rate times the momentum, as in ``torch.optim.SGD``; running statistics lose the
    mean update, and a variance is at least 0, which noise does not know. A count, as of the batches that BatchNorm has
    seen, is that of the first client, which has most batches.

    Args:
        state: before.
        updates: name -> ``[V, ...]``.
        counts: images of each client, ``[V]``, by which the mean is weighted.
        rate: the server's learning rate.
        momentum: what it keeps of its last step, from 0 up to but not including 1.
    """
    share = counts / counts.sum()
    weights, kept = dict(state.weights), dict(state.momentum)
    for name, update in updates.items():
        mean = torch.tensordot(share.to(update), update, dims=1) if update.is_floating_point() else update[0]
        if name in kept:
            kept[name] = momentum * kept[name] + mean
        weights[name] = weights[name] - (rate * kept[name] if name in kept else mean)
        if name.endswith("running_var"):
            weights[name] = weights[name].clamp(min=0)
    return replace(state, weights=weights, momentum=kept)
