"""A worker: a process that takes jobs from the folder of records until every job is done.

Nothing hands the jobs out: a worker claims one after another in the folder, so that none of them is ever idle while
jobs wait, and what one leaves behind, however it ends, is taken by another.
"""

import logging
import os
import signal
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch

from benchmark.errors import CODE_ERRORS, UsageError, data_fault, users_fault, users_function, users_line
from benchmark.jobs.blocks import Workbench
from benchmark.jobs.job import J, Kind, Telling, until_all_are_there, work
from benchmark.metrics.perceptual import Perceptual, PerceptualUnavailable, download_backbone, find_backbone, is_cached
from benchmark.store.store import Store, say
from benchmark.suite.suite import whole_number
from datamodules import DataError


@dataclass(frozen=True)
class Worker(Generic[J]):
    """All that a process needs in order to do jobs; it is sent there by pickle, to any machine with these files.

    Attributes:
        jobs: to be done, by this worker or another.
        kind: of the jobs.
        folder: where the records are.
        data_root: folder of the data sets, or None for the default.
        threads: CPU threads.
        device: ``cpu``, ``cuda:N``, or ``auto`` for a GPU that the process is given, else the CPU.
        lpips_weights: AlexNet's file, or None for no LPIPS.
        no_lpips: then the reason.
        here: folder in which relative paths and the user's own modules are looked for.
        workers: how many there are.
    """

    jobs: list[J]
    kind: Kind[J]
    folder: Path
    data_root: str | None
    threads: int
    device: str
    lpips_weights: Path | None
    no_lpips: str
    here: Path
    workers: int

    def __call__(self, local_rank: int = 0) -> str:
        """Does the jobs that no other process has done or is doing, until every job is done.

        Args:
            local_rank: number of this process among those that were given the same GPUs.

        Returns:
            Nothing, or the sentence of the user's mistake that ended it.
        """
        for shared in (self.here, self.folder):
            if not shared.is_dir():
                return f"{shared} does not exist here: all machines of a run must share its folders"
        os.chdir(self.here)
        quiet()
        try:
            set_up(self.threads)
            self.work_on(given_device(local_rank) if self.device == "auto" else torch.device(self.device))
        except UsageError as error:
            return str(error)
        except DataError as error:
            return str(data_fault(error))
        except CODE_ERRORS as error:
            if users_line(error) is None and not isinstance(error, SystemExit | KeyboardInterrupt):
                traceback.print_exc()  # not the user's fault
            return str(users_fault(error, f"{users_function(error)} has failed"))
        return ""

    def work_on(self, device: torch.device) -> None:
        """Does the jobs on the device."""
        perceptual = find_perceptual(str(self.lpips_weights), required=True)[0] if self.lpips_weights else None
        beside = 1 if self.device == "auto" else self.workers  # a cluster's jobs have memory of their own
        bench = Workbench(device, self.data_root, False, perceptual, self.no_lpips, self.workers, beside)
        store = Store(self.folder, self.kind.shelf)
        do = partial(work, kind=self.kind, store=store, bench=bench, watch=Telling(store))
        do(self.jobs)
        until_all_are_there(self.jobs, self.kind, store.missing, do, self.folder)


T = TypeVar("T")

Ended = Callable[[], str | None]
"""Polls a worker: None while it runs, then what went wrong with it, or nothing. Not called again after that."""

Launch = Callable[[Sequence[Worker[Any]]], AbstractContextManager[Sequence[Ended]]]
"""Starts workers; the way out of the context ends those that still run."""


