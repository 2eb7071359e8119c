"""``from benchmark import run``, which ``leakboard run`` calls too; ``show`` and ``board`` are in boards/notebook.py"""

import argparse
import logging
import os
import random
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmark.boards.notebook import Table
from benchmark.cli.flags import parsers
from benchmark.errors import UsageError, a_kind, check_system, quoted, sentences, unknown, unusable
from benchmark.jobs.conductor import Conductor
from benchmark.rehearsal.own_modules import imported_anew
from benchmark.store.store import Record, read_all
from benchmark.suite import registry
from benchmark.suite.suite import Suite, load, parse, suite_path
from benchmark.suite.watching import watching
from benchmark.tradeoff.page import write_beside
from benchmark.training import work
from benchmark.training.suite import beside
from benchmark.training.tracking import TrainingTracker
from benchmark.versions.local import name_of, only_here

Part = str | Mapping[str, Any] | Callable[..., Any]
"""A class by name, import path or itself, or ``{"class": one of these, argument: value}``, or a function."""


@dataclass(frozen=True, repr=False)
class Result:
    """What a run has found.

    Attributes:
        folder: where the records, tables and pictures are.
        table: the ranked tables of the folder; shows itself in a notebook.
        ran: how much of it was done now.
    """

    folder: Path
    table: Table
    ran: str

    @cached_property
    def records(self) -> list[Record]:
        """All records of the folder, read when they are first needed."""
        return read_all(self.folder)

    def __repr__(self) -> str:
        return f"{self.table!r}\n\n{self.ran}; records in {self.folder / 'records'}"

    def _repr_html_(self) -> str:
        return self.table._repr_html_()

    def _repr_markdown_(self) -> str:
        return self.table._repr_markdown_()


def run(
    suite: str | Path | Mapping[str, Any] | None = None,
    *,
    data: Part | None = None,
    model: Part | None = None,
    attack: Part | Sequence[Part] | None = None,
    defense: Part | Sequence[Part] | None = None,
    scenario: Mapping[str, Any] | None = None,
    trainer: dict[str, Any] | None = None,
    progress: bool = False,
    **flags: Any,
) -> Result:
    """Runs a suite, or each of some attacks on each of some defenses, as ``leakboard run`` does.

    Finished work is kept: the same call resumes. No progress is printed, and torch's threads, random numbers and
    switches are afterwards as they were. A class or function that has an import path is imported anew, so that its file
    counts as it is now; another one, such as a function of the notebook, runs in this process alone, under a key that
    covers its code.

    Args:
        suite: a YAML file, the name of one in configs/ (default: quick), or what such a file would hold; in the latter
            a class can stand in place of its name.
        data: of single cells, in place of a suite.
        model: likewise.
        attack: one or several; an attack can be a function of an :class:`attacks.Observation`.
        defense: one, several or none; a defense can be a function of one client's update. With a suite: beside those
            of each of its scenarios.
        scenario: what else a suite says of a scenario, as in ``{"shared": True}``.
        trainer: arguments of Lightning's Trainer that watch the attacks, as in ``{"profiler": "simple"}``.
        progress: whether the progress is shown on the standard error.
        **flags: those of ``leakboard run`` with ``_`` for ``-``: out, victims, seed, batch_size, workers, threads,
            devices, data_root, download and so on.

    Raises:
        UsageError: something is wrong that you can put right; says in one sentence what to do.
    """
    check_system()
    given = {"data": data, "model": model, "attack": attack, "defense": defense, "scenario": scenario}
    parts = {kind: one for kind, one in given.items() if one is not None}
    with as_it_was(), imported_anew(), fresh_arguments(), sentences():
        try:
            options = options_of("run", flags, [*given, "suite", "trainer", "progress"])
            found = suite_of(suite, parts, options)
            if trainer is not None:
                found = replace(found, trainer=found.trainer | watching(trainer))
            return run_suite(found, options, progress)
        except OSError as error:
            raise unusable(error, "a file cannot be used") from None


