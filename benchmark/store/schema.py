"""The form of an attack's record: its parts, their types and ranges, and what must agree in it."""

import base64
import binascii
from collections.abc import Sequence
from functools import lru_cache
from math import inf, log10
from typing import Annotated, NotRequired, TypedDict

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from benchmark.identity import digest, identity
from benchmark.metrics.leak import LEAKED_PSNR, PSNR_CAP
from benchmark.store.sealing import (
    CONFIGURED,
    Amount,
    Count,
    Digest,
    Origin,
    Part,
    Positive,
    Record,
    Sha256,
    Unusable,
    agree,
    configuration,
    opened,
    written,
)

ROUNDING = 1e-4
"""Scores are kept with six digits: what follows from them is compared with this tolerance."""

CHAINED = "2026-11-26T20:00:00Z"
"""Records have had the checksums of networks and data since then; older ones are shown, but none is taken for one of
a run that goes on."""

Mse = Annotated[float, Meta(ge=0, le=1)]
Psnr = Annotated[float, Meta(ge=0, le=PSNR_CAP)]
Ssim = Annotated[float, Meta(ge=-1, le=1)]


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
    net: NotRequired[str]
    file: NotRequired[str]
    size: NotRequired[Positive]


class AttackOrigin(Origin):
    """Where an attack's record comes from.

    ``data_chain`` has an entry more than there are victims: see :func:`benchmark.jobs.blocks.data_chain`.
    """

    lpips: Lpips | str
    data_sha256: Sha256
    data_chain: NotRequired[list[Digest]]


class AttackersTraining(TypedDict):
    """What the training of an attacker's network cost, which serves all victims of the cell."""

    cpu_seconds: Amount
    public_images: Positive
    steps: Positive


class Cost(TypedDict):
    """What an attack cost; ``seconds`` are without a training."""

    seconds: Amount
    victims_at_once: Positive
    peak_memory_mib: Count
    notes: list[str]
    training: NotRequired[AttackersTraining]


Share = Annotated[float, Meta(ge=0, le=1)]


class OfLabels(TypedDict):
    """How much of the labels of a batch was told, see :mod:`benchmark.metrics.labels`."""

    existence: Share
    counts: Share
    instances: Share


class Returned(TypedDict):
    """What an ensemble of attacks returned of a victim, by its own criterion."""

    psnr: list[Psnr]
    leaked_any: bool


class Victim(TypedDict):
    """What became of one victim; lists have an entry for each image of its batch.

    The misfits (:mod:`benchmark.metrics.convergence`; None where infinite) are missing for null baselines, and in
    records of before there were any; so is the attack's own loss at the private batch, ``loss_of_truth``, where it
    lowers none; ``constant_objective`` is there where the distance of updates does not depend on the images where an
    attack starts, ``contrast_unseen`` where a private image was found but for a contrast that the network does not see.
    ``certified`` is of attacks that give certificates. Of an attack on the labels alone the lists are empty. Of an
    ensemble the scores are those of ``part``, the worst case; ``start`` is the attack whose images it returned, and
    ``parts`` says of each attack that was tried whether an image leaked to it.
    """

    index: Count
    status: str
    start: str | None
    evaluations: Count
    loss: int | float | None
    mse: list[Mse]
    psnr: list[Psnr]
    ssim: list[Ssim]
    lpips: list[Amount] | None
    null_psnr: list[Psnr]
    null_ssim: list[Ssim]
    leaked_any: bool
    leaked_all: bool
    label_correct: list[bool]
    labels: NotRequired[OfLabels]
    misfit: NotRequired[Amount | None]
    misfit_of_truth: NotRequired[Amount | None]
    misfit_of_noise: NotRequired[Amount | None]
    loss_of_truth: NotRequired[int | float | None]
    settled: NotRequired[bool]
    explained: NotRequired[bool]
    constant_objective: NotRequired[bool]
    contrast_unseen: NotRequired[bool]
    certified: NotRequired[list[bool]]
    part: NotRequired[str]
    parts: NotRequired[dict[str, bool]]
    returned: NotRequired[Returned]


class Curve(TypedDict):
    """What became of each victim while it was under attack."""

    evaluations: list[Count]
    loss: list[list[int | float | None]]
    psnr: list[list[Psnr | None]]
    levels: list[int | float]
    passed: list[list[Count | None]]


