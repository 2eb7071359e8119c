"""Null baselines: what an attacker finds who does not look at the gradient. An attack below them has found nothing."""

from collections.abc import Sequence

import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from attacks.base import Attack, Observation, Reconstruction
from attacks.engine.labels import best_labels
from attacks.engine.starts import GUESSES


class Baseline(Attack):
    """An answer that needs no optimization; labels are those of the sign rule, which any attacker has for free."""

    simulates = True
    needs_local_steps = False

    start = ""
    """Name of the guess, where there is one."""

    def guess(self, observation: Observation, labels: Tensor) -> Tensor:
        """Images that can be broadcast to ``[V, N, C, H, W]``; ``labels`` is ``[V, N]``."""
        return GUESSES[self.start](observation, labels)

    def reconstruct(self, observation: Observation, callbacks: Sequence[Callback] = ()) -> Reconstruction:
        victims, labels = observation.num_victims, best_labels(observation)
        images = self.guess(observation, labels).to(observation.device)
        return Reconstruction(
            images=images.expand(victims, *observation.image_shape).clone(),
            labels=labels,
            loss=torch.full((victims,), torch.inf),
            evaluations=torch.zeros(victims, dtype=torch.long),
            status=["closed form"] * victims,
        )


class ConstantImage(Baseline):
    """Null baseline: every pixel 0.5."""

    start = "constant"


class MeanImage(Baseline):
    """Null baseline: the mean of the data set's public (training) images."""

    start = "mean"


class ClassMeanImage(Baseline):
    """Null baseline: the mean of the public images of the class that the label rule finds."""

    start = "class_mean"