def run_suite(suite: Suite, options: argparse.Namespace, progress: bool) -> Result:
    """Runs a suite with the options of ``leakboard run``.

    Raises:
        UsageError: as for :func:`run`.
    """
    conductor = Conductor.of(options, suite.name)
    given = [part for cell in suite.cells for part in (*cell.parts().values(), cell.scenario.data)]
    names = {one.name for part in given for one in (part, *part.inner)}
    if conductor.launch and (here := only_here(names)):
        raise UsageError(
            f"{here} exists in this process alone, so that workers cannot have it: save it in a file, as mine.py, and "
            "import it from there, or leave out workers, devices and executor"
        )
    conductor.shown = progress
    trained = beside(suite)
    runs = work.prepared(trained, conductor) if trained else []  # before any attack
    ran, found = conductor.run(suite)
    folder = conductor.folder
    if trained:
        alone = conductor.tracker is None or conductor.tracker.has_one_run  # which is that of the attacks
        tracker = None if alone else TrainingTracker(options.wandb, suite.name, folder)
        said, _ = work.carry_out(trained, runs, replace(conductor, tracker=tracker))
        ran = f"{ran}; {said}"
    points = write_beside(folder)
    if conductor.tracker:
        conductor.tracker.trade_off(points)
    no_lpips = conductor.bench.no_perceptual or None
    return Result(folder, Table(found, folder.resolve().name, no_lpips), ran)


def suite_of(suite: Any, parts: Mapping[str, Any], options: argparse.Namespace, typed: bool = False) -> Suite:
    """The suite that is meant: one of a file, of a name, of a mapping, or one made of classes.

    Args:
        suite: the first three, or None.
        parts: data, model, attacks and defenses of the latter.
        options: of the command, of which those count that replace something in the suite.
        typed: whether all of it was typed as flags, for messages.

    Raises:
        UsageError: it is not clear which one is meant, or something in it is wrong.
    """
    dash = "--" if typed else ""
    more = [entry("defense", one) for one in listed(parts.get("defense", []))] if set(parts) == {"defense"} else []
    if parts and not (more and suite is not None):
        if suite is not None:
            kinds = f"{dash}data, {dash}model and {dash}attack"
            read = f"{suite!r} is read as a suite, and " if typed else ""
            raise UsageError(f"give either a suite or {kinds}, not both: {read}{dash}defense alone adds to a suite")
        for kind in ("data", "model", "attack"):
            if kind not in parts:
                wanted = f"--{kind} NAME" if typed else f'{kind}="NAME"'
                raise UsageError(f"a single cell needs {wanted}; leakboard list names what there is")
        return parse(single_cells(parts, options.batch_size, dash), "cells", options.victims, options.seed)
    if options.batch_size is not None:
        flag = "--batch-size" if typed else "batch_size"
        raise UsageError(f"{flag} is for a single cell: a suite gives batch_size in its scenarios")
    if isinstance(suite, Mapping):
        return parse(with_names(suite), "cells", options.victims, options.seed, more)
    if suite is not None and not isinstance(suite, str | os.PathLike):
        raise UsageError(f"a suite is a file, the name of one in configs/ or a dict, not {a_kind(suite)}")
    return load(suite_path("quick" if suite is None else os.fspath(suite)), options.victims, options.seed, more)


GIVEN_BESIDE = {name: name for name in ("data", "model", "batch_size", "victims")} | {
    "attacks": "attack",
    "defenses": "defense",
}
"""Of the keys of a scenario that have arguments or flags of their own."""


def single_cells(parts: Mapping[str, Any], batch_size: int | None, dash: str) -> dict[str, Any]:
    """What a suite would hold of these classes; ``dash`` stands before flags."""
    scenario = {kind: entry(kind, parts[kind]) for kind in ("data", "model")}
    more = parts.get("scenario", {})
    if not isinstance(more, Mapping):
        raise UsageError(f'scenario must be a dict, as in {{"shared": True}}, not {a_kind(more)}')
    if taken := [key for key in GIVEN_BESIDE if key in more]:
        name = GIVEN_BESIDE[taken[0]]
        raise UsageError(
            f"--scenario.{taken[0]} is given as --{name.replace('_', '-')}"
            if dash
            else f"a scenario given here has no {taken[0]}: give {name} as an argument of its own"
        )
    return {
        "scenarios": [{**scenario, "batch_size": 1 if batch_size is None else batch_size, **more}],
        "attacks": [entry("attack", one) for one in listed(parts["attack"])],
        "defenses": [entry("defense", one) for one in listed(parts.get("defense", []))],
    }


def listed(given: Any) -> list[Any]:
    """One or several parts as a list."""
    return list(given) if isinstance(given, list | tuple) else [given]