class _Found(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """An attack's record but for its curve and its picture.

    ``attack_sha256`` is of the code of the attack alone (missing in records of an older version), ``own_code`` of the
    user's files behind each of the user's own classes, and ``behavior_sha256`` of what these
    do (both missing where there are none), ``network_sha256`` of the networks of the first victim of all and of the
    last one of the block, ``training_sha256`` of all that decides the training of an attacker's network (missing
    where there is none), ``void`` why nothing can be said of the victims, ``no_adaptive_attack`` why the attacker
    could not make use of knowing the defense (missing where he could), ``random_update`` whether the defense, where
    it draws again, shares another update of the same batch (missing where it does not).
    """

    schema: int
    key: str
    cell: str
    config: Raw
    code_sha256: Sha256
    attack_sha256: Sha256 | UnsetType = UNSET
    own_code: dict[str, Sha256] | UnsetType = UNSET
    behavior_sha256: Digest | UnsetType = UNSET
    network_sha256: list[Digest] | UnsetType = UNSET
    training_sha256: Digest | UnsetType = UNSET
    void: str | UnsetType | None = UNSET
    no_adaptive_attack: str | UnsetType = UNSET
    random_update: bool | UnsetType = UNSET
    provenance: AttackOrigin
    cost: Cost
    victims: list[Victim]
    sha256: str


class _Scores(_Found, kw_only=True):
    """A record without what takes memory and time: the picture is seen to be a text, the curve to be JSON."""

    curve: Raw
    picture: str


class _Attack(_Found, kw_only=True):
    """The whole record."""

    curve: Curve
    picture: str


_as_config = configuration(Config)
_as_scores = msgspec.json.Decoder(_Scores)
_as_attack = msgspec.json.Decoder(_Attack)


def attack_record(content: bytes, name: str) -> Record:
    """The whole record of a block.

    Args:
        content: of its file.
        name: of its file, without the suffix.

    Raises:
        Unusable: it does not have the form of one, or contradicts itself.
    """
    record = checked(opened(content, name, _as_attack))
    _of_curve(record)
    _of_picture(record)
    return record


def attack_scores(content: bytes, name: str) -> Record:
    """The record of a block without its curve and its picture, in half the time and a quarter of the memory.

    Raises:
        Unusable: as :func:`attack_record`, but for the curve and the picture.
    """
    record = checked(opened(content, name, _as_scores))
    del record["curve"], record["picture"]
    return record


def run_record(content: bytes, name: str) -> Record:
    """The whole record of a block of a run that goes on; see :func:`attack_record`.

    Raises:
        Unusable: also where it is of before a record held all that its key is of.
    """
    record = attack_record(content, name)
    if "data_chain" not in record["provenance"]:
        raise Unusable("is from an older version of Leakboard, without the checksums of networks and images")
    return record


def checked(found: _Found) -> Record:
    """The record as it was written, whose parts agree with each other."""
    record = written(found, cell_of)
    agree(found.cell == cell_of(bytes(found.config)), "its cell does not match its configuration")
    agree(bool(found.victims), "it has no victims")
    check_victims(found.victims, record["config"]["batch_size"], isinstance(found.provenance["lpips"], str))
    agree((found.training_sha256 is UNSET) == ("training" not in found.cost), "it does not say what a training cost")
    chain = found.provenance.get("data_chain")
    agree((chain is None) == (found.network_sha256 is UNSET), "it lacks a checksum")
    if chain is None:
        agree(found.provenance["date"] < CHAINED, "it lacks the checksums of its networks and data")
    else:
        agree(len(chain) == len(found.victims) + 1, "its data_chain does not fit its victims")
        agree(found.key == digest(identity(record)), "its key does not match its configuration, code and data")
    return record


@lru_cache(maxsize=10_000)
def cell_of(config: bytes) -> str:
    """The name of the cell of a configuration in JSON, which all records of the cell share.

    Raises:
        msgspec.ValidationError: it does not have the form of one.
        RecursionError: it is nested too deeply.
    """
    _as_config.decode(CONFIGURED % config)
    return digest(msgspec.json.decode(config))


def check_victims(victims: Sequence[Victim], images: int, no_lpips: bool) -> None:
    """Raises :class:`Unusable` where victims of so many images each contradict themselves or each other."""
    for index, victim in enumerate(victims, victims[0]["index"]):
        agree(victim["index"] == index, "its victims are not consecutive")
        if wrong := contradiction(victim, images, no_lpips):
            raise Unusable(f"is damaged ({wrong.format(index)})")


def contradiction(victim: Victim, images: int, no_lpips: bool) -> str | None:
    """How a victim of so many images contradicts itself, with a gap for its number; None where it does not."""
    psnr, mse, null, lpips = victim["psnr"], victim["mse"], victim["null_psnr"], victim["lpips"]
    others = len(victim["ssim"]), len(victim["null_ssim"]), len(victim["label_correct"]), len(lpips or psnr)
    certified = victim.get("certified", psnr)
    if not psnr and "labels" in victim and "misfit" not in victim:
        images = 0  # of an attack on the labels alone
    if not len(psnr) == len(mse) == len(null) == len(certified) == images or others != (images,) * 4:
        return "victim {} does not have a score for each of its images"
    if (lpips is None) != no_lpips:
        return "victim {} has LPIPS where there is none, or none where there is"
    most, least = -inf, inf  # how far an image is above what counts as leaked
    for p, error, of_null in zip(psnr, mse, null, strict=True):
        if abs(p - psnr_of(error)) > 1e-3:
            return "the PSNR of victim {} does not match its MSE"
        above = p - (of_null if of_null > LEAKED_PSNR else LEAKED_PSNR)  # max and min take longer than all else here
        most = above if above > most else most
        least = above if above < least else least
    found = victim["status"] != "diverged" and images > 0
    if contradicts(victim["leaked_any"], found, most) or contradicts(victim["leaked_all"], found, least):
        return "whether victim {} leaked contradicts its scores"
    if "parts" in victim and (victim["leaked_any"] != any(victim["parts"].values()) or below_returned(victim)):
        return "whether victim {} leaked contradicts what the attacks of its ensemble found"
    return None


def below_returned(victim: Victim) -> bool:
    """Whether what an ensemble returned leaked, and its worst case did not."""
    return "returned" in victim and victim["returned"]["leaked_any"] and not victim["leaked_any"]


def contradicts(says: bool, found: bool, above: float) -> bool:
    """Whether something is said to leak, or not, against a score that is so far above what counts as leaked."""
    return says != (found and above > 0) and not (found and abs(above) <= ROUNDING)


def psnr_of(mse: float) -> float:
    """In dB, for pixels in [0, 1]."""
    psnr = -10 * log10(mse) if mse > 0 else PSNR_CAP
    return psnr if psnr < PSNR_CAP else PSNR_CAP


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
