"""Null baselines: what an attacker finds who does not look at the gradient. An attack below them has found nothing."""

from collections.abc import Sequence

import torch
from lightning.pytorch.callbacks import Callback

from attacks.base import Attack, Observation, Reconstruction
from attacks.engine.labels import idlg_labels
from attacks.engine.starts import guess


class Baseline(Attack):
    """An answer that needs no optimization; labels are those of the sign rule, which any attacker has for free."""

    start: str
    """Name of the guess."""

    def reconstruct(self, observation: Observation, callbacks: Sequence[Callback] = ()) -> Reconstruction:
        victims, labels = observation.num_victims, idlg_labels(observation)
        return Reconstruction(
            images=guess(self.start, observation, labels),
            labels=labels[:, None].expand(-1, observation.image_shape[0]),
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
