from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.base import Observation
from attacks.engine.labels import idlg_labels
from attacks.gradient_matching import GradientMatching
from attacks.threat import ThreatModel
from attacks.update import Protocol


@dataclass(eq=False)
class SAPAG(GradientMatching):
    """SAPAG: a self-adaptive privacy attack, by Gaussian kernels of the layers' gradients (arXiv 2009.06228).

    Wang et al. 2020: from noise, the mean over the layers of 1 minus a Gaussian kernel of the gradients' difference is
    minimized. The kernel is as wide as what was observed of the layer is large, so that layers with small gradients
    count as much as others. Labels that are not granted are inferred by iDLG's rule, for one image. No numbers with
    code exist, so nothing is reproduced here: the widths and the optimizer, Adam, are ours. The kernels are flat far
    from the update, where L-BFGS stalls.
    """

    tolerance: float = 0.0
    optimizer: str = "adam"
    distance: str = "kernel"

    def check_granted(self, protocol: Protocol, threat: ThreatModel, images: int = 1) -> None:
        super().check_granted(protocol, threat, images)
        if images > 1 and threat.labels == "hidden":
            raise ValueError(
                f"{type(self).__name__} infers the label of one image: give labels known or counts for {images}"
            )

    def start_labels(self, observation: Observation, generators: Sequence[torch.Generator]) -> tuple[Tensor, bool]:
        one_hot = torch.nn.functional.one_hot(idlg_labels(observation), observation.num_classes).unsqueeze(1)
        return torch.where(one_hot == 1, 0.0, -torch.inf), False
