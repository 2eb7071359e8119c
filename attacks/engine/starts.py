"""Where an attack starts: images that owe nothing to the gradient, but for the label that it gives away."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from attacks.base import Observation
from attacks.engine.labels import best_labels

GUESSES: dict[str, Callable[[Observation, Tensor], Tensor]] = {
    "constant": lambda seen, labels: torch.tensor(0.5),
    "mean": lambda seen, labels: seen.mean_image,
    "class_mean": lambda seen, labels: seen.class_means.to(labels.device)[labels],
}
"""Images by the labels ``[V, N]`` alone, as far as they are broadcast to ``[V, N, C, H, W]``: 0.5 everywhere, the mean
of the public images, and that of the public images of the label's class."""

STARTS = ("noise", *GUESSES)

Start = tuple[str, dict[str, Tensor]]
"""Its name, and the "images" ``[V, N, C, H, W]`` and "label_logits" ``[V, N, K]`` of all victims."""


def draw_start(start: str, observation: Observation, generators: Sequence[torch.Generator]) -> Tensor:
    """Images ``[V, N, C, H, W]`` at which an attack of V victims starts.

    Args:
        start: one of ``STARTS``: standard normal noise, as published, or the guess of that name by the label rule.
        observation: what the attacker knows.
        generators: a source of randomness for each victim, moved on by the same draws whatever the start is, so that
            what is drawn next does not depend on it.
    """
    noise = torch.stack([torch.randn(observation.image_shape, generator=g) for g in generators])
    images = noise if start == "noise" else GUESSES[start](observation, best_labels(observation))
    return images.to(next(iter(observation.update.values()))).expand(noise.shape).clone()


StartLabels = Callable[[Observation, Sequence[torch.Generator]], tuple[Tensor, bool]]
"""Logits ``[V, N, K]`` of the labels at a start, and whether they are optimized."""


def draw_starts(observation: Observation, names: Sequence[str], start_labels: StartLabels) -> tuple[list[Start], bool]:
    """The starts of these names, one for each attempt, and whether the labels are optimized."""
    like = next(iter(observation.update.values()))
    generators = [torch.Generator().manual_seed(seed) for seed in observation.seeds]
    starts = []
    for name in names:
        images = draw_start(name, observation, generators)
        logits, optimize_labels = start_labels(observation, generators)
        starts.append((name, {"images": images, "label_logits": logits.to(like)}))
    return starts, optimize_labels
