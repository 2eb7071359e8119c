"""The first thing that a worker's process does: it ties its life to that of the process that started it.

Nothing heavy is imported here, so that this holds while torch is still being imported, which takes seconds and lets no
other Python code run.
"""

import contextlib
import ctypes
import multiprocessing
import os
import pickle
import signal
import sys
import time
import traceback
from multiprocessing.connection import Connection
from threading import Thread
from typing import Any

PATIENCE = 1.0
"""Seconds that a worker has to take half-written files away."""


def run(worker: bytes, sender: Connection, parent: int) -> None:
    """What the process does: it calls the worker, and sends what that returns.

    Args:
        worker: a callable without arguments, pickled: what it needs is imported here.
        sender: to the parent.
        parent: its process number.
    """
    die_with(parent)
    signal.signal(signal.SIGTERM, stop)
    code = 1
    try:
        Thread(target=end_with_parent, daemon=True).start()
        call = pickle.loads(worker)
        set_death_signal(signal.SIGTERM)  # from here on there can be half-written files
        sender.send(call())
        code = 0
    except (KeyboardInterrupt, BrokenPipeError):
        pass
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)  # at once: nothing is left to tidy up, and Python takes seconds to put torch away


def stop(*_: object) -> None:
    """An exception, so that half-written files are taken away; a second signal does not disturb that."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.unraisablehook = lambda *_: None  # it may hit a destructor, where nobody can catch it
    raise KeyboardInterrupt


def die_with(parent: int) -> None:
    """Has this process end when its parent ends, whatever is going on here."""
    set_death_signal(signal.SIGKILL)
    if os.getppid() != parent:  # it ended before that
        os._exit(1)


def set_death_signal(number: int) -> None:
    """The signal that Linux sends to this process when its parent ends; elsewhere a thread has to do."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(pr_set_pdeathsig, ctypes.c_ulong(number), 0, 0, 0)


def end_with_parent() -> None:
    """Asks this process to end when its parent has ended, and soon makes it."""
    parent: Any = multiprocessing.parent_process()
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(PATIENCE)
    os.kill(os.getpid(), signal.SIGKILL)
