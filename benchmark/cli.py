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
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

from benchmark.errors import CODE_ERRORS, UsageError, one_line, unknown, users_fault, users_function, users_line
from benchmark.garbage import uncollected

KINDS = ("data", "model", "defense", "attack")

Parts = dict[str, dict[str, str]]
"""Kind -> arguments as they were typed, the class under the key ``class``."""


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
        "What is done is kept: the same command goes on from there. One cell without a file: --data CIFAR10 --model "
        "LeNet --defense Masking --defense.ratio 0.5 --attack IDLG, with every argument of a class as a flag "
        "(--attack.max_evaluations 3000); it is run with its control, its adaptive twin and the null baselines. "
        "--attack.help IDLG explains the arguments of a class; so do --data.help, --model.help and --defense.help.",
    )
    plan = add(
        "plan",
        "say what a suite (default: the quick one) or a single cell costs, before it is run",
        "Takes a suite, or the flags of a single cell, as leakboard run does. Time is that of short attacks on this "
        "machine; evaluations are the mean of finished records of the same attack, in the folder and in results/, or "
        "else the upper bound. Nothing is written.",
    )
    threshold = add(
        "threshold",
        "search for the strength at which each defense of a suite stops leakage",
        "The suite gives each defense a range from its weak to its strong end, as in {class: Masking, range: {ratio: "
        "[0, 0.99]}}. Both ends are tested, then the middle of what is left, with the same victims at every strength, "
        "for each scenario, attack and attacker. Writes thresholds.json and thresholds.md beside the tables of "
        "leakboard run, and keeps the searches that are there already; the same command resumes where it stopped.",
    )
    threshold.add_argument("suite", metavar="SUITE", help="a YAML file, or the name of one in configs/")
    threshold.add_argument(
        "--ssim", type=float, default=0.5, metavar="S", help="a victim leaks at this SSIM or more (default: 0.5)"
    )
    threshold.add_argument(
        "--stop",
        type=float,
        default=0.05,
        metavar="R",
        help="leakage has stopped where no more than this share of victims leaks (default: 0.05)",
    )
    threshold.add_argument(
        "--steps", type=int, default=5, metavar="N", help="how often what is left is halved (default: 5)"
    )
    train = add(
        "train",
        "train networks by federated learning with the defenses of a suite: what they cost in accuracy",
        "The suite has seeds, defenses and scenarios such as {data: Digits, model: ConvNet, algorithm: FedSGD, "
        "clients: 10, rounds: 100, learning_rate: 0.1}; configs/federated.yaml has all keys. Every scenario is also "
        "trained without a defense. Writes training.csv and training.md; the same command goes on where it stopped.",
    )
    train.add_argument("suite", metavar="SUITE", help="a YAML file, or the name of one in configs/")
    train.add_argument(
        "--at", metavar="FOLDER", help="train also at the strengths that leakboard threshold has found in FOLDER"
    )
    train.add_argument("--out", metavar="FOLDER", help="where records and tables go (default: runs/SUITE)")
    train.add_argument("--download", action="store_true", help="download a data set that is missing")
    train.add_argument(
        "--wandb",
        choices=("disabled", "offline", "online"),
        default="disabled",
        help="track each run in Weights & Biases (default: disabled)",
    )
    for command in (run, plan):
        command.add_argument("suite", nargs="?", metavar="SUITE", help="a YAML file, or the name of one in configs/")
        command.add_argument(
            "--batch-size", type=int, metavar="N", help="private images of each victim, in a single cell"
        )
    for command in (run, plan, threshold):
        command.add_argument(
            "--out", metavar="FOLDER", help="where records, tables and pictures go (default: runs/SUITE)"
        )
        command.add_argument(
            "--victims", type=int, metavar="N", help="victims of each scenario, instead of the suite's"
        )
        command.add_argument(
            "--seed", type=int, metavar="N", help="of networks, noise and starts, instead of the suite's"
        )
        command.add_argument(
            "--download",
            action="store_true",
            help="download a data set that is missing, and AlexNet's weights for LPIPS",
        )
        command.add_argument(
            "--lpips-weights", metavar="PATH", help="file or folder of AlexNet's (default: torch's hub cache)"
        )
    for command in (run, threshold):
        command.add_argument(
            "--wandb",
            choices=("disabled", "offline", "online"),
            default="disabled",
            help="track each cell in Weights & Biases (default: disabled)",
        )
        command.add_argument("--require-lpips", action="store_true", help="end with an error where there is no LPIPS")

    show = add("show", "show the leaderboard of a folder again, from its records")
    show.add_argument("folder", metavar="FOLDER", help="what leakboard run wrote")
    show.add_argument("--format", choices=("table", "json", "csv", "markdown"), default="table", help="default: table")

    spectrum = add(
        "spectrum",
        "measure how much a defended update still determines the image, by the numerical rank of its Jacobian",
        "Computes the Jacobian of the first victims' updates in their pixels, and counts its singular values, for "
        "each data set and model of the suite without a defense and with each of its defenses. Writes spectrum.json "
        "and spectrum.md.",
    )
    diagnose = add(
        "diagnose",
        "say why attacks that know a defense miss images: the optimizer, its tolerance, or other images that fit",
        "Attacks the first victims of each cell of the suite as usual, in double precision, from the true image, which "
        "no attacker has, and from near it, and compares what was found. Writes diagnosis.json and diagnosis.md; the "
        "same command resumes where it stopped.",
    )
    for command, victims in ((spectrum, 4), (diagnose, 8)):
        command.add_argument("suite", metavar="SUITE", help="a YAML file, or the name of one in configs/")
        command.add_argument("--out", metavar="FOLDER", help="where the table goes (default: runs/SUITE)")
        command.add_argument(
            "--victims", type=int, default=victims, metavar="N", help=f"of each data set (default: {victims})"
        )
        command.add_argument("--download", action="store_true", help="download a data set that is missing")
        command.add_argument("--threads", type=int, default=1, metavar="N", help="CPU threads (default: 1)")

    page = add(
        "page",
        "write the page of a paper that was run again, from its records",
        "Writes FOLDER/README.md and its figures: the paper's figures beside those of the records in FOLDER. For "
        "masking, thresholds.json, thresholds.md, spectrum.md and diagnosis.md are also written anew. Of the folder "
        "results it writes the page on all that is published.",
    )
    page.add_argument("folder", metavar="FOLDER", help="what leakboard run wrote for one of the suites named below")
    page.add_argument(
        "--paper", metavar="NAME", help="idlg, dlg_fb, masking or results (default: the name of the folder)"
    )

    publish = add(
        "publish",
        "copy a run to where results are kept, without its private images",
        "Records hold the first private images beside their reconstructions; the copies do not. Everything else is "
        "copied: show, page and run go on from there as from the run itself.",
    )
    publish.add_argument("folder", metavar="FOLDER", help="what leakboard run, threshold or train wrote")
    publish.add_argument("to", metavar="TO", help="as in results/NAME; what is there already stays")

    bench = add(
        "bench",
        "compare the batched attack with the published procedure, one victim at a time",
        "Attacks the same victims in one process: one by one with torch.optim.LBFGS as published, from the same starts "
        "all at once, and all at once from R-GAP's solution, which is another attack. --data, --model and --attack "
        "(DLG or IDLG) choose what, as in leakboard run; default: CIFAR10, LeNet, IDLG.",
    )
    bench.add_argument("--victims", type=int, metavar="N", help="default: 64")
    bench.add_argument(
        "--reference-victims",
        type=int,
        metavar="N",
        help="how many of them one by one (default: all; 16 in each setting of --report)",
    )
    bench.add_argument(
        "--report",
        nargs="?",
        const="results",
        metavar="FOLDER",
        help="measure all settings of results/performance.md and write it (default: results); about 20 minutes",
    )
    bench.add_argument("--seed", type=int, metavar="N", help="default: 0")
    bench.add_argument("--format", choices=("table", "json"), default="table", help="default: table")

    spectrum.add_argument("--data-root", metavar="FOLDER", help="default: $LEAKBOARD_DATA, else ./data")
    for command in (run, plan, threshold, bench, train, diagnose):
        command.add_argument("--data-root", metavar="FOLDER", help="default: $LEAKBOARD_DATA, else ./data")
        command.add_argument(
            "--devices", default="auto", metavar="D", help="cpu, or GPU numbers as in 0,1 (default: GPU 0 or cpu)"
        )
    for command in (run, plan, threshold, train):
        command.add_argument(
            "--threads", type=int, default=1, metavar="N", help="CPU threads of a process (default: 1)"
        )
        command.add_argument(
            "--workers", type=int, metavar="N", help="processes on the CPU, or jobs of an executor (default: 1)"
        )
    plan.set_defaults(executor="local")
    for command in (run, threshold, train):
        command.add_argument(
            "--executor",
            choices=("local", "slurm", "ray"),
            default="local",
            help="what runs the workers: this machine, Slurm (through submitit) or Ray (default: local)",
        )
        command.add_argument(
            "--executor-option",
            action="append",
            default=[],
            metavar="KEY=VALUE",
            help="for each job, as submitit (slurm_partition=gpu, gpus_per_node=1, timeout_min=240) or Ray "
            "(num_gpus=1) calls it; may be repeated",
        )
    bench.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="the most CPU threads; each side takes as many of them as suit it best (default: all cores)",
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
        "list": add("list", "name what a suite can be made of"),
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
        say("\nleakboard: stopped; what is done is kept, and the same command goes on from there")
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
            raise UsageError(str(error)) from None
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
