"""What the update of one image says about its label."""

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from attacks.base import Observation
from attacks.engine.distances import cosine_distance
from attacks.engine.rounds import pooled
from attacks.network.gradients import trained_names
from attacks.update import Protocol
from defenses.base import Update, unchanged

TRIALS = 8
"""Images of the attacker's own, for each of which the rows of a gradient must tell the label."""

TRIED_TOGETHER = {"cpu": 1, "cuda": 32}
"""Victims whose trials are made together: a GPU would wait for Python, and on a CPU they only take memory."""

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
    the public mean image points most nearly as the update does. Of several rounds it is their :func:`pooled` update.
    """
    observation, victims = pooled(observation), range(observation.num_victims)
    alike = observation.shared and (observation.defense is None or not observation.defense.is_simulated)
    right = _right(observation.take([0] if alike else victims))  # a trial depends on the network alone
    labels = torch.zeros(len(victims), dtype=torch.long, device=observation.device)
    without: list[int] = []
    usable = {name: observation.update[name].flatten(1).any(1).tolist() for name in right}
    for victim in victims:
        trials = {name: counts[0 if alike else victim] for name, counts in right.items() if usable[name][victim]}
        if (telling := _telling(observation, trials)) is None:
            without.append(victim)
        else:
            labels[victim] = lowest_row(observation.update[telling][victim : victim + 1])[0]
    for first in range(0, len(without), AT_ONCE):
        rows = without[first : first + AT_ONCE]
        labels[rows] = likeliest_labels(observation.take(rows))
    return labels


def _telling(observation: Observation, right: dict[str, int]) -> str | None:
    """The parameter that tells the label of a victim; None where none does.

    Args:
        observation: for the parameters' shapes.
        right: in how many trials each of them is.
    """
    sure = [name for name, trials in right.items() if trials == TRIALS]
    if sure:
        weights = [name for name in sure if observation.update[name].dim() > 2]
        return (weights or sure)[-1]
    best = max(right, key=right.__getitem__, default=None)
    return best if best is not None and right[best] > TRIALS / 2 else None


def _right(observation: Observation) -> dict[str, list[int]]:
    """In how many trials each parameter with a row for each class tells the label, for each of V victims."""
    classes = observation.num_classes
    generator = torch.Generator().manual_seed(1)
    noise = torch.rand(TRIALS, *observation.image_shape[1:], generator=generator).to(observation.mean_image)
    share = torch.linspace(0, 1, TRIALS).to(noise).view(-1, 1, 1, 1)  # from the public mean image to noise
    images = (1 - share) * observation.mean_image + share * noise
    labels = torch.arange(TRIALS, device=noise.device) % classes
    names = [n for n in trained_names(observation.model) if observation.update[n].shape[1:2] == (classes,)]
    counts: dict[str, list[int]] = {name: [] for name in names}
    some = TRIED_TOGETHER[observation.device.type]
    for first in range(0, observation.num_victims, some):
        rows = [row for row in range(observation.num_victims)[first : first + some] for _ in range(TRIALS)]
        of_some = len(rows) // TRIALS
        tried = observation.take(rows)
        gradient = as_shared_of(tried, images.repeat(of_some, 1, 1, 1), labels.repeat(of_some))
        for name in names:
            is_right = lowest_row(gradient[name]) == labels.repeat(of_some)
            counts[name] += is_right.view(of_some, TRIALS).sum(1).tolist()
    return counts


def as_shared_of(observation: Observation, images: Tensor, labels: Tensor) -> Update:
    """What each victim would share of one image ``[V, C, H, W]`` with labels ``[V]``, as far as it can be simulated.

    BatchNorm takes its running statistics: there may be nothing else to normalize by.
    """
    probabilities = one_hot(labels, observation.num_classes).to(images)
    alone = replace(observation, protocol=Protocol(observation.protocol.local), order=None)
    gradient = alone.update_of(images[:, None], probabilities[:, None])
    simulate = observation.defense.simulate if observation.defense else unchanged
    return simulate(gradient, observation.update)


def likeliest_labels(observation: Observation) -> Tensor:
    """Labels ``[V]`` whose gradient at the public mean image points most nearly as the update does."""
    images = observation.mean_image.expand(observation.num_victims, *observation.mean_image.shape)
    labels = torch.arange(observation.num_classes, device=images.device)[:, None].expand(-1, len(images))
    shared = (as_shared_of(observation, images, of_all) for of_all in labels)
    return torch.stack([cosine_distance(update, observation.update) for update in shared]).nan_to_num(3).argmin(0)


def lowest_row(gradient: Tensor) -> Tensor:
    """The row ``[V]`` of a gradient ``[V, K, ...]`` that has the lowest sum."""
    return gradient.flatten(2).sum(-1).argmin(-1) if gradient.dim() > 2 else gradient.argmin(-1)
