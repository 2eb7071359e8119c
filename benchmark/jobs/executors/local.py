"""Workers as processes on this machine: one for each GPU, or several on the CPU."""

import multiprocessing
import os
import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any

from benchmark.jobs.executors import lifeline
from benchmark.jobs.executors.worker import Ended, Worker, without_ctrl_c


@contextmanager
def launch(workers: Sequence[Worker[Any]]) -> Iterator[Sequence[Ended]]:
    """Starts a process for each worker."""
    context = multiprocessing.get_context("spawn")  # neither CUDA nor OpenMP's threads live through a fork
    started: list[tuple[SpawnProcess, Connection]] = []
    try:
        with without_ctrl_c():  # workers never hear of it: this process ends them
            for worker in workers:
                receiver, sender = context.Pipe(duplex=False)
                process = context.Process(target=lifeline.run, args=(pickle.dumps(worker), sender, os.getpid()))
                process.start()
                started.append((process, receiver))
                sender.close()  # ours: the end of the process is the end of the pipe
        yield [partial(ended, process, receiver) for process, receiver in started]
    finally:
        with without_ctrl_c():
            for process, _ in started:
                process.terminate()
            for process, _ in started:
                process.join(timeout=5)
                process.kill()


def ended(process: SpawnProcess, receiver: Connection) -> str | None:
    """None while the process runs, then what went wrong with it or nothing."""
    if process.is_alive():
        return None
    try:
        return str(receiver.recv())
    except EOFError:
        code = process.exitcode or 0
        return f"its process was killed by signal {-code}" if code < 0 else f"its process ended with exit code {code}"
