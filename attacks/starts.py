"""Where an attack starts: images that owe nothing to the gradient, but for the label that it gives away."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from attacks.base import Observation
from attacks.baselines import Baseline, ClassMeanImage, ConstantImage, MeanImage
from attacks.rgap import recursive_solution

STARTS: dict[str, type[Baseline] | None] = {
    "noise": None,
    "constant": ConstantImage,
    "mean": MeanImage,
    "class_mean": ClassMeanImage,
}


def draw_start(start: str, observation: Observation, generators: list[torch.Generator]) -> Tensor:
    """Images ``[V, N, C, H, W]`` at which an attack of V victims starts.

    Args:
        start: a name of ``STARTS``: standard normal noise, as published; or the null baseline's answer, 0.5
            everywhere, the mean of the public images, or that of the class that the label rule finds.
        observation: what the attacker knows.
        generators: a source of randomness for each victim, moved on by the same draws whatever the start is, so that
            what is drawn next does not depend on it.
    """
    noise = torch.stack([torch.randn(observation.image_shape, generator=g) for g in generators])
    baseline = STARTS[start]
    images = noise if baseline is None else baseline().reconstruct(observation).images
    return images.to(next(iter(observation.update.values())))


StartLabels = Callable[[Observation, Sequence[torch.Generator]], tuple[Tensor, bool]]
"""Logits ``[V, N, K]`` of the labels at a start, and whether they are optimized."""


def draw_starts(
    observation: Observation, start: str, restarts: int, at_once: int | None, start_labels: StartLabels
) -> tuple[list[tuple[str, dict[str, Tensor]]], bool]:
    """Name, images and label logits of all victims for each attempt, and whether the labels are optimized.

    Args:
        observation: of V victims.
        start: one of ``STARTS``, or "rgap": the solution of R-GAP, and then noise.
        restarts: further attempts, from noise.
        at_once: victims that are solved together by R-GAP; None for all of them.
        start_labels: of the attack.
    """
    like = next(iter(observation.update.values()))
    generators = [torch.Generator().manual_seed(seed) for seed in observation.seeds]
    starts = []
    for attempt in range(1 + restarts):
        name = "noise" if attempt or start == "rgap" else start
        images = draw_start(name, observation, generators)
        logits, optimize_labels = start_labels(observation, generators)
        starts.append((name, {"images": images, "label_logits": logits.to(like)}))
    if start == "rgap":
        turns = range(0, observation.num_victims, at_once or observation.num_victims)
        every = range(observation.num_victims)
        solved = [recursive_solution(observation.take(every[t : t + turns.step])) for t in turns]
        images, labels = (torch.cat(parts) for parts in zip(*solved, strict=True))
        logits = (
            labels.nan_to_num(0).clamp(min=1e-12).log().unsqueeze(1)
            if optimize_labels
            else starts[0][1]["label_logits"]
        )
        first = {"images": images.clamp(0, 1).nan_to_num(0.5).unsqueeze(1), "label_logits": logits}
        starts.insert(0, ("rgap", first))
    return starts, optimize_labels
