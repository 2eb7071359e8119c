from dataclasses import dataclass
from typing import ClassVar

from attacks.gradient_matching import GradientMatching


@dataclass(eq=False)
class CPL(GradientMatching):
    """Client Privacy Leakage: patterned starts, and images that the network takes for their label (arXiv 2004.10397).

    Wei et al. 2020: from a tile that is repeated all over the image, L-BFGS minimizes the squared distance of gradients
    and that of the network's class probabilities from the label. No numbers with code exist, so nothing is reproduced
    here, and the weight of the label is ours.

    Args:
        start: "tiles", a random tile in all places, or "color", one random color; and those of DLG.
        label_weight: of the squared distance of class probabilities from the label, at least 0. It is not 0 at the
            private image, unless the network is sure of the label: a large weight leads away from that image.
    """

    terms: ClassVar[tuple[str, ...]] = (*GradientMatching.terms, "label_weight")

    start: str = "tiles"
    label_weight: float = 1e-3

    def label_term(self) -> float:
        return self.label_weight
