from collections.abc import Sequence

import torch

from defenses.base import KnownDefense, Update, joined, parted, remembered
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

    def known_to_attacker(self) -> KnownDefense:
        if self.ratio == 0:
            return KnownDefense()
        of_one_tensor, whole = super().known_to_attacker(), remembered(joined)

        def simulate(dummy: Update, observed: Update) -> Update:
            return parted(of_one_tensor.simulate(joined(dummy), whole(observed)), observed)

        def kept(observed: Update) -> Update:
            return parted(of_one_tensor.kept_entries(whole(observed)), observed)

        return KnownDefense(simulate=simulate, kept=kept)
