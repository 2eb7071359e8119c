from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from attacks.base import Observation, Reconstruction
from attacks.engine.priors import Prior
from attacks.engine.problem import MatchingProblem
from attacks.inverting_gradients import InvertingGradients


@dataclass(eq=False)
class FedAvgInversion(InvertingGradients):
    """Data leakage in federated averaging: local steps on images of each epoch, in no known order (arXiv 2206.12395).

    Dimitrov et al. 2022: nobody tells the attacker which images a client took together. So each epoch has dummy images
    of its own, of which the client's local steps are simulated. In the end each epoch's images are matched with those
    of the first one, and averaged. Of the labels the counts are enough: they are put in a random order. What there is
    to know of the order is used: where it is granted, or a step takes all images, all epochs have the same images. The
    paper's prior that images of all epochs are alike, whatever their order, is left out: it made no difference.
    """

    any_order: ClassVar[bool] = True

    def reconstruct(
        self,
        observation: Observation,
        callbacks: Sequence[Callback] = (),
        start_images: Tensor | None = None,
        **trainer: Any,
    ) -> Reconstruction:
        found = super().reconstruct(observation, callbacks, start_images, **trainer)
        return averaged(found, epochs_apart(observation))

    def problem(self, observation: Observation, start_images: Tensor | None = None) -> MatchingProblem:
        """That of one long epoch over the dummy images of all epochs."""
        epochs = epochs_apart(observation)
        if epochs > 1 and observation.labels is None:  # which are the same in all epochs
            sources = [torch.Generator().manual_seed(seed) for seed in observation.seeds]
            logits, are_optimized = self.told_labels(observation, sources)
            observation = observation if are_optimized else replace(observation, labels=logits.argmax(-1))
        if start_images is not None:
            start_images = start_images.repeat(1, epochs, 1, 1, 1)
        return super().problem(Unrolled.of(observation, epochs), start_images)

    def noise_prior(self, observation: Observation) -> tuple[Prior, Tensor] | None:
        """Of the mean over epochs, whose images are the same ones."""
        found = super().noise_prior(observation)
        return (found[0], found[1] / observation.epochs) if found and isinstance(observation, Unrolled) else found


def epochs_apart(seen: Observation) -> int:
    """E where each epoch has its images in another order that is unknown, else 1."""
    local, images = seen.protocol.local, seen.image_shape[0]
    if local is None or seen.order is not None or (local.batch_size or images) >= images:
        return 1
    return local.epochs


@dataclass(frozen=True)
class Unrolled(Observation):
    """An update of E epochs as if it were of a single one over E times the images.

    Attributes:
        epochs: E.
    """

    epochs: int = 1

    @classmethod
    def of(cls, seen: Observation, epochs: int) -> Observation:
        """The same in each round; what was seen where there is one epoch."""
        local = seen.protocol.local
        if epochs == 1 or local is None:
            return seen
        more = {
            "protocol": replace(seen.protocol, local=replace(local, epochs=1)),
            "image_shape": (epochs * seen.image_shape[0], *seen.image_shape[1:]),
            "labels": None if seen.labels is None else in_random_order(seen.labels, seen.seeds).repeat(1, epochs),
            "later": tuple(cls.of(round, epochs) for round in seen.later),
        }
        same = {one.name: getattr(seen, one.name) for one in fields(Observation)}
        return cls(**same | more, epochs=epochs)


def in_random_order(labels: Tensor, seeds: Sequence[int]) -> Tensor:
    """Labels ``[V, N]``, those of each victim shuffled by its seed."""
    sources = [torch.Generator().manual_seed(seed) for seed in seeds]
    orders = [torch.randperm(labels.shape[1], generator=source).to(labels.device) for source in sources]
    return labels.gather(1, torch.stack(orders))


def averaged(found: Reconstruction, epochs: int) -> Reconstruction:
    """What was found of one epoch's images: the mean over epochs of those that match."""
    if epochs == 1:
        return found
    labels = found.labels.unflatten(1, (epochs, -1))  # [V, E, N]
    probabilities = found.label_probabilities
    trajectory = found.trajectory
    if trajectory:
        of_moments = trajectory.images.flatten(0, 1)
        of_labels = labels.to(of_moments.device).repeat_interleave(trajectory.images.shape[1], 0)
        images = mean_of_epochs(of_moments, of_labels, epochs).unflatten(0, trajectory.images.shape[:2])
        trajectory = replace(trajectory, images=images)
    return replace(
        found,
        images=mean_of_epochs(found.images, labels, epochs),
        labels=labels[:, 0],
        trajectory=trajectory,
        label_probabilities=None if probabilities is None else probabilities[:, : labels.shape[2]],
    )


def mean_of_epochs(images: Tensor, labels: Tensor, epochs: int) -> Tensor:
    """The images ``[V, N, C, H, W]`` of the first of E epochs, each averaged with the nearest of each other epoch.

    Of one label where there are such, and one to one: the two that are nearest first, then of those that are left.

    Args:
        images: ``[V, E * N, C, H, W]``.
        labels: ``[V, E, N]``, in each epoch the same ones unless they were optimized.
        epochs: E.
    """
    first, *others = images.unflatten(1, (epochs, -1)).unbind(1)
    total, victims = first.clone(), torch.arange(len(first), device=first.device)
    size = first.shape[1]
    for epoch, other in enumerate(others, 1):
        apart = (first.flatten(2)[:, :, None] - other.flatten(2)[:, None]).square().sum(-1)
        is_other = labels[:, 0, :, None] != labels[:, epoch, None]
        apart = apart + is_other * (1 + apart.detach().amax((1, 2), keepdim=True))  # after all pairs of one label
        for _ in range(size):
            pair = apart.flatten(1).argmin(1)
            here, there = pair // size, pair % size
            total[victims, here] += other[victims, there]
            apart[victims, here], apart[victims, :, there] = torch.inf, torch.inf
    return total / epochs
