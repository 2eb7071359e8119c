"""Workers as jobs of Slurm, through submitit."""

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import submitit

from benchmark.errors import UsageError, one_line
from benchmark.jobs.executors.worker import Ended, Launch, Worker, without_ctrl_c

DEFAULTS: dict[str, Any] = {"name": "leakboard", "timeout_min": 240}
"""Of the jobs; the limit on their time is submitit's to write, whose own default is five minutes."""


def prepare(options: dict[str, Any]) -> Launch:
    """What submits the jobs.

    Args:
        options: parameters of submitit's ``AutoExecutor``; ``cluster`` is the scheduler instead of Slurm.

    Raises:
        UsageError: an option is wrong, or there is no Slurm.
    """
    logging.getLogger("submitit").setLevel(logging.ERROR)
    with TemporaryDirectory() as nowhere:  # mistakes are found before anything is written
        executor(Path(nowhere), options)
    return partial(launch, options)


def executor(folder: Path, options: dict[str, Any]) -> submitit.AutoExecutor:
    """The executor that keeps its scripts and logs in the folder."""
    given = DEFAULTS | options
    cluster = given.pop("cluster", "slurm")
    try:
        made = submitit.AutoExecutor(folder, cluster=cluster)
        made.update_parameters(**given)
    except Exception as error:  # it has no class of its own for what it refuses
        reason = str(error).partition("\n")[0].rstrip(".")
        raise UsageError(f"submitit rejects these options ({reason}): check --executor-option") from None
    return made


class Job(submitit.helpers.Checkpointable):
    """A worker that is queued again where its job is preempted or its time is up."""

    def __call__(self, worker: Worker[Any]) -> str:
        return worker(submitit.JobEnvironment().local_rank)


@contextmanager
def launch(options: dict[str, Any], workers: Sequence[Worker[Any]]) -> Iterator[Sequence[Ended]]:
    """Submits a job for each worker."""
    folder = workers[0].folder / "jobs"
    try:
        made = executor(folder, {"cpus_per_task": workers[0].threads} | options)
        jobs = made.map_array(Job(), workers)
    except (submitit.core.utils.FailedJobError, OSError) as error:
        raise UsageError(f"the jobs cannot be submitted ({one_line(error)})") from None
    print(f"leakboard: jobs submitted: {len(jobs)}, with logs in {folder}", file=sys.stderr)
    try:
        yield [partial(ended, job) for job in jobs]
    finally:
        with without_ctrl_c():
            for job in jobs:
                if not job.done():
                    job.cancel(check=False)


def ended(job: submitit.Job[str]) -> str | None:
    """None while the job waits or runs, then what went wrong with it or nothing."""
    if not job.done():
        return None
    try:
        return next(filter(None, job.results()), "")
    except Exception:  # whatever its process died of
        return f"the job {job.job_id} failed, see {job.paths.stderr}"
