from collections.abc import Sequence

import torch
from torch import Tensor

from attacks.base import Observation
from attacks.engine.label_rules import label_logits
from attacks.gradient_matching import GradientMatching


class DLG(GradientMatching):
    """Deep Leakage from Gradients: images and soft labels together (Zhu et al. 2019, arXiv 1906.08935).

    From noise, L-BFGS on the squared distance of their gradient to the update.
    """

    def start_labels(self, observation: Observation, generators: Sequence[torch.Generator]) -> tuple[Tensor, bool]:
        return label_logits("joint", observation, generators)
