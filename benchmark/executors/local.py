"""Workers as processes on this machine: one for each GPU, or several on the CPU."""

import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from threading import Thread

from benchmark.executors.worker import Ended, Worker, without_ctrl_c


@contextmanager
def launch(workers: Sequence[Worker]) -> Iterator[Sequence[Ended]]:
    """Starts a process for each worker."""
    context = multiprocessing.get_context("spawn")  # neither CUDA nor OpenMP's threads live through a fork
    started: list[tuple[SpawnProcess, Connection]] = []
    try:
        with without_ctrl_c():  # nor do they hear of it, ever: this process ends them
            for worker in workers:
                hears, says = context.Pipe(duplex=False)
                process = context.Process(target=run, args=(worker, says))
                process.start()
                started.append((process, hears))
                says.close()  # ours: the end of the process is the end of the pipe
        yield [partial(ended, process, hears) for process, hears in started]
    finally:
        with without_ctrl_c():
            for process, _ in started:
                process.terminate()
            for process, _ in started:
                process.join(timeout=5)
                process.kill()


def run(worker: Worker, says: Connection) -> None:
    """What the process does."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # an exception: half-written files are taken away
    Thread(target=end_with_parent, daemon=True).start()
    code = 1
    with suppress(KeyboardInterrupt):
        says.send(worker())
        code = 0
    os._exit(code)  # at once: nothing is left to tidy up, and Python takes seconds to put torch away


def end_with_parent() -> None:
    """A process does not outlive the one that started it, even where that one is killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


def ended(process: SpawnProcess, hears: Connection) -> str | None:
    """None while the process runs, then what went wrong with it or nothing."""
    if process.is_alive():
        return None
    try:
        return str(hears.recv())
    except EOFError:
        code = process.exitcode or 0
        return f"its process was ended by signal {-code}" if code < 0 else f"its process ended with exit code {code}"
