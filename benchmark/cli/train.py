"""``leakboard train``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from benchmark.boards.terminal import Console
from benchmark.cli.parts import Parts
from benchmark.jobs.conductor import Conductor
from benchmark.suite.suite import suite_path
from benchmark.tradeoff.page import write_beside
from benchmark.training import sizes, work
from benchmark.training import suite as training_suite
from benchmark.training import table as training_table
from benchmark.training.stopping import with_strengths
from benchmark.training.tracking import TrainingTracker


def carry_out(options: argparse.Namespace, parts: Parts) -> int:
    """``leakboard train``."""
    suite = training_suite.load(suite_path(options.suite))
    conductor = Conductor.of(options, suite.name, TrainingTracker)
    folder, carried = conductor.folder, sizes.Sizes()
    if options.at:
        suite, carried = with_strengths(suite, Path(options.at), conductor.bench)
    runs = work.prepared(suite, conductor)
    if options.at:
        sizes.write(folder, carried)
    ran, table = work.carry_out(suite, runs, conductor)
    points = write_beside(folder)
    if conductor.tracker:
        conductor.tracker.trade_off(points)
    print_training(table, Console())
    print(f"\n{ran}\nrecords: {folder / 'training'}\ntables: {folder / 'training.csv'}, {folder / 'training.md'}")
    return 0


def print_training(rows: list[dict[str, Any]], console: Console) -> None:
    """The table of ``leakboard train``, whole where it goes to a file."""
    if not console.is_terminal:
        console = Console(width=200)
    for grid in training_table.grids(rows):
        grid.print(console)
    console.print(training_table.note(rows), style="dim", highlight=False)
