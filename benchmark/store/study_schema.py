"""The form of a study's record: what a spectrum or a diagnosis found of a block of victims."""

from typing import Literal, NotRequired, TypedDict, get_args

import msgspec
from msgspec import UNSET, Raw, UnsetType

from benchmark.identity import block_identity, digest
from benchmark.store.schema import cell_of
from benchmark.store.sealing import (
    Count,
    Digest,
    Loss,
    Origin,
    Positive,
    Record,
    Sha256,
    agree,
    check_date,
    opened,
    written,
)


class StudyOrigin(Origin):
    """Where a study's record comes from; see :class:`benchmark.store.schema.AttackOrigin`."""

    data_chain: list[Digest]


class _Study(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What every study has: ``victims`` is the first one and the one past the last, ``study_sha256`` of its code."""

    schema: int
    key: str
    study_sha256: Sha256
    cell: str
    config: Raw
    code_sha256: Sha256
    attack_sha256: Sha256 | UnsetType = UNSET
    behavior_sha256: Digest | UnsetType = UNSET
    network_sha256: list[Digest]
    victims: tuple[Count, Count]
    provenance: StudyOrigin
    sha256: str


class Run(TypedDict):
    """What one run of an attack made of each victim.

    Attributes:
        leaked: whether the image was found, by the PSNR.
        status: how the attack ended.
        label_right: whether its label was right.
        objective: the lowest loss of the attack's own, with its priors; None where it was never finite.
        size: the loss of an update of zeros, None where it is infinite; missing in tables of older versions.
    """

    leaked: list[bool]
    status: list[str]
    label_right: list[bool]
    objective: list[int | float | None]
    size: NotRequired[list[Loss | None]]


RunName = Literal["as it is", "float64", "from the true image", "from near it"]
"""The runs of a diagnosis."""


class _Diagnosis(_Study, kw_only=True):
    runs: dict[RunName, Run]


class _Rank(_Study, kw_only=True):
    """Of one victim; see :class:`benchmark.studies.spectrum.JacobianRank`."""

    equations: Count
    pixels: Positive
    directions: list[Count]


_as_diagnosis = msgspec.json.Decoder(_Diagnosis)
_as_rank = msgspec.json.Decoder(_Rank)


def study_key(study: str, block: str) -> str:
    """The key of what a study finds of a block, by the checksum of the study's code and the key of the block."""
    return digest({"study_sha256": study, "block": block})


def diagnosis_record(content: bytes, name: str) -> Record:
    """The record of a diagnosis.

    Args:
        content: of its file.
        name: of its file, without the suffix.

    Raises:
        Unusable: it does not have the form of one, or contradicts itself.
    """
    record = checked(opened(content, name, _as_diagnosis))
    count = record["victims"][1] - record["victims"][0]
    parts = [run.get(name, []) for run in record["runs"].values() for name in Run.__annotations__]
    whole = len(record["runs"]) == len(get_args(RunName)) and all(len(part) == count for part in parts)
    agree(whole, "its runs do not fit its victims")
    return record


def rank_record(content: bytes, name: str) -> Record:
    """The record of the rank of one victim's Jacobian; see :func:`diagnosis_record`."""
    record = checked(opened(content, name, _as_rank))
    found = record["directions"]
    agree(found == sorted(found) and all(one <= record["pixels"] for one in found), "its ranks contradict each other")
    return record


def checked(found: _Study) -> Record:
    """The record as it was written, whose parts agree with each other."""
    record = written(found, cell_of)
    agree(found.cell == cell_of(bytes(found.config)), "its cell does not match its configuration")
    check_date(found.provenance["date"])
    first, stop = found.victims
    agree(stop > first and len(found.provenance["data_chain"]) == stop - first + 1, "its data_chain has gaps")
    behavior = "" if found.behavior_sha256 is UNSET else found.behavior_sha256
    chain, networks = found.provenance["data_chain"], found.network_sha256
    block = block_identity(found.cell, None, found.code_sha256, behavior, networks, range(first, stop), chain)
    is_its_key = found.key == study_key(found.study_sha256, digest(block))
    agree(is_its_key, "its key does not match its configuration, code and data")
    return record
