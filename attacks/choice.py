"""Which of several reconstructions an attacker takes, who has no private image to compare them with."""

import math

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from attacks.base import Observation, Reconstruction
from attacks.bayes import Bayes
from attacks.gradients import squared_distance
from attacks.wiener import MOST_VALUES, Wiener
from defenses.base import global_norm, unchanged

EQUAL, EXACT = 1e-3, 1e-10
"""Losses that differ by less, in parts of the lower one or of the squared size of the update, tell nothing apart."""

LEFT = 0.1
"""What may be left of an update beside known noise, in parts of what the public mean image leaves."""

FREEDOM = 2.0
"""The same in parts of the noise on as many entries as an image has values: the best fit leaves less than the private
images do by about 1, and a prior costs some."""

CHANCE = 3.0
"""Standard deviations by which the squared size of noise may differ from what is expected."""

VARIANCE = {"gaussian": 2.0, "laplace": 5.0}
"""Of squared noise, in parts of the squared variance of the noise, by its law."""

NOT_TRIED = "not tried"
"""Status of a victim whom an attack of the ensemble was spared."""


def most_probable(observation: Observation, candidates: dict[str, Reconstruction]) -> Reconstruction:
    """Of each victim the candidate that is most probable given its update, and of several the cheapest; where no loss
    tells, the last one.

    Under known noise what explains an update as far as the noise lets it comes first: the most probable images of all
    explain less, as they are smoother than any private ones (the discrepancy principle of Morozov 1966).
    """
    losses = [probable(observation, one) for one in candidates.values()]
    tried = torch.tensor([[status != NOT_TRIED for status in one.status] for one in candidates.values()])
    order = torch.arange(len(losses))[:, None].expand_as(tried)
    last = torch.where(tried, order, -1).amax(0)
    together = torch.stack(losses).cpu().nan_to_num(torch.inf, torch.inf, torch.inf)
    explained = explained_by(observation, list(candidates.values())) & together.isfinite()
    together = together.masked_fill(explained.any(0) & ~explained, torch.inf)
    lowest = together.amin(0)
    equal = lowest * (1 + EQUAL) + EXACT * global_norm(observation.update).square().cpu()
    first = (together <= equal).long().argmax(0)
    chosen = torch.where(lowest.isfinite(), first, last).tolist()
    every, names = list(candidates.values()), list(candidates)

    def picked(name: str) -> Tensor:
        return torch.stack([getattr(every[part], name)[row] for row, part in enumerate(chosen)])

    mixed = [soft_labels(observation, one) for one in every]
    certified: Tensor | None = None
    if any(one.certified is not None for one in every):
        none = torch.zeros(every[0].labels.shape, dtype=torch.bool, device=observation.device)
        of_parts = [none if one.certified is None else one.certified for one in every]
        certified = torch.stack([of_parts[part][row] for row, part in enumerate(chosen)])
    return Reconstruction(
        images=picked("images"),
        labels=picked("labels"),
        loss=together[chosen, torch.arange(len(chosen))],
        evaluations=torch.stack([one.evaluations for one in every]).sum(0),
        status=[every[part].status[row] for row, part in enumerate(chosen)],
        starts=[names[part] for part in chosen],
        label_probabilities=None if None in mixed else torch.stack([mixed[p][row] for row, p in enumerate(chosen)]),
        certified=certified,
        candidates=candidates,
    )


def probable(observation: Observation, found: Reconstruction) -> Tensor:
    """Minus the logarithm of the probability of what was found, up to a constant of each victim, ``[V]``; infinite for
    one who was not tried, who diverged, or whose loss cannot be told."""
    out = torch.tensor([status in (NOT_TRIED, "diverged") for status in found.status])
    images = found.images.clamp(0, 1).nan_to_num(0.5)
    mixed = soft_labels(observation, found)
    losses = criterion_of(observation).loss_at(observation, images, found.labels if mixed is None else mixed)
    return torch.full(out.shape, torch.inf) if losses is None else losses.cpu().masked_fill(out, torch.inf)


def explained_by(observation: Observation, every: list[Reconstruction]) -> Tensor:
    """Whether each of P reconstructions explains the update of each of V victims but for known noise, ``[P, V]``.

    That is: what it leaves is what the noise can be, and little beside it, of what the public mean image leaves and of
    the noise. True where no noise is known, or not what clients compute.
    """
    rounds, victims = (observation, *observation.later), observation.num_victims
    noise, variance, freedom = torch.zeros(3, victims, dtype=torch.double)
    for seen in rounds:
        entries = seen.noisy_entries.cpu().double()
        std = seen.defense.noise(seen.update) if seen.defense else 0.0
        squared = torch.as_tensor(std).cpu().double() ** 2
        of_squared = VARIANCE[seen.defense.noise_law if seen.defense else "gaussian"] * squared**2
        noise, variance = noise + entries * squared, variance + entries * of_squared
        freedom = freedom + FREEDOM * observation.mean_image.numel() * squared
    if not noise.any() or not observation.order_tells:
        return torch.ones(len(every), victims, dtype=torch.bool)

    def off(images: Tensor, labels: Tensor) -> Tensor:
        each = []
        for one in rounds:
            simulate = one.defense.simulate if one.defense else unchanged
            each.append(squared_distance(simulate(one.update_of(images, labels), one.update), one.update))
        return torch.stack(each).sum(0).cpu().double().nan_to_num(torch.inf)

    mean_images = observation.mean_image.expand(victims, *observation.image_shape)
    left, of_mean = [], []
    for found in every:
        soft = soft_labels(observation, found)
        labels = one_hot(found.labels, observation.num_classes).to(mean_images) if soft is None else soft
        left.append(off(found.images.clamp(0, 1).nan_to_num(0.5), labels))
        of_mean.append(off(mean_images, labels))
    beside = freedom.minimum(LEFT * (torch.stack(of_mean).amin(0) - noise).clamp(min=0))
    return (torch.stack(left) <= noise + CHANCE * variance.sqrt() + beside) | (noise == 0)


def criterion_of(observation: Observation) -> Bayes:
    """Whose loss tells what is most probable: a normal prior does not prefer flat images to private ones."""
    if observation.covariance is not None and math.prod(observation.image_shape[1:]) <= MOST_VALUES:
        return Wiener()
    return Bayes()


def soft_labels(observation: Observation, found: Reconstruction) -> Tensor | None:
    """The labels that were found where they may be mixed, ``[V, N, K]``; None where they are known not to be.

    Of an unknown defense that shortens the update, say, mixed labels make up for what hard ones cannot: images that
    were found with them explain little with hard ones.
    """
    if observation.defense is not None and not observation.defense.soft_labels:
        return None
    if found.label_probabilities is not None:
        return found.label_probabilities
    return one_hot(found.labels, observation.num_classes).to(observation.mean_image)
