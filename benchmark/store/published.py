"""Published records: the lines of a few files, ``records.jsonl`` and on, instead of a file for each in ``records/``.

A line holds the very bytes that a file of its own would hold. Where a record has such a file, too, the file counts: a
run that goes on in a published folder writes there.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Set
from functools import lru_cache
from itertools import count
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from benchmark.errors import UsageError
from benchmark.suite.documents import regular

LARGEST = 1_000_000
"""Bytes up to which a file is filled: larger ones are a burden in a repository."""


class _Keyed(msgspec.Struct):
    """A key is a part of a file's name, and must not lead out of the folder."""

    key: Annotated[str, Meta(pattern=r"^[0-9A-Za-z_]{1,64}$")]


_as_keyed = msgspec.json.Decoder(_Keyed)


def files(folder: Path) -> list[Path]:
    """The published files of a folder of records, which stand beside it.

    Args:
        folder: ``RUN/records`` or ``RUN/training``, which need not be there.
    """
    own = re.compile(rf"{re.escape(folder.name)}(-\d+)?\.jsonl")
    return sorted(path for path in folder.parent.glob(f"{folder.name}*.jsonl") if own.fullmatch(path.name))


def keys(folder: Path) -> set[str]:
    """Of the published records of a folder; a line that is none, or is there twice, counts by its place.

    Raises:
        UsageError: a file cannot be read.
    """
    return {key for path in files(folder) for key in _lines_of(path)}


def line(folder: Path, key: str) -> bytes | None:
    """The published record of a key, None where there is none.

    Args:
        folder: as for :func:`files`.
        key: of :func:`keys`.

    Raises:
        UsageError: a file cannot be read.
    """
    read = map(_lines_of, files(folder))
    return next((of_it[key] for of_it in read if key in of_it), None)


def _lines_of(path: Path) -> Mapping[str, bytes]:
    try:
        regular(path)
        is_now = path.stat()
        return _read(path.absolute(), is_now.st_mtime_ns, is_now.st_size)
    except FileNotFoundError:  # a broken link
        return {}
    except OSError as error:
        raise UsageError(f"the records in {path} cannot be read ({error.strerror}): check the file") from None


@lru_cache(maxsize=64)
def _read(path: Path, modified: int, size: int) -> Mapping[str, bytes]:
    """The lines of a file, which is read again when it has changed."""
    found: dict[str, bytes] = {}
    for number, content in enumerate(path.read_bytes().splitlines(), 1):
        key = key_of(content)
        found[f"{path.name}, line {number}" if key is None or key in found else key] = content
    return found


def key_of(content: bytes) -> str | None:
    """The key of the record in a line, None where it has none."""
    try:
        return _as_keyed.decode(content).key
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


def filled(folder: Path, records: Iterable[tuple[str, bytes]]) -> Iterator[tuple[Path, bytes]]:
    """The files that have to be written so that a folder has these records, and what they then hold.

    A record stays in its file, and a new one comes into the first that has room: so nothing is lost or doubled where
    not all of them come to be written.

    Args:
        folder: as for :func:`files`.
        records: keys and content; one that is there is replaced.
    """
    held = {path: path.read_bytes().splitlines() for path in files(folder)}
    sizes = {path: sum(map(len, of_it)) + len(of_it) for path, of_it in held.items()}
    places = {key_of(content): (path, row) for path, of_it in held.items() for row, content in enumerate(of_it)}
    names = (folder.with_name(f"{folder.name}{'' if number == 1 else f'-{number:02}'}.jsonl") for number in count(1))
    changed: dict[Path, None] = {}
    for key, content in records:
        if key in places:
            path, row = places[key]
            if held[path][row] == content:
                continue
            held[path][row] = content
        else:
            room = (path for path in sizes if sizes[path] + len(content) < LARGEST)
            path = next(room, None) or next(name for name in names if name not in held)
            held.setdefault(path, []).append(content)
            sizes[path] = sizes.get(path, 0) + len(content) + 1
        changed[path] = None
    for path in changed:
        yield path, b"".join(content + b"\n" for content in held[path])


def without(folder: Path, gone: Set[str]) -> Iterator[tuple[Path, bytes]]:
    """The files that have to be written so that a folder has some records no more, and what they then hold.

    Args:
        folder: as for :func:`files`.
        gone: the keys of those records.
    """
    for path in files(folder):
        held = path.read_bytes().splitlines()
        kept = [content for content in held if key_of(content) not in gone]
        if len(kept) < len(held):
            yield path, b"".join(content + b"\n" for content in kept)
