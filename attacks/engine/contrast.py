"""What a network that normalizes first cannot see of images, so that no update tells it: their contrast."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from attacks.base import Observation
from attacks.gradients import squared_distance

ALIKE = 1e-4
"""Squared distance of two updates, in parts of that of other images, below which they are the same but for what keeps
a normalization from dividing by 0: of 20 networks it was up to 4e-5 where contrast is not seen, else from 4e-4."""

BRIGHT = 10.0
"""How bright the images of the trial are, so that this is little beside their variance: deep networks in train mode
make much of it."""

GAINS, OFFSET = (0.8, 0.9), 0.5
"""Of the trial: the least and the largest gain of an image, and what is added to it."""

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

    def changed(self, images: Tensor) -> Tensor:
        """Images with other gains and offsets."""
        shape = [1 if dim in self.dims else size for dim, size in enumerate(images.shape)]
        gains = torch.linspace(*GAINS, torch.Size(shape).numel()).view(shape).to(images)
        return gains * images + (OFFSET if self.offset else 0.0)

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


def unseen_by(seen: Observation) -> Unseen | None:
    """Which of these changes the network does not see; None where it sees all, as far as a trial tells."""
    generator = torch.Generator().manual_seed(0)
    drawn = BRIGHT * torch.rand(2, 1, *seen.image_shape, generator=generator).to(seen.mean_image)
    labels = one_hot(torch.arange(seen.image_shape[0]) % seen.num_classes, seen.num_classes).to(drawn)[None]
    one = seen.take([0])
    images, others = drawn
    update = one.update_of(images, labels)
    apart = squared_distance(one.update_of(others, labels), update)
    for kind in KINDS:
        if bool((squared_distance(one.update_of(kind.changed(images), labels), update) < ALIKE * apart).all()):
            return kind
    return None
