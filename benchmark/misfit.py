"""How far the update of an attack's images is from the one that was shared; measured after the attack."""

from typing import NamedTuple

import torch
from torch import Tensor

from attacks import Observation, Reconstruction
from attacks.gradients import batch_gradients, squared_distance
from defenses.base import unchanged

AT_ONCE = 8
"""Victims that are measured together: a gradient can be large."""


class Misfits(NamedTuple):
    """Squared distances to the shared update, in parts of that of the public mean image with the true labels, ``[V]``.

    Attributes:
        found: of what the attack returned.
        true: of the private batch: 0 where the attacker's model of the defense is exact.
    """

    found: Tensor
    true: Tensor


def misfits(observation: Observation, found: Reconstruction, images: Tensor, labels: Tensor) -> Misfits:
    """What an attacker with this knowledge of the defense holds against each batch.

    Args:
        observation: what the attacker had of V victims.
        found: what the attack returned for them.
        images: private batches ``[V, N, C, H, W]``.
        labels: their labels ``[V, N]``.
    """
    parts = []
    for first in range(0, observation.num_victims, AT_ONCE):
        rows = slice(first, first + AT_ONCE)
        seen = observation.take(range(observation.num_victims)[rows])
        images_here = images[rows].to(seen.mean_image)
        truth = one_hot(labels[rows].to(seen.device), seen)
        share = found.take(rows)
        soft = share.label_probabilities
        as_found = one_hot(share.labels.to(seen.device), seen) if soft is None else soft.to(images_here)
        mean = distances(seen, seen.mean_image.expand_as(images_here), truth)
        # Also with the true labels: an attack of images alone may return any.
        tries = [distances(seen, share.images.to(images_here), each) for each in (as_found, truth)]
        parts.append((torch.minimum(*tries) / mean, distances(seen, images_here, truth) / mean))
    of_found, of_truth = (torch.cat(each) for each in zip(*parts, strict=True))
    return Misfits(of_found, of_truth)


def one_hot(labels: Tensor, seen: Observation) -> Tensor:
    """``[V, N, K]`` of labels ``[V, N]``; an attack may return any number."""
    return torch.nn.functional.one_hot(labels.clamp(0, seen.num_classes - 1), seen.num_classes).to(seen.mean_image)


def distances(seen: Observation, images: Tensor, labels: Tensor) -> Tensor:
    """Squared distances ``[V]`` of what the clients would have shared of images ``[V, N, C, H, W]``.

    Args:
        seen: what the attacker had of them.
        images: batches in place of the private ones.
        labels: class probabilities ``[V, N, K]``.
    """
    simulate = seen.defense.simulate if seen.defense else unchanged
    gradient = batch_gradients(seen.model, seen.parameters, images, labels, create_graph=False)
    return squared_distance(simulate(gradient, seen.update), seen.update)
