"""The progress bar of a run."""

from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from typing import Generic

from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.table import Column
from rich.text import Text

from benchmark.boards.terminal import Console
from benchmark.jobs.job import J, Kind, Watch
from benchmark.store.store import Record, Store


class TimeLeft(ProgressColumn):
    """Time left, from the share of the work that was done since the start of this run."""

    def render(self, task: Task) -> Text:
        before = task.fields["before"]
        done, elapsed = task.completed - before, task.elapsed or 0.0
        if done <= 0 or elapsed <= 0 or task.total is None:
            return Text("?:?? left")
        left = int(elapsed / done * (task.total - task.completed))
        return Text(f"{timedelta(seconds=left)} left")


def bar(console: Console) -> Progress:
    """A bar with ``counts``, the time left and, where it fits, the description; nothing where there is no terminal."""
    columns: list[ProgressColumn] = [
        BarColumn(bar_width=12),
        TextColumn("{task.fields[counts]}", markup=False, table_column=Column(no_wrap=True)),
        TimeLeft(table_column=Column(no_wrap=True)),
    ]
    if console.width >= 110:
        column = Column(no_wrap=True, overflow="ellipsis")
        columns.append(TextColumn("{task.description}", markup=False, table_column=column))
    return Progress(*columns, console=console, disable=not console.is_terminal)


class ProgressBar(Watch[J], Generic[J]):
    """Groups and steps done, what the records say so far, and the time left.

    Args:
        jobs: the whole plan.
        kind: of the jobs.
        console: where to draw; only a line for each group where it is no terminal.
    """

    def __init__(self, jobs: Sequence[J], kind: Kind[J], console: Console) -> None:
        self._kind, self._tally, self._console = kind, kind.tally(), console
        self._left = Counter(job.group for job in jobs)
        self._groups, self._done = len(self._left), 0
        self._steps: dict[str, float] = {}
        self._progress = bar(console)
        self._task = self._progress.add_task("starting", total=sum(job.size for job in jobs), counts="", before=0)

    def __enter__(self) -> "ProgressBar[J]":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def resumes(self, jobs: Sequence[J], store: Store) -> list[J]:
        """Counts what an earlier run did, by which the time left is not judged, and returns the jobs not done."""
        left = []
        for job in jobs:
            if (record := store.record(job.key)) is not None:
                self._count(job, record)
            else:
                left.append(job)
                self._steps[job.key] = self._kind.so_far(job, store)
        done = sum(self._steps.values())
        self._progress.update(self._task, before=done, completed=done, counts=self._counts())
        if len(left) < len(jobs):
            self._say("done by an earlier run")
        return left

    def begins(self, job: J) -> None:
        self._progress.update(self._task, description=job.label)

    def reached(self, job: J, steps: float, said: str = "") -> None:
        self._steps[job.key] = steps
        self._show(job, said)

    def ends(self, job: J, record: Record) -> None:
        said = self._count(job, record)
        self._show(job, said)
        if not self._left[job.group]:
            self._say(f"{job.label}{said}")

    def _count(self, job: J, record: Record) -> str:
        self._left[job.group] -= 1
        self._done += not self._left[job.group]
        self._steps[job.key] = job.size
        return self._tally.add(job, record)

    def _counts(self) -> str:
        return f"{self._done}/{self._groups} {self._kind.groups}{self._tally.total(int(sum(self._steps.values())))}"

    def _show(self, job: J, said: str) -> None:
        """What is said is of this job, and stands behind its name or not at all."""
        done = sum(self._steps.values())
        self._progress.update(self._task, completed=done, counts=self._counts(), description=f"{job.label}{said}")

    def _say(self, what: str) -> None:
        """A line where there is no bar."""
        if not self._console.is_terminal:
            self._console.print(f"{self._counts()}: {what}", highlight=False, soft_wrap=True)