def watch_over(pending: list[T], look: Callable[[list[T]], list[T]], name: str, workers: Sequence[Ended]) -> None:
    """Follows what workers do, until everything is done.

    Args:
        pending: what is to be done.
        look: reports what has been done of it, and returns what is left.
        name: what people call the pieces of work, in the plural.
        workers: those who do it.

    Raises:
        UsageError: something is left, and no worker.
    """
    count, running, last = len(pending), list(workers), ""
    while pending:
        said = [ended() for ended in running]  # first, so that what an ended worker wrote is seen below
        running = [ended for ended, what in zip(running, said, strict=True) if what is None]
        pending = look(pending)
        for what in filter(None, said):
            last = what
            if running or not pending:  # else the line below says it
                say(f"a worker ended{', the others continue' if pending else ''}: {what}")
        if pending and not running:
            raise UsageError(
                f"all workers ended, and {len(pending)} of {count} {name} are left"
                + (f" ({last})" if last else "")
                + ": the same command resumes"
            )
        time.sleep(0.3)
    stop = time.monotonic() + 5  # there is nothing left to do, so that workers end by themselves, but not while queued
    while time.monotonic() < stop and (running := [ended for ended in running if ended() is None]):
        time.sleep(0.05)


@contextmanager
def without_ctrl_c() -> Iterator[None]:
    """Ignores Ctrl-C for a moment, as do the processes that are started meanwhile.

    A second one, which ``uv run`` sends as well, must not keep workers from being ended.
    """
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def find_devices(given: str) -> list[torch.device]:
    """The devices that ``--devices`` names.

    Raises:
        UsageError: one is not there.
    """
    there = torch.cuda.device_count()
    if given == "auto":
        return [given_device()]
    if given == "cpu":
        return [torch.device("cpu")]
    numbers = given.split(",")
    if not all(number.isdecimal() for number in numbers) or len(set(map(int, numbers))) < len(numbers):
        raise UsageError(
            f"--devices is cpu or different GPU numbers as in 0,1, not {given!r}: Leakboard runs on CPUs and on CUDA's "
            "GPUs, whose cuda:0 is 0"
        )
    for number in numbers:
        if int(number) >= there:
            found = f"GPUs 0 to {there - 1} are" if there > 1 else "GPU 0 is" if there else "no GPU is"
            raise UsageError(f"there is no GPU {number} here ({found} found): give --devices cpu or another number")
    return [torch.device("cuda", int(number)) for number in numbers]


def given_device(local_rank: int = 0) -> torch.device:
    """The first GPU of those that this process can see, or the CPU; of several processes each takes its own."""
    there = torch.cuda.device_count()
    return torch.device("cuda", local_rank % there) if there else torch.device("cpu")


MOST_THREADS = 1024
"""More than any machine has use for; some thousands make OpenMP crash."""


def set_up(threads: int) -> None:
    """Threads and arithmetic of this process.

    One thread by default: a block has more small operations than large ones, and processes that each have several
    threads slow each other down many times. Plain float32 on a GPU, the same each time: a matching loss of 1e-6 has no
    use for TF32's 10 bits.
    """
    torch.set_num_threads(whole_number("--threads", threads, at_least=1, at_most=MOST_THREADS))
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    os.environ.pop("SLURM_NTASKS", None)  # or Lightning takes a task of a job for a rank of a distributed training


def find_perceptual(weights: str | None, required: bool, download: bool = False) -> tuple[Perceptual | None, str]:
    """LPIPS, or the reason why there is none.

    Args:
        weights: file or folder of its weights, None for torch hub's cache.
        required: whether the command ends where there is none.
        download: whether weights that are missing from the cache are downloaded.

    Raises:
        UsageError: there is none but it is required, or the path that was given holds none.
    """
    try:
        if download and not weights and not is_cached():
            say("downloading AlexNet's weights for LPIPS (233 MB)")
            download_backbone()
        return Perceptual(find_backbone(weights)), ""
    except PerceptualUnavailable as error:
        if required or weights:
            raise UsageError(str(error)) from None
        return None, in_utf8(str(error))


def in_utf8(text: str) -> str:
    """A text with a path of any bytes, as a record can hold it."""
    return text.encode(errors="backslashreplace").decode()


def quiet() -> None:
    """No chatter of libraries between our lines."""
    warnings.filterwarnings("ignore", module=r"lightning|torch|lpips")  # advice to their callers, not to our users
    warnings.formatwarning = lambda message, *_, **__: f"leakboard: {message}\n"  # not the line of our code
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
