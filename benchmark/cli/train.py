"""``leakboard train``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from benchmark.boards.terminal import Console
from benchmark.cli.parts import Parts
from benchmark.jobs import executors
from benchmark.jobs.conductor import find_workers
from benchmark.jobs.executors.worker import quiet, set_up
from benchmark.suite.suite import suite_path
from benchmark.training import suite as training_suite
from benchmark.training import table as training_table
from benchmark.training import work
from benchmark.training.plan import TrainingBench


def carry_out(options: argparse.Namespace, parts: Parts) -> int:
    """``leakboard train``."""
    quiet()
    suite = training_suite.load(suite_path(options.suite), Path(options.at) if options.at else None)
    set_up(options.threads)
    devices = find_workers(options)
    launch = executors.find(options.executor, options.executor_option)
    alone = options.executor == "local" and len(devices) == 1
    folder = Path(options.out) if options.out else Path("runs") / suite.name
    bench = TrainingBench(torch.device(devices[0] if alone else "cpu"), options.data_root, options.download)
    tracker = work.find_tracker(options.wandb, suite.name, folder)
    ran, table = work.carry_out(suite, bench, folder, devices, None if alone else launch, tracker)
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
