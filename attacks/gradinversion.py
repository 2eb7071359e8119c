from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attacks.base import Observation
from attacks.engine.batch_adam import BatchAdam, Cosine
from attacks.engine.consistency import GroupConsistency
from attacks.engine.label_rules import check_rule, label_logits
from attacks.engine.priors import MeanSquare, MeanVariation, Prior, Together
from attacks.engine.row_optimizer import RowOptimizer
from attacks.engine.starts import Standardization
from attacks.gradient_matching import LEARNING_RATES, GradientMatching
from defenses.base import global_norm

WARM_UP = 50
"""Steps in which the learning rate rises, or a tenth of the budget where that is less."""


@dataclass(eq=False)
class GradInversion(GradientMatching):
    """GradInversion: BatchNorm statistics, image priors, and several seeds that agree (arXiv 2104.07586).

    Yin et al. 2021: from noise, Adam minimizes the squared distance of gradients, total variation, the L2 norm of the
    images, the distance of the batch's statistics from those that are granted, and the distance of each seed from the
    plain mean of all. Pixels are standardized, and stay in their range. Labels that are not granted are inferred by
    the paper's rule where the network and the number of classes let it. The authors gave no code. Seeds are not
    registered, and steps have no noise. The paper's weights are of one network's gradients; here they are in parts of
    the squared size of the update, so that they serve any. Adam takes the sign of each gradient, as in Inverting
    Gradients: the squared distance of a small network's gradients falls so slowly without it that it ends below the
    null baselines.

    It is an attack on trained networks. The running statistics of an untrained one are not those of images, and lead
    away from them: there, give ``batch_norm`` 0.

    Args:
        total_variation: weight of the mean absolute difference of neighbors in both directions; at least 0, in parts of
            the squared size of the update, as are all weights.
        l2: weight of the mean square of the standardized pixels; at least 0.
        batch_norm: weight of the squared distance of the statistics, at least 0; give 0 where the network has no
            BatchNorm, or the statistics are hidden.
        group_consistency: weight of the mean square of a seed's distance from the mean of all; at least 0.
        trials: seeds of each victim.
    """

    terms: ClassVar[tuple[str, ...]] = (*GradientMatching.terms, "l2", "group_consistency")

    max_evaluations: int = 4800
    tolerance: float = 0.0
    total_variation: float = 0.05
    l2: float = 1e-4
    batch_norm: float = 0.005
    group_consistency: float = 0.01
    trials: int = 4
    optimizer: str = "adam"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.restarts and self.trials > 1:
            raise ValueError("seeds that have to agree start together: give trials alone, or restarts with trials 1")

    def start_labels(self, observation: Observation, generators: Sequence[torch.Generator]) -> tuple[Tensor, bool]:
        try:
            check_rule("gradinversion", observation.model, observation.image_shape)
        except ValueError:  # labels repeat, or features can be negative
            return super().start_labels(observation, generators)
        return label_logits("gradinversion", observation, generators)

    def standardization(self, observation: Observation) -> Standardization:
        return Standardization.of(observation)

    def prior(self, observation: Observation) -> Prior:
        means, stds = (
            tuple(x.flatten().tolist()) for x in (self.standardization(observation).mean, observation.channel_stds)
        )
        return Together((MeanVariation(self.total_variation, stds), MeanSquare(self.l2, means, stds)))

    def prior_weights(self, observation: Observation) -> Tensor:
        return global_norm(observation.update).square()

    def group(self, observation: Observation) -> GroupConsistency | None:
        if self.trials == 1 or not self.group_consistency:
            return None
        return GroupConsistency(self.group_consistency, self.trials, tuple(observation.channel_stds.tolist()))

    def optimizer_of(self, observation: Observation, params: Iterable[Tensor]) -> RowOptimizer:
        if self.optimizer != "adam":
            return super().optimizer_of(observation, params)
        rate = self.learning_rate or LEARNING_RATES["adam"]
        schedule = Cosine(self.max_evaluations, min(WARM_UP, self.max_evaluations // 10))
        units = observation.channel_stds[:, None, None]
        return BatchAdam(params, rate, sign=True, box=True, units=units, schedule=schedule)
