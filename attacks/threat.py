"""What an attacker is granted beside the network and the updates."""

from dataclasses import dataclass, fields, replace
from typing import Literal, get_args

Labels = Literal["hidden", "counts", "known"]
Statistics = Literal["hidden", "shared", "public"]
Order = Literal["unknown", "known"]


@dataclass(frozen=True)
class ThreatModel:
    """The capabilities of an honest-but-curious server, each from the least to the most.

    Batch size, number of classes and what clients compute in one step are always known. Whether a defense is known is
    not among these: every defense is attacked both ways.

    Attributes:
        labels: of the private batch: "hidden"; "counts", how many images there are of each class; or "known".
        statistics: of BatchNorm: "hidden"; "shared", the running statistics of the network that the clients were given;
            or "public", also mean and variance of the private batch at each of its layers.
        local_steps: learning rate, momentum, epochs and batch size of a client of FedAvg.
        order: in which a client of FedAvg takes its images in each epoch: "unknown" or "known".
        public_data: images of the same kind as the private ones: their mean, the means of their classes, and how rough
            they are. Without them an attacker takes gray for a mean image.
    """

    labels: Labels = "hidden"
    statistics: Statistics = "shared"
    local_steps: bool = True
    order: Order = "unknown"
    public_data: bool = True

    def beyond(self, granted: "ThreatModel") -> list[str]:
        """The capabilities of which this attacker has more than those that are granted."""
        return [
            one.name
            for one in fields(self)
            if _rank(one.name, getattr(self, one.name)) > _rank(one.name, getattr(granted, one.name))
        ]


VALUES: dict[str, tuple[str | bool, ...]] = {
    "labels": get_args(Labels),
    "statistics": get_args(Statistics),
    "local_steps": (False, True),
    "order": get_args(Order),
    "public_data": (False, True),
}
"""Those of each capability, from the least to the most."""


def _rank(capability: str, value: str | bool) -> int:
    return VALUES[capability].index(value)


_A = ThreatModel(local_steps=False, public_data=False)
_B = replace(_A, labels="counts")
_C = replace(_B, local_steps=True)
_D = replace(_C, public_data=True)
_E = replace(_D, statistics="public")

PRESETS = {"A": _A, "B": _B, "C": _C, "D": _D, "E": _E}
"""Threat models A (eavesdropper), B (informed), C (parameter-aware), D (data-enhanced) and E (statistical-informed) of
Carletti et al. 2025 (SoK, USENIX Security), each with what those before it have. The paper describes them in words; the
capabilities are our reading: B knows what is in a batch, C the local steps, D has public data, E the statistics of the
batch."""
