from collections.abc import Sequence
from dataclasses import dataclass

import torch
from lightning.pytorch.callbacks import Callback
from torch import nn

from attacks.base import Attack, Observation, Reconstruction
from attacks.engine.label_rules import LABEL_RULES, check_rule
from attacks.engine.last_layer import lost_heads
from attacks.engine.starts import GUESSES
from attacks.threat import ThreatModel
from attacks.update import Protocol


@dataclass(eq=False)
class LabelInference(Attack):
    """The labels alone, by one of the rules that attacks use: how much of a batch's classes does its update tell?

    It looks for no images: those it returns are the public mean images of the classes that it finds.

    Args:
        rule: "idlg", "bias", "gradinversion", "llg", "rlg", "ilrg", "ilrg_direction", "mixture", "best" or "known", see
            ``attacks/engine/label_rules.py``.
            Those of "idlg", "gradinversion" and "rlg" tell which classes are in a batch and not how many images each
            has. Labels that are optimized with the images are scored with the attack that does so, as with DLG.
    """

    simulates = True
    seeks_images = False

    rule: str = "ilrg"

    def __post_init__(self) -> None:
        if self.rule not in LABEL_RULES:
            raise ValueError(f"rule is {self.rule!r}, but must be one of {', '.join(LABEL_RULES)}")

    def check(self, model: nn.Module, image_shape: tuple[int, int, int, int]) -> None:
        super().check(model, image_shape)
        check_rule(self.rule, model, image_shape, counts=False)

    def check_granted(self, protocol: Protocol, threat: ThreatModel, images: int = 1) -> None:
        super().check_granted(protocol, threat, images)
        if self.rule == "known" and threat.labels == "hidden":
            raise ValueError("rule known needs the labels, which the threat model hides: give labels known or counts")

    def reconstruct(self, observation: Observation, callbacks: Sequence[Callback] = ()) -> Reconstruction:
        self.check(observation.model, observation.image_shape)
        victims, (counts, labels) = observation.num_victims, LABEL_RULES[self.rule].told(observation)
        if LABEL_RULES[self.rule].linear:  # of a layer that is known to be kept back a rule tells nothing
            counts = torch.where(lost_heads(observation)[:, None], 0, counts)
        return Reconstruction(
            images=GUESSES["class_mean"](observation, labels),
            labels=labels,
            loss=torch.full((victims,), torch.inf),
            evaluations=torch.zeros(victims, dtype=torch.long),
            status=["closed form"] * victims,
            label_counts=counts,
        )
