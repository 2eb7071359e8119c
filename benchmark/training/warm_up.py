"""A learning rate that rises first: networks whose first gradients are large survive the rate that suits them later."""

from dataclasses import dataclass

from benchmark.federation.recipe import Count, Federation


@dataclass(frozen=True)
class WarmedUp(Federation):
    """A federation whose learning rate rises linearly at first (Goyal et al. 2017, arXiv 1706.02677, section 2.2).

    Attributes:
        warm_up: rounds in which it does, whatever it decays to meanwhile.
    """

    warm_up: Count = 1

    def rate(self, done: int) -> float:
        """The learning rate of the round after so many."""
        return super().rate(done) * min(1.0, (done + 1) / self.warm_up)
