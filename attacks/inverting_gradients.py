from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from attacks.base import Observation
from attacks.engine.batch_adam import BatchAdam
from attacks.engine.priors import MeanVariation, Prior
from attacks.engine.row_optimizer import RowOptimizer
from attacks.engine.starts import Standardization
from attacks.gradient_matching import LEARNING_RATES, GradientMatching

DECAYS = (3 / 8, 5 / 8, 7 / 8)
"""Parts of the budget after each of which the learning rate is a tenth of what it was."""


@dataclass(eq=False)
class InvertingGradients(GradientMatching):
    """Inverting Gradients: the angle between gradients, smooth images, signed steps (arXiv 2003.14053).

    Geiping et al. 2020: from noise, Adam on the sign of each gradient minimizes the cosine distance over all parameters
    together and the total variation; pixels are standardized, and stay in their range. Labels that are not granted are
    inferred: of one image by iDLG's rule, of a batch by iLRG's (Ma et al. 2023), or optimized with the images, as in
    the authors' code, where the network does not end in a linear layer with a bias.

    Args:
        total_variation: weight of the mean absolute difference of neighbors in both directions, as in the authors'
            code; at least 0.
        standardized: whether steps, noise and total variation are those of standardized pixels, as published.
    """

    max_evaluations: int = 4800
    tolerance: float = 0.0
    total_variation: float = 0.01
    optimizer: str = "adam"
    distance: str = "cosine"
    standardized: bool = True

    def standardization(self, observation: Observation) -> Standardization | None:
        return Standardization.of(observation) if self.standardized else None

    def prior(self, observation: Observation) -> Prior:
        units = observation.channel_stds.tolist() if self.standardized else [1.0] * observation.image_shape[1]
        return MeanVariation(self.total_variation, tuple(units))

    def optimizer_of(self, observation: Observation, params: Iterable[Tensor]) -> RowOptimizer:
        if self.optimizer != "adam":
            return super().optimizer_of(observation, params)
        rate = self.learning_rate or LEARNING_RATES["adam"]
        milestones = [int(part * self.max_evaluations) for part in DECAYS]
        units = observation.channel_stds[:, None, None] if self.standardized else None
        return BatchAdam(params, rate, sign=True, milestones=milestones, box=True, units=units)
