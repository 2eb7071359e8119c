"""The command line. Nothing heavy is imported before it is known what to do."""

import argparse
import atexit
import contextlib
import gc
import io
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

from benchmark.errors import (
    CODE_ERRORS,
    UsageError,
    data_fault,
    one_line,
    unknown,
    users_fault,
    users_function,
    users_line,
)
from benchmark.garbage import uncollected

KINDS = ("data", "model", "defense", "attack")

Parts = dict[str, dict[str, str]]
"""Kind -> arguments as they were typed, the class under the key ``class``."""


def whole(text: str) -> int:
    """A whole number in digits alone, as in a suite: int() would take ``1_000`` and the digits of any script."""
    if not re.fullmatch(r"[-+]?[0-9]{1,100}", text):
        raise argparse.ArgumentTypeError(f"must be a whole number in digits, not {text!r}")
    return int(text)


def number(text: str) -> float:
    """A number in digits, as in a suite."""
    if not re.fullmatch(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?", text):
        raise argparse.ArgumentTypeError(f"must be a number in digits, not {text!r}")
    return float(text)


class Parser(argparse.ArgumentParser):
    """argparse whose errors are ours: one sentence, exit code 2."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{one_line(ValueError(message))}; see {self.prog} --help")

    def print_help(self, file: Any = None) -> None:
        print(self.format_help(), end="", file=file)  # argparse would say nothing of a full disk


def parsers() -> tuple[Parser, dict[str, Parser]]:
    """The parser of the program, and those of its commands."""
    top = Parser(
        prog="leakboard",
        description="How much private data a federated update gives away, and what it costs to stop that.",
        allow_abbrev=False,
    )
    commands = top.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)

    def add(name: str, summary: str, more: str = "") -> Parser:
        return commands.add_parser(
            name, help=summary, description=summary[0].upper() + summary[1:] + ".", epilog=more, allow_abbrev=False
        )

    run = add(
        "run",
        "run a suite (default: the quick one) or a single cell, and show its leaderboard",
        "Finished work is kept: the same command resumes. A single cell needs no file: --data CIFAR10 --model LeNet "
        "--defense Masking --defense.ratio 0.5 --attack IDLG, with every argument of a class as a flag "
        "(--attack.max_evaluations 3000). It is run with its undefended control, the adaptive attack and the null "
        "baselines. --attack.help IDLG explains the arguments of a class; so do --data.help, --model.help and "
        "--defense.help.",
    )
    plan = add(
        "plan",
        "estimate the cost of a suite (default: the quick one) or a single cell before running it",
        "Takes a suite, or the flags of a single cell, as leakboard run does. Time is estimated from short attacks on "
        "this machine; evaluations are the mean over finished records of the same attack, in the folder and in "
        "results/, or else the upper bound. Nothing is written.",
    )
    threshold = add(
        "threshold",
        "find the strength at which each defense of a suite stops leakage",
        "The suite gives each defense a range from its weak to its strong end, as in {class: Masking, range: {ratio: "
        "[0, 0.99]}}. The search tests both ends, then bisects the range, with the same victims at every strength, for "
        "each scenario, attack and attacker. It writes thresholds.json and thresholds.md beside the tables of "
        "leakboard run, and keeps earlier searches there; the same command resumes.",
    )
    threshold.add_argument("suite", metavar="SUITE", help="a YAML file, or the name of one in configs/")
    threshold.add_argument(
        "--ssim", type=number, default=0.5, metavar="S", help="a victim leaks at this SSIM or above (default: 0.5)"
    )
    threshold.add_argument(
        "--stop",
        type=number,
        default=0.05,
        metavar="R",
        help="leakage has stopped at this leak rate or below (default: 0.05)",
    )
    threshold.add_argument("--steps", type=whole, default=5, metavar="N", help="number of bisection steps (default: 5)")
    train = add(
        "train",
        "train networks by federated learning to measure the accuracy that the defenses of a suite cost",
        "The suite has seeds, defenses and scenarios such as {data: Digits, model: ConvNet, algorithm: FedSGD, "
        "clients: 10, rounds: 100, learning_rate: 0.1}; configs/federated.yaml shows all keys. Every scenario is "
        "also trained without a defense. Writes training.csv and training.md; the same command resumes.",
    )
    train.add_argument("suite", metavar="SUITE", help="a YAML file, or the name of one in configs/")
    train.add_argument(
        "--at", metavar="FOLDER", help="also train at the strengths that leakboard threshold found in FOLDER"
    )
    train.add_argument("--out", metavar="FOLDER", help="folder for records and tables (default: runs/SUITE)")
    train.add_argument("--download", action="store_true", help="download missing data sets")
    train.add_argument(
        "--wandb",
        choices=("disabled", "offline", "online"),
        default="disabled",
        help="track each run in Weights & Biases (default: disabled)",
    )
    for command in (run, plan):
        command.add_argument("suite", nargs="?", metavar="SUITE", help="a YAML file, or the name of one in configs/")
        command.add_argument(
            "--batch-size", type=whole, metavar="N", help="private images per victim, for a single cell"
        )
    for command in (run, plan, threshold):
        command.add_argument(
            "--out", metavar="FOLDER", help="folder for records, tables and pictures (default: runs/SUITE)"
        )
        command.add_argument(
            "--victims", type=whole, metavar="N", help="victims per scenario, instead of the suite's number"
        )
        command.add_argument("--seed", type=whole, metavar="N", help="random seed, instead of the suite's")
        command.add_argument(
            "--download",
            action="store_true",
            help="download missing data sets and AlexNet's weights for LPIPS",
        )
        command.add_argument(
            "--lpips-weights", metavar="PATH", help="file or folder with AlexNet's weights (default: torch's hub cache)"
        )
    for command in (run, threshold):
        command.add_argument(
            "--wandb",
            choices=("disabled", "offline", "online"),
            default="disabled",
            help="track each cell in Weights & Biases (default: disabled)",
        )
        command.add_argument("--require-lpips", action="store_true", help="fail if LPIPS is unavailable")

    show = add("show", "show the leaderboard of a run, from its records")
    show.add_argument("folder", metavar="FOLDER", help="folder of a run, as in runs/quick")
    show.add_argument("--format", choices=("table", "json", "csv", "markdown"), default="table", help="default: table")

    spectrum = add(
        "spectrum",
        "measure how much a defended update still determines the image, by the numerical rank of its Jacobian",
        "Computes the Jacobian of the first victims' updates with respect to their pixels and counts its singular "
        "values, for each data set and model of the suite, without a defense and with each of its defenses. Writes "
        "spectrum.json and spectrum.md.",
    )
    diagnose = add(
        "diagnose",
        "find out why attacks that know a defense miss images: optimizer, tolerance, or other images that fit",
        "Attacks the first victims of each cell of the suite four times: as usual, in double precision, from the true "
        "image (which no attacker has), and from near it. Writes diagnosis.json and diagnosis.md; the same command "
        "resumes.",
    )
    for command, victims in ((spectrum, 4), (diagnose, 8)):
        command.add_argument("suite", metavar="SUITE", help="a YAML file, or the name of one in configs/")
        command.add_argument("--out", metavar="FOLDER", help="folder for the table (default: runs/SUITE)")
        command.add_argument(
            "--victims", type=whole, default=victims, metavar="N", help=f"victims per data set (default: {victims})"
        )
        command.add_argument("--download", action="store_true", help="download missing data sets")
        command.add_argument("--threads", type=whole, default=1, metavar="N", help="CPU threads (default: 1)")

    page = add(
        "page",
        "write the page on a paper whose experiments were run again, from the records",
        "Writes FOLDER/README.md and its figures: the paper's numbers beside those of the records in FOLDER. For "
        "masking it also rewrites thresholds.json, thresholds.md, spectrum.md and diagnosis.md. For the folder results "
        "it writes the page on all published results.",
    )
    page.add_argument("folder", metavar="FOLDER", help="folder of a run of idlg, dlg_fb or masking, or results")
    page.add_argument(
        "--paper", metavar="NAME", help="idlg, dlg_fb, masking or results (default: the name of the folder)"
    )

    publish = add(
        "publish",
        "copy a run without its private images, to be published",
        "Records hold the first private images beside their reconstructions; the copies do not. Everything else is "
        "copied, so that show, page and run work on the copy as on the run itself.",
    )
    publish.add_argument("folder", metavar="FOLDER", help="folder of a run, a threshold search or a training")
    publish.add_argument("to", metavar="TO", help="target folder, as in results/NAME; other records there are kept")

    bench = add(
        "bench",
        "compare the batched attack with the published procedure, one victim at a time",
        "Attacks the same victims in one process: one at a time with torch.optim.LBFGS as published, all at once from "
        "the same starts, and all at once from R-GAP's solution, which is another attack. --data, --model and --attack "
        "(DLG or IDLG) work as in leakboard run; default: CIFAR10, LeNet, IDLG.",
    )
    bench.add_argument("--victims", type=whole, metavar="N", help="default: 64")
    bench.add_argument(
        "--reference-victims",
        type=whole,
        metavar="N",
        help="victims to attack one at a time (default: all; 16 in each setting of --report)",
    )
    bench.add_argument(
        "--report",
        nargs="?",
        const="results",
        metavar="FOLDER",
        help="measure all settings of results/performance.md and write it (default: results); about 20 minutes",
    )
    bench.add_argument("--seed", type=whole, metavar="N", help="default: 0")
    bench.add_argument("--format", choices=("table", "json"), default="table", help="default: table")

    spectrum.add_argument("--data-root", metavar="FOLDER", help="default: $LEAKBOARD_DATA, else ./data")
    for command in (run, plan, threshold, bench, train, diagnose):
        command.add_argument("--data-root", metavar="FOLDER", help="default: $LEAKBOARD_DATA, else ./data")
        command.add_argument(
            "--devices",
            default="auto",
            metavar="D",
            help="cpu, or GPU numbers such as 0,1 (default: GPU 0 if there is one, else cpu)",
        )
    for command in (run, plan, threshold, train):
        command.add_argument(
            "--threads", type=whole, default=1, metavar="N", help="CPU threads per process (default: 1)"
        )
        command.add_argument(
            "--workers", type=whole, metavar="N", help="number of CPU processes, or of jobs (default: 1)"
        )
    plan.set_defaults(executor="local")
    for command in (run, threshold, train):
        command.add_argument(
            "--executor",
            choices=("local", "slurm", "ray"),
            default="local",
            help="where the workers run: on this machine, on Slurm (through submitit) or on Ray (default: local)",
        )
        command.add_argument(
            "--executor-option",
            action="append",
            default=[],
            metavar="KEY=VALUE",
            help="option of each job, as named by submitit (slurm_partition=gpu, gpus_per_node=1, timeout_min=240) "
            "or Ray (num_gpus=1); may be repeated",
        )
    bench.add_argument(
        "--threads",
        type=whole,
        metavar="N",
        help="most CPU threads to use; each side takes the number that suits it best (default: all cores)",
    )

    return top, {
        "run": run,
        "plan": plan,
        "threshold": threshold,
        "train": train,
        "show": show,
        "spectrum": spectrum,
        "diagnose": diagnose,
        "page": page,
        "publish": publish,
        "bench": bench,
        "list": add("list", "list the attacks, defenses, data sets and models"),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of ``leakboard``; exits with 0, 2 for a user's error, 130 after Ctrl-C or 141 without a reader."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with one_ctrl_c():
            prepare_output()
            status = dispatch(given)
            sys.stdout.flush()
    except UsageError as error:
        status = refuse(error)
    except KeyboardInterrupt:
        status = 130
        say("\nleakboard: stopped; finished work is kept, and the same command resumes")
    except BrokenPipeError:  # the reader of our output, head say, has gone
        status = 141
        drop_output()
    except OSError as error:
        what = f"{error.filename} cannot be used" if error.filename else "the output cannot be written"
        status = refuse(UsageError(f"{what} ({error.strerror or one_line(error)})"))
        drop_output()
    except CODE_ERRORS as error:
        if users_line(error) is None and not isinstance(error, SystemExit):
            raise  # not the user's fault
        status = refuse(users_fault(error, f"{users_function(error)} has failed"))
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
def one_ctrl_c() -> Iterator[None]:
    """Of several Ctrl-C in a second, one counts: ``uv run`` sends a second. On the way out after one, none does."""
    before, last = signal.getsignal(signal.SIGINT), -1.0
    if before is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        yield  # not ours to decide
        return

    def interrupt(*_: object) -> None:
        nonlocal last
        if (now := time.monotonic()) - last > 1:
            last = now
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    sys.unraisablehook = quiet_about_ctrl_c
    try:
        yield
    except KeyboardInterrupt:
        before = signal.SIG_IGN
        raise
    finally:
        signal.signal(signal.SIGINT, before)


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
        own_flags = list(commands.get(options.command, top)._option_string_actions)
        raise unknown("flag", rest[0].partition("=")[0], own_flags + of_classes)
    if rest:
        raise UsageError(f"unexpected argument {rest[0]!r}; see leakboard {options.command} --help")
    if options.command is None:
        top.print_help()
        return 0
    if (parts or wants_help) and options.command not in ("run", "plan", "bench"):
        raise UsageError(f"leakboard {options.command} takes no --data, --model, --defense or --attack")
    if not find_spec("fcntl") or not find_spec("resource"):
        raise UsageError("Leakboard runs on Linux and macOS: on Windows, run it in WSL")

    if wants_help:
        explain: Callable[[str, str], int] = handler("commands.explain")
        return explain(*wants_help)
    carry_out: Callable[[argparse.Namespace, Parts], int] = handler(COMMANDS[options.command])
    try:
        return carry_out(options, parts)
    except Exception as error:  # a file of public images is read late, if torch and the data sets were imported at all
        if (data := sys.modules.get("datamodules")) and isinstance(error, data.DataError):
            raise data_fault(error) from None
        raise


COMMANDS = {
    "run": "commands.run",
    "plan": "commands.plan_costs",
    "threshold": "studies.search_thresholds",
    "spectrum": "studies.show_spectrum",
    "diagnose": "studies.diagnose",
    "train": "studies.train",
    "show": "show.show",
    "page": "page.page",
    "publish": "publish.publish_run",
    "list": "commands.list_all",
    "bench": "commands.bench",
}
"""Module and function of each command's handler."""


def handler(name: str) -> Any:
    """The function of that name, whose module is imported now: most need torch and Lightning, which take seconds."""
    module, _, function = name.partition(".")
    with uncollected():
        found = getattr(import_module(f"benchmark.{module}"), function)
    gc.freeze()  # modules stay, until Python ends and looks whether all of them have gone
    atexit.register(gc.unfreeze)
    return found


def take_parts(given: list[str]) -> tuple[list[str], Parts, tuple[str, str] | None]:
    """Takes the flags of classes, as in ``--attack IDLG --attack.tolerance 0``, out of the command line.

    Returns:
        What is left, the parts, and the kind and class of a ``--KIND.help CLASS``.
    """
    left: list[str] = []
    parts: Parts = {}
    wants_help = None
    words = iter(given)
    for word in words:
        flag, equals, value = word.partition("=")
        kind, dot, key = flag.removeprefix("--").partition(".")
        if not flag.startswith("--") or kind not in KINDS:
            left.append(word)
            continue
        if not equals:
            value = next(words, "--")
            if value.startswith("--"):
                raise UsageError(f"{flag} needs a value; one that begins with -- is given as {flag}=VALUE")
        if key == "help":
            wants_help = (kind, value)
        elif dot and not key:
            raise UsageError(f"{flag} needs the name of an argument after the dot")
        else:
            parts.setdefault(kind, {})[key or "class"] = value
    return left, parts, wants_help


if __name__ == "__main__":
    main()
