"""A run from its options: devices, workers, folder and tracking, through which suites are carried out."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import torch

from benchmark.boards.leaderboard import Leaderboard
from benchmark.boards.terminal import Console
from benchmark.errors import UsageError
from benchmark.jobs import executors
from benchmark.jobs.blocks import Block, Present, Workbench, plan
from benchmark.jobs.executors.worker import (
    Launch,
    Worker,
    find_devices,
    find_perceptual,
    look_at_records,
    quiet,
    set_up,
    watch_over,
)
from benchmark.jobs.progress import ProgressBar
from benchmark.jobs.reporter import Both, Reporter
from benchmark.jobs.run import Watch, until_all_are_there, work
from benchmark.store.store import Store
from benchmark.suite.suite import Suite, whole_number

if TYPE_CHECKING:
    from benchmark.jobs.tracking import Tracker


WORKER_BYTES = 2**29
"""What a process takes at least, for Python and torch."""


@dataclass
class Conductor:
    """What carries out suites into one folder.

    Attributes:
        devices: one for each worker.
        launch: what starts them, None where this process does the work.
        threads: of each.
        bench: data, device and perceptual metric of this process.
        folder: of the run.
        tracker: W&B, or None.
        shown: whether the progress is, on the standard error.
    """

    devices: list[str]
    launch: Launch | None
    threads: int
    bench: Workbench
    folder: Path
    tracker: Tracker | None
    shown: bool = True
    _said: bool = False

    @classmethod
    def of(cls, options: argparse.Namespace, name: str) -> Conductor:
        """That of a command's options, for a run of that name.

        Raises:
            UsageError: an option is wrong, or what it asks for is not there.
        """
        quiet()
        set_up(options.threads)
        devices = find_workers(options)
        launch = executors.find(options.executor, options.executor_option)
        alone = options.executor == "local" and len(devices) == 1
        perceptual, no_perceptual = find_perceptual(options.lpips_weights, options.require_lpips, options.download)
        device = torch.device(devices[0] if alone else "cpu")
        bench = Workbench(device, options.data_root, options.download, perceptual, no_perceptual)
        folder = Path(options.out) if options.out else Path("runs") / name
        tracker = None
        if options.wandb != "disabled":
            from benchmark.jobs.tracking import Tracker

            tracker = Tracker(options.wandb, name, folder)
        return cls(devices, None if alone else launch, options.threads, bench, folder, tracker)

    def run(self, suite: Suite) -> tuple[str, Leaderboard]:
        """Does what is not done yet.

        Returns:
            How much that was, for people, and the leaderboard of the folder.

        Raises:
            UsageError: the suite does not fit its data, or every worker has ended.
        """
        blocks = plan(suite, self.bench)
        store = Store(self.folder)
        if self.bench.no_perceptual and self.shown and not self._said:
            print(f"leakboard: LPIPS is unavailable: {self.bench.no_perceptual}", file=sys.stderr)
            self._said = True
        reporter = Reporter(suite, blocks, store, self.tracker, Present(self.bench))
        with ProgressBar(blocks, store, Console(stderr=True, quiet=not self.shown)) as bar:
            todo = [block for block in blocks if not bar.was_done(block)]
            bar.resumed()
            self._do(todo, store, Both(bar, reporter))
        if todo:  # else all of them have just been read
            again = partial(self._do, store=store, watch=reporter)
            until_all_are_there(blocks, store.vanished, again, self.folder, "blocks")
        ran = f"{reporter.ran} of {len(blocks)} blocks run" if todo else "everything was done already: nothing to run"
        return ran, reporter.finish()

    def _do(self, todo: list[Block], store: Store, watch: Watch) -> None:
        """Does blocks that are not done, here or by workers."""
        if self.launch is None:
            work(todo, store, self.bench, watch)
        elif todo:
            root = self.bench.root or os.environ.get("LEAKBOARD_DATA")
            perceptual = self.bench.perceptual
            weights = perceptual.backbone.path.resolve() if perceptual else None
            devices = self.devices[: len(todo)]
            shared = Worker(
                blocks=todo,
                folder=self.folder.resolve(),
                data_root=root,
                threads=self.threads,
                device="cpu",
                lpips_weights=weights,
                no_lpips=self.bench.no_perceptual,
                here=Path.cwd(),
                workers=len(devices),
            )
            with self.launch([replace(shared, device=device) for device in devices]) as started:
                watch_over(todo, partial(look_at_records, store=store, watch=watch), "blocks", started)


def find_workers(options: argparse.Namespace) -> list[str]:
    """The device of each worker that the run is to have.

    Raises:
        UsageError: they are unavailable.
    """
    workers = whole_number("--workers", 1 if options.workers is None else options.workers, at_least=1)
    if options.executor != "local":
        if options.devices not in ("auto", "cpu"):
            raise UsageError("a job uses the GPU that it is given: with --executor, give --devices cpu or leave it out")
        return [options.devices] * workers
    devices = find_devices(options.devices)
    if workers * WORKER_BYTES > (there := psutil.virtual_memory().total):
        most = max(1, there // WORKER_BYTES)
        raise UsageError(f"this machine has memory for at most {most} workers, not {workers}")
    if workers > 1 and devices[0].type == "cuda":
        raise UsageError("a GPU runs one worker: give --devices 0,1 for two GPUs, or --devices cpu with --workers")
    return [str(device) for device in devices] * workers
