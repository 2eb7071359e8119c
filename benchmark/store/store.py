"""The folder of a run: one JSON file for each job that is done, a checkpoint for some that are not."""

from __future__ import annotations

import contextlib
import io
import os
import secrets
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import msgspec
from filelock import FileLock, Timeout

from benchmark.errors import UsageError, one_line
from benchmark.garbage import uncollected
from benchmark.store import published
from benchmark.store.schema import attack_record, run_record
from benchmark.store.sealing import Record as Record
from benchmark.store.sealing import Unusable, sealed
from benchmark.store.study_schema import diagnosis_record, rank_record
from benchmark.store.training_schema import training_record
from benchmark.suite.documents import NotAFile, regular

if TYPE_CHECKING:
    import torch

Parse = Callable[[bytes, str], Record]
"""From the content of a file and its name without the suffix to a record; raises Unusable."""


T = TypeVar("T")


class Shelf(NamedTuple):
    """Where the records of one kind of job lie, and how they are read.

    Attributes:
        name: of the folder in that of a run.
        parse: how a record is read that a run goes on from.
        what: for people, as in "records of training".
        command: that writes them.
    """

    name: str
    parse: Parse
    what: str
    command: str


ATTACKS = Shelf("records", run_record, "records", "leakboard run")
TRAININGS = Shelf("training", training_record, "records of training", "leakboard train")
RANKS = Shelf("spectrum", rank_record, "records of spectra", "leakboard spectrum")
DIAGNOSES = Shelf("diagnosis", diagnosis_record, "records of diagnoses", "leakboard diagnose")
ELSEWHERE = "give another folder"
"""What to do where a file cannot be written, unless it is a place that is given in another way."""

SHELVES = (ATTACKS, TRAININGS, RANKS, DIAGNOSES)


class Store:
    """Records and checkpoints in a folder that any number of processes may share.

    They are written to a temporary file and renamed, so that they are there whole or not at all. A job is claimed with
    a lock that the operating system lets go when the process ends, however it ends. What killed processes left behind
    is removed.

    Args:
        folder: made where it is missing.
        shelf: which records.

    Raises:
        UsageError: the folder cannot be written.
    """

    def __init__(self, folder: Path, shelf: Shelf = ATTACKS) -> None:
        self.folder = folder
        self.records = folder / shelf.name
        self._parse = shelf.parse
        self._locks = folder / "locks"
        make_writable(self.records, folder)
        make_writable(self._locks, folder)
        tidy(folder, self.records, self._locks, folder / "pictures")
        self._whole: set[str] = set()

    def done(self, key: str) -> bool:
        """Whether the job has a whole record; see :meth:`record`. One that was whole before is not read again."""
        return key in self._whole or self.record(key) is not None

    def keys(self) -> set[str]:
        """The names of all records that are in the folder now; a listing sees those of other machines, too."""
        return keys_in(self.records)

    def missing(self, keys: Iterable[str]) -> set[str]:
        """Those of the jobs that have no record in the folder now; see :meth:`vanished` for a closer look."""
        gone = set(keys) - self.keys()
        self._whole -= gone
        return gone

    def vanished(self, keys: Iterable[str]) -> set[str]:
        """Those of the jobs that have no record, or another than was written, whatever this process has seen."""
        self._whole.clear()
        return {key for key in keys if not self.done(key)}

    def record(self, key: str) -> Record | None:
        """The job's record; one that cannot be used is reported, set aside and not counted."""
        record = usable(self.records / f"{key}.json", self._parse)
        if record is not None:
            self._whole.add(key)
        return record

    def all(self) -> list[Record]:
        """All records that can be used, in the order of their keys; the others are reported and left out."""
        return list(records_in(self.records, self._parse))

    def claim(self, key: str) -> contextlib.AbstractContextManager[bool]:
        """Yields True where this process may do the job, False where it is done or another process does it."""
        return claimed(self._locks / f"{key}.lock", lambda: self.done(key))

    def write(self, record: Record) -> None:
        """Adds a record, whole or not at all, and takes the checkpoint of its job away.

        Raises:
            UsageError: the disk is full or the folder is not writable any more.
        """
        write_whole(self.records / f"{record['key']}.json", sealed(record))
        self._whole.add(record["key"])
        self._saved(record["key"]).unlink(missing_ok=True)
        self._steps(record["key"]).unlink(missing_ok=True)

    def save(self, key: str, checkpoint: dict[str, Any]) -> None:
        """Writes from where a job that is not done can go on: numbers, texts and tensors."""
        import torch  # which readers of records do without

        content = io.BytesIO()
        torch.save(checkpoint, content)
        write_whole(self._saved(key), content.getvalue())

    def tell(self, key: str, steps: float, said: str) -> None:
        """Tells other processes how far a job is; where that cannot be written, it goes on untold."""
        with contextlib.suppress(OSError):
            self._steps(key).write_bytes(msgspec.json.encode((steps, said)))

    def told(self) -> dict[str, tuple[float, str]]:
        """How far the jobs are that are under way, by their keys, and what is said of each; see :meth:`tell`."""
        found = {}
        for path in self._locks.glob("*.steps"):
            with contextlib.suppress(OSError, msgspec.DecodeError):  # it has just ended, or is just being written
                found[path.stem] = msgspec.json.decode(path.read_bytes(), type=tuple[float, str])
        return found

    def checkpoint(
        self, key: str, parse: Callable[[dict[str, Any]], T], device: torch.device | str = "cpu"
    ) -> T | None:
        """What was saved of a job; it cannot run code. One that is damaged is reported and removed.

        Args:
            key: of the job.
            parse: what is made of it; raises anything where it is damaged.
            device: where its tensors will be.
        """
        import torch

        path = self._saved(key)
        try:
            return parse(torch.load(path, map_location=device, weights_only=True))
        except FileNotFoundError:  # its job has just been done
            return None
        except OSError as error:  # whole perhaps, so it is not to be removed
            say(f"the checkpoint {path.name} cannot be read ({one_line(error)})")
            return None
        except Exception as error:  # a damaged file makes torch raise nearly anything
            say(f"the checkpoint {path.name} is damaged ({type(error).__name__}): the run begins anew")
            path.unlink(missing_ok=True)
            return None

    def checkpoints(self, parse: Callable[[dict[str, Any]], T]) -> list[T]:
        """What was saved of all jobs that are not done; see :meth:`checkpoint`."""
        found = (self.checkpoint(path.stem, parse) for path in sorted(self.records.glob("*.pt")))
        return [checkpoint for checkpoint in found if checkpoint is not None]

    def _saved(self, key: str) -> Path:
        return self.records / f"{key}.pt"

    def _steps(self, key: str) -> Path:
        return self._locks / f"{key}.steps"


