"""Records as they are kept: JSON that ends with the sha256 of all that stands before, its seal.

What is read is checked three times: that it is what was written (the seal), that it has every part in its type and
range, and that its parts agree with each other. The last two hold for records that were sealed again by somebody else,
too; they are in :mod:`benchmark.store.schema` and :mod:`benchmark.store.training_schema`.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Annotated, Any, TypedDict, TypeVar

import msgspec
from msgspec import UNSET, Meta

Record = dict[str, Any]

SCHEMA = 2
"""Version of the form of a record; a change of what one holds raises this."""

SEAL = b',"sha256":"%s"}'

SEALED = len(SEAL % (b"0" * 64))
"""Bytes of a seal."""

MOST = 10**12
"""Nothing is counted beyond this: so many evaluations of a millionth of a second each take twelve days."""

Count = Annotated[int, Meta(ge=0, le=MOST)]
Positive = Annotated[int, Meta(ge=1, le=MOST)]
Amount = Annotated[float, Meta(ge=0, le=MOST)]
Loss = Annotated[float, Meta(ge=0)] | Annotated[int, Meta(ge=0)]
Share = Annotated[float, Meta(ge=0, le=1)]
Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
Digest = Annotated[str, Meta(pattern="^[0-9a-f]{16}$")]
Date = Annotated[str, Meta(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")]

Part = TypedDict("Part", {"class": str})
"""A class; its arguments are more keys."""


class Origin(TypedDict):
    """Where a record comes from."""

    date: Date
    commit: str | None
    device: str
    threads: Positive
    versions: dict[str, str]
    data_notes: list[str]


class Unusable(Exception):
    """A record that cannot be used; the message says why, so that "the record X" before it makes a sentence."""


def sealed(record: Mapping[str, Any]) -> bytes:
    """The JSON of a record with the version of its form, and at its end the sha256 of all that stands before.

    Bytes of a path that are no text become question marks.
    """
    parts = {"schema": SCHEMA} | {name: value for name, value in record.items() if name not in ("schema", "sha256")}
    text = json.dumps(parts, allow_nan=False, separators=(",", ":"), ensure_ascii=False).encode(errors="replace")
    return text[:-1] + SEAL % hashlib.sha256(text).hexdigest().encode()


def is_sealed(content: bytes) -> bool:
    """Whether the content is what was written."""
    return content[-SEALED:] == SEAL % hashlib.sha256(content[:-SEALED] + b"}").hexdigest().encode()


class _Version(msgspec.Struct):
    schema: int = 0


class _Old(msgspec.Struct):
    """What says whether something that is not sealed is a record of an older version."""

    key: str
    config: dict[str, Any]
    schema: int = 0


Form = TypeVar("Form", bound=msgspec.Struct)


def opened(content: bytes, name: str, decoder: msgspec.json.Decoder[Form]) -> Form:
    """The parts of a record, which are what was written under that name.

    Args:
        content: of its file, which is decoded once.
        name: of its file, without the suffix.
        decoder: of a form with a ``key`` and a ``schema``.

    Raises:
        Unusable: they are not.
    """
    found: Any
    try:
        if not is_sealed(content):
            found = msgspec.json.decode(content, type=_Old)
            refuse_other(min(found.schema, SCHEMA))
            raise Unusable("is damaged (its checksum does not match its content)")
        try:
            found = decoder.decode(content)
        except msgspec.ValidationError:
            refuse_other(msgspec.json.decode(content, type=_Version).schema)
            raise
    except msgspec.ValidationError as error:
        raise Unusable(f"is damaged ({error})") from None
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise Unusable("is damaged (it is cut off, or not a record)") from None
    refuse_other(found.schema)
    if found.key != name:
        raise Unusable(f"is damaged (it is a copy of another, {found.key!r})")
    made: Form = found
    return made


def refuse_other(schema: int) -> None:
    """Raises :class:`Unusable` for another version of the form."""
    if schema != SCHEMA:
        which = "a newer" if schema > SCHEMA else "an older"
        raise Unusable(f"is from {which} version of Leakboard (schema {schema or 'unknown'}, this one writes {SCHEMA})")


CONFIGURED = b'{"config":%s}'
"""Around a configuration when it is decoded: so an error names its place in the record."""


def configuration(form: Any) -> msgspec.json.Decoder[Any]:
    """What decodes a configuration in :data:`CONFIGURED` that has the form of a typed dictionary."""
    return msgspec.json.Decoder(msgspec.defstruct("Configured", [("config", form)]))


def written(found: msgspec.Struct, check: Callable[[bytes], object]) -> Record:
    """The parts of a record as they were written, the configuration as JSON has it: its key is of just that.

    Args:
        found: the form, whose ``config`` is :class:`msgspec.Raw`.
        check: of the configuration; see :func:`configuration`.

    Raises:
        Unusable: the configuration does not have its form, or the date is none.
    """
    parts = ((name, getattr(found, name)) for name in found.__struct_fields__ if name not in ("schema", "sha256"))
    record = {name: part for name, part in parts if part is not UNSET}
    config = bytes(record["config"])
    try:
        check(config)
        record["config"] = msgspec.json.decode(config)
    except (msgspec.ValidationError, RecursionError) as error:
        raise Unusable(f"is damaged ({error})") from None
    check_date(record["provenance"]["date"])
    return record


def agree(is_so: bool, what: str) -> None:
    """Raises :class:`Unusable` where it is not so."""
    if not is_so:
        raise Unusable(f"is damaged ({what})")


def check_date(date: str) -> None:
    """Raises :class:`Unusable` for a date that no calendar has."""
    try:
        datetime.fromisoformat(date)
    except ValueError:
        raise Unusable(f"is damaged ({date} is not a date)") from None
