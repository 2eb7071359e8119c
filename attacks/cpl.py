from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attacks.base import Observation
from attacks.engine.labels import idlg_labels
from attacks.gradient_matching import GradientMatching
from attacks.threat import ThreatModel
from attacks.update import Protocol


@dataclass(eq=False)
class CPL(GradientMatching):
    """Client Privacy Leakage: patterned starts, and images that the network takes for their label (arXiv 2004.10397).

    Wei et al. 2020: from a tile that is repeated all over the image, L-BFGS minimizes the squared distance of gradients
    and that of the network's class probabilities from the label. Labels that are not granted are inferred by iDLG's
    rule, for one image. No numbers with code exist, so nothing is reproduced here, and the weight of the label is ours.

    Args:
        start: "tiles", a random tile in all places, or "color", one random color; and those of DLG.
        label_weight: of the squared distance of class probabilities from the label, at least 0. It is not 0 at the
            private image, unless the network is sure of the label: a large weight leads away from that image.
    """

    terms: ClassVar[tuple[str, ...]] = (*GradientMatching.terms, "label_weight")

    start: str = "tiles"
    label_weight: float = 1e-3

    def check_granted(self, protocol: Protocol, threat: ThreatModel, images: int = 1) -> None:
        super().check_granted(protocol, threat, images)
        if images > 1 and threat.labels == "hidden":
            raise ValueError(
                f"{type(self).__name__} infers the label of one image: give labels known or counts for {images}"
            )

    def start_labels(self, observation: Observation, generators: Sequence[torch.Generator]) -> tuple[Tensor, bool]:
        one_hot = torch.nn.functional.one_hot(idlg_labels(observation), observation.num_classes).unsqueeze(1)
        return torch.where(one_hot == 1, 0.0, -torch.inf), False

    def label_term(self) -> float:
        return self.label_weight
