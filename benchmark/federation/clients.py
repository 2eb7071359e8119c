"""What a client of a federated training does: its batches, their gradients, its local steps."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.rnn import pad_sequence

from attacks.network.gradients import call, trained_names
from attacks.update import example_gradients
from benchmark.errors import UsageError
from benchmark.federation.recipe import Federation
from benchmark.models.draw import drawing_from, drawn_weights
from benchmark.seeds import generator_for
from defenses.base import AS_USUAL, Steps, Update

Weights = dict[str, Tensor]
"""Name -> values of a network: its parameters, frozen ones too, then its buffers."""

FEW_IMAGES = 16
"""Up to so many images in a batch, all clients in one batched step are faster on a CPU than one after another."""

Otherwise = Callable[[Sequence[int]], Steps]
"""From the places of some clients to what these do otherwise in their steps, in which they are taken together."""


class Data(NamedTuple):
    """What is trained on, chosen by, and tested on.

    Attributes:
        images: of all clients together, ``[M, C, H, W]``, bytes or float32 in [0, 1].
        labels: ``[M]``.
        test_images: ``[T, C, H, W]``, as the images.
        test_labels: ``[T]``.
        num_classes: K.
        validation_images: ``[A, C, H, W]``, of no client and not of the test.
        validation_labels: ``[A]``.
    """

    images: Tensor
    labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    num_classes: int
    validation_images: Tensor
    validation_labels: Tensor


@dataclass(frozen=True)
class Network:
    """A model as clients train it.

    Attributes:
        model: the architecture; its own values are not used.
        trained: names of the parameters that are trained and shared; frozen ones are neither.
        batched: whether many clients in one batched step were shown to give what one after another gives, with
            batches of one size.
        padded: whether they were with batches of different sizes, too.
        smallest_batch: images of the smallest batch that it can be trained on: 2 where it refuses one alone, as
            BatchNorm after a linear layer does.
        refusal: what it says of a batch of one image, then.
    """

    model: nn.Module
    trained: tuple[str, ...]
    batched: bool = False
    padded: bool = False
    smallest_batch: int = 1
    refusal: str = ""


def initial_weights(model: nn.Module, generator: torch.Generator) -> Weights:
    """What a network starts with: what it draws, and of the rest what its constructor made.

    Args:
        model: the architecture, with a method ``draw``.
        generator: of the draw.

    Raises:
        UsageError: what the model draws are not its own weights.
    """
    drawn = drawn_weights(model, generator)  # type: ignore[arg-type] # any module with a method draw will do
    made = dict(model.named_parameters()) | dict(model.named_buffers())
    return {name: drawn.get(name, value).to(value).detach().clone() for name, value in made.items()}


def examine(model: nn.Module, weights: Weights, data: Data) -> Network:
    """Tries out how the model's clients can be trained.

    Args:
        model: the architecture, on the device of the computation.
        weights: to try it with.
        data: of which a few images are used.
    """
    network = Network(model, tuple(trained_names(model)))
    few = torch.arange(5) % len(data.labels)
    try:
        one_after_another(network, weights, expanded(network, weights, 1), [few[:1]], data, [0])
    except Exception as error:  # whatever makes it refuse one image; what it makes of more is seen below or in training
        network = replace(network, smallest_batch=2, refusal=" ".join(str(error).split())[:120])
    network = replace(network, batched=is_batched(network, weights, [few[:2], few[2:4]], data))
    return replace(network, padded=network.batched and is_batched(network, weights, [few[:3], few[3:]], data))


def is_batched(network: Network, weights: Weights, pair: Sequence[Tensor], data: Data) -> bool:
    """Whether one batched step gives what two clients give one after another, and moves no buffer."""
    looped, batched = (expanded(network, weights, 2) for _ in range(2))
    try:
        slopes = one_after_another(network, weights, looped, pair, data, [0, 1])
        moved = any(not torch.equal(looped[name], batched[name]) for name in looped if name not in network.trained)
        return not moved and close(all_at_once(network, weights, batched, pair, data), slopes)
    except Exception:  # what cannot be batched is done one after another
        return False


def close(first: Update, second: Update, tolerance: float = 1e-3) -> bool:
    """Whether two updates are equal but for rounding: each tensor relative to its largest entry."""
    return all(
        torch.allclose(value, second[name], rtol=tolerance, atol=1e-2 * tolerance * float(second[name].abs().max()))
        for name, value in first.items()
        if value.numel()
    )


def batches_of(share: Tensor, turn: int, how: Federation, smallest: int, seed: int, client: int) -> list[Tensor]:
    """The images of each batch of a client in its next round.

    FedSGD takes the next batch of the endless row of the client's shuffled epochs, FedAvg the next epochs, without a
    last batch that is smaller than the smallest one that the network can be trained on.

    Args:
        share: the client's images, ``[n]``.
        turn: rounds in which the client took part before.
        how: the federation of the client.
        smallest: images of the smallest batch.
        seed: of the order.
        client: its number.
    """

    def order(epoch: int) -> Tensor:
        return torch.randperm(len(share), generator=generator_for(seed, client, f"order/{epoch}"))

    size = min(how.batch_size, len(share))
    if how.algorithm == "FedAvg":
        epochs = range(turn * how.local_epochs, (turn + 1) * how.local_epochs)
        batches = [share[batch] for epoch in epochs for batch in order(epoch).split(size)]
        return [batch for batch in batches if len(batch) >= smallest]
    epoch, begin = divmod(turn * size, len(share))
    row = order(epoch) if begin + size <= len(share) else torch.cat([order(epoch), order(epoch + 1)])
    return [share[row[begin : begin + size]]]


def client_updates(
    network: Network,
    weights: Weights,
    batches: Sequence[Sequence[Tensor]],
    data: Data,
    local_rate: float | None,
    seeds: Sequence[int],
    otherwise: Otherwise = lambda places: AS_USUAL,
    home: Weights | None = None,
) -> Update:
    """What V clients would share but for what a defense does to the update, name -> ``[V, ...]``.

    For a trained parameter that is the gradient of the one batch, or what local steps have changed: the value at the
    start minus that at the end. So it is for a buffer, which is shared where it is a running statistic.

    Args:
        network: what they train.
        weights: the server's.
        batches: of each client, those with most batches first.
        data: which the batches are of.
        local_rate: learning rate of local steps; None where the gradient is shared.
        seeds: of each client's randomness, such as Dropout's, in this round.
        otherwise: what clients do otherwise in their steps. All of them are asked for together where their batches
            are of one size.
        home: what each has of its own, ``[V, ...]``, in place of the server's.
    """
    alike = len({tuple(map(len, own)) for own in batches}) == 1
    at_once = (network.padded or (network.batched and alike)) and max(len(b) for o in batches for b in o) <= FEW_IMAGES
    together = at_once and alike
    everyone = range(len(batches))
    how = [otherwise(places) for places in ([everyone] if together else [[place] for place in everyone])]
    at_once = together or (at_once and all(one == AS_USUAL for one in how))
    begin = weights | (home or {})
    local = expanded(network, weights, len(batches)) | {n: value.clone() for n, value in (home or {}).items()}
    for step in range(len(batches[0])):
        now = [of_client[step] for of_client in batches if len(of_client) > step]
        front = {name: value[: len(now)] for name, value in local.items()}  # views
        if at_once:
            slopes = all_at_once(network, weights, front, now, data, how[0])
        else:
            here = [seed + step for seed in seeds]
            slopes = one_after_another(network, weights, front, now, data, here, how)
        if local_rate is None:
            return slopes | {n: begin[n] - value for n, value in local.items() if n not in slopes}
        for name, slope in slopes.items():
            front[name].sub_(slope, alpha=local_rate)
    return {name: begin[name] - value for name, value in local.items()}


def expanded(network: Network, weights: Weights, clients: int) -> Weights:
    """Copies for each client of what training changes: trained parameters and buffers, ``[V, ...]``."""
    names = [*network.trained, *(n for n, b in network.model.named_buffers() if b.dtype != torch.bool)]
    return {name: weights[name].expand(clients, *weights[name].shape).clone() for name in names}


def all_at_once(
    network: Network,
    weights: Weights,
    local: Weights,
    batches: Sequence[Tensor],
    data: Data,
    how: Steps = AS_USUAL,
) -> Update:
    """:func:`one_after_another` in one batched step, for a network that was shown to allow it.

    Args:
        network: what they train.
        weights: the server's.
        local: each client's own, ``[V, ...]``.
        batches: images of each client; of one size where clients do anything otherwise.
        data: which the batches are of.
        how: what all of them do otherwise.
    """
    network.model.train()
    index = pad_sequence(list(batches), batch_first=True)
    images, targets = as_batch(network.model, data.images[index], data.labels[index], data.num_classes)
    leaves = {name: local[name].detach().requires_grad_() for name in network.trained}
    own = leaves | (how.forward(network.model, index.shape[1]) if how.forward else {})
    if how.batch:
        images, targets = how.batch(images, targets)
    rest = {name: value for name, value in weights.items() if name not in own}
    if how.gradients:
        return how.gradients(example_gradients(network.model, rest | own, images, targets))
    sizes = torch.tensor([len(batch) for batch in batches])[:, None]
    # A row of padding weighs nothing, and the others make up for it in the mean.
    weigh = ((torch.arange(index.shape[1]) < sizes) * (index.shape[1] / sizes)).to(targets.device)
    logits = vmap(lambda mine, batch: logits_of(network.model, rest | mine, batch))(own, images)
    losses = -(targets * weigh[..., None] * logits.log_softmax(-1)).sum(-1).mean(1)
    slopes = torch.autograd.grad(losses.sum(), list(leaves.values()), materialize_grads=True)
    return dict(zip(leaves, slopes, strict=True))


def one_after_another(
    network: Network,
    weights: Weights,
    local: Weights,
    batches: Sequence[Tensor],
    data: Data,
    seeds: Sequence[int],
    otherwise: Sequence[Steps] = (),
) -> Update:
    """Gradient of the mean cross entropy of each client's batch in train mode, name -> ``[V, ...]``.

    A parameter that the loss does not depend on has a gradient of zeros. Buffers in ``local`` move, in place, as the
    model moves them in training.

    Args:
        network: what they train.
        weights: the server's.
        local: each client's own, ``[V, ...]``.
        batches: images of each client.
        data: which the batches are of.
        seeds: of each client's randomness.
        otherwise: what each of them does otherwise; empty where all do as usual.
    """
    network.model.train()
    each = []
    for number, (batch, seed) in enumerate(zip(batches, seeds, strict=False)):  # of clients that still train
        own = {name: value[number].detach() for name, value in local.items()}
        images, targets, how = data.images[batch], data.labels[batch], otherwise[number] if otherwise else AS_USUAL
        if how != AS_USUAL:
            images, targets = as_batch(network.model, images, targets, data.num_classes)
        if how.forward:
            own |= {name: value[0] for name, value in how.forward(network.model, len(images)).items()}
        if how.batch:
            images, targets = (one[0] for one in how.batch(images[None], targets[None]))
        with drawing_from(seed, data.images.device):
            if how.gradients:
                found = example_gradients(network.model, weights | own, images[None], targets[None])
                slopes = how.gradients(found)
                each.append(tuple(slopes[name][0] for name in network.trained))
                continue
            leaves = [own[name].requires_grad_() for name in network.trained]
            loss = nn.functional.cross_entropy(logits_of(network.model, weights | own, images), targets)
            each.append(torch.autograd.grad(loss, leaves, materialize_grads=True))
    return {name: torch.stack(one) for name, one in zip(network.trained, zip(*each, strict=True), strict=True)}


def logits_of(model: nn.Module, weights: Weights, images: Tensor) -> Tensor:
    """What the model says of images with these weights in place of its own.

    Args:
        model: the architecture.
        weights: name -> values; of a tensor with several names the one that ``named_parameters`` gives.
        images: ``[N, C, H, W]``, bytes or floats in [0, 1].
    """
    logits: Tensor = call(model, weights, as_floats(images, next(model.parameters()).dtype))
    return logits


def as_batch(model: nn.Module, images: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Images ``[N, C, H, W]`` in [0, 1] and class probabilities ``[N, K]``, of the network's type."""
    floats = as_floats(images, next(model.parameters()).dtype)
    return floats, nn.functional.one_hot(labels, num_classes).to(floats)


def as_floats(images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Images in [0, 1]."""
    return images.to(dtype) / 255 if images.dtype == torch.uint8 else images.to(dtype)


def batch_norm_names(model: nn.Module) -> set[str]:
    """The names of the scales, shifts and running statistics of BatchNorm layers."""
    return {
        f"{name}.{kind}" if name else kind
        for name, layer in model.named_modules()
        if isinstance(layer, _BatchNorm)
        for kind in ("weight", "bias", "running_mean", "running_var")
    }


def check_sizes(shares: Sequence[Tensor], batch_size: int, network: Network, name: str) -> None:
    """Looks whether each client's batches are large enough for the network.

    Args:
        shares: images of each client.
        batch_size: images of a batch.
        network: what is trained.
        name: of the model, for people.

    Raises:
        UsageError: they are not.
    """
    smallest = network.smallest_batch
    why = f"{name} cannot be trained on a batch of one image ({network.refusal})"
    if batch_size < smallest:
        raise UsageError(f"batch_size is {batch_size}, but {why}: give {smallest} or more")
    if short := [client for client, share in enumerate(shares) if len(share) < smallest]:
        cure = "give fewer clients, a larger dirichlet or more train_images"
        raise UsageError(f"client {short[0]} has one image, and {why}: {cure}")
