"""The folder of a run: one JSON file for each block of work that is done."""

import contextlib
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypedDict

import msgspec
from filelock import FileLock, Timeout

from benchmark.documents import regular
from benchmark.errors import UsageError

Record = dict[str, Any]

SCHEMA = 2
"""Version of the form of a record; a change of what one holds raises this."""

SEAL = b',"sha256":"%s"}'

_REQUIRED = ("key", "cell", "config", "provenance", "cost", "victims", "curve", "picture")


class Store:
    """Records in a folder that any number of processes may share.

    A record is written to a temporary file and renamed, so that it is there whole or not at all. A block is claimed
    with a lock that the operating system lets go when the process ends, however it ends.

    Args:
        folder: made where it is missing.

    Raises:
        UsageError: the folder can not be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.records = folder / "records"
        self._locks = folder / "locks"
        make_writable(self.records, folder)
        make_writable(self._locks, folder)
        self._whole: set[str] = set()

    def done(self, key: str) -> bool:
        """Whether the block has a whole record; see :meth:`scores`. One that was whole before is not read again."""
        return key in self._whole or self.scores(key) is not None

    def scores(self, key: str) -> Record | None:
        """What :func:`read_scores` finds for the block. A damaged record is reported, set aside and not counted."""
        path = self.records / f"{key}.json"
        if not path.exists():
            return None
        record = read_scores(path)
        if record is None:
            set_aside(path)
            return None
        self._whole.add(key)
        return record

    def claim(self, key: str) -> contextlib.AbstractContextManager[bool]:
        """Yields True where this process may run the block, False where it is done or another process runs it."""
        return claimed(self._locks / f"{key}.lock", lambda: self.done(key))

    def write(self, record: Record) -> None:
        """Adds a record, whole or not at all.

        Raises:
            UsageError: the disk is full or the folder is not writable any more.
        """
        write_whole(self.records / f"{record['key']}.json", sealed(record))
        self._whole.add(record["key"])


def make_writable(folder: Path, run: Path) -> None:
    """Makes a folder of a run, and sees whether files can be written there.

    Raises:
        UsageError: they can not.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(f"the folder {run} can not be written ({error.strerror}): give another folder") from None


def write_record(folder: Path, record: Record) -> None:
    """Writes a record under its key, whole or not at all.

    Raises:
        UsageError: the disk is full or the folder is not writable any more.
    """
    text = json.dumps(record, allow_nan=False, separators=(",", ":"))
    write_whole(folder / f"{record['key']}.json", text.encode())


def sealed(record: Record) -> bytes:
    """The JSON of a record with the version of its form, and at its end the sha256 of all that stands before."""
    parts = {"schema": SCHEMA} | {name: value for name, value in record.items() if name not in ("schema", "sha256")}
    text = json.dumps(parts, allow_nan=False, separators=(",", ":")).encode()
    return text[:-1] + SEAL % hashlib.sha256(text).hexdigest().encode()


def is_sealed(content: bytes) -> bool:
    """Whether the content is what was written."""
    text, seal = content[: -len(SEAL % (b"0" * 64))] + b"}", content[-len(SEAL % (b"0" * 64)) :]
    return seal == SEAL % hashlib.sha256(text).hexdigest().encode()


def set_aside(path: Path) -> None:
    """Puts a damaged record out of the way, and says so."""
    aside = path.with_suffix(".json.damaged")
    with contextlib.suppress(FileNotFoundError):  # another process was faster
        path.replace(aside)
        say(f"the record {path.name} is damaged: set aside as {aside.name} and run again")


@contextlib.contextmanager
def claimed(path: Path, done: Callable[[], bool]) -> Iterator[bool]:
    """Yields True where this process may do the work of a lock file, False where it is done or another has the lock.

    Raises:
        UsageError: the lock can not be written.
    """
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    except OSError as error:
        raise cannot_write(path, error) from None
    try:
        yield not done()
        if done():
            path.unlink(missing_ok=True)  # before the release, so that no new lock of that name is removed
    finally:
        lock.release()


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file to a temporary name beside it and renames it.

    Raises:
        UsageError: it can not be written; nothing is left behind.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", suffix=".tmp", delete=False) as file:
            temporary = Path(file.name)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise cannot_write(path, error) from None
        raise


def cannot_write(path: Path, error: OSError) -> UsageError:
    """The disk is full, or the folder is not writable any more."""
    return UsageError(
        f"{path} can not be written ({error.strerror}): make room or give another folder with --out; "
        "what is done is kept, and the same command goes on from there"
    )


class _Scores(TypedDict):
    key: str
    cell: str
    config: dict[str, Any]
    provenance: dict[str, Any]
    cost: dict[str, Any]
    victims: list[dict[str, Any]]
    picture: str


_all_parts = msgspec.json.Decoder(dict[str, Any])
_no_curve = msgspec.json.Decoder(_Scores)  # which is checked to be JSON all the same


def read_record(path: Path) -> Record | None:
    """The record in a file, or None where it is damaged."""
    record = _decoded(path, _all_parts)
    if record is None or not all(name in record for name in _REQUIRED):
        return None
    return {name: value for name, value in record.items() if name not in ("schema", "sha256")}


def read_scores(path: Path) -> Record | None:
    """The record without its curve and its picture: in half the time and a quarter of the memory."""
    record = _decoded(path, _no_curve)
    if record is not None:
        del record["picture"]
    return record


def _decoded(path: Path, decoder: msgspec.json.Decoder[Any]) -> Record | None:
    try:
        regular(path)
        record: Record = decoder.decode(path.read_bytes())
    except (ValueError, FileNotFoundError):
        return None
    except OSError as error:  # whole perhaps, so it is not to be set aside
        raise UsageError(f"the record {path} can not be read ({error.strerror}): see to its permissions") from None
    return record if record.get("key") == path.stem else None


def read_all(folder: Path, read: Callable[[Path], Record | None] = read_record) -> list[Record]:
    """All whole records of a folder, in the order of their keys; damaged ones are reported and left out.

    Args:
        folder: of a run.
        read: :func:`read_record`, or :func:`read_scores` for what a table needs.

    Raises:
        UsageError: there is no folder of records.
    """
    paths = sorted((folder / "records").glob("*.json"))
    if not paths:
        raise UsageError(f"there are no records in {folder}: give the folder that leakboard run wrote to")
    found = []
    for path in paths:
        record = read(path)
        if record is None:
            say(f"the record {path.name} is damaged and left out")
        else:
            found.append(record)
    if not found:
        raise UsageError(f"all records in {folder} are damaged: run the suite again into that folder")
    return found


def say(sentence: str) -> None:
    """A line to the user."""
    print(f"leakboard: {sentence}", file=sys.stderr)
