"""How far the update of found images is from the one that was shared, and what the attack lowers; measured after it."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from attacks import Attack, Observation, Reconstruction
from attacks.network.gradients import differentiable_twice, squared_distance
from benchmark.metrics.contrast import found_but_for_contrast
from benchmark.metrics.convergence import BEYOND_TRUTH, EXACT, MISFIT, most_misfit
from defenses.base import Update, flattened, unchanged

EXPLAINED = 0.01
"""Misfit of the private batch up to which an attacker's model explains the update, beside noise: with right models of a
score of defenses it was 1e-5 at most, which is rounding to 16 bits, and with wrong ones about 1."""

NOISE = 1.5
"""Squared noise that an update may have, in parts of what is expected."""

HALF = 0.5
"""Of what an attacker's model makes of a tensor of the private batch, the share that must be in what was shared."""

SURE = 6.0
"""Standard deviations that are no chance."""

FREEDOM = 2.0
"""What an image may fit worse than the private one where noise is weak, in parts of the noise on as many entries as the
image has pixels. An attack that has found the best fit is about 1 better, and a prior costs some."""

FEW = 0.5
"""Shared numbers, in parts of the pixels of one image, with which no fit, however exact, can settle on one image."""

SCALES = range(-46, 40)
"""Orders of magnitude of an entry; the first one is for zeros."""

NOISE_SEED = 1
"""Of the image of noise where the distance is held to have a slope."""

AT_ONCE = 8
"""Victims that are measured together: a gradient can be large."""


class Misfits(NamedTuple):
    """Squared distances to the shared update, in parts of that of the public mean image with the true labels, ``[V]``.

    Attributes:
        found: of what the attack returned.
        true: of the private batch: 0 where the attacker's model of the defense is exact.
        noise: what the noise on one entry for each image adds to it.
        explained: bool, whether the private batch fits, as well as the noise lets it that the attacker knows of; if
            not, the attacker has the wrong model of the defense, or none.
        settled: bool, whether what was found fits as the private batch does, so that to fit better would find nothing
            else: the entries of each order of magnitude, since a defense can hide an image in small ones. Not where
            ``contrast_unseen``.
        constant: bool, whether the distance does not depend on the images where an attack starts.
        contrast_unseen: bool, whether the attack, or a part of it, has found a private image but for a contrast that
            the network does not see.
    """

    found: Tensor
    true: Tensor
    noise: Tensor
    explained: Tensor
    settled: Tensor
    constant: Tensor
    contrast_unseen: Tensor


class Distances(NamedTuple):
    """Squared distances of V updates from the shared ones.

    Attributes:
        total: ``[V]``.
        by_scale: of the entries of each of S orders of magnitude, ``[V, S]``, float64.
    """

    total: Tensor
    by_scale: Tensor


def misfits(observation: Observation, found: Reconstruction, images: Tensor, labels: Tensor) -> Misfits:
    """What an attacker with this knowledge of the defense holds against each batch.

    Args:
        observation: what the attacker had of V victims.
        found: what the attack returned for them.
        images: private batches ``[V, N, C, H, W]``; of a defense that is known to mix labels, as they were trained on.
        labels: their labels ``[V, N]``, or class probabilities ``[V, N, K]``.
    """
    parts = []
    for first in range(0, observation.num_victims, AT_ONCE):
        rows = slice(first, first + AT_ONCE)
        seen = observation.take(range(observation.num_victims)[rows])
        images_here = images[rows].to(seen.mean_image)
        labels_here = labels[rows].to(seen.device)
        truth = labels_here.to(images_here) if labels.is_floating_point() else one_hot(labels_here, seen)
        share = found.take(rows)
        soft = share.label_probabilities
        as_found = one_hot(share.labels.to(seen.device), seen) if soft is None else soft.to(images_here)
        mean = distances(seen, seen.mean_image.expand_as(images_here), truth)
        # Also with the true labels: an attack of images alone may return any.
        tries = [distances(seen, share.images.to(images_here), each) for each in (as_found, truth)]
        nearer = tries[0].total <= tries[1].total
        best = Distances(
            *(torch.where(nearer.view(-1, *[1] * (a.dim() - 1)), a, b) for a, b in zip(*tries, strict=True))
        )
        of_truth = distances(seen, images_here, truth)
        explained = of_truth.total <= EXPLAINED * mean.total + NOISE * expected_noise(seen)  # not where one is NaN
        explained &= ~differs_in_a_tensor(seen, images_here, truth)
        settled = torch.where(explained, fits(seen, best, of_truth, mean), best.total <= BEYOND_TRUTH * of_truth.total)
        every = [share.images, *(one.images for one in share.candidates.values())]
        unseen = found_but_for_contrast(seen, every, images_here).to(settled.device)
        of_noise = of_truth.total * images.shape[1] / sum(map(entries_of, (seen, *seen.later)))
        ratios = (in_parts(value, mean.total) for value in (best.total, of_truth.total, of_noise))
        at_start = constant_at_start(seen, mean.total, truth)
        parts.append((*ratios, explained, settled & ~unseen, at_start, unseen))
    return Misfits(*(torch.cat(each) for each in zip(*parts, strict=True)))


