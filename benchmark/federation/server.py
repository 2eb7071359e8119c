"""Federated training in which each client's update goes through a defense before the server averages it.

FedAvg and FedSGD of McMahan et al. 2017 (arXiv 1602.05629). Whatever is drawn, the split, the clients of a round, the
order of their images, Dropout, a defense's noise, comes from the seed, the client and the round alone: every defense
meets the same training, and a training that was stopped goes on as if it had not been.
"""

import math
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from attacks.network.gradients import trained_names
from benchmark.federation.clients import (
    Data,
    Network,
    Weights,
    as_batch,
    batch_norm_names,
    batches_of,
    check_sizes,
    client_updates,
    examine,
    initial_weights,
    logits_of,
)
from benchmark.federation.partition import split
from benchmark.federation.protect import network_of, protected, sent_bytes, steps
from benchmark.federation.recipe import Federation
from benchmark.seeds import generator_for, generators, seed_for
from defenses.base import Clients, Defense, Steps, Update, dense_bytes


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
        defended: clients' rounds in which the defense was given something so far: an update, batch or gradients.
        changed: those in which it changed an entry of that.
        entries: of all that it was given.
        entries_changed: those that it changed by more than rounding.
        bytes_sent: by all clients in all rounds so far.
        client_seconds: that they have worked for, the defense included: on a CPU those of one core, which other
            programs do not lengthen, and by the clock on an accelerator.
        diverged: whether the last update or loss was NaN or infinite: there is no next round.
        home: what each client has of its own in place of the server's, ``[clients, ...]``.
        home_momentum: its last step in each of them.
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
    bytes_sent: int = 0
    client_seconds: float = 0.0
    diverged: bool = False
    home: Weights = field(default_factory=dict)
    home_momentum: Weights = field(default_factory=dict)


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
    model = network_of(defense, model, data.images.shape[1:])
    begin = start(model, federation, seed, defense)
    if state is None:
        state = evaluate(model, data, begin)
        yield state
    network = examine(model, begin.weights, data)  # a run that goes on finds the same
    check_sizes(shares, federation.batch_size, network, type(model).__name__)
    while state.round < federation.rounds and not state.diverged:
        state = next_round(network, data, shares, federation, defense, seed, state)
        due = state.round % federation.evaluate_every == 0 or state.round == federation.rounds
        if due and not state.diverged:
            state = evaluate(model, data, state)
        if state.round == federation.rounds and not state.diverged:
            state = replace(state, validation=of_clients(model, state, *data[-2:]))
        yield state


def start(model: nn.Module, federation: Federation, seed: int, defense: Defense | None = None) -> State:
    """The state before the first round."""
    weights, names = initial_weights(model, generator_for(seed, 0, "network")), trained_names(model)
    momentum = {name: torch.zeros_like(weights[name]) for name in names}
    kept = defense.at_home(names) if defense else frozenset()
    home = {name: weights[name].expand(federation.clients, *weights[name].shape).clone() for name in kept}
    at_rest = {name: torch.zeros_like(value) for name, value in home.items()}
    return State(
        0, weights, momentum, torch.zeros(federation.clients, dtype=torch.int64), home=home, home_momentum=at_rest
    )


def evaluate(model: nn.Module, data: Data, state: State) -> State:
    """The state with accuracy and loss on the test images."""
    accuracy, loss = of_clients(model, state, data.test_images, data.test_labels)
    if not math.isfinite(loss):
        return replace(state, diverged=True)
    return replace(
        state,
        tested=(*state.tested, state.round),
        accuracy=(*state.accuracy, accuracy),
        loss=(*state.loss, loss),
    )


def of_clients(model: nn.Module, state: State, images: Tensor, labels: Tensor) -> tuple[float, float]:
    """What :func:`judged` says of the network, or of those of all clients on average where each has its own."""
    clients = len(state.turns) if state.home else 1
    own = ({name: value[client] for name, value in state.home.items()} for client in range(clients))
    each = [judged(model, state.weights | mine, images, labels) for mine in own]
    accuracies, losses = zip(*each, strict=True)
    return fmean(accuracies), fmean(losses)


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
    clock = time.thread_time if data.images.device.type == "cpu" else time.perf_counter
    began = clock()
    label, canaries = type(defense).__name__, [Canary() for _ in chosen]

    def otherwise(places: Sequence[int]) -> Steps:
        def told(given: Update, returned: Update) -> None:
            count_changes([canaries[place] for place in places], given, returned)

        return steps(defense, seed, [chosen[place] for place in places], f"/{number}", label, told)

    home = {name: value[chosen] for name, value in state.home.items()}
    taken = [batches[client] for client in chosen]
    updates = client_updates(network, state.weights, taken, data, local_rate, forward, otherwise, home)
    state = home_step(state, updates, chosen, how)
    given = defended_part(network, updates, how.protect_batch_norm) if defense else {}
    if defense is not None:
        if given and defense.hooks & {"protect", "on_update"}:
            sources = generators(seed, chosen, f"defense/{number}")
            shared = shared_updates(network, state.weights, defense, given, taken, data, sources)
            count_changes(canaries, given, shared)
            updates |= shared
        state = counted(state, canaries)
    worked = clock() - began
    sent = bytes_of(updates, given.keys(), defense)
    counts = torch.tensor([len(shares[client]) for client in chosen])
    turns = state.turns.clone()
    turns[chosen] += 1
    rate = how.rate(state.round) if how.algorithm == "FedSGD" else 1.0
    stepped = server_step(state, updates, counts, rate, how.server_momentum)
    finite = all(bool(value.isfinite().all()) for value in stepped.weights.values())
    stepped = replace(stepped, bytes_sent=state.bytes_sent + sent, client_seconds=state.client_seconds + worked)
    return replace(stepped, round=number, turns=turns, diverged=not finite)