def with_names(suite: Mapping[str, Any]) -> dict[str, Any]:
    """A suite with the names of the classes that stand in it; what is of another form is left for the suite's check."""
    named = dict(suite)
    for key, kind in (("attacks", "attack"), ("defenses", "defense"), ("data", "data"), ("model", "model")):
        if isinstance(named.get(key), list | tuple):
            named[key] = [entry(kind, one) for one in named[key]]
        elif key in ("data", "model") and key in named:
            named[key] = entry(kind, named[key])
    if isinstance(named.get("scenarios"), list | tuple):
        named["scenarios"] = [with_names(one) if isinstance(one, Mapping) else one for one in named["scenarios"]]
    return named


def entry(kind: str, given: Any) -> Any:
    """An entry of a suite, with the name of the class or function that stands in it."""
    if isinstance(given, Mapping):
        inner = {
            key: [entry(kind, one) for one in value] for key, value in given.items() if made_of_classes(kind, value)
        }
        return {**given, "class": named(kind, given["class"]), **inner} if "class" in given else dict(given)
    return named(kind, given)


def made_of_classes(kind: str, value: Any) -> bool:
    """Whether an argument of a defense is a list of defenses."""
    entries = value if kind == "defense" and isinstance(value, list | tuple) else ()
    return any(callable(one) or (isinstance(one, Mapping) and "class" in one) for one in entries)


def named(kind: str, given: Any) -> Any:
    """The name of a class or function; what is none is left for the suite's check.

    Raises:
        UsageError: it is an object that was made already.
    """
    if isinstance(given, str | list | tuple | dict | int | float | None):
        return given
    made = {"attack": "Attack", "defense": "Defense", "data": "PrivateData", "model": "Module"}[kind]
    if made in {base.__name__ for base in type(given).__mro__}:
        raise UsageError(
            f"{quoted(type(given).__name__)} was made already: give the class with its arguments, as in "
            f'{{"class": {type(given).__name__}, "argument": value}}'
        )
    return name_of(kind, given)


def options_of(command: str, flags: Mapping[str, Any], others: Sequence[str] = ()) -> argparse.Namespace:
    """The options of a command, given in Python: read as the flags that they are.

    Args:
        command: of the command line.
        flags: by their names with ``_`` for ``-``.
        others: names of the function's other arguments, for messages.

    Raises:
        UsageError: one is unknown, or not of its type.
    """
    parser = parsers()[1][command]
    known = {one.dest: one for one in parser._actions if one.option_strings and one.dest != "help"}
    words: list[str] = []
    for name, value in flags.items():
        if name not in known:
            raise unknown(f"argument of {command}", name, [*known, *others])
        action, flag = known[name], known[name].option_strings[-1]
        if action.nargs == 0:
            if not isinstance(value, bool):
                raise UsageError(f"{name} must be True or False, not {quoted(value)}")
            words += [flag] if value else []
        elif isinstance(value, Mapping):
            words += [f"{flag}={key}={one}" for key, one in value.items()]
        elif isinstance(value, list | tuple):
            is_repeated = isinstance(action.default, list)
            words += [f"{flag}={one}" for one in (value if is_repeated else [",".join(map(str, value))])]
        elif value is not None:
            words.append(f"{flag}={value}")
    return parser.parse_args(words)


@contextmanager
def fresh_arguments() -> Iterator[None]:
    """What is known of a class's arguments is forgotten before and after: its file may have changed."""
    registry.arguments.cache_clear()
    try:
        yield
    finally:
        registry.arguments.cache_clear()


@contextmanager
def as_it_was() -> Iterator[None]:
    """Puts back what a run sets for the whole process: threads, arithmetic, random numbers, and what is silenced."""
    cudnn, matmul, lightning = torch.backends.cudnn, torch.backends.cuda.matmul, logging.getLogger("lightning.pytorch")
    threads, states = torch.get_num_threads(), (random.getstate(), np.random.get_state(), torch.get_rng_state())
    arithmetic = matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark
    level, shown, tasks = lightning.level, warnings.formatwarning, os.environ.get("SLURM_NTASKS")
    try:
        with warnings.catch_warnings():
            yield
    finally:
        torch.set_num_threads(threads)
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark = arithmetic
        lightning.setLevel(level)
        warnings.formatwarning = shown
        if tasks is not None:
            os.environ["SLURM_NTASKS"] = tasks