def differs_in_a_tensor(seen: Observation, images: Tensor, labels: Tensor) -> Tensor:
    """Whether the attacker's model is wrong, although the update as a whole would not show it, ``[V]``.

    That is: what was shared of some tensor has not half of what the model makes of the private batch there, or of what
    tells it from the mean image. So it is with a first layer that was left out or shuffled: it is small, and noise or
    the other tensors hide it.

    Args:
        seen: what the attacker had.
        images: private batches ``[V, N, C, H, W]``.
        labels: class probabilities ``[V, N, K]``.
    """
    differs = torch.zeros(seen.num_victims, dtype=torch.bool, device=seen.device)
    mean_image = seen.mean_image.expand_as(images)
    for one in (seen, *seen.later):
        simulate, own = one.defense.simulate if one.defense else unchanged, one.update_of(images, labels)
        made, others = simulate(own, one.update), {name: value.roll(1, -1) for name, value in one.update.items()}
        if any(not torch.equal(value, made[name]) for name, value in simulate(own, others).items()):
            continue  # a model that goes by what was observed: noise is not all that is between them
        at_mean = simulate(one.update_of(mean_image, labels), one.update)
        for name, value in made.items():
            rest = flattened(one.update[name] - value).double()
            size = rest.square().mean(1).sqrt()
            for told in (flattened(value).double(), flattened(value - at_mean[name]).double()):
                along, squared = (rest * told).sum(1), told.square().sum(1)
                differs |= (along < -HALF * squared) & (along < -SURE * size * squared.sqrt())
    return differs


def constant_at_start(seen: Observation, at_mean: Tensor, labels: Tensor) -> Tensor:
    """Whether the distance of V updates from the shared ones does not depend on the images where an attack starts,
    ``[V]``: it has no slope at an image of noise, or is the same there, up to rounding, as at the public mean image.

    Args:
        seen: what the attacker had.
        at_mean: the distance at the public mean image, ``[V]``.
        labels: class probabilities ``[V, N, K]``.
    """
    noise = torch.rand((seen.num_victims, *seen.image_shape), generator=torch.Generator().manual_seed(NOISE_SEED))
    start = noise.to(seen.mean_image).requires_grad_()
    with differentiable_twice():
        here = torch.stack(
            [squared_distance(made, one.update) for one, made in would_share(seen, start, labels, create_graph=True)]
        ).sum(0)
        slope = torch.autograd.grad(here.sum(), start)[0] if here.requires_grad else torch.zeros_like(start)
    equal = (here - at_mean).abs() <= torch.finfo(here.dtype).eps * at_mean
    return equal | (slope == 0).flatten(1).all(1)


def loss_of_truth(attack: Attack, seen: Observation, images: Tensor, labels: Tensor) -> Tensor | None:
    """The attack's own loss at the private batches, ``[V]``, measured after it; None where it lowers none.

    Args:
        attack: of any kind.
        seen: what it had of V victims.
        images: private batches ``[V, N, C, H, W]``.
        labels: their labels ``[V, N]``, or class probabilities ``[V, N, K]``.
    """
    parts = []
    for first in range(0, seen.num_victims, AT_ONCE):
        rows = slice(first, first + AT_ONCE)
        part = attack.loss_at(seen.take(range(seen.num_victims)[rows]), images[rows], labels[rows])
        if part is None:
            return None
        parts.append(part)
    return torch.cat(parts)


