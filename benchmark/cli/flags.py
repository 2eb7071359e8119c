"""The flags of each command."""

import argparse
import re
from collections.abc import Callable
from typing import Any, NoReturn

from benchmark.errors import UsageError, one_line


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


def given(text: str) -> str:
    """What is no number: not an empty text, which a shell makes of a variable that is not set."""
    if not text:
        raise argparse.ArgumentTypeError("is empty: give a value, or leave it out")
    return text


class Parser(argparse.ArgumentParser):
    """argparse whose errors are ours: one sentence, exit code 2."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{one_line(ValueError(message))}; see {self.prog} --help")

    def print_help(self, file: Any = None) -> None:
        print(self.format_help(), end="", file=file)  # argparse would say nothing of a full disk


Add = Callable[..., Parser]
"""Adds a command: its name, a line about it, and what stands at the end of its help."""


def parsers() -> tuple[Parser, dict[str, Parser]]:
    """The parser of the program, and those of its commands."""
    top = Parser(
        prog="leakboard",
        description="How much private data a federated update gives away, and what it costs to stop that.",
        allow_abbrev=False,
    )
    commands = top.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)

    def add(name: str, summary: str, more: str = "") -> Parser:
        made = commands.add_parser(
            name, help=summary, description=summary[0].upper() + summary[1:] + ".", epilog=more, allow_abbrev=False
        )
        made.register("type", None, given)  # of arguments for which no other type is named
        return made

    each = (run, plan, threshold, train, show, report, spectrum, diagnose, page, publish, verify, bench, rank, check)
    named = {one.__name__: one(add) for one in each}
    return top, {**named, "list": add("list", "list the attacks, defenses, data sets and models")}


# The commands.


def run(add: Add) -> Parser:
    """``leakboard run``."""
    command = add(
        "run",
        "run a suite (default: the quick one) or a single cell, and show its leaderboard",
        "Finished work is kept: the same command resumes. A single cell needs no file: --data CIFAR10 --model LeNet "
        "--defense Masking --defense.ratio 0.5 --attack IDLG. It is run with its undefended control, the adaptive "
        "attack and the null baselines.",
    )
    suite_or_cell(command)
    attacking(command)
    classes = of_classes(command, "data", "model", "defense", "attack", scenario=True)
    classes.add_argument(
        "--trainer.ARGUMENT",
        metavar="VALUE",
        default=argparse.SUPPRESS,
        help="an argument of Lightning's Trainer, which takes a user's loggers, callbacks and profiler "
        "(--trainer.profiler simple) that decide no result; --trainer.help names them",
    )
    return command


def plan(add: Add) -> Parser:
    """``leakboard plan``."""
    command = add(
        "plan",
        "estimate the cost of a suite (default: the quick one) or a single cell before running it",
        "Takes a suite, or the flags of a single cell, as leakboard run does. Time is estimated from short attacks on "
        "this machine; evaluations are the mean over finished records of the same attack, in the folder and in "
        "results/, or else the upper bound. Nothing is trained or written.",
    )
    suite_or_cell(command)
    of_a_run(command)
    machine(command, workers=True)
    command.set_defaults(executor="local")
    of_classes(command, "data", "model", "defense", "attack", scenario=True)
    return command


def threshold(add: Add) -> Parser:
    """``leakboard threshold``."""
    command = add(
        "threshold",
        "find the strength at which each defense of a suite stops leakage",
        "The suite gives each defense a range from its weak to its strong end, as in {class: Masking, range: {ratio: "
        "[0, 0.99]}}. The search tests both ends, then bisects the range, with the same victims at every strength, for "
        "each scenario, attack and attacker. It writes thresholds.json and thresholds.md beside the tables of "
        "leakboard run, and keeps earlier searches there; the same command resumes.",
    )
    suite(command)
    command.add_argument(
        "--ssim", type=number, default=0.5, metavar="S", help="a victim leaks at this SSIM or above (default: 0.5)"
    )
    command.add_argument(
        "--stop",
        type=number,
        default=0.05,
        metavar="R",
        help="leakage has stopped at this leak rate or below (default: 0.05)",
    )
    command.add_argument("--steps", type=whole, default=5, metavar="N", help="number of bisection steps (default: 5)")
    attacking(command)
    return command


def train(add: Add) -> Parser:
    """``leakboard train``."""
    command = add(
        "train",
        "train networks by federated learning to measure the accuracy that the defenses of a suite cost",
        "The suite has seeds, defenses and scenarios such as {data: Digits, model: ConvNet, algorithm: FedSGD, "
        "clients: 10, rounds: 100, learning_rate: 0.1}; configs/federated.yaml shows all keys. Every scenario is "
        "also trained without a defense. Writes training.csv and training.md; the same command resumes.",
    )
    suite(command)
    command.add_argument(
        "--at",
        metavar="FOLDER",
        help="also train at the strengths that leakboard threshold found in FOLDER, norms and noise in proportion to "
        "the updates",
    )
    command.add_argument("--out", metavar="FOLDER", help="folder for records and tables (default: runs/SUITE)")
    download(command)
    tracking(command, "run")
    machine(command, workers=True)
    executor(command)
    return command


def show(add: Add) -> Parser:
    """``leakboard show``."""
    command = add("show", "show the leaderboard of a run, from its records")
    command.add_argument("folder", metavar="FOLDER", help="folder of a run, as in runs/quick")
    command.add_argument(
        "--format", choices=("table", "json", "csv", "markdown"), default="table", help="default: table"
    )
    return command


def report(add: Add) -> Parser:
    """``leakboard report``."""
    command = add(
        "report",
        "write the boards of a run as one HTML page, with curves and pictures, from its records",
        "The page opens without a network. It shows private images where the records hold them: what leakboard publish "
        "writes holds none. Where the folder also has records of leakboard train, it plots leak rate over accuracy.",
    )
    command.add_argument("folder", metavar="FOLDER", help="folder of a run, as in runs/quick")
    command.add_argument("--out", metavar="FILE", help="the page (default: FOLDER/report.html)")
    return command


def spectrum(add: Add) -> Parser:
    """``leakboard spectrum``."""
    command = add(
        "spectrum",
        "measure how much a defended update still determines the image, by the numerical rank of its Jacobian",
        "Computes the Jacobian of the first victims' updates with respect to their pixels and counts its singular "
        "values, for each data set and model of the suite, without a defense and with each of its defenses. Writes "
        "spectrum.json and spectrum.md; the same command resumes. It computes in 64 bits.",
    )
    of_a_study(command, victims=4)
    machine(command, devices="cpu", workers=True)
    executor(command)
    return command


def diagnose(add: Add) -> Parser:
    """``leakboard diagnose``."""
    command = add(
        "diagnose",
        "find out why attacks that know a defense miss images: optimizer, tolerance, or other images that fit",
        "Attacks the first victims of each cell of the suite four times: as usual, in double precision, from the true "
        "image (which no attacker has), and from near it. Writes diagnosis.json and diagnosis.md; the same command "
        "resumes.",
    )
    of_a_study(command, victims=8)
    machine(command, workers=True)
    executor(command)
    return command


def rank(add: Add) -> Parser:
    """``leakboard rank``."""
    command = add(
        "rank",
        "count the equations that an update gives for each layer of a network, against the unknowns",
        "Takes a network by name or import path, with --data (default: Digits), --model and --defense as leakboard "
        "run does: leakboard rank CNN6 --data CIFAR10 --defense Masking --defense.ratio 0.9. Counted, for the first "
        "victim: the unknowns of each layer's input; the equations from its weights, that is, its outputs that the "
        "activation lets through (all but those of a ReLU that is 0; none of the last layer, whose output an attacker "
        "does not know); and those from its gradient, that is, the entries that the defense keeps (noise keeps all). "
        "Measured, in 64 bits: the numerical rank of both together when all behind the layer is known, as in R-GAP, "
        "and, for the whole update, that of its Jacobian in the pixels, as leakboard spectrum measures it. A singular "
        "value counts from 1e-6 of the largest one; - stands where a matrix is too large to be measured.",
    )
    command.add_argument("name", nargs="?", metavar="MODEL", help="name or import path of a network")
    command.add_argument(
        "--batch-size", type=whole, default=1, metavar="N", help="private images of the victim (default: 1)"
    )
    command.add_argument("--seed", type=whole, default=0, metavar="N", help="of the network (default: 0)")
    download(command)
    machine(command, devices="cpu")
    of_classes(command, "data", "model", "defense")
    return command


def page(add: Add) -> Parser:
    """``leakboard page``."""
    command = add(
        "page",
        "write the page on a paper whose experiments were run again, from the records",
        "Writes FOLDER/README.md and its figures: the paper's numbers beside those of the records in FOLDER. For "
        "masking it also rewrites thresholds.json, thresholds.md, spectrum.md and diagnosis.md. For the folder results "
        "it writes the page on all published results, and the same as index.html.",
    )
    command.add_argument(
        "folder", metavar="FOLDER", help="folder of a run of a paper's suite or of leaderboard, or results"
    )
    command.add_argument(
        "--paper",
        metavar="NAME",
        help="attacks, idlg, dlg_fb, masking, labels, leaderboard or results (default: the name of the folder)",
    )
    return command


def publish(add: Add) -> Parser:
    """``leakboard publish``."""
    command = add(
        "publish",
        "copy a run without its private images, to be published",
        "Records hold the first private images beside their reconstructions; the copies do not, and are the lines of "
        "records.jsonl (a file is full at 1 MB). Everything else is copied, so that show, page and run work on the "
        "copy as on the run itself.",
    )
    command.add_argument("folder", metavar="FOLDER", help="folder of a run, a threshold search, a training or a study")
    command.add_argument("to", metavar="TO", help="target folder, as in results/NAME; other records there are kept")
    return command


def verify(add: Add) -> Parser:
    """``leakboard verify``."""
    command = add(
        "verify",
        "check an entry of the leaderboard: its contracts, its records, and a sample of its victims with fresh seeds",
        "An entry is a folder with entry.yaml, the file of its defense, and its records; results/leaderboard/README.md "
        "has the rules. Of each cell some victims are attacked again, with the seed of the records and with a fresh "
        "one: the former must come out alike, the latter must not leak at another rate. The exit code is 0 where all "
        "cells are reproduced, 1 where one differs, 2 where a contract is broken or records do not match.",
    )
    command.add_argument("entry", metavar="ENTRY", help="folder of the entry, as in results/leaderboard/entries/NAME")
    command.add_argument(
        "--run", action="store_true", help="first run what is missing of its records, and publish them in its folder"
    )
    command.add_argument(
        "--victims", type=whole, default=4, metavar="N", help="victims of each cell to attack again (default: 4)"
    )
    command.add_argument(
        "--seed", type=whole, metavar="N", help="is added to the seeds of the suite (default: drawn, and printed)"
    )
    command.add_argument("--out", metavar="FOLDER", help="folder for runs and the new records (default: runs/NAME)")
    download(command)
    machine(command, workers=True)
    command.set_defaults(wandb="disabled", executor="local", executor_option=[])
    return command


def bench(add: Add) -> Parser:
    """``leakboard bench``."""
    command = add(
        "bench",
        "compare the batched attack with the published procedure, one victim at a time",
        "Attacks the same victims in one process: one at a time with torch's own optimizers as published, all at once "
        "from the same starts, and (DLG and IDLG) all at once from R-GAP's solution, which is another attack. Default: "
        "--data CIFAR10 --model LeNet --attack IDLG; DLG and InvertingGradients are compared, too.",
    )
    command.add_argument("--victims", type=whole, metavar="N", help="default: 64")
    command.add_argument("--batch-size", type=whole, metavar="N", help="private images per victim (default: 1)")
    command.add_argument(
        "--reference-victims",
        type=whole,
        metavar="N",
        help="victims to attack one at a time (default: all; 16 in each setting of --report)",
    )
    command.add_argument(
        "--report",
        nargs="?",
        const="results",
        metavar="FOLDER",
        help="measure all settings of results/performance.md and write it (default: results); about 20 minutes",
    )
    command.add_argument("--seed", type=whole, metavar="N", help="default: 0")
    command.add_argument("--format", choices=("table", "json"), default="table", help="default: table")
    machine(
        command, threads="most CPU threads to use; each side takes the number that suits it best (default: all cores)"
    )
    step(command)
    of_classes(command, "data", "model", "attack", scenario=True)
    return command


def check(add: Add) -> Parser:
    """``leakboard check``."""
    command = add(
        "check",
        "check an attack, defense, model or data set of your own against its contracts",
        "Give an import path, as in leakboard check my_attack.Mine --attack.steps 3. Where the signature of a "
        "function does not tell its kind, give that, too, as in --attack my_attack.find. Attacks and defenses are "
        "tried on small networks with sigmoid, ReLU and batch norm, or on yours with --model. One line for each "
        "contract says whether it holds, is skipped (and why) or fails (and where). The exit code is 0 where none "
        "fails, else 2. A run tries the same of all that it uses, and begins only where it holds.",
    )
    command.add_argument(
        "name", nargs="?", metavar="NAME", help="import path of a class or function, or a name of ours"
    )
    data_root(command)
    of_classes(command, "data", "model", "defense", "attack")
    return command


# Flags that several of them have.


def suite(command: Parser, **more: Any) -> None:
    command.add_argument("suite", metavar="SUITE", help="a YAML file, or the name of one in configs/", **more)


def suite_or_cell(command: Parser) -> None:
    suite(command, nargs="?")
    command.add_argument("--batch-size", type=whole, metavar="N", help="private images per victim, for a single cell")


def of_a_run(command: Parser) -> None:
    command.add_argument(
        "--out", metavar="FOLDER", help="folder for records, tables and pictures (default: runs/SUITE)"
    )
    command.add_argument(
        "--victims", type=whole, metavar="N", help="victims per scenario, instead of the suite's number"
    )
    command.add_argument("--seed", type=whole, metavar="N", help="random seed, instead of the suite's")
    download(command, "data sets and AlexNet's weights for LPIPS")
    command.add_argument(
        "--lpips-weights", metavar="PATH", help="file or folder with AlexNet's weights (default: torch's hub cache)"
    )


def attacking(command: Parser) -> None:
    of_a_run(command)
    tracking(command, "cell")
    command.add_argument("--require-lpips", action="store_true", help="fail if LPIPS is unavailable")
    machine(command, workers=True)
    step(command)
    executor(command)


def of_a_study(command: Parser, victims: int) -> None:
    suite(command)
    command.add_argument("--out", metavar="FOLDER", help="folder for records and table (default: runs/SUITE)")
    command.add_argument(
        "--victims", type=whole, default=victims, metavar="N", help=f"victims per data set (default: {victims})"
    )
    download(command)
    command.set_defaults(wandb="disabled")


def download(command: Parser, what: str = "data sets") -> None:
    command.add_argument("--download", action="store_true", help=f"download missing {what}")


def data_root(command: Parser) -> None:
    command.add_argument("--data-root", metavar="FOLDER", help="default: $LEAKBOARD_DATA, else ./data")


def machine(command: Parser, devices: str = "auto", threads: str | None = None, workers: bool = False) -> None:
    """Where the data are, and what of this machine is used.

    Args:
        command: the parser.
        devices: the default.
        threads: help of a flag that has no default; None for the number of threads of each process.
        workers: whether there can be several processes.
    """
    data_root(command)
    usual = {"auto": "GPU 0 if there is one, else cpu"}.get(devices, devices)
    command.add_argument(
        "--devices", default=devices, metavar="D", help=f"cpu, or GPU numbers such as 0,1 (default: {usual})"
    )
    command.add_argument(
        "--threads",
        type=whole,
        default=None if threads else 1,
        metavar="N",
        help=threads or "CPU threads per process (default: 1)",
    )
    if workers:
        command.add_argument(
            "--workers", type=whole, metavar="N", help="number of CPU processes, or of jobs (default: 1)"
        )


def tracking(command: Parser, what: str) -> None:
    command.add_argument(
        "--wandb",
        choices=("disabled", "offline", "online"),
        default="disabled",
        help=f"track each {what} in Weights & Biases (default: disabled)",
    )


def step(command: Parser) -> None:
    command.add_argument(
        "--step",
        choices=("eager", "compiled", "graph"),
        default="eager",
        help="how attacks take their steps: compiled by TorchInductor, faster after a minute's wait, or as a CUDA "
        "graph on a GPU; results are the same within rounding (default: eager)",
    )


def executor(command: Parser) -> None:
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


def of_classes(command: Parser, *kinds: str, scenario: bool = False) -> Any:
    """Names the flags of classes in the help; :mod:`benchmark.cli.parts` takes them before argparse sees any."""
    group = command.add_argument_group(
        "classes and their arguments",
        "By name or by import path; --attack.help IDLG explains the arguments of a class.",
    )
    examples = {
        "data": ("a data set", "CIFAR10", "--data.path faces"),
        "model": ("a network", "LeNet", "--model.hidden 300"),
        "defense": ("a defense", "Masking", "--defense.ratio 0.5"),
        "attack": ("an attack", "IDLG", "--attack.max_evaluations 3000"),
    }
    for kind in kinds:
        what, name, argument = examples[kind]
        group.add_argument(
            f"--{kind}",
            metavar="CLASS",
            default=argparse.SUPPRESS,
            help=f"{what}, such as {name}; {argument} gives an argument",
        )
    if scenario:
        group.add_argument(
            "--scenario.KEY",
            metavar="VALUE",
            default=argparse.SUPPRESS,
            help="a key of a scenario, as in --scenario.shared true; --scenario.help names them",
        )
    return group