def keys_in(folder: Path) -> set[str]:
    """The names of the records in a folder and of those that are published beside it."""
    found = published.keys(folder)
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        found |= {path.stem for path in folder.iterdir() if path.suffix == ".json"}
    return found


def tidy(*folders: Path) -> None:
    """Removes what killed processes left behind: temporary files and locks, of which those of living ones are locked,
    and how far their jobs were, unless the job is locked: a living one may have nothing more to tell for long."""
    left = (".*.tmp", "*.lock", "*.steps")
    for path in (path for folder in folders for pattern in left for path in folder.glob(pattern)):
        locked = path.with_suffix(".lock") if path.suffix == ".steps" else path
        lock = FileLock(locked)
        with contextlib.suppress(OSError, Timeout):
            lock.acquire(timeout=0)
            try:
                for old in (locked, path):
                    old.unlink(missing_ok=True)
            finally:
                lock.release()


def make_writable(folder: Path, run: Path, instead: str = ELSEWHERE) -> None:
    """Makes a folder of a run, and sees whether files can be written there.

    Args:
        folder: is made.
        run: what it is in, and what is named.
        instead: what to do where that cannot be written.

    Raises:
        UsageError: they cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(f"the folder {run} cannot be written ({error.strerror}): {instead}") from None


def usable(path: Path, parse: Parse) -> Record | None:
    """The record in a file; None where there is none, or where it cannot be used: then it is reported and set aside."""
    try:
        return read(path, parse)
    except FileNotFoundError:
        return None
    except Unusable as why:
        return set_aside(path, parse, why)


def set_aside(path: Path, parse: Parse, why: Unusable) -> Record | None:
    """Puts a record that cannot be used out of the way, and says so.

    Returns:
        The record that another process has written meanwhile, which stays where it is.
    """
    moved = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.aside")
    aside = path.with_suffix(".json.damaged")
    try:
        path.rename(moved)
    except FileNotFoundError:  # another process was faster, or it is a published one
        if published.line(path.parent, path.stem) is not None:
            say_once(f"the published record {path.stem} {why}: it is run again")
        return None
    try:
        record = read(moved, parse, path.stem)
    except Unusable:
        moved.replace(aside)
        say(f"the record {path.name} {why}: set aside as {aside.name} and run again")
        return None
    moved.replace(path)
    return record


@contextlib.contextmanager
def claimed(path: Path, done: Callable[[], bool]) -> Iterator[bool]:
    """Yields True where this process may do the work of a lock file, False where it is done or another has the lock.

    Raises:
        UsageError: the lock cannot be written.
    """
    lock = FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)  # the folder can have been removed during the run
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


def write_whole(path: Path, content: bytes, instead: str = ELSEWHERE) -> None:
    """Writes a file to a temporary name beside it and renames it.

    Args:
        path: of the file.
        content: of it.
        instead: what to do where it cannot be written.

    Raises:
        UsageError: it cannot be written; nothing is left behind.
    """
    for again in (True, True, False):
        try:
            _write(path, content)
            return
        except FileNotFoundError as error:  # somebody removes the folder
            if not again:
                raise cannot_write(path, error, instead) from None
        except OSError as error:
            raise cannot_write(path, error, instead) from None


def _write(path: Path, content: bytes) -> None:
    """Writes a file; the temporary one is locked while its writer lives, so that :func:`tidy` leaves it alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    lock = FileLock(temporary)
    try:
        lock.acquire()
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    finally:
        lock.release()


