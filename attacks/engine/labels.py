"""What the update of one image says about its label."""

import torch
from torch import Tensor

from attacks.base import Observation
from attacks.gradients import trained_names
from attacks.update import Network, Protocol, local_update
from defenses.base import Update, flattened, global_norm, unchanged

TRIALS = 8
"""Images of the attacker's own, for each of which the rows of a gradient must tell the label."""

AT_ONCE = TRIALS
"""Gradients that are computed together: with many classes one is large."""


def best_labels(observation: Observation) -> Tensor:
    """Labels ``[V, N]`` of the private batches where the attacker is granted them, else one for all by iDLG's rule."""
    if observation.labels is not None:
        return observation.labels
    return idlg_labels(observation)[:, None].expand(-1, observation.image_shape[0])


def idlg_labels(observation: Observation) -> Tensor:
    """Labels ``[V]`` by the sign rule of iDLG (Zhao et al. 2020, arXiv 2001.02610, section 3).

    Row i of the last layer's gradient is (softmax_i - 1[i = label]) times the layer's input. Where that input is not
    negative (after a sigmoid or a ReLU), the label's row is the only one with a negative sum; the gradient of the bias,
    which has no input, tells it in any case. Under noise the sum over a row is a good test too: a layer's inputs are of
    similar size, and the first singular vector of the gradient, which needs no such assumption, was no better.

    Which parameter tells the label is tried on each victim's own network, with gradients of the attacker's own making,
    through the defense where it is known: the last weight that is always right, as published; else a bias that is; else
    what is right most often. Where nothing is right in more than half of the trials, it is the label whose gradient at
    the public mean image points most nearly as the update does.
    """
    victims = range(observation.num_victims)
    once = observation.shared and (observation.defense is None or observation.defense.simulate is unchanged)
    alike = _right(observation.take([0])) if once else None  # a trial depends on the network alone
    telling = [_telling(observation.take([victim]), alike) for victim in victims]
    labels = torch.zeros(len(victims), dtype=torch.long, device=observation.device)
    for victim, name in enumerate(telling):
        if name is not None:
            labels[victim] = lowest_row(observation.update[name][victim : victim + 1])[0]
    without = [victim for victim in victims if telling[victim] is None]
    for first in range(0, len(without), AT_ONCE):
        rows = without[first : first + AT_ONCE]
        labels[rows] = likeliest_labels(observation.take(rows))
    return labels


def _candidates(alone: Observation) -> list[str]:
    """The parameters that have a row for each class."""
    return [n for n in trained_names(alone.model) if alone.update[n].shape[1:2] == (alone.num_classes,)]


def _telling(alone: Observation, right: dict[str, int] | None) -> str | None:
    """The parameter that tells the label of one victim; None where none does.

    Args:
        alone: what the attacker has of the victim.
        right: in how many trials each parameter is, None where that is still to be tried.
    """
    update = alone.update
    usable = [name for name in _candidates(alone) if bool(update[name].any())]
    if not usable:
        return None
    right = right or _right(alone)
    sure = [name for name in usable if right[name] == TRIALS]
    if sure:
        weights = [name for name in sure if update[name].dim() > 2]
        return (weights or sure)[-1]
    best = max(usable, key=right.__getitem__)
    return best if right[best] > TRIALS / 2 else None


def _right(alone: Observation) -> dict[str, int]:
    """In how many trials each parameter with a row for each class tells the label."""
    classes = alone.num_classes
    generator = torch.Generator().manual_seed(1)
    noise = torch.rand(TRIALS, *alone.image_shape[1:], generator=generator).to(alone.mean_image)
    share = torch.linspace(0, 1, TRIALS).to(noise).view(-1, 1, 1, 1)  # from the public mean image to noise
    labels = torch.arange(TRIALS, device=noise.device) % classes
    gradient = as_shared_of(alone.take([0] * TRIALS), (1 - share) * alone.mean_image + share * noise, labels)
    return {name: int((lowest_row(gradient[name]) == labels).sum()) for name in _candidates(alone)}


def as_shared_of(observation: Observation, images: Tensor, labels: Tensor) -> Update:
    """What each victim would share, as far as the attacker knows, had it one of these ``[V, C, H, W]``, ``[V]``.

    BatchNorm takes its running statistics: with one image there may be nothing else to normalize by.
    """
    one_hot = torch.nn.functional.one_hot(labels, observation.num_classes).to(images).unsqueeze(1)
    network, protocol = Network(observation.model, observation.parameters), Protocol(observation.protocol.local)
    gradient = local_update(network, protocol, images.unsqueeze(1), one_hot, create_graph=False)
    simulate = observation.defense.simulate if observation.defense else unchanged
    return simulate(gradient, observation.update)


def likeliest_labels(observation: Observation) -> Tensor:
    """Labels ``[V]`` whose gradient at the public mean image has the greatest cosine with the update."""
    cosines = []
    images = observation.mean_image.expand(observation.num_victims, *observation.mean_image.shape)
    for label in range(observation.num_classes):
        labels = torch.full((observation.num_victims,), label, device=images.device)
        gradient = as_shared_of(observation, images, labels)
        product = torch.stack([flattened(g * observation.update[n]).sum(1) for n, g in gradient.items()]).sum(0)
        size = global_norm(gradient)
        cosines.append(product / size.clamp(min=torch.finfo(size.dtype).tiny))
    return torch.stack(cosines).argmax(0)


def lowest_row(gradient: Tensor) -> Tensor:
    """The row ``[V]`` of a gradient ``[V, K, ...]`` that has the lowest sum."""
    return gradient.flatten(2).sum(-1).argmin(-1) if gradient.dim() > 2 else gradient.argmin(-1)
