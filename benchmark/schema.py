"""The form of a record, and what is wrong with one that does not have it.

A record is JSON that ends with the sha256 of all that stands before (its seal). What is read is checked three times:
that it is what was written (the seal), that it has every part in its type, and that its parts agree with each other.
The last one holds for records that were sealed again by somebody else, too.
"""

import base64
import binascii
import hashlib
import json
from collections.abc import Callable, Mapping
from math import log10
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import msgspec
from msgspec import Meta

from benchmark.leak import LEAKED_PSNR
from benchmark.scores import PSNR_CAP
from benchmark.suite import digest

Record = dict[str, Any]

SCHEMA = 2
"""Version of the form of a record; a change of what one holds raises this."""

SEAL = b',"sha256":"%s"}'

ROUNDING = 1e-4
"""Scores are kept with six digits: what follows from them is compared with this tolerance."""

Count = Annotated[int, Meta(ge=0)]
Positive = Annotated[int, Meta(ge=1)]
Amount = Annotated[float, Meta(ge=0)]
Share = Annotated[float, Meta(ge=0, le=1)]
Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
Digest = Annotated[str, Meta(pattern="^[0-9a-f]{16}$")]
Date = Annotated[str, Meta(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")]


_SCORES = ("mse", "psnr", "ssim", "null_psnr", "null_ssim", "label_correct")


class Unusable(Exception):
    """A record that cannot be used; the message says why, so that "the record X" before it makes a sentence."""


Part = TypedDict("Part", {"class": str})
"""A class; its arguments are more keys."""


class Config(TypedDict):
    """Of a cell; more keys make another cell."""

    schema: int
    data: Part
    model: Part
    batch_size: Positive
    seed: Count
    defense: Part | None
    attack: Part
    adaptive: bool


class Lpips(TypedDict):
    """Which network the LPIPS of a record is of."""

    sha256: Sha256


class Origin(TypedDict):
    """Where an attack's record comes from.

    ``data_chain`` has an entry more than there are victims: see :func:`benchmark.blocks.data_chain`; records of before
    there was one have none.
    """

    date: Date
    commit: str | None
    device: str
    threads: Positive
    versions: dict[str, str]
    lpips: Lpips | str
    data_sha256: Sha256
    data_notes: list[str]
    data_chain: NotRequired[list[Digest]]


class Cost(TypedDict):
    """What an attack cost."""

    seconds: Amount
    victims_at_once: Positive
    peak_memory_mib: Count
    notes: list[str]


class Victim(TypedDict):
    """What became of one victim; lists have an entry for each image of its batch.

    The misfits (:mod:`benchmark.convergence`; None where infinite) are missing for null baselines, and in records of
    before there were any.
    """

    index: Count
    status: str
    start: str | None
    evaluations: Count
    loss: float | None
    mse: list[Amount]
    psnr: list[float]
    ssim: list[float]
    lpips: list[float] | None
    null_psnr: list[float]
    null_ssim: list[float]
    leaked_any: bool
    leaked_all: bool
    label_correct: list[bool]
    misfit: NotRequired[Amount | None]
    misfit_of_truth: NotRequired[Amount | None]


class Scores(TypedDict):
    """An attack's record without its curve and its picture.

    ``behavior_sha256`` is of what the user's own classes do (missing where there are none), ``network_sha256`` of the
    networks of the first victim of all and of the last one of the block, ``void`` why nothing can be said of the
    victims.
    """

    key: str
    cell: str
    config: Config
    code_sha256: Sha256
    behavior_sha256: NotRequired[Digest]
    network_sha256: NotRequired[list[Digest]]
    void: NotRequired[str | None]
    provenance: Origin
    cost: Cost
    victims: list[Victim]


class Curve(TypedDict):
    """What became of each victim while it was under attack."""

    evaluations: list[Count]
    loss: list[list[float | None]]
    psnr: list[list[float]]
    levels: list[float]
    passed: list[list[int | None]]


class Attack(Scores):
    """An attack's record."""

    curve: Curve
    picture: str


class TrainingConfig(TypedDict):
    """What every training has; more keys belong to its algorithm. ``tuning`` is missing in schema 1."""

    schema: Positive
    data: Part
    model: Part
    rounds: Count
    learning_rate: float
    defense: Part | None
    seed: Count
    tuning: NotRequired[bool]


class TrainingOrigin(TypedDict):
    """Where a training's record comes from."""

    date: Date
    commit: str | None
    device: str
    threads: Positive
    versions: dict[str, str]
    data_notes: list[str]


class TrainingCurve(TypedDict):
    """Accuracy and loss of the test images, at some rounds."""

    round: list[Count]
    accuracy: list[Share]
    loss: list[float]


class Judged(TypedDict):
    """Accuracy and loss of the validation images; the loss is None where it is infinite."""

    accuracy: Share
    loss: float | None


class TrainingCost(TypedDict):
    """What a training cost."""

    seconds: Amount
    ms_per_round: Amount


class Training(TypedDict):
    """A training's record; the code of those of before it was kept is None.

    What :data:`SINCE_TUNING` names is missing where the configuration is of schema 1.
    """

    key: str
    config: TrainingConfig
    code_sha256: Sha256 | None
    data_sha256: Sha256
    provenance: TrainingOrigin
    status: Literal["done", "collapsed", "diverged"]
    round: Count
    accuracy: Share | None
    loss: float | None
    majority: NotRequired[Share]
    validation: NotRequired[Judged | None]
    clients_changed: NotRequired[Share | None]
    entries_changed: NotRequired[Share | None]
    curve: TrainingCurve
    cost: TrainingCost


SINCE_TUNING = ("majority", "validation", "clients_changed", "entries_changed")
"""What the record of a training has whose configuration says whether it chooses a learning rate (schema 2)."""


def sealed(record: Mapping[str, Any]) -> bytes:
    """The JSON of a record with the version of its form, and at its end the sha256 of all that stands before.

    Bytes of a path that are no text become question marks.
    """
    parts = {"schema": SCHEMA} | {name: value for name, value in record.items() if name not in ("schema", "sha256")}
    text = json.dumps(parts, allow_nan=False, separators=(",", ":"), ensure_ascii=False).encode(errors="replace")
    return text[:-1] + SEAL % hashlib.sha256(text).hexdigest().encode()


def is_sealed(content: bytes) -> bool:
    """Whether the content is what was written."""
    text, seal = content[: -len(SEAL % (b"0" * 64))] + b"}", content[-len(SEAL % (b"0" * 64)) :]
    return seal == SEAL % hashlib.sha256(text).hexdigest().encode()


class _Version(msgspec.Struct):
    """What says whether something that is not sealed is a record of an older version."""

    key: str
    config: dict[str, Any]
    schema: int = 0


_as_json = msgspec.json.Decoder(dict[str, Any])


class _Evaluations(TypedDict):
    evaluations: int


class _Spent(TypedDict):
    key: str
    config: dict[str, Any]
    victims: list[_Evaluations]


_as_spent = msgspec.json.Decoder(_Spent)


class _Brief(TypedDict):
    """A record without what takes memory and time: the picture is seen to be a text, the curve to be JSON."""

    schema: int
    key: str
    cell: str
    config: dict[str, Any]
    code_sha256: str
    behavior_sha256: NotRequired[str]
    network_sha256: NotRequired[list[str]]
    void: NotRequired[str | None]
    provenance: dict[str, Any]
    cost: dict[str, Any]
    victims: list[dict[str, Any]]
    picture: str


_as_brief = msgspec.json.Decoder(_Brief)


def opened(content: bytes, name: str, decoder: msgspec.json.Decoder[Any] = _as_json) -> Record:
    """The parts of a record, which are what was written under that name.

    Raises:
        Unusable: they are not.
    """
    try:
        if not is_sealed(content):
            found = msgspec.json.decode(content, type=_Version)
            raise Unusable(
                f"is from an older version of Leakboard (schema {found.schema or 'unknown'}, this one writes {SCHEMA})"
                if found.schema < SCHEMA
                else "is damaged (its checksum does not match its content)"
            )
        record: Record = decoder.decode(content)
    except msgspec.ValidationError as error:
        raise Unusable(f"is damaged ({error})") from None
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise Unusable("is damaged (it is cut off, or not a record)") from None
    if (version := record.pop("schema", 0)) != SCHEMA:
        which = "a newer" if isinstance(version, int) and version > SCHEMA else "an older"
        raise Unusable(f"is from {which} version of Leakboard (schema {version}, this one writes {SCHEMA})")
    record.pop("sha256", None)
    if record.get("key") != name:
        raise Unusable(f"is damaged (it is a copy of another, {record.get('key')!r})")
    return record


def attack_record(content: bytes, name: str) -> Record:
    """The whole record of a block.

    Args:
        content: of its file.
        name: of its file, without the suffix.

    Raises:
        Unusable: it does not have the form of one, or contradicts itself.
    """
    return _checked(opened(content, name), content, _as_attack, _of_scores, _of_curve, _of_picture)


def run_record(content: bytes, name: str) -> Record:
    """The whole record of a block of a run that goes on; see :func:`attack_record`.

    Raises:
        Unusable: also where it is of before a record held all that its key is of.
    """
    record = attack_record(content, name)
    if "data_chain" not in record["provenance"]:
        raise Unusable("is from an older version of Leakboard, without the checksums of networks and images")
    return record


def attack_scores(content: bytes, name: str) -> Record:
    """The record of a block without its curve and its picture, in half the time and a quarter of the memory.

    Raises:
        Unusable: as :func:`attack_record`, but for the curve and the picture.
    """
    record = opened(content, name, _as_brief)
    del record["picture"]
    return _checked(record, content, _as_scores, _of_scores)


def spent(content: bytes, name: str) -> Record:
    """The configuration and the evaluations of a record, which is not checked for anything else: an estimate has use
    for no more.

    Raises:
        Unusable: it has none.
    """
    try:
        record: Record = dict(_as_spent.decode(content))
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise Unusable("is damaged") from None
    return record


def training_record(content: bytes, name: str) -> Record:
    """The record of a training.

    Raises:
        Unusable: it does not have the form of one, or contradicts itself.
    """
    return _checked(opened(content, name), content, _as_training, _of_training)


_as_attack = msgspec.json.Decoder(Attack)
_as_scores = msgspec.json.Decoder(Scores)
_as_training = msgspec.json.Decoder(Training)


def _checked(
    record: Record, content: bytes, form: msgspec.json.Decoder[Any], *rules: Callable[[Record], None]
) -> Record:
    """The record, whose content has the types of a form, and which follows the rules."""
    try:
        form.decode(content)
    except (msgspec.ValidationError, RecursionError) as error:
        raise Unusable(f"is damaged ({error})") from None
    for rule in rules:
        rule(record)
    return record


def agree(is_so: bool, what: str) -> None:
    """Raises :class:`Unusable` where it is not so."""
    if not is_so:
        raise Unusable(f"is damaged ({what})")


def _of_scores(record: Record) -> None:
    config, origin, victims = record["config"], record["provenance"], record["victims"]
    agree(record["cell"] == digest(config), "its cell does not match its configuration")
    agree(bool(victims), "it has no victims")
    first, images = victims[0]["index"], config["batch_size"]
    for index, victim in enumerate(victims, first):
        agree(victim["index"] == index, "its victims are not consecutive")
        _of_victim(victim, images, origin)
    agree(("network_sha256" in record) == ("data_chain" in origin), "it lacks a checksum")
    if (chain := origin.get("data_chain")) is not None:
        agree(len(chain) == len(victims) + 1, "its data_chain does not fit its victims")
        agree(record["key"] == digest(identity(record)), "its key does not match its configuration, code and data")


def _of_victim(victim: Record, images: int, origin: Record) -> None:
    """Raises where a victim contradicts itself, which has so many images."""
    wrong = None
    if any(len(victim[name]) != images for name in _SCORES) or len(victim["lpips"] or victim["psnr"]) != images:
        wrong = "victim {} does not have a score for each of its images"
    elif (victim["lpips"] is None) != isinstance(origin["lpips"], str):
        wrong = "victim {} has LPIPS where there is none, or none where there is"
    elif any(abs(p - psnr_of(mse)) > 1e-3 for p, mse in zip(victim["psnr"], victim["mse"], strict=True)):
        wrong = "the PSNR of victim {} does not match its MSE"
    else:
        found = victim["status"] != "diverged"
        above = [min(p - LEAKED_PSNR, p - null) for p, null in zip(victim["psnr"], victim["null_psnr"], strict=True)]
        for name, most in (("leaked_any", max(above)), ("leaked_all", min(above))):
            is_near = found and abs(most) <= ROUNDING
            if victim[name] != (found and most > 0) and not is_near:
                wrong = "whether victim {} leaked contradicts its scores"
    if wrong:
        raise Unusable(f"is damaged ({wrong.format(victim['index'])})")


def psnr_of(mse: float) -> float:
    """In dB, for pixels in [0, 1]."""
    return min(PSNR_CAP, -10 * log10(mse)) if mse > 0 else PSNR_CAP


def _of_curve(record: Record) -> None:
    curve, count = record["curve"], len(record["victims"])
    times, levels = len(curve["evaluations"]), len(curve["levels"])
    rows = (curve["loss"], times), (curve["psnr"], times), (curve["passed"], levels)
    no_curve = not times and not levels and not any(table for table, _ in rows)
    fits = all(len(table) == count and all(len(row) == width for row in table) for table, width in rows)
    agree(no_curve or fits, "its curve does not fit its victims")


def _of_picture(record: Record) -> None:
    if record["picture"]:
        try:
            image = base64.b64decode(record["picture"], validate=True)
        except (binascii.Error, ValueError):
            image = b""
        agree(image[:8] == b"\x89PNG\r\n\x1a\n" and image[-8:-4] == b"IEND", "its picture is not a PNG")


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


def identity(record: Record) -> dict[str, Any]:
    """Everything that decides the result of a record's block; its key is the digest of that."""
    origin, victims = record["provenance"], record["victims"]
    return block_identity(
        record["cell"],
        origin["lpips"]["sha256"] if isinstance(origin["lpips"], dict) else None,
        record["code_sha256"],
        record.get("behavior_sha256", ""),
        record.get("network_sha256", []),
        range(victims[0]["index"], victims[-1]["index"] + 1),
        origin["data_chain"],
    )


def block_identity(
    cell: str, lpips: str | None, code: str, behavior: str, networks: list[str], victims: range, data: list[str]
) -> dict[str, Any]:
    """Everything that decides the result of a block: the cell with its configuration, code, networks, and data."""
    return ({"behavior_sha256": behavior} if behavior else {}) | {
        "cell": cell,
        "lpips_sha256": lpips,
        "code_sha256": code,
        "network_sha256": networks,
        "victims": [victims.start, victims.stop],
        "data_chain": data,
    }
