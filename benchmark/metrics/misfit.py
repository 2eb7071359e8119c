"""How far the update of an attack's images is from the one that was shared; measured after the attack."""

from typing import NamedTuple

import torch
from torch import Tensor

from attacks import Observation, Reconstruction
from attacks.gradients import squared_distance
from defenses.base import unchanged

EXPLAINED = 0.01
"""Misfit of the private batch up to which an attacker's model explains the update, beside noise: with right models of a
score of defenses it was 1e-5 at most, which is rounding to 16 bits, and with wrong ones about 1."""

NOISE = 1.5
"""Squared noise that an update may have, in parts of what is expected."""

AT_ONCE = 8
"""Victims that are measured together: a gradient can be large."""


class Misfits(NamedTuple):
    """Squared distances to the shared update, in parts of that of the public mean image with the true labels, ``[V]``.

    Attributes:
        found: of what the attack returned.
        true: of the private batch: 0 where the attacker's model of the defense is exact.
        explained: bool, whether the private batch fits, as well as the noise lets it that the attacker knows of; if
            not, the attacker has the wrong model of the defense, or none.
    """

    found: Tensor
    true: Tensor
    explained: Tensor


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
        of_truth = distances(seen, images_here, truth)
        explained = ~(of_truth > EXPLAINED * mean + NOISE * expected_noise(seen))  # not where one is NaN
        parts.append((in_parts(torch.minimum(*tries), mean), in_parts(of_truth, mean), explained))
    return Misfits(*(torch.cat(each) for each in zip(*parts, strict=True)))


def in_parts(distance: Tensor, mean: Tensor) -> Tensor:
    """0 where there is no distance, also where nothing was shared of which the mean image could be off, ``[V]``."""
    return torch.where(distance == 0, distance, distance / mean)


def expected_noise(seen: Observation) -> float:
    """The squared norm of the noise on an update that the attacker knows of."""
    entries = sum(value[0].numel() for value in seen.update.values())
    return entries * seen.defense.noise_std**2 if seen.defense else 0.0


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
    return squared_distance(simulate(seen.update_of(images, labels), seen.update), seen.update)
