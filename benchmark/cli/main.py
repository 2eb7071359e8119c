"""The command line. Nothing heavy is imported before it is known what to do."""

import argparse
import atexit
import contextlib
import gc
import io
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmark.cli.flags import parsers
from benchmark.cli.parts import KINDS, Parts, take_parts
from benchmark.errors import UsageError, check_system, nearest, sentences, unknown, unusable
from benchmark.garbage import uncollected


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of ``leakboard``; exits with 0, 2 for a user's error, 130 after Ctrl-C, 141 without a reader or 143
    after SIGTERM, as from a scheduler whose time is up."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    stopped_by: list[int] = []
    try:
        with sentences(), one_ctrl_c(stopped_by):
            prepare_output()
            status = dispatch(given)
            sys.stdout.flush()
    except UsageError as error:
        status = refuse(error)
    except KeyboardInterrupt:
        status = 128 + (stopped_by or [signal.SIGINT])[-1]
        say("\nleakboard: stopped; finished work is kept, and the same command resumes")
    except BrokenPipeError:  # the reader of our output, head say, has gone
        status = 141
        drop_output()
    except OSError as error:
        status = refuse(unusable(error, "the output cannot be written"))
        drop_output()
    raise SystemExit(status)


def refuse(error: UsageError) -> int:
    """Prints the sentence, and returns the exit code."""
    sentence = "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in str(error))
    say(f"leakboard: {sentence}")
    return 2


def say(line: str) -> None:
    """A line to the user, if anybody can be told."""
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def prepare_output() -> None:
    """Sees that there is an output before any work; what a terminal cannot show is escaped.

    Raises:
        UsageError: the standard output is closed.
    """
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115, for as long as the process lives
    if sys.stdout is None:
        raise UsageError("the standard output is closed: send it to a file, or to /dev/null")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def drop_output() -> None:
    """What is still to be written is written nowhere, or Python would fail once more at its end."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):
            os.dup2(nowhere, stream.fileno())


@contextlib.contextmanager
def one_ctrl_c(stopped_by: list[int]) -> Iterator[None]:
    """Of several Ctrl-C in a second, one counts: ``uv run`` sends a second. On the way out after one, none does.

    SIGTERM is like Ctrl-C, so that it ends the workers too; Lightning would make ``sys.exit()`` of it.

    Args:
        stopped_by: gets the number of the signal.
    """
    before, last = signal.getsignal(signal.SIGINT), -1.0
    usual = (signal.default_int_handler, signal.SIG_IGN)  # the latter in the background of a script
    if before not in usual or threading.current_thread() is not threading.main_thread():
        yield  # not ours to decide
        return

    def interrupt(number: int, _: object) -> None:
        nonlocal last
        if (now := time.monotonic()) - last > 1:
            last = now
            stopped_by.append(number)
            raise KeyboardInterrupt

    if before is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupt)
    terminate = signal.signal(signal.SIGTERM, interrupt)
    sys.unraisablehook = quiet_about_ctrl_c
    try:
        yield
    except KeyboardInterrupt:
        before = signal.SIG_IGN
        raise
    except Exception as error:
        if not stopped_by or isinstance(error, UsageError | OSError):
            raise
        before = signal.SIG_IGN  # a library that is stopped while it is imported can make another error of it
        raise KeyboardInterrupt from error
    finally:
        signal.signal(signal.SIGINT, before)
        signal.signal(signal.SIGTERM, terminate)


def quiet_about_ctrl_c(unraisable: "sys.UnraisableHookArgs") -> None:
    """Ctrl-C in a destructor, where nobody can catch it, is not told."""
    if not issubclass(unraisable.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(unraisable)


def dispatch(given: list[str]) -> int:
    """Runs one command and returns the exit code."""
    top, commands = parsers()
    own, parts, wants_help = take_parts(given)
    if own and not own[0].startswith("-") and own[0] not in commands:
        raise unknown("command", own[0], commands)
    try:
        options, rest = top.parse_known_args(own)
    except SystemExit as done:  # --help
        return int(done.code or 0)
    if rest and rest[0].startswith("-"):
        of_classes = [flag for kind in KINDS for flag in (f"--{kind}", f"--{kind}.help")]
        own_flags = [flag for flag in commands.get(options.command, top)._option_string_actions if "." not in flag]
        flag = rest[0].partition("=")[0]
        head, dot, argument = flag.partition(".")
        of_classes += [f"{kind}.{argument}" for kind in nearest(head, of_classes) if dot and "." not in kind]
        raise unknown("flag", flag, own_flags + of_classes)
    if rest:
        raise UsageError(f"unexpected argument {rest[0]!r}; see leakboard {options.command} --help")
    times = Counter(word.partition("=")[0] for word in own)
    for flag, action in commands[options.command]._option_string_actions.items() if options.command else ():
        if times[flag] > 1 and isinstance(action, argparse._StoreAction):
            raise UsageError(f"{flag} is given twice, of which only one could count")
    if options.command is None:
        top.print_help()
        return 0
    if "trainer" in parts and options.command != "run":
        raise UsageError(f"leakboard {options.command} takes no --trainer: it is for leakboard run")
    if (parts or wants_help) and options.command not in ("run", "plan", "bench", "check", "rank"):
        raise UsageError(f"leakboard {options.command} takes no --data, --model, --defense or --attack")
    check_system()

    if wants_help:
        explain: Callable[[str, str], int] = handler("list", "explain")
        return explain(*wants_help)
    carry_out: Callable[[argparse.Namespace, Parts], int] = handler(options.command)
    return carry_out(options, parts)


def handler(command: str, name: str = "carry_out") -> Any:
    """A function of a command's module, which is imported now: most need torch and Lightning, which take seconds."""
    with uncollected():
        found = getattr(import_module(f"benchmark.cli.{command}"), name)
    gc.freeze()  # modules stay, until Python ends and looks whether all of them have gone
    atexit.register(gc.unfreeze)
    return found


if __name__ == "__main__":
    main()
