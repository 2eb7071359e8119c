from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from attacks.base import Observation, Reconstruction
from attacks.engine.label_rules import blended
from attacks.engine.priors import BOX_EDGE, Prior, outside, total_variation
from attacks.gradient_matching import GradientMatching
from defenses.base import flattened, global_norm

DOUBT = 0.1
"""Share of a label that is spread over all classes where labels start that a rule has told."""

LAST = 4
"""The last fit, with labels that stay, has one in so many of the evaluations."""


@dataclass(eq=False)
class Bayes(GradientMatching):
    """The most probable images and labels, given the update and what images look like (arXiv 2111.04706).

    Balunovic et al. 2022: the posterior probability of images is the likelihood of the update that was observed, which
    is the known defense's, times a prior. Under Gaussian noise the likelihood falls with the squared distance of what
    the client would have shared over twice the variance, and under Laplace noise with the absolute one over its scale;
    where entries were masked or pruned, it is that of the others. An update that no noise was added to is still
    rounded, and that is its noise. Differences of neighboring pixels are Laplace distributed and pixels uniform in
    [0, 1] with a soft edge. The loss is twice the variance, or the scale, times minus the logarithm of the posterior.
    From the public mean image, which needs no update, L-BFGS descends with a line search. Labels that are not granted
    start from what a rule tells, and are found together with the images, since noise can mislead the rule. Where the
    defense is known, each is made the likeliest class in the end and the images are fitted once more, since mixtures
    would fit the noise.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"public_data"})

    max_evaluations: int = 2000
    tolerance: float = 0.0
    start: str = "mean"
    line_search: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.distance != "squared" or self.total_variation:
            raise ValueError(
                f"{type(self).__name__} has its own likelihood and prior: leave distance and total_variation out"
            )

    def start_labels(self, observation: Observation, generators: Sequence[torch.Generator]) -> tuple[Tensor, bool]:
        told, are_optimized = super().start_labels(observation, generators)
        if mixes(observation):
            return told, are_optimized
        return blended(told, own=1.0, doubt=DOUBT), True

    def reconstruct(
        self,
        observation: Observation,
        callbacks: Sequence[Callback] = (),
        start_images: Tensor | None = None,
        **trainer: Any,
    ) -> Reconstruction:
        last = self.max_evaluations // LAST
        if not last or not self.makes_hard(observation):
            return super().reconstruct(observation, callbacks, start_images, **trainer)
        first, second = replace(self, max_evaluations=self.max_evaluations - last), replace(self, max_evaluations=last)
        first.told, second.told = self.telling(0, 1 - 1 / LAST), self.telling(1 - 1 / LAST, 1)
        mixed = super(Bayes, first).reconstruct(observation, callbacks, start_images, **trainer)
        hard = replace(observation, labels=mixed.labels)
        found = super(Bayes, second).reconstruct(hard, callbacks, mixed.images, **trainer)
        return replace(found, evaluations=mixed.evaluations + found.evaluations, trajectory=mixed.trajectory)

    def makes_hard(self, observation: Observation) -> bool:
        """Whether labels are optimized where it is known how an update comes from hard ones.

        Of an unknown defense that shortens the update, say, mixed labels make up for what hard ones cannot.
        """
        told = observation.labels is not None or self.labels not in (None, "joint")
        return not (told or observation.defense is None or mixes(observation)) and observation.order_tells

    def prior(self, observation: Observation) -> Prior:
        return PublicImages(self.prior_scale * PublicImages.of(observation).scale)

    def prior_weights(self, observation: Observation) -> Tensor:
        """Twice the variance of the noise on each entry of the update, or its scale where it is Laplace's, ``[V]``."""
        noise, known = rounding(observation), observation.defense
        if known:
            noise = noise.maximum(
                torch.as_tensor(known.noise(observation.update), dtype=noise.dtype, device=noise.device)
            )
        return noise / 2**0.5 if self.distance_of(observation) == "absolute" else 2 * noise.square()

    def noise_prior(self, observation: Observation) -> tuple[Prior, Tensor] | None:
        return None  # weighed against all there is

    def distance_of(self, observation: Observation) -> str:
        known = observation.defense
        return "absolute" if known and known.noise_law == "laplace" else self.distance


def mixes(observation: Observation) -> bool:
    """Whether clients are known to mix labels."""
    return observation.defense is not None and observation.defense.soft_labels


@dataclass(frozen=True)
class PublicImages:
    """Minus the logarithm of the probability density of images, up to a constant.

    Args:
        scale: of the differences of neighboring pixels.
    """

    scale: float

    @classmethod
    def of(cls, observation: Observation) -> "PublicImages":
        """With the scale b that is most likely given public images.

        The density exp(-TV / b) of an image of P pixels integrates to a multiple of b to the power of P - 1, as it is
        the same for all images that differ in brightness alone. So its maximum over b is at TV / (P - 1), not at the
        mean difference: there are about twice as many differences as pixels.
        """
        height, width = observation.image_shape[2:]
        differences = max(1, (height - 1) * width + height * (width - 1))  # of one pixel none, and no variation
        return cls(observation.mean_step * differences / max(1, height * width - 1))

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        """That of each victim's images, ``[A]``."""
        return total_variation(images) / self.scale + outside(images) / (2 * BOX_EDGE**2)


def rounding(seen: Observation) -> Tensor:
    """Standard deviation ``[V]`` of what rounding does to an entry of the update."""
    entries = torch.stack([flattened(value).count_nonzero(1) for value in seen.update.values()]).sum(0)
    size = global_norm(seen.update) / entries.clamp(min=1).sqrt()
    return torch.finfo(size.dtype).eps * size
