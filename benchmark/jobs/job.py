"""Jobs: units of work with a key and a record. A new kind is a class of jobs and a :class:`Kind`, in one file."""

import contextlib
import time
from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Generic, Protocol, TypeVar

from benchmark.errors import UsageError
from benchmark.jobs.blocks import Workbench
from benchmark.store.store import Record, Shelf, Store, say

AGAIN = 3
"""How often records that have vanished are made again before a run gives up."""


TOLD_EVERY = 1.0
"""Seconds between two times that a worker says how far a job is: a small file, which may be on a network."""


class Job(Protocol):
    """A unit of work, which is sent to workers by pickle."""

    @property
    def key(self) -> str:
        """Digest of everything that decides the record, and the record's name."""

    @property
    def label(self) -> str:
        """For people."""

    @property
    def group(self) -> str:
        """What it is a part of and people count, such as a cell."""

    @property
    def size(self) -> int:
        """Its share of the progress bar."""


J = TypeVar("J", bound=Job)


class Watch(Generic[J]):
    """Something that is told how the work goes; this one keeps silent."""

    def begins(self, job: J) -> None:
        """This process, or a worker of its, does the job."""

    def reached(self, job: J, steps: float, said: str = "") -> None:
        """So many steps of a job that is under way are done."""

    def ends(self, job: J, record: Record) -> None:
        """The job is done, here or by another process."""


class Telling(Watch[J]):
    """Has the folder of a run say how far jobs are, for the process that shows it; see :func:`look_at_records`.

    Args:
        store: of the run.
    """

    def __init__(self, store: Store) -> None:
        self._store, self._last = store, dict[str, float]()

    def reached(self, job: J, steps: float, said: str = "") -> None:
        now = time.monotonic()
        if now - self._last.get(job.key, -TOLD_EVERY) >= TOLD_EVERY:
            self._last[job.key] = now
            self._store.tell(job.key, steps, said)


class Watchers(Watch[J]):
    """Forwards events to several watchers.

    Attributes:
        begun: the keys of the jobs that were done here.
    """

    def __init__(self, *watchers: Watch[J]) -> None:
        self._watchers = watchers
        self.begun: set[str] = set()

    def begins(self, job: J) -> None:
        self.begun.add(job.key)
        for watch in self._watchers:
            watch.begins(job)

    def reached(self, job: J, steps: float, said: str = "") -> None:
        for watch in self._watchers:
            watch.reached(job, steps, said)

    def ends(self, job: J, record: Record) -> None:
        for watch in self._watchers:
            watch.ends(job, record)


class Tally(Generic[J]):
    """What the progress bar says of the records so far; this one says nothing."""

    def add(self, job: J, record: Record) -> str:
        """Counts a record, and returns what is said of it alone."""
        return ""

    def total(self, steps: int) -> str:
        """What is said of all records, when so many steps are done."""
        return ""


class Kind(Generic[J]):
    """What sets one kind of jobs apart from another.

    Attributes:
        plural: what people call the jobs.
        groups: what people call that which is counted, see :attr:`Job.group`.
        shelf: where the records lie, and how they are read.
    """

    plural: str
    groups: str
    shelf: Shelf

    def together(self, job: J, pending: Sequence[J], bench: Workbench) -> list[J]:
        """The job, and those of the pending ones that are best done with it."""
        return [job]

    def do(self, jobs: list[J], store: Store, bench: Workbench, watch: Watch[J]) -> list[Record]:
        """Does jobs that belong together.

        Args:
            jobs: what :meth:`together` returned, or the first of them.
            store: for checkpoints; the records are written by the caller.
            bench: what jobs share.
            watch: is told of the steps.
        """
        raise NotImplementedError

    def so_far(self, job: J, store: Store) -> int:
        """How many steps of a job that is not done are in its checkpoint."""
        return 0

    def tally(self) -> Tally[J]:
        """A new one."""
        return Tally()


def work(jobs: Sequence[J], kind: Kind[J], store: Store, bench: Workbench, watch: Watch[J]) -> None:
    """Does the jobs that no other process has done or is doing, until every job is done."""
    pending = list(jobs)
    while pending:
        worked = False
        for job in list(pending):
            if not store.done(job.key):
                with contextlib.ExitStack() as claims:
                    mine = claimed(kind.together(job, pending, bench), store, claims)
                    for one in mine:
                        watch.begins(one)
                    for record in kind.do(mine, store, bench, watch) if mine else []:
                        store.write(record)
                    worked = worked or bool(mine)
            if store.done(job.key):
                if (found := store.record(job.key)) is not None:  # else the end of the run finds that it has vanished
                    watch.ends(job, found)
                pending.remove(job)
        if pending and not worked:
            time.sleep(0.3)  # what is left is in the hands of other processes


def claimed(jobs: Sequence[J], store: Store, claims: contextlib.ExitStack) -> list[J]:
    """The first of the jobs, up to one that another process has done or is doing, claimed for this one."""
    return list(takewhile(lambda job: claims.enter_context(store.claim(job.key)), jobs))


def until_all_are_there(
    jobs: Sequence[J],
    kind: Kind[J],
    vanished: Callable[[set[str]], set[str]],
    do: Callable[[list[J]], None],
    folder: object,
) -> None:
    """Looks whether all records are in the folder at the end, and does the jobs again whose records are not.

    Args:
        jobs: all of them, those that were done before included.
        kind: of the jobs.
        vanished: of some keys those that have no record any more.
        do: does what is given and not done.
        folder: of the run, for people.

    Raises:
        UsageError: records go on vanishing.
    """
    keys = {job.key for job in jobs}
    for _ in range(AGAIN):
        gone = vanished(keys)
        if not gone:
            return
        say(
            f"{len(gone)} of {len(keys)} records disappeared from {folder} during the run: "
            f"running these {kind.plural} again"
        )
        do([job for job in jobs if job.key in gone])
    if gone := vanished(keys):
        raise UsageError(
            f"{len(gone)} of {len(keys)} records are missing in {folder}, because something removes them: "
            "find the cause, and the same command resumes"
        )


def look_at_records(pending: list[J], store: Store, watch: Watch[J]) -> list[J]:
    """Tells the watch which jobs workers have done and how far they are with others, and returns what is left.

    Args:
        pending: the jobs.
        store: where their records are.
        watch: who is told.
    """
    left, told, there = [], store.told(), store.keys()
    for job in pending:
        if job.key in there and (record := store.record(job.key)) is not None:
            watch.begins(job)
            watch.ends(job, record)
            continue
        left.append(job)
        if job.key in told:
            watch.reached(job, *told[job.key])
    return left
