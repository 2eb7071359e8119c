"""How much of the labels of a batch an attack tells, whatever the order of its images."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LabelScores:
    """Shares in [0, 1] for each of V victims, ``[V]``, defined as in the code of iLRG (Ma et al. 2023).

    Attributes:
        existence: of all K classes, those that were rightly said to be in the batch or not (LeAcc).
        counts: of all K classes, those whose number of images is right (LnAcc).
        instances: of the N images, those that can be paired with a label that was found (IRec).
    """

    existence: Tensor
    counts: Tensor
    instances: Tensor

    def of(self, row: int) -> dict[str, float]:
        """Those of one victim."""
        return {name: float(value[row]) for name, value in vars(self).items()}


def label_scores(true: Tensor, found: Tensor, classes: int, counts: Tensor | None = None) -> LabelScores:
    """Scores of labels ``[V, N]`` each.

    Args:
        true: of the private batches.
        found: by the attack.
        classes: K.
        counts: of an attack that says how many images each class has, ``[V, K]``: these are scored then.
    """
    one, other = (torch.nn.functional.one_hot(labels.cpu(), classes).sum(1) for labels in (true, found))
    other = other if counts is None else counts.cpu()
    return LabelScores(
        existence=((one > 0) == (other > 0)).double().mean(1),
        counts=(one == other).double().mean(1),
        instances=torch.minimum(one, other).sum(1) / true.shape[1],
    )
