"""Where an attack starts: images that owe nothing to the gradient, but for the label that it gives away."""

import torch
from torch import Tensor

from attacks.base import Observation
from attacks.baselines import Baseline, ClassMeanImage, ConstantImage, MeanImage

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
