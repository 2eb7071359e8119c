"""Where an attack starts: images that owe nothing to the gradient, but for the label that it gives away."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

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

APART = 0.02
"""Standard deviation of the noise by which the images of a batch are apart that start at a guess. From the same image,
those of one label have the same gradient, and would stay the same."""

TILES = 4
"""Tiles beside each other, and above each other, of which a patterned image is made."""


def tiled(noise: Tensor) -> Tensor:
    """Images of one tile each, in all places: the corner of the noise, with pixels evenly spread over [0, 1]."""
    height, width = (-(-size // TILES) for size in noise.shape[-2:])
    tile = torch.special.ndtr(noise[..., :height, :width])
    return tile.repeat(*[1] * (noise.dim() - 2), TILES, TILES)[..., : noise.shape[-2], : noise.shape[-1]]


def colored(noise: Tensor) -> Tensor:
    """Images of one color each, that of the corner of the noise, evenly spread over [0, 1]."""
    return torch.special.ndtr(noise[..., :1, :1]).expand(noise.shape)


PATTERNS: dict[str, Callable[[Tensor], Tensor]] = {"tiles": tiled, "color": colored}
"""Regular images that are made of standard normal noise ``[..., C, H, W]`` (Wei et al. 2020, arXiv 2004.10397)."""

RANDOM = ("noise", *PATTERNS)
"""Starts of which there are as many as one likes."""

STARTS = (*RANDOM, *GUESSES)

State = dict[str, Tensor]
"""The "images" ``[V, N, C, H, W]`` and the "label_logits" ``[V, N, K]`` of victims."""


@dataclass(frozen=True)
class Standardization:
    """Pixels as an attack takes them: less the mean of their channel, over its standard deviation, in public images.

    Attributes:
        mean: ``[C, 1, 1]``.
        std: ``[C, 1, 1]``.
    """

    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, observation: Observation) -> Self:
        """That of the public images, as the attacker knows them."""
        return cls(observation.mean_image.mean((1, 2), keepdim=True), observation.channel_stds[:, None, None])


def draw_start(
    start: str,
    observation: Observation,
    generators: Sequence[torch.Generator],
    standardization: Standardization | None = None,
) -> Tensor:
    """Images ``[V, N, C, H, W]`` at which an attack of V victims starts.

    Args:
        start: one of ``STARTS``: standard normal noise, as published, a pattern, or the guess of that name by the
            label rule, about which those of a batch are a little :data:`APART`.
        observation: what the attacker knows.
        generators: a source of randomness for each victim, moved on by the same draws whatever the start is, so that
            what is drawn next does not depend on it.
        standardization: of the pixels that are standard normal noise; None for pixels as they are.
    """
    noise = torch.stack([torch.randn(observation.image_shape, generator=g) for g in generators])
    if start in PATTERNS:
        images = PATTERNS[start](noise)
    elif start in GUESSES:
        images = GUESSES[start](observation, best_labels(observation))
        images = images + APART * noise.to(images) if observation.image_shape[0] > 1 else images
    elif standardization is not None:
        images = standardization.mean + standardization.std * noise.to(standardization.std)
    else:
        images = noise
    return images.to(next(iter(observation.update.values()))).expand(noise.shape).clone()


StartLabels = Callable[[Observation, Sequence[torch.Generator]], tuple[Tensor, bool]]
"""Logits ``[V, N, K]`` of the labels at a start, and whether they are optimized."""


class Starts:
    """Where each attempt on each victim starts.

    Those of the first attempts are drawn at once, each of the later ones when it is needed.

    Args:
        observation: what the attacker knows of V victims.
        names: of the starts, one for each attempt.
        start_labels: gives the labels at a start. Where they are not optimized, it is asked once.
        standardization: as in :func:`draw_start`.

    Attributes:
        names: one for each attempt.
        first: where the first attempts start.
        optimize_labels: whether the labels are optimized.
    """

    def __init__(
        self,
        observation: Observation,
        names: Sequence[str],
        start_labels: StartLabels,
        standardization: Standardization | None = None,
    ) -> None:
        self.names, self._standardization = list(names), standardization
        self._observation, self._start_labels = observation, start_labels
        self._generators = [torch.Generator().manual_seed(seed) for seed in observation.seeds]
        self.first, self.optimize_labels = self._draw(names[0], observation, self._generators)
        self._after = [self.first]

    def begin_with(self, name: str, state: State) -> None:
        """Puts another start before all of them."""
        self.names, self.first, self._after = [name, *self.names], state, [state, *self._after]

    def of(self, victim: int, attempt: int) -> State:
        """Where an attempt on a victim starts, ``[N, C, H, W]`` and ``[N, K]``; each is asked for once, in its turn."""
        if attempt < len(self._after):
            return {key: value[victim] for key, value in self._after[attempt].items()}
        alone, generator = self._observation.take([victim]), self._generators[victim]
        if not self.optimize_labels:
            images = draw_start(self.names[attempt], alone, [generator], self._standardization)
            return {"images": images[0], "label_logits": self.first["label_logits"][victim]}
        return {key: value[0] for key, value in self._draw(self.names[attempt], alone, [generator])[0].items()}

    def _draw(self, name: str, observation: Observation, generators: Sequence[torch.Generator]) -> tuple[State, bool]:
        images = draw_start(name, observation, generators, self._standardization)
        logits, optimize_labels = self._start_labels(observation, generators)
        return {"images": images, "label_logits": logits.to(images)}, optimize_labels