def cannot_write(path: Path, error: OSError, instead: str = ELSEWHERE) -> UsageError:
    """The disk is full, or the folder is not writable any more."""
    return UsageError(
        f"{path} cannot be written ({error.strerror}): free some space or {instead}; finished work is kept, and the "
        "same command resumes"
    )


def read(path: Path, parse: Parse, name: str | None = None) -> Record:
    """The record in a file.

    Args:
        path: the file.
        parse: :func:`benchmark.store.schema.attack_record` or another of that kind.
        name: that of the record where the file has another.

    Raises:
        Unusable: it is no record that can be used; says why.
        FileNotFoundError: there is no file.
        UsageError: it cannot be read, and may be whole.
    """
    try:
        regular(path)
        content = path.read_bytes()
    except FileNotFoundError:
        if path.is_symlink():
            raise Unusable("is a broken link") from None
        line = published.line(path.parent, name or path.stem)
        if line is None:
            raise
        content = line
    except NotAFile:
        raise Unusable("is not a file") from None
    except OSError as error:
        raise UsageError(f"the record {path} cannot be read ({error.strerror}): check its permissions") from None
    return parse(content, name or path.stem)


def say(sentence: str) -> None:
    """A line to the user."""
    print(f"leakboard: {sentence}", file=sys.stderr)


say_once = cache(say)


def read_all(
    folder: Path,
    parse: Parse = attack_record,
    links: bool = True,
    shelf: Shelf = ATTACKS,
    tell: Callable[[str], None] = say,
) -> list[Record]:
    """All records of a folder that can be used, in the order of their keys; the others are reported and left out.

    Args:
        folder: of a run.
        parse: :func:`benchmark.store.schema.attack_record`, or ``attack_scores`` there for a table.
        links: whether symbolic links are followed.
        shelf: where they lie.
        tell: gets a sentence on each record that cannot be used.

    Raises:
        UsageError: there is no folder of records, or none of them can be used.
    """
    with uncollected():
        records = list(records_in(folder / shelf.name, parse, links, tell))
    if not records:
        if not keys_in(folder / shelf.name):
            others = [one for one in SHELVES if one != shelf and keys_in(folder / one.name)]
            missing = f"{shelf.what} in {folder}"
            if others:
                only = " and ".join(map(in_full, others))
                missing = f"{in_full(shelf)} in {folder}, only {only}, whose tables are the .md files there"
            raise UsageError(f"there are no {missing}: give the folder that {shelf.command} wrote to")
        raise UsageError(f"no record in {folder} can be used: run the suite again into that folder")
    return records


def in_full(shelf: Shelf) -> str:
    """What the records of a shelf are, beside those of others."""
    return "records of attacks" if shelf == ATTACKS else shelf.what


def read_trainings(folder: Path) -> list[Record]:
    """All records of training of a folder; see :func:`read_all`."""
    return read_all(folder, training_record, shelf=TRAININGS)


def records_in(folder: Path, parse: Parse, links: bool = True, tell: Callable[[str], None] = say) -> Iterator[Record]:
    """The records in a folder that can be used, in the order of their keys; the others are reported and left out.

    Args:
        folder: of the records themselves, or beside the files in which they are published.
        parse: as for :func:`read_all`.
        links: whether symbolic links are followed.
        tell: gets a sentence on each record that cannot be used.
    """
    for path in () if links else filter(Path.is_symlink, published.files(folder)):
        raise UsageError(f"{path} is a link, which is not followed: give the folder that it leads to, or a copy")
    for path in (folder / f"{name}.json" for name in sorted(keys_in(folder))):
        if not links and path.is_symlink():
            tell(f"the record {path.name} is a link: it is left out")
            continue
        try:
            yield read(path, parse)
        except FileNotFoundError:  # a process has just set it aside
            continue
        except Unusable as why:
            tell(f"the record {path.name if os.path.lexists(path) else path.stem} {why}: it is left out")
