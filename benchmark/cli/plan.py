"""``leakboard plan``."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from rich import box
from rich.table import Table

from benchmark.boards.terminal import Console
from benchmark.cli.parts import Parts
from benchmark.cli.run import asked_for
from benchmark.jobs import estimate
from benchmark.jobs.blocks import Workbench, plan
from benchmark.jobs.conductor import find_workers
from benchmark.jobs.executors.worker import find_perceptual, quiet, set_up


def carry_out(options: argparse.Namespace, parts: Parts) -> int:
    """``leakboard plan``."""
    quiet()
    suite = asked_for(options, parts)
    set_up(options.threads)
    devices = find_workers(options)
    perceptual, no_perceptual = find_perceptual(options.lpips_weights, False, options.download)
    device, workers = torch.device(devices[0]), len(devices)
    bench = Workbench(device, options.data_root, options.download, perceptual, no_perceptual, workers)
    folder = Path(options.out) if options.out else Path("runs") / suite.name
    print_costs(estimate.rows(plan(suite, bench), folder, bench, Console(stderr=True)), workers, folder, Console())
    return 0


def print_costs(costs: list[estimate.Row], workers: int, folder: Path, console: Console) -> None:
    """The table of ``leakboard plan``, whole where it goes to a file."""
    if not console.is_terminal:
        console = Console(width=200)
    shown = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    for name in estimate.COLUMNS:
        shown.add_column(name, justify="left" if name in ("scenario", "attack", "from") else "right")
    for row in costs:
        shown.add_row(*estimate.cells_of(row, workers))
    shown.add_section()
    shown.add_row(*estimate.cells_of(estimate.total(costs), workers))
    console.print(shown)
    shared = f", shared by {workers} workers" if workers > 1 else ""
    console.print(
        f"Evaluations are gradient evaluations of all victims: the mean of finished records of the same attack, in "
        f"{folder} and in results/, or else the upper bound. Time is estimated from short attacks on this "
        f"machine{shared}. Left is the work without a record in {folder}.",
        style="dim",
        highlight=False,
    )
