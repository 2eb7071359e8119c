from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

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
    told by the rule "best". Where noise on the update is known, a cosine is a likelihood, and the prior of public
    images is weighed against it as in :class:`Bayes`, beside the total variation of the paper; it smooths a quarter of
    what is most probable, as the most probable images are smoother than private ones.

    Args:
        total_variation: weight of the mean absolute difference of neighbors in both directions, as in the authors'
            code; at least 0.
        standardized: whether steps, noise and total variation are those of standardized pixels, as published.
        nearness: against a known defense, weight of the cosine distance of the attacker's own gradient from what was
            shared, beside that of what a client would have shared of it; at least 0. A defense that rounds or prunes
            shares the same of many gradients, at whose edge a simulation of it stops; the true one is among them.
    """

    terms: ClassVar[tuple[str, ...]] = (*GradientMatching.terms, "nearness")
    prior_unit: ClassVar[float] = 4.0

    max_evaluations: int = 4800
    tolerance: float = 0.0
    total_variation: float = 0.01
    optimizer: str = "adam"
    distance: str = "cosine"
    standardized: bool = True
    nearness: float = 0.0

    def nearness_term(self) -> float:
        return self.nearness

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
