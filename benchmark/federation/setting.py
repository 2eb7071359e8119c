"""What is between a private batch and what an attacker gets of it: network, protocol, rounds and threat model."""

from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from typing import Any, Literal

from attacks.threat import PRESETS, VALUES, Labels, Order, Statistics, ThreatModel
from attacks.update import FedAvg, Protocol
from benchmark.federation.state import TrainingState


@dataclass(frozen=True)
class Setting:
    """What clients compute, and what the attacker is granted; the defaults are those of the published attacks.

    Args:
        shared: whether all victims share one network, as in federated learning; else each has one of its own, as in the
            experiments of the iDLG paper.
        mode: of the network at the clients: "eval", where BatchNorm takes its running statistics, or "train", where it
            takes those of the batch.
        rounds: updates that each client shares of one batch, at least 1. Between them the network makes a step of SGD
            on public images, and a defense draws anew.
        threat_model: A to E of Carletti et al. 2025, each with what those before it have: A has the updates, B knows
            how many images of each class are in a batch, C the local steps of FedAvg, D has public data, and E the
            batch's statistics at BatchNorm. null grants the capabilities below one by one.
        labels: of the private batch: "hidden" (by default); "counts", how many images there are of each class; or
            "known".
        statistics: of BatchNorm: "hidden", for mode train; "shared", the running ones of the clients' network (by
            default); or "public", also mean and variance of the private batch at each of its layers.
        order: in which a client of FedAvg takes its images in each epoch: "unknown" (by default) or "known".
        public_data: whether the attacker has images of the same kind (by default): their mean, those of their classes,
            and how rough they are.
        local: the steps of FedAvg; None for FedSGD.
        state: what the shared network was trained with before; None for random weights.
    """

    shared: bool = False
    mode: Literal["eval", "train"] = "eval"
    rounds: int = 1
    threat_model: Literal["A", "B", "C", "D", "E"] | None = None
    labels: Labels | None = None
    statistics: Statistics | None = None
    order: Order | None = None
    public_data: bool | None = None
    local: FedAvg | None = None
    state: TrainingState | None = None

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ValueError(f"rounds is {self.rounds}, but must be at least 1")
        name = self.threat_model
        if name and (beyond := self.threat.beyond(PRESETS[name])):
            raise ValueError(
                f"threat model {name} does not grant {beyond[0]} {in_words(getattr(self, beyond[0]))}: leave "
                f"{beyond[0]} or threat_model out"
            )
        if self.mode == "eval" and self.threat.statistics == "hidden":
            raise ValueError("nobody can attack a network in mode eval whose statistics are hidden: give mode train")
        if self.state and not self.shared:
            raise ValueError("state is that of one trained network: give shared true, or leave state out")
        if self.order and not self.local:
            raise ValueError("order is that of local steps: give protocol FedAvg, or leave it out")

    def check_batch(self, images: int) -> None:
        """Looks whether clients with so many images each can compute that.

        Raises:
            ValueError: they cannot; with one sentence that says what to do.
        """
        if images == 1 and self.threat.labels == "counts" and self.labels:
            raise ValueError("the counts of the labels of one image are its label: give labels known, or batch_size")
        size = self.local.batch_size if self.local else None
        if size and images % size:
            fitting = ", ".join(str(one) for one in range(1, images + 1) if images % one == 0)
            raise ValueError(
                f"batch_size of FedAvg is {size}, which does not divide the {images} images of a client: give one of "
                f"{fitting}"
            )
        if self.order and (size or images) == images:
            raise ValueError("order makes no difference where a local step takes all images: leave it out")

    @cached_property
    def threat(self) -> ThreatModel:
        """What the attacker is granted."""
        granted = PRESETS[self.threat_model] if self.threat_model else ThreatModel()
        one_by_one = {name: value for name in VALUES if (value := getattr(self, name, None)) is not None}
        return replace(granted, **one_by_one)

    @property
    def protocol(self) -> Protocol:
        """What clients compute."""
        return Protocol(self.local, train=self.mode == "train")

    def config(self) -> dict[str, Any]:
        """What is not as in the published attacks, under the keys of a suite: a part of what decides a result."""
        usual = {one.name: one.default for one in fields(self)}
        given = {name: value for name, value in vars(self).items() if name in usual and value != usual[name]}
        if self.local:
            given["protocol"] = {"class": "FedAvg", **asdict(given.pop("local"))}
        if self.state:
            given["state"] = self.state.config()
        return given


def in_words(value: Any) -> str:
    """A value as a suite has it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def described(config: dict[str, Any]) -> list[str]:
    """What is not as in the published attacks, in a few words each, of the configuration of a scenario or a record."""
    usual = {one.name: one.default for one in fields(FedAvg)}
    said = {
        "shared": lambda value: "one shared network",
        "state": lambda value: TrainingState.from_dict(value).label,
        "mode": lambda value: f"mode {value}",
        "protocol": lambda value: "FedAvg of " + ", ".join(
            f"{k}={in_words(v)}" for k, v in value.items() if k != "class" and v != usual.get(k)
        ),
        "rounds": lambda value: f"{value} rounds",
        "threat_model": lambda value: f"threat model {value}",
        "labels": lambda value: {"counts": "counts of labels known"}.get(value, f"labels {value}"),
        "statistics": lambda value: f"statistics {value}",
        "order": lambda value: f"order {value}",
        "public_data": lambda value: "public data" if value else "no public data",
    }  # fmt: skip
    return [say(config[name]) for name, say in said.items() if name in config]
