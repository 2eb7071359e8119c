"""DLG-FB: each attack of a sequence starts at a blend of what earlier ones have found."""

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from attacks.base import Attack, Observation, Reconstruction, Trajectory
from attacks.dlg import DLG
from attacks.engine.starts import draw_start
from attacks.gradient_matching import GradientMatching
from attacks.idlg import IDLG

BASES: dict[str, type[GradientMatching]] = {"DLG": DLG, "IDLG": IDLG}

FEEDBACK = ("blend", "ungated", "last")

WARM_UP = 2
"""Successes from noise that a sequence needs before it blends."""


class Memory:
    """What the S sequences have found so far: the two images that are blended, and whether the last attack failed.

    Args:
        feedback: "blend", "ungated" or "last".
        alpha: share of the older image.
        like: images ``[S, ...]``.
    """

    def __init__(self, feedback: str, alpha: float, like: Tensor) -> None:
        self._feedback, self._alpha = feedback, alpha
        self._old, self._new = torch.zeros_like(like), torch.zeros_like(like)
        self._successes = torch.zeros(len(like), dtype=torch.long, device=like.device)
        self._failed = torch.zeros(len(like), dtype=torch.bool, device=like.device)

    @property
    def warm(self) -> Tensor:
        """The sequences that start from what they have found, ``[S]``."""
        return self._successes >= WARM_UP

    @property
    def restarted(self) -> Tensor:
        """Those of them that start at the last checkpoint again, ``[S]``."""
        return self.warm & self._failed & (self._feedback == "blend")

    def start(self) -> Tensor:
        """Where a sequence that is warm starts, ``[S, ...]``."""
        if self._feedback == "last":
            return self._new
        blend = self._alpha * self._old + (1 - self._alpha) * self._new
        return torch.where(_each(self.restarted, blend), self._old, blend)

    def learn(self, found: Tensor, success: Tensor) -> None:
        """Takes in the images that were found from :meth:`start`, or from noise, and which of them are right."""
        warm, start = self.warm, self.start()
        kept = {"blend": warm, "ungated": warm, "last": warm & success}[self._feedback]
        first, second = ~warm & success & (self._successes == 0), ~warm & success & (self._successes == 1)
        self._old = torch.where(_each(first, found), found, torch.where(_each(warm, found), start, self._old))
        self._new = torch.where(_each(second | kept, found), found, self._new)
        self._successes += success & ~warm
        self._failed = warm & ~success


def _each(rows: Tensor, like: Tensor) -> Tensor:
    return rows.view(-1, *[1] * (like.dim() - 1))


class DLGFB(Attack):
    """DLG with feedback blending, for sequences of victims (Leite et al. 2024, arXiv 2409.17767, and its code).

    Victims that follow each other are a sequence. Its first attacks start from noise, until two have succeeded. From
    then on an attack starts at the blend of the last start and the last reconstruction: an average of what was found
    with weights 1/2, 1/4, ... After a failure the next attack starts at the last start, unblended. All sequences are
    attacked side by side, one victim of each at a time. Unlike in the published code, the first blended attack is not
    one on an image that the attack from noise has just found.

    Args:
        attack: "DLG" or "IDLG".
        length: victims of a sequence, at least 3.
        feedback: "blend", as published; "ungated", the same with failed reconstructions too; or "last", the last
            reconstruction that succeeded as it is.
        alpha: share of the older image in a blend, from 0 to 1.
        gate: matching loss at or below which an attack has succeeded, above 0; published are 0.03 for MNIST and 0.09
            for CIFAR-100.
        max_evaluations: gradient evaluations for each victim, at least 1.
        tolerance: stop when the matching loss is below this; at least 0.
        at_once: victims under attack at the same time, at least 1; None for one of each sequence.
    """

    one_image_only = True
    simulates = True

    def __init__(
        self,
        attack: str = "IDLG",
        length: int = 10,
        feedback: str = "blend",
        alpha: float = 0.5,
        gate: float = 0.03,
        max_evaluations: int = 6000,
        tolerance: float = 1e-6,
        at_once: int | None = None,
    ) -> None:
        for name, value, valid in (("attack", attack, BASES), ("feedback", feedback, FEEDBACK)):
            if value not in valid:
                raise ValueError(f"{name} is {value!r}, but must be one of {', '.join(valid)}")
        if length <= WARM_UP:
            raise ValueError(f"length is {length}, but must be at least {WARM_UP + 1}")
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha is {alpha}, but must be from 0 to 1")
        if not gate > 0:
            raise ValueError(f"gate is {gate}, but must be above 0")
        self.sequence = length
        self.feedback, self.alpha, self.gate = feedback, alpha, gate
        self.at_once = at_once
        self.base = BASES[attack](max_evaluations=max_evaluations, tolerance=tolerance, at_once=at_once)

    def check(self, model: nn.Module, image_shape: tuple[int, int, int, int]) -> None:
        super().check(model, image_shape)
        self.base.check(model, image_shape)

    def reconstruct(
        self, observation: Observation, callbacks: Sequence[Callback] = (), **trainer: Any
    ) -> Reconstruction:
        """Attacks all V victims; ``trainer`` are arguments of the Trainer of each step of the sequences."""
        self.check(observation.model, observation.image_shape)
        self.base.at_once = self.at_once
        victims = observation.num_victims
        if victims % self.sequence:
            raise ValueError(f"{victims} victims are no whole number of sequences of {self.sequence}")
        steps: list[Reconstruction] = []
        memory: Memory | None = None
        for step in range(self.sequence):
            seen = observation.take(range(step, victims, self.sequence))
            noise = draw_start("noise", seen, [torch.Generator().manual_seed(seed) for seed in seen.seeds])
            memory = memory or Memory(self.feedback, self.alpha, noise)
            warm, restarted = memory.warm, memory.restarted
            start = torch.where(_each(warm, noise), memory.start(), noise)
            self.base.told = self.telling(step / self.sequence, (step + 1) / self.sequence)
            found = self.base.reconstruct(seen, callbacks, start, **trainer)
            memory.learn(found.images, found.loss <= self.gate)
            for row in range(len(seen.seeds)):
                found.starts[row] = "checkpoint" if restarted[row] else self.feedback if warm[row] else "warm-up"
            steps.append(found)
        return interleave(steps)


def interleave(steps: list[Reconstruction]) -> Reconstruction:
    """The reconstructions of the first, second, ... victims of all sequences, sequence after sequence."""

    def joined(parts: list[Tensor]) -> Tensor:
        return torch.stack(parts, 1).flatten(0, 1)

    trajectories = [step.trajectory for step in steps if step.trajectory]
    return Reconstruction(
        images=joined([step.images for step in steps]),
        labels=joined([step.labels for step in steps]),
        loss=joined([step.loss for step in steps]),
        evaluations=joined([step.evaluations for step in steps]),
        status=[status for turn in zip(*(step.status for step in steps), strict=True) for status in turn],
        trajectory=Trajectory(
            trajectories[0].evaluations,
            joined([trajectory.loss for trajectory in trajectories]),
            joined([trajectory.images for trajectory in trajectories]),
            trajectories[0].levels,
            joined([trajectory.passed for trajectory in trajectories]),
            trajectories[0].pictured,
        ),
        label_probabilities=joined([one for step in steps if (one := step.label_probabilities) is not None]),
        starts=[start for turn in zip(*(step.starts for step in steps), strict=True) for start in turn],
    )
