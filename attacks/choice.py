"""Which of several reconstructions an attacker takes, who has no private image to compare them with."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from attacks.base import Observation, Reconstruction
from attacks.bayes import Bayes
from attacks.engine.contrast import ALIKE, FILLED
from attacks.engine.distances import DISTANCES
from attacks.wiener import MOST_VALUES, Wiener
from defenses.base import Update, flattened, global_norm, unchanged

EQUAL = 1.0
"""Losses that differ by less tell nothing apart: it is a ratio of e of two probabilities."""

MISSED, WORSE = 0.01, 30.0
"""What a descent may leave of an update for no other reason than that it has ended: up to this part of what the public
mean image leaves, and so many times what the best of all leaves. It is taken for noise with as many degrees of freedom
as a batch has values. Many images fit what a mask has left nearly exactly, and which of them fits most exactly says
nothing of it."""

EXPLAINS = 1e-6
"""What images may leave of an update, in parts of it, that explain it wholly."""

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
    """Of each victim the candidate that is most probable given its update, and of several the cheapest; where nothing
    tells, the last one. Of images that explain it as well with another contrast those that have it.

    Under known noise what explains an update as far as the noise lets it comes first: the most probable images of all
    explain less, as they are smoother than any private ones (the discrepancy principle of Morozov 1966).
    """
    every, names = list(candidates.values()), list(candidates)
    tried = torch.tensor([[status != NOT_TRIED for status in one.status] for one in every])
    order = torch.arange(len(every))[:, None].expand_as(tried)
    last = torch.where(tried, order, -1).amax(0)
    together = minus_log_posterior(observation, candidates).nan_to_num(torch.inf, torch.inf, torch.inf)
    explained = explained_by(observation, every) & together.isfinite()
    together = together.masked_fill(explained.any(0) & ~explained, torch.inf)
    lowest = together.amin(0)
    first = (together <= lowest + EQUAL).long().argmax(0)
    chosen = torch.where(lowest.isfinite(), first, last).tolist()

    def picked(name: str) -> Tensor:
        return torch.stack([getattr(every[part], name)[row] for row, part in enumerate(chosen)])

    mixed = [soft_labels(observation, one) for one in every]
    certified: Tensor | None = None
    if any(one.certified is not None for one in every):
        none = torch.zeros(every[0].labels.shape, dtype=torch.bool, device=observation.device)
        of_parts = [none if one.certified is None else one.certified for one in every]
        certified = torch.stack([of_parts[part][row] for row, part in enumerate(chosen)])
    best = Reconstruction(
        images=picked("images"),
        labels=picked("labels"),
        loss=torch.full((len(chosen),), torch.inf),
        evaluations=torch.stack([one.evaluations for one in every]).sum(0),
        status=[every[part].status[row] for row, part in enumerate(chosen)],
        starts=[names[part] for part in chosen],
        label_probabilities=None if None in mixed else torch.stack([mixed[p][row] for row, p in enumerate(chosen)]),
        certified=certified,
        candidates=candidates,
    )
    losses = criterion_of(observation).loss_at(observation, *as_explanation(observation, best))
    return best if losses is None else replace(best, loss=losses.cpu().masked_fill(lowest.isinf(), torch.inf))


def minus_log_posterior(observation: Observation, candidates: dict[str, Reconstruction]) -> Tensor:
    """Minus the logarithm of the probability of P candidates given the updates, up to a constant of each of V victims.

    The prior is that of :class:`Wiener`, which does not prefer flat images to private ones, or of :class:`Bayes` where
    no covariance is granted. Each entry has the known noise, or what a descent may leave where that is more. A prior
    would always have less contrast: what is given one that the network may not see is as probable as it was before.

    Returns:
        ``[P, V]`` on the CPU; infinite for a victim who was not tried, to whom the attack diverged, or where the
        attacker does not know what clients compute.
    """
    every = list(candidates.values())
    out = torch.tensor([[status in (NOT_TRIED, "diverged") for status in one.status] for one in every])
    if not observation.order_tells:
        return torch.full(out.shape, torch.inf, dtype=torch.double)
    as_found = [list(candidates).index(name.removesuffix(FILLED)) for name in candidates]
    prior = criterion_of(observation).prior(observation)
    losses = torch.stack([torch.as_tensor(prior(*as_explanation(observation, one))).cpu().double() for one in every])
    losses = losses.minimum(losses[as_found])
    explanations = [as_explanation(observation, one) for one in every]
    for seen in (observation, *observation.later):
        left, of_means = lefts(seen, explanations, out)
        of_mean = of_means.masked_fill(out, torch.inf).amin(0)
        # What keeps a normalization from dividing by 0 tells contrast a little, and no more than this.
        is_unseen = left <= left[as_found] + ALIKE * of_mean
        left = torch.where(is_unseen, left.minimum(left[as_found]), left)
        noise = noise_of(seen)
        all_noise = seen.noisy_entries.cpu() * noise.square()
        least = left.masked_fill(out, torch.inf).amin(0)
        missed = (MISSED * (of_mean - all_noise)).minimum(WORSE * (least - all_noise)).clamp(min=0)
        variance = noise.square().maximum(missed / math.prod(seen.image_shape))
        variance = variance.nan_to_num(1.0, 1.0).clamp(min=torch.finfo(variance.dtype).tiny)
        if seen.defense and seen.defense.noise_law == "laplace":
            absolute = torch.stack([left_of(seen, *each, distance="absolute") for each in explanations])
            losses += torch.where(is_unseen, absolute.minimum(absolute[as_found]), absolute) / (variance / 2).sqrt()
        else:
            losses += left / (2 * variance)
    return losses.masked_fill(out, torch.inf)


def lefts(seen: Observation, explanations: Sequence[tuple[Tensor, Tensor]], out: Tensor) -> tuple[Tensor, Tensor]:
    """What each of P explanations leaves of the updates of a round, and the public mean image with the same labels.

    A defense that is not known may make updates longer or shorter: where the best explanation leaves far less at the
    size that fits best than any does at its own, what they leave at that counts.

    Args:
        seen: what is known of V victims in this round.
        explanations: images and class probabilities.
        out: those that do not count, ``[P, V]``.

    Returns:
        Squared distances ``[P, V]``, float64.
    """
    means = means_of(seen)
    left = torch.stack([left_of(seen, *each) for each in explanations])
    of_mean = torch.stack([left_of(seen, means, labels) for _, labels in explanations])
    if seen.defense is None:
        scaled = torch.stack([left_of(seen, *each, scaled_to) for each in explanations])
        of_scaled = torch.stack([left_of(seen, means, labels, scaled_to) for _, labels in explanations])
        least, least_scaled = (each.masked_fill(out, torch.inf).amin(0) for each in (left, scaled))
        size = global_norm(seen.update).square().cpu().double()
        is_own = least <= (WORSE * least_scaled).maximum(EXPLAINS * size)
        left, of_mean = torch.where(is_own, left, scaled), torch.where(is_own, of_mean, of_scaled)
    return left, of_mean


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
        left.append(torch.stack([left_of(seen, images, labels) for seen in rounds]).sum(0))
        of_mean.append(torch.stack([left_of(seen, means_of(seen), labels) for seen in rounds]).sum(0))
    beside = freedom.minimum(LEFT * (torch.stack(of_mean).amin(0) - noise).clamp(min=0))
    return (torch.stack(left) <= noise + CHANCE * variance.sqrt() + beside) | (noise == 0)


def left_of(
    seen: Observation,
    images: Tensor,
    labels: Tensor,
    simulate: Callable[[Update, Update], Update] | None = None,
    distance: str = "squared",
) -> Tensor:
    """Distances of what V victims would have shared of images in a round from what they did, ``[V]``, float64, infinite
    where they are not finite.

    Args:
        seen: what is known of the round.
        images: ``[V, N, C, H, W]``.
        labels: class probabilities ``[V, N, K]``.
        simulate: what the defense does; None for the known one.
        distance: one of ``DISTANCES``.
    """
    if simulate is None:
        simulate = seen.defense.simulate if seen.defense else unchanged
    made = simulate(seen.update_of(images, labels), seen.update)
    return DISTANCES[distance](made, seen.update).cpu().double().nan_to_num(torch.inf)


def scaled_to(made: Update, shared: Update) -> Update:
    """Updates as many times as large as brings each nearest to what was shared."""
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


def criterion_of(observation: Observation) -> Bayes:
    """Whose loss and prior tell what is probable: a normal prior does not prefer flat images to private ones."""
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
