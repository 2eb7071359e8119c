"""``leakboard run``."""

import argparse
from dataclasses import replace
from typing import Any

from benchmark.boards.table import print_table
from benchmark.boards.terminal import Console
from benchmark.cli.parts import Parts, typed_part, typed_scenario
from benchmark.errors import UsageError
from benchmark.jobs.conductor import Conductor
from benchmark.suite.suite import Suite, load, parse, suite_path
from benchmark.suite.watching import watching


def carry_out(options: argparse.Namespace, parts: Parts) -> int:
    """``leakboard run``."""
    suite = watched(options, parts)
    conductor = Conductor.of(options, suite.name)
    ran, found = conductor.run(suite)
    print_table(found, Console())
    folder = conductor.folder
    print(
        f"\n{ran}\nrecords: {folder / 'records'}\ntables: {folder / 'leaderboard.csv'}, {folder / 'leaderboard.md'}\n"
        f"pictures of true images above their reconstructions: {folder / 'pictures'}"
    )
    return 0


def watched(options: argparse.Namespace, parts: Parts) -> Suite:
    """The suite that was asked for, with what is to watch its attacks."""
    typed = parts.pop("trainer", {})
    suite = single_cell(options, parts) if parts else find_suite(options)
    return replace(suite, trainer=watching(suite.trainer, typed))


OTHER_FLAGS = {
    "data": "data",
    "model": "model",
    "batch_size": "batch-size",
    "victims": "victims",
    "attacks": "attack",
    "defenses": "defense",
}
"""Of the keys of a scenario that have flags of their own."""


def single_cell(options: argparse.Namespace, parts: Parts) -> Suite:
    """The suite of one cell that was given by flags."""
    if options.suite:
        raise UsageError("give either a suite or --data, --model, --attack and --defense, not both")
    for kind in ("data", "model", "attack"):
        if "class" not in parts.get(kind, {}):
            raise UsageError(f"a single cell needs --{kind} NAME; leakboard list names what there is")
    if "defense" in parts and "class" not in parts["defense"]:
        raise UsageError("--defense.ARGUMENT needs --defense NAME")
    scenario = typed_scenario(parts.pop("scenario", {}))
    if taken := [key for key in OTHER_FLAGS if key in scenario]:
        raise UsageError(f"--scenario.{taken[0]} is given as --{OTHER_FLAGS[taken[0]]}")
    typed = {kind: typed_part(kind, args) for kind, args in parts.items()}
    batch_size = given_or(options.batch_size, 1)
    given: dict[str, Any] = {
        "scenarios": [{"data": typed["data"], "model": typed["model"], "batch_size": batch_size, **scenario}],
        "attacks": [typed["attack"]],
        "defenses": [typed["defense"]] if "defense" in typed else [],
    }
    return parse(given, "cells", options.victims, options.seed)


def given_or(value: int | None, default: int) -> int:
    return default if value is None else value


def find_suite(options: argparse.Namespace) -> Suite:
    """The suite of a path, or of a name in configs/."""
    if options.batch_size is not None:
        raise UsageError("--batch-size is for a single cell: a suite gives batch_size in its scenarios")
    return load(suite_path("quick" if options.suite is None else options.suite), options.victims, options.seed)
