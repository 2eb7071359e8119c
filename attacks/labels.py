"""What the update of one image says about its label."""

import torch
from torch import Tensor

from attacks.base import Observation
from attacks.gradients import batch_gradients, trained_names
from defenses.base import Update, flattened, global_norm, unchanged

TRIALS = 8
"""Images of the attacker's own, for each of which the rows of a gradient must tell the label."""

AT_ONCE = 8
"""Victims that are tried together: with many classes a gradient is large."""


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
    parts = [
        _labels(observation.take(range(first, min(first + AT_ONCE, observation.num_victims))))
        for first in range(0, observation.num_victims, AT_ONCE)
    ]
    return torch.cat(parts)


def _labels(observation: Observation) -> Tensor:
    classes, update = observation.num_classes, observation.update
    wide = [name for name in trained_names(observation.model) if update[name].shape[1:2] == (classes,)]
    right = dict.fromkeys(wide, torch.zeros(observation.num_victims, device=observation.device))
    if wide:
        generator = torch.Generator().manual_seed(1)
        noise = torch.rand(TRIALS, *observation.image_shape[1:], generator=generator).to(observation.mean_image)
    for trial in range(TRIALS if wide else 0):
        share = trial / (TRIALS - 1)  # from the public mean image to noise
        image = (1 - share) * observation.mean_image + share * noise[trial]
        gradient = as_shared_of(observation, image, trial % classes)
        for name in wide:
            right[name] = right[name] + (lowest_row(gradient[name]) == trial % classes) / TRIALS
    chosen = [_choice(wide, right, update, victim) for victim in range(observation.num_victims)]
    likely = likeliest_labels(observation) if None in chosen else None
    found = [
        likely[victim] if name is None and likely is not None else lowest_row(update[str(name)][victim : victim + 1])[0]
        for victim, name in enumerate(chosen)
    ]
    return torch.stack(found)


def _choice(wide: list[str], right: dict[str, Tensor], update: Update, victim: int) -> str | None:
    """The parameter that tells a victim's label; None where none does."""
    usable = [name for name in wide if bool(update[name][victim].any())]
    sure = [name for name in usable if right[name][victim] > 1 - 0.5 / TRIALS]
    weights = [name for name in sure if update[name].dim() > 2]
    if sure:
        return (weights or sure)[-1]
    best = max(usable, key=lambda name: float(right[name][victim]), default=None)
    return best if best is not None and right[best][victim] > 0.5 else None


def as_shared_of(observation: Observation, image: Tensor, label: int) -> Update:
    """What each victim would share, as far as the attacker knows, had it this image ``[C, H, W]`` with this label."""
    victims = observation.num_victims
    images = image.expand(victims, 1, *image.shape)
    one_hot = torch.zeros(victims, 1, observation.num_classes).to(images)
    one_hot[..., label] = 1
    gradient = batch_gradients(observation.model, observation.parameters, images, one_hot, create_graph=False)
    simulate = observation.defense.simulate if observation.defense else unchanged
    return simulate(gradient, observation.update)


def likeliest_labels(observation: Observation) -> Tensor:
    """Labels ``[V]`` whose gradient at the public mean image has the greatest cosine with the update."""
    cosines = []
    for label in range(observation.num_classes):
        gradient = as_shared_of(observation, observation.mean_image, label)
        product = torch.stack([flattened(g * observation.update[n]).sum(1) for n, g in gradient.items()]).sum(0)
        size = global_norm(gradient)
        cosines.append(product / size.clamp(min=torch.finfo(size.dtype).tiny))
    return torch.stack(cosines).argmax(0)


def lowest_row(gradient: Tensor) -> Tensor:
    """The row ``[V]`` of a gradient ``[V, K, ...]`` that has the lowest sum."""
    return gradient.flatten(2).sum(-1).argmin(-1) if gradient.dim() > 2 else gradient.argmin(-1)
