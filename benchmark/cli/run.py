"""``leakboard run``."""

import argparse
from dataclasses import replace
from typing import Any

from benchmark.api import run_suite, suite_of
from benchmark.boards.table import print_table
from benchmark.boards.terminal import Console
from benchmark.cli.parts import Parts, typed_part, typed_scenario
from benchmark.errors import UsageError
from benchmark.suite.suite import Suite
from benchmark.suite.watching import watching


def carry_out(options: argparse.Namespace, parts: Parts) -> int:
    """``leakboard run``."""
    typed = parts.pop("trainer", {})
    suite = asked_for(options, parts)
    done = run_suite(replace(suite, trainer=watching(suite.trainer, typed)), options, progress=True)
    print_table(done.table.leaderboard, Console())
    folder = done.folder
    print(f"\n{done.ran}\nrecords: {folder / 'records'}")
    print(f"tables: {folder / 'leaderboard.csv'}, {folder / 'leaderboard.md'}")
    if (folder / "tradeoff.md").exists():
        print(f"leak rate over accuracy: {folder / 'tradeoff.md'}, {folder / 'tradeoff.png'}")
    if (folder / "pictures").is_dir():  # attacks on labels alone make none
        print(f"pictures of true images above their reconstructions: {folder / 'pictures'}")
    return 0


def asked_for(options: argparse.Namespace, parts: Parts) -> Suite:
    """The suite of a path, of a name in configs/, or of the one cell that was given by flags."""
    typed: dict[str, Any] = {}
    for kind, args in parts.items():
        if kind != "scenario" and "class" not in args:
            raise UsageError(f"--{kind}.ARGUMENT needs --{kind} NAME")
        typed[kind] = typed_scenario(args) if kind == "scenario" else typed_part(kind, args)
    return suite_of(options.suite, typed, options, typed=True)
