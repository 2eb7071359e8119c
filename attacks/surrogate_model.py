from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from attacks.base import Observation, Reconstruction
from attacks.inverting_gradients import InvertingGradients
from attacks.threat import ThreatModel
from attacks.update import Protocol
from defenses.base import KnownDefense, Update, global_norm, unchanged

POSITIONS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Places of the surrogate weights that are tried."""

HALFWAY = 0.5
"""Where they are in a budget that is too small to try places."""

PILOT = 0.1
"""Part of the budget that is spent on each of them; what is left is spent on the best one."""


@dataclass(eq=False)
class SurrogateModel(InvertingGradients):
    """Surrogate model extension: local steps as one gradient of weights on their way (SME, arXiv 2306.00127).

    Zhu et al. 2023: local steps lead from the weights that the server sent to those that it gets back, and what they
    change points as the gradient of all images together does somewhere between the two. There it is matched as by
    Inverting Gradients, at the cost of a single gradient. How many steps there were, of which size and in which order,
    need not be known. The paper optimizes the place beside the images, from halfway; here each victim takes the one of
    a few places where its own loss falls lowest in a tenth of the budget.

    Args:
        position: of the surrogate weights, from 0, those that were sent, to 1, those that came back; None for the best.
    """

    any_order: ClassVar[bool] = True
    needs_local_steps: ClassVar[bool] = False

    position: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.position is not None and not 0 <= self.position <= 1:
            raise ValueError(f"position is {self.position}, but must be from 0 to 1")
        if self.distance != "cosine":
            raise ValueError("SurrogateModel knows the direction of the update alone: leave distance out")

    def check_granted(self, protocol: Protocol, threat: ThreatModel, images: int = 1) -> None:
        super().check_granted(protocol, threat, images)
        if protocol.local is None:
            raise ValueError(
                "SurrogateModel is for weights that local steps lead to: give protocol FedAvg, or attack with "
                "InvertingGradients"
            )

    def reconstruct(
        self,
        observation: Observation,
        callbacks: Sequence[Callback] = (),
        start_images: Tensor | None = None,
        **trainer: Any,
    ) -> Reconstruction:
        positions, spent = self.positions(observation, start_images)
        attack = replace(self, max_evaluations=self.max_evaluations - spent)
        attack.told = self.telling(spent / self.max_evaluations, 1)
        found = super(SurrogateModel, attack).reconstruct(
            at_surrogate(observation, positions), callbacks, start_images, **trainer
        )
        return replace(found, evaluations=found.evaluations + spent)

    def loss_at(self, observation: Observation, images: Tensor, labels: Tensor) -> Tensor | None:
        """None, since it is that of weights whose place each victim has chosen."""
        return None

    def positions(self, observation: Observation, start_images: Tensor | None) -> tuple[Tensor, int]:
        """Of the surrogate weights of each victim, ``[V]``, and the evaluations that it took to choose them."""
        every = next(iter(observation.update.values())).new_ones(observation.num_victims)
        pilot = replace(self, max_evaluations=int(PILOT * self.max_evaluations) or 1)
        if self.position is not None or len(POSITIONS) * pilot.max_evaluations >= self.max_evaluations:
            return (HALFWAY if self.position is None else self.position) * every, 0
        losses = []
        for number, place in enumerate(POSITIONS):
            there = replace(pilot, position=place)
            done = number * pilot.max_evaluations / self.max_evaluations
            there.told = self.telling(done, done + pilot.max_evaluations / self.max_evaluations)
            losses.append(there.reconstruct(observation, (), start_images).loss)
        best = torch.stack(losses).nan_to_num(torch.inf).argmin(0)
        return every.new_tensor(POSITIONS)[best], len(POSITIONS) * pilot.max_evaluations


def at_surrogate(seen: Observation, positions: Tensor) -> Observation:
    """The same update as if it were the gradient at the surrogate weights, in each round.

    Args:
        seen: what the attacker has of V victims.
        positions: of the surrogate weights, ``[V]``.
    """
    moved = {
        name: seen.parameters[name] - positions.view(-1, *[1] * (change.dim() - 1)) * change
        for name, change in seen.update.items()
    }
    return replace(
        seen,
        parameters={**seen.parameters, **moved},
        protocol=replace(seen.protocol, local=None),
        defense=seen.defense and brought_to_size(seen.defense),
        order=None,
        own_size=False,
        later=tuple(at_surrogate(round, positions) for round in seen.later),
    )


def brought_to_size(known: KnownDefense) -> KnownDefense:
    """The same defense, on a gradient that is first given the size of the update: its thresholds are in that."""
    if known.simulate is unchanged:
        return replace(known, share=None)

    def simulate(dummy: Update, observed: Update) -> Update:
        size = global_norm(dummy)
        factor = global_norm(observed) / size.clamp(min=torch.finfo(size.dtype).tiny)
        sized = {name: factor.view(-1, *[1] * (value.dim() - 1)) * value for name, value in dummy.items()}
        return known.simulate(sized, observed)

    return replace(known, simulate=simulate, share=None)
