from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from attacks.base import Observation, Reconstruction
from attacks.idlg import IDLG
from defenses.base import Update, unchanged


@dataclass(eq=False)
class PlainFirst(IDLG):
    """iDLG that takes what was shared for true at first, and simulates the known defense from there: part of AutoLeak.

    Half of the budget matches the entries that were shared as they are, from the public mean image; the other half goes
    on with the simulation. A defense that rounds shares the same of all gradients that are near, and at each level has
    an edge, at which a descent from afar ends. Where nothing is simulated it is iDLG from the mean.
    """

    start: str = "mean"

    def reconstruct(
        self,
        observation: Observation,
        callbacks: Sequence[Callback] = (),
        start_images: Tensor | None = None,
        **trainer: Any,
    ) -> Reconstruction:
        half = self.max_evaluations // 2
        if not (half and is_simulated(observation)) or start_images is not None:
            return super().reconstruct(observation, callbacks, start_images, **trainer)
        self.check(observation.model, observation.image_shape)
        observation = self.labeled(observation)
        first = replace(self, max_evaluations=half).problem(taken_for_true(observation))
        first.told = self.telling(0, 1 / 2)
        objective = first.objective
        led = first.solve(callbacks, **trainer)
        second = replace(self, max_evaluations=self.max_evaluations - half).problem(observation, led.images)
        second.told = self.telling(1 / 2, 1)
        second.objective.scale_as(objective)
        found = second.solve(callbacks, **trainer)
        # The halves have different losses, which make no curve together.
        return replace(found, evaluations=led.evaluations + found.evaluations, trajectory=None)

    def labeled(self, observation: Observation) -> Observation:
        """The same with labels as they are told with knowledge of the defense, unless they are optimized."""
        sources = [torch.Generator().manual_seed(seed) for seed in observation.seeds]
        logits, are_optimized = self.label_logits(observation, sources)
        return observation if are_optimized else replace(observation, labels=logits.argmax(-1))


def is_simulated(observation: Observation) -> bool:
    """Whether a known defense is simulated on the attacker's own update."""
    return observation.defense is not None and observation.defense.simulate is not unchanged


def taken_for_true(observation: Observation) -> Observation:
    """The same, where each entry that was shared is taken for that of the gradient: its noise stays known."""
    known = observation.defense
    assert known is not None
    kept_entries = known.kept_entries

    def simulate(dummy: Update, observed: Update) -> Update:
        kept = kept_entries(observed)
        return {name: value * kept[name] for name, value in dummy.items()}

    plain = replace(known, simulate=simulate, kept=kept_entries)
    return replace(observation, defense=plain, later=tuple(map(taken_for_true, observation.later)))