def fits(seen: Observation, found: Distances, true: Distances, mean: Distances) -> Tensor:
    """Whether what was found explains what was shared as the private batch does, ``[V]``.

    Args:
        seen: what the attacker had, with a model of the defense that explains it.
        found: of what the attack returned.
        true: of the private batch.
        mean: of the public mean image.
    """
    rounds, pixels, images = (seen, *seen.later), seen.mean_image.numel(), seen.image_shape[0]
    counts = torch.stack([sums_by_scale(one.update) for one in rounds]).sum(0)
    nonzero, all_entries = counts[:, 1:].sum(1), counts.sum(1)

    def as_true(of_found: Tensor, of_true: Tensor, of_mean: Tensor, count: Tensor) -> Tensor:
        within_noise = of_true * (1 + FREEDOM * pixels / count.clamp(min=1))
        return of_found <= torch.maximum(EXACT * of_mean, within_noise)

    totals = found.total.double(), true.total.double(), mean.total.double()
    tells_all = totals[0] <= most_misfit(totals[1], totals[2].maximum(totals[1]), images * totals[1] / all_entries)
    whole = as_true(*totals, all_entries) & tells_all
    each = as_true(found.by_scale, true.by_scale, mean.by_scale, counts).all(1)
    tells_apart = (mean.total > 0) | (nonzero == 0)  # a model that returns what was observed, whatever the images
    kept = torch.stack([kept_entries(one) for one in rounds]).sum(0)
    too_few = torch.maximum(kept, nonzero) < FEW * pixels
    return torch.where(too_few, found.total <= MISFIT * mean.total, whole & each & tells_apart)


def kept_entries(seen: Observation) -> Tensor:
    """How many entries of the updates say what the gradient's are, ``[V]``."""
    if seen.defense is None:
        return torch.full((seen.num_victims,), sum(v[0].numel() for v in seen.update.values()), device=seen.device)
    return torch.stack([flattened(v != 0).sum(1) for v in seen.defense.kept_entries(seen.update).values()]).sum(0)


def in_parts(distance: Tensor, mean: Tensor) -> Tensor:
    """0 where there is no distance, also where nothing was shared of which the mean image could be off, ``[V]``."""
    return torch.where(distance == 0, distance, distance / mean)


def expected_noise(seen: Observation) -> float | Tensor:
    """The squared norm of the noise on the updates of all rounds that the attacker knows of, of all or ``[V]``."""
    rounds = (seen, *seen.later)
    return sum((one.noisy_entries * one.defense.noise(one.update) ** 2 for one in rounds if one.defense), start=0.0)


def entries_of(seen: Observation) -> int:
    """How many numbers a client shares in a round."""
    return sum(value[0].numel() for value in seen.update.values())


def one_hot(labels: Tensor, seen: Observation) -> Tensor:
    """``[V, N, K]`` of labels ``[V, N]``; an attack may return any number."""
    return torch.nn.functional.one_hot(labels.clamp(0, seen.num_classes - 1), seen.num_classes).to(seen.mean_image)


def distances(seen: Observation, images: Tensor, labels: Tensor) -> Distances:
    """How far what the clients would have shared of images ``[V, N, C, H, W]`` is from what they did, in all rounds.

    Args:
        seen: what the attacker had of them.
        images: batches in place of the private ones.
        labels: class probabilities ``[V, N, K]``.
    """
    of_rounds = [
        (squared_distance(made, one.update), sums_by_scale(one.update, made))
        for one, made in would_share(seen, images, labels)
    ]
    return Distances(*(torch.stack(each).sum(0) for each in zip(*of_rounds, strict=True)))


def would_share(
    seen: Observation, images: Tensor, labels: Tensor, create_graph: bool = False
) -> Iterator[tuple[Observation, Update]]:
    """Each round, with what the clients would have shared in it of images ``[V, N, C, H, W]``."""
    for one in (seen, *seen.later):
        simulate = one.defense.simulate if one.defense else unchanged
        yield one, simulate(one.update_of(images, labels, create_graph), one.update)


def sums_by_scale(shared: Update, made: Update | None = None) -> Tensor:
    """Squared distances over the entries of each order of magnitude of what was shared, ``[V, S]``, float64.

    Args:
        shared: the updates ``[V, ...]``.
        made: those that are compared with it; without them entries are counted.
    """
    one, *_ = shared.values()
    sums = torch.zeros((len(one), len(SCALES)), dtype=torch.double, device=one.device)
    for name, value in shared.items():
        entries = flattened(value).double()
        scales = entries.abs().log10().floor().clamp(SCALES[0], SCALES[-1]).nan_to_num() - SCALES[0]
        off = torch.ones_like(entries) if made is None else (flattened(made[name]) - entries).square()
        sums.scatter_add_(1, scales.long(), off)
    return sums
