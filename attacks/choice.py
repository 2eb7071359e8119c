"""Which of several reconstructions an attacker takes, who has no private image to compare them with."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from attacks.base import Observation, Reconstruction
from attacks.bayes import PublicImages
from attacks.engine.contrast import FILLED
from attacks.engine.distances import DISTANCES
from attacks.wiener import MOST_VALUES, NormalImages
from defenses.base import Update, flattened, global_norm

EQUAL = 1e-3
"""Losses that differ by less, in parts of the lower one, tell nothing apart."""

MISSED = 0.01
"""What a descent may leave of an update, in parts of what the public mean image leaves, for no other reason than that
it has ended: it is taken for noise with as many degrees of freedom as a batch has values. Many images fit what a mask
has left nearly exactly, and how exactly each does says nothing of it."""

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
    tells, the last one. Of images that explain it as well with another contrast those that have it.

    Under known noise what explains an update as far as the noise lets it comes first: the most probable images of all
    explain less, as they are smoother than any private ones (the discrepancy principle of Morozov 1966).
    """
    as_found = [candidates[name.removesuffix(FILLED)].images for name in candidates]
    losses = [probable(observation, *each) for each in zip(candidates.values(), as_found, strict=True)]
    tried = torch.tensor([[status != NOT_TRIED for status in one.status] for one in candidates.values()])
    order = torch.arange(len(losses))[:, None].expand_as(tried)
    last = torch.where(tried, order, -1).amax(0)
    together = torch.stack(losses).cpu().nan_to_num(torch.inf, torch.inf, torch.inf)
    explained = explained_by(observation, list(candidates.values())) & together.isfinite()
    together = together.masked_fill(explained.any(0) & ~explained, torch.inf)
    lowest = together.amin(0)
    equal = lowest * (1 + EQUAL)
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


def probable(observation: Observation, found: Reconstruction, as_found: Tensor) -> Tensor:
    """:func:`minus_log_posterior` of what was found, ``[V]``; infinite for a victim who was not tried, to whom the
    attack diverged, or of whom it cannot be told.

    Args:
        observation: what is known of V victims.
        found: of them.
        as_found: the images before a contrast was given them that the network may not see, ``[V, N, C, H, W]``. A prior
            would always have less of it, and so is asked of these.
    """
    out = torch.tensor([status in (NOT_TRIED, "diverged") for status in found.status])
    losses = minus_log_posterior(observation, *as_explanation(observation, found), as_found)
    return torch.full(out.shape, torch.inf) if losses is None else losses.masked_fill(out, torch.inf)


def minus_log_posterior(
    observation: Observation, images: Tensor, labels: Tensor, as_found: Tensor | None = None
) -> Tensor | None:
    """Minus the logarithm of the probability of images given the updates, up to a constant of each victim, ``[V]``.

    The prior is that of :class:`Wiener`, which does not prefer flat images to private ones, or of :class:`Bayes` where
    images are too large for that. Each entry has the known noise, or what a descent may leave where that is more.

    Args:
        observation: what is known of V victims.
        images: ``[V, N, C, H, W]``.
        labels: class probabilities ``[V, N, K]``.
        as_found: the images that the prior is asked of, if they are others.

    Returns:
        On the CPU; None where the attacker does not know what clients compute.
    """
    if not observation.order_tells:
        return None
    is_small = observation.covariance is not None and math.prod(observation.image_shape[1:]) <= MOST_VALUES
    prior = NormalImages.of(observation, 1.0) if is_small else PublicImages.of(observation)
    misfit = torch.zeros(observation.num_victims, dtype=torch.double)
    for seen in (observation, *observation.later):
        noise, of_mean = noise_of(seen), left_of([seen], means_of(seen), labels)[0]
        beside_noise = (of_mean - seen.noisy_entries.cpu() * noise.square()).clamp(min=0)
        variance = noise.square().maximum(MISSED * beside_noise / math.prod(seen.image_shape))
        variance = variance.clamp(min=torch.finfo(variance.dtype).tiny)
        if seen.defense and seen.defense.noise_law == "laplace":
            misfit += left_of([seen], images, labels, "absolute")[0] / (variance / 2).sqrt()
        else:
            misfit += left_of([seen], images, labels)[0] / (2 * variance)
    return misfit + prior(in_range(images if as_found is None else as_found)).cpu()


