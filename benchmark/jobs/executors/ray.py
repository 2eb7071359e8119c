"""Workers as tasks of Ray."""

import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing about our users leaves their machines
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")  # or `uv run` uploads the folder and installs it again
if "RAY_ADDRESS" in os.environ:
    os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "1")  # of 40 s, or it takes a quarter of an hour to give up

import ray

from benchmark.errors import UsageError, one_line
from benchmark.jobs.executors.worker import Ended, Launch, Worker, without_ctrl_c


def prepare(options: dict[str, Any]) -> Launch:
    """What starts the tasks.

    Args:
        options: of a Ray task.

    Raises:
        UsageError: an option is wrong.
    """
    try:
        ray.remote(run).options(**options)
    except (ValueError, TypeError) as error:
        raise UsageError(
            f"Ray rejects these options ({one_line(error).rstrip('.')}): check --executor-option"
        ) from None
    return partial(launch, options)


def run(worker: Worker[Any]) -> str:
    """What a task does; Ray does not hide GPUs from one that did not ask for any."""
    return (worker if ray.get_gpu_ids() else replace(worker, device="cpu"))()


@contextmanager
def launch(options: dict[str, Any], workers: Sequence[Worker[Any]]) -> Iterator[Sequence[Ended]]:
    """Starts a task for each worker, on the cluster that RAY_ADDRESS names, else on one of this machine."""
    try:
        address = os.environ.get("RAY_ADDRESS", "local")  # by itself Ray would wait for one that has crashed
        ray.init(address, logging_level=logging.ERROR, log_to_driver=False, include_dashboard=False)
    except (OSError, RuntimeError, ValueError) as error:
        raise UsageError(
            f"Ray cannot be reached ({one_line(error)}): check RAY_ADDRESS, or set RAY_AUTH_MODE=token"
        ) from None
    tasks: list[Any] = []
    try:
        wanted = {"num_cpus": workers[0].threads} | options
        for option, resource in (("num_cpus", "CPU"), ("num_gpus", "GPU")):
            if (wanted.get(option) or 0) > (has := ray.cluster_resources().get(resource, 0)):
                print(
                    f"leakboard: Ray has {has:g} {resource}s, and a worker needs {wanted[option]:g}: waiting for more",
                    file=sys.stderr,
                )
        tasks += [ray.remote(run).options(**wanted).remote(worker) for worker in workers]
        yield [partial(ended, task) for task in tasks]
    finally:
        with without_ctrl_c():
            for task in tasks:
                ray.cancel(task, force=True)
            ray.shutdown()


def ended(task: Any) -> str | None:
    """None while the task waits or runs, then what went wrong with it or nothing."""
    if not ray.wait([task], timeout=0)[0]:
        return None
    try:
        return str(ray.get(task))
    except ray.exceptions.RayError as error:
        return f"{str(error).strip().splitlines()[-1].rstrip('.')}, see Ray's logs"
