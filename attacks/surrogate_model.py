from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from attacks.base import Observation
from attacks.engine.problem import MatchingProblem
from attacks.inverting_gradients import InvertingGradients
from attacks.threat import ThreatModel
from attacks.update import Protocol


@dataclass(eq=False)
class SurrogateModel(InvertingGradients):
    """Surrogate model extension: local steps as one gradient of weights on their way (SME, arXiv 2306.00127).

    Zhu et al. 2023: the local steps have led from the weights that the server sent to those that it got back, and what
    they share points as the gradient of all images together does somewhere between the two. So it is matched there as
    by Inverting Gradients, at the cost of a single gradient. How many steps there were, of which size and in which
    order, need not be known.

    Args:
        position: of the surrogate weights, from 0, those that were sent, to 1, those that came back; the published
            attack starts at 0.5 and moves on by less than a hundredth in its budget.
    """

    needs_local_steps: ClassVar[bool] = False

    position: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.position <= 1:
            raise ValueError(f"position is {self.position}, but must be from 0 to 1")
        if self.distance != "cosine":
            raise ValueError("SurrogateModel knows the direction of the update alone: leave distance out")

    def check_granted(self, protocol: Protocol, threat: ThreatModel, images: int = 1) -> None:
        super().check_granted(protocol, threat, images)
        if protocol.local is None:
            raise ValueError(
                "SurrogateModel is for the weights that local steps lead to: give protocol FedAvg, or attack with "
                "InvertingGradients"
            )

    def problem(self, observation: Observation, start_images: Tensor | None = None) -> MatchingProblem:
        """That of one gradient at the surrogate weights, in each round."""
        first, *later = (self.at_surrogate(seen) for seen in (observation, *observation.later))
        return super().problem(replace(first, later=tuple(later)), start_images)

    def at_surrogate(self, seen: Observation) -> Observation:
        """The same update, as if it were the gradient at the surrogate weights, name -> ``[V, ...]``."""
        moved = {name: seen.parameters[name] - self.position * change for name, change in seen.update.items()}
        protocol = replace(seen.protocol, local=None)
        return replace(seen, parameters={**seen.parameters, **moved}, protocol=protocol, order=None)
