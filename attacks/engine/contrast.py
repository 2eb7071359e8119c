"""What a network that normalizes first cannot see of images, so that no update tells it: their contrast."""

import copy
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from attacks.base import Observation
from attacks.engine.step import victims_together
from attacks.network.gradients import squared_distance
from attacks.network.memory import is_out_of_memory

ALIKE = 1e-4
"""Squared distance of two updates, in parts of that of other images, below which they are the same but for what keeps
a normalization from dividing by 0: of 20 networks it was up to 4e-5 where contrast is not seen, else from 4e-4."""

COARSE = 1e-3
"""Spacing of numbers about 1 from which on that is so: bfloat16 has 0.008, float16 0.00098."""

BRIGHTNESS = (1.0, 10.0)
"""Largest pixels of the images of each trial. Those of bright images have such a variance that what keeps from dividing
by 0 is little beside it: deep networks in train mode make much of it."""

GAINS, OFFSET = (0.8, 0.9), 0.05
"""Of a trial: the least and the largest gain of an image, and what is added to it, in parts of the largest pixel."""

FILLED = ", full range"
"""Stands behind the name of an attack where what it found was given a contrast that the network may not see."""


@dataclass(frozen=True)
class Unseen:
    """The changes of images ``[V, N, C, H, W]`` that change no update.

    Attributes:
        dims: over which images have one gain.
        offset: whether it may also be anything that is added to all values of these dims.
    """

    dims: tuple[int, ...]
    offset: bool

    def changed(self, images: Tensor, brightness: float) -> Tensor:
        """Images of that brightness with other gains and offsets."""
        shape = [1 if dim in self.dims else size for dim, size in enumerate(images.shape)]
        gains = torch.linspace(*GAINS, torch.Size(shape).numel()).view(shape).to(images)
        return gains * images + (brightness * OFFSET if self.offset else 0.0)

    def filled(self, images: Tensor) -> Tensor:
        """The images of which all values are in [0, 1] and the largest is 1, with an offset also the least 0.

        Photographs and scans use the whole range, as cameras see to it. The most probable contrast by a normal prior is
        far too low: it is that of the mean image where noise is added to it.
        """
        least = images.amin(self.dims, keepdim=True) if self.offset else torch.zeros_like(images[:1, :1, :1, :1, :1])
        span = images.amax(self.dims, keepdim=True) - least
        return torch.where(span > 0, (images - least) / span, images)


KINDS = tuple(Unseen(dims, offset) for dims in ((3, 4), (2, 3, 4), (1, 3, 4), (1, 2, 3, 4)) for offset in (True, False))
"""From the most to the least: each channel of each image, as with InstanceNorm on pixels; each image, as with GroupNorm
behind a convolution without a bias; and either for all images of a batch, as with BatchNorm in train mode."""


def unseen_by(observation: Observation) -> list[Unseen | None]:
    """Which of these changes the network of each of V victims does not see; None where it sees all, as far as trials
    with images of the attacker's own tell."""
    if observation.shared:
        return _unseen_by(observation.take([0])) * observation.num_victims
    victims = list(range(observation.num_victims))
    some = victims_together(observation.update)
    parts = (observation.take(victims[first : first + some]) for first in range(0, len(victims), some))
    return [kind for part in parts for kind in _unseen_by(part)]


def _unseen_by(observation: Observation) -> list[Unseen | None]:
    """:func:`unseen_by` of victims who are looked at together."""
    observation = in_single(observation)
    found: list[Unseen | None] = [None] * observation.num_victims
    labels = one_hot(torch.arange(observation.image_shape[0]) % observation.num_classes, observation.num_classes)
    probabilities = labels.to(observation.mean_image).expand(observation.num_victims, -1, -1)
    for brightness in BRIGHTNESS:
        generator = torch.Generator().manual_seed(0)
        drawn = brightness * torch.rand(2, *observation.image_shape, generator=generator).to(observation.mean_image)
        images, others = drawn.unsqueeze(1).expand(-1, observation.num_victims, -1, -1, -1, -1)
        try:
            update = observation.update_of(images, probabilities)
            apart = squared_distance(observation.update_of(others, probabilities), update)
            for kind in KINDS:
                off = observation.update_of(kind.changed(images, brightness), probabilities)
                is_alike = squared_distance(off, update) < ALIKE * apart
                found = [one or (kind if alike else None) for one, alike in zip(found, is_alike.tolist(), strict=True)]
                if None not in found:
                    return found
        except Exception as error:  # whatever a network of the user's raises at images beyond [0, 1]
            if brightness <= 1 or is_out_of_memory(error):
                raise
    return found


def in_single(observation: Observation) -> Observation:
    """The same network in single precision, where its own is so coarse that rounding would hide what is alike."""
    if torch.finfo(observation.mean_image.dtype).eps < COARSE:
        return observation
    parameters = {n: v.float() if v.is_floating_point() else v for n, v in observation.parameters.items()}
    model, mean_image = copy.deepcopy(observation.model).float(), observation.mean_image.float()
    return replace(observation, model=model, parameters=parameters, mean_image=mean_image)
