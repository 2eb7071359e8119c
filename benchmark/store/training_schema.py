"""The form of a training's record: its parts, their types and ranges, and what must agree in it."""

from typing import Literal, NotRequired, TypedDict

import msgspec
from msgspec import UNSET, Raw, UnsetType

from benchmark.identity import digest
from benchmark.store.sealing import (
    CONFIGURED,
    Amount,
    Count,
    Loss,
    Origin,
    Part,
    Positive,
    Record,
    Sha256,
    Share,
    agree,
    configuration,
    opened,
    written,
)


class Dirichlet(TypedDict):
    """Alpha of a split by labels."""

    dirichlet: float


class Config(TypedDict):
    """Of a training; more keys make another one.

    ``tuning`` and ``validation_images`` are missing in schema 1, ``decay`` where the learning rate stays, and
    ``warm_up`` where it does not rise at first.
    """

    schema: Positive
    data: Part
    model: Part
    algorithm: Literal["FedSGD", "FedAvg"]
    clients: Positive
    clients_per_round: Positive
    rounds: Count
    local_epochs: Positive | None
    batch_size: Positive
    learning_rate: float
    decay: NotRequired[str]
    warm_up: NotRequired[Positive]
    server_momentum: float
    split: Literal["iid"] | Dirichlet
    batch_norm: Literal["exclude", "include"]
    evaluate_every: Positive
    train_images: Positive | None
    validation_images: NotRequired[Positive | None]
    test_images: Positive | None
    defense: Part | None
    seed: Count
    tuning: NotRequired[bool]


class Curve(TypedDict):
    """Accuracy and loss of the test images, at some rounds."""

    round: list[Count]
    accuracy: list[Share]
    loss: list[Loss]


class Judged(TypedDict):
    """Accuracy and loss of the validation images; the loss is None where it is infinite."""

    accuracy: Share
    loss: Loss | None


class Cost(TypedDict):
    """What a training cost; what a client sends and how long it works in a round, on average, is new."""

    seconds: Amount
    ms_per_round: Amount
    client_bytes: NotRequired[Amount]
    client_seconds: NotRequired[Amount]


class Privacy(TypedDict):
    """The differential privacy of each image of the client who has least of it, by the accountant of the defense.

    ``epsilon`` is None where it is infinite. ``sample_rate`` is the share of the client's images in each of its
    ``steps``.
    """

    epsilon: Amount | None
    delta: Share
    sample_rate: Share
    steps: Count


class _Training(msgspec.Struct, forbid_unknown_fields=True):
    """The code of those of before it was kept is None.

    What :data:`SINCE_TUNING` names is missing where the configuration is of schema 1.
    """

    schema: int
    key: str
    config: Raw
    code_sha256: Sha256 | None
    data_sha256: Sha256
    provenance: Origin
    status: Literal["done", "collapsed", "diverged"]
    round: Count
    accuracy: Share | None
    loss: Loss | None
    curve: Curve
    cost: Cost
    sha256: str
    majority: Share | UnsetType = UNSET
    validation: Judged | UnsetType | None = UNSET
    clients_changed: Share | UnsetType | None = UNSET
    entries_changed: Share | UnsetType | None = UNSET
    privacy: Privacy | UnsetType = UNSET
    images_tested: Positive | UnsetType = UNSET


SINCE_TUNING = ("majority", "validation", "clients_changed", "entries_changed")
"""What the record of a training has whose configuration says whether it chooses a learning rate (schema 2)."""

_as_training = msgspec.json.Decoder(_Training)
_as_config = configuration(Config)


def training_record(content: bytes, name: str) -> Record:
    """The record of a training.

    Args:
        content: of its file.
        name: of its file, without the suffix.

    Raises:
        Unusable: it does not have the form of one, or contradicts itself.
    """
    record = written(opened(content, name, _as_training), lambda config: _as_config.decode(CONFIGURED % config))
    _of_training(record)
    return record


def _of_training(record: Record) -> None:
    config, curve, status = record["config"], record["curve"], record["status"]
    times = curve["round"]
    agree(len(times) == len(curve["accuracy"]) == len(curve["loss"]), "its curve has gaps")
    agree(times == sorted(set(times)) and all(at <= config["rounds"] for at in times), "its curve is out of order")
    if status == "diverged":
        agree(record["accuracy"] is record["loss"] is None, "it diverged but has an accuracy")
        agree(max(times, default=0) <= record["round"] <= config["rounds"], "its curve does not fit its rounds")
    else:
        last = curve["accuracy"][-1:], curve["loss"][-1:]
        agree(last == ([record["accuracy"]], [record["loss"]]), "its accuracy is not the last of its curve")
        agree(record["round"] == times[-1] == config["rounds"], "it did not run all its rounds")
    has_tuning = config["schema"] > 1
    agree(("tuning" in config) == has_tuning, "its configuration is not of its schema")
    agree(all((name in record) == has_tuning for name in SINCE_TUNING), "its parts do not match its schema")
    if has_tuning:
        _of_canary(record)
    else:
        agree(status != "collapsed", "its status is not of its schema")
    if record["code_sha256"] is not None:
        about = config | {"data_sha256": record["data_sha256"], "code_sha256": record["code_sha256"]}
        agree(record["key"] == digest(about), "its key does not match its configuration, code and data")


def _of_canary(record: Record) -> None:
    """Raises where a training contradicts itself in whether it collapsed, was validated, or its defense acted."""
    if record["status"] != "diverged":
        above = record["accuracy"] - record["majority"]  # both are rounded: of equal ones either may have been larger
        fits = above <= 0 if record["status"] == "collapsed" else above >= 0
        agree(fits, "whether it collapsed contradicts its accuracy")
    agree((record["validation"] is None) == (record["status"] == "diverged"), "its validation does not fit its status")
    clients, entries = record["clients_changed"], record["entries_changed"]
    has_defense = record["config"]["defense"] is not None
    agree(has_defense == (clients is not None) == (entries is not None), "what was changed does not fit its defense")
    agree(bool(clients) == bool(entries), "what was changed of clients and of entries contradict each other")
