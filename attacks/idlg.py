from collections.abc import Sequence

import torch
from torch import Tensor

from attacks.base import Observation
from attacks.engine.label_rules import label_logits
from attacks.gradient_matching import GradientMatching


class IDLG(GradientMatching):
    """Improved Deep Leakage from Gradients: the label by a sign rule, then the image (arXiv 2001.02610).

    For one image per victim (Zhao et al. 2020): from noise, L-BFGS on the squared distance of the image's gradient to
    the update.
    """

    one_image_only = True

    def start_labels(self, observation: Observation, generators: Sequence[torch.Generator]) -> tuple[Tensor, bool]:
        return label_logits("idlg", observation, generators)