def explained_by(observation: Observation, every: list[Reconstruction]) -> Tensor:
    """Whether each of P reconstructions explains the update of each of V victims but for known noise, ``[P, V]``.

    That is: what it leaves is what the noise can be, and little beside it, of what the public mean image leaves and of
    the noise. True where no noise is known, or not what clients compute.
    """
    rounds, victims = (observation, *observation.later), observation.num_victims
    noise, variance, freedom = torch.zeros(3, victims, dtype=torch.double)
    for seen in rounds:
        entries, squared = seen.noisy_entries.cpu().double(), noise_of(seen).square()
        of_squared = VARIANCE[seen.defense.noise_law if seen.defense else "gaussian"] * squared**2
        noise, variance = noise + entries * squared, variance + entries * of_squared
        freedom = freedom + FREEDOM * observation.mean_image.numel() * squared
    if not noise.any() or not observation.order_tells:
        return torch.ones(len(every), victims, dtype=torch.bool)
    left, of_mean = [], []
    for found in every:
        images, labels = as_explanation(observation, found)
        left.append(left_of(rounds, images, labels).sum(0))
        of_mean.append(left_of(rounds, means_of(observation), labels).sum(0))
    beside = freedom.minimum(LEFT * (torch.stack(of_mean).amin(0) - noise).clamp(min=0))
    return (torch.stack(left) <= noise + CHANCE * variance.sqrt() + beside) | (noise == 0)


def left_of(rounds: Sequence[Observation], images: Tensor, labels: Tensor, distance: str = "squared") -> Tensor:
    """Distances of what V victims would have shared of images in each of R rounds from what they did, ``[R, V]``,
    float64, infinite where they are not finite.

    Args:
        rounds: what is known of each.
        images: ``[V, N, C, H, W]``.
        labels: class probabilities ``[V, N, K]``.
        distance: one of ``DISTANCES``.
    """
    each = []
    for one in rounds:
        simulate = one.defense.simulate if one.defense else scaled_to
        each.append(DISTANCES[distance](simulate(one.update_of(images, labels), one.update), one.update))
    return torch.stack(each).cpu().double().nan_to_num(torch.inf)


def scaled_to(made: Update, shared: Update) -> Update:
    """Updates made as many times as large as brings each nearest to what was shared: an unknown defense may clip."""
    along = torch.stack([(flattened(made[name]) * flattened(value)).sum(1) for name, value in shared.items()]).sum(0)
    factor = (along / global_norm(made).square()).nan_to_num(0, 0, 0).clamp(min=0)
    return {name: factor.view(-1, *[1] * (value.dim() - 1)) * value for name, value in made.items()}


def noise_of(seen: Observation) -> Tensor:
    """Standard deviation of the known noise on each entry of the update of each victim, ``[V]``, float64."""
    std = torch.as_tensor(seen.defense.noise(seen.update) if seen.defense else 0.0).cpu().double()
    return std.expand(seen.num_victims)


def means_of(observation: Observation) -> Tensor:
    """The public mean image in place of all images, ``[V, N, C, H, W]``."""
    return observation.mean_image.expand(observation.num_victims, *observation.image_shape)


def as_explanation(observation: Observation, found: Reconstruction) -> tuple[Tensor, Tensor]:
    """Images in [0, 1] and class probabilities ``[V, N, K]`` that explain an update as they were found."""
    images, soft = in_range(found.images), soft_labels(observation, found)
    return images, one_hot(found.labels, observation.num_classes).to(images) if soft is None else soft


def in_range(images: Tensor) -> Tensor:
    """Images in [0, 1], gray where they are not finite."""
    return images.clamp(0, 1).nan_to_num(0.5)


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