def bytes_of(updates: Update, defended: Collection[str], defense: Defense | None) -> int:
    """Bytes that V clients send in a round: what a defense says of its part, and every number of the rest.

    Args:
        updates: as they are shared, ``[V, ...]``.
        defended: the names of the defense's part.
        defense: theirs, or None.

    Raises:
        UsageError: ``bytes_sent`` of the defense raises, or is no number for each client.
    """
    part = {name: value for name, value in updates.items() if name in defended}
    rest = {name: value for name, value in updates.items() if name not in defended}
    total = int(dense_bytes(rest).sum()) if rest else 0
    return total + (sent_bytes(defense, part) if defense and part else 0)


def privacy(data: Data, federation: Federation, defense: Defense, seed: int, state: State) -> dict[str, Any] | None:
    """Differential privacy of the images of the client who has least of it; None where there is no guarantee.

    Args:
        data: of the training.
        federation: how it trained.
        defense: what each client did.
        seed: of the training.
        state: after it.

    Returns:
        ``epsilon``, ``delta``, and of that client the share of its images in each step and its steps.
    """
    shares = split(data.labels.cpu(), federation.clients, federation.dirichlet, seed)
    rates = [min(1.0, federation.batch_size / len(share)) for share in shares]
    worst: dict[str, Any] | None = None
    for rate, taken in sorted(set(zip(rates, state.turns.tolist(), strict=True))):
        found = defense.privacy(rate, taken)
        if found is None:
            return None
        if worst is None or found[0] > worst["epsilon"]:
            worst = {"epsilon": found[0], "delta": found[1], "sample_rate": rate, "steps": taken}
    return worst


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


def shared_updates(
    network: Network,
    weights: Weights,
    defense: Defense,
    given: Update,
    batches: Sequence[Sequence[Tensor]],
    data: Data,
    sources: Sequence[torch.Generator],
) -> Update:
    """What V clients share of their updates.

    A defense that looks at the batch as well meets the clients one after another where their batches differ in size.

    Args:
        network: what they train.
        weights: the server's.
        defense: what each client does with its update.
        given: the updates, ``[V, ...]``; they stay as they are.
        batches: of each client.
        data: which the batches are of.
        sources: V generators.
    """
    label, copies = type(defense).__name__, {name: value.clone() for name, value in given.items()}
    if "on_update" not in defense.hooks:
        return protected(defense, copies, sources, label)
    own = [torch.cat(list(of_client)).unique() for of_client in batches]  # all of a client's images, once
    size = len(own) if len({len(one) for one in own}) == 1 else 1
    rows = []
    for first in range(0, len(own), size):
        here, every = slice(first, first + size), torch.cat(own[first : first + size])
        images, labels = as_batch(network.model, data.images[every], data.labels[every], data.num_classes)
        batch = (one.unflatten(0, (size, -1)) for one in (images, labels))
        part = {name: value[here] for name, value in copies.items()}
        rows.append(protected(defense, part, sources[here], label, Clients(network.model, weights, *batch)))
    return {name: torch.cat([row[name] for row in rows]) for name in given}


@dataclass
class Canary:
    """What a defense has changed of what it was given by one client in one round.

    Attributes:
        entries: that it was given, of a batch, a gradient or an update.
        changed: those that it changed by more than rounding.
    """

    entries: int = 0
    changed: int = 0


def count_changes(canaries: Sequence[Canary], given: Update, returned: Update) -> None:
    """Adds what V clients were given and what became of it, both ``[V, ...]``, to the canary of each."""
    entries = sum(value[0].numel() for value in given.values())
    for canary, changed in zip(canaries, changed_entries(given, returned).tolist(), strict=True):
        canary.entries += entries
        canary.changed += int(changed)


def counted(state: State, canaries: Collection[Canary]) -> State:
    """The state with the canaries of one more round, of the clients in which the defense was given anything."""
    given = [canary for canary in canaries if canary.entries]
    return replace(
        state,
        defended=state.defended + len(given),
        changed=state.changed + sum(canary.changed > 0 for canary in given),
        entries=state.entries + sum(canary.entries for canary in given),
        entries_changed=state.entries_changed + sum(canary.changed for canary in given),
    )


def changed_entries(given: Update, shared: Update) -> Tensor:
    """How many entries of each client's update differ by more than rounding, ``[V]``; NaN does."""
    counts = []
    for name, value in given.items():
        rounding = value.abs().mul_(16 * torch.finfo(value.dtype).eps)
        changed = (shared[name] - value).abs_().le_(rounding).ne_(1)  # numbers: comparing into bool takes longer
        counts.append(changed.reshape(len(value), -1).sum(1, dtype=torch.promote_types(value.dtype, torch.float32)))
    return torch.stack(counts).sum(0)


def home_step(state: State, updates: Update, chosen: list[int], how: Federation) -> State:
    """The state in which the chosen clients have trained what they keep at home: as the server would, but each alone.

    Args:
        state: before the round.
        updates: of the chosen clients, ``[V, ...]``.
        chosen: their numbers.
        how: the federation.
    """
    home, steps_made = dict(state.home), dict(state.home_momentum)
    for name in home:
        if how.algorithm == "FedAvg":
            step, rate = updates[name], 1.0
        else:
            step, rate = how.server_momentum * steps_made[name][chosen] + updates[name], how.rate(state.round)
        home[name], steps_made[name] = home[name].clone(), steps_made[name].clone()
        home[name][chosen] -= rate * step
        steps_made[name][chosen] = step
    return replace(state, home=home, home_momentum=steps_made)


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
