from collections.abc import Sequence

import torch

from defenses.base import Update, joined, parted
from defenses.pruning import Pruning


class GlobalPruning(Pruning):
    """Zeroes the smallest magnitudes of the whole update: top-k over all parameters together (arXiv 1712.01887).

    Lin et al. 2018 (Deep Gradient Compression), without the momentum that their clients keep. A layer whose gradients
    are small is lost as a whole. What an attacker makes of it is as with :class:`Pruning` of one long tensor.

    Args:
        ratio: share of all entries that is zeroed, from 0 up to but not including 1; 0 is no defense.
    """

    def protect(self, update: Update, generators: Sequence[torch.Generator]) -> Update:
        return parted(super().protect(joined(update), generators), update)

    def _kept(self, observed: Update) -> Update:
        return parted(super()._kept(joined(observed)), observed)

    def _simulate(self, dummy: Update, observed: Update) -> Update:
        return parted(super()._simulate(joined(dummy), joined(observed)), observed)
